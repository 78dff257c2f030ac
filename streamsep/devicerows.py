"""The network for many streams on a device: all rows in every call, and their states never leave it.

The state of a thousand streams of 3 x 1000 is 24 MB. Gathered and scattered hop by hop, as on the CPU (`rows`), it would cross
the bus both ways and pass through a core's caches four times: many times what the network takes. So all rows are computed,
absent ones too, from one set of states into the other, by turns; and what a stream must not notice is done to its own row, by
copies that are queued before and after the network's run:

    a stream that begins anew       its row of the old set is cleared first
    one that takes no part          its row of the old set is copied to the new one after
    a step that fails               the turn stays: the old set was touched by nobody

A row is `layers` pieces of `hidden` numbers, `streams * hidden` apart. Magnitudes and masks lie in pinned memory, each stream's
in place: nothing is gathered. The same calls every hop, with the same addresses, are what CUDA graphs can be captured of.

cuDNN and cuBLAS promise no equal bits for a row whatever the others hold; it is their order of sums, and about 1e-6.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import cuda, cudagraph
from .cuda import Crossing, Device, Runtime
from .model import Model
from .ortsession import Session, run

DRY = 2
_TURNS = 0, 1, DRY


class DeviceRows(NamedTuple):
    """What compiled code needs; the first six fields are `ortsession.Session.call`'s."""

    run: int
    release_status: int
    session: int
    names_in: int
    names_out: int
    failure: NDArray[np.int64]
    turn: NDArray[np.int64]  # [shape=(1,)]: which row of `values` comes next: 0 A to B, 1 B to A
    values: NDArray[np.int64]  # [shape=(3, 2, 3)]: OrtValue pointers: turn (2 is the dry run's), inputs or outputs, tensor
    options: NDArray[np.int64]  # [shape=(3,)]: OrtRunOptions pointers of the turns
    runtime: Runtime
    mag_crossing: Crossing
    mask_crossing: Crossing
    states: NDArray[np.int64]  # [shape=(2, 2)]: addresses on the device: set A or B, h or c
    layers: int
    hidden: int
    mag: NDArray[np.float32]  # [shape=(streams, n_bins)]: pinned
    mask: NDArray[np.float32]  # [shape=(streams, sources, n_bins)]: pinned
    fresh: NDArray[np.int64]  # [shape=(streams,)]: 1 where the next step begins with a zero state
    absent: NDArray[np.int64]  # [shape=(streams,)]: 1 where a stream takes no part in the step at hand


@njit(nogil=True, cache=True)
def step(s, members, stepped):  # type: ignore[no-untyped-def]
    """One hop of the streams `members` `[shape=(n,)]`; `stepped` `[shape=(streams,)]` says of each whether it went well."""
    if members.size == 0:
        return
    turn = s.turn[0]
    s.absent[:] = 1
    for stream in members:
        s.absent[stream] = 0
    good = (
        clear_fresh(s, members, turn)
        and cuda.send(s.runtime, s.mag_crossing, s.failure)
        and run(s, s.options[turn], s.values[turn, 0], s.values[turn, 1])
        and keep_absent(s, turn)
        and cuda.fetch(s.runtime, s.mask_crossing, s.failure)
    )
    if good:
        s.turn[0] = 1 - turn
    for stream in members:
        stepped[stream] = good
        if good:
            s.fresh[stream] = 0


@njit(nogil=True, cache=True)
def clear_fresh(s, members, turn):  # type: ignore[no-untyped-def]
    """Queue zeros for the states of those that begin anew."""
    width = 4 * s.hidden
    for stream in members:
        if s.fresh[stream]:
            for k in range(2):
                if not cuda.clear_rows(
                    s.runtime, s.states[turn, k] + stream * width, s.fresh.size * width, width, s.layers, s.failure
                ):
                    return False
    return True


