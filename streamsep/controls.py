"""What may change while sound runs: gains, mutes, solos, output, bypass, wet and dry, panic, reset; and how it changes.

Each control is one aligned 8-byte value that is written whole and read once a hop; whatever moves, moves linearly over that
hop, so that nothing clicks. With all at their defaults the sources pass untouched, bit for bit.

For each source: its samples s, its gain g (0 while muted, or while others are solo and it is not). With x the input, late as
the sources are, wet w, bypass b and output level o (0 in a panic), what goes out is

    y_i = o * ((1 - d) * g_i * s_i + [i = 0] * d * x)        d = 1 - w * (1 - b)

so the dry part stands on the first source, and in bypass that one carries the input and the others are silent.

A reset fades out over one hop, forgets all that was heard, waits until the windows are full again, and fades in.

This module knows no thread but whoever steers, no clock but the engine's (`schedule`), and no OSC.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import schedule
from .native import load_acquire
from .schedule import Schedule

GAIN_DB = (-90.0, 24.0)  # at the lower end and below it a source is silent
# Places in `wanted` and `current`: a gain (linear), a mute and a solo (0 or 1) for each of n sources, then these, from 3 n on.
OUTPUT, BYPASS, WET, PANIC, RESET = range(5)
SINGLE = 5
LEFT, FORGET = range(2)


class Controls(NamedTuple):
    """The controls and where their ramps stand."""

    wanted: NDArray[np.float64]  # [shape=(3 * sources + SINGLE,)]: as set last; also what is told
    current: NDArray[np.float64]  # the same for the hop in hand
    read: NDArray[np.float64]  # the same, work space
    hold: NDArray[np.int64]  # [shape=(1,)]: odd while several are written that belong together
    level: NDArray[np.float64]  # [shape=(sources + 2,)]: where the gains' ramps stand, then dry's and the output's
    restart: NDArray[np.int64]  # [shape=(2,)]: LEFT hops of a reset to come; FORGET: the network has to
    schedule: Schedule


def make_controls(sources: int) -> Controls:
    """All at their defaults."""
    controls = Controls(
        wanted=np.zeros(3 * sources + SINGLE),
        current=np.zeros(3 * sources + SINGLE),
        read=np.zeros(3 * sources + SINGLE),
        hold=np.zeros(1, np.int64),
        level=np.zeros(sources + 2),
        restart=np.zeros(2, np.int64),
        schedule=schedule.make_schedule(),
    )
    controls.wanted[:sources] = 1
    controls.wanted[[3 * sources + OUTPUT, 3 * sources + WET]] = 1
    settle(controls)
    return controls


# ---------------------------------------------------------------------------------------------------------- compiled path


@njit(nogil=True, cache=True)
def settle(c):  # type: ignore[no-untyped-def]
    """Let every ramp be at its end; only while no hop is worked on."""
    sources = c.level.size - 2
    c.current[:] = c.wanted
    c.restart[:] = 0
    for i in range(sources):
        c.level[i] = gain(c, i)
    c.level[sources] = dry(c)
    c.level[sources + 1] = output(c)


@njit(nogil=True, cache=True)
def apply(c, t, held, y):  # type: ignore[no-untyped-def]
    """The controls on the finished hop `y` `[shape=(sources, channels, hop)]` of the transform `t` with the masks `held`."""
    sources, _, hop = y.shape
    base = 3 * sources
    read(c)
    schedule.advance(c.schedule, hop, c.wanted, c.current)
    if c.current[base + RESET] != 0:
        c.current[base + RESET] = 0
        c.wanted[base + RESET] = 0
        c.restart[LEFT] = t.synthesis.size // hop + 1
    left = c.restart[LEFT]
    first = t.history.shape[1] - t.synthesis.size
    ramp(c, t.history[:, first : first + hop], y, 0.0 if left > 0 else output(c))
    if left == t.synthesis.size // hop + 1:
        t.history[:] = 0
        t.overlap[:] = 0
        t.past[:] = 0
        held[:] = 1 / sources
        c.restart[FORGET] = 1
    c.restart[LEFT] = max(left - 1, 0)


@njit(nogil=True, cache=True)
def fade_out(c):  # type: ignore[no-untyped-def]
    """Let the next hop fade to silence, as a reset begins."""
    c.wanted[3 * (c.level.size - 2) + RESET] = 1


@njit(nogil=True, cache=True)
def fading(c):  # type: ignore[no-untyped-def]
    """Whether the last hop faded out, as `fade_out` wanted."""
    return c.restart[LEFT] > 0


@njit(nogil=True, cache=True)
def fade_in(c, hops):  # type: ignore[no-untyped-def]
    """After `settle`: be silent for `hops`, then fade in, as a reset ends."""
    c.restart[LEFT] = hops
    c.level[c.level.size - 1] = 0


@njit(nogil=True, cache=True)
def forgotten(c):  # type: ignore[no-untyped-def]
    """Whether the network's state, too, has to be dropped now; True once for a reset."""
    forget = c.restart[FORGET] != 0
    c.restart[FORGET] = 0
    return forget


