"""Rows of a spectrogram, evenly spaced in log frequency, from the bins of a transform.

For the pictures (`plot`) and for the monitor page.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LOWEST = 50.0  # Hz
WINDOW = 0.064  # s: the network's own frequency resolution


def log_bands(n_fft: int, sample_rate: int, rows: int) -> NDArray[np.float32]:
    """Weights `[shape=(rows, n_bins)]` from power by bin to power by row, from `LOWEST` to Nyquist.

    A row is a triangle as wide as its spacing or as one bin, whichever is more: the low rows interpolate between bins, the
    high rows average over several.
    """
    edges = np.geomspace(LOWEST, sample_rate / 2, rows + 1)
    centre = np.sqrt(edges[:-1] * edges[1:])[:, None]
    bins = np.arange(n_fft // 2 + 1) * (sample_rate / n_fft)
    width = np.maximum(np.diff(edges), bins[1])[:, None]
    weights = np.maximum(0, 1 - np.abs(bins - centre) / width)
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
