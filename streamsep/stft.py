"""Short-time Fourier transform, streaming: window pairs, and analysis and synthesis of one hop without Python.

Overlap-add delays by the length S of the *synthesis* window, whatever the analysis window. So the analysis window is long
(N: frequency resolution) with a short fall of S/2, and the synthesis window is short (Mauler & Martin 2007, "A low delay,
variable resolution, perfect reconstruction spectral analysis-synthesis system"; Wang et al. 2022, "STFT-domain neural
speech enhancement with very low algorithmic latency"):

    analysis   h[n] = sqrt-Hann rise over N - S/2 samples, sqrt-Hann fall over the last S/2
    synthesis  f[n] = v[n] / h[N - S + n],  n = 0 .. S-1,   v = Hann(S) / (S / (2 hop))

so that h f = v on the last S samples of the frame, and the shifted v add up to one: perfect reconstruction. With S = N the
pair is the usual sqrt-Hann one. This module knows lengths and samples; it does not know networks, devices or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import rocket_fft
from numba import njit
from numpy.typing import NDArray

from .model import Contract, Filters

DIRECTION_FLOOR = 1e-18  # of a product of two bins: below it there is no direction
RATES = (8_000, 192_000)


@dataclass(frozen=True)
class Geometry:
    """Window and hop lengths in samples at one rate; the durations are the model's."""

    sample_rate: int
    n_fft: int
    synthesis_length: int
    hop_length: int

    @property
    def n_bins(self) -> int:
        """Bins of one frame's spectrum."""
        return self.n_fft // 2 + 1

    @classmethod
    def at(cls, contract: Contract, sample_rate: int) -> Geometry:
        """The model's durations at `sample_rate` (Hz), rounded to whole hops and an even window.

        Bin k then means the same frequency at every rate (to 0.1 % at 44.1 kHz), so that the network needs no resampler.

        Raises
        ------
        ValueError
            `sample_rate` outside 8 to 192 kHz.
        """
        if not RATES[0] <= sample_rate <= RATES[1]:
            raise ValueError(f"sample_rate={sample_rate} Hz is out of range: expected {RATES[0]} to {RATES[1]}")
        ratio = sample_rate / contract.sample_rate
        hop = round(contract.hop_length * ratio)
        synthesis = contract.synthesis_length // contract.hop_length * hop
        n_fft = max(2 * round(contract.n_fft * ratio / 2), synthesis)
        return cls(sample_rate, n_fft, synthesis, hop)


