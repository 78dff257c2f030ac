"""How many streams one core carries: what a hop of N streams costs, and the largest N whose 99th percentile is below the hop.

It measures and judges; it prints nothing. One thread, compiled, without the GIL, as a worker runs it. The sound is noise at
many levels, another for each stream: what a hop costs does not depend on what is heard.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from . import batch, native, stats
from .batch import Batch
from .model import Model

STAGES = ("stft", "network", "inverse")
_WARM = 20  # hops that are not counted
_MOST = 1024


@dataclass(frozen=True)
class Cost:
    """What a hop of `streams` streams costs, ms; `summary`s have p50, p99, p99.9 and max."""

    streams: int
    hops: int
    deadline_ms: float
    paced: bool
    together: bool  # whether the network took all in one call
    late: int  # paced: hops that were not done within the deadline
    whole_ms: dict[str, float]
    stages_ms: dict[str, dict[str, float]]

    @property
    def holds(self) -> bool:
        """Whether 99 of 100 hops were done within the deadline."""
        return self.whole_ms["p99"] < self.deadline_ms

    @property
    def per_stream_ms(self) -> float:
        """The median's share of one stream."""
        return self.whole_ms["p50"] / self.streams


def make(model: Model, streams: int, sample_rate: int = 48_000, channels: int = 2, provider: str = "cpu") -> Batch:
    """A batch with all slots joined and noise in their inputs."""
    made = Batch(model, [(sample_rate, channels)] * streams, provider)
    random = np.random.default_rng(0)
    for slot in range(streams):
        made.join(slot)
    batch.attend(made.compiled)
    for stream in made.streams:
        stream.state.x[:] = random.normal(0, 10 ** random.uniform(-3, -0.5), stream.state.x.shape)
    return made


def measure(made: Batch, hops: int = 500, paced: bool = False) -> Cost:
    """What a hop of all slots of `made` costs, back to back or one every hop's time."""
    stream = made.streams[0]
    deadline_ns = 1_000_000_000 * stream.geometry.hop_length // stream.sample_rate
    clock = native.clock()
    for count in (_WARM, hops):
        stages, whole = np.array([stats.histogram() for _ in STAGES]), stats.histogram()
        late = batch.step_all(made.compiled, count, clock, deadline_ns if paced else 0, stages, whole)
    return Cost(
        streams=made.capacity,
        hops=hops,
        deadline_ms=deadline_ns / 1e6,
        paced=paced,
        together=made.together,
        late=late,
        whole_ms=stats.summary(whole),
        stages_ms={name: stats.summary(histogram) for name, histogram in zip(STAGES, stages, strict=True)},
    )


def largest(cost: Callable[[int], Cost], most: int = _MOST) -> list[Cost]:
    """All that was measured on the way to the largest number of streams that holds (the last in the list that does).

    `cost(n)` measures n streams. Doubled until it fails, then halved between; some ten measurements.
    """
    found = [cost(1)]
    good, bad = (1, 0) if found[-1].holds else (0, 1)
    while not bad and good < most:
        found.append(cost(min(2 * good, most)))
        good, bad = (found[-1].streams, 0) if found[-1].holds else (good, found[-1].streams)
    while bad - good > max(1, good // 20):
        found.append(cost((good + bad) // 2))
        good, bad = (found[-1].streams, bad) if found[-1].holds else (good, found[-1].streams)
    return sorted(found, key=lambda c: c.streams)
