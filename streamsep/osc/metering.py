"""Meters for whoever subscribes: levels, clips and step times, at the rate that each asked for.

The worker writes down every hop (`streamsep.meters`); here that history is summed up since the last look, so that no peak
falls between two looks. All of one look goes out as one bundle: a packet a tick, and nobody shows half of it.

This module knows no address but those of its own messages, and no socket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .. import meters
from ..meters import Meters
from .client import Client
from .leases import Lease, Leases
from .wire import build, bundle

if TYPE_CHECKING:
    from .server import OscServer

RATE = (1.0, 60.0)  # Hz
MOST = 32  # listeners
TICK = 0.004  # s; how exactly a rate is kept
FLOOR = -144.0  # dBFS: silence
STALE = 0.25  # s without a hop: the levels fall to silence
METER = "/streamsep/meter"
STREAM_METER = "/streamsep/stream/<n>/meter"


@dataclass(eq=False)
class Watcher(Lease):
    """One subscription."""

    period: float = 0.0  # s
    due: float = 0.0  # s on the clock
    heard: float = 0.0  # s on the clock, when hops were last seen
    readers: list[meters.Reader] = field(default_factory=list)  # of each of `Metering.histories`


def decibels(linear: float) -> float:
    """dBFS of a linear level, `FLOOR` at least."""
    return max(FLOOR, 20 * math.log10(linear)) if linear > 0 else FLOOR


class Metering:
    """The subscriptions to the meters, and the clips held for all of them."""

    def __init__(self, server: OscServer, clock: Callable[[], float]) -> None:
        self.watchers: Leases[Watcher] = Leases("meter", MOST, clock)
        self._server, self._clock = server, clock
        self.attach()

    def attach(self) -> None:
        """The server has another engine: its meters from now on, for everybody, with no clip held.

        `histories` are those of each stream with where they are told; without streams the only one.
        """
        lines = self._server.lines
        numbered = [(STREAM_METER.replace("<n>", str(n)), line.meters) for n, line in enumerate(lines, 1)]
        self.histories: list[tuple[str, Meters]] = [(METER, self._server.meters), *numbered]
        for watcher in self.watchers:
            watcher.readers = self._readers()
        self.reset()

    def _readers(self) -> list[meters.Reader]:
        return [meters.Reader(history) for _, history in self.histories]

    def reset(self) -> None:
        """Let go of the clips that are held."""
        self._forgiven = [history.clipped.copy() for _, history in self.histories]

    def subscribe(self, owner: Client, destination: Client, rate: float) -> None:
        """Send the meters there, `rate` times a second, while the lease lasts; ValueError where there are too many."""
        now = self._clock()
        self.watchers.add(Watcher(owner, destination, period=1 / rate, due=now, heard=now, readers=self._readers()))

    def tick(self) -> bool:
        """Send what is due; whether anybody watches."""
        now = self._clock()
        watchers = list(self.watchers)
        for watcher in watchers:
            if now >= watcher.due:
                watcher.due = max(watcher.due + watcher.period, now)
                self._serve(watcher, now)
        return bool(watchers)

    def _serve(self, watcher: Watcher, now: float) -> None:
        spans = [reader.read() for reader in watcher.readers]
        if any(len(span.times) for span in spans):
            watcher.heard = now
        elif now - watcher.heard < STALE:
            return  # a device with long blocks: the last look still holds
        self._server.post(self._packet(spans), watcher.destination)

    @property
    def _late(self) -> int:
        """Late hops so far."""
        return max(int(h.times[(int(h.hops[0]) - 1) % meters.HOPS, meters.LATE]) for _, h in self.histories)

    def _packet(self, spans: list[meters.Span]) -> bytes:
        step = max((int(span.times[:, meters.STEP].max()) for span in spans if len(span.times)), default=0)
        hops = max(len(span.times) for span in spans)
        messages = [message for n, span in enumerate(spans) for message in self._levels(n, span)]
        return bundle([*messages, build(f"{METER}/step", [step / 1e6, self._late, hops])])

    def _levels(self, n: int, span: meters.Span) -> list[bytes]:
        """The levels of `span`, of `histories[n]`, each in a message."""
        where, history = self.histories[n]
        hops = len(span.times)
        peaks = span.peak.max(axis=0) if hops else np.zeros(span.peak.shape[1])
        rms = np.sqrt(span.square.mean(axis=0, dtype=np.float64)) if hops else peaks
        clips = history.clipped > self._forgiven[n]
        names = [f"/source/{source}" for source in self._server.separator.sources] + ["/input", "/output"]
        levels = zip(names, peaks, rms, clips, strict=True)
        return [build(where + name, [decibels(float(p)), decibels(float(r)), int(clip)]) for name, p, r, clip in levels]
