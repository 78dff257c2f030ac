"""The network for many streams: one call of exactly as many rows as streams have a hop ready, each with its own state.

Every stream's state lies by itself, in `state`. A call gathers the states of those that take part into tensors of so many rows,
made once for every number of rows over the same memory, and scatters the new states back when it went well. So a stream that
takes no part, or took part in a step that failed, keeps the state that it had; and a call costs what its rows cost.

**Rows are computed together only where that changes no bit of any of them**: `rows_are_independent` asks the network itself.
A stream must not hear whether others are there. Our int8 files change none (`export/int8.py`). Two things
couple rows, and such files are stepped row by row:

  - `DynamicQuantizeLSTM` and `DynamicQuantizeLinear` choose one scale for the whole call: a loud row coarsens the others, masks
    move by some hundredths. `onnxruntime.quantization` makes such files.
  - Sums and logarithms over a number of bins that is no multiple of a vector start each row at another lane: the last bit
    differs, and the LSTM amplifies that.

This is for the CPU; on CUDA the states stay on the device (`devicerows`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .model import Model
from .ortsession import Session, run

_PROBE_STEPS = 3
_PROBE_ALL = 16  # every number of rows up to this one, then the doubled ones and the most


class Rows(NamedTuple):
    """What compiled code needs; float32 and C-contiguous unless said. `failure` as in `ort.Step`.

    The first five and `failure` are `ortsession.Session.call`'s.
    """

    run: int
    release_status: int
    session: int
    names_in: int
    names_out: int
    failure: NDArray[np.int64]
    most: int  # rows of one call
    values: NDArray[np.int64]  # [shape=(most, 2, 3)]: OrtValue pointers: rows - 1, inputs or outputs, tensor
    mag: NDArray[np.float32]  # [shape=(streams, n_bins)]: each stream's own; with filters, a `spectrum`
    mask: NDArray[np.float32]  # [shape=(streams, sources, n_bins)]: each stream's own; with filters, a `filter`
    state: NDArray[np.float32]  # [shape=(streams, 2, layers, hidden)]: each stream's h and c
    fresh: NDArray[np.int64]  # [shape=(streams,)]: 1 where the next step begins with a zero state
    rows_mag: NDArray[np.float32]  # like mag, [shape=(most, ...)]: the call's, the first rows of it
    rows_mask: NDArray[np.float32]  # like mask, [shape=(most, ...)]
    rows_state: NDArray[np.float32]  # [shape=(4, layers * most * hidden)]: h, c, h_out, c_out; each (layers, rows, hidden)


@njit(nogil=True, cache=True)
def step(s, members, stepped):  # type: ignore[no-untyped-def]
    """One hop of the streams `members` `[shape=(n,)]`; `stepped` `[shape=(streams,)]` says of each whether it went well."""
    done = 0
    while done < members.size:
        rows = members[done : done + s.most]
        gather(s, rows)
        good = run(s, 0, s.values[rows.size - 1, 0], s.values[rows.size - 1, 1])
        if good:
            scatter(s, rows)
        for stream in rows:
            stepped[stream] = good
        done += rows.size


@njit(nogil=True, cache=True)
def gather(s, rows):  # type: ignore[no-untyped-def]
    """The magnitudes and states of the streams `rows` into the call's tensors."""
    layers, hidden = s.state.shape[2:]
    for r in range(rows.size):
        stream = rows[r]
        s.rows_mag[r] = s.mag[stream]
        if s.fresh[stream]:
            s.state[stream] = 0
        for k in range(2):
            for layer in range(layers):
                first = (layer * rows.size + r) * hidden
                s.rows_state[k, first : first + hidden] = s.state[stream, k, layer]


@njit(nogil=True, cache=True)
def scatter(s, rows):  # type: ignore[no-untyped-def]
    """The call's masks and new states to the streams `rows`."""
    layers, hidden = s.state.shape[2:]
    for r in range(rows.size):
        stream = rows[r]
        s.mask[stream] = s.rows_mask[r]
        s.fresh[stream] = 0
        for k in range(2):
            for layer in range(layers):
                first = (layer * rows.size + r) * hidden
                s.state[stream, k, layer] = s.rows_state[2 + k, first : first + hidden]


