"""One FLAC file that is written for hours and is whole at every moment.

libsndfile states a FLAC file's length when it closes it. Until then the length is 0, which means unknown, and most programs
refuse the file. But libFLAC hands each finished block of some thousand frames to the system at once; so after every write
the frames in finished blocks are counted into the header here. A process that is killed leaves a file that opens, and lacks
at most the block that was being filled (4096 frames). A header may never tell of more than there is: libsndfile fails on that.
Until the first block is finished the file bears another name (`.NAME.part`): no header can tell of nothing.

`sync` forces block and header to the disk together, for the case that the power goes; if it goes during the sync, the header
may be the newer of the two, and `ffmpeg -i FILE whole.flac` reads what is there.

FLAC holds integers: samples are 24 bit.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import soundfile
from numpy.typing import NDArray

from .soundfiles import reason

FULL_SCALE = 1 << 23
# Places in STREAMINFO, the first thing in the file: bytes from its start, and bits.
_LONGEST_BLOCK, _TOTAL = 10, 21
_TOTAL_BITS = (1 << 36) - 1  # of 40: the upper four belong to the sample's width


def to_24_bit(x: NDArray[np.float32]) -> tuple[NDArray[np.int32], int]:
    """`x`, full scale 1.0, rounded to 24 bit in the upper bits of int32; and how many samples were beyond full scale."""
    clipped = int(np.count_nonzero(np.abs(x) > 1.0))
    levels = np.clip(np.rint(x * np.float32(FULL_SCALE)), -FULL_SCALE, FULL_SCALE - 1)
    return np.ascontiguousarray(levels, dtype=np.int32) << 8, clipped


def check(channels: int, sample_rate: int) -> None:
    """ValueError if FLAC cannot hold so many channels at that rate, Hz."""
    try:
        with _open(io.BytesIO(), channels, sample_rate) as trial:
            trial.write(np.zeros((1, channels), np.int32))
    except soundfile.SoundFileError as error:
        raise ValueError(
            f"channels={channels} at rate={sample_rate} Hz: FLAC holds up to 8 channels, and above 65535 Hz only multiples "
            "of 10 up to 655350 Hz; choose another rate"
        ) from error


def _open(file: Path | io.BytesIO, channels: int, sample_rate: int) -> soundfile.SoundFile:
    return soundfile.SoundFile(file, "w", sample_rate, channels, "PCM_24", format="FLAC")


class FlacFile:
    """A new FLAC file at `path`; `frames` are given to the encoder, of which `settled` can be read whatever comes.

    `size` is in bytes. Every method may raise OSError with the system's own reason.
    """

    def __init__(self, path: Path, channels: int, sample_rate: int) -> None:
        self.frames = self.settled = self.size = 0
        self._path, self._part = path, path.with_name(f".{path.name}.part")
        self._raw = self._part.open("x+b", buffering=0)  # beside libsndfile's own handle, which would say "System error."
        try:
            self._sound = _open(self._part, channels, sample_rate)
        except soundfile.SoundFileError as error:
            self._raw.close()
            raise OSError(errno.EIO, reason(error)) from error

    def write(self, samples: NDArray[np.int32]) -> None:
        """Append `samples` `[shape=(frames, channels)]`, as `to_24_bit` makes them. After an OSError only `close` is left."""
        try:
            self._sound.write(samples)
        except soundfile.SoundFileError:
            self._ask_why()
        self.frames += len(samples)
        self.size = self._raw.seek(0, os.SEEK_END)
        self._settle()

    def sync(self) -> None:
        """Force all to the disk; an OSError too where the file has been deleted, which no write notices."""
        os.fsync(self._raw.fileno())
        if os.fstat(self._raw.fileno()).st_nlink == 0:
            raise OSError(errno.ENOENT, "its files were deleted")

    def close(self) -> None:
        """Encode the rest and close; where the rest does not fit, OSError, and the file ends with its last whole block.

        A file without a frame is removed.
        """
        try:
            with self._raw:
                self._finish()
        finally:
            if self.settled:
                self._show()
            elif self._part.exists():
                self._part.unlink()

    def _finish(self) -> None:
        with contextlib.suppress(soundfile.SoundFileError):
            self._sound.close()  # writes the rest, then the header; out of room, half of the rest and no header
        try:
            if self._field() & _TOTAL_BITS != self.frames:
                self._ask_why()
            os.fsync(self._raw.fileno())
            self.settled = self.frames
        except OSError:
            self._raw.truncate(self.size)
            self._tell(self.settled)
            raise

    def _show(self) -> None:
        if self._part.exists():
            os.replace(self._part, self._path)

    def _ask_why(self) -> NoReturn:
        """Raise the reason why a write failed: the system gives it, libsndfile does not. `close` cuts off what this leaves."""
        self._raw.seek(0, os.SEEK_END)
        for _ in range(2):  # the first may find room for a part
            self._raw.write(bytes(1 << 16))
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    def _settle(self) -> None:
        """Tell of the blocks that are finished: libFLAC ends one when it sees the first frame of the next."""
        self._raw.seek(_LONGEST_BLOCK)
        block = int.from_bytes(self._raw.read(2), "big")
        finished = (self.frames - 1) // block * block if block else 0  # before the first frame there is no header either
        if finished > self.settled:
            self._tell(finished)
            self.settled = finished
            with contextlib.suppress(PermissionError):  # Windows renames no open file: there `close` does it
                self._show()

    def _tell(self, frames: int) -> None:
        field = self._field() & ~_TOTAL_BITS | frames
        self._raw.seek(_TOTAL)
        self._raw.write(field.to_bytes(5, "big"))

    def _field(self) -> int:
        self._raw.seek(_TOTAL)
        return int.from_bytes(self._raw.read(5), "big")
