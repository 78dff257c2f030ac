"""The hand-over: from the moment a block comes in to the moment its hop is on the output ring, in the real live path.

`Live` with its two threads, its rings and its worker, as in the daemon; only the device is one that notes when each of its
blocks came. Its blocks are one hop long and come at even distances, so block k brings hop k, and the worker's meters tell
when it was begun and done. What is neither analysis, network nor synthesis is the hand-over: the worker wakes up and takes
the hop off the ring.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .. import meters, native
from ..channelmap import Routes
from ..engine import Separator
from ..live import Latency, Live
from ..rings import IN_WRITE, STOP, WHEN, Rings, exchange, position
from .hops import BenchError, sleep_until
from .threads import nothing

SPARE = 8  # blocks after the last that is counted, so that its hop is done
LOOK = 0.2  # s between two looks at the meters


@njit(nogil=True, cache=True)
def play(rings, sound, heard, period, clock, arrivals):  # type: ignore[no-untyped-def]
    """Exchange blocks like `heard` `[shape=(frames, out_channels)]` with the rings, one each `period` ns.

    `arrivals` gets when each block came that counted, ns; when it is full, or at STOP, all is over.
    """
    header, block = rings.header, heard.shape[0]
    due, count = native.monotonic_ns(clock.gettime), 0
    while count < arrivals.size and position(header, STOP) == 0:
        before = header[IN_WRITE]
        first = before % (sound.shape[0] - block)
        exchange(header, rings.inward, rings.outward, sound[first : first + block], heard)
        if header[IN_WRITE] > before:
            arrivals[count] = header[WHEN]
            count += 1
        due = max(due + period, native.monotonic_ns(clock.gettime))
        sleep_until(due, clock)


class PacedDevice:
    """A sound card that plays `sound` `[shape=(frames, channels)]` round and round, in blocks of one hop, by the clock."""

    name, steady, latency = "benchmark", True, 0.0
    routes: Routes | None = None

    def __init__(self, sound: NDArray[np.float32], sample_rate: int, block: int, out_channels: int, blocks: int) -> None:
        self.sample_rate, self.in_channels, self.out_channels = sample_rate, sound.shape[1], out_channels
        self.arrivals = np.zeros(blocks, np.int64)
        self._sound, self._heard = sound, np.zeros((block, out_channels), np.float32)
        self._thread: threading.Thread | None = None
        self._rings: Rings | None = None

    def start(self, rings: Rings) -> None:
        """Start the clock."""
        self._rings = rings
        self._thread = threading.Thread(target=self._run, args=(rings,), name="streamsep-paced")
        self._thread.start()

    def _run(self, rings: Rings) -> None:
        native.become_realtime(native.FILE_PRIORITY)
        period = 1_000_000_000 * len(self._heard) // self.sample_rate
        play(rings, self._sound, self._heard, period, native.clock(), self.arrivals)

    def stop(self) -> None:
        """Stop it."""
        if self._thread and self._rings:
            self._rings.header[STOP] = 1
            self._thread.join()
            self._thread = None

    def set_latency(self, samples: int) -> None:
        """Nobody asks."""

    @property
    def finished(self) -> bool:
        """True when all blocks have been played."""
        return self._thread is not None and not self._thread.is_alive()


class Handover(NamedTuple):
    """What the live path did: `waiting` and `work` of each hop, ms; its latency; the daemon's own report."""

    waiting: NDArray[np.float64]  # from the block's arrival to the beginning of the work
    work: NDArray[np.float64]  # all of the worker's work on the hop, the output ring included
    latency: Latency
    realtime: bool
    report: dict[str, Any]


def measure(
    separator: Separator, sound: NDArray[np.float32], hops: int, tick: Callable[[], None] = nothing, rehearse: bool = False
) -> Handover:
    """Run `hops` hops of `sound` `[shape=(frames, channels)]` through the live path; `rehearse` as `Live` has it.

    Raises
    ------
    BenchError
        hops were lost: the machine stood still for a second.
    """
    block = separator.geometry.hop_length
    device = PacedDevice(sound, separator.sample_rate, block, 2 * len(separator.sources), hops + SPARE)
    live = Live(separator, device, rehearse=rehearse)
    live.prepare()
    reader = meters.Reader(live.meters)
    times = []
    try:
        latency = live.open()
        live.start()
        while not device.finished:
            time.sleep(LOOK)
            times.append(reader.read().times)
            tick()
        realtime = live.realtime
    finally:
        live.stop()
    report = live.report()
    done = np.concatenate([*times, reader.read().times])[:hops]
    if report["lost"] or len(done) < hops:
        raise BenchError(
            f"only {len(done)} of {hops} hops came through the live path: something held the machine up; try again"
        )
    begun, work = done[:, meters.START], done[:, meters.STEP]
    return Handover((begun - device.arrivals[:hops]) / 1e6, work / 1e6, latency, realtime, report)
