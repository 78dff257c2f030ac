"""What libjack calls back, compiled: no Python, no GIL, no lock and no allocation on any of its threads.

All of it works on `state`, one array of int64 whose places are described here; `jackdevice` fills it in. In freewheel, when a
DAW exports faster than real time, `process` waits for the worker: an export holds the samples that a live run would.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, int64, njit, types
from numba.extending import intrinsic

from ..native import monotonic_ns, sleep_ns
from ..rings import ARMED, CAPACITY, GETTIME, HEADER, INPUT_XRUNS, OUT_READ, OUT_WRITE, WHEN, exchange, position, publish

MAX_FRAMES, MAX_INPUTS, MAX_OUTPUTS = 8192, 64, 256  # of one block; of ports
CAPTURE, PLAYBACK = 0, 1  # jack_latency_callback_mode_t

# Fixed while the client is active: addresses of C functions and of memory, the server's block and rate, numbers of ports.
RINGS, GET_BUFFER, GET_RANGE, SET_RANGE, NANOSLEEP, SCRATCH, BLOCK, RATE, INPUTS, OUTPUTS = range(10)
# Written by the steering thread: samples that the engine and its hand-over delay; whether blocks go through the rings.
DELAY, EXCHANGING = 16, 17
# Written by libjack's threads: block or rate are not what they were; the server went away, REASON tells why (a C string).
CHANGED, GONE, FREEWHEELING, RANGE, REASON = 24, 25, 26, 27, 32
REASON_BYTES = 128
PORTS = 48  # jack_port_t pointers: inputs, then outputs
STATE = PORTS + MAX_INPUTS + MAX_OUTPUTS

_PATIENCE_NS, _NAP_NS = 2_000_000_000, 50_000
_I64, _I32 = ir.IntType(64), ir.IntType(32)


@intrinsic
def _pointer(typingctx, address):
    """`_pointer(address)`: an address as a pointer, for `carray`."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


@intrinsic
def _get_buffer(typingctx, address, port, frames):
    """`_get_buffer(address, port, frames)`: `void *jack_port_get_buffer(jack_port_t *, uint32_t)`."""

    def codegen(context, builder, sig, args):
        function = builder.inttoptr(args[0], ir.FunctionType(_I64, [_I64, _I32]).as_pointer())
        return builder.call(function, [args[1], builder.trunc(args[2], _I32)])

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def _range(typingctx, address, port, mode, span):
    """`_range(address, port, mode, span)`: `void jack_port_get/set_latency_range(jack_port_t *, int, uint32_t[2])`."""

    def codegen(context, builder, sig, args):
        function = builder.inttoptr(args[0], ir.FunctionType(ir.VoidType(), [_I64, _I32, _I64]).as_pointer())
        builder.call(function, [args[1], builder.trunc(args[2], _I32), args[3]])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), codegen


@njit(nogil=True, cache=True)
def wait_for_worker(state, header, frames):  # type: ignore[no-untyped-def]
    """Until the next `frames` are there, as long as any come: freewheeling, no clock ticks and nobody listens."""
    waited, written = 0, position(header, OUT_WRITE)
    while state[FREEWHEELING] and state[NANOSLEEP] and waited < _PATIENCE_NS and position(header, ARMED):
        if position(header, OUT_WRITE) - position(header, OUT_READ) >= frames:
            return
        sleep_ns(state[NANOSLEEP], _NAP_NS)
        waited += _NAP_NS
        if position(header, OUT_WRITE) != written:
            waited, written = 0, position(header, OUT_WRITE)


@njit(nogil=True, cache=True)
def allow_time(header):  # type: ignore[no-untyped-def]
    """Nothing is due soon: or the understudy would step in for a worker that is waited for."""
    if header[GETTIME]:
        publish(header, WHEN, monotonic_ns(header[GETTIME]) + _PATIENCE_NS)


@njit(nogil=True, cache=True)
def through_rings(state, x, y):  # type: ignore[no-untyped-def]
    """`exchange` with the rings at the address in `state`."""
    rings = _pointer(state[RINGS])
    header = carray(rings, HEADER, np.int64)
    capacity, inputs, outputs = header[CAPACITY], x.shape[1], y.shape[1]
    samples = carray(rings, 2 * HEADER + capacity * (inputs + outputs), np.float32)[2 * HEADER :]
    inward = samples[: capacity * inputs].reshape(capacity, inputs)
    outward = samples[capacity * inputs :].reshape(capacity, outputs)
    if state[FREEWHEELING]:
        allow_time(header)
        wait_for_worker(state, header, x.shape[0])
    exchange(header, inward, outward, x, y)
    if state[FREEWHEELING]:
        allow_time(header)


