"""Folders of recordings -> stems in memory: mono, float32, at the model's rate, unit RMS.

Layouts, told apart by what lies in the folder:

    MIR-1K, original     Wavfile/NAME.wav            left = accompaniment, right = voice
    MIR-1K, repacked     clips/NAME.flac             the same two channels; train.txt and dev.txt name the clips
    stems, flat          NAME.vocals.EXT + NAME.accompaniment.EXT
    stems, folders       NAME/vocals.EXT + NAME/accompaniment.EXT, or + drums, bass, other ... which are added (MUSDB)
    one role             any recordings, with role = "voice" or "accompaniment"

Any rate and channel count: channels are averaged, soxr resamples. Stems leave here with unit RMS, so that a mixture of a
voice and an accompaniment at equal gain is the paper's 0 dB. This module knows files; mixing is the sampler's business.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from .cache import Cache
from .config import Data

AUDIO = {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff"}
NOT_STEMS = {"mixture", "mix"}  # would add the voice back to the accompaniment
# Paper: 175 clips of one male and one female singer train, four of them steer.
MIR1K_SINGERS = ("abjones_", "amy_")
MIR1K_DEV = ("abjones_5_08", "abjones_5_09", "amy_9_08", "amy_9_09")
HELD_SECONDS = 30.0
SILENCE = 1e-5  # RMS below -100 dBFS: nothing to learn from

Signal = NDArray[np.float32]


class DataError(Exception):
    """A data set is missing, empty, or not what it was said to be."""


@dataclass(frozen=True)
class Files:
    """Where one recording's stems lie. Empty voice or accompaniment: the recording has one role only."""

    name: str
    voice: tuple[Path, ...] = ()
    accompaniment: tuple[Path, ...] = ()
    two_channels: bool = False  # MIR-1K: one file, left = accompaniment, right = voice


@dataclass(frozen=True)
class Recording:
    """Stems of one recording, each float32 `[shape=(samples,)]` with unit RMS, or None."""

    name: str
    voice: Signal | None
    accompaniment: Signal | None

    @property
    def samples(self) -> int:
        """Length, samples."""
        return max((len(stem) for stem in (self.voice, self.accompaniment) if stem is not None), default=0)


@dataclass(frozen=True)
class DataSet:
    """Recordings drawn from with one weight."""

    name: str
    weight: float
    recordings: tuple[Recording, ...]


def load(
    tables: Sequence[Data], roots: Sequence[Path], rate: int, cache: Cache | None = None
) -> tuple[list[DataSet], list[Recording]]:
    """Training sets and validation recordings, from the cache where it has them.

    With tables, each one's `path` is looked for below the roots in turn; without, every root is a data set by itself.

    Raises
    ------
    DataError
        a folder is missing or holds nothing usable, or nothing is left for training or validation.
    """
    places = [(t, _find(t.path, roots)) for t in tables] or [(Data(path=r.resolve().name), r) for r in roots]
    training, held, cache = [], [], cache or Cache(None)
    for table, folder in places:
        parts = split(table, folder)
        stems = [read(files, rate, table.start, table.stop, cache) for files in parts["train"]]
        training.append(
            DataSet(table.path, table.weight, tuple(r for r in stems if r.voice is not None or r.accompaniment is not None))
        )
        held += [_excerpt(read(files, rate, table.start, table.stop, cache), rate) for files in parts["validation"]]
    for role in ("voice", "accompaniment"):
        if not any(getattr(r, role) is not None for d in training for r in d.recordings):
            raise DataError(f"no {role} to train on: give a folder that holds some with --data")
    pairs = [r for r in held if r.voice is not None and r.accompaniment is not None]
    if not pairs:
        raise DataError("no song to validate on: give two songs at least, or a [[data]] table with split = 'validation'")
    return [d for d in training if d.recordings], pairs


def _excerpt(recording: Recording, rate: int) -> Recording:
    """At most 30 s of a recording, where the voice is strongest: an epoch's end should not take long, and songs have gaps."""
    length = round(HELD_SECONDS * rate)
    voice, accompaniment = recording.voice, recording.accompaniment
    if voice is None or accompaniment is None or len(voice) <= length:
        return recording
    energy = np.cumsum(np.square(voice, dtype=np.float64))
    start = int(np.argmax(energy[length:] - energy[:-length]))
    return Recording(recording.name, _unit(voice[start : start + length]), _unit(accompaniment[start : start + length]))


