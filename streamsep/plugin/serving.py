"""The engine's loop: hops of all instances from their rings to their rings, in one compiled function.

The slots of a `batch.Batch` are instances. Whoever has a hop is served with all others that have one: the first waits for the
others a quarter of a hop at most, and not at all for those that have been silent for a while, or where its host waits for it
(PATIENCE: free-wheeling). The instances of a host are called one after the other in the same period, so that is enough to
bring them together.

A stream begins where its instance says so: nothing heard, no state, positions tied anew (`begin`). A hop that is late goes out
all the same: its frames fall on positions already passed, and the instance has bridged them. Only where half of a ring waits
are hops dropped that nobody can hear any more.

This module knows slots and addresses of segments; it knows neither files nor processes.
"""

from __future__ import annotations

import numpy as np
from numba import carray, njit

from .. import batch, engine, stats
from ..native import flush_denormals, load_acquire, monotonic_ns, pointer, sleep_ns, store_release
from ..rings import (
    BEAT,
    BEGUN,
    CAPACITY,
    EPOCH,
    HEADER,
    IN_CHANNELS,
    IN_READ,
    IN_WRITE,
    LATE,
    LOST,
    OUT_CHANNELS,
    OUT_READ,
    OUT_WRITE,
    PATIENCE,
    PREFILL,
    START,
    position,
    publish,
)

# Places of `marks`. STOP is written by who started the loop, the others by the loop. TURNS: times it looked at the slots;
# CALLS: hops of the batch, each of SERVED streams together.
STOP, TURNS, CALLS, SERVED = 0, 8, 9, 10
MARKS = 16
GATHER = 4  # the first of the hops waits so much of a hop for the others
QUIET_NS = 100_000_000  # an instance whose host has not called it for so long is not waited for


@njit(nogil=True, cache=True)
def serve(b, addresses, marks, last, clock, hop_ns, times):  # type: ignore[no-untyped-def]
    """Until STOP: serve the slots of the batch `b` whose segments lie at `addresses` `[shape=(slots,)]`, 0 for none.

    last : int64 [shape=(slots,)]    scratch: when each slot last had a hop, ns
    times                            a histogram of what the hops of the batch took
    """
    flush_denormals()
    pause = min(max(hop_ns // 32, 50_000), 500_000)
    since = 0  # when the first of the hops that wait was found
    while load_acquire(marks.ctypes.data + 8 * STOP) == 0:
        now = monotonic_ns(clock.gettime)
        count, missing, urgent = look(b, addresses, last, now)
        store_release(marks.ctypes.data + 8 * TURNS, marks[TURNS] + 1)
        if count == 0:
            since = 0
            sleep_ns(clock.nanosleep, pause)
            continue
        if since == 0:
            since = now
        if missing and not urgent and now - since < hop_ns // GATHER:
            sleep_ns(clock.nanosleep, pause)
            continue
        since = 0
        work(b, addresses, count)
        marks[CALLS] += 1
        marks[SERVED] += count
        stats.record(times, monotonic_ns(clock.gettime) - now)


@njit(nogil=True, cache=True)
def look(b, addresses, last, now):  # type: ignore[no-untyped-def]
    """Begin what is to begin and list the slots that have a hop in `b.ready`.

    Returns how many they are, how many lively ones are missing, and whether a host waits for one of them.
    """
    batch.attend(b)
    count, missing, urgent = 0, 0, False
    for slot in range(addresses.size):
        address = load_acquire(addresses.ctypes.data + 8 * slot)
        if address == 0 or not batch.present(b, slot):
            continue
        header = header_at(address)
        publish(header, BEAT, now)
        if position(header, EPOCH) != header[BEGUN]:
            begin(b, slot, header)
        if position(header, IN_WRITE) - header[IN_READ] >= batch.at(b, slot).x.shape[1]:
            b.ready[count] = slot
            count += 1
            last[slot] = now
            urgent |= header[PATIENCE] != 0
        elif now - last[slot] < QUIET_NS:
            missing += 1
    return count, missing, urgent


@njit(nogil=True, cache=True)
def begin(b, slot, header):  # type: ignore[no-untyped-def]
    """The stream that the instance asks for, from its first frame."""
    epoch = position(header, EPOCH)
    engine.clear(batch.at(b, slot))
    b.rows.fresh[slot] = 1
    publish(header, IN_READ, header[START])
    publish(header, OUT_WRITE, header[START] + header[PREFILL])
    publish(header, BEGUN, epoch)


@njit(nogil=True, cache=True)
def work(b, addresses, count):  # type: ignore[no-untyped-def]
    """One hop of the first `count` slots in `b.ready`, from their rings to their rings."""
    for n in range(count):
        take(addresses[b.ready[n]], batch.at(b, b.ready[n]).x)
    batch.hop(b, count)
    for n in range(count):
        put(addresses[b.ready[n]], batch.at(b, b.ready[n]).y)


@njit(nogil=True, cache=True)
def take(address, x):  # type: ignore[no-untyped-def]
    """The next hop of input into `x` `[shape=(channels, hop)]`."""
    header, hop = header_at(address), x.shape[1]
    if position(header, IN_WRITE) - header[IN_READ] > header[CAPACITY] // 2:
        drop(header, hop)
    inward = ring(address, 0, header[CAPACITY], header[IN_CHANNELS])
    read, wrap = header[IN_READ], header[CAPACITY] - 1
    for n in range(hop):
        for c in range(x.shape[0]):
            x[c, n] = inward[(read + n) & wrap, c]
    publish(header, IN_READ, read + hop)


@njit(nogil=True, cache=True)
def drop(header, hop):  # type: ignore[no-untyped-def]
    """Leave out the hops that the instance has passed already, but for the newest of them."""
    passed = max(0, (position(header, OUT_READ) - header[OUT_WRITE]) // hop - 1)
    header[LOST] += passed
    publish(header, IN_READ, header[IN_READ] + passed * hop)
    publish(header, OUT_WRITE, header[OUT_WRITE] + passed * hop)


@njit(nogil=True, cache=True)
def put(address, y):  # type: ignore[no-untyped-def]
    """One finished hop `y` `[shape=(sources, channels, hop)]`."""
    header = header_at(address)
    sources, channels, hop = y.shape
    outward = ring(address, header[IN_CHANNELS], header[CAPACITY], header[OUT_CHANNELS])
    write, wrap = header[OUT_WRITE], header[CAPACITY] - 1
    for n in range(hop):
        for i in range(sources):
            for c in range(channels):
                outward[(write + n) & wrap, channels * i + c] = y[i, c, n]
    header[LATE] += position(header, OUT_READ) > write
    publish(header, OUT_WRITE, write + hop)


@njit(nogil=True, cache=True)
def header_at(address):  # type: ignore[no-untyped-def]
    """The header of the segment at `address`."""
    return carray(pointer(address), HEADER, np.int64)


@njit(nogil=True, cache=True)
def ring(address, before, capacity, channels):  # type: ignore[no-untyped-def]
    """The ring of so many channels that lies behind `before` channels of others, `[shape=(capacity, channels)]`."""
    return carray(pointer(address + 8 * HEADER + 4 * capacity * before), (capacity, channels), np.float32)
