"""From data to a model file in one command, and what is around it: music, its screening, the card."""

import re
import shutil
import signal
import subprocess

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

import streamsep.demo
import streamsep.model
from tests.training import RATE, command, music
from train import card, checkpoint, config, recipe, screen
from train import music as packages

QUICK = ["--set", "steps_per_epoch=4", "--set", "hidden=8", "--set", "layers=2", "--set", "batch=2", "--set", "seconds=1.024"]


# --- recipes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe.shipped())
def test_every_stage_of_a_recipe_is_a_configuration_of_its_network(name):
    made = recipe.load(name)
    stages = [config.load(made.configuration(stage.name)) for stage in made.stages]
    shape = ("sample_rate", "n_fft", "layers")  # of the weights; windows and hop may change, and units may be added
    assert {tuple(getattr(s, key) for key in shape) for s in stages} == {tuple(getattr(stages[0], key) for key in shape)}
    for stage in made.stages:
        # An lstm may get filters, and never loses them.
        networks = {name: config.load(made.configuration(name)).network for name in made.behind(stage.name)}
        assert networks[stage.name] == "filter" or set(networks.values()) == {"lstm"}, stage.name
        units = {name: config.load(made.configuration(name)).hidden for name in made.behind(stage.name)}
        assert max(units.values()) == units[stage.name], stage.name
    assert stages[-1].name == name
    assert stages[-1].licence != "unspecified"


@pytest.mark.parametrize("name", streamsep.model.shipped())
def test_what_ships_is_what_its_recipe_makes(name):
    shipped = streamsep.model.load(name).contract
    by = recipe.load(name)
    made = config.load(by.configuration(by.stages[-1].name))
    for key in ("name", "sample_rate", "n_fft", "synthesis_length", "hop_length", "layers"):
        assert getattr(shipped, key) == getattr(made, key), key
    for key in ("network", "hidden", "filter"):
        assert shipped.training["config"].get(key) == made.model_dump(mode="json")[key], key


def test_latencies_are_those_of_the_names():
    assert {n: config.load(n).synthesis_length / 16 for n in ("ultra", "live", "studio")} == {
        "ultra": 8,
        "live": 16,
        "studio": 64,
    }


@pytest.fixture
def kitchen(stems, tmp_path):
    """The arguments that cook a recipe of two stages."""
    (tmp_path / "first.toml").write_text('extends = "tiny"\nname = "soup"\nepochs = 1\nlicence = "CC0-1.0"\n')
    (tmp_path / "second.toml").write_text('extends = "first.toml"\nseed = 1\nepochs = 50\n')
    (tmp_path / "soup.toml").write_text('stages = ["first.toml", "second.toml"]\n')
    return [tmp_path / "soup.toml", "--data", stems, "--out", tmp_path / "out", *QUICK]


def test_a_recipe_goes_from_recordings_to_a_model_file_and_on_where_it_was_stopped(kitchen, tmp_path):
    process = command(*kitchen, launcher=("train.recipe",))
    for line in process.stdout:
        if "epoch    3" in line:
            process.send_signal(signal.SIGTERM)
            break
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert "the same command goes on" in out.splitlines()[-1]
    out, err = command(*kitchen, launcher=("train.recipe",)).communicate(timeout=240)
    assert "--resume" in out
    folder = tmp_path / "out"
    assert (folder / "soup.onnx").is_file(), err
    first, second = (checkpoint.load(folder / name / "last.pt") for name in ("1-first", "2-second"))
    assert (first["step"], second["step"]) == (4, 200)
    assert second["init"]["steps"] == 4
    contract = streamsep.model.load(folder / "soup.onnx").contract
    assert (contract.name, contract.precision, contract.hidden) == ("soup", "int8", 8)
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "| 2 | 200 |" in (folder / "soup.md").read_text()


