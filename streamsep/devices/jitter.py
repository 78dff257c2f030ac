"""The jitter buffer: sound that comes when it likes, by the sender's clock, handed out when it is due.

It is addressed by the sender's `sample_index`, so packets may come in any order and twice. It is read by a clock of our own,
`jitter` behind the fastest packets: one that is later than those by less than `jitter` is in time, and what waits here is a
latency that can be told, and is held.

The sender's clock is not ours. Where nothing is played nothing need be resampled or left out: the reading clock is set a little
faster or slower (`LIMIT` at most) so that the wait stays what was told. Whoever reads then runs on the sender's clock, and
every sample goes through as it came. How long the wait is, packets tell by when they come: one that ends before frame n and
comes at time t says that frame 0 would have come at t - n / rate; the earliest such time in a while is the fastest packets'
and free of jitter (`Arrivals`).

What is missing when its time comes is concealed: the last `FADE` before the hole go on backwards, which joins without a step,
and fade to silence; behind the hole the sound fades in as fast. A stream that stops is silence; when it goes on, or another
begins, the reading place is found anew. All of it is counted.

Two threads: one puts in (`begin`, `put`), one hands out (`render`); neither waits for the other. This module knows no thread,
no socket and no clock, and of time only what it is told.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from ..native import load_acquire
from ..rings import position, publish

BUFFER_SECONDS = 4.0
FADE = 0.003  # s
LIMIT = 0.005  # relative: the clock is turned by 0.5 % at most; quartz differs by 0.02 %
WINDOW = 1.0  # s over which the fastest packets are looked for
PULL = 2.0  # s in which a wrong wait would be set right
AWRY = 0.05  # s: a wait that is wrong by more than this and the jitter is not turned back but jumped
STALL = 0.1  # s without the sound that was due: the sender has stopped

_EPOCH = 2**44  # a frame's key in `have` is its stream's epoch times this, plus its index: years of sound

# Places in `Buffer.state`. Written by the thread that puts in:
NEWEST, EPOCH, START, WHOLE, FIRST = range(5)
# Written by the thread that hands out.
READ, SEEN, PERIOD, RISE, FALL, AT, STALLED = range(8, 15)
LOST, STARVED, SKIPPED, RESYNCS = range(16, 20)
PLACES = 24


class Buffer(NamedTuple):
    """The jitter buffer, and the reading side's state. Frames are rows; the capacity is a power of two."""

    state: NDArray[np.int64]  # [shape=(PLACES,)]
    have: NDArray[np.int64]  # [shape=(capacity,)]: which frame stands there, see `_EPOCH`
    frames: NDArray[np.float32]  # [shape=(capacity, channels)]
    past: NDArray[np.float32]  # [shape=(fade, channels)]: what was handed out last, a ring
    fill: NDArray[np.float32]  # [shape=(fade, channels)]: what a hole is filled with
    sample_rate: int  # Hz
    jitter: int  # frames


def make_buffer(sample_rate: int, channels: int, jitter: int) -> Buffer:
    """An empty buffer that holds sound for `jitter` frames."""
    capacity = 1 << (int(BUFFER_SECONDS * sample_rate) + 4 * jitter - 1).bit_length()
    fade = max(1, round(FADE * sample_rate))
    state = np.zeros(PLACES, np.int64)
    state[FALL] = fade
    past, fill = (np.zeros((fade, channels), np.float32) for _ in range(2))
    frames = np.zeros((capacity, channels), np.float32)
    return Buffer(state, np.full(capacity, -1, np.int64), frames, past, fill, sample_rate, jitter)


# --------------------------------------------------------------------------------------------------------- receiving side


@njit(nogil=True, cache=True)
def begin(buffer, index, x, whole):  # type: ignore[no-untyped-def]
    """A stream begins with frames `x` at `index`; `whole`: this is its very first packet, so that it need not be faded in."""
    state = buffer.state
    epoch = state[EPOCH] + 1
    write(buffer, epoch, index, x)
    state[START], state[WHOLE] = index, whole
    publish(state, NEWEST, index + x.shape[0])
    publish(state, EPOCH, epoch)


@njit(nogil=True, cache=True)
def put(buffer, index, x):  # type: ignore[no-untyped-def]
    """Frames `x` `[shape=(frames, channels)]` of the stream, from `index` on; how many of them were not there already."""
    state = buffer.state
    fresh = write(buffer, state[EPOCH], index, x)
    if index + x.shape[0] > state[NEWEST]:
        publish(state, NEWEST, index + x.shape[0])
    return fresh


@njit(nogil=True, cache=True)
def write(buffer, epoch, index, x):  # type: ignore[no-untyped-def]
    """The frames, each with its key after it."""
    key, wrap, fresh = epoch * _EPOCH, buffer.have.size - 1, 0
    for n in range(x.shape[0]):
        place = (index + n) & wrap
        if buffer.have[place] == key + index + n:
            continue
        fresh += 1
        buffer.frames[place] = x[n]
        publish(buffer.have, place, key + index + n)
    return fresh


