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
from numba.extending import overload
from numpy.typing import NDArray

from . import StreamsepError, controls, devicerows, engine, native, ort, rows, structs
from .devicerows import DeviceRows, DeviceRowsNetwork
from .engine import COUNTS, Engine, Hop, Separator
from .model import Model
from .rows import Rows, RowsNetwork


class BatchError(StreamsepError):
    """No slot is free, or there is none of that number."""


class Slots(NamedTuple):
    """The batch as compiled code takes it."""

    hops: structs.Table  # every slot's `engine.Hop`
    rows: Rows | DeviceRows  # of one slot alone it may be an `ort.Step`
    wanted: NDArray[np.int64]  # [shape=(slots,)]: how often it was joined; negative when it has left since
    seen: NDArray[np.int64]  # [shape=(slots,)]: the same as far as the worker knows
    ready: NDArray[np.int64]  # [shape=(slots,)]: the worker's list of slots whose hop is there
    called: NDArray[np.int64]  # [shape=(1,)]: how many those are, where more than one thread asks
    stepped: NDArray[np.int64]  # [shape=(slots,)]: whether the network's last step of it went well


# ---------------------------------------------------------------------------------------------------------- compiled path


@njit(nogil=True, cache=True)
def at(b, slot):  # type: ignore[no-untyped-def]
    """The `engine.Hop` of `slot`."""
    return structs.at(b.hops, slot)


@njit(nogil=True, cache=True)
def present(b, slot):  # type: ignore[no-untyped-def]
    """Whether `slot` takes part."""
    return b.seen[slot] > 0


