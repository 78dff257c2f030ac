"""Stems -> random mixtures. The recordings are few (the paper trains on two singers), so that what is done here decides
how well the network hears other voices: random pairs, places, speeds, gains, equalisers and band limits.

Row r of step t depends on (seed, t, r) alone: the loader has no state to save, any step can be made again, and several
processes make the rows of one batch. Choices and copies are made here in NumPy; `apply` filters on the training device, as one
product of long spectra (circular, as is the cut: see `_cut`), after `voices.move_formants` gave some voices another mouth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from .config import Augment
from .datasets import DataSet, Recording, Signal
from .production import produced
from .room import impulse_response
from .voices import move_formants

KNOTS = 10  # of a random equaliser, evenly spaced on a logarithmic axis from 60 Hz up
CURVE = 513  # points of a filter curve, 0 to half the rate
FLOOR_DB = -100.0  # 16 bit: lower than any recording goes


@dataclass(frozen=True)
class Batch:
    """Mixtures to be: stems and the filters to put on them."""

    stems: Tensor  # (streams, 2, samples): voice, accompaniment
    curves: Tensor  # (streams, 2, CURVE): gain, linear
    formants: Tensor  # (streams,): where the voice's formants go, times where they are; 1 leaves it alone
    rooms: Tensor  # (streams, 2, taps): impulse responses; no taps: no rooms

    def to(self, device: torch.device) -> Batch:
        """The batch on another device."""
        return Batch(*(t.to(device, non_blocking=True) for t in (self.stems, self.curves, self.formants, self.rooms)))


def apply(batch: Batch) -> Tensor:
    """Filtered stems `[shape=(streams, 2, samples)]`."""
    samples = batch.stems.shape[-1]
    stems, moved = batch.stems, batch.formants != 1
    if moved.any():
        stems = stems.clone()
        stems[moved, 0] = move_formants(stems[moved, 0], batch.formants[moved])
    spectrum = torch.fft.rfft(stems) * functional.interpolate(batch.curves, samples // 2 + 1, mode="linear", align_corners=True)
    if batch.rooms.shape[-1]:
        spectrum = spectrum * torch.fft.rfft(batch.rooms, samples)
    return torch.fft.irfft(spectrum, samples)


class Mixer:
    """Draws batches from data sets.

    Parameters
    ----------
    sets : training data
    samples : length of a mixture
    rate : Hz
    """

    def __init__(self, sets: Sequence[DataSet], augment: Augment, samples: int, rate: int, seed: int):
        self.augment, self.samples, self.rate, self.seed = augment, samples, rate, seed
        both = [[r for r in d.recordings if r.voice is not None and r.accompaniment is not None] for d in sets]
        weights = [d.weight for d in sets]
        self.pairs = _Pool(both, weights)
        self.voices = _Pool([[r for r in d.recordings if r.voice is not None] for d in sets], weights)
        self.accompaniments = _Pool([[r for r in d.recordings if r.accompaniment is not None] for d in sets], weights)

    def batch(self, step: int, rows: range) -> Batch:
        """The mixtures `rows` of step `step`."""
        drawn = [self._row(np.random.default_rng((self.seed, step, row))) for row in rows]
        return Batch(*(torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True)))

    def _row(self, rng: np.random.Generator) -> tuple[Signal, Signal, Signal, Signal]:
        return self._stems(rng), self._curves(rng), self._formants(rng), self._rooms(rng)

    def _stems(self, rng: np.random.Generator) -> Signal:
        """Voice and accompaniment `[shape=(2, samples)]`, levelled, before filtering."""
        a = self.augment
        if self.pairs and rng.random() < a.coherent:
            recording = self.pairs.draw(rng)
            speed = int(rng.integers(len(a.speeds)))
            start = rng.random()
            voice = self._cut(recording, "voice", speed, start)
            accompaniment = self._cut(recording, "accompaniment", speed, start)
        else:
            voice, accompaniment = (
                self._cut(pool.draw(rng), role, int(rng.integers(len(a.speeds))), rng.random())
                for role, pool in (("voice", self.voices), ("accompaniment", self.accompaniments))
            )
        if a.produced and rng.random() < a.produced:
            voice = produced(rng, voice, self.rate)
        voice = self._joined(rng, voice)
        if rng.random() < a.noise:
            level = 10 ** (rng.uniform(*a.noise_db) / 20)
            accompaniment = accompaniment + np.float32(level) * rng.standard_normal(self.samples, np.float32)
        balance, gain = rng.uniform(*a.balance_db), rng.uniform(*a.gain_db)
        silent = rng.random()
        voice_gain = 0.0 if silent < a.silent_voice else 10 ** ((gain + balance / 2) / 20)
        other_gain = 0.0 if silent > 1 - a.silent_accompaniment else 10 ** ((gain - balance / 2) / 20)
        return np.stack([voice * np.float32(voice_gain), accompaniment * np.float32(other_gain)])

    def _joined(self, rng: np.random.Generator, voice: Signal) -> Signal:
        """The voice with others: backing vocals, a duet, a choir; at the level of one."""
        energy = 1.0
        while rng.random() < self.augment.several:
            gain = 10 ** (rng.uniform(*self.augment.several_db) / 20)
            other = self._cut(self.voices.draw(rng), "voice", int(rng.integers(len(self.augment.speeds))), rng.random())
            voice, energy = voice + np.float32(gain) * other, energy + gain**2
        return voice / np.float32(np.sqrt(energy))

    def _formants(self, rng: np.random.Generator) -> Signal:
        """A ratio for `move_formants` `[shape=()]`, evenly drawn in octaves; 1 where they stay."""
        a = self.augment
        moved = rng.random() < a.formants
        return np.asarray(np.exp(rng.uniform(*np.log(a.formant_ratio))) if moved else 1, np.float32)

    def _rooms(self, rng: np.random.Generator) -> Signal:
        """Impulse responses `[shape=(2, taps)]`: rooms, and none at all (a one and zeros)."""
        a = self.augment
        taps = min(self.samples, round(a.room_seconds[1] * self.rate)) if a.room else 0
        rooms = np.zeros((2, taps), np.float32)
        rooms[:, :1] = 1
        for place in range(2):
            if rng.random() < a.room:
                rooms[place] = impulse_response(rng, taps, rng.uniform(*a.room_seconds), rng.uniform(*a.room_db), self.rate)
        return rooms

    def _cut(self, recording: Recording, role: str, speed: int, start: float) -> Signal:
        """`samples` samples from relative place `start` on; a recording that ends starts again (a circular shift). Played
        `speeds[speed]` times as fast it is higher, formants and all; a third of a millisecond a cut."""
        signal, ratio = getattr(recording, role), self.augment.speeds[speed]
        length = math.ceil(self.samples * ratio) + 1
        place = int(start * len(signal))
        if place + length <= len(signal):
            piece = signal[place : place + length]
        else:
            piece = np.take(signal, range(place, place + length), mode="wrap")
        return piece[: self.samples] if ratio == 1 else soxr.resample(piece, ratio, 1.0, quality="MQ")[: self.samples]

    def _curves(self, rng: np.random.Generator) -> Signal:
        """Filter gains of both stems `[shape=(2, CURVE)]`, linear: own equaliser x common equaliser and band limits."""
        a = self.augment
        hertz = np.linspace(0, self.rate / 2, CURVE)
        knots = np.geomspace(60, self.rate / 2, KNOTS)
        common = a.mix_eq_db * rng.standard_normal(KNOTS)
        own = a.stem_eq_db * rng.standard_normal((2, KNOTS))
        curve = np.stack([np.interp(hertz, knots, common + one) for one in own])
        octaves = np.log2(np.maximum(hertz, 1.0))
        if a.dark and rng.random() < a.dark:
            curve[0] -= rng.uniform(*a.dark_slope_db) * np.maximum(octaves - np.log2(rng.uniform(*a.dark_hz)), 0)
        slope = np.exp(rng.uniform(*np.log(a.band_slope_db)))
        if rng.random() < a.low_pass:
            curve -= slope * np.maximum(octaves - np.log2(rng.uniform(*a.low_pass_hz)), 0)
        if rng.random() < a.high_pass:
            curve -= min(slope, 48) * np.maximum(np.log2(rng.uniform(*a.high_pass_hz)) - octaves, 0)
        return (10 ** (np.maximum(curve, FLOOR_DB) / 20)).astype(np.float32)


class _Pool:
    """Recordings, drawn by their set's weight and then by their length. False when empty."""

    def __init__(self, groups: Sequence[Sequence[Recording]], weights: Sequence[float]):
        self.recordings = [r for group in groups for r in group]
        odds = [
            weight * r.samples / sum(q.samples for q in group)
            for group, weight in zip(groups, weights, strict=True)
            for r in group
        ]
        self.edges: NDArray[np.float64] = np.cumsum(odds) / np.sum(odds) if odds else np.zeros(0)

    def __bool__(self) -> bool:
        return bool(self.recordings)

    def draw(self, rng: np.random.Generator) -> Recording:
        index = int(np.searchsorted(self.edges, rng.random(), side="right"))
        return self.recordings[min(index, len(self.recordings) - 1)]
