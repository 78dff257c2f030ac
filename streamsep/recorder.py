"""Recording while it plays: every source and their mix, each as a FLAC file, from the tap (`rings.read_tap`).

    DIR/2026-05-30_21-15-00/vocals.flac, accompaniment.flac, heard.flac      (vocals.2.flac, ... after each 2 GB)

All files of a take begin and are cut at the same sample: what is lost on the way is silence of the same length in all.
`heard.flac` is the sum of the sources with their gains, mutes and bypass, in the input's channels: what a device plays that
gets the mix. What came too late for the device is in the recording all the same. Samples beyond full scale are clipped and
counted.

The audio path knows nothing of this. One thread copies the tap, which holds a second, into a queue of ten more (at most
64 MB); a second thread encodes and writes. So a disk may sleep for seconds, and memory is bounded. If it sleeps for longer,
sound is lost, counted, and silence in the files. Encoding, writing and NumPy's loops run without the GIL.

Crash-safe: a `kill -9` costs what was not yet copied (0.1 s) and made into a block of FLAC (`flacfile`; 4096 frames), at
48 kHz a fifth of a second, at 8 kHz 0.6 s. Once a second all is synced to the disk: a power cut costs little more than that.

This module knows the tap and files; it knows neither engine nor device, and not who asks for the recording.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from . import StreamsepError, flacfile, rings
from .flacfile import FlacFile
from .rings import Rings
from .soundfiles import reason

HEARD = "heard"
PART_BYTES = 2_000_000_000  # of a file: FAT32, and programs that count in 32 bits, end at twice that; stereo takes 3 h
POLL_SECONDS, PIECE_SECONDS = 0.1, 0.2  # between two looks at the tap; of sound copied at once, at most
QUEUE_PIECES, QUEUE_BYTES = 100, 64 << 20  # whichever is less
SYNC_SECONDS = 1.0
STOP_SECONDS = 10.0  # a disk that has not taken the rest by then is left alone

Pieces = queue.Queue[NDArray[np.float32] | int | None]  # frames of the tap, a number of lost ones, or the end


class RecorderError(StreamsepError):
    """A recording cannot begin."""


class Recorder:
    """Records the tap into new folders in `folder`, as often as it is started.

    Attributes: `folder`, of the take that runs or ran last (None before the first), and `error`, one line on why that ended
    early, else empty. Start it when `Live.prepare` is done, and stop it after `Live.stop`, to have all.

    Parameters
    ----------
    folder
        where the takes go; made with the first.
    sources, channels, sample_rate
        the tap's channels are each of the sources with each of the channels; Hz.
    rings
        whose tap it is. Positions must not go back while it records.

    Raises
    ------
    RecorderError
        the tap has other channels.
    """

    def __init__(self, folder: Path, sources: Sequence[str], channels: int, sample_rate: int, rings: Rings) -> None:
        self.folder: Path | None = None
        self.error = ""
        self._parent, self._rings = Path(folder), rings
        self._names = (*sources, HEARD)
        self._channels, self._sample_rate = channels, sample_rate
        expected = len(sources) * channels
        if rings.tap.shape[1] != expected:
            raise RecorderError(f"tap_channels={rings.tap.shape[1]}: expected {expected}, each source with each channel")
        self._piece = max(1, round(PIECE_SECONDS * sample_rate))
        self._length = min(QUEUE_PIECES, max(4, QUEUE_BYTES // (4 * self._piece * rings.tap.shape[1])))
        self._counts = _no_counts()
        self._lock = threading.Lock()  # of start and stop
        self._threads: list[threading.Thread] = []
        self._stop, self._ended = threading.Event(), threading.Event()  # asked to; no piece will be written any more
        self._position = 0  # of the next frame in the tap

    @property
    def recording(self) -> bool:
        """Whether sound is being written."""
        return any(thread.is_alive() for thread in self._threads)

    @property
    def counts(self) -> dict[str, int]:
        """Of the take that runs or ran last: `frames` of each file, of them `lost_frames` silence; `clipped_samples` of all."""
        return dict(self._counts)

    def summary(self) -> str:
        """The take that runs or ran last, in one line for people; empty before the first."""
        seconds = {name: self._counts[name] / self._sample_rate for name in ("frames", "lost_frames")}
        facts = [f"recorded {seconds['frames']:.1f} s into {self.folder}" if self.folder else ""]
        if self._counts["lost_frames"]:
            facts.append(f"{seconds['lost_frames']:.2f} s of it lost, and silent: the disk or this machine was too slow")
        if self._counts["clipped_samples"]:
            facts.append(f"{self._counts['clipped_samples']} samples clipped: turn the gains down")
        return "; ".join(facts)

    def start(self, position: int | None = None) -> None:
        """Begin a new take with what comes now, or with a `position` in the tap just passed; nothing while one runs.

        Raises
        ------
        RecorderError
            no folder or no file can be made, or FLAC cannot hold that.
        """
        with self._lock:
            if self.recording:
                return
            self._check()
            try:
                take = _Take(self._parent, self._names, self._channels, self._sample_rate)
            except OSError as error:
                raise RecorderError(
                    f"recordings' folder {self._parent} cannot be written ({reason(error)}): expected a folder that may be "
                    "written, with room; choose another"
                ) from error
            self.folder, self.error, self._counts = take.folder, "", take.counts
            self._position = rings.position(self._rings.header, rings.TAP_WRITE) if position is None else position
            self._stop.clear()
            self._ended.clear()
            pieces: Pieces = queue.Queue(self._length)
            self._threads = [
                threading.Thread(target=self._gather, args=(pieces,), name="streamsep-tap", daemon=True),
                threading.Thread(target=self._write, args=(pieces, take), name="streamsep-recorder", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def _check(self) -> None:
        if HEARD in self._names[:-1]:
            raise RecorderError(f"sources={self._names[:-1]}: {HEARD!r} is the name of the mix's file; rename that source")
        try:
            flacfile.check(self._channels, self._sample_rate)
        except ValueError as error:
            raise RecorderError(str(error)) from error

    def stop(self) -> None:
        """End the take with the last frame that is in the tap now; `error` is set where its end could not be written."""
        with self._lock:
            self._stop.set()
            end = time.monotonic() + STOP_SECONDS
            for thread in self._threads:
                thread.join(max(0.0, end - time.monotonic()))
            if self.recording:
                self.error = f"recording to {self.folder}: the disk hangs since {STOP_SECONDS:g} s; the end may be missing"

    # ------------------------------------------------------------------------------------------------ off the tap

    def _gather(self, pieces: Pieces) -> None:
        while not self._ended.is_set():
            stopping = self._stop.is_set()  # before the look at the tap: what comes before the stop is in the take
            end = rings.position(self._rings.header, rings.TAP_WRITE)
            while self._position < end and not pieces.full():  # nobody else fills it
                pieces.put(self._next(end))
            if stopping and self._position >= end and not pieces.full():
                pieces.put(None)
                return
            (self._ended if stopping else self._stop).wait(POLL_SECONDS)

    def _next(self, end: int) -> NDArray[np.float32] | int:
        frames = min(end - self._position, self._piece)
        piece = np.empty((frames, self._rings.tap.shape[1]), np.float32)
        if rings.read_tap(self._rings, self._position, 0, piece) == 1:
            self._position += frames
            return piece
        # Overwritten: go on half a ring behind the newest, where there is time to read.
        newest = rings.position(self._rings.header, rings.TAP_WRITE)
        lost = int(newest) - len(self._rings.tap) // 2 - self._position
        self._position += lost
        return lost

    # ------------------------------------------------------------------------------------------------ to the disk

    def _write(self, pieces: Pieces, take: _Take) -> None:
        try:
            while (piece := pieces.get()) is not None:
                self._write_piece(take, piece)
            take.close()
        except OSError as error:
            seconds = take.counts["frames"] / self._sample_rate
            self.error = (
                f"recording to {take.folder} ended after {seconds:.1f} s ({reason(error)}): what was written is kept; "
                "free some space or choose another folder, then record again"
            )
        finally:
            with contextlib.suppress(OSError):
                take.close()
            self._ended.set()

    def _write_piece(self, take: _Take, piece: NDArray[np.float32] | int) -> None:
        if not isinstance(piece, int):
            take.write(piece)
            return
        take.counts["lost_frames"] += piece
        silence = np.zeros((self._piece, self._rings.tap.shape[1]), np.float32)
        for start in range(0, piece, self._piece):
            take.write(silence[: piece - start])


class _Take:
    """The files of one recording, cut at the same samples, in a folder of their own. All its methods may raise OSError."""

    def __init__(self, parent: Path, names: Sequence[str], channels: int, sample_rate: int) -> None:
        self.counts = _no_counts()
        self.folder = _new_folder(parent)
        self._names, self._channels, self._sample_rate = names, channels, sample_rate
        self._files: list[FlacFile] = []
        self._part = 0
        self._synced = time.monotonic()
        try:
            self._begin_part()
        except OSError:
            with contextlib.suppress(OSError):
                self.close()
            raise

    def _begin_part(self) -> None:
        self._part += 1
        number = f".{self._part}" if self._part > 1 else ""
        for name in self._names:
            self._files.append(FlacFile(self.folder / f"{name}{number}.flac", self._channels, self._sample_rate))

    def write(self, tap: NDArray[np.float32]) -> None:
        """Append frames of the tap `[shape=(frames, sources * channels)]`, each source to its file and all to the mix's."""
        if max(file.size for file in self._files) > PART_BYTES:
            self.close()
            self._begin_part()
        stems = tap.reshape(len(tap), -1, self._channels)
        heard = np.zeros((len(tap), self._channels), np.float32)
        for i in range(stems.shape[1]):
            heard += stems[:, i]  # one after the other, as `rings.route` does: the same to the last bit
        for file, x in zip(self._files, (*stems.swapaxes(0, 1), heard), strict=True):
            samples, clipped = flacfile.to_24_bit(x)
            file.write(samples)
            self.counts["clipped_samples"] += clipped
        self.counts["frames"] += len(tap)
        self._sync()

    def _sync(self) -> None:
        if time.monotonic() - self._synced >= SYNC_SECONDS:
            for file in self._files:
                file.sync()
            self._synced = time.monotonic()

    def close(self) -> None:
        """Close the files, all of them whatever becomes of one; a take without a frame leaves nothing."""
        errors = []
        while self._files:
            try:
                self._files.pop(0).close()
            except OSError as error:
                errors.append(error)
        with contextlib.suppress(OSError):  # most often: it is not empty
            self.folder.rmdir()
        if errors:
            raise errors[0]


def _no_counts() -> dict[str, int]:
    return {"frames": 0, "lost_frames": 0, "clipped_samples": 0}


def _new_folder(parent: Path) -> Path:
    """A new folder in `parent`, named after the local time; the second within a second gets a number."""
    parent.mkdir(parents=True, exist_ok=True)
    now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    number = 1
    while True:
        folder = parent / (now if number == 1 else f"{now}_{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder
