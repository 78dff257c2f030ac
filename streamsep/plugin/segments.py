"""The instances' shared memory: found by name, looked at before it is believed, removed when its instance has died.

A segment is locked (flock) by its instance as long as that lives, whatever it dies of. Only files of this user count. What does
not fit, because plugin and engine are of different versions, is told so in its header (`rings.REFUSED`) and left alone.
This module knows rings and files; it starts nothing and serves nobody.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import StreamsepError, rings, stft
from ..model import Contract
from ..rings import Rings
from . import CHANNELS, MEMORY, SOURCES, engine_lock, prefix

GRACE = 5.0  # s; younger segments may not be locked yet


class SegmentError(StreamsepError):
    """A segment that cannot be served."""


def names() -> set[str]:
    """Names of this user's segments, of instances that live or have died."""
    return {n for n in os.listdir(MEMORY) if n.startswith(prefix())} - {engine_lock().name}


def sweep(name: str) -> bool:
    """Remove the segment if its instance has died; whether it is gone."""
    try:
        file = os.open(MEMORY / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        # The age first: to ask for the lock of one that is being made could be in its way.
        if not _ours(file) or time.time() - os.fstat(file).st_mtime < GRACE or _locked(file):
            return False
        with contextlib.suppress(FileNotFoundError):
            os.unlink(MEMORY / name)
        return True
    finally:
        os.close(file)


def _ours(file: int) -> bool:
    status = os.fstat(file)
    return status.st_uid == os.getuid() and stat.S_ISREG(status.st_mode)


def _locked(file: int) -> bool:
    """Whether an instance holds the lock of `file`; asked by trying."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    fcntl.flock(file, fcntl.LOCK_UN)
    return False


@dataclass
class Segment:
    """An instance's rings, mapped."""

    name: str
    rings: Rings
    path: Path

    @classmethod
    def open(cls, name: str, contract: Contract) -> Segment | None:
        """Map the segment `name`; None while its instance is still making it.

        Raises
        ------
        SegmentError
            it is of another version, does not hold what it says, or is not this user's.
        """
        file = os.open(MEMORY / name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            size = os.fstat(file).st_size
            if not _ours(file):
                raise SegmentError(f"segment {name} is another user's: expected one of user {os.getuid()}")
            if size < 8 * rings.HEADER:
                return None
            memory = np.frombuffer(mmap.mmap(file, size), np.uint8)
        finally:
            os.close(file)
        header = memory[: 8 * rings.HEADER].view(np.int64)
        if header[rings.VERSION] == 0:
            return None
        _check(name, header, size, contract)
        return cls(name, rings.view_rings(memory), MEMORY / name)

    @property
    def sample_rate(self) -> int:
        """Hz."""
        return int(self.rings.header[rings.SAMPLE_RATE])

    @property
    def gone(self) -> bool:
        """Whether its instance has taken it away."""
        return not self.path.exists()

    @property
    def address(self) -> int:
        """Where it lies in this process."""
        return self.rings.memory.ctypes.data


def _check(name: str, header: np.ndarray, size: int, contract: Contract) -> None:
    """SegmentError, told to the instance too, if this engine cannot serve it."""
    version, capacity, rate = (int(header[place]) for place in (rings.VERSION, rings.CAPACITY, rings.SAMPLE_RATE))
    if version != rings.LAYOUT:
        rings.publish(header, rings.REFUSED, rings.LAYOUT)
        raise SegmentError(
            f"segment {name} has layout {version}: expected {rings.LAYOUT}; "
            "run `streamsep plugin install` again and restart the host"
        )
    channels = [int(header[place]) for place in (rings.IN_CHANNELS, rings.OUT_CHANNELS, rings.TAP_CHANNELS)]
    wanted = [CHANNELS, CHANNELS * len(SOURCES), 0]
    if channels != wanted or capacity & (capacity - 1) or size != rings.size(capacity, *channels):
        rings.publish(header, rings.REFUSED, -1)
        raise SegmentError(f"segment {name} says capacity={capacity}, channels={channels}, and has {size} bytes: it is damaged")
    if not stft.RATES[0] <= rate <= stft.RATES[1] or header[rings.HOP] != stft.Geometry.at(contract, rate).hop_length:
        rings.publish(header, rings.REFUSED, -1)
        raise SegmentError(f"segment {name} wants {rate} Hz in hops of {int(header[rings.HOP])}: this model has no such hop")
