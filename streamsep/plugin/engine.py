"""The engine process: serves all instances of its user, found in shared memory, until there are none.

Instances of one rate share a `Group`: a batch of slots, and a thread that stays inside one compiled function (`serving`). The
main thread looks 20 times a second who came and who left, and once a second who died. Nothing here is needed for sound to flow.

It begins by taking the lock of `plugin.engine_lock`, or is born with it where an instance started it; a second engine of the
same user finds it taken. What it is doing is written into that file, for `streamsep plugin status`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from .. import StreamsepError, native, ort, rings, stats
from ..batch import Batch
from ..config import Provider, engine_provider
from ..model import Model
from . import CHANNELS, SOURCES, engine_lock, segments, serving
from .segments import Segment, SegmentError

SLOTS = 16  # of a group
LOOK_SECONDS, SWEEP_SECONDS = 0.05, 1.0
WARM_HOPS = 16


class EngineError(StreamsepError):
    """The engine cannot start."""


class Group:
    """Slots for instances of one rate, and the thread that serves them."""

    def __init__(self, model: Model, sample_rate: int, provider: Provider = "auto") -> None:
        self.sample_rate = sample_rate
        self.members: dict[int, Segment] = {}
        self.batch = Batch(model, [(sample_rate, CHANNELS)] * SLOTS, provider)
        self.addresses, self.last = np.zeros(SLOTS, np.int64), np.zeros(SLOTS, np.int64)
        self.marks, self.times = np.zeros(serving.MARKS, np.int64), stats.histogram()
        self.granted = False
        self._warm()
        self._thread = threading.Thread(target=self._run, name="streamsep-serve", daemon=True)
        self._thread.start()

    def _warm(self) -> None:
        """Compile the loop and run the network, so that the first hop of sound costs no more than the others."""
        self.marks[serving.STOP] = 1
        thread = threading.Thread(target=self._serve)  # a thread of its own: it changes how its thread computes
        thread.start()
        thread.join()
        self.marks[serving.STOP] = 0
        slot, hop = self.batch.join(), self.batch.streams[0].geometry.hop_length
        noise = np.random.default_rng(0).normal(0, 0.1, (CHANNELS, hop)).astype(np.float32)
        for _ in range(WARM_HOPS):
            self.batch.process({slot: noise})
        self.batch.leave(slot)

    def _run(self) -> None:
        self.granted = native.become_realtime(native.WORKER_PRIORITY)
        self._serve()

    def _serve(self) -> None:
        hop_ns = 1_000_000_000 * self.batch.streams[0].geometry.hop_length // self.sample_rate
        serving.serve(self.batch.compiled, self.addresses, self.marks, self.last, native.clock(), hop_ns, self.times)

    @property
    def full(self) -> bool:
        """Whether no slot is free."""
        return len(self.members) == SLOTS

    def join(self, segment: Segment, engine: int) -> None:
        """Serve `segment` from the next turn on, as the engine called `engine`."""
        slot = self.batch.join()
        header = segment.rings.header
        rings.publish(header, rings.BEGUN, 0)
        rings.publish(header, rings.ENGINE, engine)
        self.members[slot] = segment
        self.addresses[slot] = segment.address

    def leave(self, slot: int) -> None:
        """Let it go; after this its memory is not looked at any more."""
        self.addresses[slot] = 0
        turns = int(self.marks[serving.TURNS])
        while self._thread.is_alive() and self.marks[serving.TURNS] < turns + 2:
            time.sleep(0.001)
        rings.publish(self.members.pop(slot).rings.header, rings.ENGINE, 0)
        self.batch.leave(slot)

    def stop(self) -> None:
        """End the thread, and let all go."""
        self.marks[serving.STOP] = 1
        self._thread.join()
        for slot in list(self.members):
            self.leave(slot)


class Engine:
    """All groups of this process. `tell` gets a line for what is worth one.

    Raises
    ------
    EngineError
        another engine serves this user, or the model is not one for this plugin.
    NoGpuError
        the GPU is required, and does not work.
    """

    def __init__(
        self,
        model: Model,
        tell: Callable[[str], None],
        lock: int | None = None,
        provider: Provider = "auto",
        require_gpu: bool = False,
    ) -> None:
        if model.contract.sources != SOURCES:
            raise EngineError(
                f"model {model.contract.name!r} has sources {model.contract.sources}: the plugin expects {SOURCES}"
            )
        self.model, self._tell = model, tell
        self._wished, self._provider = provider, engine_provider(provider, require_gpu)
        if require_gpu:  # now, and not when the first instance comes
            ort.open_network(model, self._provider)
        self._lock = take_lock(lock)
        self._id = time.monotonic_ns()  # other than that of any engine before it
        self._groups: list[Group] = []
        self._refused: set[str] = set()
        self._report()

    def run(self, stop: threading.Event, idle: float) -> None:
        """Serve until `stop`, or until nobody has been there for `idle` seconds."""
        busy = swept = time.monotonic()
        try:
            while not stop.wait(LOOK_SECONDS):
                now = time.monotonic()
                if now - swept > SWEEP_SECONDS:
                    swept = now
                    for name in segments.names():
                        segments.sweep(name)
                    self._report()
                self._look()
                if any(group.members for group in self._groups):
                    busy = now
                elif now - busy > idle:
                    return
        finally:
            for group in self._groups:
                group.stop()
            os.truncate(self._lock, 0)
            os.close(self._lock)

    def _look(self) -> None:
        """Who came, who left."""
        for group in self._groups:
            for slot, segment in list(group.members.items()):
                if segment.gone:
                    group.leave(slot)
        there = segments.names()
        self._refused &= there
        served = {s.name for group in self._groups for s in group.members.values()}
        for name in sorted(there - served - self._refused):
            try:
                self._join(name)
            except SegmentError as error:
                self._refused.add(name)
                self._tell(str(error))
            except OSError:  # it left at this moment, or is another user's
                continue

    def _join(self, name: str) -> None:
        if segment := Segment.open(name, self.model.contract):
            self._group(segment.sample_rate).join(segment, self._id)

    def _group(self, sample_rate: int) -> Group:
        for group in self._groups:
            if group.sample_rate == sample_rate and not group.full:
                return group
        self._groups.append(group := Group(self.model, sample_rate, self._provider))
        for line in ort.fallen_back(self._wished, group.batch.provider, group.batch.provider_notes):
            self._tell(line)
        return group

    def report(self) -> dict[str, object]:
        """What is served, by this process."""
        marks = np.sum([group.marks for group in self._groups], axis=0) if self._groups else np.zeros(serving.MARKS, np.int64)
        members = [segment for group in self._groups for segment in group.members.values()]
        times = np.sum([stats.histogram(), *(group.times for group in self._groups)], axis=0)
        return {
            "pid": os.getpid(),
            "layout": rings.LAYOUT,
            "model": self.model.contract.name,
            "instances": len(members),
            "refused": len(self._refused),
            "realtime": bool(self._groups) and all(group.granted for group in self._groups),
            "calls": int(marks[serving.CALLS]),
            "hops": int(marks[serving.SERVED]),
            "late": sum(int(segment.rings.header[rings.LATE]) for segment in members),
            "call_ms": stats.summary(times),
        }

    def _report(self) -> None:
        text = json.dumps(self.report()).encode()
        os.truncate(self._lock, 0)
        os.pwrite(self._lock, text, 0)


def take_lock(inherited: int | None = None) -> int:
    """The lock of this user's engine, which `inherited` may be already: an open file to be kept.

    Raises
    ------
    EngineError
        another engine has it.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(engine_lock(), flags, 0o600) if inherited is None else inherited
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise EngineError("an engine of this user is running already: end it first, or let it serve") from error
    return file


def running() -> dict[str, object] | None:
    """What the user's engine last said of itself; None where none runs."""
    with contextlib.suppress(OSError, ValueError), open(engine_lock(), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return json.loads(file.read() or "{}")
    return None


def warm(model: Model, sample_rate: int = 48_000) -> None:
    """Compile what an engine runs, so that the first instance finds it done."""
    Group(model, sample_rate).stop()


def detach(keep: int) -> None:
    """Let go of what the host left open: files other than the standard ones and `keep`, and its terminal's session."""
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)
    with contextlib.suppress(OSError):
        os.setsid()


def log_file() -> Path:
    """Where an engine without a terminal tells what is worth a line."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    folder = home / "streamsep"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "engine.log"
