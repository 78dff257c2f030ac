"""Recordings of several streams that begin and end together: DIR/<stream>/<take>/vocals.flac ..., a `Recorder` each.

To the daemon they are one recorder. All takes begin with the same frame of the tap. This module knows no more than `recorder`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from . import rings
from .recorder import Recorder


class Takes:
    """Some recorders as one; the attributes are those of `Recorder`.

    Parameters
    ----------
    folder
        where the streams' own folders lie.
    recorders
        one for each stream's name; of one tap.
    """

    def __init__(self, folder: Path, recorders: Mapping[str, Recorder], tap: rings.Rings) -> None:
        self.folder: Path | None = None
        self._parent, self._recorders, self._tap = Path(folder), dict(recorders), tap

    @property
    def recording(self) -> bool:
        """Whether sound is being written, of any stream."""
        return any(recorder.recording for recorder in self._recorders.values())

    @property
    def error(self) -> str:
        """Why a take ended early; "" if none did."""
        return next((recorder.error for recorder in self._recorders.values() if recorder.error), "")

    @property
    def counts(self) -> dict[str, int]:
        """`frames` of the longest take; `lost_frames` and `clipped_samples` of all."""
        counts = [recorder.counts for recorder in self._recorders.values()]
        return {
            "frames": max(c["frames"] for c in counts),
            "lost_frames": sum(c["lost_frames"] for c in counts),
            "clipped_samples": sum(c["clipped_samples"] for c in counts),
        }

    def summary(self) -> str:
        """All takes for people, in one line."""
        return "; ".join(filter(None, (recorder.summary() for recorder in self._recorders.values())))

    def start(self) -> None:
        """Begin a take of each stream; nothing while any runs. RecorderError: one cannot begin, and so none does."""
        if self.recording:
            return
        first = int(rings.position(self._tap.header, rings.TAP_WRITE))
        try:
            for recorder in self._recorders.values():
                recorder.start(first)
        except BaseException:
            self.stop()
            raise
        self.folder = self._parent

    def stop(self) -> None:
        """End all takes."""
        for recorder in self._recorders.values():
            recorder.stop()