def test_a_recipe_branches_and_ends_in_a_mean(kitchen, tmp_path):
    (tmp_path / "second.toml").write_text('extends = "first.toml"\nseed = 1\n')
    (tmp_path / "third.toml").write_text('extends = "first.toml"\nseed = 2\n')
    (tmp_path / "soup.toml").write_text(
        'stages = ["first.toml", "second.toml", { config = "third.toml", after = "first" },\n'
        '{ name = "both", mean = { third = 0.75, second = 0.25 }, bias = { vocals = -0.1 } }]\nheld_out = "second"\n'
    )
    assert recipe.load(str(tmp_path / "soup.toml")).behind("second") == {"first", "second"}
    process = command(*kitchen, launcher=("train.recipe",))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    folder = tmp_path / "out"
    second, third, both = (checkpoint.load(folder / name / "last.pt") for name in ("2-second", "3-third", "4-both"))
    assert second["init"] == third["init"]
    mixed = 0.75 * third["ema"]["heads.weight"] + 0.25 * second["ema"]["heads.weight"]
    torch.testing.assert_close(both["ema"]["heads.weight"], mixed)
    mixed = 0.75 * third["ema"]["heads.bias"] + 0.25 * second["ema"]["heads.bias"]
    lower = (both["ema"]["heads.bias"] - mixed).unflatten(0, (2, -1))
    torch.testing.assert_close(lower, torch.tensor([[-0.1], [0.0]]).expand_as(lower))
    assert "mean of weights: 75 % of 2, 25 % of 3; heads of vocals -0.1" in (folder / "soup.md").read_text()
    contracts = [streamsep.model.load(folder / f"{name}.onnx").contract for name in ("soup", "soup.held-out")]
    assert ["mean" in contract.training for contract in contracts] == [True, False]
    before = (folder / "4-both" / "last.pt").stat().st_mtime_ns
    again, err = command(*kitchen, launcher=("train.recipe",)).communicate(timeout=120)
    assert "-m train.mean" not in again, err
    assert (folder / "4-both" / "last.pt").stat().st_mtime_ns == before


def test_a_stage_takes_its_filters_from_another(kitchen, tmp_path):
    filters = "".join(f"filter.{line}\n" for line in ("groups=2", "width=6", "taps=1"))
    (tmp_path / "second.toml").write_text(f'extends = "first.toml"\nnetwork = "filter"\nfrozen = true\n{filters}')
    (tmp_path / "same.toml").write_text('extends = "first.toml"\nseed = 5\n')
    (tmp_path / "third.toml").write_text('extends = "second.toml"\nlearning_rate = 1e-30\nweight_decay = 0.0\n')
    (tmp_path / "soup.toml").write_text(
        'stages = ["first.toml", "second.toml", { config = "same.toml", after = "first" },\n'
        '{ config = "third.toml", filters = "second" }]\nheld_out = "second"\n'
    )
    assert recipe.load(str(tmp_path / "soup.toml")).behind("third") == {"first", "second", "same", "third"}
    process = command(*kitchen, launcher=("train.recipe",))
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    folder = tmp_path / "out"
    second, same, third = (checkpoint.load(folder / n / "last.pt") for n in ("2-second", "3-same", "4-third"))
    torch.testing.assert_close(third["ema"]["say.weight"], second["ema"]["say.weight"])
    torch.testing.assert_close(third["ema"]["full.heads.weight"], same["ema"]["heads.weight"])
    assert third["heard"] == 3 * 4
    assert "| 4 | 4 |" in (folder / "soup.md").read_text()


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ('["tiny", "tiny"]', "stage 'tiny': there is an earlier stage of that name; before it: tiny"),
        ('["tiny", { config = "live", after = "paper" }]', "stage 'live': 'paper' is no earlier stage; before it: tiny"),
        ('["tiny", { name = "m", mean = { tiny = 0.5, live = 0.5 } }]', "stage 'm': 'live' is no earlier stage"),
        ('["tiny", { name = "m", mean = { tiny = 0.5 } }]', "stage 'm': the shares of its mean are 0.5 in all: expected 1"),
        (
            '["tiny", { name = "m", after = "tiny" }]',
            r"stage 'm': expected config \(and after, filters\), or mean \(and bias\)",
        ),
        ('["tiny", { mean = { tiny = 1.0 } }]', "name\n  Field required"),
    ],
)
def test_a_wrong_stage_is_named(stages, message, tmp_path):
    (tmp_path / "wrong.toml").write_text(f"stages = {stages}\n")
    with pytest.raises(config.ConfigError, match=message):
        recipe.load(str(tmp_path / "wrong.toml"))


