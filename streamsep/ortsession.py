"""A session of ONNX Runtime's C API with all that was made for it, given back together.

It knows handles, tensors over memory of ours, and what stands in the options; not what the network is for.
"""

from __future__ import annotations

import ctypes as C
import sys
from pathlib import Path

import numpy as np
from numba import njit
from numpy.typing import NDArray

from . import native, ortapi
from .model import INPUTS, OUTPUTS
from .ortapi import Api, append_cuda

# Silence decays through the LSTM into denormal numbers, which cost a CPU a hundred times more. ONNX Runtime takes this from
# the first session of a process only, and sets it for the thread that makes it and those it starts later.
CONFIG = {"session.set_denormal_as_zero": "1"}
# On the GPU a node that fell back to the CPU would copy back and forth every hop: refuse it.
_CUDA_CONFIG = {"session.disable_cpu_ep_fallback": "1"}


@njit(nogil=True, cache=True)
def run(s, inputs, outputs):  # type: ignore[no-untyped-def]
    """Run the network of `s`, which has the fields of `Session.call`; whether it went well.

    inputs, outputs : int64 [shape=(3,)], OrtValue pointers in the order of `model.INPUTS` and `model.OUTPUTS`
    """
    status = native.ort_run(
        s.run, s.session, s.names_in, inputs.ctypes.data, inputs.size, s.names_out, outputs.size, outputs.ctypes.data
    )
    if status == 0:
        return True
    if s.failure[0] == 0:
        s.failure[0] = status
    else:
        native.call_void(s.release_status, status)
    return False


class Session:
    """One session of the model at `path`.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    def __init__(self, path: Path, provider: str) -> None:
        self.api = api = Api.get()
        self.provider = provider
        self._handles: list[tuple[int, C.c_void_p]] = []  # (release function, handle), in order of making
        self._failure = np.zeros(1, np.int64)
        self._names = [(C.c_char_p * 3)(*[n.encode() for n in names]) for names in (INPUTS, OUTPUTS)]
        self._session = self._make_session(path)
        self._cpu = self.own(ortapi.RELEASE_MEMORY_INFO, api.make(ortapi.CREATE_CPU_MEMORY_INFO, C.c_int(0), C.c_int(0)))

    def call(self) -> dict[str, object]:
        """The fields that `run` looks for: addresses, and where the status of the first failed step goes (0: none)."""
        return {
            "run": self.api.table[ortapi.RUN] or 0,
            "release_status": self.api.table[ortapi.RELEASE_STATUS] or 0,
            "session": self._session.value or 0,
            "names_in": C.addressof(self._names[0]),
            "names_out": C.addressof(self._names[1]),
            "failure": self._failure,
        }

    def own(self, release: int, handle: C.c_void_p) -> C.c_void_p:
        """Give `handle` back by the function `release` when this session closes."""
        self._handles.append((release, handle))
        return handle

    def _make_session(self, path: Path) -> C.c_void_p:
        api = self.api
        options = api.make(ortapi.CREATE_SESSION_OPTIONS)
        try:
            # One thread beats two for one stream, and never waits for a core that something else has.
            api.call(ortapi.SET_INTRA_OP_NUM_THREADS, options, C.c_int(1))
            api.call(ortapi.SET_INTER_OP_NUM_THREADS, options, C.c_int(1))
            for key, value in (CONFIG | (_CUDA_CONFIG if self.provider == "cuda" else {})).items():
                api.call(ortapi.ADD_SESSION_CONFIG_ENTRY, options, C.c_char_p(key.encode()), C.c_char_p(value.encode()))
            if self.provider == "cuda":
                append_cuda(api, options)
            # On Windows the path would be wide characters; the C path is POSIX only.
            return self.own(ortapi.RELEASE_SESSION, api.make(ortapi.CREATE_SESSION, api.env, C.c_char_p(bytes(path)), options))
        finally:
            api.release(ortapi.RELEASE_SESSION_OPTIONS, options)

    def on_device(self, shape: tuple[int, ...]) -> int:
        """A float32 tensor in the CUDA device's memory: its OrtValue."""
        return self._allocated(shape, b"Cuda", ortapi.DEFAULT_MEMORY)[0].value or 0

    def memory(self, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """Zeros that the provider reads fast: pinned for CUDA, which copies from there without another copy of its own."""
        if self.provider != "cuda":
            return np.zeros(shape, np.float32)
        value, self._cpu = self._allocated(shape, b"CudaPinned", ortapi.CPU_OUTPUT_MEMORY)
        array = self.view(value, shape)
        array[:] = 0
        return array

    def view(self, value: C.c_void_p, shape: tuple[int, ...]) -> NDArray[np.float32]:
        """The memory of a float32 tensor that this side can read; it goes with the session."""
        data = self.api.make(ortapi.GET_TENSOR_MUTABLE_DATA, value)
        return np.ctypeslib.as_array(C.cast(data, C.POINTER(C.c_float)), shape)

    def _allocated(self, shape: tuple[int, ...], where: bytes, kind: int) -> tuple[C.c_void_p, C.c_void_p]:
        """A tensor in memory of the session's own allocator `where`, and what describes that memory."""
        api = self.api
        place = (C.c_char_p(where), C.c_int(ortapi.DEVICE_ALLOCATOR), C.c_int(0), C.c_int(kind))
        info = self.own(ortapi.RELEASE_MEMORY_INFO, api.make(ortapi.CREATE_MEMORY_INFO, *place))
        allocator = self.own(ortapi.RELEASE_ALLOCATOR, api.make(ortapi.CREATE_ALLOCATOR, self._session, info))
        dimensions = (C.c_int64 * len(shape))(*shape)
        tensor = api.make(ortapi.CREATE_TENSOR, allocator, dimensions, C.c_size_t(len(shape)), C.c_int(ortapi.FLOAT))
        return self.own(ortapi.RELEASE_VALUE, tensor), info

    def tensor(self, array: NDArray[np.float32], shape: tuple[int, ...] | None = None) -> int:
        """An OrtValue of `shape` (the array's) over the first of `array`'s own memory, which must outlive it."""
        shape = shape or array.shape
        dimensions = (C.c_int64 * len(shape))(*shape)
        data, size = C.c_void_p(array.ctypes.data), C.c_size_t(4 * int(np.prod(shape)))
        rank, kind = C.c_size_t(len(shape)), C.c_int(ortapi.FLOAT)
        value = self.api.make(ortapi.CREATE_TENSOR_WITH_DATA, self._cpu, data, size, dimensions, rank, kind)
        return self.own(ortapi.RELEASE_VALUE, value).value or 0

    def forgive(self) -> None:
        """Forget the first failure."""
        if failure := int(self._failure[0]):
            self._failure[0] = 0
            self.api.release(ortapi.RELEASE_STATUS, failure)

    @property
    def error(self) -> str | None:
        """What the first failed step since `forgive` said."""
        failure = int(self._failure[0])
        return self.api.message(failure) if failure else None

    def close(self) -> None:
        """Give everything back, last made first. Must not be called while a step runs."""
        while self._handles:
            self.api.release(*self._handles.pop())

    def __del__(self) -> None:
        if hasattr(self, "_handles") and not sys.is_finalizing():  # at the very end the library goes by itself
            self.close()
