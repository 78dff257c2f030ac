"""Many files for `streamsep separate`: some at a time, with one progress bar, and on after one that fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from .. import StreamsepError, offline
from ..filelist import FileList, Song
from ..model import Model
from ..offline import Result
from ..soundfiles import AudioFileError, seconds
from ..stems import Form
from .terminal import progress

_plotting = threading.Lock()


class _StoppedError(Exception):
    """The whole batch is to end."""


class Batch:
    """Files through the engine, some at a time. One that fails is no reason to stop."""

    def __init__(self, output_dir: Path, model: Model, provider: str, form: Form, plot: bool) -> None:
        self._output_dir, self._model, self._provider = output_dir, model, provider
        self._form, self._plot = form, plot
        self._stop = threading.Event()

    def run(self, found: FileList, jobs: int, quiet: bool) -> tuple[list[tuple[Result, Path | None]], dict[str, str]]:
        """(what became of each file and its picture, why the others failed); in the files' order."""
        failures = {name: _why_missing(name) for name in found.missing}
        done: dict[Song, tuple[Result, Path | None]] = {}
        lengths = {song: seconds(song.path) for song in found.songs} if len(found.songs) > 1 else {}
        title = found.songs[0].path.name if len(found.songs) == 1 else f"{len(found.songs)} files"
        with progress(title, quiet) as advance, ThreadPoolExecutor(jobs) as pool:
            shares = _Shares(lengths, advance)
            try:
                waiting = {pool.submit(self._one, song, shares, found): song for song in found.songs}
                for future in as_completed(waiting):
                    song = waiting[future]
                    try:
                        done[song] = future.result()
                        if done[song][0].failed:
                            failures[str(song.path)] = _why_failed(done[song][0])
                    except (StreamsepError, OSError) as error:
                        if not _of_the_file(error):
                            raise
                        failures[str(song.path)] = str(error)
                    shares.ended(song)
            except BaseException:  # Ctrl-C, or what would befall every file
                self._stop.set()
                pool.shutdown(wait=True, cancel_futures=True)
                raise
        return [done[song] for song in found.songs if song in done], failures

    def _one(self, song: Song, shares: _Shares, found: FileList) -> tuple[Result, Path | None]:
        def watch(done: int, total: int) -> None:
            if self._stop.is_set():
                raise _StoppedError
            shares(song, done / total)

        if self._stop.is_set():
            raise _StoppedError
        folder = self._output_dir / song.name
        for source in self._model.contract.sources:
            stem = (folder / f"{source}.{self._form.container}").resolve()
            if any(stem == other.path.resolve() for other in found.songs if other is not song):
                raise AudioFileError(
                    f"{song.path}: its stem {stem} is an input, too: expected another output folder; choose one"
                )
        result = offline.separate(song.path, self._output_dir, self._model, self._provider, watch, self._form, song.name)
        picture = None
        if self._plot:
            from ..plot import from_files

            picture = folder / "spectrograms.png"
            with _plotting:
                from_files({"mixture": song.path} | result.paths, picture)
        return result, picture


class _Shares:
    """How far all files are together, by their seconds; those that do not tell count as the mean of the others."""

    def __init__(self, lengths: dict[Song, float | None], advance: Callable[[float], None]) -> None:
        known = [s for s in lengths.values() if s]
        mean = sum(known) / len(known) if known else 1.0
        self._weights = {song: 0.0 if s is None else s or mean for song, s in lengths.items()}
        self._total = sum(self._weights.values())
        self._done: dict[Song, float] = {}
        self._advance, self._lock = advance, threading.Lock()

    def __call__(self, song: Song, share: float) -> None:
        with self._lock:
            self._done[song] = share
            total = self._total or 1.0
            self._advance(sum(self._weights.get(s, 1.0) * d for s, d in self._done.items()) / total)

    def ended(self, song: Song) -> None:
        """Well or not."""
        self(song, 1.0)


def _of_the_file(error: Exception) -> bool:
    """Whether another file may fare better."""
    return isinstance(error, AudioFileError | OSError)


def _why_missing(name: str) -> str:
    if Path(name).is_dir():
        return f"{name} holds no sound file: expected one by its name (.wav, .flac, .mp3 ...); name it itself"
    return f"{name} matches no sound file: expected a file, a folder or a pattern; check the path"


def _why_failed(result: Result) -> str:
    hops = result.counts["hops"]
    return f"{result.input}: {result.failed} of {hops} hops had no mask of their own: {result.error or 'not a mask'}"
