"""What Numba lacks for an audio path without Python: calls by address, atomics, a clock and a sleep.

Addresses are plain integers. That keeps every caller cacheable on disk (a ctypes object in a global would not be) and free
of the GIL. The functions here are for POSIX systems; where `AVAILABLE` is False the daemon falls back to Python threads.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from typing import NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

AVAILABLE = sys.platform != "win32"
# SCHED_FIFO priorities: above ordinary work, below the audio servers (JACK 10 and up, PipeWire 88).
WORKER_PRIORITY, UNDERSTUDY_PRIORITY, FILE_PRIORITY = 7, 8, 9
_CLOCK_MONOTONIC = 6 if sys.platform == "darwin" else 1
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4
_I64 = ir.IntType(64)
_I32 = ir.IntType(32)


class Clock(NamedTuple):
    """Addresses of the C library's `clock_gettime` and `nanosleep`, to hand to compiled code."""

    gettime: int
    nanosleep: int


def clock() -> Clock:
    """The C library's clock."""
    libc = ctypes.CDLL(None)
    return Clock(*(_address(getattr(libc, name)) for name in ("clock_gettime", "nanosleep")))


def _address(function: object) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0  # type: ignore[arg-type]


def _function(builder, address, result, *arguments):
    return builder.inttoptr(address, ir.FunctionType(result, arguments).as_pointer())


def become_realtime(priority: int) -> bool:
    """Ask for real-time scheduling of the calling thread; whether the system granted it."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (AttributeError, OSError):
        return False
    return True


def lock_memory() -> str:
    """Keep every page of this process, now and later, in memory once it was touched; "" or why that was not to be.

    With a limit on locked memory any later allocation could fail: then nothing is locked.
    """
    if not sys.platform.startswith("linux"):
        return "only Linux can"
    import resource

    limit = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    if limit != resource.RLIM_INFINITY and os.geteuid() != 0:
        return f"the limit on locked memory is {limit // 1024} KiB (ulimit -l)"
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT):
        return os.strerror(ctypes.get_errno())
    return ""


@intrinsic
def monotonic_ns(typingctx, gettime):
    """`monotonic_ns(gettime)`: nanoseconds of the monotonic clock; `gettime` is the address of `clock_gettime`."""

    def codegen(context, builder, sig, args):
        spec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        first = builder.bitcast(spec, _I64.as_pointer())
        builder.call(_function(builder, args[0], _I32, _I32, _I64.as_pointer()), [_I32(_CLOCK_MONOTONIC), first])
        second = builder.load(builder.gep(first, [_I32(1)]))
        return builder.add(builder.mul(builder.load(first), _I64(1_000_000_000)), second)

    return types.int64(types.int64), codegen


@intrinsic
def sleep_ns(typingctx, nanosleep, duration):
    """`sleep_ns(nanosleep, duration)`: sleep for `duration` < 1e9 nanoseconds; `nanosleep` is the function's address."""

    def codegen(context, builder, sig, args):
        spec = cgutils.alloca_once(builder, ir.ArrayType(_I64, 2))
        first = builder.bitcast(spec, _I64.as_pointer())
        builder.store(_I64(0), first)
        builder.store(args[1], builder.gep(first, [_I32(1)]))
        function = _function(builder, args[0], _I32, _I64.as_pointer(), _I64)
        return builder.sext(builder.call(function, [first, _I64(0)]), _I64)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def load_acquire(typingctx, address):
    """`load_acquire(address)`: the int64 at `address`; what its writer stored before it is visible after."""

    def codegen(context, builder, sig, args):
        return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "acquire", 8)

    return types.int64(types.int64), codegen


@intrinsic
def store_release(typingctx, address, value):
    """`store_release(address, value)`: publish an int64, and with it all that was stored before."""

    def codegen(context, builder, sig, args):
        builder.store_atomic(args[1], builder.inttoptr(args[0], _I64.as_pointer()), "release", 8)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def exchange_if(typingctx, address, expected, value):
    """`exchange_if(address, expected, value)`: store `value` if `expected` is there, as one step; 1 if it was."""

    def codegen(context, builder, sig, args):
        pointer = builder.inttoptr(args[0], _I64.as_pointer())
        pair = builder.cmpxchg(pointer, args[1], args[2], "acq_rel", "acquire")
        return builder.zext(builder.extract_value(pair, 1), _I64)

    return types.int64(types.int64, types.int64, types.int64), codegen


