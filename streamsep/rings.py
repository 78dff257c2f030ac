"""Lock-free rings between the device, the worker and the listeners: one block of memory, described once, here.

A ring is addressed by *position*: the number of frames that went through it. Whoever writes publishes its position with a
release store, whoever reads looks at it with an acquire load; nobody ever waits. Output positions are tied to input positions
while sound runs, so delay cannot change: a reader that finds nothing fades out and moves on, and what comes late falls on
positions already passed.

Memory: a header of int64 (`HEADER` places), then three rings of interleaved float32 frames:

    in    device -> worker     what was recorded
    out   worker -> device     what is to be played
    tap   worker -> listeners  every source, each with every channel; read by copying and looking again (`read_tap`)

The places that different threads write lie 64 bytes apart or more: no two threads share a cache line.

The same block lies in memory that two processes share where a host's plugin is the device and an engine serves it (`plugin`);
its C header is written from this file. There is no steering thread between them: by the places at the end of the header the
plugin says where a stream begins, and the engine whether it serves it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .channelmap import Routes, default_routes
from .native import load_acquire, monotonic_ns, sleep_ns, store_release

LAYOUT = 3
HEADER = 96  # int64 places
# Fixed once made.
VERSION, CAPACITY, IN_CHANNELS, OUT_CHANNELS, TAP_CHANNELS = range(5)
# The device's frames a second; by which clock its calls are noted: the addresses of clock_gettime and nanosleep, 0 for none.
GETTIME, SAMPLE_RATE, NANOSLEEP = 5, 6, 7
# Positions, each with one writer.
IN_WRITE, IN_READ, OUT_WRITE, OUT_READ, TAP_WRITE = 8, 16, 24, 32, 40
# Written by the steering thread. ARMED: blocks count; OPEN: sound goes out; OBSERVE: note how evenly blocks come; PATIENCE: ns
# that a call of the device waits at most for the hops in its own block.
ARMED, STOP, OBSERVE, OPEN, PATIENCE = 48, 49, 50, 51, 52
# Written by the device. WHEN: ns of the last call; LEVEL: of the fade, 0 to FULL; HELD: position of the last frame played.
CALLS, MAX_BLOCK, INPUT_XRUNS, OUTPUT_XRUNS, MISSED, WHEN, LEVEL, HELD = range(56, 64)
SINCE, SEEN, EARLIEST, LATEST = range(72, 76)
# Written by whoever has the hop (see `live`): the worker or its understudy.
RUNNING, LATE, LOST, BRIDGED = range(64, 68)
# Written by the engine of a plugin. ENGINE: which one serves these rings, 0 none; BEGUN: the newest EPOCH that it has begun;
# BEAT: ns when it last looked; REFUSED: its LAYOUT where that is not VERSION, or -1 where it has no model of this HOP. REFUSED
# and VERSION never move.
ENGINE, BEGUN, BEAT, REFUSED = range(68, 72)
TOKEN = 80  # who has the hop
# Written by a plugin. The stream number EPOCH begins with the input frame START, which goes out at START + PREFILL; HOP frames.
EPOCH, START, PREFILL, HOP = range(88, 92)

FULL = 1 << 16
NAP = 50_000  # ns between two looks of a call that waits
GAP_FRAMES = 64  # the last frame fades over so many where sound is missing: an edge would click
OPEN_SECONDS, CLOSE_SECONDS = 0.005, 0.02  # fades at the start, after a gap, and at the end


class Rings(NamedTuple):
    """Views of one block of memory. Frames are rows: `[shape=(capacity, channels)]`, capacity a power of two."""

    memory: NDArray[np.uint8]
    header: NDArray[np.int64]
    inward: NDArray[np.float32]
    outward: NDArray[np.float32]
    tap: NDArray[np.float32]
    routes: Routes


def make_rings(capacity: int, in_channels: int, out_channels: int, tap_channels: int, routes: Routes | None = None) -> Rings:
    """Empty rings that hold at least `capacity` frames each; sources go to outputs by `routes` (None: the usual way)."""
    capacity = 1 << (capacity - 1).bit_length()
    channels = in_channels, out_channels, tap_channels
    raw = np.zeros(size(capacity, *channels) + 64, np.uint8)
    memory = raw[-raw.ctypes.data % 64 :][: len(raw) - 64]  # on a cache line's border
    header = memory[: 8 * HEADER].view(np.int64)
    header[[VERSION, CAPACITY, IN_CHANNELS, OUT_CHANNELS, TAP_CHANNELS]] = [LAYOUT, capacity, *channels]
    return view_rings(memory, routes)


def size(capacity: int, in_channels: int, out_channels: int, tap_channels: int) -> int:
    """Bytes of rings with so many frames and channels."""
    return 8 * HEADER + 4 * capacity * (in_channels + out_channels + tap_channels)


def view_rings(memory: NDArray[np.uint8], routes: Routes | None = None) -> Rings:
    """The rings that lie in `memory`, whose header says how large they are."""
    header = memory[: 8 * HEADER].view(np.int64)
    capacity, *channels = map(int, header[[CAPACITY, IN_CHANNELS, OUT_CHANNELS, TAP_CHANNELS]])
    ends = 8 * HEADER + 4 * capacity * np.cumsum([0, *channels])
    inward, outward, tap = (
        memory[first:end].view(np.float32).reshape(capacity, c)
        for first, end, c in zip(ends[:-1], ends[1:], channels, strict=True)
    )
    routes = routes or default_routes(max(1, channels[2] // channels[0]), channels[0], channels[1])
    return Rings(memory, header, inward, outward, tap, routes)


def of_tap(rings: Rings, first: int, channels: int) -> Rings:
    """The same rings for a listener who is to hear but `channels` channels of the tap, from `first` on."""
    return rings if channels == rings.tap.shape[1] else rings._replace(tap=rings.tap[:, first : first + channels])


def clear(rings: Rings) -> None:
    """Back to position 0, silent and unarmed. Only while neither device nor worker runs."""
    rings.header[IN_WRITE:] = 0
    for ring in (rings.inward, rings.outward, rings.tap):
        ring[:] = 0


def arm(rings: Rings, prefill: int) -> None:
    """Let sound in and out: the next input frame is the worker's next; its first frame goes out `prefill` frames later.

    Positions only ever grow, so that listeners notice nothing but a pause. Only while no worker runs and no block counts.
    """
    header, wrap = rings.header, len(rings.outward) - 1
    read = int(header[OUT_READ])
    rings.outward[(read + np.arange(prefill)) & wrap] = 0
    header[IN_READ], header[OUT_WRITE] = header[IN_WRITE], read + prefill
    header[LEVEL] = 0
    publish(header, OPEN, 1)
    publish(header, ARMED, 1)


def forget_device(rings: Rings) -> None:
    """What the device before noted of itself: its blocks and their times. Only while no device runs."""
    rings.header[[CALLS, MAX_BLOCK, WHEN, SINCE, SEEN, EARLIEST, LATEST]] = 0


def disarm(rings: Rings) -> None:
    """Blocks do not count any more. Only while the device is stopped."""
    publish(rings.header, ARMED, 0)


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

    Copies and counts; it waits for nothing, but for a worker that has PATIENCE's time to do so.
    """
    frames = max(x.shape[0], y.shape[0])
    if note_call(header, frames):
        record(header, inward, x, frames)
        if header[PATIENCE]:
            await_worker(header, frames)
        play(header, outward, y, frames)
    else:
        y[:] = 0


