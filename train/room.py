"""Rooms that nobody measured: direct sound, a gap, then noise that dies away.

Polack's statistical model ("La transmission de l'énergie sonore dans les salles", 1988; Habets, "Single- and multi-microphone
speech dereverberation using spectral enhancement", 2007, chapter 2): late reverberation is Gaussian noise under an exponential,
60 dB down after RT60. Walls and air take the treble sooner; here it loses half its reverberation time above 2 kHz. Early
reflections are left to the noise's first samples. Knows no recordings.
"""

from __future__ import annotations

import numpy as np

from .datasets import Signal

GAP_SECONDS = (0.002, 0.03)  # from the direct sound to what comes off the nearest wall
CROSSOVER_HZ = 2000.0


def impulse_response(rng: np.random.Generator, taps: int, rt60: float, db: float, rate: int) -> Signal:
    """A room's impulse response `[shape=(taps,)]` of unit energy, the direct sound at tap 0.

    Parameters
    ----------
    rt60 : s, in which the reverberation falls by 60 dB below CROSSOVER_HZ; far above it, in half as long
    db : energy of the reverberation to that of the direct sound
    rate : Hz
    """
    t = np.arange(taps) / rate
    noise = rng.standard_normal(taps)
    treble = 1 / (1 + (CROSSOVER_HZ / np.fft.rfftfreq(taps, 1 / rate).clip(1)) ** 2)
    slow, fast = (np.fft.rfft(noise * 10 ** (-3 * t / s)) for s in (rt60, rt60 / 2))
    tail = np.fft.irfft(slow * (1 - treble) + fast * treble, taps)
    tail[: 1 + round(rng.uniform(*GAP_SECONDS) * rate)] = 0
    tail *= np.sqrt(10 ** (db / 10) / (np.sum(tail**2) + 1e-12))
    tail[0] = 1
    return (tail / np.sqrt(np.sum(tail**2))).astype(np.float32)