def test_what_is_held_out_must_be_a_stage(tmp_path):
    (tmp_path / "wrong.toml").write_text('stages = ["tiny"]\nheld_out = "live"\n')
    with pytest.raises(config.ConfigError, match="held_out='live' is no stage: expected one of tiny"):
        recipe.load(str(tmp_path / "wrong.toml"))


def test_an_unknown_recipe_is_named():
    done = CliRunner().invoke(recipe.main, ["nonsense", "--data", "."])
    assert done.exit_code == 2
    assert "recipe 'nonsense' is unknown: expected one of live, studio, ultra" in done.stderr


# --- changes on the command line --------------------------------------------------------------------------------------


def test_one_key_changes_and_the_rest_stays():
    plain, changed = config.load("paper"), config.load("paper", ["gamma=0.2", "augment.room=0.5"])
    assert (changed.gamma, changed.augment.room) == (0.2, 0.5)
    assert changed.augment.balance_db == plain.augment.balance_db == (-2.0, 2.0)
    assert changed.model_copy(update={"gamma": plain.gamma, "augment": plain.augment}) == plain


@pytest.mark.parametrize(("change", "message"), [("gamma", "is not TOML: expected key=value"), ("gama=1", "gama=1: Extra")])
def test_wrong_changes_are_named(change, message):
    with pytest.raises(config.ConfigError, match=message):
        config.load("paper", [change])


def test_the_papers_row_hears_the_papers_clips_only():
    for name in ("paper", "paper-1000"):
        settings = config.load(name)
        assert [(d.path, d.list, d.split) for d in settings.data] == [
            ("mir1k", "train.txt", "train"),
            ("mir1k", "dev.txt", "validation"),
        ]
        assert settings.loss == "discriminative"


# --- music ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is missing: Debian's")
def test_music_is_taken_out_of_a_package_and_its_licence_kept(tmp_path):
    tree, debs = tmp_path / "tree", tmp_path / "debs"
    place = tree / packages.PACKAGES["wesnoth"].place
    for folder in (place, tree / "DEBIAN", tree / "usr/share/doc/wesnoth-1.16-music", debs):
        folder.mkdir(parents=True)
    soundfile.write(place / "battle.ogg", music(1.0), RATE)
    (place / "notes.txt").write_text("not music")
    (tree / "usr/share/doc/wesnoth-1.16-music/copyright").write_text("GPL-2+")
    control = "Package: wesnoth-1.16-music\nVersion: 1\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: x\n"
    (tree / "DEBIAN/control").write_text(control)
    subprocess.run(["dpkg-deb", "-b", tree, debs / "wesnoth-1.16-music_1_all.deb"], check=True, capture_output=True)
    out = tmp_path / "music"
    arguments = [str(out), "--from", str(debs), "--only", "wesnoth"]
    done = CliRunner().invoke(packages.main, arguments)
    assert done.exit_code == 0, done.output
    assert sorted(p.relative_to(out).as_posix() for p in out.rglob("*")) == [
        "wesnoth",
        "wesnoth.copyright",
        "wesnoth/battle.ogg",
    ]
    assert "is there already" in CliRunner().invoke(packages.main, arguments).output
    (place / "battle.ogg").unlink()
    subprocess.run(["dpkg-deb", "-b", tree, debs / "wesnoth-1.16-music_2_all.deb"], check=True, capture_output=True)
    shutil.rmtree(out)
    done = CliRunner().invoke(packages.main, arguments)
    assert done.exit_code == 1
    assert "holds no sound files at" in done.stderr


