"""Stems on the disk: in what form they are kept, and how they come there, whole or not at all.

A stem may exceed the full scale of the mixture it comes from. 32-bit float keeps that, and the stems still add up to the input;
integers clip it, which is counted. From 4 GiB on a WAV file is RF64, its own 64-bit form. This module knows neither engine nor
input.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from numpy.typing import NDArray

from .soundfiles import AudioFileError, reason, replacing

WAV_LIMIT = 2**32 - 2**16  # bytes of samples that a WAV file holds for certain, its header aside
_SUBTYPES = {("wav", 16): "PCM_16", ("wav", 24): "PCM_24", ("wav", 32): "FLOAT", ("flac", 16): "PCM_16", ("flac", 24): "PCM_24"}


@dataclass(frozen=True)
class Form:
    """A container and its bits a sample; 32 are floats.

    Raises
    ------
    ValueError
        there is no such form.
    """

    container: str = "wav"
    bits: int = 32

    def __post_init__(self) -> None:
        if (self.container, self.bits) not in _SUBTYPES:
            raise ValueError(f"bits={self.bits} in {self.container}: expected 16 or 24, or with wav 32 (float)")

    def major(self, size: int) -> str:
        """libsndfile's name of the container for `size` bytes of samples; 0: nobody knows how many."""
        if self.container == "flac":
            return "FLAC"
        return "WAV" if 0 < size <= WAV_LIMIT else "RF64"


class Stems:
    """Open stems at `paths`, one for each source; `clipped` samples were beyond full scale of integers."""

    def __init__(self, files: Sequence[soundfile.SoundFile], form: Form) -> None:
        self.clipped = 0
        self._files, self._form = files, form

    def write(self, y: NDArray[np.float32]) -> None:
        """Append `y`, float32 `[shape=(sources, channels, frames)]`."""
        if self._form.bits < 32:
            self.clipped += int(np.count_nonzero(np.abs(y) > 1.0))
            y = np.clip(y, -1.0, 1.0)
        for file, stem in zip(self._files, y, strict=True):
            file.write(stem.T)


@contextlib.contextmanager
def writing(paths: Sequence[Path], form: Form, sample_rate: int, channels: int, frames: int) -> Iterator[Stems]:
    """Stems of `frames` frames (0: nobody knows), written beside `paths` and there when the body ends well.

    Raises
    ------
    AudioFileError
        they cannot be written there, or not in that form.
    """
    folder, size = paths[0].parent, form.bits // 8 * channels * frames
    try:
        with replacing(*paths) as parts, contextlib.ExitStack() as files:
            _check_space(folder, size * len(paths))
            how = ("w", sample_rate, channels, _SUBTYPES[form.container, form.bits])
            opened = [files.enter_context(soundfile.SoundFile(p, *how, format=form.major(size))) for p in parts]
            yield Stems(opened, form)
            files.close()  # before they are renamed: closing writes the headers
    except soundfile.SoundFileError as error:
        raise AudioFileError(
            f"stems in {folder} cannot be written ({reason(error)}): expected room for them, and a rate and channels that "
            f"{form.container} holds; free some space or choose another folder or format"
        ) from error


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise AudioFileError(
            f"output folder {folder} has {free / 2**20:.0f} MiB free: expected {needed / 2**20:.0f} MiB for the stems; "
            "free some space or choose another folder"
        )
