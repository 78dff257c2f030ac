"""The CUDA runtime beside ONNX Runtime: one stream, fixed memory at both ends, and copies between them from compiled code.

A hop's input and output have to cross the bus. Left to ONNX Runtime they would be copied through memory that it takes anew each
time, which a captured CUDA graph does not see (onnxruntime #29782: it goes on reading what it read when it was captured). So
there is one place for each tensor on the device and one in pinned host memory, for good, and the copies are queued on the
stream that ONNX Runtime computes on (`user_compute_stream`): copy in, run, copy out, and one wait at the end.

Its functions are called by address, like those of ONNX Runtime (`native.call_int`). `cudaMemcpyAsync` and not ONNX Runtime's
own `CopyTensors`: that came with 1.23, and is for devices that a provider library has registered.

This module knows memory and streams; it does not know networks.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import importlib.util
import io
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from numba import njit
from numpy.typing import NDArray

from . import native
from .ortapi import OrtError

_TO_DEVICE, _TO_HOST, _ON_DEVICE = 1, 2, 3  # cudaMemcpyKind
_NON_BLOCKING = 1  # a stream that does not wait for the default stream
_FLOAT = 4  # bytes


class Runtime(NamedTuple):
    """What compiled code needs: the stream, and addresses of functions. A `stream` of 0: tensors lie in memory of ours."""

    stream: int
    copy: int  # cudaMemcpyAsync
    copy_rows: int  # cudaMemcpy2DAsync
    clear_rows: int  # cudaMemset2DAsync
    wait: int  # cudaStreamSynchronize


NOWHERE = Runtime(0, 0, 0, 0, 0)


class Crossing(NamedTuple):
    """A tensor's two places, and its size in bytes."""

    host: int
    device: int
    size: int


# ---------------------------------------------------------------------------------------------------------- compiled path


@njit(nogil=True, cache=True)
def send(r, tensor, failure):  # type: ignore[no-untyped-def]
    """Queue the copy of `tensor`, a `Crossing`, to the device; whether that went well (see `went_well`)."""
    return went_well(native.call_int(r.copy, (tensor.device, tensor.host, tensor.size, _TO_DEVICE, r.stream)), failure)


@njit(nogil=True, cache=True)
def fetch(r, tensor, failure):  # type: ignore[no-untyped-def]
    """Copy `tensor` to the host, and wait until all that was queued is done."""
    queued = native.call_int(r.copy, (tensor.host, tensor.device, tensor.size, _TO_HOST, r.stream))
    return went_well(queued, failure) and wait(r, failure)


@njit(nogil=True, cache=True)
def wait(r, failure):  # type: ignore[no-untyped-def]
    """Wait until all that was queued is done; errors of the device show here."""
    return went_well(native.call_int(r.wait, (r.stream,)), failure)


@njit(nogil=True, cache=True)
def copy_rows(r, target, source, pitch, width, rows, failure):  # type: ignore[no-untyped-def]
    """Queue the copy of `width` bytes of each of `rows` rows, `pitch` bytes apart, from one place on the device to another."""
    arguments = (target, pitch, source, pitch, width, rows, _ON_DEVICE, r.stream)
    return went_well(native.call_int(r.copy_rows, arguments), failure)


@njit(nogil=True, cache=True)
def clear_rows(r, target, pitch, width, rows, failure):  # type: ignore[no-untyped-def]
    """Queue zeros for `width` bytes of each of `rows` rows, `pitch` bytes apart."""
    return went_well(native.call_int(r.clear_rows, (target, pitch, 0, width, rows, r.stream)), failure)


@njit(nogil=True, cache=True)
def went_well(code, failure):  # type: ignore[no-untyped-def]
    """Whether `code` is cudaSuccess; else it is put, negative, into `failure` `[shape=(1,)]` unless something is there."""
    if code != 0 and failure[0] == 0:
        failure[0] = -code
    return code == 0


# ------------------------------------------------------------------------------------------------------------- the object


