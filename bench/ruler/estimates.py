"""A mixture to its sources, in one of three ways, each at the engine's rate and level and brought back to the mixture's.

runtime   the engine that ships (`streamsep.engine.Separator`), hop by hop in compiled code, its latency removed
whole     the network over the whole recording in one call, between transforms written here in numpy: no line of the engine
          but its windows. With fp32 it must give what `runtime` gives.
oracle    the model's windows with the ratio mask of the true sources, |s_i| / sum |s_j|: what masks of this kind can do

The sources of a mixture add up to it. That is looked at each time, because BSS Eval forgives a delay of up to 511 samples: a
latency that was not removed, or one source a hop late, would hardly show in its figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

import streamsep  # isort: skip # noqa: F401 - first: ONNX Runtime then reports to nobody
import onnxruntime
import soxr
from numpy.typing import NDArray

from streamsep import stft
from streamsep.engine import TOP_BAND, Separator
from streamsep.model import Model, load

from .ratios import Array, sdr
from .recordings import SOURCES, QualityError

WAYS = ("runtime", "whole", "oracle")
ADDS_UP = 60.0  # dB of the mixture over what the sources do not add up to; float32 gives above 120
LEVEL = -6.0

Sound = NDArray[np.float32]


@dataclass(frozen=True)
class Case:
    """Who separates, and under what conditions.

    Attributes
    ----------
    model
        a shipped name or a path.
    way
        one of `WAYS`.
    rate
        of the engine, Hz; 0: the recording's own.
    level
        peak of the mixture, dBFS.
    through
        what the sound goes through first (`through.THROUGH`).
    protocol
        how the sources are mixed (`recordings.PROTOCOLS`).
    provider
        "auto", "cpu" or "cuda", of the way `runtime`.
    """

    model: str
    way: str = "runtime"
    rate: int = 0
    level: float = LEVEL
    through: str = "wire"
    protocol: str = "paper"
    provider: str = "auto"


@dataclass(frozen=True)
class Estimates:
    """The `SOURCES` of a mixture `[shape=(2, channels, samples)]`, and the hops whose mask was not the network's."""

    sources: Array
    failed: int = 0


def estimates(case: Case, references: Array, mixture: Array, rate: int, heard: Array | None = None) -> Estimates:
    """The `SOURCES` in `mixture`.

    Parameters
    ----------
    references : float64 [shape=(2, channels, samples)]
        only the oracle looks at them.
    mixture : float64 [shape=(channels, samples)]
        at `rate`; played with its peak at `case.level`.
    heard : float64 [shape=(channels, samples)]
        what the engine has heard just before, at the same level; None: it starts cold.

    Raises
    ------
    QualityError
        the sources do not add up to the mixture, or `heard` is given to another way than the runtime.
    """
    at = case.rate or rate
    played, gain = _played(mixture, rate, at, case.level)
    failed = 0
    if case.way == "runtime":
        separator = open_separator(case.model, at, len(mixture), case.provider)
        stems = streamed(separator, played, None if heard is None else _played(heard, rate, at, case.level)[0])
        failed, names = failures(separator), separator.sources
    elif heard is not None:
        raise QualityError(f"way={case.way!r} keeps no state between recordings: expected 'runtime' to be warm")
    else:
        names = open_model(case.model).contract.sources
        truth = {s: resampled(gain * r, rate, at) for s, r in zip(SOURCES, references, strict=True)}
        gives = network_gives(case.model) if case.way == "whole" else oracle_masks([truth[s] for s in names], case.model, at)
        stems = at_once(open_model(case.model), played, at, gives)
    _check(stems, played)
    back = np.stack([_fitted(resampled(stems[names.index(s)] / gain, at, rate), mixture.shape) for s in SOURCES])
    return Estimates(back, failed)


def _played(mixture: Array, rate: int, at: int, level: float) -> tuple[Sound, float]:
    """What goes into the engine, and the gain that it was given."""
    gain = 10 ** (level / 20) / np.abs(mixture).max()
    return resampled(gain * mixture, rate, at).astype(np.float32), float(gain)


def _check(stems: Sound, played: Sound) -> None:
    left = sdr(played.astype(np.float64), stems.sum(axis=0, dtype=np.float64))
    if not left >= ADDS_UP:
        raise QualityError(
            f"the sources add up to the mixture to {left:.1f} dB: expected {ADDS_UP:g} or more; "
            "the latency is not removed, or sound is lost"
        )


