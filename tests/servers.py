"""Real sound servers for the tests, each of a test's own, to be ended and started again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from streamsep import doctor
from tests.conftest import need_program

PERIOD, RATE = 128, 48000

# For tests that hold real time itself to account: no block missed, every sample in its place, while servers and clients of the
# test share a machine that others use, too. Such a machine may hold everybody up for a moment; it does not do so three times in
# a row. What is wrong is wrong each time.
REAL_TIME = pytest.mark.flaky(reruns=2)


def wait(condition: Callable[[], object], what: Callable[[], str] = lambda: "it did not happen", seconds: float = 10.0) -> None:
    """Until `condition()`; else the test fails with `what()`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.005)


class JackServer:
    """A JACK server with a dummy driver: 8 channels in and out, in real time. Its name is JACK_DEFAULT_SERVER's."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.killed = False

    def start(self, period: int = PERIOD, playback: int = 8, synchronous: bool = True) -> JackServer:
        # In real time where the system allows it: the dummy driver then keeps its periods beside whatever else runs here.
        manner = ["-R", "-P", "20"] if doctor.realtime()["granted"] else ["-r"]
        # Synchronous (-S): a client that is held up makes the server's period late instead of empty. Beside a client that was
        # killed jackd2 hangs in that mode, whoever's client it was.
        options = [*(["-S"] if synchronous else []), "-t", "2000", *manner]
        dummy = ["-d", "dummy", "-r", str(RATE), "-p", str(period), "-C", "8", "-P", str(playback)]
        with self.log.open("w") as log:
            self.process = subprocess.Popen([need_program("jackd"), *options, *dummy], stdout=log, stderr=log)
        wait(self.answers, self.log.read_text)
        return self

    def answers(self) -> bool:
        return subprocess.run(["jack_lsp"], capture_output=True, check=False).returncode == 0

    def end(self, number: int = signal.SIGTERM) -> None:
        if self.process is None and self.killed:
            self.start()  # the machine has room for 8 servers' names; a killed one's stays until one of that name ends well
        process, self.process = self.process, None
        if process:
            self.killed = number == signal.SIGKILL
            process.send_signal(number)
            process.send_signal(signal.SIGCONT)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:  # a synchronous server beside a killed client
                self.killed = True
                process.kill()
                process.wait()
