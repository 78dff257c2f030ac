"""Recordings decoded and resampled once: a second start maps them from the disk, and processes on one machine share the pages.
Features cannot be kept: no mixture is heard twice.

One `.npy` a recording, float32 `[shape=(roles, samples)]`, about 4 MB a minute and role at 16 kHz. Its name is a digest of what
it was made from: place, size and time of change of each file, the cut, the rate, FORM. A file that changes gets another name;
nothing is ever removed (delete the folder when it grows). Damaged files are made again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FORM = 1  # raise it where decoding, resampling or levelling changes

Stems = dict[str, NDArray[np.float32]]


def folder() -> Path:
    """Where recordings are kept unless the command line says otherwise: in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "streamsep" / "recordings"


class Cache:
    """Recordings in the folder `place`; none is kept if it is None."""

    def __init__(self, place: Path | None):
        self.place = place
        self.hits = self.misses = 0

    def stems(self, files: tuple[Path, ...], how: object, make: Callable[[], Stems]) -> Stems:
        """What `make()` gives, stems of one length by their roles; from the disk if it was made before.

        Parameters
        ----------
        files : what it is made from
        how : what else decides; its repr does
        """
        if self.place is None:
            return make()
        key = hashlib.sha256(repr((FORM, how, [_state(f) for f in files])).encode()).hexdigest()[:32]
        for path in self.place.glob(f"{key}.*.npy"):
            try:
                signals = np.load(path, mmap_mode="r")
            except (OSError, ValueError, EOFError):
                continue
            self.hits += 1
            return dict(zip(path.name.split(".")[1].split("-"), signals, strict=True))
        self.misses += 1
        made = make()
        if made:
            self._write(f"{key}.{'-'.join(made)}.npy", np.stack(list(made.values())))
        return made

    def _write(self, name: str, signals: NDArray[np.float32]) -> None:
        assert self.place is not None
        self.place.mkdir(parents=True, exist_ok=True)
        temporary = self.place / f".{name}.{os.getpid()}"
        try:
            with temporary.open("wb") as file:
                np.save(file, signals)
            os.replace(temporary, self.place / name)
        finally:
            temporary.unlink(missing_ok=True)


def _state(path: Path) -> tuple[str, int, int]:
    state = path.stat()
    return str(path.resolve()), state.st_size, state.st_mtime_ns
