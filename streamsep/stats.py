"""Histograms that compiled code fills and Python reads: durations on a logarithmic scale, nothing allocated."""

from __future__ import annotations

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

PER_OCTAVE = 32  # 2.2 % wide bins
_OCTAVES = 34  # 1 ns to 17 s
_SIZE = PER_OCTAVE * _OCTAVES


def histogram() -> NDArray[np.int64]:
    """An empty histogram `[shape=(bins + 1,)]`; the last place holds the longest duration, ns."""
    return np.zeros(_SIZE + 1, np.int64)


@njit(nogil=True, cache=True)
def record(h, duration):  # type: ignore[no-untyped-def]
    """Count one duration (ns)."""
    place = int(PER_OCTAVE * math.log2(max(duration, 1)))
    h[min(place, h.size - 2)] += 1
    h[h.size - 1] = max(h[h.size - 1], duration)


def percentile(h: NDArray[np.int64], q: float) -> float:
    """The duration (ms) that `q` percent do not exceed, to a bin's width and never above the maximum; 0 when empty."""
    counts = h[:-1]
    total = int(counts.sum())
    if not total:
        return 0.0
    place = int(np.searchsorted(np.cumsum(counts), max(1, math.ceil(total * q / 100))))
    return float(min(2 ** ((place + 0.5) / PER_OCTAVE), h[-1])) / 1e6


def summary(h: NDArray[np.int64]) -> dict[str, float]:
    """p50, p99, p99.9 and maximum, ms."""
    return {f"p{q:g}": round(percentile(h, q), 4) for q in (50, 99, 99.9)} | {"max": round(float(h[-1]) / 1e6, 4)}
