"""How late a signal comes back: a test signal, and the delay at which a recording holds it. Pure arithmetic.

The signal is a burst of random signs: flat in spectrum and, like a maximum-length sequence, of the most energy for its peak
(Rife and Vanderkooy 1989). The delay is where its cross-correlation with the recording is largest (Knapp and Carter 1976, "The
generalized correlation method for estimation of time delay"), between the samples too. Why this and not another signal:

- Tones and their phases (Adriaensen's jack_iodelay) want a path that stands still; a separator moves the level of each band a
  hundred times a second. A mask only takes from a band and keeps its phase, so the correlation's peak falls but stays where
  it is. A sweep survives that too, but through a mask that shuts one band for a while it loses that band altogether.
- The signs are drawn anew for every measurement, so no recording that was made without them can hold them. For any sound y
  and signs m, Hoeffding's inequality gives P(|sum of m y| >= z |y|) <= 2 exp(-z^2 / 2), whatever y is: silence with its
  dither, hum, music, or somebody else's measurement in the same room. Over all delays searched that bounds the chance of a
  figure where there is no loop; a peak above `FALSE_ALARM` is none. A maximum-length sequence is always the same one.

With L signs in a loop of signal-to-noise ratio r the peak stands z = sqrt(L r / (1 + r)) high: two seconds at 48 kHz find
a signal 30 dB below the noise, and at 20 dB the delay is known to some thousandths of a sample.

It knows no device, file or clock: only that `heard[0]` was recorded when `sent[0]` was played.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FALSE_ALARM = 1e-9  # chance of a figure where there is no loop
PARTS = 4  # pieces of the burst whose delays are compared: does it stay?
STEADY = 0.5  # samples by which they may differ
_FADE = 0.01  # s at both ends of the burst: no click, and less of a shock to whatever is in the loop
_NEAR = 0.002  # s around a path's peak that are its own: filters ring
_ECHO = 0.1  # smallest second path that is named, relative to the first (-20 dB)
_PATHS = 4


@dataclass(frozen=True)
class Path:
    """One way from `sent` to `heard`."""

    delay: float  # samples
    gain: float  # linear; negative: with inverted polarity


@dataclass(frozen=True)
class Loop:
    """What came back."""

    delay: float  # samples, of the strongest path
    gain: float  # linear, of that path; negative: with inverted polarity
    coherence: float  # 0 to 1: share of the recording's energy that is the signal by that path
    false_alarm: float  # upper bound of the chance that this is no loop at all
    parts: tuple[float, ...]  # the delay in each piece of the burst that was heard, samples
    others: tuple[Path, ...]  # further paths, the strongest first

    @property
    def confidence(self) -> float:
        """0 to 1: that there is a loop, and this its delay."""
        return 1.0 - self.false_alarm

    @property
    def snr_db(self) -> float:
        """Signal by the path against all else in the recording, dB, at most 120."""
        return 10 * math.log10(max(self.coherence, 1e-12) / max(1 - self.coherence, 1e-12))

    @property
    def spread(self) -> float:
        """By how much the delay moved during the burst, samples."""
        return max(self.parts) - min(self.parts) if self.parts else 0.0

    @property
    def steady(self) -> bool:
        """Whether all of the burst came equally late."""
        return self.spread <= STEADY


def burst(samples: int, sample_rate: int, level_db: float, rng: np.random.Generator | None = None) -> NDArray[np.float32]:
    """The test signal `[shape=(samples,)]` with its peak at `level_db` dBFS. Without `rng` no two are the same.

    Raises
    ------
    ValueError
        `samples` are too few to tell a loop from chance.
    """
    fade = round(_FADE * sample_rate)
    if samples < 4 * fade:
        raise ValueError(f"samples={samples} are too few at {sample_rate} Hz: expected {4 * fade} or more")
    signs = (rng or np.random.default_rng()).integers(0, 2, samples) * 2.0 - 1.0
    slope = np.sin(0.5 * np.pi * (np.arange(fade) + 0.5) / fade) ** 2
    signs[:fade] *= slope
    signs[-fade:] *= slope[::-1]
    return (10 ** (level_db / 20) * signs).astype(np.float32)


def find(sent: NDArray[np.float32], heard: NDArray[np.float32], sample_rate: int) -> Loop | None:
    """The delay of `sent` in `heard`, or None if it is not in there.

    Parameters
    ----------
    sent : float32 [shape=(samples,)]
        a `burst`.
    heard : float32 [shape=(longer,)]
        recorded from the moment on in which `sent[0]` was played. Delays up to the difference of the lengths are found; to
        tell a bound truthfully it must have been made without knowledge of the signs, except through the loop.
    sample_rate
        Hz.

    Raises
    ------
    ValueError
        `heard` is shorter than `sent`, or holds what is no number.
    """
    x, y = sent.astype(np.float64), heard.astype(np.float64)
    if len(y) < len(x):
        raise ValueError(f"heard has {len(y)} samples: expected at least the {len(x)} of sent")
    if not np.isfinite(y).all():
        raise ValueError("heard holds NaN or Inf: expected samples")
    y -= y.mean()  # a converter's offset is no sound
    match = _Match(x, y)
    peak = int(np.argmax(np.abs(match.z)))
    false_alarm = _chance(match.z[peak], len(match.z))
    if false_alarm > FALSE_ALARM:
        return None
    first, *others = _paths(match, round(_NEAR * sample_rate))
    return Loop(
        delay=first.delay,
        gain=first.gain,
        coherence=min(1.0, first.gain**2 * match.power / float(match.energy[peak])),
        false_alarm=false_alarm,
        parts=_parts(x, y, match),
        others=tuple(others),
    )


class _Match:
    """Correlation of `x` with `y` at every delay d at which all of `x` fits into `y`.

    correlation[d] = sum over n of x[n] y[n + d]; energy[d] = sum of y[n + d]^2 over the same n; z = their quotient in units
    of the chance level. Windows 120 dB below the whole recording count as that loud: there is only rounding in them.
    """

    def __init__(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
        size = 1 << (len(x) + len(y) - 1).bit_length()
        self.size = size
        self.cross = np.fft.rfft(y, size) * np.conj(np.fft.rfft(x, size))
        delays = len(y) - len(x) + 1
        self.correlation = np.fft.irfft(self.cross, size)[:delays]
        squares = np.concatenate([[0.0], np.cumsum(y * y)])
        self.energy = np.maximum(squares[len(x) :] - squares[:delays], 1e-12 * squares[-1] + 1e-30)
        self.power = float(x @ x)
        self.z = self.correlation / (np.sqrt(self.energy) * np.abs(x).max())

    def path(self, delay: int) -> Path:
        """The peak around the whole number `delay`, between the samples.

        The correlation of sampled signals is band-limited: c(t) is the sum of its spectrum's waves, at any t. Newton's method
        on its slope finds the top, which for a pure delay is the delay itself, without bias: an autocorrelation is even.
        """
        weight = np.full(len(self.cross), 2.0)
        weight[[0, -1]] = 1.0
        omega = 2 * np.pi * np.arange(len(self.cross)) / self.size
        spectrum = self.cross * weight / self.size
        sign = np.sign(self.correlation[delay])
        t, height = float(delay), float(self.correlation[delay])
        for _ in range(8):
            wave = spectrum * np.exp(1j * omega * t)
            slope, bend = -sign * (omega @ wave.imag), -sign * ((omega * omega) @ wave.real)
            height = float(wave.real.sum())
            if bend >= 0:  # not on a hill: the sample itself will do
                return Path(float(delay), float(self.correlation[delay]) / self.power)
            step = float(-slope / bend)
            if abs(step) < 1e-6:
                break
            t = min(max(t + min(max(step, -0.5), 0.5), delay - 1.0), delay + 1.0)
        return Path(t, height / self.power)


def _chance(z: float, delays: int) -> float:
    """Upper bound of the chance that one of so many correlations reaches `z` without a loop (Hoeffding; union bound)."""
    return min(1.0, math.exp(min(0.0, math.log(2 * delays) - 0.5 * float(z) ** 2)))


def _paths(match: _Match, near: int) -> list[Path]:
    """The strongest path, then those that stand out beside it."""
    left = np.abs(match.z)
    paths: list[Path] = []
    floor = 0.0
    while len(paths) < _PATHS:
        place = int(np.argmax(left))
        if left[place] < floor or _chance(left[place], len(left)) > FALSE_ALARM:
            break
        floor = floor or _ECHO * left[place]
        paths.append(match.path(place))
        left[max(0, place - near) : place + near + 1] = 0
    return paths


def _parts(x: NDArray[np.float64], y: NDArray[np.float64], whole: _Match) -> tuple[float, ...]:
    """The delay of each piece of the burst, as far as it stands out by itself."""
    length = len(x) // PARTS
    delays = []
    for start in range(0, PARTS * length, length):
        piece = _Match(x[start : start + length], y[start : start + len(whole.z) - 1 + length])
        place = int(np.argmax(np.abs(piece.z)))
        if _chance(piece.z[place], len(piece.z)) <= FALSE_ALARM:
            delays.append(piece.path(place).delay)
    return tuple(delays)
