"""The worker and its understudy: hop after hop from ring to ring, inside compiled code, and never a hop too late.

Two threads share the engines' state, and one token in the rings' header says who has it. The worker takes it for a hop, and
lets go of it while the network runs: that is the only part that can take long without the worker's doing. The understudy
sleeps until shortly before the device would run dry. If the hop is still not there it takes the token, finishes the hop with
the last masks, and goes on like that, hop by hop, until the worker is back. So the sound is bridged with the delayed input
through the last mask and the delay never changes; overlap-add cross-fades the masks over one hop, into the bridge and out.

    IDLE -> WORKING -> STEPPING -> WORKING -> IDLE      a hop in time
                       STEPPING -> BRIDGING -> IDLE     the network is late: the understudy finishes the hop
    IDLE -> BRIDGING -> IDLE                            the worker is still inside it, or does not get the processor

A worker that comes back too late keeps the network's state and leaves its masks as the last ones.

There may be one engine or many (`batch.Slots`), on the same rings and by the same clock: each has its `Line` to them. Who is
there is looked at by the worker, at the beginning of its hop, and by nobody else.

These functions know rings and engines, and neither device nor Python.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import batch, engine, meters, native, stats, structs
from .channelmap import Routes
from .engine import Separator
from .meters import Meters
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
    TAP_WRITE,
    TOKEN,
    WHEN,
    Rings,
    blank,
    copy_in,
    copy_to_tap,
    hand_over,
    mix_in,
    next_hop,
    position,
    publish,
    put,
    take,
)

IDLE, WORKING, STEPPING, BRIDGING = range(4)
EVERY, AHEAD, LAST, TAKES, HOP = range(5)  # of `Desk.warmth`
EYE = 20_000  # ns between two looks when a hop is due after a dry run
LEAD = 8  # dry runs ahead of a hop begin so many times as long before it as one of them takes
SHORT_PAUSE = 20_000  # ns; while the understudy finishes a hop
NEVER = 1 << 62


class Line(NamedTuple):
    """How one engine hangs on the rings."""

    columns: NDArray[np.int64]  # [shape=(channels,)]: its channels of the input ring
    routes: Routes  # where its sources go
    tap: int  # its first channel of the tap
    meters: Meters


class Desk(NamedTuple):
    """What the two threads work on."""

    slots: batch.Slots
    lines: structs.Table  # every slot's `Line`
    rings: Rings
    clock: native.Clock
    hop: int  # samples
    warmth: NDArray[np.int64]  # [shape=(5,)]: see `keep_warm`


def make_desk(slots: batch.Slots, lines: list[Line], rings: Rings, hop: int, every: int = 0, ahead: bool = False) -> Desk:
    """A desk; whoever holds it must hold the lines, too.

    `every`: ns between two dry runs, 0 for none (see `never_cool`); `ahead`: some before each hop (see `rehearse`).
    """
    warmth = np.array([every, ahead, 0, NEVER, -1], np.int64)
    return Desk(slots, structs.table(lines), rings, native.clock(), hop, warmth)


@njit(nogil=True, cache=True)
def work(d, pause, times, handover):  # type: ignore[no-untyped-def]
    """Separate hop after hop until STOP is set; sleep `pause` ns when there is none.

    `times` gets what a hop took, `handover` how long after the arrival of its last block it was on the output ring, ns.
    """
    native.flush_denormals()
    header, hop = d.rings.header, d.hop
    publish(header, RUNNING, 1)
    while position(header, STOP) == 0:
        if waiting(header, hop) and claim(header, IDLE, WORKING):
            turn(d, times, handover)
            publish(header, TOKEN, IDLE)
        else:
            native.sleep_ns(d.clock.nanosleep, min(pause, keep_warm(d)))


@njit(nogil=True, cache=True)
def keep_warm(d):  # type: ignore[no-untyped-def]
    """Where no hop is there: dry runs of the network if they help the next hop; ns until this wants to be called again.

    `d.warmth`: EVERY so many ns, 0 for never; or AHEAD of every hop; when the LAST one ended; how long it TAKES; for which HOP
    it was, by its first sample.
    """
    if d.rings.header[MAX_BLOCK] == 0:
        return NEVER
    if d.warmth[AHEAD]:
        return rehearse(d)
    if d.warmth[EVERY]:
        never_cool(d)
    return NEVER


@njit(nogil=True, cache=True)
def never_cool(d):  # type: ignore[no-untyped-def]
    """For a GPU, which lowers its clocks while it waits, and the next step pays for it: a dry run where no hop is due soon.

    Soon is twice as long as one takes before the next block; a block that is overdue by a whole period is waited for no more.
    So a device that is regular never finds the worker at it, and the first block after silence waits for one dry run at most.
    """
    header, begin = d.rings.header, native.monotonic_ns(d.clock.gettime)
    when, period = position(header, WHEN), header[MAX_BLOCK] * 1_000_000_000 // header[SAMPLE_RATE]
    soon = when + period - 2 * min(d.warmth[TAKES], period // 4) < begin < when + 2 * period
    if not soon and begin - max(when, d.warmth[LAST]) >= d.warmth[EVERY]:
        dry_run(d, begin)


@njit(nogil=True, cache=True)
def rehearse(d):  # type: ignore[no-untyped-def]
    """For a CPU, whose caches others use between two hops: dry runs that end shortly before the hop is due, once for each.

    It is due with the block that completes it, if blocks come at even distances. One that comes sooner waits for the rest of
    a dry run, which costs nothing that a hop without it had not cost.
    """
    header, warmth = d.rings.header, d.warmth
    first = position(header, IN_READ)
    blocks = -((position(header, IN_WRITE) - first - d.hop) // header[MAX_BLOCK])  # still to come for this hop
    due = position(header, WHEN) + blocks * header[MAX_BLOCK] * 1_000_000_000 // header[SAMPLE_RATE]
    lasts = d.hop * 1_000_000_000 // header[SAMPLE_RATE]
    takes = min(warmth[TAKES], lasts // 8) if warmth[LAST] == 0 else warmth[TAKES]
    ahead = lead(takes, lasts)
    now = native.monotonic_ns(d.clock.gettime)
    if blocks <= 0 or ahead == 0 or now >= due + ahead:
        return NEVER
    if warmth[HOP] == first or now >= due:
        return max(due - now, EYE)  # what the caches hold now they do not hold long
    if now < due - ahead:
        return due - ahead - now
    warmth[HOP] = first
    if now + takes < due:
        warmth[TAKES] = dry_runs(d.slots.rows, header, d.hop, takes, due, d.clock)
        warmth[LAST] = native.monotonic_ns(d.clock.gettime)
    return max(due - native.monotonic_ns(d.clock.gettime), EYE)


@njit(nogil=True, cache=True)
def lead(takes, lasts):  # type: ignore[no-untyped-def]
    """How long before a hop, which `lasts` so long, dry runs begin that take so long each, ns; 0 where they are too long."""
    return min(LEAD * takes, lasts // 2) if takes <= lasts // 3 else 0


@njit(nogil=True, cache=True)
def dry_runs(network, header, hop, takes, due, clock):  # type: ignore[no-untyped-def]
    """Dry runs until the next would not be done when the hop is due, or the hop is there; ns that one takes.

    One alone leaves a step that takes half as long again as after a few in a row (bench/variants.py). `takes`: ns
    known from before.
    """
    now = native.monotonic_ns(clock.gettime)
    while now + takes < due and not waiting(header, hop):
        batch.dry_run(network)
        end = native.monotonic_ns(clock.gettime)
        takes, now = believe(takes, end - now), end
    return takes


@njit(nogil=True, cache=True)
def believe(takes, took):  # type: ignore[no-untyped-def]
    """What a dry run takes, after one that took so long: less at once, more little by little, it may have been interrupted.

    By an eighth at most, however long it was: one that is thought to take too long is not made again.
    """
    return min(took, takes + min(took - takes, takes) // 8)


@njit(nogil=True, cache=True)
def dry_run(d, begin):  # type: ignore[no-untyped-def]
    """A dry run, begun at `begin`, and when it was done."""
    batch.dry_run(d.slots.rows)
    d.warmth[LAST] = native.monotonic_ns(d.clock.gettime)
    d.warmth[TAKES] = d.warmth[LAST] - begin


@njit(nogil=True, cache=True)
def turn(d, times, handover):  # type: ignore[no-untyped-def]
    """One hop of the worker's, which has the token and has it again at the end."""
    header, slots = d.rings.header, d.slots
    batch.attend(slots, True)
    batch.call(slots)
    count = slots.called[0]
    if not fetch(d):
        return
    arrival, start = position(header, WHEN), native.monotonic_ns(d.clock.gettime)
    batch.before_network(slots, count)
    publish(header, TOKEN, STEPPING)
    batch.step(slots, count)
    if claim(header, STEPPING, WORKING):
        batch.conclude(slots, count)
        deliver(d)
        end = native.monotonic_ns(d.clock.gettime)
        stats.record(handover, end - arrival)
        measure(d, start, end)
    else:
        while not claim(header, IDLE, WORKING):
            native.sleep_ns(d.clock.nanosleep, SHORT_PAUSE)
        batch.learn(slots, count)
        end = native.monotonic_ns(d.clock.gettime)
    stats.record(times, end - start)


