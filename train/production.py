"""A voice as studios make it: its dynamics levelled, driven, doubled, echoed. MIR-1K's are as a microphone had them.

Each is drawn by itself, so that some voices have all and some one. Knows signals only.
"""

from __future__ import annotations

import numpy as np

from .datasets import Signal

EACH = 0.5  # the probability of each treatment
LEVEL_SECONDS = 0.05  # over which a compressor looks at the level
RATIO = (0.2, 0.7)  # of a level's deviation that is taken away, in dB
DRIVE = (0.5, 3.0)  # times the voice's RMS into the saturation
DOUBLE_SECONDS = (0.008, 0.035)
DOUBLE_DB = (-12.0, -2.0)
DETUNE = 0.008  # largest: 14 cents
SWAY_HZ = (0.1, 1.0)
ECHO_SECONDS = (0.09, 0.5)
ECHO_DB = (-20.0, -8.0)
REPEATS = 3


def produced(rng: np.random.Generator, voice: Signal, rate: int) -> Signal:
    """The voice `[shape=(samples,)]` under a chance draw of treatments, as strong as it was.

    Parameters
    ----------
    voice : float32, circular, as `mixing` cuts it
    rate : Hz
    """
    power = np.mean(np.square(voice))
    if not power:
        return voice
    for treat in (_levelled, _driven, _doubled, _echoed):
        if rng.random() < EACH:
            voice = treat(rng, voice, rate)
    return (voice * np.sqrt(power / (np.mean(np.square(voice)) + 1e-20))).astype(np.float32)


def _levelled(rng: np.random.Generator, voice: Signal, rate: int) -> Signal:
    """Compressed: what is louder than the whole comes down, what is softer comes up, by 20 dB at most."""
    width = round(LEVEL_SECONDS * rate)
    power = np.square(voice, dtype=np.float64)
    sums = np.cumsum(np.concatenate([power[-width:], power, power[:width]]))
    level = np.sqrt((sums[2 * width :] - sums[: -2 * width])[: len(voice)].clip(0) / (2 * width))
    gain = (level / np.sqrt(power.mean()) + 1e-3) ** -rng.uniform(*RATIO)
    return voice * np.minimum(gain, 10.0)


def _driven(rng: np.random.Generator, voice: Signal, rate: int) -> Signal:
    drive = rng.uniform(*DRIVE) / np.sqrt(np.mean(np.square(voice)))
    return np.tanh(drive * voice)


def _doubled(rng: np.random.Generator, voice: Signal, rate: int) -> Signal:
    """With itself a little later, at a pitch that sways around its own: sung twice, or a chorus."""
    t = np.arange(len(voice))
    sway = 2 * np.pi * rng.uniform(*SWAY_HZ) / rate
    depth = rng.uniform(0, DETUNE) / sway  # samples: its slope is the detuning
    depth = min(depth, 0.005 * rate)
    delay = rng.uniform(*DOUBLE_SECONDS) * rate + depth * np.sin(sway * t + rng.uniform(0, 2 * np.pi))
    return voice + 10 ** (rng.uniform(*DOUBLE_DB) / 20) * np.interp(t - delay, t, voice, period=len(voice))


def _echoed(rng: np.random.Generator, voice: Signal, rate: int) -> Signal:
    step, gain = round(rng.uniform(*ECHO_SECONDS) * rate), 10 ** (rng.uniform(*ECHO_DB) / 20)
    return voice + sum(gain**n * np.roll(voice, n * step) for n in range(1, REPEATS + 1))
