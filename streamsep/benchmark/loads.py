"""What can be busy beside a measurement: a Python thread that hogs the GIL, or one process a core that computes.

Run as a script with the number of the process that starts it, it is such a process, and ends when that one does.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LOADS = ("gil", "cpu")


def hog(on: Callable[[], bool] = lambda: True) -> None:
    """Compute in Python while `on()`; never let go of the GIL by itself for longer than the interpreter makes it."""
    while on():
        sum(i * i for i in range(100_000))


@contextmanager
def beside(load: str | None) -> Iterator[dict[str, float]]:
    """`load` ("gil", "cpu" or None) while the body runs; at its end the dictionary holds `cpu_s`, the time it really took.

    gil: one thread of this process. cpu: one process for each core that this one may use.
    """
    spent: dict[str, float] = {}
    if load == "gil":
        yield from _thread(spent)
    elif load == "cpu":
        yield from _processes(spent)
    else:
        yield spent


def _thread(spent: dict[str, float]) -> Iterator[dict[str, float]]:
    stop = threading.Event()

    def job() -> None:
        hog(lambda: not stop.is_set())
        spent["cpu_s"] = round(time.thread_time(), 2)

    thread = threading.Thread(target=job, name="streamsep-hog", daemon=True)
    thread.start()
    try:
        yield spent
    finally:
        stop.set()
        thread.join()


def _processes(spent: dict[str, float]) -> Iterator[dict[str, float]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    before = os.times()
    children = [subprocess.Popen(command()) for _ in range(cores)]
    try:
        yield spent
    finally:
        for child in children:
            child.terminate()
        for child in children:
            child.wait()
        after = os.times()
        spent["cpu_s"] = round(after.children_user + after.children_system - before.children_user - before.children_system, 2)


def command() -> list[str]:
    """What starts a busy process that ends when this one does."""
    return [sys.executable, str(Path(__file__)), str(os.getpid())]


if __name__ == "__main__":
    hog(lambda: os.getppid() == int(sys.argv[1]))