@cfunc(types.int32(types.uint32, types.voidptr), cache=True)
def process(frame_count, memory):  # type: ignore[no-untyped-def]
    """JackProcessCallback: one block between the ports and the rings; silence where there are none."""
    frames, state = int64(frame_count), carray(memory, STATE, np.int64)
    inputs, outputs = state[INPUTS], state[OUTPUTS]
    if frames != state[BLOCK]:
        state[CHANGED] = 1
    sounds = frames <= MAX_FRAMES and position(state, EXCHANGING) != 0
    # JACK's buffers lie apart, port by port; the rings' frames are interleaved.
    scratch = carray(_pointer(state[SCRATCH]), MAX_FRAMES * (inputs + outputs), np.float32)
    x = scratch[: MAX_FRAMES * inputs].reshape(MAX_FRAMES, inputs)
    y = scratch[MAX_FRAMES * inputs :].reshape(MAX_FRAMES, outputs)
    if sounds:
        for c in range(inputs):
            address = _get_buffer(state[GET_BUFFER], state[PORTS + c], frames)
            x[:frames, c] = 0
            if address:
                x[:frames, c] = carray(_pointer(address), frames, np.float32)
        through_rings(state, x[:frames], y[:frames])
    for c in range(outputs):
        address = _get_buffer(state[GET_BUFFER], state[PORTS + inputs + c], frames)
        if address:
            heard = carray(_pointer(address), frames, np.float32)
            heard[:] = 0
            if sounds:
                heard[:] = y[:frames, c]
    return 0


@cfunc(types.void(types.int32, types.voidptr), cache=True)
def latency(mode, memory):  # type: ignore[no-untyped-def]
    """JackLatencyCallback: what is on one side of the client was or will be on the other, DELAY samples apart."""
    state = carray(memory, STATE, np.int64)
    inputs, ports = state[INPUTS], state[INPUTS] + state[OUTPUTS]
    first, last = (0, inputs) if mode == CAPTURE else (inputs, ports)
    address = state.ctypes.data + 8 * RANGE
    span = carray(_pointer(address), 2, np.uint32)  # jack_latency_range_t: min, max
    least, most = int64(0xFFFFFFFF), int64(0)
    for i in range(first, last):
        _range(state[GET_RANGE], state[PORTS + i], mode, address)
        least, most = min(least, int64(span[0])), max(most, int64(span[1]))
    span[0], span[1] = np.uint32(min(least, most) + state[DELAY]), np.uint32(most + state[DELAY])
    for i in range(ports):
        if i < first or i >= last:
            _range(state[SET_RANGE], state[PORTS + i], mode, address)


@cfunc(types.int32(types.voidptr), cache=True)
def xrun(memory):  # type: ignore[no-untyped-def]
    """JackXRunCallback. JACK does not say on which side: INPUT_XRUNS counts it, and has no other writer here."""
    header = carray(_pointer(carray(memory, STATE, np.int64)[RINGS]), HEADER, np.int64)
    header[INPUT_XRUNS] += header[ARMED] != 0  # what happens before the first sound is not heard
    return 0


@cfunc(types.int32(types.uint32, types.voidptr), cache=True)
def sample_rate(rate, memory):  # type: ignore[no-untyped-def]
    """JackSampleRateCallback; also called at the start, with the rate that is."""
    state = carray(memory, STATE, np.int64)
    if int64(rate) != state[RATE]:
        state[CHANGED] = 1
    return 0


@cfunc(types.void(types.int32, types.voidptr), cache=True)
def freewheel(starting, memory):  # type: ignore[no-untyped-def]
    """JackFreewheelCallback."""
    carray(memory, STATE, np.int64)[FREEWHEELING] = starting != 0


@cfunc(types.void(types.int32, types.voidptr, types.voidptr), cache=True)
def shutdown(code, reason, memory):  # type: ignore[no-untyped-def]
    """JackInfoShutdownCallback. `reason` does not outlive the call."""
    state, text = carray(memory, STATE, np.int64), carray(reason, REASON_BYTES, np.uint8)
    kept = carray(_pointer(state.ctypes.data + 8 * REASON), REASON_BYTES, np.uint8)
    for i in range(REASON_BYTES - 1):
        kept[i] = text[i]
        if text[i] == 0:
            break
    publish(state, GONE, 1)


@cfunc(types.void(types.voidptr), cache=True)
def end(memory):  # type: ignore[no-untyped-def]
    """JackShutdownCallback: the older form of `shutdown`, the only one that PipeWire calls."""
    publish(carray(memory, STATE, np.int64), GONE, 1)


@cfunc(types.void(types.voidptr), cache=True)
def ignore(message):  # type: ignore[no-untyped-def]
    """What libjack would print in a terminal. What failed is told by what its functions return."""
