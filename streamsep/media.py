"""Sound that libsndfile does not read: m4a, aac, wma, and the sound of videos, by FFmpeg's libraries or its program.

PyAV (`pip install 'streamsep[media]'`) carries the libraries; without it an `ffmpeg` on the PATH does as well, and its output
is read through a pipe. What is opened here has what `soundfiles` uses of a `soundfile.SoundFile`, front to back.
"""

from __future__ import annotations

import importlib.util
import shutil
import struct
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
from numpy.typing import NDArray

SUFFIXES = frozenset(
    f".{name}"
    for names in ("m4a m4b aac wma ac3 mka ape amr", "mp4 m4v mov mkv webm avi 3gp mpg mpeg wmv flv")
    for name in names.split()
)
UNKNOWN = 2**63 - 1  # frames, where a stream does not tell its length; libsndfile's
CURE = "install PyAV (pip install 'streamsep[media]') or ffmpeg (apt install ffmpeg, brew install ffmpeg)"


class MediaError(Exception):
    """It cannot be read; the message is FFmpeg's own reason."""


def available() -> bool:
    """Whether anything here reads such files."""
    return _have_av() or shutil.which("ffmpeg") is not None


def open_media(path: Path) -> AvSound | PipedSound:
    """The first sound track of the file at `path`; MediaError if it has none that can be read."""
    return AvSound(path) if _have_av() else PipedSound(path)


def reader() -> str:
    """What reads such files here, or what to do about it."""
    if _have_av():
        return f"PyAV {version('av')}"
    return shutil.which("ffmpeg") or CURE


def _have_av() -> bool:
    return importlib.util.find_spec("av") is not None


def _av() -> ModuleType:
    import av

    return av


class AvSound:
    """A sound track through PyAV. `frames` is what the file says, `UNKNOWN` where it says nothing."""

    format = "FFMPEG"

    def __init__(self, path: Path) -> None:
        self._av = _av()
        try:
            self._container = self._av.open(str(path))
        except (self._av.FFmpegError, ValueError) as error:
            raise MediaError(_why(error)) from error
        tracks = self._container.streams.audio
        if not tracks:
            self._container.close()
            raise MediaError("no sound track in it")
        track = tracks[0]
        self.samplerate: int = track.codec_context.sample_rate
        self.channels: int = track.codec_context.layout.nb_channels
        seconds = track.duration * track.time_base if track.duration else (self._container.duration or 0) / 1e6
        self.frames = round(seconds * self.samplerate) or UNKNOWN
        layout = track.codec_context.layout
        self._resampler = self._av.AudioResampler(format="flt", layout=layout, rate=self.samplerate)
        self._decoded = self._decode(track)
        self._rest = np.zeros((0, self.channels), np.float32)

    def _decode(self, track: Any) -> Any:
        for frame in self._container.decode(track):
            yield from self._resampler.resample(frame)
        yield from self._resampler.resample(None)

    def read(self, size: int, **_: object) -> NDArray[np.float32]:
        """The next `size` frames, fewer at the end, float32 `[shape=(frames, channels)]`; SoundFileError: it is damaged."""
        parts, count = [self._rest], len(self._rest)
        try:
            while count < size and (frame := next(self._decoded, None)):
                parts.append(frame.to_ndarray().reshape(-1, self.channels).astype(np.float32, copy=False))
                count += len(parts[-1])
        except self._av.FFmpegError as error:
            raise soundfile.SoundFileRuntimeError(_why(error)) from error
        whole = np.concatenate(parts)
        self._rest = whole[size:]
        return whole[:size]

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class PipedSound:
    """A sound track through a pipe from `ffmpeg`, which does not tell its length.

    It comes as an AU file, the simplest whose header tells rate and channels: magic, offset of the samples, their size,
    encoding, rate, channels; each 32 bit, big-endian.
    """

    format = "FFMPEG"

    def __init__(self, path: Path) -> None:
        sound = ("-map", "0:a:0", "-c:a", "pcm_f32be", "-f", "au")
        program = ["ffmpeg", "-v", "error", "-nostdin", "-i", str(path.absolute()), *sound, "-"]
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # a pipe that nobody reads meanwhile could fill up
        self._process = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=self._said)
        assert self._process.stdout
        self._pipe = self._process.stdout
        head = self._pipe.read(24)
        if len(head) < 24:
            raise MediaError(self._end() or "no sound in it")
        _, offset, _, _, self.samplerate, self.channels = struct.unpack(">6I", head)
        self._pipe.read(offset - 24)
        self.frames = UNKNOWN

    def read(self, size: int, **_: object) -> NDArray[np.float32]:
        """As `AvSound.read`."""
        data = b"" if self._pipe.closed else self._pipe.read(4 * self.channels * size)
        if len(data) < 4 * self.channels * size and (why := self._end()):
            raise soundfile.SoundFileRuntimeError(why)
        whole = np.frombuffer(data[: len(data) - len(data) % (4 * self.channels)], ">f4")
        return whole.astype(np.float32).reshape(-1, self.channels)

    def close(self) -> None:
        """End the program."""
        if self._process.poll() is None:
            self._process.kill()
        self._end()

    def _end(self) -> str:
        """Wait for the program's end; why it failed by itself, "" where it did not."""
        if self._pipe.closed:
            return ""
        self._process.communicate()
        self._said.seek(0)
        said = self._said.read()
        self._said.close()
        failed = self._process.returncode > 0  # below 0: killed by us
        return said.decode(errors="replace").strip().rpartition("\n")[2].rpartition(": ")[2] if failed else ""


def _why(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).split("; last error log")[0]