@intrinsic
def flush_denormals(typingctx):
    """`flush_denormals()`: from now on this thread takes numbers too small for full precision as zero, at full speed.

    Returns what `restore_denormals` takes to end that.
    """

    def codegen(context, builder, sig, args):
        old = _read_float_mode(builder)
        _write_float_mode(builder, builder.or_(old, _I64(_FLUSH)))
        return old

    return types.int64(), codegen


@intrinsic
def restore_denormals(typingctx, mode):
    """`restore_denormals(mode)`: as it was before `flush_denormals` gave `mode`."""

    def codegen(context, builder, sig, args):
        _write_float_mode(builder, args[0])
        return context.get_dummy_value()

    return types.void(types.int64), codegen


_X86 = platform.machine().lower() in ("x86_64", "amd64")
_ARM = platform.machine().lower() in ("arm64", "aarch64")
_FLUSH = 0x8040 if _X86 else 1 << 24  # MXCSR: flush to zero, denormals are zero; FPCR: flush to zero


def _read_float_mode(builder):
    if _X86:
        place = _call_float_mode(builder, "llvm.x86.sse.stmxcsr", None)
        return builder.zext(builder.load(place), _I64)
    return builder.asm(ir.FunctionType(_I64, []), "mrs $0, fpcr", "=r", [], True) if _ARM else _I64(0)


def _write_float_mode(builder, mode):
    if _X86:
        _call_float_mode(builder, "llvm.x86.sse.ldmxcsr", builder.trunc(mode, _I32))
    elif _ARM:
        builder.asm(ir.FunctionType(ir.VoidType(), [_I64]), "msr fpcr, $0", "r", [mode], True)


def _call_float_mode(builder, name, value):
    place = cgutils.alloca_once(builder, _I32)
    if value is not None:
        builder.store(value, place)
    byte = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [byte]), name)
    builder.call(function, [builder.bitcast(place, byte)])
    return place


@intrinsic
def call_void(typingctx, address, argument):
    """`call_void(address, argument)`: call `void f(void *)`, for example a C library's release function."""

    def codegen(context, builder, sig, args):
        builder.call(_function(builder, args[0], ir.VoidType(), _I64), [args[1]])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), codegen


@intrinsic
def call_int(typingctx, address, arguments):
    """`call_int(address, arguments)`: call `int f(...)` with a tuple of int64, pointers among them; its result.

    Narrower integers go the same way: they are passed in registers or places of 8 bytes, on x86-64 as on 64-bit ARM Linux.
    """

    def codegen(context, builder, sig, args):
        values = cgutils.unpack_tuple(builder, args[1])
        return builder.sext(builder.call(_function(builder, args[0], _I32, *[_I64] * len(values)), values), _I64)

    return types.int64(types.int64, arguments), codegen


@intrinsic
def ort_run(typingctx, run, session, options, names_in, values_in, count_in, names_out, count_out, values_out):
    """`OrtApi::Run` by address, `options` 0 for none; returns the OrtStatus pointer, 0 when all went well."""

    def codegen(context, builder, sig, args):
        # (session, run_options, input_names, inputs, input_len, output_names, output_names_len, outputs)
        return builder.call(_function(builder, args[0], _I64, *[_I64] * 8), args[1:])

    return types.int64(*[types.int64] * 9), codegen


@intrinsic
def pointer(typingctx, address):
    """`pointer(address)`: an address as a pointer, for `carray`."""

    def codegen(context, builder, sig, args):
        return builder.inttoptr(args[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


@njit(cache=True)
def flush():  # type: ignore[no-untyped-def]
    """`flush_denormals` for Python: from now on, in this thread; give the result to `restore`."""
    return flush_denormals()


@njit(cache=True)
def restore(mode):  # type: ignore[no-untyped-def]
    """`restore_denormals` for Python."""
    restore_denormals(mode)
