"""Lock-free rings between the device, the worker and the listeners: one block of memory, described once, here.

A ring is addressed by *position*: the number of frames since the stream was armed. Whoever writes publishes its position
with a release store, whoever reads looks at it with an acquire load; nobody ever waits. Output positions are tied to input
positions for good, so delay cannot change: a reader that finds nothing plays silence and moves on, and what comes late falls
on positions already passed.

Memory: a header of int64 (`HEADER` places), then three rings of interleaved float32 frames:

    in    device -> worker     what was recorded
    out   worker -> device     what is to be played
    tap   worker -> listeners  every source, each with every channel; read by copying and looking again (`read_tap`)

The places that different threads write lie 64 bytes apart or more: no two threads share a cache line.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .native import load_acquire, monotonic_ns, store_release

LAYOUT = 1
HEADER = 80  # int64 places
# Fixed once made.
VERSION, CAPACITY, IN_CHANNELS, OUT_CHANNELS, TAP_CHANNELS = range(5)
# Positions, each with one writer.
IN_WRITE, IN_READ, OUT_WRITE, OUT_READ, TAP_WRITE = 8, 16, 24, 32, 40
# Written by the steering thread.
ARMED, STOP = 48, 49
# Written by the device.
CALLS, MAX_BLOCK, INPUT_XRUNS, OUTPUT_XRUNS, MISSED = range(56, 61)
# Of the device's clock, while the steering thread looks at it (`observe`).
GETTIME, SAMPLE_RATE, OBSERVE, SINCE, SEEN, EARLIEST, LATEST = 5, 6, 50, 72, 73, 74, 75
# Written by the worker.
RUNNING, LATE, LOST = 64, 65, 66


class Rings(NamedTuple):
    """Views of one block of memory. Frames are rows: `[shape=(capacity, channels)]`, capacity a power of two."""

    memory: NDArray[np.uint8]
    header: NDArray[np.int64]
    inward: NDArray[np.float32]
    outward: NDArray[np.float32]
    tap: NDArray[np.float32]


def make_rings(capacity: int, in_channels: int, out_channels: int, tap_channels: int) -> Rings:
    """Empty rings that hold at least `capacity` frames each."""
    capacity = 1 << (capacity - 1).bit_length()
    sizes = [4 * capacity * c for c in (in_channels, out_channels, tap_channels)]
    raw = np.zeros(8 * HEADER + sum(sizes) + 64, np.uint8)
    memory = raw[-raw.ctypes.data % 64 :][: 8 * HEADER + sum(sizes)]  # on a cache line's border
    header = memory[: 8 * HEADER].view(np.int64)
    header[[VERSION, CAPACITY, IN_CHANNELS, OUT_CHANNELS, TAP_CHANNELS]] = [
        LAYOUT,
        capacity,
        in_channels,
        out_channels,
        tap_channels,
    ]
    first, second = 8 * HEADER + sizes[0], 8 * HEADER + sizes[0] + sizes[1]
    views = (memory[8 * HEADER : first], memory[first:second], memory[second:])
    channels = (in_channels, out_channels, tap_channels)
    return Rings(memory, header, *(v.view(np.float32).reshape(capacity, c) for v, c in zip(views, channels, strict=True)))


def clear(rings: Rings) -> None:
    """Back to position 0, silent and unarmed. Only while neither device nor worker runs."""
    rings.header[IN_WRITE:] = 0
    for ring in (rings.inward, rings.outward, rings.tap):
        ring[:] = 0


def arm(rings: Rings, prefill: int) -> None:
    """Let sound in and out: the next input frame is position 0; the first processed frame goes out `prefill` frames later."""
    rings.header[OUT_WRITE] = prefill
    publish(rings.header, ARMED, 1)


@njit(nogil=True, cache=True)
def position(header, place):  # type: ignore[no-untyped-def]
    """The int64 at `place`, with all that its writer did before."""
    return load_acquire(header.ctypes.data + 8 * place)


@njit(nogil=True, cache=True)
def publish(header, place, value):  # type: ignore[no-untyped-def]
    """Store `value` at `place`, after all that was done before."""
    store_release(header.ctypes.data + 8 * place, value)


# ------------------------------------------------------------------------------------------------------------ device side


@njit(nogil=True, cache=True)
def exchange(header, inward, outward, x, y):  # type: ignore[no-untyped-def]
    """One device block: record `x` `[shape=(frames, in_channels)]`, play into `y` `[shape=(frames, out_channels)]`.

    Copies and counts; never waits. Frames that are not there yet are played as silence and are gone.
    """
    frames = max(x.shape[0], y.shape[0])
    header[CALLS] += 1
    header[MAX_BLOCK] = max(header[MAX_BLOCK], frames)
    if position(header, ARMED) == 0:
        y[:] = 0
        if position(header, OBSERVE):
            note_time(header, frames)
        return
    wrap = header[CAPACITY] - 1
    write = header[IN_WRITE]
    for n in range(x.shape[0]):
        inward[(write + n) & wrap] = x[n]
    publish(header, IN_WRITE, write + frames)
    read = header[OUT_READ]
    ready = min(position(header, OUT_WRITE) - read, frames)
    for n in range(y.shape[0]):
        if n < ready:
            y[n] = outward[(read + n) & wrap]
        else:
            y[n] = 0
    if ready < frames:
        header[MISSED] += 1
    publish(header, OUT_READ, read + frames)


@njit(nogil=True, cache=True)
def note_time(header, frames):  # type: ignore[no-untyped-def]
    """Note how far this block comes before or after its time, in frames, counted from the first block that was noted."""
    now = monotonic_ns(header[GETTIME])
    if header[SINCE] == 0:
        header[SINCE] = now
    ahead = header[SEEN] - (now - header[SINCE]) * header[SAMPLE_RATE] // 1_000_000_000
    header[EARLIEST] = max(header[EARLIEST], ahead)
    header[LATEST] = min(header[LATEST], ahead)
    header[SEEN] += frames


# ------------------------------------------------------------------------------------------------------------ worker side


@njit(nogil=True, cache=True)
def take(rings, x):  # type: ignore[no-untyped-def]
    """The next hop of input into `x` `[shape=(channels, hop)]`, if it is there; whether it was.

    A worker that was held up for longer than the ring is long goes on with the newest whole hop; the others are lost.
    """
    header, hop = rings.header, x.shape[1]
    capacity = header[CAPACITY]
    read = header[IN_READ]
    ahead = position(header, IN_WRITE) - read
    if ahead < hop:
        return False
    if ahead > capacity - header[MAX_BLOCK]:
        skipped = (ahead - hop) // hop
        header[LOST] += skipped
        read += skipped * hop
        out, tap = header[OUT_WRITE], header[TAP_WRITE]
        for n in range(min(skipped * hop, capacity)):  # silence, or an old lap would be heard
            rings.outward[(out + n) & (capacity - 1)] = 0
            rings.tap[(tap + n) & (capacity - 1)] = 0
        publish(header, OUT_WRITE, out + skipped * hop)
        publish(header, TAP_WRITE, tap + skipped * hop)
    for n in range(hop):
        for c in range(x.shape[0]):
            x[c, n] = rings.inward[(read + n) & (capacity - 1), c]
    publish(header, IN_READ, read + hop)
    return True


@njit(nogil=True, cache=True)
def put(rings, y):  # type: ignore[no-untyped-def]
    """One finished hop `y` `[shape=(sources, channels, hop)]` to the device and to the listeners; counts it if late."""
    header = rings.header
    sources, channels, hop = y.shape
    wrap = header[CAPACITY] - 1
    write = header[OUT_WRITE]
    for n in range(hop):
        route(y, n, rings.outward[(write + n) & wrap])
    if position(header, OUT_READ) > write:
        header[LATE] += 1
    publish(header, OUT_WRITE, write + hop)
    write = header[TAP_WRITE]
    for n in range(hop):
        frame = rings.tap[(write + n) & wrap]
        for i in range(sources):
            for c in range(channels):
                frame[i * channels + c] = y[i, c, n]
    publish(header, TAP_WRITE, write + hop)


@njit(nogil=True, cache=True)
def route(y, n, frame):  # type: ignore[no-untyped-def]
    """Sample `n` of every source to one output frame `[shape=(out_channels,)]`.

    A pair of channels for each source where there are enough of them, else the mix. A mono signal goes to both channels of a
    pair; to a single output channel goes the mean of the input's.
    """
    sources, channels, _ = y.shape
    outputs = frame.size
    frame[:] = 0
    if outputs >= 2 * sources:
        for i in range(sources):
            frame[2 * i] = y[i, 0, n]
            frame[2 * i + 1] = y[i, min(1, channels - 1), n]
        return
    for i in range(sources):
        if outputs == 1:
            for c in range(channels):
                frame[0] += y[i, c, n] / channels
        else:
            for c in range(outputs):
                if c < max(channels, 2):
                    frame[c] += y[i, min(c, channels - 1), n]


# ---------------------------------------------------------------------------------------------------------- listener side


@njit(nogil=True, cache=True)
def read_tap(rings, first, first_channel, out):  # type: ignore[no-untyped-def]
    """Copy frames from position `first` and some channels of the tap to `out` `[shape=(frames, channels)]`.

    Returns 1 when `out` holds them, 0 when they are not there yet, -1 when they have been overwritten (the listener lost
    them). Safe beside the writer: after the copy it looks again whether the writer has come round meanwhile.
    """
    header = rings.header
    frames, channels = out.shape
    capacity = header[CAPACITY]
    if position(header, TAP_WRITE) < first + frames:
        return 0
    for n in range(frames):
        frame = rings.tap[(first + n) & (capacity - 1)]
        for c in range(channels):
            out[n, c] = frame[first_channel + c]
    # The writer may already be at work on the hop after its position: keep a quarter of the ring away from it.
    if position(header, TAP_WRITE) - first > capacity - capacity // 4:
        return -1
    return 1
