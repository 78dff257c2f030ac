"""The live view of `streamsep run`: a thread that looks at the daemon ten times a second and takes its keys.

It has the terminal's other screen, so that what stood there before is there again at the end; what was told meanwhile is then
printed under it. Nothing is drawn while nothing changes. Ctrl-Z gives the terminal back and stops the program, `fg` takes it
again; in the background nothing is touched. If the view itself fails the terminal is put back, one line says so, and the sound
goes on.

This module knows what a view needs of a daemon (`osc.Host`), and no device.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.live import Live

from .. import meters
from ..osc.metering import FLOOR, STALE, decibels
from .keys import Hands, Keyboard
from .terminal import announcement
from .view import Level, counts, draw, gather

if TYPE_CHECKING:
    from ..osc.host import Host

PERIOD = 0.1  # s between two pictures
FIGURES_EVERY = 0.5  # s; percentiles need not be looked at more often
FALL = 24.0  # dB a second: how fast a peak comes down, so that it can be read
LATELY = 10.0  # s for which new trouble is shown as such
LOG = 200  # lines that are kept


class Levels:
    """Peak, RMS and held clips of each column of the daemon's meters (`streamsep.meters`)."""

    def __init__(self, history: meters.Meters) -> None:
        self.history = history
        self._reader = meters.Reader(history)
        self._levels = [Level(FLOOR, FLOOR, False)] * len(history.clipped)
        self._heard = 0.0
        self.clear()

    def clear(self) -> None:
        """Let go of the clips that are held."""
        self._forgiven = self.history.clipped.copy()

    def read(self, now: float, passed: float) -> list[Level]:
        """As they stand at `now`, `passed` seconds after the last look."""
        span = self._reader.read()
        if len(span.times):
            self._heard = now
            peaks = [decibels(float(p)) for p in span.peak.max(axis=0)]
            rms = [decibels(float(r)) for r in np.sqrt(span.square.mean(axis=0, dtype=np.float64))]
        elif now - self._heard < STALE:  # a device with long blocks: the last look still holds
            peaks, rms = [level.peak for level in self._levels], [level.rms for level in self._levels]
        else:
            peaks = rms = [FLOOR] * len(self._levels)
        clips = self.history.clipped > self._forgiven
        fallen = [max(level.peak - FALL * passed, FLOOR) for level in self._levels]
        self._levels = [Level(max(p, f), r, bool(c)) for p, f, r, c in zip(peaks, fallen, rms, clips, strict=True)]
        return self._levels


class Screen:
    """The view of `host` on `console`, from `open` to `close`; what is told goes through `tell` at any time."""

    def __init__(self, host: Host, console: Console) -> None:
        self.log: deque[str] = deque(maxlen=LOG)
        self._host, self._console, self._osc = host, console, ""
        self._plain = not console.encoding.lower().startswith("utf")
        self._levels = Levels(host.meters)
        self._hands = Hands(host, self._note, lambda: self._levels.clear())
        self._end = threading.Event()
        self._suspend = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streamsep-view", daemon=True)
        self._keyboard: Keyboard | None = None
        self._live: Live | None = None
        self._shown: Any = None
        self._told: list[str] = []
        self._figures: tuple[float, dict[str, Any]] = -FIGURES_EVERY, {}
        self._trouble = 0, -LATELY  # how much there was, and when it last grew
        self._looked = 0.0

    # ---------------------------------------------------------------------------------------------------- from any thread

    def announce(self, setup: Mapping[str, Any]) -> None:
        """Tell the set-up (`Daemon.describe`)."""
        self._osc = setup["osc"]
        for line in announcement(setup):
            self.tell(line)

    def open(self) -> None:
        """Begin. Called in the main thread, for it listens to Ctrl-Z."""
        self._before = {s: signal.signal(s, self._hear) for s in (signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH)}
        self._thread.start()

    def close(self) -> None:
        """End, with the terminal as it was, and print what was told."""
        if self._thread.ident is None:
            return
        self._end.set()
        self._wake()
        self._thread.join()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        with contextlib.suppress(OSError):
            for line in self._told:
                self._console.print(line, markup=False)

    def tell(self, line: str) -> None:
        """A line that is to be read now and kept for afterwards."""
        self._told.append(line)
        self._note(line)

    def _note(self, line: str) -> None:
        self.log.append(f"{time.strftime('%H:%M:%S')} {line}")
        self._wake()

    def _hear(self, number: int, frame: object) -> None:
        if number == signal.SIGTSTP:
            self._suspend.set()
        else:  # back in the foreground, or another size: whatever stands there is not what we drew
            self._shown = None
        self._wake()

    def _wake(self) -> None:
        if self._keyboard:
            self._keyboard.wake()

    # -------------------------------------------------------------------------------------------------------- in its thread

    def _run(self) -> None:
        try:
            with Keyboard(sys.stdin.fileno()) as self._keyboard:
                try:
                    self._serve(self._keyboard)
                finally:
                    self._leave()
                    self._keyboard = None
        except Exception as error:  # a view may not end the sound
            self._told.append(f"the view has ended ({type(error).__name__}: {error}); sound goes on, Ctrl-C ends it")
            with contextlib.suppress(OSError):  # the terminal is gone
                self._console.print(self._told[-1], markup=False)

    def _serve(self, keyboard: Keyboard) -> None:
        while not self._end.is_set():
            if self._suspend.is_set():
                self._stop(keyboard)
            if not keyboard.ours:
                time.sleep(PERIOD)
                continue
            self._enter(keyboard)
            self._draw()
            due = time.monotonic() + PERIOD
            while (left := due - time.monotonic()) > 0 and not self._end.is_set() and not self._suspend.is_set():
                for key in keyboard.read(left):
                    self._hands.press(key)
                    self._draw()

    def _stop(self, keyboard: Keyboard) -> None:
        """Give the terminal back and stop, as Ctrl-Z is expected to; goes on here after `fg` or `bg`."""
        self._leave()
        keyboard.give_back()
        self._suspend.clear()
        os.kill(os.getpid(), signal.SIGSTOP)
        time.sleep(0.05)  # the other threads wake first

    def _enter(self, keyboard: Keyboard) -> None:
        if self._live is None:
            keyboard.take()
            self._live = Live(
                console=self._console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            self._live.start()
            self._shown = None

    def _leave(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _draw(self) -> None:
        if self._live is None:
            return
        width, height = self._console.size
        picture = self.look()
        state = picture, tuple(self.log), width, height
        if state != self._shown:
            self._live.update(draw(picture, self.log, width, height, self._plain), refresh=True)
            self._shown = state

    def look(self) -> Any:
        """The picture of this moment (`view.Picture`)."""
        now = time.monotonic()
        if self._levels.history is not self._host.meters:  # another engine
            self._levels = Levels(self._host.meters)
        if now - self._figures[0] >= FIGURES_EVERY:
            self._figures = now, dict(self._host.status())
            counted = counts(self._figures[1])
            trouble = counted["late"] + counted["missed"] + counted["xruns"]
            if trouble != self._trouble[0]:
                self._trouble = trouble, now if trouble > self._trouble[0] else -LATELY
        levels = self._levels.read(now, now - self._looked)
        self._looked = now
        lately = now - self._trouble[1] < LATELY
        return gather(self._host, levels, self._hands.selected, self._figures[1], self._osc, lately)
