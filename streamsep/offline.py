"""A file through the same engine: read, separated and written block by block; an hour takes the memory of a second.

The stems lie exactly over the input: same rate, channels and number of frames, the engine's latency removed (its first
`latency` samples are dropped, as many of silence push out the tail). They are 32-bit float WAV whatever the input was:
a source may exceed the full scale of the mixture it comes from, which integers would clip, and in float the sources
still add up to the input. From 4 GiB on a file is RF64, WAV's own 64-bit form.

Stems appear whole or not at all: they are written under temporary names beside their places and renamed at the end.
This module knows files; it knows neither devices nor the network, nor how its caller shows progress.
"""

from __future__ import annotations

import contextlib
import itertools
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from .engine import Separator
from .model import Model
from .ort import PROVIDERS
from .soundfiles import AudioFileError, Reader, reason, replacing

WAV_LIMIT = 2**32 - 2**16  # bytes of samples that a WAV file holds for certain, its header aside

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Result:
    """What became of one file.

    Attributes
    ----------
    paths
        of the stems, by source, in the model's order.
    sample_rate
        Hz.
    frames
        samples of a channel, of the input and of every stem.
    latency
        samples; already removed.
    elapsed
        seconds, with reading and writing, without loading the model.
    counts
        `Separator.counts`.
    error
        what the first failed network step said.
    provider_notes
        why nothing better runs here.
    native
        whether it went through ONNX Runtime's C API.
    """

    input: Path
    paths: dict[str, Path]
    sample_rate: int
    channels: int
    frames: int
    latency: int
    elapsed: float
    counts: dict[str, int]
    error: str | None
    provider: str
    provider_notes: tuple[str, ...]
    native: bool

    @property
    def seconds(self) -> float:
        """Length of the sound, seconds."""
        return self.frames / self.sample_rate

    @property
    def real_time_factor(self) -> float:
        """Time spent over time sounding; below 1 is faster than real time."""
        return self.elapsed / self.seconds

    @property
    def failed(self) -> int:
        """Hops whose mask is not the network's: its step failed, or what it gave was no mask; an old one stood in."""
        return self.counts["failed_steps"] + self.counts["bad_masks"]


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise AudioFileError(
            f"output folder {folder} has {free / 2**20:.0f} MiB free: expected {needed / 2**20:.0f} MiB for the stems; "
            "free some space or choose another folder"
        )


def _container(size: int) -> str:
    """The form of WAV that holds `size` bytes of samples."""
    return "WAV" if size <= WAV_LIMIT else "RF64"


@contextlib.contextmanager
def _stems(paths: Iterable[Path], reader: Reader) -> Iterator[list[soundfile.SoundFile]]:
    """Stems for the sound of `reader`, open for writing under temporary names."""
    paths = list(paths)
    size = 4 * reader.channels * reader.frames
    container = _container(size) if size else "RF64"
    try:
        with replacing(*paths) as parts, contextlib.ExitStack() as files:
            _check_space(paths[0].parent, size * len(paths))
            arguments = ("w", reader.sample_rate, reader.channels, "FLOAT")
            yield [files.enter_context(soundfile.SoundFile(p, *arguments, format=container)) for p in parts]
            files.close()  # before they are renamed: closing writes the headers
    except soundfile.SoundFileError as error:
        raise AudioFileError(
            f"stems in {paths[0].parent} cannot be written ({reason(error)}): expected room for them; "
            "free some space or choose another folder"
        ) from error


# ----------------------------------------------------------------------------------------------------------- separating


def aligned(separator: Separator, blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float32]]:
    """Separate a finite stream from a cold start and remove the latency: as many samples come out as go in.

    Parameters
    ----------
    separator
        it is reset first, and keeps its counts and error afterwards.
    blocks : float32 [shape=(channels, samples)]
        of any lengths.

    Yields
    ------
    float32 [shape=(sources, channels, samples)]
        the sources, in other blocks than the input's.
    """
    separator.reset()
    early = separator.latency  # samples to come that belong before the input's first
    tail = np.zeros((separator.channels, separator.latency), np.float32)
    for block in itertools.chain(blocks, [tail]):
        y = separator.process(block)
        skip = min(early, y.shape[2])
        early -= skip
        if skip < y.shape[2]:
            yield y[:, :, skip:]


def separate(
    path: str | Path, out_dir: str | Path, model: Model, provider: str = "auto", progress: Progress | None = None
) -> Result:
    """Write `out_dir/<stem of path's name>/<source>.wav` for every source of `model`.

    Parameters
    ----------
    path
        any file that libsndfile reads, 8 to 192 kHz, 1 to 8 channels, of any length.
    provider
        "auto", "cpu" or "cuda" (see `ort.open_network`).
    progress
        called after every block with the frames done and the frames of the whole file, which are those done where the
        file does not tell. What it raises ends the work and leaves no trace.

    Raises
    ------
    AudioFileError
        the input cannot be read, does not fit the engine, or the output cannot be written.
    ort.OrtError
        the provider that was asked for does not work here.

    A network step that fails on the way raises nothing (the last mask stands in): see `Result.failed`, `Result.error`.
    """
    with Reader(path) as reader:
        separator = _separator(reader, model, provider)
        folder = Path(out_dir) / reader.path.stem
        paths = {source: folder / f"{source}.wav" for source in separator.sources}
        _spare_input(reader.path, paths.values())
        separator.process(np.zeros((reader.channels, 0), np.float32))  # compiles, on a machine's first run
        started = time.perf_counter()
        frames = 0
        with _stems(paths.values(), reader) as files:
            for y in aligned(separator, _watched(reader, progress)):
                frames += y.shape[2]
                for file, stem in zip(files, y, strict=True):
                    file.write(stem.T)
            if not frames:
                raise AudioFileError(f"{path} gave 0 of its {reader.frames} frames: expected sound; get a whole copy")
        return Result(
            input=reader.path,
            paths=paths,
            sample_rate=reader.sample_rate,
            channels=reader.channels,
            frames=frames,
            latency=separator.latency,
            elapsed=time.perf_counter() - started,
            counts=separator.counts,
            error=separator.error,
            provider=separator.network.provider,
            provider_notes=tuple(separator.provider_notes),
            native=separator.native,
        )


def _separator(reader: Reader, model: Model, provider: str) -> Separator:
    try:
        return Separator(model, reader.sample_rate, reader.channels, provider)
    except ValueError as error:
        if provider not in PROVIDERS:
            raise
        cure = "convert it with: ffmpeg -i FILE -ar 48000 -ac 2 converted.wav"
        raise AudioFileError(f"{reader.path} does not fit the engine: {error}; {cure}") from error


def _spare_input(path: Path, outputs: Iterable[Path]) -> None:
    for output in outputs:
        if output.exists() and output.samefile(path):
            raise AudioFileError(f"{path} would be overwritten by its own stem: expected another output folder; choose one")


def _watched(reader: Reader, progress: Progress | None) -> Iterator[NDArray[np.float32]]:
    """The reader's blocks; reports each when the next one is asked for, which is when its stems are written."""
    done = 0
    for block in reader.blocks():
        yield block
        done += block.shape[1]
        if progress:
            progress(done, max(done, reader.frames))
