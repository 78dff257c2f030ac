"""What the benchmark listens to: the bundled song at any rate, so that nothing is measured on silence or noise alone."""

from __future__ import annotations

import numpy as np
import soxr
from numpy.typing import NDArray

from .. import demo, soundfiles

SECONDS = 10.0


def song(sample_rate: int, channels: int, seconds: float = SECONDS) -> NDArray[np.float32]:
    """The beginning of the bundled song's mixture at `sample_rate`, float32 `[shape=(frames, channels)]`, contiguous.

    One channel is the mean of both; more than two are the two again.
    """
    stems = [soundfiles.read(path) for path in demo.STEMS.values()]
    rate = stems[0][1]
    mixture = sum(samples for samples, _ in stems).T[: int(seconds * rate)]  # type: ignore[union-attr]
    if sample_rate != rate:
        mixture = soxr.resample(mixture, rate, sample_rate)
    if channels == 1:
        mixture = mixture.mean(axis=1, keepdims=True)
    return np.ascontiguousarray(mixture[:, np.arange(channels) % mixture.shape[1]], np.float32)