@njit(nogil=True, cache=True)
def read(c):  # type: ignore[no-untyped-def]
    """Take what is wanted, unless it is being written at this moment: then it waits for the next hop, all of it."""
    hold = load_acquire(c.hold.ctypes.data)
    if hold % 2:
        return
    c.read[:] = c.wanted
    if load_acquire(c.hold.ctypes.data) == hold:
        c.current[:] = c.read


@njit(nogil=True, cache=True)
def gain(c, source):  # type: ignore[no-untyped-def]
    """The gain of a source that mute and solo leave."""
    sources = c.level.size - 2
    if c.current[sources + source] != 0:
        return 0.0
    if c.current[2 * sources + source] == 0:
        for i in range(sources):
            if c.current[2 * sources + i] != 0:
                return 0.0
    return c.current[source]


@njit(nogil=True, cache=True)
def dry(c):  # type: ignore[no-untyped-def]
    """How much of the input is heard instead of the sources, 0 to 1."""
    base = 3 * (c.level.size - 2)
    return 1.0 - c.current[base + WET] * (1.0 - c.current[base + BYPASS])


@njit(nogil=True, cache=True)
def output(c):  # type: ignore[no-untyped-def]
    """The output's level."""
    base = 3 * (c.level.size - 2)
    return 0.0 if c.current[base + PANIC] != 0 else c.current[base + OUTPUT]


@njit(nogil=True, cache=True)
def ramp(c, delayed, y, out_end):  # type: ignore[no-untyped-def]
    """Move all levels over the hop `y`; `delayed` `[shape=(channels, hop)]` is the input that belongs to it."""
    sources, channels, hop = y.shape
    step = 1.0 / hop
    dry_end = dry(c)
    dry_now, out_now = c.level[sources], c.level[sources + 1]
    dry_by, out_by = (dry_end - dry_now) * step, (out_end - out_now) * step
    plain = dry_now == 0.0 and dry_by == 0.0 and out_now == 1.0 and out_by == 0.0
    for i in range(sources):
        end = gain(c, i)
        now = c.level[i]
        by = (end - now) * step
        c.level[i] = end
        if plain and now == 1.0 and by == 0.0:
            continue  # the common case is exact and free
        for k in range(channels):
            for n in range(hop):
                share = dry_now + dry_by * (n + 1)
                value = (1.0 - share) * (now + by * (n + 1)) * y[i, k, n]
                if i == 0:
                    value += share * delayed[k, n]
                y[i, k, n] = value * (out_now + out_by * (n + 1))
    c.level[sources], c.level[sources + 1] = dry_end, out_end


# --------------------------------------------------------------------------------------------------------------- steering


class ScheduleFullError(ValueError):
    """More changes wait for their time than there is room for."""


