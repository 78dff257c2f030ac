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

from .model import Contract

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
    The rest is scratch, overwritten each hop.
    """

    analysis: NDArray[np.float32]
    synthesis: NDArray[np.float32]
    history: NDArray[np.float32]
    overlap: NDArray[np.float32]
    windowed: NDArray[np.float32]  # [shape=(channels, n_fft)]
    spectrum: NDArray[np.complex64]  # [shape=(channels, n_bins)]
    masked: NDArray[np.complex64]  # [shape=(channels, n_bins)]
    wave: NDArray[np.float32]  # [shape=(channels, n_fft)]
    last_axis: NDArray[np.int64]  # [shape=(1,)]: the axis that rocket-fft transforms


def make_transform(geometry: Geometry, channels: int, sources: int) -> Transform:
    """A `Transform` at zero for `channels` input channels and `sources` outputs."""
    n_fft, length = geometry.n_fft, geometry.synthesis_length
    frames = [np.zeros((channels, n_fft), np.float32) for _ in range(3)]
    spectra = [np.zeros((channels, geometry.n_bins), np.complex64) for _ in range(2)]
    return Transform(
        *window_pair(n_fft, length, geometry.hop_length),
        history=frames[0],
        overlap=np.zeros((sources - 1, channels, length), np.float32),
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
def downmix_magnitude(t, scale, mag):  # type: ignore[no-untyped-def]
    """|mean of the channels' spectra| * scale, into `mag` `[shape=(n_bins_of_the_network,)]`.

    The transform is linear: this is the spectrum of the mono downmix. Bins above the device's Nyquist rate read zero.
    """
    channels, n_bins = t.spectrum.shape
    weight = np.float32(scale / channels)
    known = min(n_bins, mag.size)
    for k in range(known):
        re = np.float32(0)
        im = np.float32(0)
        for c in range(channels):
            re += t.spectrum[c, k].real
            im += t.spectrum[c, k].imag
        mag[k] = np.sqrt(re * re + im * im) * weight
    mag[known:] = 0


@njit(nogil=True, cache=True)
def synthesise(t, masks, y):  # type: ignore[no-untyped-def]
    """Apply `masks` `[shape=(sources, n_bins)]` to `t.spectrum`; one finished hop to `y` `[shape=(sources, channels, hop)]`.

    The last source is what the others leave of the delayed input, so that the sources add up to it exactly and the mixture
    costs no transform of its own. (By linearity that equals masking with what the other masks leave.)
    """
    sources, channels, hop = y.shape
    n_fft, length = t.history.shape[1], t.synthesis.size
    first = n_fft - length
    y[sources - 1] = t.history[:, first : first + hop]
    for i in range(sources - 1):
        for c in range(channels):
            for k in range(t.spectrum.shape[1]):
                t.masked[c, k] = t.spectrum[c, k] * masks[i, k]
        rocket_fft.c2r(t.masked, t.wave, t.last_axis, False, 1.0 / n_fft, 1)
        for c in range(channels):
            overlap = t.overlap[i, c]
            for n in range(length):
                overlap[n] += t.wave[c, first + n] * t.synthesis[n]
            for n in range(hop):
                y[i, c, n] = overlap[n]
                y[sources - 1, c, n] -= overlap[n]
            for n in range(length - hop):
                overlap[n] = overlap[n + hop]
            overlap[length - hop :] = 0
