"""Every command of the README is run, and of the pages a newcomer reads next, block by block and in their order.

A block's lines are run in a folder that holds what the pages speak of: `song.flac` (three seconds of the bundled song),
`MIR-1K` (the rest of it, in that layout), `examples/`. There is a JACK server with eight channels. `streamsep run` is left
running for the lines below it and ended with Ctrl-C; where a block needs a daemon and starts none, one runs already. What
`oscsend` sets is asked back. What is not run word for word stands in the tables below, with the reason, and a command that they
do not know fails.

`make` targets are dry runs here: CI runs them itself, on a clean machine, and that it does is asserted. `apt-get` is not run:
its packages must be among those that `make test` installs. `pip install` is run on a copy of what is tracked, into a new
environment, without looking for dependencies, which are lent by this one: tests reach no network.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamsep import config
from streamsep.cli import cli
from streamsep.demo import STEMS
from tests.conftest import ROOT, need_program
from tests.running import ask, stop
from tests.servers import REAL_TIME

PAGES = ("README.md", "docs/karaoke.md", "docs/running.md", "docs/osc.md")
RUNS = {"streamsep", "python", "oscsend", "jack_connect", "jack_lsp"}  # programs that are simply run
INSTEAD = {  # words that mean what this machine does not have
    "USB Audio": "system",  # the JACK server's own ports stand for a sound card
    "ALSA:HDMI": "system",
    "JACK:mpv": "JACK:system",
}
ADDED = {  # by the command's beginning
    "python examples/tutorial/first_model.py": ["--minutes", "0.02"],  # test_tutorial.py gives it the time to learn
    "python -m train": ["--epochs", "1", "--device", "cpu"],  # of three that are alike
    "streamsep run --input file:": [],  # ends with the file
    "streamsep run": ["--osc-port", "{osc}"],  # the usual port may be somebody's
    "streamsep listen": ["--port", "{osc}"],
    "streamsep bench": ["--hops", "200"],
}
MADE = {  # what a command promises to leave behind
    "streamsep separate song.flac --plot": "stems/song/vocals.wav stems/song/accompaniment.wav stems/song/spectrograms.png",
    "streamsep run --input file:song.flac --output file:out.wav": "out.wav",
    "streamsep listen vocals -o vocals.wav --duration 5": "vocals.wav",
    "streamsep plugin install": ".lv2/streamsep.lv2/manifest.ttl",
    "streamsep bench -o report": "report/report.html report/bench.png report/bench.json",
    "python examples/tutorial/first_model.py": "first-model/first.onnx first-model/stems/2-new/vocals.wav",
    "python -m export runs/first/best.pt -o first.onnx --quantize int8 --data MIR-1K": "first.onnx",
    "streamsep separate song.flac --model first.onnx": "stems/song/vocals.wav",
}
DAEMON = {"oscsend", "streamsep listen"}  # needs one
BLOCK = re.compile(r"^```(sh|bash|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TOML = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
PATIENCE = 280  # s for one command: the first one may have to compile, on a machine that does other things, too


def commands(page: str) -> list[list[str]]:
    """The blocks of a page, each as its command lines; of a console only what stands behind its prompt."""
    found = []
    for kind, text in BLOCK.findall((ROOT / page).read_text()):
        lines = text.replace("\\\n", " ").splitlines()
        if kind == "console":
            lines = [line[2:] for line in lines if line.startswith("$ ")]
        lines = [line for line in lines if line.split("#")[0].strip()]
        if lines:
            found.append(lines)
    return found


BLOCKS = [pytest.param(page, lines, id=f"{page}-{i}") for page in PAGES for i, lines in enumerate(commands(page))]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """A folder for PATH, where `streamsep` and `python` are the ones under test."""
    place = tmp_path_factory.mktemp("bin")
    for name, line in {"python": "", "streamsep": " -m streamsep"}.items():
        (place / name).write_text(f'#!/bin/sh\nexec {sys.executable}{line} "$@"\n')
        (place / name).chmod(0o755)
    return place


@pytest.fixture
def home(tmp_path_factory) -> Path:
    """Where a block's commands are run, one after the other: what one leaves the next finds."""
    place = tmp_path_factory.mktemp("home")
    voice, band = (soundfile.read(path, dtype="float32")[0] for path in STEMS.values())
    soundfile.write(place / "song.flac", (voice + band)[2 * 48000 : 5 * 48000], 48000)
    clips = place / "MIR-1K" / "Wavfile"
    clips.mkdir(parents=True)
    for i, name in enumerate(("abjones_1_01", "amy_1_01", "abjones_5_08")):
        part = slice((2 + 5 * i) * 48000, (7 + 5 * i) * 48000)
        soundfile.write(clips / f"{name}.wav", np.stack([band[part].mean(1), voice[part].mean(1)], axis=1), 48000)
    (place / "examples").symlink_to(ROOT / "examples")
    for page in PAGES:
        for name in re.findall(r"--config (\S+\.toml)", (ROOT / page).read_text()):
            text = "".join(TOML.findall((ROOT / page).read_text()))
            (place / name).write_text(text.replace("USB Audio", "system"))
    return place


