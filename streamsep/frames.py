"""Many hops at once: the engine for sound that is all there already, on the engine's own state.

A hop by itself leaves a processor's vector units half empty: its transforms are two, and a network step streams all weights
through the cache for one frame. Here `FRAMES` hops go through each stage together.

**Transforms** of many frames are computed side by side in the lanes of a vector, each by the operations that it would get
alone: the same bits in less than half the time.

**The network** takes many frames a call where that changes nothing to speak of, which it is asked by trying
(`frames_are_independent`). Our int8 files give the same bits then, fp32 and fp16 move a sample by less than 1e-5. A file that
chooses the scale of its activations for the whole call (`DynamicQuantizeLSTM`) lets frames coarsen each other: there every
frame is a call of its own, from compiled code.

All that survives a call is the `Separator`'s state; a call of many hops may follow single ones, and the other way round. The
controls are not looked at: gains are for those who listen. This module knows no file and no thread.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import rocket_fft
from numba import njit
from numpy.typing import NDArray

from . import engine, native, ort, stft
from .engine import Separator
from .model import Contract

FRAMES = 16  # hops of a call: their spectra still fit a processor's own cache
TOLERANCE = 1e-5  # of a mask's value, hence of a sample


class Work(NamedTuple):
    """Work space for `FRAMES` hops, overwritten each call; C-contiguous."""

    line: NDArray[np.float32]  # [shape=(channels, n_fft + FRAMES * hop)]: the history, then the new samples
    wave: NDArray[np.float32]  # [shape=(FRAMES, channels, n_fft)]: windowed frames, then those of a source
    spectrum: NDArray[np.complex64]  # [shape=(FRAMES, channels, n_bins)]
    masked: NDArray[np.complex64]  # [shape=(sources - 1, FRAMES, channels, n_bins)]
    last: NDArray[np.complex64]  # [shape=(1, channels, bins)]: the newest of `Transform.past` before a frame
    mag: NDArray[np.float32]  # [shape=(FRAMES, n_bins of the network)], a view of its input
    directions: NDArray[np.float32]  # [shape=(FRAMES, 4, bins)], a view of its input (see `engine.Hop`)
    mask: NDArray[np.float32]  # [shape=(FRAMES, sources, n_bins of the network)], a view of its output
    filters: NDArray[np.float32]  # [shape=(FRAMES, ...)], a view of its output
    held: NDArray[np.float32]  # [shape=(FRAMES, sources, n_bins)]: the mask of each hop
    held_filters: NDArray[np.float32]  # [shape=(FRAMES, ...)]: its filters
    stepped: NDArray[np.int64]  # [shape=(FRAMES,)]: whether the network gave one
    axis: NDArray[np.int64]  # [shape=(1,)]: the axis that rocket-fft transforms


# ---------------------------------------------------------------------------------------------------------- compiled path


@njit(nogil=True, cache=True)
def analyse(s, w, x):  # type: ignore[no-untyped-def]
    """The hops of `x` `[shape=(channels, hops * hop_length)]` to `w.spectrum` and `w.mag`."""
    mode = native.flush_denormals()
    t, hop = s.transform, s.y.shape[2]
    channels, n_fft = t.history.shape
    hops = x.shape[1] // hop
    for c in range(channels):
        w.line[c, :n_fft] = t.history[c]
        for n in range(x.shape[1]):
            good = abs(x[c, n]) <= engine.LIMIT  # not so for NaN
            w.line[c, n_fft + n] = x[c, n] if good else np.float32(0)
            s.counts[engine.BAD_SAMPLES] += not good
    for k in range(hops):
        for c in range(channels):
            for n in range(n_fft):
                w.wave[k, c, n] = w.line[c, (k + 1) * hop + n] * t.analysis[n]
    rocket_fft.r2c(w.wave[:hops], w.spectrum[:hops], w.axis, True, 1.0, 1)
    w.last[:] = t.past[: w.last.shape[0]]
    for k in range(hops):
        engine.look(s, w.spectrum[k], w.last, w.mag[k], w.directions[k])
        stft.pass_on(w.spectrum[k], t.turn, w.last)
    native.restore_denormals(mode)


@njit(nogil=True, cache=True)
def step_each(s, w, step, hops):  # type: ignore[no-untyped-def]
    """A network step for each hop, as `engine.hop` makes it."""
    mode = native.flush_denormals()
    for k in range(hops):
        s.mag[:] = w.mag[k]
        s.directions[:] = w.directions[k]
        w.stepped[k] = ort.step(step)
        w.mask[k] = s.mask
        w.filters[k] = s.filters
        if not keep(s, w, k):
            step.turn[0] = ort.FROM_ZERO
    native.restore_denormals(mode)


@njit(nogil=True, cache=True)
def keep(s, w, k):  # type: ignore[no-untyped-def]
    """The mask of hop `k`, or the last good one, and its filters; False when the network gave something that is none."""
    good = True
    w.held_filters[k] = 0
    if w.stepped[k]:
        good = engine.take_mask(w.mask[k], s.held) and engine.take_filters(w.filters[k], w.held_filters[k])
        s.counts[engine.BAD_MASKS] += not good
    else:
        s.counts[engine.FAILED_STEPS] += 1
    w.held[k] = s.held
    return good


@njit(nogil=True, cache=True)
def keep_all(s, w, hops):  # type: ignore[no-untyped-def]
    """`keep` for every hop of a call; whether all were good."""
    mode = native.flush_denormals()
    good = True
    for k in range(hops):
        good &= keep(s, w, k)
    native.restore_denormals(mode)
    return good


@njit(nogil=True, cache=True)
def synthesise(s, w, hops, y):  # type: ignore[no-untyped-def]
    """The masked hops to `y` `[shape=(sources, channels, hops * hop_length)]`, as `stft.synthesise` does one."""
    mode = native.flush_denormals()
    t = s.transform
    sources, channels, hop = s.y.shape
    n_fft = t.history.shape[1]
    first = n_fft - t.synthesis.size + hop
    y[sources - 1] = w.line[:, first : first + hops * hop]
    for k in range(hops):
        for i in range(sources - 1):
            stft.mask(w.spectrum[k], w.held[k, i], w.masked[i, k])
            stft.add_filtered(w.spectrum[k], t.past, w.held_filters[k, i], w.masked[i, k])
        stft.pass_on(w.spectrum[k], t.turn, t.past)
    for i in range(sources - 1):
        rocket_fft.c2r(w.masked[i, :hops], w.wave[:hops], w.axis, False, 1.0 / n_fft, 1)
        for k in range(hops):
            stft.overlap_add(t, i, w.wave[k], y[:, :, k * hop : (k + 1) * hop])
    for c in range(channels):
        t.history[c] = w.line[c, hops * hop : hops * hop + n_fft]
    s.counts[engine.HOPS] += hops
    native.restore_denormals(mode)


# ------------------------------------------------------------------------------------------------------------- the object


class Frames:
    """`separator`, `FRAMES` hops at a time.

    Parameters
    ----------
    together
        whether the network takes many frames a call. None: on the CPU, where that moves no sample by more than 1e-5.
    """

    def __init__(self, separator: Separator, together: bool | None = None) -> None:
        self.separator = separator
        self.samples = FRAMES * separator.geometry.hop_length  # of a call, at most
        network, contract = separator.network, separator.model.contract
        shapes = contract.shapes(frames=FRAMES)
        seen, given = (np.zeros(shapes[name][1:], np.float32) for name in (contract.sees, contract.gives))
        self._work = _make_work(separator, seen, given)
        if together is None:
            together = network.provider == "cpu" and frames_are_independent(network, contract)
        self._many = network.many(seen, given) if together else None

    def process(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Separate whole hops.

        Parameters
        ----------
        x : float32 [shape=(channels, hops * hop_length)]
            C-contiguous, `FRAMES` hops at most.

        Returns
        -------
        float32 [shape=(sources, channels, hops * hop_length)]
            the sources, late by `latency - hop_length`: no hop has to be gathered first.
        """
        s, w = self.separator.state, self._work
        hops = x.shape[1] // self.separator.geometry.hop_length
        y = np.empty((len(self.separator.sources), *x.shape), np.float32)
        analyse(s, w, x)
        self._step(hops)
        synthesise(s, w, hops, y)
        return y

    def _step(self, hops: int) -> None:
        network, s, w = self.separator.network, self.separator.state, self._work
        if self._many:
            w.stepped[:hops] = self._many(hops)
            if not keep_all(s, w, hops):
                network.reset()
        elif isinstance(network, ort.NativeNetwork):
            step_each(s, w, network.compiled, hops)
        else:
            for k in range(hops):
                s.mag[:] = w.mag[k]
                s.directions[:] = w.directions[k]
                w.stepped[k] = network.step()
                w.mask[k] = s.mask
                w.filters[k] = s.filters
                if not keep(s, w, k):
                    network.reset()


