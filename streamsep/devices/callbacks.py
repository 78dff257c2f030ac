"""What PortAudio calls: compiled C functions between a stream and the rings.

Their contract: they allocate nothing, need no Python, fill the whole output, and wait for nothing but a worker that has
`rings.PATIENCE` to do so. `memory` is the bridge of
`drift`: with one stream only its first places count, with two each has its own function.
"""

from __future__ import annotations

import sys

import numpy as np
from numba import carray, cfunc, int64, njit, types

from ..native import monotonic_ns, pointer
from ..rings import (
    ARMED,
    CAPACITY,
    HEADER,
    IN_CHANNELS,
    IN_WRITE,
    INPUT_XRUNS,
    OUT_CHANNELS,
    OUTPUT_XRUNS,
    PATIENCE,
    await_worker,
    note_call,
    play,
    position,
    publish,
)
from . import drift

INPUT_BROKEN, OUTPUT_BROKEN = 1 | 2, 4 | 8  # paInputUnderflow, paInputOverflow; paOutputUnderflow, paOutputOverflow
# PaStreamCallback's frame count and flags are C's unsigned long.
_ULONG = types.uint32 if sys.platform == "win32" else types.uint64
_SIGNATURE = types.int32(types.voidptr, types.voidptr, _ULONG, types.voidptr, _ULONG, types.voidptr)


@njit(nogil=True, cache=True)
def ring(bridge, header, place):  # type: ignore[no-untyped-def]
    """The ring in (place 0) or out (1) behind the bridge's rings, `[shape=(capacity, channels)]`."""
    capacity, ins, outs = header[CAPACITY], header[IN_CHANNELS], header[OUT_CHANNELS]
    samples = carray(pointer(bridge[drift.RINGS]), 2 * HEADER + capacity * (ins + outs), np.float32)
    first = 2 * HEADER + place * capacity * ins
    channels = outs if place else ins
    return samples[first : first + capacity * channels].reshape(capacity, channels)


@njit(nogil=True, cache=True)
def seconds(bridge, time_info):  # type: ignore[no-untyped-def]
    """The time of this call, by a clock that both streams share."""
    if bridge[drift.CLOCK]:
        return 1e-9 * monotonic_ns(bridge[drift.CLOCK])
    return carray(time_info, 3, np.float64)[1]  # PaStreamCallbackTimeInfo.currentTime


@njit(nogil=True, cache=True)
def take_in(bridge, header, x):  # type: ignore[no-untyped-def]
    """Of `x` `[shape=(frames, width)]` the channels that were asked for, onto the input ring."""
    inward = ring(bridge, header, 0)
    wrap, write = header[CAPACITY] - 1, header[IN_WRITE]
    for n in range(x.shape[0]):
        for c in range(inward.shape[1]):
            inward[(write + n) & wrap, c] = x[n, bridge[drift.PICKS + c]]
    publish(header, IN_WRITE, write + x.shape[0])
    if header[PATIENCE]:
        await_worker(header, x.shape[0])


@njit(nogil=True, cache=True)
def capture(bridge, times, header, x, now, broken):  # type: ignore[no-untyped-def]
    """The input's call, where the output is another device: record, and keep the schedule."""
    armed = note_call(header, x.shape[0])
    if armed:
        take_in(bridge, header, x)
        header[INPUT_XRUNS] += broken
    drift.keep_schedule(bridge, times, header, x.shape[0], now, armed, broken)


@njit(nogil=True, cache=True)
def playback(bridge, times, header, y, now, broken):  # type: ignore[no-untyped-def]
    """The output's call, where the input is another device."""
    taps, outs = bridge[drift.TAPS], y.shape[1]
    kernel = carray(pointer(bridge[drift.KERNEL]), (drift.PHASES + 1, taps), np.float32)
    scratch = carray(pointer(bridge[drift.SCRATCH]), taps + outs, np.float64)
    drift.play_between(bridge, times, header, ring(bridge, header, 1), kernel, scratch[:taps], scratch[taps:], y, now, broken)


@cfunc(types.void(types.voidptr, types.int32, types.voidptr, types.int32, types.voidptr), cache=True)
def ignore(file, line, function, error, text):  # type: ignore[no-untyped-def]
    """ALSA's snd_lib_error_handler_t: nobody is told."""


@cfunc(_SIGNATURE, cache=True)
def on_both(source, sink, frame_count, time_info, status, memory):  # type: ignore[no-untyped-def]
    """PaStreamCallback of a stream that has input and, unless nothing is played, output: one clock."""
    frames, flags = int64(frame_count), int64(status)
    bridge = carray(memory, drift.PLACES, np.int64)
    header = carray(pointer(bridge[drift.RINGS]), HEADER, np.int64)
    x = carray(source, (frames, bridge[drift.WIDTH]), np.float32)
    y = carray(sink, (frames if header[OUT_CHANNELS] else 0, header[OUT_CHANNELS]), np.float32)
    if position(header, ARMED):  # what happens before the first sound is not heard
        header[INPUT_XRUNS] += (flags & INPUT_BROKEN) != 0
        header[OUTPUT_XRUNS] += (flags & OUTPUT_BROKEN) != 0
    if note_call(header, frames):
        take_in(bridge, header, x)
        play(header, ring(bridge, header, 1), y, frames)
    else:
        y[:] = 0
    return 0


@cfunc(_SIGNATURE, cache=True)
def on_input(source, sink, frame_count, time_info, status, memory):  # type: ignore[no-untyped-def]
    """PaStreamCallback of the input where the output is another device."""
    bridge, times = carray(memory, drift.PLACES, np.int64), carray(memory, drift.PLACES, np.float64)
    header = carray(pointer(bridge[drift.RINGS]), HEADER, np.int64)
    x = carray(source, (int64(frame_count), bridge[drift.WIDTH]), np.float32)
    if x.shape[0]:
        capture(bridge, times, header, x, seconds(bridge, time_info), (int64(status) & INPUT_BROKEN) != 0)
    return 0


@cfunc(_SIGNATURE, cache=True)
def on_output(source, sink, frame_count, time_info, status, memory):  # type: ignore[no-untyped-def]
    """PaStreamCallback of the output where the input is another device."""
    bridge, times = carray(memory, drift.PLACES, np.int64), carray(memory, drift.PLACES, np.float64)
    header = carray(pointer(bridge[drift.RINGS]), HEADER, np.int64)
    y = carray(sink, (int64(frame_count), header[OUT_CHANNELS]), np.float32)
    if y.shape[0]:
        playback(bridge, times, header, y, seconds(bridge, time_info), (int64(status) & OUTPUT_BROKEN) != 0)
    return 0