@njit(nogil=True, cache=True)
def note_call(header, frames):  # type: ignore[no-untyped-def]
    """Note that the device called, and when; whether this block counts."""
    header[CALLS] += 1
    header[MAX_BLOCK] = max(header[MAX_BLOCK], frames)
    if header[GETTIME]:
        publish(header, WHEN, monotonic_ns(header[GETTIME]))
    if position(header, ARMED):
        return True
    if position(header, OBSERVE):
        note_time(header, frames)
    return False


@njit(nogil=True, cache=True)
def record(header, inward, x, frames):  # type: ignore[no-untyped-def]
    """`x` `[shape=(frames, in_channels)]` onto the input ring."""
    wrap = header[CAPACITY] - 1
    write = header[IN_WRITE]
    for n in range(x.shape[0]):
        inward[(write + n) & wrap] = x[n]
    publish(header, IN_WRITE, write + frames)


@njit(nogil=True, cache=True)
def await_worker(header, frames):  # type: ignore[no-untyped-def]
    """Until the next `frames` are there, or PATIENCE is at its end."""
    end = header[WHEN] + header[PATIENCE]
    while position(header, OUT_WRITE) - header[OUT_READ] < frames and monotonic_ns(header[GETTIME]) < end:
        sleep_ns(header[NANOSLEEP], NAP)


@njit(nogil=True, cache=True)
def play(header, outward, y, frames):  # type: ignore[no-untyped-def]
    """The next `frames` of the output ring into `y` `[shape=(frames or 0, out_channels)]`.

    Frames that are not there yet are gone: what was heard last fades out in their place, and what comes after fades in.
    """
    wrap = header[CAPACITY] - 1
    read = header[OUT_READ]
    ready = min(position(header, OUT_WRITE) - read, frames)
    if ready < frames:
        header[MISSED] += 1
    if header[LEVEL] == FULL and ready == frames and position(header, OPEN):
        for n in range(y.shape[0]):
            y[n] = outward[(read + n) & wrap]
        header[HELD] = read + frames - 1
    else:
        fade(header, outward, y, ready)
    publish(header, OUT_READ, read + frames)


