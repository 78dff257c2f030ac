"""Separator: samples in, stems out. The one engine behind file, live, tests and bench.

It knows no thread, device, file, socket or clock. All that survives from hop to hop is a named array in `Hop`, allocated
once and cleared by `reset()`. A hop (analysis, network step, masks, synthesis, gains) is one compiled function without the
GIL; only where ONNX Runtime has no C library does Python stand between its two halves.

Block and hop: `process` takes blocks of any length and always gives back as many samples as it got, late by exactly
`latency` samples, which is the length of the synthesis window. Cutting a signal into other blocks changes no sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from . import controls, native, ort, stft
from .controls import GAIN_DB, Controls, Steering, make_controls
from .model import Contract, Model

__all__ = ["GAIN_DB", "Separator"]

CHANNELS = (1, 8)
LOUDEST_FILTER = 1e3  # a filter with a larger part is none
LIMIT = 1e6  # a louder sample (120 dB over full scale) is a fault of the device, not sound
TOP_BAND = 8  # the mask above the network's band is its mean over the band's top eighth

HOPS, BAD_SAMPLES, FAILED_STEPS, BAD_MASKS = range(4)
COUNTS = ("hops", "bad_samples", "failed_steps", "bad_masks")


class Hop(NamedTuple):
    """The engine's state and work space, as compiled code takes it. float32 and C-contiguous unless said."""

    transform: stft.Transform
    mag: NDArray[np.float32]  # [shape=(n_bins of the network,)], a view of the network's input
    directions: NDArray[np.float32]  # [shape=(4, bins)], a view of its input (see `stft.directions`); no bins: it sees none
    mask: NDArray[np.float32]  # [shape=(sources, n_bins of the network)], a view of its output
    filters: NDArray[np.float32]  # [shape=(groups, sources - 1, taps, 2 near + 1, 2, group)], of its output, too; may be empty
    held: NDArray[np.float32]  # [shape=(sources, n_bins)]: the mask in use, kept when a step fails
    held_filters: NDArray[np.float32]  # [shape=(sources - 1, taps, 2 near + 1, 2, reach)]: this hop's; 0 where it has none
    mag_scale: float
    controls: Controls
    x: NDArray[np.float32]  # [shape=(channels, hop_length)]: the hop being filled
    y: NDArray[np.float32]  # [shape=(sources, channels, hop_length)]: the hop being handed out
    fill: NDArray[np.int64]  # [shape=(1,)]: samples of both that are done
    counts: NDArray[np.int64]  # [shape=(len(COUNTS),)]


# ---------------------------------------------------------------------------------------------------------- compiled path


@njit(nogil=True, cache=True)
def before_network(s):  # type: ignore[no-untyped-def]
    """From the hop `s.x` to the network's input, `s.mag` and `s.directions`."""
    listen(s)
    look(s, s.transform.spectrum, s.transform.past, s.mag, s.directions)


@njit(nogil=True, cache=True)
def look(s, spectrum, past, mag, directions):  # type: ignore[no-untyped-def]
    """The network's input, `mag` and `directions`, of a frame's `spectrum` and the frames in its `past`."""
    stft.downmix_magnitude(spectrum, s.mag_scale, mag)
    if directions.shape[1] > 0:
        stft.directions(spectrum, past[0], s.mag_scale, directions)


@njit(nogil=True, cache=True)
def listen(s):  # type: ignore[no-untyped-def]
    """Take the hop `s.x` into the transform."""
    for c in range(s.x.shape[0]):
        for n in range(s.x.shape[1]):
            if not abs(s.x[c, n]) <= LIMIT:  # catches NaN too
                s.x[c, n] = 0
                s.counts[BAD_SAMPLES] += 1
    stft.analyse(s.transform, s.x)


@njit(nogil=True, cache=True)
def after_network(s, stepped):  # type: ignore[no-untyped-def]
    """From the network's output `s.mask` to the finished hop `s.y`; False when the network's state is to be dropped.

    That is when its mask was not one, or on a reset. Without a new mask the last good one is used again.
    """
    good = True
    if stepped:
        good = take_mask(s.mask, s.held) and take_filters(s.filters, s.held_filters)
        s.counts[BAD_MASKS] += not good
    else:
        s.counts[FAILED_STEPS] += 1
    finish(s)
    return good and not controls.forgotten(s.controls)


