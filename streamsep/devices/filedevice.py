"""A sound file played in real time as if it were a device: the same rings, the same blocks, a clock of its own.

What comes out is kept in an array. The demo, the tests and the benchmarks run on it, and whoever has a file and no sound card.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
from numba import njit

from .. import native
from ..channelmap import Routes
from ..rings import ARMED, STOP, Rings, exchange, position
from ..soundfiles import read

TAIL_SECONDS = 0.5  # silence played after the file, for the delay to run out


@njit(nogil=True, cache=True)
def pace(rings, source, sink, block, sample_rate, clock, done):  # type: ignore[no-untyped-def]
    """Exchange `source` and `sink` `[shape=(frames, channels)]` with the rings block by block, in real time by the clock.

    Blocks come at their time whether the worker is ready or not, as from a sound card. A clock that was held up goes on from
    there: blocks never come closer together than a period. `done[0]` is the frames exchanged.
    """
    silence = np.zeros((block, source.shape[1]), np.float32)
    unheard = np.zeros((block, sink.shape[1]), np.float32)
    period = block * 1_000_000_000 // sample_rate
    next_time = native.monotonic_ns(clock.gettime)
    start = 0
    while start < sink.shape[0] and position(rings.header, STOP) == 0:
        armed = position(rings.header, ARMED) != 0
        if armed:
            end = min(start + block, sink.shape[0])
            exchange(rings.header, rings.inward, rings.outward, source[start:end], sink[start:end])
            start = end
            done[0] = end
        else:
            exchange(rings.header, rings.inward, rings.outward, silence, unheard)
        next_time = max(next_time + period, native.monotonic_ns(clock.gettime))
        wait = next_time - native.monotonic_ns(clock.gettime)
        while wait > 0:
            native.sleep_ns(clock.nanosleep, min(wait, 100_000_000))
            wait = next_time - native.monotonic_ns(clock.gettime)


def pace_in_python(rings: Rings, source, sink, block: int, sample_rate: int, done) -> None:  # type: ignore[no-untyped-def]
    """`pace` where the C library's clock cannot be called."""
    silence, unheard = (np.zeros((block, x.shape[1]), np.float32) for x in (source, sink))
    next_time, start = time.monotonic(), 0
    while start < len(sink) and not rings.header[STOP]:
        x, y = silence, unheard
        if rings.header[ARMED]:
            end = min(start + block, len(sink))
            x, y = source[start:end], sink[start:end]
            start = end
        exchange(rings.header, rings.inward, rings.outward, x, y)
        done[0] = start
        next_time = max(next_time + block / sample_rate, time.monotonic())
        time.sleep(max(0.0, next_time - time.monotonic()))


class FileDevice:
    """A sound file played in real time, with a clock of its own, into the array `played` `[shape=(frames, channels)]`.

    Raises
    ------
    AudioFileError
        the file cannot be read, or is empty.
    """

    steady = True
    routes: Routes | None = None

    def __init__(self, path: Path, block: int, hop_seconds: float, sources: int) -> None:
        sound, self.sample_rate = read(path)
        samples = sound.T
        self.name = str(path)
        self.block = block or round(hop_seconds * self.sample_rate)
        self.in_channels = samples.shape[1]
        self.out_channels = 2 * sources
        self.frames = len(samples)
        tail = np.zeros((int(TAIL_SECONDS * self.sample_rate), self.in_channels), np.float32)
        self._source = np.ascontiguousarray(np.concatenate([samples, tail]))
        self.played = np.zeros((len(self._source), self.out_channels), np.float32)
        self._done = np.zeros(1, np.int64)
        self._thread: threading.Thread | None = None
        self._rings: Rings | None = None

    def start(self, rings: Rings) -> None:
        """Start the clock."""
        self._rings = rings
        self._thread = threading.Thread(target=self._pace, args=(rings,), name="streamsep-file", daemon=True)
        self._thread.start()

    def _pace(self, rings: Rings) -> None:
        if not native.AVAILABLE:
            pace_in_python(rings, self._source, self.played, self.block, self.sample_rate, self._done)
            return
        native.become_realtime(native.FILE_PRIORITY)
        pace(rings, self._source, self.played, self.block, self.sample_rate, native.clock(), self._done)

    def stop(self) -> None:
        """Stop the clock."""
        if self._thread and self._rings:
            self._rings.header[STOP] = 1
            self._thread.join()
            self._thread = None

    def set_latency(self, samples: int) -> None:
        """Nobody asks a file."""

    @property
    def latency(self) -> float:
        """A file has none."""
        return 0.0

    @property
    def finished(self) -> bool:
        """True when the file and its tail have been played."""
        return self._thread is not None and not self._thread.is_alive()

    @property
    def position(self) -> int:
        """Frames exchanged so far."""
        return int(self._done[0])
