"""The files that people copy and the pages they follow: what stands in them is what the program takes."""

import re
import shlex
import shutil
import subprocess
import tomllib

import pytest

from streamsep import config
from streamsep.cli import cli
from tests.conftest import ROOT

EXAMPLE = ROOT / "contrib" / "streamsep.toml"
SERVICE = ROOT / "contrib" / "streamsep.service"


def test_the_example_configuration_is_valid_as_it_is():
    loaded = config.load(EXAMPLE, {})
    assert (loaded.provider, loaded.osc_port, loaded.gain["vocals"]) == ("cpu", 9000, -90)


def test_it_stays_valid_with_everything_that_is_commented_out(tmp_path):
    text = re.sub(r"^#(?=[a-z_]+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    assert len(tomllib.loads(text)) > len(tomllib.loads(EXAMPLE.read_text()))
    everything = tmp_path / "everything.toml"
    everything.write_text(text)
    loaded = config.load(everything, {})
    assert loaded.wiring.outputs == {"vocals": (1, 2), "accompaniment": (3, 4), "mix": (5, 6)}


def test_its_sources_are_the_shipped_models(live):
    assert set(config.load(EXAMPLE, {}).gain) == set(live.contract.sources)


def unit():
    lines = [line for line in SERVICE.read_text().splitlines() if "=" in line and not line.startswith("#")]
    return {key: value for key, _, value in (line.partition("=") for line in lines)}


def test_the_unit_starts_what_there_is_with_the_limits_that_it_needs():
    settings = unit()
    program, command, flag, path = shlex.split(settings["ExecStart"])
    assert program.endswith("/streamsep")
    assert command in cli.commands
    assert any(flag in option.opts for option in cli.commands[command].params)
    assert path == f"%E/streamsep/{EXAMPLE.name}"
    assert int(settings["LimitRTPRIO"]) >= 10
    assert settings["LimitMEMLOCK"] == "infinity"
    assert settings["Restart"] == "on-failure"


def test_systemd_accepts_the_unit(tmp_path):
    """With a program that exists here in the place of the user's."""
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is missing: this system has no systemd")
    copy = tmp_path / SERVICE.name
    copy.write_text(SERVICE.read_text().replace("%h/.local/bin/streamsep", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True)
    complaints = [line for line in (done.stdout + done.stderr).splitlines() if SERVICE.name in line]
    assert complaints == []


@pytest.mark.parametrize("page", ["wiring.md", "realtime.md"])
def test_the_pages_use_flags_that_there_are(page):
    text = (ROOT / "docs" / page).read_text().replace("\\\n", " ")
    flags = {flag for option in cli.commands["run"].params for flag in option.opts}
    used = re.findall(r"streamsep run([^\n`&#]*)", text)
    assert used
    for line in used:
        assert set(re.findall(r"--[a-z-]+", line)) <= flags, line
