"""The ruler's command, its sheet, what is wanted of a model, and the pictures."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
import soundfile
from PIL import Image

from bench import instrumentals, paper, quality
from bench.ruler import markdown, pictures, rows
from bench.ruler.estimates import Case
from bench.ruler.sheet import GROUPS
from bench.ruler.wanted import wanted
from streamsep import model
from tests import graphs
from tests.conftest import ROOT, need_data
from tests.separable import noise


def command(*words):
    """What bench/quality.py prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    called = [sys.executable, ROOT / "bench" / "quality.py", *map(str, words)]
    done = subprocess.run(called, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# ----------------------------------------------------------------------------------------------------------- the command


def test_command_measures_a_set_as_json(clips, separable, splitter, lstm, tmp_path):
    words = (
        "--model",
        splitter.path,
        "--beside",
        lstm.path,
        "--data",
        clips,
        "--set",
        "three",
        "--pictures",
        tmp_path,
        "--json",
    )
    found = json.loads(command(*words))
    row = rows.clip_row(Case(str(splitter.path)), separable)
    first = found["rows"][0]
    assert first["name"] == "singer_1_01"
    assert first["vocals"]["nsdr"] == pytest.approx(row.vocals.nsdr, abs=1e-3)
    lengths = [r["frames"] for r in found["rows"]]
    nsdr = [r["vocals"]["nsdr"] for r in found["rows"]]
    assert len(set(lengths)) == 3
    assert found["vocals"]["gnsdr"] == pytest.approx(np.average(nsdr, weights=lengths), abs=1e-3)
    warm = [r["warm"]["vocals"]["nsdr"] for r in found["rows"]]
    assert found["warm"]["vocals"]["gnsdr"] == pytest.approx(np.average(warm, weights=lengths), abs=1e-3)
    assert found["singers"]["singer"]["clips"] == found["clips"] == 3
    assert (found["rate"], found["peak_dbfs"], found["protocol"], found["way"]) == (16_000, -6, "paper", "runtime")
    assert found["beside"]["vocals"]["gnsdr"] < found["vocals"]["gnsdr"] - 5
    with Image.open(tmp_path / "test.singers.png") as picture:
        assert min(picture.size) > 300


def test_command_prints_tables(clips, splitter, separable_song):
    printed = command(
        "--model", splitter.path, "--data", clips, "--set", "three", "--quick", "--way", "whole", "--through", "3500hz"
    )
    assert "whole recording in one call at 16000 Hz, mixture's peak at -6 dBFS, after 3500hz" in printed
    assert "(paper, vocals)            825    7.45   13.08    9.68" in printed
    printed = command("--model", splitter.path, "--song", separable_song)
    vocals = next(line for line in printed.splitlines() if line.startswith("vocals"))
    nsdr, _, _, mixture, *_ = map(float, vocals.split()[1:])
    assert nsdr > 15
    assert mixture < 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "none.onnx"], "quality: model file 'none.onnx' does not exist"),
        (["--set", "nowhere"], "quality: set 'nowhere' is unknown: expected a file or one of"),
        (["--rate", "5", "--set", "three"], "quality: sample_rate=5 Hz is out of range: expected 8000 to 192000"),
        (["--rate", "5", "--set", "three", "--way", "oracle"], "quality: sample_rate=5 Hz is out of range"),
        (["--song", "/nowhere/song"], "quality: stem /nowhere/song.accompaniment.* does not exist"),
        (["--data", "/nowhere", "--set", "public100"], "quality: /nowhere/clips/Ani_1_01.flac cannot be read"),
        (["--set", "missing", "--way", "oracle"], "quality: {data}/clips/singer_1_99.flac cannot be read"),
        (["--set", "three", "--stamp", "--level", "-20"], "quality: --stamp wants a set of clips in the plain case"),
    ],
)
def test_command_fails_with_one_line(clips, splitter, monkeypatch, arguments, says):
    monkeypatch.setattr("sys.argv", ["quality", "--model", str(splitter.path), "--data", str(clips), *arguments])
    with pytest.raises(SystemExit) as caught:
        quality.main()
    assert str(caught.value).startswith(says.format(data=clips))
    assert "\n" not in str(caught.value)


def test_a_set_of_mono_clips_is_refused(tmp_path, splitter, monkeypatch):
    (tmp_path / "clips").mkdir()
    soundfile.write(tmp_path / "clips" / "a_1_01.flac", noise(1, 8000)[0] / 10, 16_000)
    (tmp_path / "one.txt").write_text("a_1_01")
    monkeypatch.setattr("sys.argv", ["quality", "--model", str(splitter.path), "--data", str(tmp_path), "--set", "one"])
    with pytest.raises(SystemExit, match="has 1 channels: expected 2, the accompaniment and the voice"):
        quality.main()


