"""`python -m train.sing SPEECH ... -o DIR`: speech made to sing, a voice's recordings for training from voices that only speak.

Singers are few in free data, speakers are many. WORLD (Morise, Yokomori & Ozawa, "WORLD: a vocoder-based high-quality speech
synthesis system for real-time applications", IEICE Trans. Inf. & Syst. E99-D(7), 2016; pyworld) takes an utterance apart into
pitch, spectral envelope and aperiodicity; each syllable's nucleus is drawn out to a note, consonants stay short, the pitch
becomes a melody, and WORLD sings the result. What makes it heard as singing is after Saitou, Goto, Unoki & Akagi,
"Speech-to-singing synthesis", WASPAA 2007: a pitch that overshoots (a damped second-order system), vibrato, fine
fluctuation, a singer's formant near 3 kHz, and vibrato in the level as well. Keys, scales, tempi, ranges and manners are drawn
for each song; every number is seeded by the speaker's name: the same recordings and seed give the same songs.

Speakers are told apart by where their recordings lie: one folder, one speaker; but files named as TSP's are, LETTERS NUMBER _
NUMBER, by their letters. Needs the extra `song`.
"""

from __future__ import annotations

import importlib.util
import re
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .datasets import AUDIO

Array = NDArray[np.float64]

RATE = 16_000  # Hz
FRAME = 0.005  # s between WORLD's frames
SILENCE = 1e-12  # power in every bin
GATE_DB = 42.0  # below an utterance's loudest frame: a microphone's noise is no voice
SHORTEST = 2.0  # s of speech with a pitch that a speaker's recordings must have in all
MARGIN = 0.25  # s kept around what has a pitch: beyond lie other noises
NUCLEUS_DB = 4.0  # a nucleus reaches to where its power has fallen by this much
DIP_DB = 3.0  # between two syllables of one voiced stretch
TIGHT = 0.8  # sung consonants are this much of spoken ones
PITCHES = (82.0, 880.0)  # Hz: E2 to A5
SCALES = ((0, 2, 4, 5, 7, 9, 11), (0, 2, 3, 5, 7, 8, 10), (0, 2, 4, 7, 9), (0, 3, 5, 7, 10), (0, 2, 3, 5, 7, 9, 10))
RHYTHMS = (
    (1, 1, 1, 1),
    (0.5, 0.5, 1, 1),
    (1, 0.5, 0.5, 2),
    (0.5, 0.5, 0.5, 0.5, 1, 1),
    (1.5, 0.5, 1, 1),
    (2, 2),
    (1, 1, 2),
    (3, 1),
)
OVERSHOOT, OMEGA = 0.5422, 34.8  # Saitou et al. 2007: damping, and rad/s of the pitch's second-order system


class SingError(Exception):
    """No recordings, or none with a pitch; or pyworld is missing."""


class Frames(NamedTuple):
    """What WORLD takes apart: `f0` `[shape=(frames,)]` in Hz, 0 where there is no pitch; power `envelope` and `aperiodicity`
    (0 tone, 1 noise) `[shape=(frames, bins)]`."""

    f0: Array
    envelope: Array
    aperiodicity: Array


@dataclass(frozen=True)
class Manner:
    """How one song is sung. Seconds, semitones, dB, Hz."""

    beat: float
    middle: float  # of the melody, as a MIDI number
    scale: tuple[int, ...]
    vibrato_hz: float
    vibrato: float  # semitones
    scoop: float  # semitones below the first note
    damping: float
    formant_db: float  # the singer's formant
    formant_hz: float
    evenness: float  # share of the syllables' differences in level that is taken away
    ornament: float  # probability that a syllable has a second note

    @classmethod
    def drawn(cls, rng: np.random.Generator, spoken: float) -> Manner:
        """A manner for somebody who speaks at `spoken` Hz: people sing above where they speak."""
        pitch = np.clip(spoken * 2 ** (rng.uniform(-1, 12) / 12), PITCHES[0] * 1.5, PITCHES[1] / 1.8)
        return cls(
            beat=rng.uniform(0.28, 0.65),
            middle=float(_number(pitch)),
            scale=SCALES[rng.integers(len(SCALES))],
            vibrato_hz=rng.uniform(4.6, 6.8),
            vibrato=rng.choice([0.0, 0.15, 0.4, 0.8]) * rng.uniform(0.7, 1.4),
            scoop=rng.uniform(0, 2.0),
            damping=rng.uniform(OVERSHOOT, 1.0),
            formant_db=rng.choice([0.0, 0.0, 6.0, 12.0]),
            formant_hz=rng.uniform(2600, 3300),
            evenness=rng.uniform(0.4, 1.0),
            ornament=rng.uniform(0, 0.3),
        )


