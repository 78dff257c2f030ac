"""What a stem must not hold: anything in silence, the band in an instrumental's `vocals`, the singer in a solo's other stem."""

from pathlib import Path

import numpy as np

from . import recordings
from .estimates import Case, estimates, open_separator
from .ratios import Array
from .recordings import SOURCES

SECONDS = 2.0


def silence(case: Case, rate: int) -> dict[str, float]:
    """The largest sample of any stem, full scale 1.0, while nothing sounds.

    `cold`: `SECONDS` of digital silence from the start. `after_sound`: the same after as much full-scale noise, from where
    the noise has left the engine: its latency and the length of its analysis window later, and as many hops more as filters
    look back.
    """
    separator = open_separator(case.model, case.rate or rate, 1, case.provider)
    frames = round(SECONDS * separator.sample_rate)
    nothing = np.zeros((1, frames), np.float32)
    separator.reset()
    cold = separator.process(nothing)
    separator.process(np.random.default_rng(0).uniform(-1, 1, (1, frames)).astype(np.float32))
    filters = separator.model.contract.filters
    back = (filters.taps - 1) * separator.geometry.hop_length if filters else 0
    gone = separator.latency + separator.geometry.n_fft + back
    after = separator.process(nothing)[:, :, gone:]
    return {"cold": float(np.abs(cold).max()), "after_sound": float(np.abs(after).max())}


def clip_alone(case: Case, path: Path, source: str) -> tuple[float, int]:
    """See `alone`; and the clip's samples."""
    sources, rate = recordings.clip(path, case.protocol)
    return alone(case, sources, rate, source), sources.shape[2]


def song_alone(case: Case, path: Path, source: str, seconds: float | None = None) -> float:
    """See `alone`: a song, or `seconds` of it."""
    return alone(case, *recordings.song(path, case.protocol, seconds), source)


def alone(case: Case, sources: Array, rate: int, source: str) -> float:
    """One source played alone: how far below it the stem is in which it does not belong.

    Its energy over that stem's, from a cold start, dB; 120 where nothing leaks.
    """
    played = SOURCES.index(source)
    only: Array = np.where(np.arange(len(SOURCES))[:, None, None] == played, sources, 0)
    leak = estimates(case, only, sources[played], rate).sources[1 - played]
    energy = np.sum(sources[played] ** 2)
    return float(10 * np.log10(energy / max(np.sum(leak**2), 1e-12 * energy)))


def summary(found: list[tuple[float, int]]) -> dict[str, float]:
    """The mean of `clip_alone`, weighted by length, and the worst, dB."""
    decibels, frames = zip(*found, strict=True)
    return {"mean": round(float(np.average(decibels, weights=frames)), 2), "worst": round(min(decibels), 2)}