def test_stamp_writes_the_figures_into_the_file(clips, splitter, tmp_path):
    path = tmp_path / "stamped.onnx"
    path.write_bytes(splitter.path.read_bytes())
    found = json.loads(command("--model", path, "--data", clips, "--set", "three", "--stamp", "--json"))
    stamped = model.load(path).contract.quality
    assert stamped["voice_gnsdr_db"] == round(found["vocals"]["gnsdr"], 2)
    assert stamped["conditions"].startswith("3 clips of MIR-1K (three) at 16000 Hz")
    assert "had not heard" not in stamped["conditions"]
    other = tmp_path / "other.onnx"
    other.write_bytes(splitter.path.read_bytes())
    found = json.loads(command("--model", path, "--data", clips, "--set", "three", "--stamp", other, "--json"))
    told = model.load(other).contract.quality
    assert told["voice_gnsdr_db"] == stamped["voice_gnsdr_db"]
    assert told["conditions"].endswith(f"by the file {found['sha256']}, which had not heard them")
    assert f"those of file {found['sha256']}, in bench/held_out" in command("--model", other, "--data", clips, "--set", "three")


# ------------------------------------------------------------------------------------------------------------- the sheet


@pytest.fixture(scope="module")
def sheet(clips, splitter, lstm, separable_song, tmp_path_factory):
    """(report, folder of pictures) of a quick sheet."""
    folder = tmp_path_factory.mktemp("sheet")
    words = ("--data", clips, "--set", "three", "--song", separable_song, "--pictures", folder, "--sheet", "--quick", "--json")
    return json.loads(command("--model", splitter.path, "--beside", lstm.path, *words)), folder


def test_a_sheet_has_it_all(sheet):
    found, folder = sheet
    assert {line["group"] for line in found["lines"]} | set(found) >= {"plain", *GROUPS}
    assert found["silence"] == {"cold": 0, "after_sound": 0}
    by_label = {line["label"]: line["vocals"]["gnsdr"] for line in found["lines"]}
    assert by_label["48 kHz"] > 15
    assert by_label["beside"] == pytest.approx(by_label["beside, whole clip at once"], abs=0.01)
    assert by_label["beside"] < by_label["plain"] - 5
    assert found["instrumental"]["mean"] > 20
    assert found["song"]["excerpts"] == 2
    holds = {w["what"]: w["holds"] for w in found["wanted"]}
    assert holds["between levels from -40 to 0 dBFS, dB"]
    assert holds["silence after sound: largest sample out"]
    assert all((folder / f"test.{kind}.png").stat().st_size < 200_000 for kind in markdown.DRAWN)


def test_a_sheet_becomes_a_part_of_the_results(sheet):
    found, _ = sheet
    text = markdown.markdown(found)
    for words in (
        "| engine at 44.1 kHz |",
        "| peak at -40 dBFS |",
        "| cut at 3.5 kHz |",
        "| singer | 1 |",
        "| promise | measured |",
    ):
        assert words in text
    page = markdown.page({"live": text, "ultra": "another"})
    assert dict(markdown.sheets(f"## Quality\n\n{page}\n\n(`python bench/results.py quality`, today)\n")) == {
        "live": text,
        "ultra": "another",
    }


def test_results_replaces_one_models_sheet_and_leaves_the_others(sheet, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import results

    path = tmp_path / "RESULTS.md"
    path.write_text("# Results\n\n<!-- begin quality -->\n## Quality\n\nolder\n<!-- end quality -->\nbelow\n")
    called = []
    monkeypatch.setattr(results.page, "RESULTS", path)
    monkeypatch.setattr(results, "call", lambda *words: called.append([*map(str, words)]) or sheet[0])
    results.quality(["ultra"], [])
    results.quality(["live"], [str(model.load("live").path)])
    assert "--beside" not in called[0]
    assert called[1][called[1].index("--beside") + 1] == str(model.load("live").path)
    text = path.read_text()
    assert text.count("### `") == 2
    assert text.index("### `live`") < text.index("### `ultra`")
    assert text.count(markdown.markdown(sheet[0])) == 2
    assert "older" not in text
    assert text.endswith("below\n")


def test_a_run_that_writes_its_rows_one_by_one_is_of_one_commit(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "bench")
    import page

    def git(*words):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=n@localhost", *words], cwd=tmp_path, check=True)

    results, other = tmp_path / "bench" / "RESULTS.md", tmp_path / "other"
    results.parent.mkdir()
    for path in (results, other):
        path.write_text("as committed")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "all")
    monkeypatch.setattr(page, "ROOT", tmp_path)
    seen = []
    for path, text in ((results, "a row"), (other, "changed")):
        path.write_text(text)
        page.commit.cache_clear()
        seen.append(page.commit())
    page.commit.cache_clear()
    assert len(seen[0]) >= 7
    assert seen[1] == f"{seen[0]}-dirty"