@njit(nogil=True, cache=True)
def fade(header, outward, y, ready):  # type: ignore[no-untyped-def]
    """`play` where the level is moving: at the start, at the end, and on both sides of a gap."""
    wrap = header[CAPACITY] - 1
    read, rate = header[OUT_READ], header[SAMPLE_RATE] if header[SAMPLE_RATE] else 48_000
    rise, fall, gap = FULL / (OPEN_SECONDS * rate), FULL / (CLOSE_SECONDS * rate), FULL / GAP_FRAMES
    level = np.float64(header[LEVEL])
    is_open = position(header, OPEN)
    for n in range(y.shape[0]):
        if n < ready:
            header[HELD] = read + n
            level += rise if is_open else -fall
        else:
            level -= gap
        level = np.float64(min(max(level, 0.0), FULL))
        for c in range(y.shape[1]):
            y[n, c] = outward[header[HELD] & wrap, c] * np.float32(level / FULL)
    header[LEVEL] = int(level)


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
    """The next hop of input into `x` `[shape=(channels, hop)]`, if it is there; whether it was."""
    first = next_hop(rings, x.shape[1])
    if first < 0:
        return False
    for c in range(x.shape[0]):
        copy_in(rings, first, c, x[c])
    publish(rings.header, IN_READ, first + x.shape[1])
    return True


@njit(nogil=True, cache=True)
def next_hop(rings, hop):  # type: ignore[no-untyped-def]
    """The position of the next hop of input, -1 while it is not there. Publish IN_READ when it is copied.

    A worker that was held up for longer than the ring is long goes on with the newest whole hop; the others are lost.
    """
    header = rings.header
    capacity = header[CAPACITY]
    read = header[IN_READ]
    ahead = position(header, IN_WRITE) - read
    if ahead < hop:
        return -1
    if ahead > capacity - header[MAX_BLOCK]:
        skipped = (ahead - hop) // hop
        header[LOST] += skipped
        read += skipped * hop
        frames = min(skipped * hop, capacity)
        blank(rings.outward, header[OUT_WRITE], frames)  # silence, or an old lap would be heard
        blank(rings.tap, header[TAP_WRITE], frames)
        publish(header, OUT_WRITE, header[OUT_WRITE] + skipped * hop)
        publish(header, TAP_WRITE, header[TAP_WRITE] + skipped * hop)
    return read


@njit(nogil=True, cache=True)
def copy_in(rings, first, channel, x):  # type: ignore[no-untyped-def]
    """A hop of one channel of the input, from position `first` on, into `x` `[shape=(hop,)]`."""
    wrap = rings.header[CAPACITY] - 1
    for n in range(x.size):
        x[n] = rings.inward[(first + n) & wrap, channel]


@njit(nogil=True, cache=True)
def blank(ring, first, frames):  # type: ignore[no-untyped-def]
    """Silence on `frames` of a ring, from position `first` on."""
    for n in range(frames):
        ring[(first + n) & (len(ring) - 1)] = 0


@njit(nogil=True, cache=True)
def put(rings, y):  # type: ignore[no-untyped-def]
    """One finished hop `y` `[shape=(sources, channels, hop)]` to the device and to the listeners; whether it was in time."""
    hop = y.shape[2]
    blank(rings.outward, rings.header[OUT_WRITE], hop)
    mix_in(rings, rings.routes, y)
    in_time = hand_over(rings, hop)
    copy_to_tap(rings, 0, y)
    publish(rings.header, TAP_WRITE, rings.header[TAP_WRITE] + hop)
    return in_time


@njit(nogil=True, cache=True)
def mix_in(rings, routes, y):  # type: ignore[no-untyped-def]
    """Add the sources `y` `[shape=(sources, channels, hop)]` to the hop of output that comes next, as `routes` say.

    A weight of 1 changes no bit: what goes straight to an output, and is alone there, arrives as it is.
    """
    wrap, write = rings.header[CAPACITY] - 1, rings.header[OUT_WRITE]
    for n in range(y.shape[2]):
        frame = rings.outward[(write + n) & wrap]
        for r in range(routes.weight.size):
            frame[routes.where[r, 2]] += y[routes.where[r, 0], routes.where[r, 1], n] * routes.weight[r]


@njit(nogil=True, cache=True)
def hand_over(rings, hop):  # type: ignore[no-untyped-def]
    """Let the device have the hop that was mixed; whether it was in time. Else it is counted: frames of it were due before."""
    header = rings.header
    write = header[OUT_WRITE]
    in_time = position(header, OUT_READ) <= write
    header[LATE] += not in_time
    publish(header, OUT_WRITE, write + hop)
    return in_time


@njit(nogil=True, cache=True)
def copy_to_tap(rings, first_channel, y):  # type: ignore[no-untyped-def]
    """The sources `y` `[shape=(sources, channels, hop)]` to the listeners' next hop. Publish TAP_WRITE when all are there."""
    sources, channels, hop = y.shape
    wrap, write = rings.header[CAPACITY] - 1, rings.header[TAP_WRITE]
    for n in range(hop):
        frame = rings.tap[(write + n) & wrap]
        for i in range(sources):
            for c in range(channels):
                frame[first_channel + i * channels + c] = y[i, c, n]


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