class Reader:
    """A terminal: runs a block's lines."""

    def __init__(self, home: Path, programs: Path) -> None:
        self.home = home
        self.environment = os.environ | {
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "HOME": str(home),
            "OMP_NUM_THREADS": "1",
        }
        self.ears = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
        for ear in self.ears:
            ear.bind(("127.0.0.1", 0))
            ear.settimeout(10)
        self.osc, self.other = (ear.getsockname()[1] for ear in self.ears)
        self.ears[0].close()  # the daemon's port
        self.daemon: subprocess.Popen[str] | None = None
        self.said: list[str] = []

    def run(self, line: str) -> None:
        """One line, to its end; a daemon until it has announced itself."""
        words = shlex.split(line, comments=True)
        if words[-1] == "&":
            words.pop()
        plain = shlex.join(words)
        kind = {"make": self.make, "sudo": self.packages, "pip": self.install}.get(words[0])
        if kind:
            kind(words)
            return
        assert words[0] in RUNS, f"README has a command that tests/test_readme.py does not know: {line}"
        words = [self.instead(word) for word in words]
        for beginning, more in ADDED.items():
            if plain.startswith(beginning):
                words += [word.format(osc=self.osc) for word in more]
                break
        if any(plain.startswith(beginning) for beginning in DAEMON) and not self.daemon:
            self.start(["streamsep", "run", "--osc-port", str(self.osc)])
        if words[:2] == ["streamsep", "run"] and "file:" not in plain:
            self.start(words)
            return
        done = subprocess.run(
            words, cwd=self.home, env=self.environment, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        for name in MADE.get(plain, "").split():
            assert (self.home / name).stat().st_size > 0, f"{line} left no {name}"
        if words[0] == "oscsend":
            self.obeyed(words[3:])

    def instead(self, word: str) -> str:
        for here, there in (*INSTEAD.items(), ("9000", str(self.osc)), ("9001", str(self.other))):
            word = word.replace(here, there)
        return word

    def start(self, words: list[str]) -> None:
        """A daemon; one that runs already is ended."""
        self.end()
        self.daemon = subprocess.Popen(
            words, cwd=self.home, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        patience = threading.Timer(PATIENCE, self.daemon.kill)
        patience.start()
        self.said = []
        for line in self.daemon.stdout or ():
            self.said.append(line)
            if line.startswith("OSC on"):
                break
        patience.cancel()
        assert "".join(self.said[-1:]).startswith("OSC on"), f"{words}: {''.join(self.said)}"

    def end(self) -> None:
        """Ctrl-C."""
        daemon, self.daemon = self.daemon, None
        if daemon:
            out, _ = stop(daemon, signal.SIGINT)
            assert daemon.returncode == 0, "".join(self.said) + out

    def obeyed(self, words: list[str]) -> None:
        """What was sent is so: the daemon says it, or what it sends comes in."""
        address, _, *values = words
        if "subscribe" in address or "notify" in address:
            assert b"/streamsep/" in self.ears[1].recv(65536)
        else:
            assert ask(self.osc, address) == pytest.approx([float(v) for v in values])

    def make(self, words: list[str]) -> None:
        shown = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=False)
        assert shown.returncode == 0, shown.stderr
        assert re.search(rf"^make .*\b{words[1]}\b", (ROOT / ".ci" / "run").read_text(), re.MULTILINE), (
            f"CI does not run {words}"
        )

    def packages(self, words: list[str]) -> None:
        assert words[1:4] == ["apt-get", "install", "-y"], words
        makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
        assert set(words[4:]) <= set(re.search(r"^APT := (.*)$", makefile, re.MULTILINE)[1].split())  # type: ignore[index]

    def install(self, words: list[str]) -> None:
        """Into a new environment, from a copy of what is tracked; the command that it leaves there works elsewhere."""
        copy, place = self.home / "checkout", self.home / "environment"
        if not copy.exists():
            tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
            for name in filter(None, tracked.split("\0")):
                if (ROOT / name).exists():
                    (copy / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, copy / name)
            subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
            lent = place / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / "lent.pth"
            lent.write_text("\n".join(p for p in sys.path if p.endswith("-packages")))
        clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        line = ["-m", "pip", *words[1:], "--no-deps", "--no-build-isolation", "--quiet", "--no-index"]
        done = subprocess.run(
            [place / "bin" / "python", *line],
            cwd=copy,
            env=clean,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}{done.stderr}"
        listed = subprocess.run(
            [place / "bin" / "streamsep", "models"], cwd=place, env=clean, capture_output=True, text=True, check=False
        )
        assert "vocals, accompaniment" in listed.stdout, listed.stderr
        where = subprocess.run(
            [place / "bin" / "python", "-c", "import streamsep; print(streamsep.__file__)"],
            cwd=place, env=clean, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert where.startswith(str(self.home)), "the installed command runs another streamsep"


@REAL_TIME
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("page", "lines"), BLOCKS)
def test_every_command_of_the_pages(page, lines, home, programs, jack):
    for name in ("oscsend", "jack_lsp"):
        need_program(name)
    reader = Reader(home, programs)
    try:
        for line in lines:
            reader.run(line)
        reader.end()
    finally:
        if reader.daemon:
            stop(reader.daemon, signal.SIGKILL)
        reader.ears[1].close()


def test_the_readme_has_what_it_should():
    text = (ROOT / "README.md").read_text()
    assert len(commands("README.md")) >= 7
    assert len(text.split()) < 2400, "five minutes of reading"
    assert not re.findall(r"^```(?!sh|bash|console|toml|\n)", text, re.MULTILINE), "a block whose commands nobody reads"


@pytest.mark.parametrize("page", PAGES)
def test_settings_on_the_pages_are_settings(page, tmp_path):
    for text in TOML.findall((ROOT / page).read_text()):
        (tmp_path / "x.toml").write_text(text)
        assert config.load(tmp_path / "x.toml", {}).gain["vocals"] == -90


def flags_of(command) -> set[str]:
    return {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)} | {"--help"}


@pytest.mark.parametrize("page", sorted(p.relative_to(ROOT).as_posix() for p in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"))))
def test_commands_in_the_text_exist(page):
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"`((?:pw-jack )?streamsep [a-z][^`]*)`", text):
        name, *words = line.removeprefix("pw-jack ").removeprefix("streamsep ").split()
        assert name in cli.commands, f"{page}: {line}"
        used = {word for word in words if re.fullmatch("--[a-z][a-z-]+", word)}
        assert used <= flags_of(cli.commands[name]), f"{page}: {line}"
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for target in re.findall(r"`make ([a-z]+)`", text):
        assert target in targets, f"{page}: make {target}"