def test_part_of_a_sheet(clips, splitter):
    words = ("--model", splitter.path, "--data", clips, "--set", "three", "--quick", "--sheet", "--json")
    found = json.loads(command(*words, "--only", "silence,oracle"))
    assert [line["label"] for line in found["lines"]] == ["plain", "oracle"]
    assert "silence" in found
    assert not set(found) & {"song", "solo", "instrumental"}
    with pytest.raises(SystemExit):
        quality.parser().parse_args(["--model", "live", "--only", "silence,taste"])
    assert quality.parser().parse_args(["--model", "live"]).only == GROUPS


# ---------------------------------------------------------------------------------------------------------- what is wanted


def report(**changes):
    """A sheet that keeps every promise, or just does not where `changes` say so."""
    gnsdr = {"plain": 9.0, "-40 dBFS": 8.8, "0 dBFS": 9.0, "oracle": 12.0, "beside": 9.05, "beside, whole clip at once": 9.05}
    gnsdr |= {f"{cut}hz": 8.0 for cut in (3500, 5000, 7000)} | {f"{cut}hz, oracle": 11.4 for cut in (3500, 5000, 7000)}
    gnsdr |= {key: value for key, value in changes.items() if key in gnsdr}
    groups = {"plain": "plain", "-40 dBFS": "levels", "0 dBFS": "levels"}
    return {
        "precision": "int8",
        "beside": {"precision": "fp32"},
        "plain": {"accompaniment": {"gnsdr": changes.get("accompaniment", 8.6)}},
        "lines": [{"label": k, "group": groups.get(k, "bands"), "vocals": {"gnsdr": v}} for k, v in gnsdr.items()],
        "silence": {"cold": changes.get("cold", 0.0), "after_sound": changes.get("after_sound", 0.0)},
        "instrumental": {"mean": changes.get("instrumental", 20.0), "song": changes.get("instrumental song", 21.0)},
        "solo": {"mean": changes.get("solo", 15.0), "song": changes.get("solo song", 15.0)},
        "song": {"song": "sodium", "vocals": {"nsdr": changes.get("nsdr", 9.0)}},
    }


def test_a_good_model_keeps_all_promises():
    promises = wanted(report())
    assert len(promises) == 14
    assert all(w["holds"] for w in promises)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"cold": 1e-9}, "silence in"),
        ({"after_sound": 1e-9}, "silence after"),
        ({"instrumental": 19.9}, "an instrumental, clips"),
        ({"instrumental song": 19.9}, "an instrumental, a song"),
        ({"solo": 14.9}, "a solo voice, clips"),
        ({"solo song": 14.9}, "a solo voice, a song"),
        ({"-40 dBFS": 8.6}, "between levels"),
        ({"3500hz": 7.8}, "cut at 3.5 kHz"),
        ({"5000hz, oracle": 11.6}, "cut at 5 kHz"),
        ({"7000hz": 7.8}, "cut at 7 kHz"),
        ({"beside": 9.2, "beside, whole clip at once": 9.2}, "int8 against fp32"),
        ({"beside, whole clip at once": 9.07}, "fp32, hop by hop"),
        ({"accompaniment": 8.4}, "accompaniment behind"),
        ({"nsdr": 8.9}, "voice NSDR on *sodium*"),
    ],
)
def test_a_broken_promise_is_told(change, what):
    broken = [w["what"] for w in wanted(report(**change)) if not w["holds"]]
    assert len(broken) == 1
    assert broken[0].startswith(what)


# -------------------------------------------------------------------------------------------------------------- pictures


def test_onsets_are_where_the_voice_comes_in():
    rate = 8000
    voice = noise(1, 10 * rate) * 1e-4
    for begin, loud in ((2, 0.3), (6, 1.0)):
        voice[:, begin * rate : (begin + 2) * rate] *= 1e4 * loud
    assert [round(place / rate, 1) for place in pictures.onsets(voice, rate)] == [6.0, 2.0]


def test_onsets_are_drawn_and_can_be_heard(tmp_path, separable_song, splitter):
    drawn = pictures.song_onsets(tmp_path, Case(str(splitter.path), protocol="own"), separable_song, None)
    assert drawn == [tmp_path / "song.onset1.png"]
    sounds = {p.name: soundfile.read(p)[0] for p in tmp_path.glob("*.wav")}
    assert len(sounds) == 5
    mixture = sounds["song.onset1.mixture.wav"]
    parts = [sounds[f"song.onset1.{source}.separated.wav"] for source in ("vocals", "accompaniment")]
    np.testing.assert_allclose(sum(parts), mixture, atol=1e-5)
    voice = sounds["song.onset1.vocals.true.wav"]
    assert np.abs(voice[: round(0.6 * 48_000)]).max() < 0.01 * np.abs(voice).max()  # a rest before it