class RowsNetwork:
    """One session of `model` for `streams` streams; `compiled` is what Numba functions take.

    Parameters
    ----------
    together
        whether a call takes all rows that are ready. None: where no row changes another by a bit.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    provider = "cpu"
    notes: Sequence[str] = ()

    def __init__(self, model: Model, streams: int, together: bool | None = None) -> None:
        self._session = Session(model, self.provider)
        self._model, self._streams = model, streams
        self.compiled = self._make(streams)
        if together is None:
            together = rows_are_independent(self)
        if not together:
            self.compiled = self._make(1)

    def _make(self, most: int) -> Rows:
        contract, session, streams = self._model.contract, self._session, self._streams
        layers, hidden, shapes = contract.layers, contract.hidden, contract.shapes()
        seen, given = shapes[contract.sees][2:], shapes[contract.gives][2:]
        mag, mask = np.zeros((most, *seen), np.float32), np.zeros((most, *given), np.float32)
        state = np.zeros((4, layers * most * hidden), np.float32)
        values = np.empty((most, 2, 3), np.int64)
        for rows in range(1, most + 1):
            shapes = contract.shapes(rows)
            h, c, h_out, c_out = (session.tensor(part, shapes["h"]) for part in state)
            values[rows - 1] = [
                [session.tensor(mag, shapes[contract.sees]), h, c],
                [session.tensor(mask, shapes[contract.gives]), h_out, c_out],
            ]
        return Rows(
            **session.call(),  # type: ignore[arg-type]
            most=most,
            values=values,
            mag=np.zeros((streams, *seen), np.float32),
            mask=np.zeros((streams, *given), np.float32),
            state=np.zeros((streams, 2, layers, hidden), np.float32),
            fresh=np.ones(streams, np.int64),
            rows_mag=mag,
            rows_mask=mask,
            rows_state=state,
        )

    @property
    def together(self) -> bool:
        """Whether all streams that are ready go through the network in one call."""
        return self.compiled.most == self._streams

    def reset(self) -> None:
        """Start all streams again from a zero state, and forget the first failure."""
        self.compiled.fresh[:] = 1
        self._session.forgive()

    @property
    def error(self) -> str | None:
        """What the first failed step since `reset` said."""
        return self._session.error

    def warm(self) -> None:
        """Nothing: see `ort.NativeNetwork.warm`."""

    def close(self) -> None:
        """Give everything back. Must not be called while a step runs."""
        self._session.close()


def rows_are_independent(network: RowsNetwork) -> bool:
    """Whether every stream gets the same bits whoever else is in the call, and in whatever row it is; asked by trying.

    Some hops of noise at levels far apart, each stream alone, then with others: every number of rows that a small batch can
    have, and some of a large one. `network` is left reset.
    """
    s, streams = network.compiled, network.compiled.mag.shape[0]
    random = np.random.default_rng(0)
    levels = 10.0 ** random.uniform(-4, 0, (streams, 1))
    frames = (random.random((_PROBE_STEPS, streams, s.mag.shape[1])) ** 4 * levels).astype(np.float32)
    alone = _masks(network, frames, 1)
    sizes = sorted({*range(2, min(streams, _PROBE_ALL) + 1), *(2**k for k in range(5, streams.bit_length())), streams})
    return all(np.array_equal(alone, _masks(network, frames, size)) for size in sizes)


def _masks(network: RowsNetwork, frames: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Masks of all streams after each of `frames` `[shape=(steps, streams, n_bins)]`, in calls of `size` rows."""
    s = network.compiled
    stepped, streams = np.zeros(len(s.mag), np.int64), np.arange(len(s.mag))
    network.reset()
    masks = []
    for frame in frames:
        s.mag[:] = frame
        for first in range(0, len(streams), size):
            step(s, streams[first : first + size], stepped)
        masks.append(s.mask.copy())
    network.reset()
    return np.array(masks)
