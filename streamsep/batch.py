"""Many streams, one network: a `Batch` of engines that step together.

Each slot is an engine of its own: windows, masks, controls, channels and rate are an `engine.Hop`, its network state lies in
`rows.Rows`. A hop of all slots that have one ready is one compiled function without the GIL, with one call of the network
between its halves (`rows` says when it is more). What a slot gives is what a `Separator` gives for the same sound, bit for bit,
whoever joins, leaves, fails or is silent beside it. It knows no thread, device, file, socket or clock.

From Python:

    batch = Batch(model, [(48_000, 2)] * 10)     # ten slots of 48 kHz stereo, all absent
    slot = batch.join()                          # the lowest that is free; or batch.join(3)
    batch.streams[slot].set_gain("vocals", -6)   # `controls.Steering`, as a Separator has it
    stems = batch.process({slot: block})[slot]   # (sources, channels, samples), late by streams[slot].latency
    batch.leave(slot)

From compiled code (a worker that has the batch to itself; nothing here waits, allocates or needs the GIL):

    b = batch.compiled
    attend(b)                          # once a turn: those who joined or left since take effect now
    for slot in range(b.wanted.size):
        if present(b, slot):
            s = at(b, slot)            # its engine.Hop: fill s.x [channels, hop], read s.y [sources, channels, hop] after
            ...
            b.ready[count] = slot; count += 1
    hop(b, count)                      # from x to y of the first `count` slots in b.ready
    or, where something else must be done while the network runs: before_network(b, count); step(b, count); conclude(b, count)

`join`, `leave` and the controls may be used from any thread while that goes on: they write one word each, and the worker does
the rest at its next `attend`. A join begins with nothing heard and counters at 0; the controls stay as set. Wait until
`present(slot)` before giving it sound, if it matters which sample comes first.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import StreamsepError, engine, native, ort, rows, stft, structs
from .controls import Steering
from .engine import COUNTS, Hop
from .model import Model
from .rows import Rows, RowsNetwork


class BatchError(StreamsepError):
    """No slot is free, or there is none of that number."""


class Slots(NamedTuple):
    """The batch as compiled code takes it."""

    table: NDArray[np.uint8]  # [shape=(slots, bytes)]: every slot's `Hop`, see `structs`
    like: Hop  # of slot 0, for the type
    rows: Rows
    wanted: NDArray[np.int64]  # [shape=(slots,)]: how often it was joined; negative when it has left since
    seen: NDArray[np.int64]  # [shape=(slots,)]: the same as far as the worker knows
    ready: NDArray[np.int64]  # [shape=(slots,)]: the worker's list of slots whose hop is there
    stepped: NDArray[np.int64]  # [shape=(slots,)]: whether the network's last step of it went well


# ---------------------------------------------------------------------------------------------------------- compiled path


@njit(nogil=True, cache=True)
def at(b, slot):  # type: ignore[no-untyped-def]
    """The `engine.Hop` of `slot`."""
    return structs.at(b.table, slot, b.like)


@njit(nogil=True, cache=True)
def present(b, slot):  # type: ignore[no-untyped-def]
    """Whether `slot` takes part."""
    return b.seen[slot] > 0


@njit(nogil=True, cache=True)
def attend(b):  # type: ignore[no-untyped-def]
    """Let those who joined or left since the last turn do so, with nothing heard; how many slots are present."""
    count = 0
    for slot in range(b.wanted.size):
        wanted = native.load_acquire(b.wanted.ctypes.data + 8 * slot)
        if wanted != b.seen[slot]:
            if wanted > 0:
                engine.clear(at(b, slot))
                b.rows.fresh[slot] = 1
            native.store_release(b.seen.ctypes.data + 8 * slot, wanted)
        count += wanted > 0
    return count


@njit(nogil=True, cache=True)
def hop(b, count):  # type: ignore[no-untyped-def]
    """One whole hop of the first `count` slots in `b.ready`."""
    before_network(b, count)
    step(b, count)
    conclude(b, count)


@njit(nogil=True, cache=True)
def before_network(b, count):  # type: ignore[no-untyped-def]
    """The first half: from their `x` to the network's input."""
    for n in range(count):
        engine.before_network(at(b, b.ready[n]))


@njit(nogil=True, cache=True)
def step(b, count):  # type: ignore[no-untyped-def]
    """The network; it touches nothing but `b.rows` and `b.stepped`."""
    rows.step(b.rows, b.ready[:count], b.stepped)


@njit(nogil=True, cache=True)
def conclude(b, count):  # type: ignore[no-untyped-def]
    """The second half: from the network's output to their `y`."""
    for n in range(count):
        slot = b.ready[n]
        if not engine.after_network(at(b, slot), b.stepped[slot] != 0):
            b.rows.fresh[slot] = 1


@njit(nogil=True, cache=True)
def hop_flushed(b, count):  # type: ignore[no-untyped-def]
    """`hop`, with numbers too small for full precision taken as zero, as workers do from their start."""
    mode = native.flush_denormals()
    hop(b, count)
    native.restore_denormals(mode)


# ------------------------------------------------------------------------------------------------------------- the object