@njit(nogil=True, cache=True)
def finish(s):  # type: ignore[no-untyped-def]
    """The finished hop `s.y`, through the mask in use, and through the filters that were taken for it: they follow phases, and
    are of no use to another hop."""
    stft.synthesise(s.transform, s.held, s.held_filters, s.y)
    s.held_filters[:] = 0
    controls.apply(s.controls, s.transform, s.held, s.y)
    s.counts[HOPS] += 1


@njit(nogil=True, cache=True)
def take_mask(mask, held):  # type: ignore[no-untyped-def]
    """Copy the network's mask to the device's bins, holding the top band's mean above it; False if it is not a mask."""
    sources, known = mask.shape
    for i in range(sources):
        for k in range(known):
            if not (mask[i, k] >= 0 and mask[i, k] <= 1.001):
                return False
    n_bins = held.shape[1]
    band = known // TOP_BAND
    for i in range(sources):
        top = np.float32(0)
        for k in range(known - band, known):
            top += mask[i, k]
        top /= band
        for k in range(n_bins):
            held[i, k] = mask[i, k] if k < known else top
    return True


@njit(nogil=True, cache=True)
def take_filters(filters, held):  # type: ignore[no-untyped-def]
    """Copy the network's filters, bin by bin in one row; False, and none, if they are not filters."""
    good = True
    for g in range(filters.shape[0]):
        group = filters[g]
        first = g * group.shape[4]
        for i, tap, n, part in np.ndindex(group.shape[:4]):
            for k in range(group.shape[4]):
                value = group[i, tap, n, part, k]
                good &= abs(value) <= LOUDEST_FILTER  # not so for NaN
                held[i, tap, n, part, first + k] = value
    if not good:
        held[:] = 0
    return good


@njit(nogil=True, cache=True)
def hop(s, step):  # type: ignore[no-untyped-def]
    """One whole hop from `s.x` to `s.y`; `step` is the network's `ort.Step`."""
    before_network(s)
    if not after_network(s, ort.step(step)):
        step.turn[0] = ort.FROM_ZERO


@njit(nogil=True, cache=True)
def learn(s, stepped):  # type: ignore[no-untyped-def]
    """Keep the mask of a network that `stepped` too late for its own hop: it is the last one now.

    False when the network's state is to be dropped, as its mask was not one.
    """
    if not stepped:
        s.counts[FAILED_STEPS] += 1
        return True
    good = take_mask(s.mask, s.held)
    s.counts[BAD_MASKS] += not good
    return good


@njit(nogil=True, cache=True)
def clear(s):  # type: ignore[no-untyped-def]
    """Forget all that was heard: every array, the counters, the ramps; the controls stay as set."""
    s.transform.history[:] = 0
    s.transform.overlap[:] = 0
    s.transform.past[:] = 0
    s.held[:] = 1 / s.held.shape[0]
    s.held_filters[:] = 0
    controls.settle(s.controls)
    s.x[:] = 0
    s.y[:] = 0
    s.fill[:] = 0
    s.counts[:] = 0


@njit(nogil=True, cache=True)
def feed(s, block, out, start):  # type: ignore[no-untyped-def]
    """Move samples from `block` into `s.x` and from `s.y` into `out`, up to the end of the hop; the next start."""
    fill = s.fill[0]
    n = min(s.x.shape[1] - fill, block.shape[1] - start)
    s.x[:, fill : fill + n] = block[:, start : start + n]
    out[:, :, start : start + n] = s.y[:, :, fill : fill + n]
    s.fill[0] = fill + n
    return start + n


@njit(nogil=True, cache=True)
def process(s, step, block, out):  # type: ignore[no-untyped-def]
    """`block` `[shape=(channels, samples)]` to `out` `[shape=(sources, channels, samples)]`."""
    mode = native.flush_denormals()  # as the live path does
    start = 0
    while start < block.shape[1]:
        start = feed(s, block, out, start)
        if s.fill[0] == s.x.shape[1]:
            hop(s, step)
            s.fill[0] = 0
    native.restore_denormals(mode)


