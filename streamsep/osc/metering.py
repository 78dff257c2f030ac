"""Meters for whoever subscribes: levels, clips and step times, at the rate that each asked for.

The worker writes down every hop (`streamsep.meters`); here that history is summed up since the last look, so that no peak
falls between two looks. All of one look goes out as one bundle: a packet a tick, and nobody shows half of it.

This module knows no address but those of its own messages, and no socket.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

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


@dataclass(eq=False)
class Watcher(Lease):
    """One subscription."""

    period: float = 0.0  # s
    due: float = 0.0  # s on the clock
    heard: float = 0.0  # s on the clock, when hops were last seen
    reader: meters.Reader | None = None


def decibels(linear: float) -> float:
    """dBFS of a linear level, `FLOOR` at least."""
    return max(FLOOR, 20 * math.log10(linear)) if linear > 0 else FLOOR


class Metering:
    """The subscriptions to the meters, and the clips held for all of them."""

    def __init__(self, server: OscServer, clock: Callable[[], float]) -> None:
        self.watchers: Leases[Watcher] = Leases("meter", MOST, clock)
        self._server, self._clock = server, clock
        self.attach(server.meters)

    def attach(self, history: Meters) -> None:
        """Another engine: its meters from now on, for everybody, with no clip held."""
        self._meters = history
        for watcher in self.watchers:
            watcher.reader = meters.Reader(history)
        self.reset()

    def reset(self) -> None:
        """Let go of the clips that are held."""
        self._forgiven = self._meters.clipped.copy()

    @property
    def clips(self) -> NDArray[np.bool_]:
        """Whether each column clipped since `reset`, `[shape=(sources + 2,)]`."""
        return self._meters.clipped > self._forgiven

    def subscribe(self, owner: Client, destination: Client, rate: float) -> None:
        """Send the meters there, `rate` times a second, while the lease lasts; ValueError where there are too many."""
        now = self._clock()
        reader = meters.Reader(self._meters)
        self.watchers.add(Watcher(owner, destination, period=1 / rate, due=now, heard=now, reader=reader))

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
        assert watcher.reader
        span = watcher.reader.read()
        if len(span.times):
            watcher.heard = now
        elif now - watcher.heard < STALE:
            return  # a device with long blocks: the last look still holds
        self._server.post(self._packet(span), watcher.destination)

    @property
    def _late(self) -> int:
        """Late hops so far."""
        return int(self._meters.times[(int(self._meters.hops[0]) - 1) % meters.HOPS, meters.LATE])

    def _packet(self, span: meters.Span) -> bytes:
        hops = len(span.times)
        peaks = span.peak.max(axis=0) if hops else np.zeros(span.peak.shape[1])
        rms = np.sqrt(span.square.mean(axis=0, dtype=np.float64)) if hops else peaks
        names = [f"/source/{source}" for source in self._server.separator.sources] + ["/input", "/output"]
        step = span.times[:, meters.STEP].max() / 1e6 if hops else 0.0
        levels = zip(names, peaks, rms, self.clips, strict=True)
        return bundle(
            [
                *(build(METER + n, [decibels(float(p)), decibels(float(r)), int(clip)]) for n, p, r, clip in levels),
                build(f"{METER}/step", [float(step), self._late, hops]),
            ]
        )
