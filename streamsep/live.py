"""The live path: device -> ring -> worker -> ring -> device, with a delay that is known before the first sound.

Two threads inside compiled functions (`worker`) take hops off the input ring, separate them, and put them on the output ring.
Python starts and stops them, and is not needed in between.

How long the output ring must be filled ahead (`prefill`, frames) for block B, hop H and g = gcd(B, H): a callback asks for
B frames in the very call that brings B, so the frames of that call cannot help it; of those before, up to H - g have not yet
made a whole hop. That is B + H - g. Blocks smaller than a hop would leave the engine less than a hop's time to compute; what
is missing, H - B, is added. The engine's own delay S counts one hop of gathering, so the hand-over adds prefill - H.

Blocks so long that this adds more than a hop (PipeWire's are 1024 by default) are long enough to work in: there the call waits
for the worker, half a period at most, and gets the hops of its own block. Then a prefill of H is enough, and the hand-over adds
nothing. What is not there by then is bridged like any late hop.

All that holds for blocks at even distances, as JACK's are. Sound systems behind plugins (ALSA's for PulseAudio and PipeWire)
deliver them in bursts: there the first blocks, still silent, are watched, and what they come apart is added in whole blocks.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np

from . import StreamsepError, engine, meters, native, stats, worker
from .batch import Batch, alone, attend
from .channelmap import Routes
from .engine import Engine, Separator
from .meters import Meters
from .rings import (
    BRIDGED,
    CALLS,
    EARLIEST,
    GETTIME,
    IN_READ,
    IN_WRITE,
    INPUT_XRUNS,
    LATE,
    LATEST,
    LEVEL,
    LOST,
    MAX_BLOCK,
    MISSED,
    NANOSLEEP,
    OBSERVE,
    OPEN,
    OUTPUT_XRUNS,
    PATIENCE,
    RUNNING,
    SAMPLE_RATE,
    STOP,
    Rings,
    arm,
    clear,
    disarm,
    forget_device,
    make_rings,
    of_tap,
    position,
    publish,
)
from .worker import Desk, Line, make_desk

SETTLE_SECONDS, OBSERVE_SECONDS = 0.3, 1.0
RING_SECONDS = 1.0  # how long a worker may be held up before input is lost
MARGIN = 8  # the understudy steps in so much of a hop before the device would run dry, earlier where it has many to bridge
KEEP_WARM = 2_000_000  # ns between two dry runs of a network on a GPU (see `worker.never_cool`)
REHEARSALS = 32  # hops that are run before sound is let through
FADE_OUT_WITHIN = 0.2  # s; a device that does not take the end of the sound is stopped all the same


class LiveError(StreamsepError):
    """The live path cannot start."""


class Device(Protocol):
    """What the live path asks of a device (see `devices`)."""

    name: str
    sample_rate: int
    in_channels: int
    out_channels: int
    steady: bool  # whether blocks come at even distances by design
    routes: Routes | None  # where sources go; None: the usual way

    def start(self, rings: Rings) -> None:
        """Begin to exchange blocks with `rings`, still unarmed; MAX_BLOCK tells their size."""

    def stop(self) -> None:
        """End it; no block is exchanged after."""

    @property
    def latency(self) -> float:
        """The device's own input plus output latency, seconds, as far as it tells."""

    def set_latency(self, samples: int) -> None:
        """Told what the engine and the hand-over delay, for those who ask the device."""

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


def awaited(block: int, hop: int) -> bool:
    """Whether blocks are so long that the device's call should wait for the worker (see the module's text)."""
    return block - math.gcd(block, hop) > hop


