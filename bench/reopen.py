"""How soon sound goes on after a sound server came back: each is killed and started again, round after round.

    python bench/reopen.py [--rounds 10] [--json]

The daemon is `streamsep run` as anyone starts it. The clock starts when the new server answers its own tools, and stops when a
hop of sound has gone out again: the device was looked for, opened by its name, watched, and the engine's state was reset.
Beside it another client, of the server's own, says when the device hands out its first sound to anybody: PulseAudio's null
sinks sleep for the first two seconds of their lives.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import soak  # type: ignore[import-not-found]  # beside this file

sys.path.insert(0, str(soak.ROOT))  # the sound servers of the tests
from tests.pulse_server import PulseServer
from tests.running import osc_port

PATIENCE = 20.0  # s
LOST_WITHIN = 10.0


class Jack:
    """JACK's dummy driver, with the daemon as a client of that server."""

    name, flags = "JACK", ()

    def __init__(self, folder: Path) -> None:
        os.environ |= {"JACK_DEFAULT_SERVER": "streamsep-reopen", "JACK_NO_AUDIO_RESERVATION": "1"}
        self.environment, self._folder = os.environ, folder

    def start(self) -> None:
        """Until it answers."""
        self._server = soak.start_server(self._folder)

    def first_sound(self) -> None:
        """At once: it calls its clients from its start on."""

    def end(self) -> None:
        """As in a crash."""
        self._server.kill()
        self._server.wait()


class Pulse:
    """PulseAudio with null sinks, of which one is played into, through ALSA's plugin and PortAudio."""

    name, flags = "PulseAudio", ("--input", "mic", "--output", "speakers", "--rate", 48_000)

    def __init__(self, folder: Path) -> None:
        self._server = PulseServer(folder)
        self.environment, self.end = self._server.environment, self._server.end

    def start(self) -> None:
        """Until it answers."""
        self._server.start().play("/dev/zero")

    def first_sound(self) -> None:
        """Until a client of its own has heard something."""
        command = ["parec", "--raw", "--latency-msec=20", "-d", "in.monitor"]
        with subprocess.Popen(command, env=self.environment, stdout=subprocess.PIPE) as client:
            assert client.stdout
            client.stdout.read(1)
            client.terminate()


def until(true: Callable[[], object], within: float) -> float:
    """Seconds until it is so."""
    start = time.monotonic()
    while not true():
        if time.monotonic() - start > within:
            raise RuntimeError(f"not so within {within:g} s")
        time.sleep(0.01)
    return time.monotonic() - start


def measure(kind: type[Jack | Pulse], rounds: int) -> dict[str, Any]:
    """One server, killed `rounds` times."""
    with tempfile.TemporaryDirectory() as folder:
        server = kind(Path(folder))
        server.start()
        command = [sys.executable, "-m", "streamsep", "run", "--osc-port", 0, "--json", *server.flags]
        with (Path(folder) / "daemon.log").open("w+") as log:
            daemon = subprocess.Popen([*map(str, command)], cwd=soak.ROOT, env=server.environment, stdout=log, stderr=log)
            said = Path(folder, "daemon.log").read_text
            try:
                until(lambda: "OSC on" in said(), PATIENCE)
                port = osc_port(said())
                return {"server": server.name, "rounds": [one(server, port) for _ in range(rounds)]}
            finally:
                daemon.terminate()
                daemon.wait(30)
                server.end()


def one(server: Jack | Pulse, port: int) -> tuple[float, float]:
    """Kill it, start it; seconds from its return until its device hands out sound, and until separated sound goes on."""
    until(lambda: soak.status(port)["state"] == "running", PATIENCE)
    time.sleep(1)
    server.end()
    until(lambda: soak.status(port)["state"] == "device lost", LOST_WITHIN)
    time.sleep(1)
    hops = soak.status(port)["hops"]
    server.start()
    start = time.monotonic()
    with ThreadPoolExecutor() as beside:
        first = beside.submit(lambda: server.first_sound() or time.monotonic() - start)
        until(lambda: soak.status(port)["state"] == "running" and soak.status(port)["hops"] > hops, PATIENCE)
        return round(first.result(PATIENCE), 3), round(time.monotonic() - start, 3)


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table of RESULTS.md."""
    lines = [
        "A sound server is killed and started again; from its return until separated sound goes out (`bench/reopen.py`):",
        "",
        "| server | rounds | separated sound, s: median / longest | its device's first sound, s: the same |",
        "|---|---|---|---|",
    ]
    for r in rows:
        device, sound = (f"{median(x):.2f} / {max(x):.2f}" for x in zip(*r["rounds"], strict=True))
        lines.append(f"| {r['server']} | {len(r['rounds'])} | {sound} | {device} |")
    return "\n".join(lines)


def main() -> None:
    """Run and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=10, help="of each server (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    rows = [measure(kind, arguments.rounds) for kind in (Jack, Pulse)]
    print(json.dumps({"servers": rows}) if arguments.json else markdown(rows))


if __name__ == "__main__":
    main()
