"""A sound file written while sound runs, as long as it runs: a ring that compiled code fills, a thread that empties it.

The file is there when it is closed and not before. Sound goes on whatever the disk does: what it was too slow for is silence,
and counted; that it is full is told at the end. This module knows files and one ring, and not what fills it.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import soundfile
from numba import njit
from numpy.typing import NDArray

from ..rings import position, publish
from ..soundfiles import AudioFileError, reason, replacing

RING_SECONDS = 5.0  # how long the disk may be busy with something else
EVERY = 0.2  # s between two writes


@njit(nogil=True, cache=True)
def keep(ring, written, y):  # type: ignore[no-untyped-def]
    """Append `y` `[shape=(frames, channels)]` to `ring`; `written` `[shape=(1,)]` counts the frames. Never waits."""
    start, wrap = written[0], ring.shape[0] - 1
    for n in range(y.shape[0]):
        ring[(start + n) & wrap] = y[n]
    publish(written, 0, start + y.shape[0])


class FileSink:
    """A WAV file of 32-bit floats; between `start` and `stop` what `keep` puts into `ring` goes there.

    Raises
    ------
    AudioFileError
        its folder does not exist.
    """

    def __init__(self, path: Path, sample_rate: int, channels: int) -> None:
        if not path.resolve().parent.is_dir():
            raise AudioFileError(f"{path} cannot be written: its folder does not exist; make it or choose another")
        self.path, self.sample_rate, self.channels = path, sample_rate, channels
        capacity = 1 << (int(RING_SECONDS * sample_rate) - 1).bit_length()
        self.ring: NDArray[np.float32] = np.zeros((capacity, channels), np.float32)
        self.written: NDArray[np.int64] = np.zeros(1, np.int64)
        self.done = 0  # frames of `written` that are in the file
        self.lost = 0  # those of them that the disk was too slow for: silence
        self._error: AudioFileError | None = None
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Open the file."""
        self._thread = threading.Thread(target=self._run, name="streamsep-file", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Write the rest and put the file in its place.

        Raises
        ------
        AudioFileError
            it could not be written.
        """
        self._stopping.set()
        if self._thread:
            self._thread.join()
            self._thread = None
        if self._error:
            raise self._error

    def _run(self) -> None:
        try:
            with replacing(self.path) as (part,), self._open(part) as file:
                while not self._stopping.wait(EVERY):
                    self._write(file)
                self._write(file)
        except AudioFileError as error:
            self._error = error
        except (OSError, soundfile.SoundFileError) as error:
            self._error = AudioFileError(f"{self.path} cannot be written ({reason(error)}): free some space or choose another")

    def _open(self, part: Path) -> soundfile.SoundFile:
        return soundfile.SoundFile(part, "w", self.sample_rate, self.channels, "FLOAT", format="WAV")

    def _write(self, file: soundfile.SoundFile) -> None:
        """What has come since the last time. Half a ring stays away from its writer."""
        end, capacity = int(position(self.written, 0)), len(self.ring)
        lost = max(0, end - self.done - capacity // 2)
        if lost:
            self.lost += lost
            file.write(np.zeros((lost, self.channels), np.float32))
        file.write(self.ring[np.arange(self.done + lost, end) & (capacity - 1)])
        self.done = end
