"""What the worker saw of each hop: levels and times, in a ring that anybody may read beside it.

One line for a hop, written by compiled code after the hop has gone out (`record`):

    peak     largest |sample| of each column, linear; 1.0 is full scale
    square   mean square of each column over samples and channels; its square root is the RMS
    times    START and STEP: when the worker began it (ns, monotonic clock) and how long it took (ns)
             POSITION: the engine's clock at its first sample, frames; never goes back (see `schedule`)
             LATE: how many hops have been late so far, this one included

The columns are the sources after their gains, then the input, then the output: the sources' sum, as it is mixed. `clipped`
counts, for each column, the samples at or over full scale since the start, so that a clip between two looks is not missed.

Readers keep their own place (`Reader`); who looks too seldom sees the newest half of the ring. This module knows no thread,
no socket, no unit but these, and not who looks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .native import load_acquire, store_release
from .schedule import CLOCK

HOPS = 8192  # kept: a minute of the live preset
START, STEP, POSITION, LATE = range(4)


class Meters(NamedTuple):
    """The history: line n of hop n modulo `HOPS`."""

    hops: NDArray[np.int64]  # [shape=(1,)]: hops written so far; published after the line
    peak: NDArray[np.float32]  # [shape=(HOPS, sources + 2)]
    square: NDArray[np.float32]  # [shape=(HOPS, sources + 2)]
    times: NDArray[np.int64]  # [shape=(HOPS, 4)]
    clipped: NDArray[np.int64]  # [shape=(sources + 2,)]


def make_meters(sources: int) -> Meters:
    """An empty history for an engine of so many sources."""
    columns = sources + 2
    return Meters(
        hops=np.zeros(1, np.int64),
        peak=np.zeros((HOPS, columns), np.float32),
        square=np.zeros((HOPS, columns), np.float32),
        times=np.zeros((HOPS, 4), np.int64),
        clipped=np.zeros(columns, np.int64),
    )


def clear(meters: Meters) -> None:
    """Forget all; only while no worker runs."""
    for array in meters:
        array[:] = 0


# ------------------------------------------------------------------------------------------------------------ worker side


@njit(nogil=True, cache=True)
def record(m, s, start, end, late):  # type: ignore[no-untyped-def]
    """The hop that the engine's state `s` has just finished, begun at `start` and done at `end` (ns, monotonic clock)."""
    count = m.hops[0]
    line = count % HOPS
    sources = s.y.shape[0]
    for i in range(sources):
        measure(m, line, i, s.y[i])
    measure(m, line, sources, s.x)
    measure_sum(m, line, sources + 1, s.y)
    m.times[line, START] = start
    m.times[line, STEP] = end - start
    m.times[line, POSITION] = s.controls.schedule.marks[CLOCK] - s.x.shape[1]
    m.times[line, LATE] = late
    store_release(m.hops.ctypes.data, count + 1)


@njit(nogil=True, cache=True)
def measure(m, line, column, x):  # type: ignore[no-untyped-def]
    """Peak, mean square and clips of `x` `[shape=(channels, hop)]` into one column."""
    peak = np.float32(0)
    square = np.float32(0)
    clips = np.int64(0)
    for c in range(x.shape[0]):
        for n in range(x.shape[1]):
            value = abs(x[c, n])
            peak = max(peak, value)
            square += value * value
            clips += value >= 1
    m.peak[line, column] = peak
    m.square[line, column] = square / x.size
    m.clipped[column] += clips


@njit(nogil=True, cache=True)
def measure_sum(m, line, column, y):  # type: ignore[no-untyped-def]
    """The same for the sum of the sources `y` `[shape=(sources, channels, hop)]`."""
    peak = np.float32(0)
    square = np.float32(0)
    clips = np.int64(0)
    for c in range(y.shape[1]):
        for n in range(y.shape[2]):
            total = np.float32(0)
            for i in range(y.shape[0]):
                total += y[i, c, n]
            value = abs(total)
            peak = max(peak, value)
            square += value * value
            clips += value >= 1
    m.peak[line, column] = peak
    m.square[line, column] = square / (y.shape[1] * y.shape[2])
    m.clipped[column] += clips


@njit(nogil=True, cache=True)
def written(m):  # type: ignore[no-untyped-def]
    """Hops written so far; their lines can be read."""
    return load_acquire(m.hops.ctypes.data)


# ------------------------------------------------------------------------------------------------------------ reader side


class Span(NamedTuple):
    """Some hops that follow each other, oldest first; copies, nobody writes to them."""

    first: int  # the number of the first hop since the start
    peak: NDArray[np.float32]  # [shape=(hops, sources + 2)]
    square: NDArray[np.float32]  # [shape=(hops, sources + 2)]
    times: NDArray[np.int64]  # [shape=(hops, 4)]


class Reader:
    """Reads what has come since it last read; begins with what comes next."""

    def __init__(self, meters: Meters) -> None:
        self.meters = meters
        self.place = int(written(meters))

    def read(self) -> Span:
        """The hops since the last call, the newest `HOPS` // 2 at most."""
        m = self.meters
        end = int(written(m))
        first = max(min(self.place, end), end - HOPS // 2)  # the other half is the writer's: it does not catch us up
        self.place = end
        lines = np.arange(first, end) % HOPS
        return Span(first, m.peak[lines], m.square[lines], m.times[lines])


def clock_of(meters: Meters, sample_rate: int, now: int, look: int = 64) -> float | None:
    """The engine's clock, frames, at the time `now` (ns, monotonic); None when no hop was begun in the last second.

    Blocks come when they can, never early: of the last `look` hops the least delayed one tells the time.
    """
    end = int(written(meters))
    times = meters.times[np.arange(max(0, end - look), end) % HOPS]
    times = times[now - times[:, START] < 1_000_000_000]
    if not len(times):
        return None
    ahead = times[:, POSITION] - (times[:, START] - now) * (sample_rate / 1e9)
    return float(ahead.max())