class Steering:
    """The controls by their names: the part of a `Separator` that may be used from any thread while sound runs.

    Setters give back what was really set. What is set takes effect with the next hop; within `together` all in the same
    hop, within `at` when its time has come.
    """

    sources: tuple[str, ...]
    controls: Controls

    def __init__(self) -> None:
        self._lock, self._depth = threading.RLock(), 0
        self._later = threading.local()  # `changes` of this thread's `at`

    def gain(self, source: str) -> float:
        """Gain of `source`, dB."""
        return _decibels(self._read(self._index(source)))

    def set_gain(self, source: str, db: float) -> float:
        """Set the gain of `source` (dB, clamped to `GAIN_DB`); ValueError: no such source, or not a number."""
        return self._set_decibels(self._index(source), db)

    def mute(self, source: str) -> bool:
        """Whether `source` is muted."""
        return bool(self._read(len(self.sources) + self._index(source)))

    def set_mute(self, source: str, mute: bool) -> bool:
        """Mute `source` or let it sound; ValueError if there is no such source."""
        return self._write(len(self.sources) + self._index(source), bool(mute))

    def solo(self, source: str) -> bool:
        """Whether `source` is solo: while any is, the others are silent."""
        return bool(self._read(2 * len(self.sources) + self._index(source)))

    def set_solo(self, source: str, solo: bool) -> bool:
        """Make `source` solo or not; a mute wins over it. ValueError if there is no such source."""
        return self._write(2 * len(self.sources) + self._index(source), bool(solo))

    @property
    def output_gain(self) -> float:
        """Gain of all that goes out, dB; set like `set_gain`."""
        return _decibels(self._single(OUTPUT))

    @output_gain.setter
    def output_gain(self, db: float) -> None:
        self._set_decibels(3 * len(self.sources) + OUTPUT, db)

    @property
    def bypass(self) -> bool:
        """While set, the first source carries the delayed input and the others are silent."""
        return bool(self._single(BYPASS))

    @bypass.setter
    def bypass(self, on: bool) -> None:
        self._write(3 * len(self.sources) + BYPASS, bool(on))

    @property
    def wet(self) -> float:
        """How much of the mix are the sources, 0 to 1; the rest is the input, as late as they are."""
        return self._single(WET)

    @wet.setter
    def wet(self, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"wet={share} is out of range: expected 0 to 1")
        self._write(3 * len(self.sources) + WET, share)

    @property
    def panic(self) -> bool:
        """While set, nothing goes out."""
        return bool(self._single(PANIC))

    @panic.setter
    def panic(self, on: bool) -> None:
        self._write(3 * len(self.sources) + PANIC, bool(on))

    def forget(self) -> None:
        """Forget all that was heard, without a click: a few hops of silence, faded out and in."""
        self._write(3 * len(self.sources) + RESET, 1)

    def follow(self, other: Steering) -> None:
        """Take the values of `other`'s controls, for the sources that both have."""
        with self.together():
            for source in set(self.sources) & set(other.sources):
                self.set_gain(source, other.gain(source))
                self.set_mute(source, other.mute(source))
                self.set_solo(source, other.solo(source))
            for control in (OUTPUT, BYPASS, WET, PANIC):
                self._write(3 * len(self.sources) + control, other._single(control))

    @property
    def clock(self) -> int:
        """Samples worked on since the engine was made: the time of `at`. It never goes back."""
        return int(schedule.load_mark(self.controls.schedule.marks.ctypes.data + 8 * schedule.CLOCK))

    @contextmanager
    def together(self) -> Iterator[None]:
        """What is set inside takes effect in one and the same hop; the worker waits for nobody, it goes on with the old."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:
                    self._turn_hold()
                yield
            finally:
                if self._depth == 1:
                    self._turn_hold()
                self._depth -= 1

    def _turn_hold(self) -> None:
        schedule.store_mark(self.controls.hold.ctypes.data, int(self.controls.hold[0]) + 1)

    @contextmanager
    def at(self, position: int) -> Iterator[None]:
        """What this thread sets inside takes effect in the hop that holds `position` on `clock`, or the next if that is over.

        Raises
        ------
        ScheduleFullError
            too much waits already; nothing of it was taken.
        """
        changes: dict[int, float] = {}
        self._later.changes = changes
        try:
            yield
        finally:
            self._later.changes = None
        with self._lock:
            room = schedule.room(self.controls.schedule)
            if len(changes) > room:
                raise ScheduleFullError(f"changes={len(changes)} with room for {room}: expected fewer that wait for their time")
            schedule.put(self.controls.schedule, position, list(changes.items()))

    # ----------------------------------------------------------------------------------------------------------- helpers

    def _index(self, source: str) -> int:
        if source not in self.sources:
            raise ValueError(f"source {source!r} is unknown: expected one of {', '.join(self.sources)}")
        return self.sources.index(source)

    def _read(self, control: int) -> float:
        return float(self.controls.wanted[control])

    def _single(self, control: int) -> float:
        return self._read(3 * len(self.sources) + control)

    def _write(self, control: int, value: float) -> bool:
        changes = getattr(self._later, "changes", None)
        if changes is None:
            self.controls.wanted[control] = value
        else:
            changes[control] = float(value)
        return bool(value)

    def _set_decibels(self, control: int, db: float) -> float:
        if math.isnan(db):
            raise ValueError(f"gain={db} dB is not a number: expected {GAIN_DB[0]} to {GAIN_DB[1]}")
        db = min(max(float(db), GAIN_DB[0]), GAIN_DB[1])
        self._write(control, 10 ** (db / 20) if db > GAIN_DB[0] else 0.0)
        return db


def _decibels(linear: float) -> float:
    return 20 * math.log10(linear) if linear > 0 else GAIN_DB[0]
