"""A PulseAudio server of a test's own, with two null sinks: what is played into `in` is the device `mic`, `speakers` is `out`.

PortAudio sees them as ALSA devices, through ALSA's plugin, as it does on most desktops.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from tests.conftest import ROOT, need, need_program
from tests.servers import wait

RATE = 48_000
_ALSA = 'pcm.mic { type pulse device "in.monitor" }\npcm.speakers { type pulse device "out" }\n'
_PLUGIN = "libasound_module_pcm_pulse.so"


class PulseServer:
    """Its folder is the server's home; `environment` is for whoever talks to it."""

    def __init__(self, folder: Path) -> None:
        need(list(Path("/usr/lib").glob(f"*/alsa-lib/{_PLUGIN}")), "libasound2-plugins")
        (folder / ".asoundrc").write_text(_ALSA)
        (folder / "run").mkdir(mode=0o700)
        self.environment = os.environ | {
            "HOME": str(folder),
            "XDG_RUNTIME_DIR": str(folder / "run"),
            "PULSE_RUNTIME_PATH": str(folder / "run" / "pulse"),
            "XDG_STATE_HOME": str(folder / "state"),
            "JACK_NO_START_SERVER": "1",
            "PYTHONPATH": str(ROOT),
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.folder = folder

    def start(self) -> PulseServer:
        sinks = [f"module-null-sink sink_name={name} rate={RATE} channels=2 format=float32le" for name in ("in", "out")]
        modules = [word for module in ("module-native-protocol-unix", *sinks) for word in ("-L", module)]
        command = [need_program("pulseaudio"), "-n", "--daemonize=no", "--exit-idle-time=-1", *modules]
        with (self.folder / "pulse.log").open("a") as log:
            self.processes = [subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)]
        wait(self.answers, (self.folder / "pulse.log").read_text)
        return self

    def answers(self) -> bool:
        listed = subprocess.run(["pactl", "list", "short", "sinks"], env=self.environment, capture_output=True, text=True)
        return "out" in listed.stdout

    def play(self, path: Path | str) -> None:
        """Raw float32 stereo into `in`. A null sink that nobody plays into hands out two seconds at a time."""
        self._run("pacat", "-d", "in", path)

    def record(self, path: Path) -> None:
        """What comes out of `out`, to `path`."""
        self._run("parec", "-d", "out.monitor", path)

    def _run(self, program: str, *arguments: object) -> None:
        form = ("--raw", "--latency-msec=20", "--format=float32le", f"--rate={RATE}", "--channels=2")
        command = [need_program(program), *form, *map(str, arguments)]
        self.processes.append(subprocess.Popen(command, env=self.environment, stderr=subprocess.DEVNULL))

    def end(self) -> None:
        """The server is killed, as in a crash, and who talks to it dies with it."""
        for process in self.processes:
            process.kill()
            process.wait()
        self.processes = []

    def python(self, *arguments: object) -> subprocess.Popen[str]:
        """A program of the test's own, with PortAudio on this server."""
        command = [sys.executable, *map(str, arguments)]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, env=self.environment, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=ROOT)

    def streamsep(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "streamsep", *map(str, arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, cwd=ROOT, timeout=120)


def tone(path: Path, seconds: float, hertz: float = 997.0, level: float = 0.5) -> Path:
    """A file for `PulseServer.play`."""
    mono = level * np.sin(2 * np.pi * hertz / RATE * np.arange(int(seconds * RATE)))
    np.repeat(mono.astype(np.float32), 2).tofile(path)
    return path