# ----------------------------------------------------------------------------------------------------------- reading side


@njit(nogil=True, cache=True)
def render(buffer, when, x):  # type: ignore[no-untyped-def]
    """The block due at `when` (ns) into `x` `[shape=(frames, channels)]`; whether some of it had to be concealed."""
    state = buffer.state
    epoch, newest = position(state, EPOCH), position(state, NEWEST)
    seek(buffer, epoch, newest, when, x.shape[0])
    read, key, wrap = state[READ], epoch * _EPOCH, buffer.have.size - 1
    start, fade = state[START], buffer.past.shape[0]
    concealed = False
    for n in range(x.shape[0]):
        index = read + n
        place = index & wrap
        there = epoch > 0 and not state[STALLED] and load_acquire(buffer.have.ctypes.data + 8 * place) == key + index
        if there and index == start and state[WHOLE]:
            state[RISE] = fade
        if not there:
            if state[RISE] > 0:  # a hole begins: turn round what was heard last
                turn_round(buffer)
            if epoch > 0 and not state[STALLED] and index >= start:
                state[LOST if index < newest else STARVED] += 1
                concealed = True
        mend(buffer, there, buffer.frames[place], x[n])
    if not state[STALLED]:
        state[READ] = read + x.shape[0]
    return concealed


@njit(nogil=True, cache=True)
def turn_round(buffer):  # type: ignore[no-untyped-def]
    """Fill the hole that begins with what was handed out before, backwards and fading."""
    state, fade = buffer.state, buffer.past.shape[0]
    for k in range(fade):
        level = np.float32(1 - (k + 1) / fade)
        for c in range(buffer.fill.shape[1]):
            buffer.fill[k, c] = level * buffer.past[(state[AT] - 1 - k) % fade, c]
    state[RISE] = state[FALL] = 0


@njit(nogil=True, cache=True)
def mend(buffer, there, frame, out):  # type: ignore[no-untyped-def]
    """One frame to `out`: `frame` where it is there, else the filling; over from one to the other without a step."""
    state, fade = buffer.state, buffer.past.shape[0]
    if there and state[RISE] < fade:
        state[RISE] += 1
    rise = np.float32(state[RISE] / fade) if there else np.float32(0)
    for c in range(out.size):
        value = frame[c] if rise == 1 else rise * frame[c] if there else np.float32(0)
        if state[FALL] < fade and rise < 1:
            value += (1 - rise) * buffer.fill[state[FALL], c]
        out[c] = value
        buffer.past[state[AT], c] = value
    if state[FALL] < fade:
        state[FALL] += 1
    state[AT] = (state[AT] + 1) % fade


@njit(nogil=True, cache=True)
def seek(buffer, epoch, newest, when, block):  # type: ignore[no-untyped-def]
    """Where to read, and how fast, so that the fastest packets stay `jitter` frames ahead of what has been read."""
    state, rate, jitter = buffer.state, buffer.sample_rate, buffer.jitter
    if epoch == 0:
        return
    right = int(1e-9 * (when - position(state, FIRST)) * rate) - jitter - block
    wrong = right - state[READ]
    if epoch != state[SEEN]:
        state[SEEN] = epoch
        jump(buffer, right)
    elif state[STALLED]:
        if newest > state[STALLED]:
            state[LOST] += max(0, wrong)
            jump(buffer, right)
    elif state[READ] - newest > STALL * rate:
        jump(buffer, state[READ])
        state[STALLED] = newest
    elif abs(wrong) > jitter + AWRY * rate:
        state[SKIPPED] += max(0, wrong)
        jump(buffer, right)
    else:
        turn = min(max(wrong / (PULL * rate), -LIMIT), LIMIT)
        state[PERIOD] = int(1e9 * block / rate * (1 - turn))


@njit(nogil=True, cache=True)
def jump(buffer, index):  # type: ignore[no-untyped-def]
    """Read on at `index`; what is heard fades over."""
    state = buffer.state
    if state[RISE] > 0:
        turn_round(buffer)
    state[READ] = index
    state[STALLED] = 0
    state[RESYNCS] += 1


# -------------------------------------------------------------------------------------------------------------- arrivals


class Arrivals:
    """When frame 0 of a stream would have come (ns, monotonic), by the fastest packets of the last `WINDOW` or two."""

    def __init__(self, sample_rate: int) -> None:
        self._frame_ns = 1e9 / sample_rate
        self._last = self._this = self._until = 0
        self._seen = -(1 << 62)

    def note(self, now: int, end: int, anew: bool) -> int:
        """A packet that ends before frame `end` has come at `now`; `anew`: those before say nothing about it."""
        first = now - round(end * self._frame_ns)
        if anew or now - self._seen > STALL * 1e9:
            self._last = self._this = first
            self._until = now + int(WINDOW * 1e9)
        if now > self._until:
            self._last, self._this, self._until = self._this, first, now + int(WINDOW * 1e9)
        self._this, self._seen = min(self._this, first), now
        return min(self._last, self._this)
