"""Batches in order, made ahead by threads while the network learns, and what share of the time that takes and costs.

A batch depends on its step's number alone (see mixing.py), so any thread may make any of them. Resampling, filters and most of
NumPy run without the interpreter's lock.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from .mixing import Batch


class Loader:
    """Makes the batches `first`, `first + 1`, ...

    Parameters
    ----------
    make : gives the batch of a step
    first : the first step's number
    threads : how many batches are made at a time, and as many wait ready
    """

    def __init__(self, make: Callable[[int], Batch], first: int, threads: int):
        self._make = make
        self._pool = ThreadPoolExecutor(threads, "loader")
        self._coming: deque[Future[tuple[Batch, float]]] = deque()
        self._next = first
        self._depth = 2 * threads
        self.waited, self.worked = 0.0, 0.0  # s, since the last call of `shares`
        self._since = time.monotonic()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def batch(self) -> Batch:
        """The next step's batch."""
        while len(self._coming) < self._depth:
            self._coming.append(self._pool.submit(self._timed, self._next))
            self._next += 1
        before = time.monotonic()
        batch, worked = self._coming.popleft().result()
        self.waited += time.monotonic() - before
        self.worked += worked
        return batch

    def shares(self) -> dict[str, float]:
        """Of the time since the last call, 0 to 1: `waiting`, in which the network stood still for want of a batch, and
        `loading`, the processor's time that went into making them, threads added up."""
        now = time.monotonic()
        spent = max(now - self._since, 1e-9)
        found = {"waiting": self.waited / spent, "loading": self.worked / spent}
        self.waited, self.worked, self._since = 0.0, 0.0, now
        return found

    def _timed(self, step: int) -> tuple[Batch, float]:
        before = time.thread_time()
        return self._make(step), time.thread_time() - before