class Stream(Steering):
    """One slot: its controls, and what there is to know of it."""

    def __init__(self, model: Model, sample_rate: int, channels: int, mag: NDArray[np.float32], mask: NDArray[np.float32]):
        super().__init__()
        self.sources = model.contract.sources
        self.sample_rate, self.channels = sample_rate, channels
        self.geometry = stft.Geometry.at(model.contract, sample_rate)
        self.state = engine.make_state(self.geometry, mag, mask, channels)
        self.controls = self.state.controls
        engine.clear(self.state)

    @property
    def latency(self) -> int:
        """Samples by which the output is late: the algorithmic latency."""
        return self.geometry.synthesis_length

    @property
    def counts(self) -> dict[str, int]:
        """Hops done, input samples replaced, network steps failed and masks refused since it joined."""
        return dict(zip(COUNTS, map(int, self.state.counts), strict=True))


class Batch:
    """As many slots as `formats`, each a (sample rate, channels); all absent at first.

    Parameters
    ----------
    provider
        "auto", "cpu" or "cuda" (see `ort.choose`).
    together
        None: as `rows.RowsNetwork` finds out; False: row by row; True: all in one call, whatever that does to their bits.

    Raises
    ------
    ValueError
        a rate, channel count or provider outside its range.
    ort.OrtError
        the provider that was asked for does not work here, or there is no C library.
    """

    def __init__(
        self, model: Model, formats: Sequence[tuple[int, int]], provider: str = "auto", together: bool | None = None
    ) -> None:
        if not formats:
            raise ValueError("formats is empty: expected a (sample rate, channels) for each slot")
        for _, channels in formats:
            engine.check_channels(channels)
        self.model = model
        self.network, self.provider_notes = ort.choose(
            model, provider, lambda chosen: RowsNetwork(model, len(formats), chosen, together)
        )
        r = self.network.compiled
        self.streams = [Stream(model, *f, mag, mask) for f, mag, mask in zip(formats, r.mag, r.mask, strict=True)]
        slots = [np.zeros(len(formats), np.int64) for _ in range(4)]
        states = [stream.state for stream in self.streams]
        self.compiled = Slots(structs.table(states), states[0], r, *slots)
        self._lock = threading.Lock()

    @property
    def capacity(self) -> int:
        """Slots."""
        return len(self.streams)

    @property
    def together(self) -> bool:
        """Whether the network takes all slots that are ready in one call."""
        return self.network.together

    @property
    def error(self) -> str | None:
        """What the first failed network step said."""
        return self.network.error

    def join(self, slot: int | None = None) -> int:
        """Let `slot` (None: the lowest that is free) take part from the next turn on, with nothing heard; its number.

        A slot that takes part already begins anew.

        Raises
        ------
        BatchError
            none is free, or there is none of that number.
        """
        with self._lock:
            if slot is None:
                free = np.flatnonzero(self.compiled.wanted <= 0)
                if not len(free):
                    raise BatchError(f"all {self.capacity} slots are taken: let one leave, or make a larger batch")
                slot = int(free[0])
            self._check(slot)
            self.compiled.wanted[slot] = abs(self.compiled.wanted[slot]) + 1
        return slot

    def leave(self, slot: int) -> None:
        """Let `slot` go from the next turn on; harmless when it is absent. BatchError: no such slot."""
        self._check(slot)
        with self._lock:
            self.compiled.wanted[slot] = -abs(self.compiled.wanted[slot])

    def present(self, slot: int) -> bool:
        """Whether the worker has taken notice: `slot` takes part and was begun anew since the last `join`."""
        self._check(slot)
        return bool(self.compiled.seen[slot] == self.compiled.wanted[slot] > 0)

    def _check(self, slot: int) -> None:
        if not 0 <= slot < self.capacity:
            raise BatchError(f"slot={slot} is out of range: expected 0 to {self.capacity - 1}")

    def process(self, blocks: Mapping[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
        """Separate one block of each of some slots, as `Separator.process` does; hops that are ready together go together.

        Parameters
        ----------
        blocks : slot -> float32 [shape=(channels, samples)]
            of any lengths, 0 included.

        Returns
        -------
        slot -> float32 [shape=(sources, channels, samples)]

        Raises
        ------
        ValueError, BatchError
            a wrong shape, or a slot that is absent.
        """
        b = self.compiled
        attend(b)
        inputs = {slot: self._block(slot, block) for slot, block in blocks.items()}
        outputs = {slot: np.empty((len(self.streams[slot].sources), *x.shape), np.float32) for slot, x in inputs.items()}
        starts = dict.fromkeys(inputs, 0)
        while todo := [slot for slot, x in inputs.items() if starts[slot] < x.shape[1]]:
            count = 0
            for slot in todo:
                s = self.streams[slot].state
                starts[slot] = engine.feed(s, inputs[slot], outputs[slot], starts[slot])
                if s.fill[0] == s.x.shape[1]:
                    s.fill[0] = 0
                    b.ready[count] = slot
                    count += 1
            hop_flushed(b, count)
        return outputs

    def _block(self, slot: int, block: NDArray[np.float32]) -> NDArray[np.float32]:
        self._check(slot)
        if not present(self.compiled, slot):
            raise BatchError(f"slot={slot} is absent: let it join before it gets sound")
        x = np.ascontiguousarray(block, np.float32)
        channels = self.streams[slot].channels
        if x.ndim != 2 or x.shape[0] != channels:
            raise ValueError(f"block of slot={slot} has shape {np.shape(block)}: expected ({channels}, samples)")
        return x
