"""The worker and its understudy: hop after hop from ring to ring, inside compiled code, and never a hop too late.

Two threads share the engine's state, and one token in the rings' header says who has it. The worker takes it for a hop, and
lets go of it while the network runs: that is the only part that can take long without the worker's doing. The understudy
sleeps until shortly before the device would run dry. If the hop is still not there it takes the token, finishes the hop with
the last mask, and goes on like that, hop by hop, until the worker is back. So the sound is bridged with the delayed input
through the last mask and the delay never changes; overlap-add cross-fades the masks over one hop, into the bridge and out.

    IDLE -> WORKING -> STEPPING -> WORKING -> IDLE      a hop in time
                       STEPPING -> BRIDGING -> IDLE     the network is late: the understudy finishes the hop
    IDLE -> BRIDGING -> IDLE                            the worker is still inside it, or does not get the processor

A worker that comes back too late keeps the network's state and leaves its mask as the last one.

These functions know rings and engine, and neither device nor Python.
"""

from __future__ import annotations

import time

from numba import njit

from . import engine, meters, native, ort, stats
from .engine import Separator
from .rings import (
    ARMED,
    BRIDGED,
    IN_READ,
    IN_WRITE,
    LATE,
    MAX_BLOCK,
    OUT_READ,
    OUT_WRITE,
    PATIENCE,
    RUNNING,
    SAMPLE_RATE,
    STOP,
    TOKEN,
    WHEN,
    Rings,
    position,
    publish,
    put,
    take,
)

IDLE, WORKING, STEPPING, BRIDGING = range(4)
SHORT_PAUSE = 20_000  # ns; while the understudy finishes a hop
NEVER = 1 << 62


@njit(nogil=True, cache=True)
def work(s, step, rings, clock, pause, times, handover, history):  # type: ignore[no-untyped-def]
    """Separate hop after hop until STOP is set; sleep `pause` ns when there is none.

    `times` gets what a hop took, `handover` how long after the arrival of its last block it was on the output ring, ns;
    `history` is the meters'.
    """
    native.flush_denormals()
    header, hop = rings.header, s.x.shape[1]
    publish(header, RUNNING, 1)
    while position(header, STOP) == 0:
        if waiting(header, hop) and claim(header, IDLE, WORKING):
            turn(s, step, rings, clock, times, handover, history)
            publish(header, TOKEN, IDLE)
        else:
            native.sleep_ns(clock.nanosleep, pause)


@njit(nogil=True, cache=True)
def turn(s, step, rings, clock, times, handover, history):  # type: ignore[no-untyped-def]
    """One hop of the worker's, which has the token and has it again at the end."""
    header = rings.header
    if not take(rings, s.x):
        return
    arrival, start = position(header, WHEN), native.monotonic_ns(clock.gettime)
    engine.before_network(s)
    publish(header, TOKEN, STEPPING)
    stepped = ort.step(step)
    if claim(header, STEPPING, WORKING):
        engine.conclude(s, step, stepped)
        put(rings, s.y)
        end = native.monotonic_ns(clock.gettime)
        stats.record(handover, end - arrival)
        meters.record(history, s, start, end, header[LATE])
    else:
        while not claim(header, IDLE, WORKING):
            native.sleep_ns(clock.nanosleep, SHORT_PAUSE)
        engine.learn(s, step, stepped)
        end = native.monotonic_ns(clock.gettime)
    stats.record(times, end - start)


@njit(nogil=True, cache=True)
def stand_by(s, rings, clock, margin, pause, history):  # type: ignore[no-untyped-def]
    """The understudy: bridge what is not there `margin` ns before it is due, until STOP is set; look every `pause` ns."""
    native.flush_denormals()
    header, hop = rings.header, s.x.shape[1]
    while position(header, STOP) == 0:
        spare = dry_at(header) - margin - native.monotonic_ns(clock.gettime)
        if spare > 0:
            native.sleep_ns(clock.nanosleep, min(spare, pause))
        elif claim(header, STEPPING, BRIDGING):
            bridge(s, rings, clock, history)
            publish(header, TOKEN, IDLE)
        elif waiting(header, hop) and claim(header, IDLE, BRIDGING):
            if take(rings, s.x):
                engine.listen(s)  # the network may be reading its input at this moment: that stays as it is
                bridge(s, rings, clock, history)
            publish(header, TOKEN, IDLE)
        else:
            native.sleep_ns(clock.nanosleep, min(margin // 2, pause))


@njit(nogil=True, cache=True)
def bridge(s, rings, clock, history):  # type: ignore[no-untyped-def]
    """Finish the hop with the last mask, and count it as late."""
    start = native.monotonic_ns(clock.gettime)
    engine.finish(s)
    rings.header[BRIDGED] += 1
    if put(rings, s.y):
        rings.header[LATE] += 1
    meters.record(history, s, start, native.monotonic_ns(clock.gettime), rings.header[LATE])


@njit(nogil=True, cache=True)
def claim(header, state, wanted):  # type: ignore[no-untyped-def]
    """Take the token if it is in `state`; whether it was."""
    return native.exchange_if(header.ctypes.data + 8 * TOKEN, state, wanted) == 1


@njit(nogil=True, cache=True)
def waiting(header, hop):  # type: ignore[no-untyped-def]
    """Whether a whole hop of input is there."""
    return position(header, IN_WRITE) - position(header, IN_READ) >= hop


@njit(nogil=True, cache=True)
def dry_at(header):  # type: ignore[no-untyped-def]
    """When the first call of the device is due that the output ring cannot serve as it is, monotonic ns."""
    block, rate = header[MAX_BLOCK], header[SAMPLE_RATE]
    if position(header, ARMED) == 0 or block == 0:
        return NEVER
    when, calls = position(header, WHEN), (position(header, OUT_WRITE) - position(header, OUT_READ)) // block
    if calls <= 0 and header[PATIENCE]:  # it waits at this moment, or did
        return when + header[PATIENCE]
    return when + (calls + 1) * block * 1_000_000_000 // rate


def work_in_python(separator: Separator, rings: Rings, pause: int, times, handover, history) -> None:  # type: ignore[no-untyped-def]
    """`work` where ONNX Runtime has no C library: slower, at the mercy of the GIL, and without an understudy."""
    publish(rings.header, RUNNING, 1)
    while not rings.header[STOP]:
        if not take(rings, separator.state.x):
            time.sleep(pause / 1e9)
            continue
        start = time.monotonic_ns()
        separator.hop()
        put(rings, separator.state.y)
        end = time.monotonic_ns()
        for histogram in (times, handover):
            stats.record(histogram, end - start)
        meters.record(history, separator.state, start, end, rings.header[LATE])
