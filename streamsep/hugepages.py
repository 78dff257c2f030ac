"""Large pages for memory that is read all at once: what a library took for weights, found by looking before and after.

A network with one stream reads every weight once a hop, long after the processor forgot where they lie. On pages of 4 KiB it
looks up a thousand addresses on the way, on pages of 2 MiB a few. Libraries allocate as they like, so the system is asked to
move what they took (MADV_COLLAPSE: Linux 6.1 or newer). Elsewhere nothing happens, and nothing is lost but time.

This module knows memory, and not what lies in it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PAGE = 2 << 20  # bytes
_COLLAPSE = 25  # MADV_COLLAPSE
_MAPS = Path("/proc/self/maps")


@contextmanager
def huge_pages() -> Iterator[None]:
    """Put what the process takes meanwhile on pages of 2 MiB, as far as whole ones lie in it."""
    before = places()
    yield
    collapse(grown(before, places()))


def places() -> dict[int, int]:
    """This process's anonymous writable memory: where each piece begins, and where it ends; empty where only Linux tells."""
    found = {}
    try:
        lines = _MAPS.read_text().splitlines()
    except OSError:
        return {}
    for line in lines:
        fields = line.split()
        if fields[1].startswith("rw") and (len(fields) < 6 or fields[5] == "[heap]"):
            begin, _, end = fields[0].partition("-")
            found[int(begin, 16)] = int(end, 16)
    return found


def grown(before: dict[int, int], after: dict[int, int]) -> list[tuple[int, int]]:
    """What `after` has and `before` had not: begin and end of each piece, which may have been lengthened at either side."""
    pieces = ((before.get(begin, begin), end) for begin, end in after.items())
    return [(begin, end) for begin, end in pieces if end > begin and before.get(begin) != end]


def collapse(pieces: list[tuple[int, int]]) -> int:
    """Put whole huge pages of `pieces` on such, all or none of a piece; bytes that the system did it for."""
    try:
        advise = ctypes.CDLL(None).madvise
    except (AttributeError, OSError, TypeError):  # no POSIX
        return 0
    done = 0
    for begin, end in pieces:
        first, last = -(-begin // PAGE) * PAGE, end // PAGE * PAGE
        if last > first and advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _COLLAPSE) == 0:
            done += last - first
    return done
