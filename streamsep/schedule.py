"""Changes of controls at a time to come, by sample time on the engine's clock.

The engine's clock counts the samples of the hops it has worked on. It never goes back, not on a reset either; it stands still
while no sound comes. A change is (position, control, value) and acts at the beginning of the hop that holds its position.

Python puts changes into a queue and publishes those of one bundle together; the worker takes them out at the beginning of each
hop and keeps them in a heap until they are due. No lock, nothing allocated, and no more than `MOST` of them: so the worker
never finds more than it has room for. Changes of one position act in the order in which they were put in.

This module knows no seconds, no OSC and not what a control is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .native import load_acquire, store_release

MOST = 1024  # changes that wait, a power of two
# Places in `marks`; who writes what lies on a cache line of its own.
PUT, TAKEN, DONE, CLOCK = 0, 8, 9, 10


class Schedule(NamedTuple):
    """The queue, and what of it waits for its time."""

    marks: NDArray[np.int64]  # [shape=(16,)]: PUT is written by Python, the others by the worker
    queue: NDArray[np.float64]  # [shape=(MOST, 3)]: position, control, value; exact up to 2**53 samples
    waiting: NDArray[np.float64]  # [shape=(MOST, 4)]: position, number, control, value: a binary heap, the worker's own


def make_schedule() -> Schedule:
    """An empty one, with the clock at 0."""
    return Schedule(np.zeros(16, np.int64), np.zeros((MOST, 3)), np.zeros((MOST, 4)))


def room(schedule: Schedule) -> int:
    """How many changes can be put in."""
    marks = schedule.marks.ctypes.data
    return MOST - int(schedule.marks[PUT] - load_mark(marks + 8 * DONE))


def put(schedule: Schedule, position: int, changes: Sequence[tuple[int, float]]) -> None:
    """Let `changes` (control, value) act together at `position`. By one thread at a time; `room` must have been looked at."""
    first = int(schedule.marks[PUT])
    for n, (control, value) in enumerate(changes):
        schedule.queue[(first + n) % MOST] = position, control, value
    store_mark(schedule.marks.ctypes.data + 8 * PUT, first + len(changes))


@njit(nogil=True, cache=True)
def load_mark(address):  # type: ignore[no-untyped-def]
    """A mark, with all that its writer did before."""
    return load_acquire(address)


@njit(nogil=True, cache=True)
def store_mark(address, value):  # type: ignore[no-untyped-def]
    """Set a mark after all that was done before."""
    store_release(address, value)


@njit(nogil=True, cache=True)
def advance(s, hop, wanted, current):  # type: ignore[no-untyped-def]
    """A hop of `hop` samples begins: carry out what is due in it on the controls `wanted` and `current`; move the clock."""
    marks, heap = s.marks, s.waiting
    end = load_acquire(marks.ctypes.data + 8 * PUT)
    count = marks[TAKEN] - marks[DONE]  # that wait
    while marks[TAKEN] < end:
        push(heap, count, s.queue[marks[TAKEN] % MOST], marks[TAKEN])
        count += 1
        marks[TAKEN] += 1
    due = marks[CLOCK] + hop
    done = marks[DONE]
    while count > 0 and heap[0, 0] < due:
        control = int(heap[0, 2])
        wanted[control] = heap[0, 3]
        current[control] = heap[0, 3]
        count -= 1
        pop(heap, count)
        done += 1
    store_release(marks.ctypes.data + 8 * DONE, done)
    store_release(marks.ctypes.data + 8 * CLOCK, due)


@njit(nogil=True, cache=True)
def push(heap, count, change, number):  # type: ignore[no-untyped-def]
    """Add `change` to the binary heap of `count` lines; its `number` orders it among those of the same position."""
    place = count
    while place > 0:
        parent = (place - 1) // 2
        if heap[parent, 0] <= change[0]:  # an equal one was put in before: `number` only grows
            break
        heap[place] = heap[parent]
        place = parent
    heap[place, 0] = change[0]
    heap[place, 1] = number
    heap[place, 2:] = change[1:]


@njit(nogil=True, cache=True)
def pop(heap, count):  # type: ignore[no-untyped-def]
    """Take the first line out of the binary heap, of which `count` lines stay."""
    place = 0
    while True:
        child = 2 * place + 1
        if child >= count:
            break
        if child + 1 < count and earlier(heap, child + 1, child):
            child += 1
        if not earlier(heap, child, count):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = heap[count]


@njit(nogil=True, cache=True)
def earlier(heap, a, b):  # type: ignore[no-untyped-def]
    """Whether line `a` acts before line `b`."""
    return heap[a, 0] < heap[b, 0] or (heap[a, 0] == heap[b, 0] and heap[a, 1] < heap[b, 1])