def test_the_shipped_model_holds_what_needs_no_judgement():
    """Silence and level on one clip: what no training may break."""
    need_data()
    found = json.loads(command("--model", "live", "--set", "dev", "--sheet", "--quick", "--only", "silence,levels", "--json"))
    assert [w["what"] for w in found["wanted"] if not w["holds"] and w["what"].startswith(("silence", "between"))] == []


# ------------------------------------------------------------------------------------------------------- the paper's row


def trained(file, path, **data):
    """A model file that says it was trained on `data` with the discriminative loss."""
    loaded = model.load(path)
    run = {"data": [{"name": "mir1k", "recordings": 171} | data], "steps": 600}
    config = {"network": "lstm", "hidden": 400, "loss": "discriminative", "gamma": 0.05}
    contract = loaded.contract.model_copy(update={"training": run | {"config": config, "init": None}})
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {model.METADATA_KEY: contract.model_dump_json()})
    onnx.save(proto, path.with_name(file))
    return path.with_name(file)


def test_a_row_of_the_papers_table_is_what_the_ruler_says(clips, splitter, monkeypatch):
    ruled = json.loads(command("--model", splitter.path, "--data", clips, "--set", "three", "--cold", "--json"))
    assert "warm" not in ruled
    monkeypatch.setattr(paper, "measure", lambda path, _: ruled)
    row = paper.line(trained("paper.onnx", splitter.path))
    assert f"| γ = 0.05 | 3 | {ruled['vocals']['gnsdr']:.2f} | {ruled['clean']['gnsdr']:.2f} |" in row
    assert "600 steps" in row
    table = paper.markdown([row])
    assert [line.count("|") for line in table.splitlines() if line.startswith("|")] == [10] * 4
    assert paper.rows(table) == {paper.key(row): row}


def test_the_papers_table_refuses_what_heard_more(splitter):
    path = trained("more.onnx", splitter.path, name="songs", recordings=2)
    with pytest.raises(ValueError, match=r"more.onnx was trained on songs \(2 recordings\): expected mir1k's train.txt"):
        paper.line(path)


def test_the_files_of_the_papers_row_are_what_its_table_says(monkeypatch):
    """They load, heard the 175 clips alone, and stand in the table by what they are; its figures are five minutes' work."""
    files = sorted((ROOT / "bench/papers_row").glob("*.onnx"))
    assert [f.name for f in files] == ["16ms.onnx", "64ms.onnx"]
    figures = {"gnsdr": 0.0, "gsir": 0.0, "gsar": 0.0}
    ruled = {"vocals": figures, "accompaniment": figures, "clean": figures, "clips": 489}
    monkeypatch.setattr(paper, "measure", lambda path, _: ruled)
    table = (ROOT / "bench/RESULTS.md").read_text()
    for file in files:
        row = paper.line(file)
        assert row.partition(" | 489 |")[0] in table
    assert "mean of 4 runs" in paper.line(files[0])


# ------------------------------------------------------------------------------------------------- music without a voice


def test_music_that_nobody_heard(folder, tmp_path):
    """A fixed mask lets a known share of it into the vocals; jingles and other folders are not played."""
    rate = 16_000
    for name, seconds in (("xmoto/ride", 31), ("xmoto/jingle", 5), ("zaz/mus1", 40), ("wesnoth/known", 40)):
        place = tmp_path / f"{name}.ogg"
        place.parent.mkdir(exist_ok=True)
        soundfile.write(place, 0.1 * noise(1, seconds * rate)[0], rate)
    found = instrumentals.tracks(tmp_path)
    assert [path.stem for path in found] == ["ride", "mus1"]
    shares = {"all": 1.0, "little": 0.05}
    paths = [graphs.constant(folder / f"{name}.onnx", (share, 1 - share)) for name, share in shares.items()]
    reports = [instrumentals.measure(str(path), found) for path in paths]
    for report, share in zip(reports, shares.values(), strict=True):
        assert set(report["tracks"]) == {"xmoto/ride", "zaz/mus1"}
        np.testing.assert_allclose([*report["tracks"].values(), report["median"]], -20 * np.log10(share), atol=0.1)
        assert report["enough"] == (share < 0.1)
    assert "| little | 26.0 | 26.0 | 26.0 | 100 % |" in instrumentals.markdown(reports)
    with pytest.raises(SystemExit, match=r"train\.music --unheard"):
        instrumentals.tracks(folder)
