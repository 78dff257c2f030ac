"""The live path: device -> ring -> worker -> ring -> device, with a delay that is known before the first sound.

The worker is one thread inside one compiled function: it takes hops off the input ring, separates them, mixes, and puts them
on the output ring. Python starts and stops it, and is not needed in between.

How long the output ring must be filled ahead (`prefill`, frames) for block B, hop H and g = gcd(B, H): a callback asks for
B frames in the very call that brings B, so the frames of that call cannot help it; of those before, up to H - g have not yet
made a whole hop. That is B + H - g. Blocks smaller than a hop would leave the engine less than a hop's time to compute; what
is missing, H - B, is added. The engine's own delay S counts one hop of gathering, so the hand-over adds prefill - H.

That holds for blocks at even distances, as JACK's are. Sound systems behind plugins (ALSA's for PulseAudio and PipeWire)
deliver them in bursts: there the first blocks, still silent, are watched, and what they come apart is added in whole blocks.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from numba import njit

from . import StreamsepError, engine, meters, native, stats
from .engine import Separator
from .rings import (
    CALLS,
    EARLIEST,
    GETTIME,
    INPUT_XRUNS,
    LATE,
    LATEST,
    LOST,
    MAX_BLOCK,
    MISSED,
    OBSERVE,
    OUTPUT_XRUNS,
    RUNNING,
    SAMPLE_RATE,
    STOP,
    Rings,
    arm,
    clear,
    make_rings,
    position,
    publish,
    put,
    take,
)

SETTLE_SECONDS, OBSERVE_SECONDS = 0.3, 1.0
RING_SECONDS = 1.0  # how long a worker may be held up before input is lost


class LiveError(StreamsepError):
    """The live path cannot start."""


class Device(Protocol):
    """What the live path asks of a device (see `device`)."""

    name: str
    sample_rate: int
    in_channels: int
    out_channels: int
    steady: bool  # whether blocks come at even distances by design

    def start(self, rings: Rings) -> None:
        """Begin to exchange blocks with `rings`, still unarmed; MAX_BLOCK tells their size."""

    def stop(self) -> None:
        """End it; no block is exchanged after."""

    @property
    def latency(self) -> float:
        """The device's own input plus output latency, seconds, as far as it tells."""

    @property
    def finished(self) -> bool:
        """True once no more sound will come."""


@dataclass(frozen=True)
class Latency:
    """Input to output in samples, with its parts."""

    algorithmic: int
    buffering: int
    device: int
    sample_rate: int

    @property
    def total(self) -> int:
        """Samples from input to output."""
        return self.algorithmic + self.buffering + self.device

    def ms(self) -> dict[str, float]:
        """The same in ms."""
        parts = {name: getattr(self, name) for name in ("algorithmic", "buffering", "device", "total")}
        return {name: round(1e3 * samples / self.sample_rate, 3) for name, samples in parts.items()}

    def samples(self) -> dict[str, int]:
        """The parts and their sum, samples."""
        return {name: getattr(self, name) for name in ("algorithmic", "buffering", "device", "total")}


