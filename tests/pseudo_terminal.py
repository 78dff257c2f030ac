"""A program in a pseudo-terminal, and a terminal emulator that shows what it drew."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
import time

import pyte

from tests.conftest import ROOT


class Terminal:
    """`streamsep` with `arguments`, as the leader of a terminal of so many columns and lines; a context manager."""

    def __init__(self, *arguments, columns=80, lines=24, **environment):
        self.controller, self.terminal = pty.openpty()
        self.screen = pyte.Screen(columns, lines)
        self.sent = b""  # all that the program wrote
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self.terminal)
        program = [sys.executable, "-m", "streamsep", *map(str, arguments)]
        path = {"PYTHONPATH": str(ROOT), "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen(
            program,
            stdin=self.terminal,
            stdout=self.terminal,
            stderr=self.terminal,
            cwd=ROOT,
            env={k: v for k, v in os.environ.items() if k not in ("NO_COLOR", "COLUMNS", "LINES")} | path | environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        self._stream = pyte.ByteStream(self.screen)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._closed = True
        os.close(self.terminal)
        self._thread.join(5)
        os.close(self.controller)

    def _read(self):
        while True:
            try:
                data = os.read(self.controller, 65536)
            except OSError:  # the last one who had it open is gone
                return
            if not data:
                return
            self.sent += data
            self._stream.feed(data)

    def press(self, keys):
        os.write(self.controller, keys.encode())

    def resize(self, columns, lines):
        fcntl.ioctl(self.controller, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def hang_up(self, number=signal.SIGTERM):
        self.process.send_signal(number)

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display)

    @property
    def as_before(self):
        """Whether keys are echoed, and come in lines, as at the start."""
        return termios.tcgetattr(self.terminal)[:4] == self.before[:4]

    def shows(self, *words, seconds=120):  # a first start compiles
        """Wait until all of `words` stand on the screen."""
        end = time.monotonic() + seconds
        while not all(word in self.text for word in words):
            assert time.monotonic() < end, f"{words} not on the screen:\n{self.text}"
            assert self.process.poll() is None or all(word in self.text for word in words), self.text
            time.sleep(0.02)
        return self.text

    def line(self, word):
        """The line that begins with a strip's name."""
        return next(line for line in self.screen.display if f" {word} " in line)