@njit(nogil=True, cache=True)
def attend(b, gently=False):  # type: ignore[no-untyped-def]
    """Let those who joined or left since the last turn do so; how many slots are present.

    At once, so that a slot's first hop is a `Separator`'s first; or `gently`: one that leaves, or begins anew, is there for
    one hop more and fades out in it, and one that joins is silent until its windows are full, and fades in.
    """
    count = 0
    for slot in range(b.wanted.size):
        wanted, seen = native.load_acquire(b.wanted.ctypes.data + 8 * slot), b.seen[slot]
        if wanted != seen:
            s = at(b, slot)
            if gently and seen > 0 and not controls.fading(s.controls):
                controls.fade_out(s.controls)
                wanted = seen
            else:
                drop(b.rows, slot)
                if wanted > 0:
                    engine.clear(s)
                    if gently:
                        controls.fade_in(s.controls, s.transform.synthesis.size // s.x.shape[1])
                native.store_release(b.seen.ctypes.data + 8 * slot, wanted)
        count += wanted > 0
    return count


@njit(nogil=True, cache=True)
def call(b):  # type: ignore[no-untyped-def]
    """Put all that are present into `b.ready`, and how many they are into `b.called`."""
    count = 0
    for slot in range(b.seen.size):
        if b.seen[slot] > 0:
            b.ready[count] = slot
            count += 1
    b.called[0] = count


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
    step_network(b.rows, b.ready[:count], b.stepped)


@njit(nogil=True, cache=True)
def conclude(b, count):  # type: ignore[no-untyped-def]
    """The second half: from the network's output to their `y`."""
    for n in range(count):
        slot = b.ready[n]
        if not engine.after_network(at(b, slot), b.stepped[slot] != 0):
            drop(b.rows, slot)


@njit(nogil=True, cache=True)
def learn(b, count):  # type: ignore[no-untyped-def]
    """In place of the second half, where the network was too late for it: keep the masks as the last ones."""
    for n in range(count):
        slot = b.ready[n]
        if not engine.learn(at(b, slot), b.stepped[slot] != 0):
            drop(b.rows, slot)


@njit(nogil=True, cache=True)
def bridge(b, count):  # type: ignore[no-untyped-def]
    """In place of the second half, where the network is late: through the last masks."""
    for n in range(count):
        engine.finish(at(b, b.ready[n]))


def step_network(network, members, stepped):  # type: ignore[no-untyped-def]
    """One hop of the network for `members`, whichever kind of network it is; `stepped` as in `rows.step`."""
    raise NotImplementedError("compiled code only")


def drop(network, slot):  # type: ignore[no-untyped-def]
    """Let the next step of `slot` begin with a zero state."""
    raise NotImplementedError("compiled code only")


def dry_run(network):  # type: ignore[no-untyped-def]
    """Let the network's device compute, and change nothing that a step uses."""
    raise NotImplementedError("compiled code only")


@overload(step_network)
def _step_network(network, members, stepped):  # type: ignore[no-untyped-def]
    def alone(network, members, stepped):  # type: ignore[no-untyped-def]
        if members.size:
            stepped[members[0]] = ort.step(network)

    def many(network, members, stepped):  # type: ignore[no-untyped-def]
        rows.step(network, members, stepped)

    def there(network, members, stepped):  # type: ignore[no-untyped-def]
        devicerows.step(network, members, stepped)

    return {ort.Step: alone, Rows: many, DeviceRows: there}[network.instance_class]


@overload(drop)
def _drop(network, slot):  # type: ignore[no-untyped-def]
    def alone(network, slot):  # type: ignore[no-untyped-def]
        network.turn[0] = ort.FROM_ZERO

    def many(network, slot):  # type: ignore[no-untyped-def]
        network.fresh[slot] = 1

    return alone if network.instance_class is ort.Step else many


@overload(dry_run)
def _dry_run(network):  # type: ignore[no-untyped-def]
    def alone(network):  # type: ignore[no-untyped-def]
        ort.dry_run(network)

    def many(network):  # type: ignore[no-untyped-def]
        pass  # a CPU's caches do not stay warm for it (see `rows`), and nothing else cools down

    def there(network):  # type: ignore[no-untyped-def]
        devicerows.dry_run(network)

    return {ort.Step: alone, Rows: many, DeviceRows: there}[network.instance_class]


# ------------------------------------------------------------------------------------------------------------- the object


def _slots(states: Sequence[Hop], network: Rows | DeviceRows | ort.Step, joined: int) -> Slots:
    n = len(states)
    wanted, seen, ready, stepped = (np.full(n, value, np.int64) for value in (joined, joined, 0, 0))
    return Slots(structs.table(states), network, wanted, seen, ready, np.zeros(1, np.int64), stepped)  # type: ignore[arg-type]


def alone(separator: Separator) -> Slots:
    """A `Separator` as a batch of one that is always present, with the network that it has."""
    assert isinstance(separator.network, ort.NativeNetwork)
    return _slots([separator.state], separator.network.compiled, 1)


class Stream(Engine):
    """One slot: its controls, and what there is to know of it. The batch steps it."""

    def begin(self, seen: NDArray[np.float32], given: NDArray[np.float32]) -> Hop:
        """Its state, around its own row of the network's inputs and outputs."""
        self._attach(seen, given)
        engine.clear(self.state)
        return self.state


def _make_network(model: Model, streams: int, provider: str, together: bool | None) -> RowsNetwork | DeviceRowsNetwork:
    return RowsNetwork(model, streams, together) if provider == "cpu" else DeviceRowsNetwork(model, streams, provider)


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
        self.streams = [Stream(model, *wanted) for wanted in formats]
        self.model, self.sample_rate = model, formats[0][0]
        self.network, self.provider_notes = ort.choose(
            model, provider, lambda chosen: _make_network(model, len(formats), chosen, together)
        )
        for stream in self.streams:
            stream.provider_notes = self.provider_notes
        r = self.network.compiled
        states = [stream.begin(*row) for stream, *row in zip(self.streams, r.mag, r.mask, strict=True)]
        self.compiled = _slots(states, r, 0)
        self._lock = threading.Lock()

    native = True  # there is no other way to step many

    @property
    def provider(self) -> str:
        """Where the network runs: "cpu" or "cuda"."""
        return self.network.provider

    @property
    def counts(self) -> dict[str, int]:
        """Since they joined: hops done, of the slot with most; samples replaced, steps failed and masks refused, of all."""
        counts = [stream.counts for stream in self.streams]
        return {key: (max if key == "hops" else sum)(c[key] for c in counts) for key in COUNTS}

    def reset(self) -> None:
        """Forget all that was heard, in every slot; only while nothing steps."""
        self.network.reset()
        for stream in self.streams:
            engine.clear(stream.state)

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

    def wanted(self, slot: int) -> bool:
        """Whether `slot` is to take part: it has joined and not left since. BatchError: no such slot."""
        self._check(slot)
        return bool(self.compiled.wanted[slot] > 0)

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
        mode = native.flush()  # as workers do
        try:
            return self._process(blocks)
        finally:
            native.restore(mode)

    def _process(self, blocks: Mapping[int, NDArray[np.float32]]) -> dict[int, NDArray[np.float32]]:
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
            before_network(b, count)
            step(b, count)
            conclude(b, count)
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