def _find(path: str, roots: Sequence[Path]) -> Path:
    for root in roots:
        if (root / path).is_dir():
            return root / path
    places = ", ".join(repr(str(root)) for root in roots)
    raise DataError(f"data set {path!r} is not below {places}: give the folder that holds it with --data")


def split(table: Data, folder: Path) -> dict[str, list[Files]]:
    """Files of the data set for "train" and "validation", as the table, the lists in the folder, or the paper say."""

    def kept(files: Sequence[Files]) -> list[Files]:
        wanted = [f for f in files if not table.only or any(fnmatch(f.name, pattern) for pattern in table.only)]
        return [f for f in wanted if not any(fnmatch(f.name, pattern) for pattern in table.exclude)]

    whole = scan(folder, table.role)
    found = kept(whole if table.list is None else _listed(whole, folder / table.list))
    if not found:
        raise DataError(
            f"data set {table.path!r} is empty: only={list(table.only)}, exclude={list(table.exclude)} leave nothing of "
            f"{str(folder)!r}"
        )
    if table.split != "auto":
        parts: dict[str, list[Files]] = {"train": [], "validation": []}
        parts[table.split] = found
        return parts
    if table.list is None and (folder / "train.txt").is_file() and (folder / "dev.txt").is_file():
        lists = {"train": "train.txt", "validation": "dev.txt"}
        return {part: kept(_listed(whole, folder / name)) for part, name in lists.items()}
    train = [f for f in found if f.name.startswith(MIR1K_SINGERS) and f.name not in MIR1K_DEV]
    if found[0].two_channels and train:
        return {"train": train, "validation": [f for f in found if f.name in MIR1K_DEV]}
    if table.role != "auto" or len(found) == 1:  # nothing there can be scored, or nothing can be spared
        return {"train": found, "validation": []}
    held = max(1, len(found) // 10)
    return {"train": found[:-held], "validation": found[-held:]}


def _listed(found: Sequence[Files], path: Path) -> list[Files]:
    if not path.is_file():
        raise DataError(f"list {str(path)!r} does not exist: expected a text file with one recording's name a line")
    names = {line.strip() for line in path.read_text().splitlines() if line.strip()}
    missing = names - {f.name for f in found}
    if missing:
        raise DataError(f"list {str(path)!r} names {sorted(missing)[0]!r} ({len(missing)} such): no recording has that name")
    return [f for f in found if f.name in names]


def scan(folder: Path, role: str = "auto") -> list[Files]:
    """Recordings in `folder`, by name. The layout is told from what lies there; see the module's text."""
    if not folder.is_dir():
        raise DataError(f"data folder {str(folder)!r} does not exist: give an existing folder with --data")
    if role != "auto":
        found = [_single(p, folder, role) for p in _audio(folder.rglob("*"))]
    else:
        found = _mir1k(folder) or _flat(folder) or _song_folders(folder)
    if not found:
        stems = "MIR-1K's Wavfile/ or clips/, NAME.vocals.* + NAME.accompaniment.*, or NAME/vocals.* beside other stems"
        wanted = f"{stems} (a folder of one role needs a [[data]] table)" if role == "auto" else "recordings"
        raise DataError(f"data folder {str(folder)!r} holds nothing usable: expected {wanted}")
    return sorted(found, key=lambda f: f.name)


def _audio(paths: Iterable[Path]) -> list[Path]:
    return sorted(p for p in paths if p.suffix.lower() in AUDIO and not p.name.startswith("."))


def _single(path: Path, folder: Path, role: str) -> Files:
    name = path.relative_to(folder).with_suffix("").as_posix()
    return Files(name, voice=(path,)) if role == "voice" else Files(name, accompaniment=(path,))


def _mir1k(folder: Path) -> list[Files]:
    place = next((folder / name for name in ("Wavfile", "clips") if (folder / name).is_dir()), None)
    return [Files(p.stem, (p,), (p,), two_channels=True) for p in _audio(place.iterdir())] if place else []


def _flat(folder: Path) -> list[Files]:
    stems = {p.name: p for p in _audio(folder.iterdir())}
    found = []
    for voice in stems.values():
        name, dot, _ = voice.name.rpartition(".vocals.")
        others = [p for p in stems.values() if dot and p.name.startswith(f"{name}.accompaniment.")]
        found += [Files(name, (voice,), (other,)) for other in others[:1]]
    return found


def _song_folders(folder: Path) -> list[Files]:
    # MUSDB keeps its test songs beside its training songs: they are not for training.
    place = folder / "train" if (folder / "train").is_dir() and (folder / "test").is_dir() else folder
    found = []
    for voice in _audio(place.rglob("vocals.*")):
        beside = [p for p in _audio(voice.parent.iterdir()) if p.stem != "vocals" and p.stem not in NOT_STEMS]
        whole = [p for p in beside if p.stem == "accompaniment"]
        if beside:
            found.append(Files(voice.parent.name, (voice,), tuple(whole or beside)))
    return found


def read(files: Files, rate: int, start: float = 0.0, stop: float | None = None, cache: Cache | None = None) -> Recording:
    """Stems of one recording at `rate` Hz, between `start` and `stop` seconds; from the cache if it has them.

    Raises
    ------
    DataError
        a file cannot be read, or a MIR-1K clip does not have two channels.
    """
    paths = tuple(dict.fromkeys(files.voice + files.accompaniment))
    how = (rate, start, stop, len(files.voice), files.two_channels)
    stems = (cache or Cache(None)).stems(paths, how, lambda: _decode(files, rate, start, stop))
    return Recording(files.name, stems.get("voice"), stems.get("accompaniment"))


def _decode(files: Files, rate: int, start: float, stop: float | None) -> dict[str, Signal]:
    """The stems that are there and sound, of one length, by their roles."""
    if files.two_channels:
        audio = _read(files.voice[0], rate, start, stop)
        if audio.shape[1] != 2:
            raise DataError(
                f"{str(files.voice[0])!r} has {audio.shape[1]} channel(s): MIR-1K clips have 2 (accompaniment, voice)"
            )
        return _units(audio[:, 1], audio[:, 0])
    voice = _sum([_read(p, rate, start, stop).mean(1) for p in files.voice])
    accompaniment = _sum([_read(p, rate, start, stop).mean(1) for p in files.accompaniment])
    if voice is not None and accompaniment is not None:
        shorter = min(len(voice), len(accompaniment))  # encoders pad; the stems start together
        voice, accompaniment = voice[:shorter], accompaniment[:shorter]
    return _units(voice, accompaniment)


def _units(voice: Signal | None, accompaniment: Signal | None) -> dict[str, Signal]:
    units = {"voice": _unit(voice), "accompaniment": _unit(accompaniment)}
    return {role: signal for role, signal in units.items() if signal is not None}


def _read(path: Path, rate: int, start: float, stop: float | None) -> Signal:
    """Samples `[shape=(samples, channels)]`."""
    try:
        with soundfile.SoundFile(path) as file:
            file.seek(min(round(start * file.samplerate), file.frames))
            frames = -1 if stop is None else round((stop - start) * file.samplerate)
            audio = file.read(frames, dtype="float32", always_2d=True)
            return soxr.resample(audio, file.samplerate, rate) if file.samplerate != rate else audio
    except (soundfile.LibsndfileError, OSError) as error:
        raise DataError(f"cannot read {str(path)!r}: {error}; convert it to WAV, FLAC, Ogg or MP3") from error


def _sum(stems: Sequence[Signal]) -> Signal | None:
    if not stems:
        return None
    total = np.zeros(max(map(len, stems)), np.float32)
    for stem in stems:
        total[: len(stem)] += stem
    return total


def _unit(signal: Signal | None) -> Signal | None:
    """The signal at RMS 1, or None if it is silent."""
    if signal is None or not len(signal):
        return None
    rms = float(np.sqrt(np.mean(np.square(signal, dtype=np.float64))))
    return np.ascontiguousarray(signal / np.float32(rms), np.float32) if rms > SILENCE else None