def load_world() -> ModuleType:
    """pyworld's extension module alone: its package imports pkg_resources, which setuptools no longer has.

    Raises
    ------
    SingError
        pyworld is missing.
    """
    package = importlib.util.find_spec("pyworld")
    spec = package and PathFinder.find_spec("pyworld", package.submodule_search_locations)
    if not spec or not spec.loader:
        raise SingError("pyworld is missing: pip install 'streamsep[song]'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def speakers(folder: Path) -> dict[str, list[Path]]:
    """Recordings below `folder` by their speakers' names; see the module's text."""
    found: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO):
        coded = re.fullmatch(r"([A-Za-z]+)\d+_\d+", path.stem)
        parts = [folder.name, *path.parent.relative_to(folder).parts, *([coded[1]] if coded else [])]
        found.setdefault("-".join(parts), []).append(path)
    return found


def analyse(world: ModuleType, wave: Array) -> Frames:
    """The frames of an utterance `[shape=(samples,)]` at RATE, from MARGIN before its first pitch to MARGIN behind its last;
    what is GATE_DB below its loudest frame is silence."""
    f0, times = world.dio(wave, RATE, frame_period=1000 * FRAME)
    f0 = world.stonemask(wave, f0, times, RATE)
    envelope, aperiodicity = world.cheaptrick(wave, f0, times, RATE), world.d4c(wave, f0, times, RATE)
    power = envelope.sum(1)
    heard = power > power.max() * 10 ** (-GATE_DB / 10)
    pitched = np.flatnonzero((f0 > 0) & heard)
    if not len(pitched):
        return Frames(f0[:0], envelope[:0], aperiodicity[:0])
    margin = round(MARGIN / FRAME)
    kept = slice(max(int(pitched[0]) - margin, 0), int(pitched[-1]) + margin)
    frames = Frames(np.where(heard, f0, 0.0), np.where(heard[:, None], envelope, SILENCE), aperiodicity)
    return Frames(*(part[kept] for part in frames))


def nuclei(frames: Frames) -> list[tuple[int, int]]:
    """First and last frame of each syllable's nucleus: the loud part of a stretch with a pitch, between dips of DIP_DB."""
    if not len(frames.f0):
        return []
    power = 10 * np.log10(_smooth(frames.envelope.sum(1), 0.05) + SILENCE)
    voiced = np.flatnonzero(frames.f0 > 0)
    found: list[tuple[int, int]] = []
    for stretch in np.split(voiced, np.flatnonzero(np.diff(voiced) > 1) + 1):
        if len(stretch) * FRAME >= 0.05:
            found += [(int(stretch[a]), int(stretch[b])) for a, b in _humps(power[stretch])]
    loudest = max((power[a : b + 1].max() for a, b in found), default=0.0)
    return [(a, b) for a, b in found if power[a : b + 1].max() > loudest - 24]


def _humps(power: Array) -> Iterator[tuple[int, int]]:
    """First and last place of each hump of a curve in dB: hysteresis of DIP_DB tells them apart."""
    best, low, rising, peaks = 0, 0, True, []
    for i, level in enumerate(power):
        if rising:
            best = i if level > power[best] else best
            if level < power[best] - DIP_DB:
                peaks.append(best)
                rising, low = False, i
        else:
            low = i if level < power[low] else low
            if level > power[low] + DIP_DB:
                rising, best = True, i
    peaks += [best] if rising else []
    edges = [0, *(a + int(np.argmin(power[a:b])) for a, b in pairwise(peaks)), len(power)]
    for peak, start, stop in zip(peaks, edges, edges[1:], strict=False):
        loud = power > power[peak] - NUCLEUS_DB
        a, b = peak, peak
        while a - 1 >= start and loud[a - 1]:
            a -= 1
        while b + 1 < stop and loud[b + 1]:
            b += 1
        if b > a:
            yield a, b