# ------------------------------------------------------------------------------------------------------------- the object


class Engine(Steering):
    """What an engine is to those who steer and watch it, whoever steps it: a `Separator`, or one of a `batch.Batch`.

    Raises
    ------
    ValueError
        a rate or channel count outside its range.
    """

    state: Hop
    provider_notes: Sequence[str] = ()  # why the network runs nowhere better

    def __init__(self, model: Model, sample_rate: int, channels: int) -> None:
        if not CHANNELS[0] <= channels <= CHANNELS[1]:
            raise ValueError(f"channels={channels} is out of range: expected {CHANNELS[0]} to {CHANNELS[1]}")
        super().__init__()
        self.model = model
        self.sources = model.contract.sources
        self.sample_rate = sample_rate
        self.channels = channels
        self.geometry = stft.Geometry.at(model.contract, sample_rate)

    def _attach(self, seen: NDArray[np.float32], given: NDArray[np.float32]) -> None:
        """Take one frame of the network's input and of its output, as the contract's `shapes` have them."""
        self.state = _make_state(self.geometry, self.model.contract, seen, given, self.channels)
        self.controls = self.state.controls

    @property
    def latency(self) -> int:
        """Samples by which the output is late, whatever the blocks: the algorithmic latency."""
        return self.geometry.synthesis_length

    @property
    def counts(self) -> dict[str, int]:
        """Hops done, input samples replaced, network steps failed and masks refused since it was begun anew."""
        return dict(zip(COUNTS, map(int, self.state.counts), strict=True))