class Device:
    """A stream on the first CUDA device, and memory that stays where it is until `close`.

    Raises
    ------
    OrtError
        no driver, no runtime library, or no device.
    """

    memory_name = b"Cuda"  # to ONNX Runtime
    runtime: Runtime

    def __init__(self) -> None:
        self._library = library()
        self._memory: list[tuple[str, C.c_void_p]] = []  # (function that gives it back, where it is)
        stream = C.c_void_p()
        self._call("cudaStreamCreateWithFlags", C.byref(stream), C.c_uint(_NON_BLOCKING))
        self._memory.append(("cudaStreamDestroy", stream))
        self.runtime = Runtime(
            stream.value or 0,
            *map(self._address, ("cudaMemcpyAsync", "cudaMemcpy2DAsync", "cudaMemset2DAsync", "cudaStreamSynchronize")),
        )

    def _address(self, name: str) -> int:
        return C.cast(getattr(self._library, name), C.c_void_p).value or 0

    def _call(self, name: str, *arguments: object) -> None:
        if code := getattr(self._library, name)(*arguments):
            raise OrtError(f"{name}: {self.message(code)}")

    def message(self, code: int) -> str:
        """What one of the runtime's error codes means."""
        say = self._library.cudaGetErrorString
        say.restype, say.argtypes = C.c_char_p, [C.c_int]
        return f"CUDA error {code}: {say(code).decode(errors='replace')}"

    def on_device(self, shape: tuple[int, ...]) -> int:
        """The address of float32 zeros on the device."""
        size = _FLOAT * int(np.prod(shape))
        place = self._allocate("cudaMalloc", "cudaFree", size)
        self._call("cudaMemset", place, C.c_int(0), C.c_size_t(size))
        self._call("cudaDeviceSynchronize")
        return place.value or 0

    def on_host(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Zeros in pinned memory, which the device reads and writes without another copy; they go with this object."""
        place = self._allocate("cudaMallocHost", "cudaFreeHost", _FLOAT * int(np.prod(shape)))
        array = np.ctypeslib.as_array(C.cast(place, C.POINTER(C.c_float)), shape)
        array[:] = 0
        return array

    def _allocate(self, take: str, give_back: str, size: int) -> C.c_void_p:
        place = C.c_void_p()
        self._call(take, C.byref(place), C.c_size_t(size))
        self._memory.append((give_back, place))
        return place

    def twin(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], Crossing]:
        """Zeros in pinned memory with a place of the same size on the device."""
        array = self.on_host(shape)
        return array, Crossing(array.ctypes.data, self.on_device(shape), array.nbytes)

    def close(self) -> None:
        """Give everything back, the stream last. Sessions that compute on it must be closed before."""
        while self._memory:
            function, place = self._memory.pop()
            getattr(self._library, function)(place)  # nothing could be done about an error


def options(device: Device, graphs: bool) -> dict[str, str]:
    """What ONNX Runtime's CUDA provider is told.

    float32 is computed as float32: TF32's 10 bits would move masks by more than parity allows, and one stream's step waits for
    memory, not for arithmetic. With `graphs`, runs that carry a number (`ortsession.Session.options`) are captured.
    """
    return {
        "device_id": "0",
        "use_tf32": "0",
        "has_user_compute_stream": "1",
        "user_compute_stream": str(device.runtime.stream),
        "enable_cuda_graph": str(int(graphs)),
    }


# ------------------------------------------------------------------------------------------------------------ the libraries


def library() -> C.CDLL:
    """The CUDA runtime that ONNX Runtime's provider is linked with; the provider's other libraries are loaded, too.

    Raises
    ------
    OrtError
        the driver or the library is missing, or this onnxruntime was built without CUDA.
    """
    try:
        C.CDLL("libcuda.so.1")
    except OSError as error:
        raise OrtError("no NVIDIA driver on this machine (libcuda.so.1)") from error
    version = getattr(onnxruntime, "cuda_version", "")
    if not version:
        raise OrtError("this onnxruntime knows no CUDA: install streamsep's extra `cuda`")
    os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # see `options`; cuDNN's LSTM is asked this way only
    _preload()
    name = f"libcudart.so.{version.partition('.')[0]}"
    try:
        return C.CDLL(name)
    except OSError as error:
        raise OrtError(f"{name} is missing: install streamsep's extra `cuda`") from error


def _preload() -> None:
    """Load the CUDA and cuDNN libraries of NVIDIA's wheels, wherever on the path of modules those lie.

    `preload_dlls` looks beside onnxruntime only; it prints what it misses, but the provider will say so, too.
    """
    found = importlib.util.find_spec("nvidia")
    folders = [f for place in (found and found.submodule_search_locations) or () for f in sorted(Path(place).glob("*/lib"))]
    with contextlib.redirect_stdout(io.StringIO()):
        for folder in folders:
            onnxruntime.preload_dlls(directory=str(folder))
        onnxruntime.preload_dlls()
