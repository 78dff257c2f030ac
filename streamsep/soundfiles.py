"""Sound files: read front to back in blocks, written whole or not at all.

Everything that reads or writes a sound file goes through here, and gets the same messages. This module knows files; it knows
neither the engine nor devices.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
from numpy.typing import NDArray

from . import StreamsepError, media
from .media import UNKNOWN

BLOCK = 32_768  # frames read at a time: under a second at any usual rate, so that Ctrl-C is heard


class AudioFileError(StreamsepError):
    """A sound file cannot be read, separated or written; the message is one line and names the cure."""


# -------------------------------------------------------------------------------------------------------------- reading


class _Sound(soundfile.SoundFile):
    """Read front to back only: soundfile seeks after every block of a seekable file and fails where no end is known."""

    def seekable(self) -> bool:
        return False


class Reader:
    """A sound file, read once from its beginning in blocks; a context manager.

    Attributes: `path`, `sample_rate` (Hz), `channels`, and `frames`, which is 0 where the file does not tell its length
    and too high for a cut-off MP3. What `blocks` gives counts.

    Raises
    ------
    AudioFileError
        no such file, no permission, or nothing that libsndfile or what there is of FFmpeg (`media`) reads.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._sound = _open(self.path)
        self.sample_rate: int = self._sound.samplerate
        self.channels: int = self._sound.channels
        self.frames: int = self._sound.frames if self._sound.frames < UNKNOWN else 0
        if self._sound.frames == 0:
            self.close()
            raise AudioFileError(f"{self.path} holds 0 frames of sound: expected at least 1; record or export it again")

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._sound.close()

    def blocks(self, size: int = BLOCK) -> Iterator[NDArray[np.float32]]:
        """The whole file, float32 `[shape=(channels, frames)]`, full scale 1.0, at most `size` frames at a time.

        Raises
        ------
        AudioFileError
            the file is damaged part of the way.
        """
        done = 0
        while True:
            try:
                block = self._sound.read(size, dtype="float32", always_2d=True)
            except soundfile.SoundFileError as error:
                raise AudioFileError(
                    f"{self.path} is damaged or cut off after {done / self.sample_rate:.1f} s ({reason(error)}): "
                    f"expected {f'{self.frames / self.sample_rate:.1f} s' if self.frames else 'more'}; "
                    "get a whole copy, or save what is left with: ffmpeg -i FILE saved.wav"
                ) from error
            if not len(block):
                return
            done += len(block)
            yield np.ascontiguousarray(block.T)


def _open(path: Path) -> _Sound | media.AvSound | media.PipedSound:
    try:
        path.open("rb").close()  # the system says why not; libsndfile would say "System error."
        sound = _Sound(path)
        if sound.format == "MP3" and os.name == "posix":
            return _whole_mp3(path) or sound
        return sound
    except (OSError, soundfile.SoundFileError, TypeError, UnicodeError) as error:  # TypeError: headerless .raw
        why, expected = reason(error), "a sound file such as WAV, FLAC, Ogg, Opus or MP3"
        cure = "check the path, or convert the file with: ffmpeg -i FILE converted.wav"
        if path.suffix.lower() in media.SUFFIXES and isinstance(error, soundfile.SoundFileError):
            if media.available():
                try:
                    return media.open_media(path)
                except media.MediaError as other:
                    why = str(other)
            else:
                cure = media.CURE
        raise AudioFileError(f"{path} cannot be read ({why}): expected {expected}; {cure}") from error