def resampled(x: Array, rate: int, to: int) -> Array:
    """`x` `[shape=(channels, samples)]` at another rate, in place."""
    return x if rate == to else soxr.resample(x.T, rate, to, quality="VHQ").T


def _fitted(x: Array, shape: tuple[int, ...]) -> Array:
    """A round trip between two rates may end a sample off."""
    fitted = np.zeros(shape)
    n = min(shape[1], x.shape[1])
    fitted[:, :n] = x[:, :n]
    return fitted


# ----------------------------------------------------------------------------------------------------------- hop by hop


@lru_cache(maxsize=8)
def open_model(model: str) -> Model:
    """The model, if it has the `SOURCES`."""
    loaded = load(model)
    missing = set(SOURCES) - set(loaded.contract.sources)
    if missing or len(loaded.contract.sources) != len(SOURCES):
        raise QualityError(f"model {loaded.path} has sources {loaded.contract.sources}: expected {', '.join(SOURCES)}")
    return loaded


@lru_cache(maxsize=8)
def open_separator(model: str, rate: int, channels: int, provider: str) -> Separator:
    """An engine; a process opens each once."""
    return Separator(open_model(model), rate, channels, provider)


def streamed(separator: Separator, played: Sound, heard: Sound | None = None) -> Sound:
    """The sources of `played` `[shape=(sources, channels, samples)]`, over it: the latency is removed."""
    separator.reset()
    if heard is not None:
        separator.process(heard)
    tail = np.zeros((len(played), separator.latency), np.float32)
    return separator.process(np.concatenate([played, tail], axis=1))[:, :, separator.latency :]


def failures(separator: Separator) -> int:
    """Hops since the last reset whose mask was not the network's."""
    return separator.counts["failed_steps"] + separator.counts["bad_masks"]


# --------------------------------------------------------------------------------------------- the whole recording at once


@dataclass(frozen=True)
class Gives:
    """What is done with the frames of a recording.

    masks : float32 [shape=(frames, sources, n_bins)]
    filters : complex64 [shape=(frames, sources - 1, taps, 2 near + 1, reach)]; no taps: none
    """

    masks: Sound
    filters: NDArray[np.complex64]


Separates = Callable[[NDArray[np.complex64], NDArray[np.complex64]], Gives]  # of the mono downmix [shape=(frames, n_bins)], and
# the same one frame before and turned


