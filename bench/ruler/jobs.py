"""Many measurements in several processes with one thread each, in order."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def run_all(tasks: Sequence[Callable[[], T]], jobs: int) -> Iterator[T]:
    """What each of `tasks` (partials of functions of a module) returns, by `jobs` processes."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # the workers': they share the cores already
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        try:
            yield from pool.map(_do, tasks)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _do(task: Callable[[], T]) -> T:
    return task()