def frames_are_independent(network: ort.Network, contract: Contract) -> bool:
    """Whether frames in one call get the masks that they get one by one, to `TOLERANCE`; asked by trying, on noise."""
    seen, given = (contract.shapes()[name][2:] for name in (contract.sees, contract.gives))
    random = np.random.default_rng(0)
    mag = (random.random((FRAMES, *seen)) ** 4 * 10.0 ** random.uniform(-4, 0, (FRAMES, 1))).astype(np.float32)
    together, single = np.empty((2, FRAMES, *given), np.float32)
    good = network.many(mag, together, apart=True)(FRAMES)
    frame, mask = mag[:1].copy(), single[:1].copy()
    step = network.many(frame, mask, apart=True)
    for k in range(FRAMES):
        frame[:] = mag[k]
        good = step(1) and good
        single[k] = mask
    return good and float(np.abs(together - single).max()) <= TOLERANCE


def _make_work(separator: Separator, seen: NDArray[np.float32], given: NDArray[np.float32]) -> Work:
    geometry, channels, transform = separator.geometry, separator.channels, separator.state.transform
    sources, n_fft, n_bins = len(separator.sources), geometry.n_fft, geometry.n_bins
    mag, directions, mask, filters = engine.parts(separator.model.contract, seen, given)
    return Work(
        line=np.zeros((channels, n_fft + FRAMES * geometry.hop_length), np.float32),
        wave=np.zeros((FRAMES, channels, n_fft), np.float32),
        spectrum=np.zeros((FRAMES, channels, n_bins), np.complex64),
        masked=np.zeros((sources - 1, FRAMES, channels, n_bins), np.complex64),
        last=np.zeros_like(transform.past[:1]),
        mag=mag,
        directions=directions,
        mask=mask,
        filters=filters,
        held=np.zeros((FRAMES, sources, n_bins), np.float32),
        held_filters=engine.filters_like(filters),
        stepped=np.zeros(FRAMES, np.int64),
        axis=np.full(1, 2, np.int64),
    )
