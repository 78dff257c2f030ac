"""Many independent streams: what a hop of N of them costs, and how many hold their deadlines on one core, or on one GPU.

The same hop as the daemon's with as many streams (`batch`): each stream has its own windows, state and place in the song, and
all of them are due at the same time. N streams hold when 99 of 100 hops are done within one hop.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .. import batch, native
from ..batch import Batch
from ..model import Model
from .hops import ANALYSED, ANSWERED, BEGUN, DONE, DUE, BenchError, Times, figures, sleep_until
from .threads import in_realtime_thread, nothing

MOST = 4096  # streams
SEARCH_HOPS = 200
PRECISION = 16  # the search ends when it knows the answer to so large a part of it
STEP_DOWN = 0.95


@njit(nogil=True, cache=True)
def run(b, count, sound, period, clock, stamps, stop):  # type: ignore[no-untyped-def]
    """`hops.run` for the first `count` slots of the batch `b`; `sound` `[shape=(frames, channels)]` for each from elsewhere."""
    native.flush_denormals()
    batch.attend(b)
    hop = batch.at(b, 0).x.shape[1]
    length = sound.shape[0] - hop
    start = native.monotonic_ns(clock.gettime) + period
    for k in range(stamps.shape[0]):
        if stop[0]:
            break
        stamps[k, DUE] = start + k * period if period else native.monotonic_ns(clock.gettime)
        sleep_until(stamps[k, DUE], clock)
        for slot in range(count):
            first = (k * hop + slot * length // count) % length
            batch.at(b, slot).x[:] = sound[first : first + hop].T
            b.ready[slot] = slot
        stamps[k, BEGUN] = native.monotonic_ns(clock.gettime)
        batch.before_network(b, count)
        stamps[k, ANALYSED] = native.monotonic_ns(clock.gettime)
        batch.step(b, count)
        stamps[k, ANSWERED] = native.monotonic_ns(clock.gettime)
        batch.conclude(b, count)
        stamps[k, DONE] = native.monotonic_ns(clock.gettime)


class Streams:
    """Times of any number of streams of one model and format."""

    def __init__(self, model: Model, sample_rate: int, provider: str, sound: NDArray[np.float32]) -> None:
        self._model, self._rate, self._provider, self._sound = model, sample_rate, provider, sound
        self._batch: Batch | None = None

    def batch(self, count: int) -> Batch:
        """A batch with `count` slots or more, all of them present; one is kept."""
        if self._batch is None or self._batch.capacity < count:
            self._batch = Batch(self._model, [(self._rate, self._sound.shape[1])] * count, self._provider)
            for _ in range(count):
                self._batch.join()
        return self._batch

    @property
    def together(self) -> bool:
        """Whether one call of the network takes all streams."""
        return self.batch(1).together

    def measure(self, count: int, hops: int, paced: bool, tick: Callable[[], None] = nothing) -> Times:
        """Time stamps of `hops` hops of `count` streams.

        Raises
        ------
        BenchError
            a step of the network failed.
        """
        b = self.batch(count)
        stream = b.streams[0]
        period = 1_000_000_000 * stream.geometry.hop_length // self._rate
        stamps, clock = np.zeros((hops, 5), np.int64), native.clock()

        def hops_of(stop: NDArray[np.int64]) -> None:
            b.network.warm()
            run(b.compiled, count, self._sound, period if paced else 0, clock, stamps, stop)

        in_realtime_thread(hops_of, tick)
        if failed := sum(s.counts["failed_steps"] for s in b.streams[:count]):
            raise BenchError(f"{failed} of {hops * count} network steps failed: {b.error}")
        return Times(stamps, period)

    def largest(self, hops: int, tick: Callable[[], None] = nothing) -> tuple[int, dict[int, Times]]:
        """The largest number of streams that holds for `hops` paced hops (0: not even one), and all that were tried.

        Doubled until they do not hold, then narrowed down with a few hops each, then tried for all `hops`.
        """
        tried: dict[int, Times] = {}

        def hold(count: int, hops: int = SEARCH_HOPS) -> bool:
            tried[count] = self.measure(count, hops, True, tick)
            return holds(tried[count])

        good, bad = 0, 1
        while bad <= MOST and hold(bad):
            good, bad = bad, 2 * bad
        while bad - good > max(1, good // PRECISION) and bad <= MOST:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if hold(middle) else (good, middle)
        while good and not hold(good, hops):
            good = int(good * STEP_DOWN)
        return good, dict(sorted(tried.items()))


def holds(times: Times) -> bool:
    """Whether 99 of 100 hops were done within one hop."""
    return figures(times.between(DUE, DONE))["p99"] < times.period / 1e6


def row(count: int, times: Times) -> dict[str, object]:
    """The figures of `count` streams, ms; `hop_ms` is all of them together, `per_stream_ms` the median's share of one.

    `response_ms` is from when it was due to when it was done: that is what holds, or does not.
    """
    hop = figures(times.hop())
    return {
        "streams": count,
        "hop_ms": hop,
        "step_ms": figures(times.stages()["network"]),
        "response_ms": figures(times.between(DUE, DONE)),
        "per_stream_ms": round(hop["p50"] / count, 5),
        "late": times.late(),
        "hops": len(times.stamps),
        "holds": holds(times),
    }