def at_once(model: Model, played: Sound, rate: int, separates: Separates) -> Sound:
    """The sources of `played` by numpy, frames `[shape=(channels, frames, n_fft)]` all together."""
    g = stft.Geometry.at(model.contract, rate)
    analysis, synthesis = stft.window_pair(g.n_fft, g.synthesis_length, g.hop_length)
    spectra = _spectra(played, g, analysis)
    turn = np.exp(2j * np.pi * g.hop_length / g.n_fft * np.arange(g.n_bins)).astype(np.complex64)
    scaled = spectra.mean(axis=0) * stft.mag_scale(analysis)
    gives = separates(*(_fitting(x, model.contract.n_bins) for x in (scaled, _before(scaled) * turn)))
    known = gives.masks
    n_bins = min(known.shape[2], g.n_bins)
    gains = np.repeat(known[:, :, -(known.shape[2] // TOP_BAND) :].mean(axis=2, keepdims=True), g.n_bins, axis=2)
    gains[:, :, :n_bins] = known[:, :, :n_bins]
    separated = [spectra * gains[:, i] + _filtered(spectra, gives.filters[:, i], turn) for i in range(known.shape[1] - 1)]
    stems = [_overlap_added(x, g, synthesis)[:, : played.shape[1]] for x in separated]
    return np.stack([*stems, played - sum(stems)])  # the last one is the remainder, as in the engine


def _spectra(x: Sound, g: stft.Geometry, analysis: Sound) -> NDArray[np.complex64]:
    """Frame k ends with hop k; before the first hop is silence, after the last one what pushes the tail out."""
    frames = -(-x.shape[1] // g.hop_length) + g.synthesis_length // g.hop_length
    padded = np.zeros((len(x), g.n_fft + (frames - 1) * g.hop_length), np.float32)
    padded[:, g.n_fft - g.hop_length :][:, : x.shape[1]] = x
    cut = np.lib.stride_tricks.sliding_window_view(padded, g.n_fft, axis=1)[:, :: g.hop_length]
    return np.fft.rfft(cut * analysis).astype(np.complex64)


def _before(x: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """Frames `[shape=(..., frames, n_bins)]` one later: nothing comes before the first."""
    return np.concatenate([np.zeros_like(x[..., :1, :]), x[..., :-1, :]], axis=-2)


def _fitting(x: NDArray[np.complex64], n_bins: int) -> NDArray[np.complex64]:
    """Frames `[shape=(frames, bins)]` in the network's bins; above Nyquist is nothing."""
    fitting = np.zeros((len(x), n_bins), np.complex64)
    known = min(n_bins, x.shape[1])
    fitting[:, :known] = x[:, :known]
    return fitting


def _filtered(
    spectra: NDArray[np.complex64], filters: NDArray[np.complex64], turn: NDArray[np.complex64]
) -> NDArray[np.complex64]:
    """sum_j sum_n w_jn(t, k) X(t - j, k + n) of each channel, for filters `[shape=(frames, taps, 2 near + 1, reach)]`."""
    _, taps, bins, reach = filters.shape
    total, near = np.zeros_like(spectra), bins // 2
    past = np.pad(spectra, ((0, 0), (0, 0), (near, near + reach)))
    turned = np.pad(turn, (near, near + reach))
    reach = min(reach, spectra.shape[2])
    for tap in range(taps):
        for n in range(bins):
            total[:, :, :reach] += filters[:, tap, n, :reach] * past[:, :, n : n + reach]
        past = _before(past) * turned
    return total


def _overlap_added(spectra: NDArray[np.complex64], g: stft.Geometry, synthesis: Sound) -> Sound:
    waves = np.fft.irfft(spectra, g.n_fft)[:, :, g.n_fft - g.synthesis_length :] * synthesis
    early = g.synthesis_length - g.hop_length  # samples of the first frame that lie before the recording
    y = np.zeros((len(waves), early + waves.shape[1] * g.hop_length), np.float32)
    for k in range(waves.shape[1]):
        y[:, k * g.hop_length : k * g.hop_length + g.synthesis_length] += waves[:, k]
    return y[:, early:]


def network_gives(model: str) -> Separates:
    """What the network gives, all frames in one call, from a zero state."""
    contract = open_model(model).contract

    def gives(spectrum: NDArray[np.complex64], before: NDArray[np.complex64]) -> Gives:
        zero = np.zeros(contract.shapes()["h"], np.float32)
        if not contract.filters:
            return masked(_session(model).run(["mask"], {"mag": np.abs(spectrum)[None], "h": zero, "c": zero})[0][0])
        f, sources = contract.filters, len(contract.sources)
        others = before, np.pad(spectrum, ((0, 0), (1, 0)))[:, :-1]
        directions = [_direction(spectrum[:, : f.seen], other[:, : f.seen]) for other in others]
        seen = np.concatenate([np.abs(spectrum), *(part for d in directions for part in (d.real, d.imag))], axis=1)
        given = _session(model).run(["filter"], {"mag_phase": seen[None], "h": zero, "c": zero})[0][0]
        masks, w = np.split(given, [sources * contract.n_bins], axis=1)
        w = w.reshape(len(w), f.groups, sources - 1, f.taps, f.bins, 2, f.group)
        w = np.moveaxis(w[..., 0, :] + np.complex64(1j) * w[..., 1, :], 1, -2)
        return Gives(masks.reshape(len(masks), sources, -1), w.reshape(*w.shape[:-2], f.reach))

    return gives


def _direction(a: NDArray[np.complex64], b: NDArray[np.complex64]) -> NDArray[np.complex64]:
    """a b* / |a b|; 0 where there is none."""
    product = a * b.conj()
    return product / (np.abs(product) + stft.DIRECTION_FLOOR)


def masked(masks: Sound) -> Gives:
    """Masks `[shape=(frames, sources, n_bins)]`, and no filters."""
    return Gives(masks, np.zeros((len(masks), masks.shape[1] - 1, 0, 1, 0), np.complex64))


@lru_cache(maxsize=4)
def _session(model: str) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(open_model(model).path, options, providers=["CPUExecutionProvider"])


def oracle_masks(truth: list[Array], model: str, rate: int) -> Separates:
    """Ratio masks of the true sources, in the network's bins."""
    contract = open_model(model).contract
    g = stft.Geometry.at(contract, rate)
    analysis, _ = stft.window_pair(g.n_fft, g.synthesis_length, g.hop_length)
    spectra = [_spectra(x.astype(np.float32), g, analysis) for x in truth]
    scale = stft.mag_scale(analysis)
    magnitudes = np.stack([scale * np.abs(_fitting(s.mean(axis=0), contract.n_bins)) for s in spectra], axis=1)
    masks = magnitudes / np.maximum(magnitudes.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return lambda *_: masked(masks)
