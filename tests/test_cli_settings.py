"""Settings at the command line: a file that explains itself, one that is looked at, help that fits, completion."""

import json
import os
import re
import subprocess
import tomllib

import pytest

from streamsep import config, configfile
from streamsep.cli import cli
from tests.pseudo_terminal import Terminal
from tests.test_cli import fails, run


def test_a_new_file_explains_every_setting_and_stays_valid_with_all_of_them(tmp_path, live):
    file = tmp_path / "new" / "streamsep.toml"
    result = run("init", file, "--yes")
    assert result.returncode == 0, result.stderr
    assert config.load(file, {}) == config.Config(gain={"vocals": 0, "accompaniment": 0})
    text = file.read_text()
    for name, field in config.Config.model_fields.items():
        assert re.search(rf"^#?\[*{name}\b", text, re.MULTILINE), name
        assert (field.description or "")[:30].replace(" (TOML only)", "") in text.replace("\n# ", " "), name
    everything = tmp_path / "everything.toml"
    everything.write_text(re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    assert len(tomllib.loads(everything.read_text())) > 20
    assert config.load(everything, {}).wiring.outputs["mix"] == (5, 6)
    assert run("config", "--check", everything).stdout == f"{everything}: fine\n"


def test_a_file_is_not_overwritten_by_accident(tmp_path):
    file = tmp_path / "streamsep.toml"
    file.write_text("rate = 48000\n")
    fails(run("init", file, "--yes"), 2, "exists", "--force")
    assert file.read_text() == "rate = 48000\n"
    assert run("init", file, "--yes", "--force").returncode == 0
    assert "[gain]" in file.read_text()
    fails(run("init", tmp_path, "--yes"), 2, "directory")


def test_devices_are_chosen_from_a_list(jack, tmp_path):
    file = tmp_path / "streamsep.toml"
    with Terminal("init", file, columns=110) as terminal:
        terminal.shows("input device, by its number")
        # PortAudio shows JACK's clients too, and somebody else's daemon may be one.
        (line,) = [line for line in terminal.screen.display if "JACK" in line and "system" in line]
        terminal.press("99999\n")
        terminal.shows("is not one of")
        terminal.press(line.split()[0] + "\n")
        terminal.shows("output device, by its number")
        terminal.press("\n")
        assert terminal.process.wait(30) == 0
    loaded = config.load(file, {})
    assert loaded.input == "JACK:system"
    assert loaded.output is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("blok = 3\n", [":1: setting 'blok' is unknown: expected 'block', or one of input"]),
        ('# a word\n\nrate = 100\nosc_port = "x"\n', [":3: rate=100: expected", ":4: osc_port='x': expected"]),
        ("[gain]\nvocals = 1\ndrums = -3\n", [":3: gain.drums: expected one of vocals, accompaniment"]),
        ("output_channels = 'bass=1'\n", [":1: output_channels: 'bass' is unknown: expected one of vocals"]),
        ("model = 'nosuch'\n", [":1: model 'nosuch' is unknown: expected one of"]),
        ("[gain]\nvocals = 'loud'\n", [":2: gain.vocals='loud': expected"]),
        ("rate = \n", ["is not TOML"]),
    ],
)
def test_each_problem_is_a_line_with_file_and_place(tmp_path, text, says):
    file = tmp_path / "live.toml"
    file.write_text(text)
    found = configfile.problems(file)
    assert len(found) == len(says)
    for line, words in zip(found, says, strict=True):
        assert words in line
        assert str(file) in line
        assert "\n" not in line


def test_checking_is_a_command(tmp_path):
    file = tmp_path / "live.toml"
    file.write_text("blok = 3\nrate = 1\n")
    result = run("config", "--check", file)
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (2, "", 2)
    assert len(json.loads(run("config", "--check", file, "--json").stdout)["problems"]) == 2
    fails(run("config", "--check", tmp_path / "none.toml"), 2, "none.toml", "cannot be read")
    fails(run("config", "--check"), 2, "FILE")
    file.write_text("rate = 44100\n")
    assert "rate = 44100" in run("config", "--show", file).stdout
    assert json.loads(run("config", "--json").stdout)["osc_port"] == 9000


@pytest.mark.parametrize("command", ["", *cli.commands])
def test_help_fits_a_screen_and_shows_examples(command):
    lines = run(*([command] if command else []), "--help", env={"COLUMNS": "80"}).stdout.splitlines()
    assert len(lines) <= 40
    assert any("streamsep" in line and "Usage" not in line for line in lines)
    for line in lines:
        assert len(line) <= 80 or line.startswith("  s"), line  # an example is not broken


def test_all_settings_have_help():
    everything = run("run", "--help-all").stdout
    short = run("run", "--help").stdout
    for name in config.Config.model_fields:
        assert (f"--{name.replace('_', '-')}" in everything) == configfile.is_single(name), name
    assert "--osc-jitter-ms" not in short
    assert "--output-channels" in short


def complete(*words):
    line = {"COMP_WORDS": " ".join(["streamsep", *words]), "COMP_CWORD": str(len(words))}
    done = run(env=line | {"_STREAMSEP_COMPLETE": "bash_complete"})
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_tab_completes_commands_options_models_and_sources():
    assert {"run", "separate"} <= set(complete(""))
    assert "--record" in complete("run", "--rec")
    assert complete("run", "--model", "li") == ["live"]
    assert complete("run", "--provider", "c") == ["cpu", "cuda"]
    assert "vocals" in complete("listen", "v")
    assert "file:" in complete("run", "--input", "f")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shells_scripts(shell):
    script = run("completion", shell)
    assert "_STREAMSEP_COMPLETE" in script.stdout
    assert script.stderr == ""
    if shell == "bash":
        probe = f"{script.stdout}\ncomplete -p streamsep"
        done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, env=os.environ)
        assert "streamsep" in done.stdout, done.stderr
