"""A thread like the daemon's worker, for as long as one measurement takes."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .. import native

TICK = 0.1  # s


def nothing() -> None:
    """Told of the time that passes; does not mind."""


def in_realtime_thread(job: Callable[[NDArray[np.int64]], object], tick: Callable[[], None] = nothing) -> bool:
    """Run `job` in a thread with the worker's priority, to its end; whether the system granted that priority.

    `job` gets an int64 array of one place, and ends early when that is not 0 any more: Ctrl-C. `tick` is called ten times
    a second. A thread of its own takes the priority, and how it treats denormal numbers, with it when it ends. What `job`
    raises is raised here.
    """
    stop = np.zeros(1, np.int64)
    granted: list[bool] = []
    failed: list[BaseException] = []

    def run() -> None:
        granted.append(native.become_realtime(native.WORKER_PRIORITY))
        try:
            job(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, name="streamsep-benchmark")
    thread.start()
    try:
        while thread.is_alive():
            thread.join(TICK)
            tick()
    finally:
        stop[0] = 1
        thread.join()
    if failed:
        raise failed[0]
    return granted[0]
