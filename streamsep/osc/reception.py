"""What a listener makes of the packets that reach it: an unbroken row of frames, and figures of what the network did.

What is missing is silence, so a frame's place in the row is its `sample_index` less the first one's, whatever was lost. What
was lost is counted by where: a gap in the packets' `sequence` is the network's, a jump of `sample_index` alone the daemon's.
This module knows packets, and neither socket nor clock.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .packet import SEQUENCES, Packet

HOLD = 0.1  # s for which a hole may still be filled by a packet that was overtaken
LONGEST_HOLE = 60.0  # s; a longer jump is another stream, not a hole

Frames = NDArray[np.float32]  # [shape=(frames, channels)]


class Assembly:
    """Packets into an unbroken row of frames.

    A packet that comes before its turn waits until what is missing has come, or until sound `HOLD` newer is there. Then the
    hole is silence. What comes after that is late, and dropped.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(
            ("packets", "frames", "lost_frames", "sender_lost_frames", "gaps", "reordered", "late", "duplicate", "restarts"), 0
        )
        self.gaps: list[tuple[int, int]] = []  # (first frame, frames) of each hole, as places in what was given out
        self._stream_id = self._next = self._sequence = -1
        self._waiting: dict[int, Packet] = {}  # by sample index

    def feed(self, packet: Packet) -> Iterator[Frames]:
        """Take a packet; what is ready now."""
        limit = LONGEST_HOLE * packet.sample_rate
        if packet.stream_id != self._stream_id or abs(packet.sample_index - self._next) > limit:
            yield from self.flush()
            self.counts["restarts"] += self._stream_id >= 0
            self._stream_id, self._next, self._sequence = packet.stream_id, packet.sample_index, packet.sequence
        self.counts["packets"] += 1
        if packet.sample_index < self._next:
            self.counts["late"] += 1
            return
        if packet.sample_index in self._waiting:
            self.counts["duplicate"] += 1
            return
        self.counts["reordered"] += any(index > packet.sample_index for index in self._waiting)
        self._waiting[packet.sample_index] = packet
        yield from self._give(int(HOLD * packet.sample_rate))

    def flush(self) -> Iterator[Frames]:
        """All that waits, with its holes."""
        yield from self._give(-1)

    def _give(self, hold: int) -> Iterator[Frames]:
        while self._waiting:
            first = min(self._waiting)
            if first > self._next and max(self._waiting) - self._next <= hold:
                return
            packet = self._waiting.pop(first)
            if first > self._next:
                yield from self._hole(packet, first - self._next)
            self._sequence = (packet.sequence + 1) % SEQUENCES
            self._next = first + len(packet.frames)
            self.counts["frames"] += len(packet.frames)
            yield packet.frames

    def _hole(self, packet: Packet, missing: int) -> Iterator[Frames]:
        self.counts["gaps"] += 1
        self.counts["lost_frames" if packet.sequence != self._sequence else "sender_lost_frames"] += missing
        self.gaps.append((self.counts["frames"], missing))
        self.counts["frames"] += missing
        while missing > 0:
            part = min(missing, 4096)
            yield np.zeros((part, packet.frames.shape[1]), np.float32)
            missing -= part


class Jitter:
    """How unevenly packets come: the mean deviation of the time between two, as RFC 3550 (6.4.1) has it; and the largest."""

    def __init__(self) -> None:
        self.mean = self.max = 0.0  # s
        self._last: tuple[float, int, int] | None = None

    def note(self, now: float, packet: Packet) -> None:
        """A packet came at `now` (s)."""
        if self._last and self._last[1] == packet.stream_id and packet.sample_index > self._last[2]:
            off = abs(now - self._last[0] - (packet.sample_index - self._last[2]) / packet.sample_rate)
            self.mean += (off - self.mean) / 16
            self.max = max(self.max, off)
        self._last = now, packet.stream_id, packet.sample_index
