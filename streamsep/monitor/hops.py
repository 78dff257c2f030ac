"""The hop history second by second, and how long the hops of the last minute took against their deadline.

The worker's history (`streamsep.meters`) remembers the last minute; of it the newest half is read when the first page comes, so
that a page sees what happened before it. Over- and underruns are counters of the device without a history: they are noted from
when the first page comes on. While pages look, `KEPT` seconds are kept for those that come later.

Times are seconds on the monotonic clock. This module knows no page and no socket.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..meters import LATE, START, STEP, Meters, Reader, Span

KEPT = 600  # s
RECENT = 60  # s in the histogram
PER_OCTAVE, OCTAVES_BELOW, OCTAVES_ABOVE = 6, 6, 2  # bins of the histogram, from 1/64 of the deadline to four times it
BINS = PER_OCTAVE * (OCTAVES_BELOW + OCTAVES_ABOVE)
COUNTERS = {"xruns": ("input_xruns", "output_xruns"), "missed": ("missed_blocks",)}  # the sums of which figures


@dataclass
class Second:
    """What happened in one second."""

    at: int  # s
    hops: int = 0
    late: int = 0
    longest: float = 0.0  # ms of work for a hop; late ones took a deadline at least
    xruns: int = 0
    missed: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS, np.int64))

    @property
    def told(self) -> list[float]:
        """As a page gets it."""
        return [self.at, self.hops, self.late, round(self.longest, 3), self.xruns, self.missed]


class Hops:
    """What is known of the hops, kept up by `look`.

    Parameters
    ----------
    history
        the worker's.
    deadline
        ms that a hop may take.
    """

    def __init__(self, history: Meters, deadline: float) -> None:
        self.seconds: deque[Second] = deque(maxlen=KEPT)
        self._deadline = deadline
        self._reader = Reader(history)
        self._reader.place = 0
        self._late: int | None = None  # hops late before the next one that is read
        self._totals: dict[str, int] = {}

    def look(self, now: float, figures: Mapping[str, Any]) -> list[Second]:
        """The seconds in which something is new; `figures` are the host's."""
        new = self._read(self._reader.read())
        for name, keys in COUNTERS.items():
            total = sum(int(figures.get(key, 0)) for key in keys)
            more = total - self._totals.get(name, total)
            self._totals[name] = total
            if more > 0:
                second = self._second(int(now))
                setattr(second, name, getattr(second, name) + more)
                new[second.at] = second
        return list(new.values())

    def _read(self, span: Span) -> dict[int, Second]:
        new: dict[int, Second] = {}
        if not len(span.times):
            return new
        at = span.times[:, START] // 1_000_000_000
        late = span.times[:, LATE]
        steps = span.times[:, STEP] / 1e6
        more = np.diff(late, prepend=late[0] if self._late is None else self._late)
        self._late = int(late[-1])
        steps[more > 0] = np.maximum(steps[more > 0], self._deadline)  # a bridge is quick, and what it stands for was not
        bins = np.floor(PER_OCTAVE * (np.log2(np.maximum(steps, 1e-6) / self._deadline) + OCTAVES_BELOW)).astype(int)
        bins = np.clip(bins, 0, BINS - 1)
        for which in np.unique(at):
            inside = at == which
            second = self._second(int(which))
            second.hops += int(inside.sum())
            second.late += max(0, int(more[inside].sum()))
            second.longest = max(second.longest, float(steps[inside].max()))
            second.counts += np.bincount(bins[inside], minlength=BINS)
            new[second.at] = second
        return new

    def _second(self, at: int) -> Second:
        for second in reversed(self.seconds):
            if second.at == at:
                return second
            if second.at < at:
                break
        self.seconds.append(Second(at))
        return self.seconds[-1]

    def histogram(self, now: float) -> list[int]:
        """Hops of the last `RECENT` seconds by the time they took, `[shape=(BINS,)]`; late ones at the deadline or above it."""
        recent = [second.counts for second in self.seconds if second.at > now - RECENT]
        return [int(count) for count in np.sum(recent, axis=0)] if recent else [0] * BINS