@njit(nogil=True, cache=True)
def keep_absent(s, turn):  # type: ignore[no-untyped-def]
    """Queue the copies of the states of those that take no part; one that begins anew next time has none."""
    width = 4 * s.hidden
    for stream in range(s.fresh.size):
        if s.absent[stream] and not s.fresh[stream]:
            for k in range(2):
                place = stream * width
                if not cuda.copy_rows(
                    s.runtime,
                    s.states[1 - turn, k] + place,
                    s.states[turn, k] + place,
                    s.fresh.size * width,
                    width,
                    s.layers,
                    s.failure,
                ):
                    return False
    return True


@njit(nogil=True, cache=True)
def dry_run(s):  # type: ignore[no-untyped-def]
    """As `ort.dry_run`."""
    if run(s, s.options[DRY], s.values[DRY, 0], s.values[DRY, 1]):
        cuda.wait(s.runtime, s.failure)


class DeviceRowsNetwork:
    """One session of `model` for `streams` streams; `compiled` is what Numba functions take.

    Parameters
    ----------
    device
        see `ortsession.Session`; one there must be.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    together = True  # one call takes all streams

    def __init__(self, model: Model, streams: int, provider: str = "cuda", device: Device | None = None) -> None:
        self.provider = provider
        self._session = session = Session(model, provider, device)
        assert session.device
        contract, self._device = model.contract, session.device
        shapes = contract.shapes(streams)
        seen, given = shapes[contract.sees], shapes[contract.gives]
        mag, mag_crossing = self._device.twin(seen)
        mask, mask_crossing = self._device.twin(given)
        states = np.array([[self._device.on_device(shapes["h"]) for _ in "hc"] for _ in "AB"], np.int64)
        to, back = (session.tensor_there(c.device, shape) for c, shape in ((mag_crossing, seen), (mask_crossing, given)))
        a, b = ([session.tensor_there(int(place), shapes["h"]) for place in places] for places in states)
        dry_mag, dry_mask, *dry = (
            session.tensor_there(self._device.on_device(shape), shape) for shape in (seen, given, *[shapes["h"]] * 4)
        )
        values = [[[to, *a], [back, *b]], [[to, *b], [back, *a]], [[dry_mag, *dry[:2]], [dry_mask, *dry[2:]]]]
        self._plain = session.options()
        self._numbered = [session.options(1 + turn) for turn in _TURNS] if session.graphs else []
        self.compiled = DeviceRows(
            **session.call(),  # type: ignore[arg-type]
            turn=np.zeros(1, np.int64),
            values=np.array(values, np.int64),
            options=np.full(len(_TURNS), self._plain, np.int64),
            runtime=self._device.runtime,
            mag_crossing=mag_crossing,
            mask_crossing=mask_crossing,
            states=states,
            layers=contract.layers,
            hidden=contract.hidden,
            mag=mag[:, 0],
            mask=mask[:, 0],
            fresh=np.ones(streams, np.int64),
            absent=np.zeros(streams, np.int64),
        )
        dry_run(self.compiled)
        if self.error:
            session.fail_at_once()

    @property
    def notes(self) -> list[str]:
        """What this network does not do here, and why."""
        return self._session.notes

    def warm(self) -> None:
        """As `ort.NativeNetwork.warm`."""
        if self._session.graphs:
            self._session.graphs = cudagraph.capture(
                self._session, self._plain, self._numbered, self.compiled.options, self._play
            )
            self.reset()

    def _play(self, seed: int) -> NDArray[np.float32] | None:
        """Masks of all turns on noise, None when one failed."""
        s = self.compiled
        s.mag[:] = np.random.default_rng(seed).random(s.mag.shape) ** 4
        masks, members, stepped = [], np.arange(len(s.mag)), np.zeros(len(s.mag), np.int64)
        s.turn[0], s.fresh[:] = 0, 1
        for _ in range(2):
            step(s, members, stepped)
            masks.append(s.mask.copy())
        dry_run(s)
        return np.array(masks) if stepped.all() and not s.failure[0] else None

    def reset(self) -> None:
        """Start all streams again from a zero state, and forget the first failure."""
        self.compiled.fresh[:] = 1
        self._session.forgive()

    @property
    def error(self) -> str | None:
        """What the first failed step since `reset` said."""
        return self._session.error

    def close(self) -> None:
        """Give everything back. Must not be called while a step runs."""
        self._session.close()