def _whole_mp3(path: Path) -> _Sound | None:
    """An MP3 file whose header has no frame count, read through a pipe; None where it has one.

    libsndfile guesses such a file's length from its first bit rate and stops there, halfway through a song of variable
    rate. From a pipe it cannot guess, and reads to the end.
    """
    read_end, write_end = os.pipe()

    def pump() -> None:
        with contextlib.suppress(OSError), open(write_end, "wb") as pipe, path.open("rb") as file:
            _skip_tags(file)
            shutil.copyfileobj(file, pipe)  # ends with BrokenPipeError when the reader has enough

    threading.Thread(target=pump, daemon=True, name="mp3").start()
    with contextlib.suppress(soundfile.SoundFileError):
        sound = _Sound(read_end, closefd=True)
        if sound.frames == UNKNOWN:
            return sound
        sound.close()
    return None


def _skip_tags(file: BinaryIO) -> None:
    """Pass over ID3v2 tags: a cover picture is more than libsndfile skips in a pipe."""
    while (head := file.read(10)).startswith(b"ID3") and len(head) == 10:
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]  # seven bits a byte
        file.seek(size, os.SEEK_CUR)
    file.seek(-len(head), os.SEEK_CUR)


def reason(error: Exception) -> str:
    """The heart of a system or libsndfile error, without its path and full stop."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or str(error)
    return text.removeprefix("Error : ").rstrip(".")


SUFFIXES = frozenset(f".{name.lower()}" for name in soundfile.available_formats()) - {".raw"} | media.SUFFIXES
SUFFIXES |= {".aif", ".aiff", ".opus", ".oga"}


def looks_like_sound(path: Path) -> bool:
    """Whether a file bears the name of one that could be read."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def seconds(path: Path) -> float | None:
    """How long a file says it is, 0 where it does not tell, None where it cannot be read."""
    try:
        with Reader(path) as reader:
            return reader.frames / reader.sample_rate
    except AudioFileError:
        return None


# -------------------------------------------------------------------------------------------------------------- writing


@contextlib.contextmanager
def replacing(*paths: Path) -> Iterator[list[Path]]:
    """Empty files under temporary names beside `paths`, all in one folder; in the end they take the places of `paths`.

    Whatever ends the body early, Ctrl-C included, leaves the old files and folders as they were.

    Raises
    ------
    AudioFileError
        the folder cannot be made or written.
    """
    folder = paths[0].parent
    made = [f for f in (folder, *folder.parents) if not f.exists()]
    parts = [p.with_name(f".{p.name}.{secrets.token_hex(4)}.part") for p in paths]
    try:
        with _folder_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            for part in parts:
                part.touch(exist_ok=False)
        yield parts
        with _folder_errors(folder):
            for part, path in zip(parts, paths, strict=True):
                os.replace(part, path)
    finally:
        for part in parts:
            with contextlib.suppress(OSError):  # most often: it has been renamed
                part.unlink()
        for made_here in made:
            with contextlib.suppress(OSError):  # most often: it is not empty
                made_here.rmdir()


@contextlib.contextmanager
def _folder_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise AudioFileError(
            f"output folder {folder} cannot be written ({reason(error)}): expected a folder that may be written; choose another"
        ) from error


def read(path: str | Path) -> tuple[NDArray[np.float32], int]:
    """A whole sound file, float32 `[shape=(channels, frames)]`, full scale 1.0, and its rate (Hz).

    Parameters
    ----------
    path
        whatever libsndfile reads: WAV, FLAC, Ogg, Opus, MP3 and more.

    Raises
    ------
    AudioFileError
        as `Reader`.
    """
    with Reader(path) as reader:
        return np.concatenate(list(reader.blocks()), axis=1), reader.sample_rate


def write(path: Path, samples: NDArray[np.float32], sample_rate: int) -> None:
    """Write `samples` `[shape=(frames, channels)]` as 32-bit float WAV, whole or not at all; its folder is made.

    Raises
    ------
    AudioFileError
        it cannot be written there.
    """
    try:
        with replacing(path) as (part,):
            soundfile.write(part, samples, sample_rate, subtype="FLOAT", format="WAV")
    except soundfile.SoundFileError as error:
        raise AudioFileError(f"{path} cannot be written ({reason(error)}): free some space or choose another place") from error