@njit(nogil=True, cache=True)
def stand_by(d, margin, pause):  # type: ignore[no-untyped-def]
    """The understudy: bridge what is not there `margin` ns before it is due, until STOP is set; look every `pause` ns."""
    native.flush_denormals()
    header, hop = d.rings.header, d.hop
    while position(header, STOP) == 0:
        spare = dry_at(header) - margin - native.monotonic_ns(d.clock.gettime)
        if spare > 0:
            native.sleep_ns(d.clock.nanosleep, min(spare, pause))
        elif claim(header, STEPPING, BRIDGING):
            bridge(d)
            publish(header, TOKEN, IDLE)
        elif waiting(header, hop) and claim(header, IDLE, BRIDGING):
            if fetch(d):
                listen(d)
                bridge(d)
            publish(header, TOKEN, IDLE)
        else:
            native.sleep_ns(d.clock.nanosleep, min(margin // 2, pause))


@njit(nogil=True, cache=True)
def listen(d):  # type: ignore[no-untyped-def]
    """A hop without the network, which may be reading its input at this moment: that stays as it is."""
    for n in range(d.slots.called[0]):
        engine.listen(batch.at(d.slots, d.slots.ready[n]))


@njit(nogil=True, cache=True)
def bridge(d):  # type: ignore[no-untyped-def]
    """Finish the hop with the last masks, and count it as late."""
    start = native.monotonic_ns(d.clock.gettime)
    batch.bridge(d.slots, d.slots.called[0])
    d.rings.header[BRIDGED] += 1
    if deliver(d):
        d.rings.header[LATE] += 1
    measure(d, start, native.monotonic_ns(d.clock.gettime))


@njit(nogil=True, cache=True)
def fetch(d):  # type: ignore[no-untyped-def]
    """The next hop of input into every engine that is there; whether there was one."""
    first = next_hop(d.rings, d.hop)
    if first < 0:
        return False
    for n in range(d.slots.called[0]):
        slot = d.slots.ready[n]
        s, line = batch.at(d.slots, slot), structs.at(d.lines, slot)
        for c in range(line.columns.size):
            copy_in(d.rings, first, line.columns[c], s.x[c])
    publish(d.rings.header, IN_READ, first + d.hop)
    return True


@njit(nogil=True, cache=True)
def deliver(d):  # type: ignore[no-untyped-def]
    """The finished hop of every engine that is there to the device and to the listeners, silence of the others; as `put`."""
    rings, hop = d.rings, d.hop
    blank(rings.outward, rings.header[OUT_WRITE], hop)
    for n in range(d.slots.called[0]):
        slot = d.slots.ready[n]
        mix_in(rings, structs.at(d.lines, slot).routes, batch.at(d.slots, slot).y)
    in_time = hand_over(rings, hop)
    if d.slots.called[0] < d.slots.seen.size:
        blank(rings.tap, rings.header[TAP_WRITE], hop)
    for n in range(d.slots.called[0]):
        slot = d.slots.ready[n]
        copy_to_tap(rings, structs.at(d.lines, slot).tap, batch.at(d.slots, slot).y)
    publish(rings.header, TAP_WRITE, rings.header[TAP_WRITE] + hop)
    return in_time


@njit(nogil=True, cache=True)
def measure(d, start, end):  # type: ignore[no-untyped-def]
    """The hop, begun at `start` and done at `end`, into the meters of every engine that is there."""
    for n in range(d.slots.called[0]):
        slot = d.slots.ready[n]
        meters.record(structs.at(d.lines, slot).meters, batch.at(d.slots, slot), start, end, d.rings.header[LATE])


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
    """`work` where ONNX Runtime has no C library: slower, at the mercy of the GIL, for one engine, without an understudy."""
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
