"""Hop after hop through the worker's own functions, with a look at the clock between them.

`run` does what `worker.turn` does with a hop that came in time: take it off the ring, analysis, network step, masks and
inverse transform, put it on the ring. It calls the same compiled functions and has nothing of its own but the clock. Paced,
hops are due at even distances from the start, and the thread sleeps in between; a hop that took too long does not move the
others. Back to back, one follows the other at once: caches stay warm and nobody sleeps, which flatters.

Time stamps go into an array that was made before; nothing is allocated, and Python is not needed meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .. import StreamsepError, engine, native, ort
from ..engine import Separator
from ..rings import make_rings, put, record, take
from ..worker import dry_runs, lead
from .threads import in_realtime_thread, nothing

DUE, BEGUN, ANALYSED, ANSWERED, DONE = range(5)
STAGES = {"stft": (BEGUN, ANALYSED), "network": (ANALYSED, ANSWERED), "masks_istft": (ANSWERED, DONE)}
LONGEST_SLEEP = 100_000_000  # ns


class BenchError(StreamsepError):
    """A benchmark cannot be run here, or what it ran failed."""


@njit(nogil=True, cache=True)
def run(s, step, rings, sound, period, rehearse, clock, stamps, stop):  # type: ignore[no-untyped-def]
    """As many hops of `sound` `[shape=(frames, channels)]` as `stamps` `[shape=(hops, 5)]` has rows, one each `period` ns.

    `period` 0: back to back. `rehearse`: with dry runs before each, as `worker.rehearse`. `stamps` gets ns of the monotonic
    clock.
    """
    native.flush_denormals()
    hop = s.x.shape[1]
    start, takes = native.monotonic_ns(clock.gettime) + period, period // 8
    for k in range(stamps.shape[0]):
        if stop[0]:
            break
        first = k * hop % (sound.shape[0] - hop)
        stamps[k, DUE] = start + k * period if period else native.monotonic_ns(clock.gettime)
        if rehearse:
            sleep_until(stamps[k, DUE] - lead(takes, period), clock)
            takes = dry_runs(step, rings.header, hop, takes, stamps[k, DUE], clock)
        sleep_until(stamps[k, DUE], clock)
        record(rings.header, rings.inward, sound[first : first + hop], hop)
        take(rings, s.x)
        stamps[k, BEGUN] = native.monotonic_ns(clock.gettime)
        engine.before_network(s)
        stamps[k, ANALYSED] = native.monotonic_ns(clock.gettime)
        stepped = ort.step(step)
        stamps[k, ANSWERED] = native.monotonic_ns(clock.gettime)
        if not engine.after_network(s, stepped):
            step.turn[0] = ort.FROM_ZERO
        put(rings, s.y)
        stamps[k, DONE] = native.monotonic_ns(clock.gettime)


@njit(nogil=True, cache=True)
def sleep_until(due, clock):  # type: ignore[no-untyped-def]
    """Sleep until `due` (ns of the monotonic clock), which may have passed."""
    wait = due - native.monotonic_ns(clock.gettime)
    while wait > 0:
        native.sleep_ns(clock.nanosleep, min(wait, LONGEST_SLEEP))
        wait = due - native.monotonic_ns(clock.gettime)


class Times(NamedTuple):
    """Time stamps of hops `[shape=(hops, 5)]`, ns, and the time between two, ns."""

    stamps: NDArray[np.int64]
    period: int

    def between(self, first: int, last: int) -> NDArray[np.float64]:
        """From one stamp to another, ms, for each hop."""
        return (self.stamps[:, last] - self.stamps[:, first]) / 1e6

    def stages(self) -> dict[str, NDArray[np.float64]]:
        """ms of each stage for each hop; they follow each other without a gap."""
        return {name: self.between(*stamps) for name, stamps in STAGES.items()}

    def hop(self) -> NDArray[np.float64]:
        """ms of all of a hop's work."""
        return self.between(BEGUN, DONE)

    def without_network(self) -> NDArray[np.float64]:
        """ms of a hop's work that is not the network's."""
        return self.hop() - self.between(*STAGES["network"])

    def late(self) -> int:
        """Hops that were not done one period after they were due."""
        return int((self.stamps[:, DONE] - self.stamps[:, DUE] > self.period).sum())


def measure(
    separator: Separator,
    sound: NDArray[np.float32],
    hops: int,
    paced: bool,
    tick: Callable[[], None] = nothing,
    rehearse: bool = False,
) -> Times:
    """Time stamps of `hops` hops through `separator`, which must be `native`; its state is reset before.

    `rehearse`: paced ones with dry runs before each.

    Raises
    ------
    BenchError
        a step of the network failed.
    """
    outputs = len(separator.sources) * separator.channels
    length = separator.geometry.hop_length
    rings = make_rings(8 * length, separator.channels, outputs, outputs)
    stamps = np.zeros((hops, 5), np.int64)
    period, clock = 1_000_000_000 * length // separator.sample_rate, native.clock()
    step = separator.network.compiled  # type: ignore[union-attr]
    separator.reset()

    def hops_of(stop: NDArray[np.int64]) -> None:
        separator.network.warm()
        run(separator.state, step, rings, sound, period if paced else 0, paced and rehearse, clock, stamps, stop)

    in_realtime_thread(hops_of, tick)
    if separator.counts["failed_steps"]:
        raise BenchError(f"{separator.counts['failed_steps']} of {hops} network steps failed: {separator.error}")
    return Times(stamps, period)


def figures(ms: NDArray[np.float64]) -> dict[str, float]:
    """p50, p99, p99.9, maximum and mean of times, ms: the least that so many percent of them do not exceed."""
    ranked = np.sort(ms)
    places = {q: max(0, math.ceil(len(ranked) * q / 100) - 1) for q in (50, 99, 99.9)}
    found = {f"p{q:g}": float(ranked[place]) for q, place in places.items()}
    found |= {"max": float(ranked[-1]), "mean": float(ranked.mean())}
    return {name: round(value, 5) for name, value in found.items()}