class Separator(Engine):
    """Separates a stream of samples into sources.

    Parameters
    ----------
    model
        A loaded model file (`model.load`).
    sample_rate
        Hz, 8000 to 192000: the rate of input and output; nothing is resampled.
    channels
        1 to 8; all get the mask that the network makes from their mean.
    provider
        "auto", "cpu" or "cuda" (see `ort.open_network`).
    use_c_api
        False: step through `InferenceSession.run`, the reference.

    Raises
    ------
    ValueError
        a rate, channel count or provider outside its range.
    ort.OrtError
        the provider that was asked for does not work here.
    """

    def __init__(self, model: Model, sample_rate: int, channels: int, provider: str = "auto", use_c_api: bool = True) -> None:
        super().__init__(model, sample_rate, channels)
        self.network, self.provider_notes = ort.open_network(model, provider, use_c_api)
        self._attach(self.network.mag[0, 0], self.network.mask[0, 0])
        self.reset()

    @property
    def provider(self) -> str:
        """Where the network runs: "cpu" or "cuda"."""
        return self.network.provider

    @property
    def native(self) -> bool:
        """Whether a hop runs without Python (through ONNX Runtime's C API)."""
        return isinstance(self.network, ort.NativeNetwork)

    @property
    def error(self) -> str | None:
        """What the first failed network step since the last `reset` said."""
        return self.network.error

    def process(self, block: ArrayLike, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Separate one block.

        Parameters
        ----------
        block : float32 [shape=(channels, samples)]
            any number of samples, 0 included; full scale is 1.0. NaN, Inf and absurdly large samples count as silence.
        out : float32 [shape=(sources, channels, samples)], optional
            where to put the result; else a new array is made.

        Returns
        -------
        float32 [shape=(sources, channels, samples)]
            the sources, late by `latency`; with all gains at 0 dB they add up to the delayed input.

        Raises
        ------
        ValueError
            a wrong shape, or an `out` that cannot be written in place.
        """
        x = np.ascontiguousarray(block, np.float32)
        if x.ndim != 2 or x.shape[0] != self.channels:
            raise ValueError(f"block has shape {np.shape(block)}: expected ({self.channels}, samples)")
        shape = (len(self.sources), *x.shape)
        if out is None:
            out = np.empty(shape, np.float32)
        elif out.shape != shape or out.dtype != np.float32 or not (out.flags.c_contiguous and out.flags.writeable):
            raise ValueError(f"out has shape {out.shape} {out.dtype}: expected {shape}, float32, C-contiguous, writeable")
        if isinstance(self.network, ort.NativeNetwork):
            process(self.state, self.network.compiled, x, out)
        else:
            self._process_reference(x, out)
        return out

    def _process_reference(self, block: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        start = 0
        while start < block.shape[1]:
            start = feed(self.state, block, out, start)
            if self.state.fill[0] == self.geometry.hop_length:
                self.hop()
                self.state.fill[0] = 0

    def hop(self) -> None:
        """One hop from `state.x` to `state.y`, with Python between its halves if it must be (see `native`)."""
        if isinstance(self.network, ort.NativeNetwork):
            hop(self.state, self.network.compiled)
            return
        before_network(self.state)
        if not after_network(self.state, self.network.step()):
            self.network.reset()

    def flush(self) -> NDArray[np.float32]:
        """The tail: what `latency` samples of silence push out, `[shape=(sources, channels, latency)]`; then `reset`."""
        tail = self.process(np.zeros((self.channels, self.latency), np.float32))
        self.reset()
        return tail

    def reset(self) -> None:
        """Forget all that was heard: the network's state, every array, the counters, the ramps; the controls stay as set."""
        self.network.reset()
        clear(self.state)


class Parts(NamedTuple):
    """Views of a network's input and output, of one frame or of as many as there are."""

    mag: NDArray[np.float32]  # of the input, [shape=(..., n_bins)]
    directions: NDArray[np.float32]  # of the input, [shape=(..., 4, bins)]
    mask: NDArray[np.float32]  # of the output, [shape=(..., sources, n_bins)]
    filters: NDArray[np.float32]  # of the output, [shape=(..., groups, sources - 1, taps, 2 near + 1, 2, group)]


def parts(contract: Contract, seen: NDArray[np.float32], given: NDArray[np.float32]) -> Parts:
    """Where in frames of the contract's input `[shape=(..., n)]` and output things lie; no bins and no taps without filters."""
    sources, n_bins, f = len(contract.sources), contract.n_bins, contract.filters
    if f is None:
        frames = seen.shape[:-1]
        nothing = np.zeros((*frames, 4, 0), np.float32), np.zeros((*frames, 0, sources - 1, 0, 1, 2, 0), np.float32)
        return Parts(seen, nothing[0], given, nothing[1])
    frames = given.shape[:-1]
    return Parts(
        seen[..., :n_bins],
        seen[..., n_bins:].reshape(*frames, 4, f.seen),
        given[..., : sources * n_bins].reshape(*frames, sources, n_bins),
        given[..., sources * n_bins :].reshape(*frames, f.groups, sources - 1, f.taps, f.bins, 2, f.group),
    )


def filters_like(filters: NDArray[np.float32]) -> NDArray[np.float32]:
    """Room for a network's filters, `[shape=(..., groups, sources - 1, taps, 2 near + 1, 2, group)]`, for `take_filters`."""
    *frames, groups, sources, taps, bins, parts, group = filters.shape
    return np.zeros((*frames, sources, taps, bins, parts, groups * group), np.float32)


def _make_state(
    geometry: stft.Geometry, contract: Contract, seen: NDArray[np.float32], given: NDArray[np.float32], channels: int
) -> Hop:
    sources = len(contract.sources)
    mag, directions, mask, filters = parts(contract, seen, given)
    transform = stft.make_transform(geometry, channels, sources, contract.filters)
    return Hop(
        transform=transform,
        mag=mag,
        directions=directions,
        mask=mask,
        filters=filters,
        held=np.zeros((sources, geometry.n_bins), np.float32),
        held_filters=filters_like(filters),
        mag_scale=stft.mag_scale(transform.analysis),
        controls=make_controls(sources),
        x=np.zeros((channels, geometry.hop_length), np.float32),
        y=np.zeros((sources, channels, geometry.hop_length), np.float32),
        fill=np.zeros(1, np.int64),
        counts=np.zeros(len(COUNTS), np.int64),
    )