def window_pair(n_fft: int, synthesis_length: int, hop_length: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Analysis window `[shape=(n_fft,)]` and synthesis window `[shape=(synthesis_length,)]`, float32.

    The synthesis window belongs to the last `synthesis_length` samples of the frame. See the module's text for the maths.

    Raises
    ------
    ValueError
        `synthesis_length` is not an even multiple of `hop_length`, or is longer than `n_fft`.
    """
    if synthesis_length > n_fft or synthesis_length % (2 * hop_length):
        raise ValueError(
            f"synthesis_length={synthesis_length} must be an even multiple of hop_length={hop_length} and at most n_fft={n_fft}"
        )
    fall = synthesis_length // 2
    rise = n_fft - fall
    analysis = np.empty(n_fft)
    analysis[:rise] = np.sin(0.5 * np.pi * np.arange(rise) / rise)
    analysis[rise:] = np.cos(0.5 * np.pi * np.arange(fall) / fall)
    hann = np.sin(np.pi * np.arange(synthesis_length) / synthesis_length) ** 2
    target = hann / (synthesis_length / (2 * hop_length))
    tail = analysis[n_fft - synthesis_length :]
    # The Hann window's first sample is zero, and so is the analysis window's where both start together: 0/0 -> 0.
    synthesis = np.divide(target, tail, out=np.zeros(synthesis_length), where=tail > 0)
    return analysis.astype(np.float32), synthesis.astype(np.float32)


def mag_scale(analysis: NDArray[np.float32]) -> float:
    """Factor from |rfft| to the network's magnitude: a full-scale sine on a bin reads 1.0 at every rate."""
    return 2.0 / float(analysis.sum(dtype=np.float64))


# ------------------------------------------------------------------------------------------------------- one hop, compiled


class Transform(NamedTuple):
    """Windows, and the arrays that one hop of analysis and synthesis works in; allocated once, all C-contiguous.

    history : float32 [shape=(channels, n_fft)]               the newest n_fft samples of the input: state
    overlap : float32 [shape=(sources - 1, channels, synthesis_length)]  the unfinished end of the output: state
    past : complex64 [shape=(frames, channels, bins)]         spectra of the frames before, newest first, each turned to the
                                                              phase of the frame at hand, as far as filters need them: state
    turn : complex64 [shape=(bins,)]                          exp(2 pi i k hop / n_fft): what bin k's middle turns in a hop
    The rest is scratch, overwritten each hop.
    """

    analysis: NDArray[np.float32]
    synthesis: NDArray[np.float32]
    history: NDArray[np.float32]
    overlap: NDArray[np.float32]
    past: NDArray[np.complex64]
    turn: NDArray[np.complex64]
    windowed: NDArray[np.float32]  # [shape=(channels, n_fft)]
    spectrum: NDArray[np.complex64]  # [shape=(channels, n_bins)]
    masked: NDArray[np.complex64]  # [shape=(channels, n_bins)]
    wave: NDArray[np.float32]  # [shape=(channels, n_fft)]
    last_axis: NDArray[np.int64]  # [shape=(1,)]: the axis that rocket-fft transforms


def make_transform(geometry: Geometry, channels: int, sources: int, filters: Filters | None = None) -> Transform:
    """A `Transform` at zero for `channels` input channels and `sources` outputs."""
    n_fft, length = geometry.n_fft, geometry.synthesis_length
    frames_kept = max(filters.taps - 1, 1) if filters else 0
    kept = min(filters.kept, geometry.n_bins) if filters else 0
    frames = [np.zeros((channels, n_fft), np.float32) for _ in range(3)]
    spectra = [np.zeros((channels, geometry.n_bins), np.complex64) for _ in range(2)]
    return Transform(
        *window_pair(n_fft, length, geometry.hop_length),
        history=frames[0],
        overlap=np.zeros((sources - 1, channels, length), np.float32),
        past=np.zeros((frames_kept, channels, kept), np.complex64),
        turn=np.exp(2j * np.pi * geometry.hop_length / n_fft * np.arange(kept)).astype(np.complex64),
        windowed=frames[1],
        spectrum=spectra[0],
        masked=spectra[1],
        wave=frames[2],
        last_axis=np.ones(1, np.int64),
    )


@njit(nogil=True, cache=True)
def analyse(t, x):  # type: ignore[no-untyped-def]
    """Take one hop `x` `[shape=(channels, hop_length)]` into the history and transform the newest frame into `t.spectrum`."""
    channels, n_fft = t.history.shape
    kept = n_fft - x.shape[1]
    for c in range(channels):
        row = t.history[c]
        for n in range(kept):
            row[n] = row[n + x.shape[1]]
        row[kept:] = x[c]
        for n in range(n_fft):
            t.windowed[c, n] = row[n] * t.analysis[n]
    rocket_fft.r2c(t.windowed, t.spectrum, t.last_axis, True, 1.0, 1)


@njit(nogil=True, cache=True)
def downmix_magnitude(spectrum, scale, mag):  # type: ignore[no-untyped-def]
    """|mean over the channels of `spectrum` `[shape=(channels, n_bins)]`| * scale, into `mag`, of the network's bins.

    The transform is linear: this is the spectrum of the mono downmix. Bins above the device's Nyquist rate read zero.
    """
    channels, n_bins = spectrum.shape
    weight = np.float32(scale / channels)
    known = min(n_bins, mag.size)
    for k in range(known):
        re = np.float32(0)
        im = np.float32(0)
        for c in range(channels):
            re += spectrum[c, k].real
            im += spectrum[c, k].imag
        mag[k] = np.sqrt(re * re + im * im) * weight
    mag[known:] = 0


@njit(nogil=True, cache=True)
def directions(spectrum, before, scale, out):  # type: ignore[no-untyped-def]
    """How phase goes on in the mean over the channels of `spectrum` `[shape=(channels, n_bins)]`, times scale, into `out`
    `[shape=(4, bins)]`: real and imaginary parts of X(k) B*(k) / |X(k) B(k)|, B the same of `before`, the frame before, turned;
    then of X(k) X*(k - 1) / |X(k) X(k - 1)|. 0 where there is none, as above the device's Nyquist rate."""
    channels = spectrum.shape[0]
    weight = np.float32(scale / channels)
    known = min(before.shape[1], out.shape[1])
    re_below = im_below = np.float32(0)
    for k in range(known):
        re = im = re_before = im_before = np.float32(0)
        for c in range(channels):
            re += spectrum[c, k].real
            im += spectrum[c, k].imag
            re_before += before[c, k].real
            im_before += before[c, k].imag
        re, im, re_before, im_before = re * weight, im * weight, re_before * weight, im_before * weight
        out[0, k], out[1, k] = _direction(re, im, re_before, im_before)
        out[2, k], out[3, k] = _direction(re, im, re_below, im_below)
        re_below, im_below = re, im
    out[:, known:] = 0


@njit(nogil=True, cache=True, inline="always")
def _direction(re, im, re_other, im_other):  # type: ignore[no-untyped-def]
    """a b* / |a b|."""
    re_product = re * re_other + im * im_other
    im_product = im * re_other - re * im_other
    size = np.float32(np.sqrt(re_product * re_product + im_product * im_product) + DIRECTION_FLOOR)
    return re_product / size, im_product / size


@njit(nogil=True, cache=True)
def synthesise(t, masks, filters, y):  # type: ignore[no-untyped-def]
    """Apply `masks` `[shape=(sources, n_bins)]` and `filters` to `t.spectrum`; one finished hop to `y` `[shape=(sources,
    channels, hop)]`; then the frame is one of the past.

    The last source is what the others leave of the delayed input, so that the sources add up to it exactly and the mixture
    costs no transform of its own. (By linearity that equals masking with what the other masks leave.)
    """
    sources, _, hop = y.shape
    n_fft = t.history.shape[1]
    first = n_fft - t.synthesis.size
    y[sources - 1] = t.history[:, first : first + hop]
    for i in range(sources - 1):
        mask(t.spectrum, masks[i], t.masked)
        add_filtered(t.spectrum, t.past, filters[i], t.masked)
        rocket_fft.c2r(t.masked, t.wave, t.last_axis, False, 1.0 / n_fft, 1)
        overlap_add(t, i, t.wave, y)
    pass_on(t.spectrum, t.turn, t.past)


@njit(nogil=True, cache=True)
def mask(spectrum, gains, masked):  # type: ignore[no-untyped-def]
    """`spectrum` `[shape=(channels, n_bins)]` times `gains` `[shape=(n_bins,)]`, into `masked`."""
    for c in range(spectrum.shape[0]):
        for k in range(spectrum.shape[1]):
            masked[c, k] = spectrum[c, k] * gains[k]


@njit(nogil=True, cache=True)
def add_filtered(spectrum, past, filters, masked):  # type: ignore[no-untyped-def]
    """What `filters` `[shape=(taps, 2 near + 1, 2, reach)]` take from `spectrum` `[shape=(channels, n_bins)]` and from `past`,
    added to `masked`."""
    taps, bins, _, reach = filters.shape
    near, top = bins // 2, min(reach, masked.shape[1])  # a slow device's band may end below the filters'
    for tap in range(taps):
        for c in range(spectrum.shape[0]):
            frame = spectrum[c] if tap == 0 else past[tap - 1, c]
            for n in range(bins):
                w = filters[tap, n]
                for k in range(max(0, near - n), min(top, frame.size + near - n)):
                    masked[c, k] += np.complex64(complex(w[0, k], w[1, k])) * frame[k + n - near]


@njit(nogil=True, cache=True)
def pass_on(spectrum, turn, past):  # type: ignore[no-untyped-def]
    """Let `spectrum` `[shape=(channels, n_bins)]` be the newest of `past`, and the oldest be forgotten."""
    frames, channels, kept = past.shape
    for j in range(frames - 1, -1, -1):
        for c in range(channels):
            older = past[j - 1, c] if j else spectrum[c]
            for k in range(kept):
                past[j, c, k] = older[k] * turn[k]


@njit(nogil=True, cache=True)
def overlap_add(t, i, wave, y):  # type: ignore[no-untyped-def]
    """The frame `wave` `[shape=(channels, n_fft)]` of source `i`; the hop that it finishes to `y[i]`, and off the last one."""
    sources, channels, hop = y.shape
    length = t.synthesis.size
    first = wave.shape[1] - length
    for c in range(channels):
        overlap = t.overlap[i, c]
        for n in range(length):
            overlap[n] += wave[c, first + n] * t.synthesis[n]
        for n in range(hop):
            y[i, c, n] = overlap[n]
            y[sources - 1, c, n] -= overlap[n]
        for n in range(length - hop):
            overlap[n] = overlap[n + hop]
        overlap[length - hop :] = 0
