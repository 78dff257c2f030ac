"""The keyboard of a terminal: keys one at a time, without Enter; and what each of them does to a daemon.

While a `Keyboard` is open the terminal is in cbreak mode: Ctrl-C and Ctrl-Z stay signals. Whatever ends it puts the terminal
back as it was. A program in the background leaves the terminal alone: the system would stop it for touching it.

What a key does is done to the daemon as OSC does it (`osc.Host`), so both see what the other did. POSIX only; elsewhere
`AVAILABLE` is False.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

try:
    import termios
    import tty

    AVAILABLE = True
except ImportError:  # Windows
    AVAILABLE = False

if TYPE_CHECKING:
    from ..controls import Steering
    from ..osc.host import Host

GAIN_STEP = 1.0  # dB
FAINT, SILENT = -60.0, -90.0  # dB; between the two nobody wants to step
SURE_WITHIN = 3.0  # s in which the second q must come
_SEQUENCES = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1b[C": "right",
    "\x1b[D": "left",
    "\x1b[Z": "up",  # Shift-Tab
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1bOC": "right",
    "\x1bOD": "left",
}
_NAMES = {"\t": "down", "=": "+", "_": "-", "\x7f": "0"}


def _step(db: float, direction: int) -> float:
    """The next whole step of a gain, dB, up (1) or down (-1)."""
    wanted = round((db + direction * GAIN_STEP) / GAIN_STEP) * GAIN_STEP
    if wanted >= FAINT:
        return wanted
    return FAINT if direction > 0 else SILENT


def split(text: str) -> list[str]:
    """The keys in what a terminal sent: a character each, or the name of an arrow; other escape sequences are left out."""
    keys, place = [], 0
    while place < len(text):
        if text[place] == "\x1b":
            end = _end_of_sequence(text, place)
            keys += [_SEQUENCES[text[place:end]]] if text[place:end] in _SEQUENCES else []
            place = end
        else:
            keys.append(_NAMES.get(text[place], text[place]))
            place += 1
    return keys


def _end_of_sequence(text: str, place: int) -> int:
    """Where the escape sequence at `place` ends: CSI and SS3 end with a letter or ~, Alt is one character more."""
    end = place + 1
    if text[end : end + 1] in ("[", "O"):
        end += 1
        while end < len(text) and not (text[end].isalpha() or text[end] == "~"):
            end += 1
    return min(end + 1, len(text))


def in_foreground(fd: int) -> bool:
    """Whether this program is in the foreground of the terminal at `fd`."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


class Keyboard:
    """The terminal at the file descriptor `fd`; a context manager."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._before: list[Any] | None = None
        self._ended = False
        self._waker, self._wake = os.pipe()

    @property
    def ours(self) -> bool:
        """Whether this program is in the foreground of its terminal."""
        return in_foreground(self._fd)

    def __enter__(self) -> Keyboard:
        self.take()
        return self

    def __exit__(self, *_: object) -> None:
        self.give_back()
        os.close(self._waker)
        os.close(self._wake)

    def take(self) -> None:
        """Keys one at a time from now on; harmless when that is so."""
        if self._before is None:
            self._before = termios.tcgetattr(self._fd)
        tty.setcbreak(self._fd)

    def give_back(self) -> None:
        """The terminal as it was."""
        if self._before is not None:
            with contextlib.suppress(termios.error):  # the terminal itself is gone
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._before)
            self._before = None

    def wake(self) -> None:
        """Let `read` return at once; from any thread or signal handler."""
        with contextlib.suppress(OSError):  # just closed
            os.write(self._wake, b".")

    def read(self, timeout: float) -> list[str]:
        """The keys that came within `timeout` seconds, as soon as there is one."""
        watched = [self._waker] if self._ended else [self._fd, self._waker]
        ready, _, _ = select.select(watched, [], [], timeout)
        if self._waker in ready:
            os.read(self._waker, 1024)
        if self._fd not in ready:
            return []
        try:
            data = os.read(self._fd, 1024)
        except OSError:
            data = b""
        self._ended = not data
        return split(data.decode(errors="ignore"))


# ------------------------------------------------------------------------------------------------------ what they do


class Command(NamedTuple):
    """A key for people, and what it does in a word or two."""

    keys: str
    does: str


COMMANDS = (
    Command("1-9", "mute source"),
    Command("↑↓", "select"),
    Command("+ -", "gain"),
    Command("0", "reset gain"),
    Command("m", "mute"),
    Command("s", "solo"),
    Command("b", "bypass"),
    Command("p", "panic"),
    Command("r", "record"),
    Command("c", "clear clips"),
    Command("q", "quit"),
)


class Hands:
    """What is selected, and what a key does with it. `tell` gets one line where that is not to be."""

    def __init__(self, host: Host, tell: Callable[[str], None], clear_clips: Callable[[], None]) -> None:
        self.selected = 0  # a source's number, or the number of sources: the output
        self._host, self._tell, self._clear_clips = host, tell, clear_clips
        self._sure = 0.0  # s, monotonic: until then a q ends

    def press(self, key: str) -> None:
        """Do what `key` stands for; others do nothing."""
        engine = self._host.separator
        places = len(engine.sources) + 1
        self.selected = min(self.selected, places - 1)  # another model may have fewer
        if key in "123456789" and int(key) < places:
            self.selected = int(key) - 1
            key = "m"
        if key in ("up", "down"):
            self.selected = (self.selected + (1 if key == "down" else -1)) % places
        elif key in ("+", "right", "-", "left", "0"):
            self._move(engine, key)
        elif key in ("m", "s") and self.selected < places - 1:
            source = engine.sources[self.selected]
            if key == "m":
                engine.set_mute(source, not engine.mute(source))
            else:
                engine.set_solo(source, not engine.solo(source))
        elif key == "b":
            engine.bypass = not engine.bypass
        elif key == "p":
            engine.panic = not engine.panic
        elif key == "c":
            self._clear_clips()
        elif key == "r":
            self._record()
        elif key == "q":
            self._quit()

    def _move(self, engine: Steering, key: str) -> None:
        """A step up or down with the gain that is selected, or to 0 dB."""
        source = engine.sources[self.selected] if self.selected < len(engine.sources) else None
        now = engine.gain(source) if source else engine.output_gain
        wanted = 0.0 if key == "0" else _step(now, 1 if key in ("+", "right") else -1)
        if source:
            engine.set_gain(source, wanted)
        else:
            engine.output_gain = wanted

    def _record(self) -> None:
        try:
            self._host.record(not self._host.recording)
        except ValueError as error:
            self._tell(f"no recording: {error}")

    def _quit(self) -> None:
        """Only the second q ends: a stage is no place for a slip of the finger."""
        if time.monotonic() < self._sure:
            self._host.quit()
        else:
            self._sure = time.monotonic() + SURE_WITHIN
            self._tell("q once more ends streamsep")