def prefill(block: int, hop: int, spread: int = 0) -> int:
    """Frames of silence that go out first, so that no hop of a worker in time is ever late (see the module's text).

    `spread` is how far apart blocks come from even distances, frames. A quarter of a block is left to the worker's margin.
    """
    bursts = math.ceil(max(0, spread - block // 4) / block)
    return block + hop - math.gcd(block, hop) + max(0, hop - block) + bursts * block


@njit(nogil=True, cache=True)
def work(s, step, rings, clock, pause, times, history):  # type: ignore[no-untyped-def]
    """Separate hop after hop until STOP is set; sleep `pause` ns when there is none. Step times go to `times`."""
    publish(rings.header, RUNNING, 1)
    while position(rings.header, STOP) == 0:
        if not take(rings, s.x):
            native.sleep_ns(clock.nanosleep, pause)
            continue
        start = native.monotonic_ns(clock.gettime)
        engine.hop(s, step)
        put(rings, s.y)
        end = native.monotonic_ns(clock.gettime)
        stats.record(times, end - start)
        meters.record(history, s, start, end, rings.header[LATE])


def work_in_python(separator: Separator, rings: Rings, pause: int, times, history) -> None:  # type: ignore[no-untyped-def]
    """The same where ONNX Runtime has no C library: slower, and at the mercy of the GIL."""
    publish(rings.header, RUNNING, 1)
    while not rings.header[STOP]:
        if not take(rings, separator.state.x):
            time.sleep(pause / 1e9)
            continue
        start = time.monotonic_ns()
        separator.hop()
        put(rings, separator.state.y)
        end = time.monotonic_ns()
        stats.record(times, end - start)
        meters.record(history, separator.state, start, end, rings.header[LATE])


class Live:
    """A device, an engine at the device's rate, and the worker between them.

    Raises
    ------
    LiveError
        the engine does not fit the device.
    """

    def __init__(self, separator: Separator, device: Device) -> None:
        if (separator.sample_rate, separator.channels) != (device.sample_rate, device.in_channels):
            raise LiveError(
                f"engine at {separator.sample_rate} Hz with {separator.channels} channels: "
                f"expected the device's {device.sample_rate} Hz and {device.in_channels}"
            )
        self.separator = separator
        self.device = device
        capacity = int(RING_SECONDS * device.sample_rate) + 8 * separator.geometry.hop_length
        tap_channels = len(separator.sources) * separator.channels
        self.rings = make_rings(capacity, device.in_channels, device.out_channels, tap_channels)
        self.times = stats.histogram()
        self.meters = meters.make_meters(len(separator.sources))
        self.realtime = False
        self._thread: threading.Thread | None = None
        self._seen = 0, time.monotonic()
        # These are known, and constant, from `open` on.
        self.block = self.prefill = 0
        self.latency = Latency(separator.latency, 0, 0, separator.sample_rate)

    def prepare(self) -> None:
        """Compile the worker and warm the network, so that the first hop of sound costs no more than the others."""
        self.rings.header[STOP] = 1
        self._work()
        state = self.separator.state
        take(self.rings, state.x)
        for _ in range(32):
            self.separator.hop()
        put(self.rings, state.y)
        stats.record(self.times, 1)
        self.times[:] = 0
        meters.record(self.meters, state, 0, 0, 0)
        meters.clear(self.meters)
        clear(self.rings)
        self.separator.reset()

    def open(self, timeout: float = 5.0) -> Latency:
        """Start the device, silent, and look at its blocks; the latency that will hold from the first sound on.

        Raises
        ------
        LiveError
            no block came within `timeout` seconds.
        """
        header = self.rings.header
        if native.AVAILABLE:
            header[[GETTIME, SAMPLE_RATE]] = native.clock().gettime, self.device.sample_rate
        self.device.start(self.rings)
        end = time.monotonic() + timeout
        while header[CALLS] < 4:  # the first block is not always like the others
            if time.monotonic() > end:
                self.device.stop()
                raise LiveError(f"the device delivered no sound within {timeout:g} s: is its server running?")
            time.sleep(0.005)
        self._observe()
        self.block = int(header[MAX_BLOCK])
        hop = self.separator.geometry.hop_length
        # A second shows the rule, not its exceptions: where blocks may come in bursts, one of two is always allowed for.
        spread = 0 if self.device.steady else max(self.block, int(header[EARLIEST] - header[LATEST]))
        self.prefill = prefill(self.block, hop, spread)
        self.latency = Latency(
            algorithmic=self.separator.latency,
            buffering=self.prefill - hop,
            device=round(self.device.latency * self.device.sample_rate),
            sample_rate=self.device.sample_rate,
        )
        return self.latency

    def _observe(self) -> None:
        """Watch when blocks come, where that is not known beforehand."""
        if self.device.steady or not native.AVAILABLE:
            return
        time.sleep(SETTLE_SECONDS)  # streams start with a burst of their own
        publish(self.rings.header, OBSERVE, 1)
        time.sleep(OBSERVE_SECONDS)
        publish(self.rings.header, OBSERVE, 0)

    def start(self) -> None:
        """Let sound through."""
        self._thread = threading.Thread(target=self._run, name="streamsep-worker", daemon=True)
        self._thread.start()
        while not position(self.rings.header, RUNNING):  # sound must not wait for a thread to start
            time.sleep(0.001)
        arm(self.rings, self.prefill)

    def stop(self) -> None:
        """End the device, then the worker."""
        self.device.stop()
        publish(self.rings.header, STOP, 1)
        if self._thread:
            self._thread.join()

    def silent_for(self) -> float:
        """Seconds since the device last exchanged a block, as far as calls of this method can tell."""
        calls, now = int(self.rings.header[CALLS]), time.monotonic()
        if calls != self._seen[0]:
            self._seen = calls, now
        return now - self._seen[1]

    def report(self) -> dict[str, object]:
        """What happened so far: counters, step times (ms, all of a hop's work) and latency."""
        header = self.rings.header
        counts = self.separator.counts
        return {
            "hops": counts["hops"],
            "late": int(header[LATE]),
            "lost": int(header[LOST]),
            "input_xruns": int(header[INPUT_XRUNS]),
            "output_xruns": int(header[OUTPUT_XRUNS]),
            "missed_blocks": int(header[MISSED]),
            "bad_samples": counts["bad_samples"],
            "failed_steps": counts["failed_steps"],
            "bad_masks": counts["bad_masks"],
            "error": self.separator.error or "",
            "step_ms": stats.summary(self.times),
            "deadline_ms": round(1e3 * self.separator.geometry.hop_length / self.device.sample_rate, 3),
            "latency_ms": self.latency.ms(),
            "latency_samples": self.latency.samples(),
        }

    def _run(self) -> None:
        self.realtime = native.become_realtime(native.WORKER_PRIORITY)
        self._work()

    def _work(self) -> None:
        hop_ns = 1_000_000_000 * self.separator.geometry.hop_length // self.device.sample_rate
        pause = min(max(hop_ns // 32, 50_000), 500_000)
        if self.separator.native:
            step = self.separator.network.compiled  # type: ignore[union-attr]
            work(self.separator.state, step, self.rings, native.clock(), pause, self.times, self.meters)
        else:
            work_in_python(self.separator, self.rings, pause, self.times, self.meters)
