"""The memory floor: how long it takes to do nothing with the weights but read them.

A recurrent network with one stream uses every weight once a step: a multiply and an add for each number that has come from
memory. No step can be faster than that, so the time of a compiled loop that adds up an array of the weights' size, one
thread, nothing else, is what a step is held against.

    warm   again and again: what the caches hold stays there
    cold   as a daemon finds them: others have used the caches since (here: a buffer larger than the last of them is swept),
           the thread has slept, and then the weights are read

The floor is measured in the process, thread class and minute of the figures it is held against. It knows no network.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .. import native
from .machine import last_cache_bytes
from .threads import in_realtime_thread, nothing

WARM, COLD = 400, 60  # readings
MOST_SWEPT = 1 << 30  # bytes
READ_AT_MOST = 16 << 30  # bytes in all the warm readings: large models are read less often


@njit(nogil=True, cache=True)
def add_up(words):  # type: ignore[no-untyped-def]
    """The sum of `words` `[shape=(n,)]`, int64: the compiler makes vector loads of it, and drops none."""
    total = np.int64(0)
    for i in range(words.size):
        total += words[i]
    return total


@njit(nogil=True, cache=True)
def read_warm(words, clock, times, stop):  # type: ignore[no-untyped-def]
    """Read `words` again and again; `times` `[shape=(readings,)]` gets ns. The sum, so that the reading is not left out."""
    total = add_up(words)
    for k in range(times.size):
        if stop[0]:
            break
        start = native.monotonic_ns(clock.gettime)
        total += add_up(words)
        times[k] = native.monotonic_ns(clock.gettime) - start
    return total


@njit(nogil=True, cache=True)
def read_cold(words, others, clock, gap, times, stop):  # type: ignore[no-untyped-def]
    """The same, each time after `others` were read and `gap` ns of sleep."""
    total = np.int64(0)
    for k in range(times.size):
        if stop[0]:
            break
        total += add_up(others)
        native.sleep_ns(clock.nanosleep, gap)
        start = native.monotonic_ns(clock.gettime)
        total += add_up(words)
        times[k] = native.monotonic_ns(clock.gettime) - start
    return total


class Floor:
    """The floor of `size` bytes of weights, cold after `gap` ns of sleep; every call of `measure` adds readings."""

    def __init__(self, size: int, gap: int) -> None:
        self.bytes, self._gap = size, gap
        self._words = np.ones(max(1, size // 8), np.int64)
        self._warm: list[NDArray[np.int64]] = []
        self._cold: list[NDArray[np.int64]] = []

    def measure(self, tick: Callable[[], None] = nothing) -> None:
        """Read warm and cold, in a thread like the worker's."""
        others = np.ones(min(max(3 * last_cache_bytes(), 64 << 20), MOST_SWEPT) // 8, np.int64)
        warm = np.zeros(max(10, min(WARM, READ_AT_MOST // max(self.bytes, 1))), np.int64)
        cold = np.zeros(COLD, np.int64)
        clock = native.clock()

        def readings(stop: NDArray[np.int64]) -> None:
            read_warm(self._words, clock, warm, stop)
            read_cold(self._words, others, clock, self._gap, cold, stop)

        in_realtime_thread(readings, tick)
        self._warm.append(warm)
        self._cold.append(cold)

    def ms(self) -> dict[str, float]:
        """Median times of reading the weights once, `warm` and `cold`, ms."""
        return {
            name: round(float(np.median(np.concatenate(times))) / 1e6, 5)
            for name, times in (("warm", self._warm), ("cold", self._cold))
        }

    def bandwidth(self) -> dict[str, float]:
        """The same as GB/s."""
        return {name: round(self.bytes / ms / 1e6, 1) if ms else 0.0 for name, ms in self.ms().items()}