def test_every_folder_that_a_recipe_names_comes_from_somewhere():
    """Below `--data` lie the folders of the page of data, and those that train.music and train.sing make."""
    given = {"mir1k", "songs", "speech", "sung"}
    for name in recipe.shipped():
        paths = {d.path for stage in recipe.load(name).stages if stage.config for d in config.load(stage.config).data}
        assert paths <= given | set(packages.PACKAGES), name


def test_no_configuration_trains_with_music_kept_apart():
    assert not set(packages.UNHEARD) & set(packages.PACKAGES)
    for path in config.CONFIGS.glob("*.toml"):
        assert not {d.path for d in config.load(path.stem).data} & set(packages.UNHEARD), path


def test_screening_tells_a_voice_from_a_band(tmp_path):
    demo = next(p for p in streamsep.demo.__path__)
    for source in ("vocals", "accompaniment"):
        shutil.copy(next(packages.Path(demo).glob(f"*.{source}.*")), tmp_path)
    soundfile.write(tmp_path / "silence.wav", np.zeros(20 * RATE), RATE)
    done = CliRunner().invoke(screen.main, [str(tmp_path)])
    assert done.exit_code == 0, done.output
    names = {p.name.rpartition(".")[0] for p in tmp_path.glob("*.vocals.*")}
    assert done.output.splitlines()[-1].endswith(f"exclude = {sorted(names)}")


# --- cards ------------------------------------------------------------------------------------------------------------


def test_a_card_says_what_the_file_says_and_keeps_what_people_wrote(tmp_path):
    model = streamsep.model.load("live")
    new = card.write(model, None)
    assert new.startswith("# live\n")
    voice_gnsdr = model.contract.quality["voice_gnsdr_db"]
    assert f"| voice | {voice_gnsdr:.2f} |" in new
    assert f"{model.size / 2**20:.1f} MiB" in new
    training = model.contract.training
    chain = [training]
    while chain[-1].get("init"):
        chain.append(chain[-1]["init"])
    rows = re.findall(r"^\| (\d+) \| (?:(\d+) \| ([\d.]+)|mean of weights)", new, re.MULTILINE)
    assert [int(number) for number, _, _ in rows] == list(range(1, len(rows) + 1))
    made = [(steps, minutes) for _, steps, minutes in rows]
    assert all((str(run["steps"]), f"{run['minutes']:g}") in made for run in chain if "mean" not in run)
    assert made[0] == (str(chain[-1]["steps"]), f"{chain[-1]['minutes']:g}")
    assert made[-1] == ("", "") or "mean" not in training
    edited = new.replace("Nobody has written down yet what it fails on.", "Choirs.").replace(f"{voice_gnsdr:.2f}", "99.99")
    again = card.write(model, edited)
    assert again == new.replace("Nobody has written down yet what it fails on.", "Choirs.")
    with pytest.raises(streamsep.model.ModelError, match="card has no part 'facts'"):
        card.write(model, "# live\n")


def test_a_card_tells_a_mean_from_a_run():
    contract = streamsep.model.load("studio").contract  # a run
    root = {"steps": 5, "minutes": 1.0, "commit": "root", "data": [], "init": None}
    first, second = ({"steps": n, "minutes": 2.0, "commit": str(n), "data": [], "init": root} for n in (6, 7))
    made = {
        "steps": 0,
        "minutes": 0.0,
        "commit": "end",
        "data": [],
        "init": first,
        "mean": [{"share": 0.3} | second],
        "filters": None,
    }
    lines = card.runs(contract.model_copy(update={"training": contract.training | made})).splitlines()
    assert [line.split(" |")[1].strip() for line in lines[2:6]] == ["5", "6", "7", "mean of weights: 70 % of 2, 30 % of 3"]


@pytest.mark.parametrize("name", streamsep.model.shipped())
def test_the_cards_that_ship_say_what_their_files_say(name):
    model = streamsep.model.load(name)
    text = model.path.with_suffix(".md").read_text()
    assert card.write(model, text) == text