def melody(rng: np.random.Generator, manner: Manner, count: int) -> list[float]:
    """`count` notes of the manner's scale around its middle, as MIDI numbers: mostly by step, sometimes by leap or repeated."""
    degree, notes, size = int(rng.integers(-2, 3)), [], len(manner.scale)
    for _ in range(count):
        notes.append(manner.middle + 12 * (degree // size) + manner.scale[degree % size])
        degree += int(rng.choice([-3, -2, -1, 0, 1, 2, 3], p=[0.07, 0.13, 0.24, 0.12, 0.24, 0.13, 0.07]))
        degree += -1 if degree > size else 1 if degree < -size // 2 else 0
    return notes


def phrase(rng: np.random.Generator, manner: Manner, frames: Frames) -> Frames:
    """Utterances sung: their frames in the song's time, on the song's pitch."""
    syllables = nuclei(frames)
    beats: list[float] = []
    while len(beats) < len(syllables):
        beats += RHYTHMS[rng.integers(len(RHYTHMS))]
    lengths = np.asarray(beats[: len(syllables)]) * manner.beat
    lengths[-1] *= rng.choice([1, 2, 3])
    spoken, sung, starts = [0.0], [0.0], []
    for (a, b), (after, _), length in zip(syllables, [*syllables[1:], (len(frames.f0), 0)], lengths, strict=True):
        start = sung[-1] + TIGHT * (a * FRAME - spoken[-1])
        nucleus = (b - a) * FRAME
        held = max(length - TIGHT * (after - b) * FRAME, 0.8 * nucleus)
        edge = min(0.25 * nucleus, 0.04)
        spoken += [a * FRAME, a * FRAME + edge, b * FRAME - edge, b * FRAME]
        sung += [start, start + edge, start + max(held - edge, 1.5 * edge), start + max(held, 2.5 * edge)]
        starts.append(start)
    sung.append(sung[-1] + TIGHT * (len(frames.f0) * FRAME - spoken[-1]))
    spoken.append(len(frames.f0) * FRAME)
    at = np.interp(np.arange(int(sung[-1] / FRAME)) * FRAME, sung, spoken) / FRAME
    low = np.minimum(at.astype(int), len(frames.f0) - 2)
    part = (at - low)[:, None]
    envelope = np.exp((1 - part) * np.log(frames.envelope[low] + SILENCE) + part * np.log(frames.envelope[low + 1] + SILENCE))
    aperiodicity = (1 - part) * frames.aperiodicity[low] + part * frames.aperiodicity[low + 1]
    voiced = frames.f0[np.minimum(np.round(at).astype(int), len(frames.f0) - 1)] > 0
    semitones, sway = intone(rng, manner, starts, sung[-1])
    gain = level(rng, manner, envelope, voiced, starts) + 2.0 * sway  # vibrato is heard in the level, too
    hertz = np.linspace(0, RATE / 2, envelope.shape[1])
    gain = gain[:, None] + manner.formant_db * np.exp(-0.5 * ((hertz - manner.formant_hz) / 350) ** 2) * voiced[:, None]
    f0 = np.clip(440 * 2 ** ((semitones - 69) / 12), *PITCHES)
    return Frames(np.where(voiced, f0, 0.0), envelope * 10 ** (gain / 10), aperiodicity)


def intone(rng: np.random.Generator, manner: Manner, starts: Sequence[float], end: float) -> tuple[Array, Array]:
    """Pitch as MIDI numbers, and its vibrato by itself in semitones, each `[shape=(frames,)]`; notes begin at `starts` s.

    Steps from note to note through Saitou's second-order system, which is what overshoots and slides."""
    count = int(end / FRAME)
    time = np.arange(count) * FRAME
    target, sway = np.empty(count), np.zeros(count)
    for note, start, stop in zip(melody(rng, manner, len(starts)), starts, [*starts[1:], end], strict=True):
        here = (time >= start) & (time < stop) if start > starts[0] else time < stop
        target[here] = note
        if stop - start > 0.3 and rng.random() < manner.ornament:
            turn = here & (time > start + rng.uniform(0.3, 0.7) * (stop - start))
            target[turn] += rng.choice([-2, -1, 1, 2])
        if stop - start > 0.25:
            ramp = np.clip((time - start - 0.15) / 0.25, 0, 1) * np.clip((stop - time) / 0.06, 0, 1) * here
            rate = manner.vibrato_hz * rng.uniform(0.95, 1.05)
            sway += manner.vibrato * ramp * np.sin(2 * np.pi * rate * (time - start))
    target[time < starts[0] + 0.06] -= manner.scoop
    pitch, speed, omega = np.empty(count), 0.0, OMEGA * rng.uniform(0.8, 1.6)
    now = target[0]
    for i, wanted in enumerate(target):
        speed += FRAME * (omega**2 * (wanted - now) - 2 * manner.damping * omega * speed)
        now += FRAME * speed
        pitch[i] = now
    drift = sum(depth * _unit(_smooth(rng.standard_normal(count), seconds)) for seconds, depth in ((0.4, 0.08), (0.04, 0.04)))
    return pitch + sway + drift, sway


def level(
    rng: np.random.Generator, manner: Manner, envelope: Array, voiced: NDArray[np.bool_], starts: Sequence[float]
) -> Array:
    """Gain in dB `[shape=(frames,)]`: syllables evened out, a phrase that swells and ebbs, hiss no louder than vowels."""
    power = 10 * np.log10(envelope.sum(1) + SILENCE)
    if not voiced.any():
        return np.zeros(len(power))
    time, loud = np.arange(len(power)) * FRAME, float(np.quantile(power[voiced], 0.9))
    smoothed = _smooth(np.maximum(power, loud - 20), 0.2)
    gain = manner.evenness * np.clip(loud - smoothed, -9, 9) * (power > loud - 30)
    gain += np.interp(time, [*starts, time[-1] + 0.1], rng.normal(0, 1.5, len(starts) + 1))
    gain += np.interp(time / max(time[-1], FRAME), (0, rng.uniform(0.3, 0.7), 1), rng.uniform(-4, 0, 3))
    gain = np.where(voiced, gain, np.minimum(np.minimum(gain, 0.0), loud - 6 - power))
    return _smooth(gain, 0.03)


def sing(world: ModuleType, utterances: Sequence[Frames], rng: np.random.Generator, seconds: float) -> NDArray[np.float32]:
    """A song of `seconds` s `[shape=(samples,)]` at RATE, its peak at 0.5, from utterances in a chance order."""
    pitches = np.concatenate([u.f0[u.f0 > 0] for u in utterances])
    manner = Manner.drawn(rng, float(np.median(pitches)))
    syllables, bins = [len(nuclei(u)) for u in utterances], utterances[0].envelope.shape[1]
    parts: list[Frames] = []
    words: list[int] = []
    length = 0.0
    while length < seconds:
        for i in rng.permutation(len(utterances)):
            words.append(int(i))
            if sum(syllables[word] for word in words) >= rng.integers(4, 10):  # single words are sung in one breath
                rest = int(rng.choice([0.25, 0.5, 1, 2]) * manner.beat / FRAME)
                silence = Frames(np.zeros(rest), np.full((rest, bins), SILENCE), np.ones((rest, bins)))
                parts += [phrase(rng, manner, _joined([utterances[word] for word in words])), silence]
                length += FRAME * sum(len(part.f0) for part in parts[-2:])
                words = []
                if length >= seconds:
                    break
    f0, envelope, aperiodicity = map(np.ascontiguousarray, _joined(parts))
    count = round(seconds / FRAME)
    wave = world.synthesize(
        f0[:count], np.maximum(envelope[:count], SILENCE), np.clip(aperiodicity[:count], 0, 1), RATE, 1000 * FRAME
    )
    return (0.5 * wave / np.abs(wave).max()).astype(np.float32)


def utterances(world: ModuleType, paths: Sequence[Path]) -> list[Frames]:
    """The frames of those recordings that have a pitch; of none below RATE, whose top is missing."""
    found = []
    for path in paths:
        wave, rate = soundfile.read(path, dtype="float64", always_2d=True)
        if rate < RATE or not wave.any():
            continue
        mono = wave.mean(1) if rate == RATE else soxr.resample(wave.mean(1), rate, RATE)
        frames = analyse(world, np.ascontiguousarray(mono))
        if nuclei(frames):
            found.append(frames)
    return found


def _joined(parts: Sequence[Frames]) -> Frames:
    return Frames(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _number(hertz: float) -> float:
    return 69 + 12 * np.log2(hertz / 440)


def _unit(x: Array) -> Array:
    return x / (x.std() + 1e-12)


def _smooth(x: Array, seconds: float) -> Array:
    """Running Hann-weighted mean of frames `x` `[shape=(frames,)]`, the ends held."""
    n = round(seconds / FRAME) | 1
    window = np.hanning(n + 2)[1:-1]
    return np.convolve(np.pad(x, n // 2, mode="edge"), window / window.sum(), "valid")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False, path_type=Path), help="Songs go here.")
@click.option("--songs", type=click.IntRange(1), default=4, show_default=True, help="Of each speaker.")
@click.option("--seconds", type=click.FloatRange(1), default=40.0, show_default=True, help="Of a song.")
@click.option("--seed", type=int, default=0, show_default=True)
def main(folders: tuple[Path, ...], out: Path, songs: int, seconds: float, seed: int) -> None:
    """Make the speakers whose recordings lie in FOLDERS sing: one FLAC a song, SPEAKER-N.flac, 16 kHz, for role = "voice"."""
    out.mkdir(parents=True, exist_ok=True)
    try:
        world, sung = load_world(), 0
        for name, paths in sorted(item for folder in folders for item in speakers(folder).items()):
            frames = utterances(world, paths)
            pitched = FRAME * sum(int((f.f0 > 0).sum()) for f in frames)
            if pitched < SHORTEST:
                click.echo(f"{name:28}left out: less than {SHORTEST:g} s with a pitch at {RATE} Hz")
                continue
            for n in range(songs):
                rng = np.random.default_rng((seed, zlib.crc32(name.encode()), n))
                soundfile.write(out / f"{name}-{n}.flac", sing(world, frames, rng, seconds), RATE, subtype="PCM_16")
            sung += songs
            click.echo(f"{name:28}{songs} songs of {len(frames)} utterances, {pitched:.0f} s with a pitch")
        if not sung:
            raise SingError("no speech in any folder: expected recordings of people who speak, a folder each")
    except (SingError, soundfile.LibsndfileError, OSError) as error:
        click.echo(f"train.sing: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m train.sing")
