"""A file through the same engine: read, separated and written block by block; an hour takes the memory of a second.

The stems lie exactly over the input: same rate, channels and number of frames, the engine's latency removed (its first samples
are dropped, silence pushes out the tail). They are 32-bit float WAV unless another `Form` is wanted, and appear whole or not at
all (see `stems`). Many hops go through the engine at once (`frames`), with the result of live sound, bit by bit or nearly.

This module knows files; it knows neither devices nor the network, nor how its caller shows progress.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .engine import Separator
from .frames import Frames
from .model import Model
from .ort import PROVIDERS
from .soundfiles import AudioFileError, Reader
from .stems import Form, writing

Blocks = Iterable[NDArray[np.float32]]
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
    clipped
        samples of stems beyond full scale, where their form has one.
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
    clipped: int
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


# ----------------------------------------------------------------------------------------------------------- separating


def aligned(frames: Frames, blocks: Blocks) -> Iterator[NDArray[np.float32]]:
    """Separate a finite stream from a cold start and remove the latency: as many samples come out as go in.

    Parameters
    ----------
    frames
        its engine is reset first, and keeps its counts and error afterwards.
    blocks : float32 [shape=(channels, samples)]
        of any lengths.

    Yields
    ------
    float32 [shape=(sources, channels, samples)]
        the sources, in other blocks than the input's.
    """
    separator = frames.separator
    separator.reset()
    hop, early = separator.geometry.hop_length, separator.latency - separator.geometry.hop_length
    given = sent = 0

    def counted() -> Iterator[NDArray[np.float32]]:
        nonlocal given
        for block in blocks:
            given += block.shape[1]
            yield block

    tail = np.zeros((separator.channels, early), np.float32)
    for x in _cut(itertools.chain(counted(), [tail]), separator.channels, frames.samples, hop):
        y = frames.process(x)
        skip = min(early, y.shape[2])
        early -= skip
        y = y[:, :, skip : skip + given - sent]
        sent += y.shape[2]
        if y.shape[2]:
            yield y


def _cut(blocks: Blocks, channels: int, size: int, hop: int) -> Iterator[NDArray[np.float32]]:
    """The samples of `blocks`, `size` at a time, and in the end whole hops, the last one filled with silence.

    What is given is overwritten when the next one is asked for.
    """
    chunk, fill = np.zeros((channels, size), np.float32), 0
    for block in blocks:
        start = 0
        while start < block.shape[1]:
            n = min(size - fill, block.shape[1] - start)
            chunk[:, fill : fill + n] = block[:, start : start + n]
            start, fill = start + n, fill + n
            if fill == size:
                yield chunk
                fill = 0
    if fill:
        chunk[:, fill:] = 0
        yield np.ascontiguousarray(chunk[:, : -(-fill // hop) * hop])


def separate(
    path: str | Path,
    out_dir: str | Path,
    model: Model,
    provider: str = "auto",
    progress: Progress | None = None,
    form: Form | None = None,
    name: Path | None = None,
) -> Result:
    """Write `out_dir/name/<source>.wav` for every source of `model`.

    Parameters
    ----------
    path
        any file that libsndfile or FFmpeg reads, 8 to 192 kHz, 1 to 8 channels, of any length.
    provider
        "auto", "cpu" or "cuda" (see `ort.open_network`).
    progress
        called after every block with the frames done and the frames of the whole file, which are those done where the
        file does not tell. What it raises ends the work and leaves no trace.
    form
        of the stems: 32-bit float WAV unless told.
    name
        the stems' folder in `out_dir`: the file's name without its suffix unless told.

    Raises
    ------
    AudioFileError
        the input cannot be read, does not fit the engine, or the output cannot be written.
    ort.OrtError
        the provider that was asked for does not work here.

    A network step that fails on the way raises nothing (the last mask stands in): see `Result.failed`, `Result.error`.
    """
    form = form or Form()
    with Reader(path) as reader:
        separator = _separator(reader, model, provider)
        engine = Frames(separator)
        folder = Path(out_dir) / (name or reader.path.stem)
        paths = {source: folder / f"{source}.{form.container}" for source in separator.sources}
        _spare_input(reader.path, paths.values())
        engine.process(np.zeros((reader.channels, separator.geometry.hop_length), np.float32))  # compiles, on a first run
        started = time.perf_counter()
        frames = 0
        with writing(list(paths.values()), form, reader.sample_rate, reader.channels, reader.frames) as stems:
            for y in aligned(engine, _watched(reader, progress)):
                frames += y.shape[2]
                stems.write(y)
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
            clipped=stems.clipped,
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
    """The reader's blocks; reports each when the next one is asked for: then its stems are written, or nearly."""
    done = 0
    for block in reader.blocks():
        yield block
        done += block.shape[1]
        if progress:
            progress(done, max(done, reader.frames))