def prefill(block: int, hop: int, spread: int = 0, waits: bool = False) -> int:
    """Frames of silence that go out first, so that no hop of a worker in time is ever late (see the module's text).

    `spread` is how far apart blocks come from even distances, frames. A quarter of a block is left to the worker's margin.
    `waits`: the device's call waits for the worker.
    """
    if waits:
        return hop
    bursts = math.ceil(max(0, spread - block // 4) / block)
    return block + hop - math.gcd(block, hop) + max(0, hop - block) + bursts * block


class Share(NamedTuple):
    """What of a device belongs to one of many engines."""

    columns: tuple[int, ...]  # of the device's input channels, from 0
    routes: Routes | None  # where its sources go; None: as the rings have it for a single engine


class Part(NamedTuple):
    """What of a live path belongs to one of many engines, for those who listen."""

    rings: Rings  # with its part of the tap
    meters: Meters


class Live:
    """A device, one engine or many at the device's rate, and the threads between them.

    Parameters
    ----------
    engine
        a `Separator`, which takes all channels of the device; or a `Batch`.
    shares
        which part of the device each slot of the batch has. Slots are there if they have joined; others join later.
    rehearse
        whether a CPU runs the network of a `Separator` for nothing right before each hop (see `worker.rehearse`).

    Attributes
    ----------
    streams
        the engines' controls and figures, in order; `separator` is the first.
    parts
        of each of them: the rings with its own part of the tap, for those who listen; its meters. `meters` are the first's.

    Raises
    ------
    LiveError
        the engine does not fit the device.
    """

    def __init__(self, engine: Separator | Batch, device: Device, shares: Sequence[Share] = (), rehearse: bool = False) -> None:
        self.engine = engine
        self.streams: list[Engine] = [*engine.streams] if isinstance(engine, Batch) else [engine]
        self.separator = separator = self.streams[0]
        self._shares = shares or [Share(tuple(range(device.in_channels)), None)]
        capacity = int(RING_SECONDS * device.sample_rate) + 8 * separator.geometry.hop_length
        widths = [len(stream.sources) * stream.channels for stream in self.streams]
        taps = [sum(widths[:n]) for n in range(len(widths))]
        self.rings = make_rings(capacity, device.in_channels, device.out_channels, sum(widths), device.routes)
        self.times, self.handover = stats.histogram(), stats.histogram()
        self._lines = [
            Line(
                np.array(share.columns, np.int64),
                share.routes or self.rings.routes,
                tap,
                meters.make_meters(len(stream.sources)),
            )
            for stream, share, tap in zip(self.streams, self._shares, taps, strict=True)
        ]
        self.parts = [Part(of_tap(self.rings, line.tap, n), line.meters) for line, n in zip(self._lines, widths, strict=True)]
        self.meters = self._lines[0].meters
        self._ahead = rehearse
        self._granted: list[bool] = []  # real-time scheduling, to each thread
        self._threads: list[threading.Thread] = []
        self._seen = 0, time.monotonic()
        self._spreads: dict[tuple[str, int], int] = {}  # of devices (name, block) that were watched
        self._bridging = 0  # ns that the understudy takes for a hop
        self._earlier = dict.fromkeys(engine.counts, 0)  # of the devices before this one
        self._fit(device)

    def _make_desk(self) -> Desk | None:
        if not self.engine.native:
            return None
        slots = self.engine.compiled if isinstance(self.engine, Batch) else alone(self.engine)
        every = KEEP_WARM if self.engine.provider == "cuda" else 0
        ahead = self._ahead and not every
        return make_desk(slots, self._lines, self.rings, self.separator.geometry.hop_length, every, ahead)

    def _fit(self, device: Device) -> None:
        """Take `device`; its latency is known, and constant, from `open` on."""
        if not self.fits(device):
            raise LiveError(
                f"engine at {self.separator.sample_rate} Hz with {self.rings.inward.shape[1]} channels in, "
                f"{self.rings.outward.shape[1]} out: expected the device's {device.sample_rate} Hz, {device.in_channels} and "
                f"{device.out_channels}"
            )
        self.device = device
        self.block = self.prefill = 0
        self.latency = Latency(self.separator.latency, 0, 0, self.separator.sample_rate)

    def fits(self, device: Device) -> bool:
        """Whether `device` has this engine's rate and channels."""
        heard = all(len(share.columns) == stream.channels for share, stream in zip(self._shares, self.streams, strict=True))
        wanted = self.separator.sample_rate, self.rings.inward.shape[1], self.rings.outward.shape[1]
        return heard and wanted == (device.sample_rate, device.in_channels, device.out_channels)

    def prepare(self) -> None:
        """Compile the worker and warm the network, so that the first hop of sound costs no more than the others."""
        header = self.rings.header
        header[STOP] = 1
        if isinstance(self.engine, Batch):
            attend(self.engine.compiled)
        for role in self._roles():
            thread = threading.Thread(target=role)  # a thread of its own: it changes how its thread computes
            thread.start()
            thread.join()
        self._rehearse()
        for histogram in (self.times, self.handover):
            histogram[:] = 0
        for line in self._lines:
            meters.clear(line.meters)
        clear(self.rings)
        self.engine.reset()

    def _rehearse(self) -> None:
        """Some hops of silence through worker and engines; and how long the understudy takes for one."""
        header = self.rings.header
        header[IN_WRITE] = REHEARSALS * self.separator.geometry.hop_length
        header[STOP] = 0
        thread = threading.Thread(target=self._roles()[0])
        thread.start()
        while position(header, IN_READ) < header[IN_WRITE]:
            time.sleep(0.001)
        publish(header, STOP, 1)
        thread.join()
        took = []
        for _ in range(REHEARSALS):
            start = time.perf_counter_ns()
            engine.listen(self.separator.state)
            engine.finish(self.separator.state)
            took.append(time.perf_counter_ns() - start)
        self._bridging = sorted(took)[REHEARSALS // 2] * len(self.streams)

    def open(self, timeout: float = 5.0) -> Latency:
        """Start the device, silent, and look at its blocks; the latency that will hold from the first sound on.

        Raises
        ------
        LiveError
            no block came within `timeout` seconds.
        """
        header = self.rings.header
        header[[STOP, RUNNING]] = 0
        header[SAMPLE_RATE] = self.device.sample_rate
        if native.AVAILABLE:
            header[[GETTIME, NANOSLEEP]] = native.clock()
        forget_device(self.rings)
        self.device.start(self.rings)
        end = time.monotonic() + timeout
        while header[CALLS] < 4:  # the first block is not always like the others
            if time.monotonic() > end or self.device.finished:
                self.device.stop()
                raise LiveError(f"{self.device.name} delivered no sound within {timeout:g} s: is its server running?")
            time.sleep(0.005)
        spread = self._observe()
        self.block = int(header[MAX_BLOCK])
        hop = self.separator.geometry.hop_length
        waits = self.device.steady and self.engine.native and awaited(self.block, hop)
        header[PATIENCE] = 500_000_000 * self.block // self.device.sample_rate if waits else 0
        self.prefill = prefill(self.block, hop, spread, waits)
        self.latency = Latency(
            algorithmic=self.separator.latency,
            buffering=self.prefill - hop,
            device=round(self.device.latency * self.device.sample_rate),
            sample_rate=self.device.sample_rate,
        )
        self.device.set_latency(self.latency.algorithmic + self.latency.buffering)
        return self.latency

    def _observe(self) -> int:
        """How far apart blocks come from even distances, frames; where that is not known beforehand they are watched."""
        header = self.rings.header
        if self.device.steady:
            return 0
        time.sleep(SETTLE_SECONDS)  # streams start with a burst of their own
        device = self.device.name, int(header[MAX_BLOCK])
        if device not in self._spreads:  # a device that comes back keeps its delay
            if native.AVAILABLE:
                publish(header, OBSERVE, 1)
                time.sleep(OBSERVE_SECONDS)
                publish(header, OBSERVE, 0)
            # A second shows the rule, not its exceptions: where blocks may come in bursts, one of two is always allowed for.
            self._spreads[device] = max(int(header[MAX_BLOCK]), int(header[EARLIEST] - header[LATEST]))
        return self._spreads[device]

    def start(self) -> None:
        """Let sound through; it fades in."""
        self._granted.clear()
        priorities = native.WORKER_PRIORITY, native.UNDERSTUDY_PRIORITY
        work, *others = self._roles()
        for role, priority in zip((lambda: self._work(work), *others), priorities, strict=False):
            thread = threading.Thread(target=self._run, args=(role, priority), name="streamsep-worker", daemon=True)
            thread.start()
            self._threads.append(thread)
        while not position(self.rings.header, RUNNING):  # sound must not wait for a thread to start
            time.sleep(0.001)
        self._seen = int(self.rings.header[CALLS]), time.monotonic()
        arm(self.rings, self.prefill)

    def stop(self) -> None:
        """Fade out, end the device, then the threads; harmless when nothing runs."""
        header = self.rings.header
        publish(header, OPEN, 0)
        end = time.monotonic() + FADE_OUT_WITHIN
        while self._threads and header[LEVEL] and time.monotonic() < end and not self.device.finished:
            time.sleep(0.002)
        self.device.stop()
        publish(header, STOP, 1)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        disarm(self.rings)

    def replace(self, device: Device) -> None:
        """Go on with `device` in place of one that was stopped; nothing that was heard is remembered, the figures go on.

        Raises
        ------
        LiveError
            it does not fit (see `fits`).
        """
        self._fit(device)
        self._earlier = self._counts()
        self.engine.reset()

    def _counts(self) -> dict[str, int]:
        return {name: count + self._earlier[name] for name, count in self.engine.counts.items()}

    @property
    def realtime(self) -> bool:
        """Whether the system gave the threads real-time scheduling."""
        return bool(self._granted) and all(self._granted)

    def silent_for(self) -> float:
        """Seconds since the device last exchanged a block, as far as calls of this method can tell."""
        calls, now = int(self.rings.header[CALLS]), time.monotonic()
        if calls != self._seen[0]:
            self._seen = calls, now
        return now - self._seen[1]

    def report(self) -> dict[str, object]:
        """What happened so far: counters, times (ms) and latency.

        `late` are the hops that were not done with a mask of their own when they were due, `bridged` those of them that went
        out through the last one; `step_ms` is all of a hop's work, `handover_ms` the time from the arrival of its last block
        to the output ring.
        """
        header, counts = self.rings.header, self._counts()
        return {
            "hops": counts["hops"],
            "late": int(header[LATE]),
            "bridged": int(header[BRIDGED]),
            "lost": int(header[LOST]),
            "input_xruns": int(header[INPUT_XRUNS]),
            "output_xruns": int(header[OUTPUT_XRUNS]),
            "missed_blocks": int(header[MISSED]),
            "bad_samples": counts["bad_samples"],
            "failed_steps": counts["failed_steps"],
            "bad_masks": counts["bad_masks"],
            "error": self.engine.error or "",
            "step_ms": stats.summary(self.times),
            "handover_ms": stats.summary(self.handover),
            "deadline_ms": round(1e3 * self.separator.geometry.hop_length / self.device.sample_rate, 3),
            "latency_ms": self.latency.ms(),
            "latency_samples": self.latency.samples(),
        }

    def _run(self, role: Callable[[], None], priority: int) -> None:
        self._granted.append(native.become_realtime(priority))
        role()

    def _work(self, work: Callable[[], None]) -> None:
        """The worker's part, in the thread that a GPU's graphs will belong to; nothing has been heard yet."""
        self.engine.network.warm()
        work()

    def _roles(self) -> list[Callable[[], None]]:
        """What the threads do: the worker's part, and the understudy's where there can be one."""
        hop_ns = 1_000_000_000 * self.separator.geometry.hop_length // self.separator.sample_rate
        pause, desk, engine = min(max(hop_ns // 32, 50_000), 500_000), self._make_desk(), self.engine
        if desk is None:
            assert isinstance(engine, Separator)
            histograms = self.times, self.handover
            return [lambda: worker.work_in_python(engine, self.rings, pause, *histograms, self.meters)]
        margin = max(hop_ns // MARGIN, self._bridging if len(self.streams) > 1 else 0)
        return [
            lambda: worker.work(desk, pause, self.times, self.handover),
            lambda: worker.stand_by(desk, min(margin, hop_ns // 2), hop_ns),
        ]
