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

from . import cuda, native, ortapi
from .cuda import Device
from .hugepages import huge_pages
from .model import Model
from .ortapi import Api, OrtError

# Silence decays through the LSTM into denormal numbers, which cost a CPU a hundred times more. ONNX Runtime takes this from
# the first session of a process only, and sets it for the thread that makes it and those it starts later.
CONFIG = {"session.set_denormal_as_zero": "1"}
# On the GPU a node that fell back to the CPU would copy back and forth every hop: refuse it.
_CUDA_CONFIG = {"session.disable_cpu_ep_fallback": "1"}


@njit(nogil=True, cache=True)
def run(s, options, inputs, outputs):  # type: ignore[no-untyped-def]
    """Run the network of `s`, which has the fields of `Session.call`; whether it went well.

    options : an OrtRunOptions pointer, 0 for none
    inputs, outputs : int64 [shape=(3,)], OrtValue pointers in the order of `Contract.inputs` and `Contract.outputs`
    """
    status = native.ort_run(
        s.run, s.session, options, s.names_in, inputs.ctypes.data, inputs.size, s.names_out, outputs.size, outputs.ctypes.data
    )
    if status == 0:
        return True
    if s.failure[0] == 0:
        s.failure[0] = status
    else:
        native.call_void(s.release_status, status)
    return False


def why_no_cuda() -> str | None:
    """Why ONNX Runtime cannot use a GPU here; None if nothing stands against it that shows without a network."""
    try:
        api, device = Api.get(), Device()
        options = api.make(ortapi.CREATE_SESSION_OPTIONS)
        try:
            ortapi.append_cuda(api, options, cuda.options(device, graphs=False))
        finally:
            api.release(ortapi.RELEASE_SESSION_OPTIONS, options)
            device.close()
    except OrtError as error:
        return ortapi.reason(error)
    return None


class Session:
    """One session of `model`.

    Parameters
    ----------
    device
        where tensors lie that `on_device` makes, and what copies to and from there; made here for "cuda".

    Attributes
    ----------
    graphs : bool
        whether runs can be captured as CUDA graphs (see `options`).
    notes : list of str
        why they cannot, where that was to be expected.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    def __init__(self, model: Model, provider: str, device: Device | None = None) -> None:
        self.api = api = Api.get()
        self.provider = provider
        self.notes: list[str] = []
        self.device = device or (Device() if provider == "cuda" else None)
        self._handles: list[tuple[int, C.c_void_p]] = []  # (release function, handle), in order of making
        self._failure = np.zeros(1, np.int64)
        contract = model.contract
        self._names = [(C.c_char_p * 3)(*[n.encode() for n in names]) for names in (contract.inputs, contract.outputs)]
        with huge_pages():  # the weights, packed for the kernels
            self._session = self._open(model.path)
        self._cpu = self.own(ortapi.RELEASE_MEMORY_INFO, api.make(ortapi.CREATE_CPU_MEMORY_INFO, C.c_int(0), C.c_int(0)))
        if self.device:
            place = (C.c_char_p(self.device.memory_name), C.c_int(ortapi.DEVICE_ALLOCATOR), C.c_int(0), C.c_int(0))
            self._there = self.own(ortapi.RELEASE_MEMORY_INFO, api.make(ortapi.CREATE_MEMORY_INFO, *place))

    def call(self) -> dict[str, object]:
        """The fields that `run` looks for: addresses, and where the first failure goes.

        That is 0 for none, the OrtStatus of a failed run, or the negative of a CUDA error (`cuda.went_well`).
        """
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

    def _open(self, path: Path) -> C.c_void_p:
        """The session; with CUDA graphs where its provider and its graph allow them."""
        self.graphs = self.provider == "cuda"
        if not self.graphs:
            return self._make_session(path)
        try:
            return self._make_session(path)
        except OrtError as error:
            self.graphs = False
            session = self._make_session(path)  # fails for the same reason where that was not the graphs' fault
            self.notes.append(f"cuda: no CUDA graph: {ortapi.reason(error)}")
            return session

    def _make_session(self, path: Path) -> C.c_void_p:
        api = self.api
        options = api.make(ortapi.CREATE_SESSION_OPTIONS)
        try:
            # One thread beats two for one stream, and never waits for a core that something else has.
            api.call(ortapi.SET_INTRA_OP_NUM_THREADS, options, C.c_int(1))
            api.call(ortapi.SET_INTER_OP_NUM_THREADS, options, C.c_int(1))
            for key, value in (CONFIG | (_CUDA_CONFIG if self.provider == "cuda" else {})).items():
                api.call(ortapi.ADD_SESSION_CONFIG_ENTRY, options, C.c_char_p(key.encode()), C.c_char_p(value.encode()))
            if self.provider == "cuda" and self.device:
                ortapi.append_cuda(api, options, cuda.options(self.device, self.graphs))
            # On Windows the path would be wide characters; the C path is POSIX only.
            return self.own(ortapi.RELEASE_SESSION, api.make(ortapi.CREATE_SESSION, api.env, C.c_char_p(bytes(path)), options))
        finally:
            api.release(ortapi.RELEASE_SESSION_OPTIONS, options)

    def options(self, graph: int = -1) -> int:
        """An OrtRunOptions for runs that are captured and replayed as the CUDA graph of this number, 1 or more; -1: never.

        The run does not wait for the device; `cuda.fetch` does. Providers that know neither take no notice.
        """
        options = self.own(ortapi.RELEASE_RUN_OPTIONS, self.api.make(ortapi.CREATE_RUN_OPTIONS))
        for key, value in (("gpu_graph_id", str(graph)), ("disable_synchronize_execution_providers", "1")):
            self.api.call(ortapi.ADD_RUN_CONFIG_ENTRY, options, C.c_char_p(key.encode()), C.c_char_p(value.encode()))
        return options.value or 0

    def tensor(self, array: NDArray[np.float32], shape: tuple[int, ...] | None = None) -> int:
        """An OrtValue of `shape` (the array's) over the first of `array`'s own memory, which must outlive it."""
        return self._tensor(self._cpu, array.ctypes.data, shape or array.shape)

    def tensor_there(self, address: int, shape: tuple[int, ...]) -> int:
        """An OrtValue over memory of `device`."""
        return self._tensor(self._there, address, shape)

    def _tensor(self, place: C.c_void_p, address: int, shape: tuple[int, ...]) -> int:
        dimensions = (C.c_int64 * len(shape))(*shape)
        data, size = C.c_void_p(address), C.c_size_t(4 * int(np.prod(shape)))
        rank, kind = C.c_size_t(len(shape)), C.c_int(ortapi.FLOAT)
        value = self.api.make(ortapi.CREATE_TENSOR_WITH_DATA, place, data, size, dimensions, rank, kind)
        return self.own(ortapi.RELEASE_VALUE, value).value or 0

    def forgive(self) -> None:
        """Forget the first failure."""
        failure, self._failure[0] = int(self._failure[0]), 0
        if failure > 0:
            self.api.release(ortapi.RELEASE_STATUS, failure)

    @property
    def error(self) -> str | None:
        """What the first failure since `forgive` said."""
        failure = int(self._failure[0])
        if failure < 0 and self.device:
            return self.device.message(-failure)
        return self.api.message(failure) if failure else None

    def fail_at_once(self) -> None:
        """Raise OrtError: a first run failed. What is missing on a device, cuDNN for example, shows no sooner."""
        why = self.error
        self.close()
        raise OrtError(f"the network's first run failed: {why}")

    def close(self) -> None:
        """Give everything back, last made first. Must not be called while a step runs."""
        while self._handles:
            self.api.release(*self._handles.pop())
        if self.device:
            self.device.close()

    def __del__(self) -> None:
        if hasattr(self, "_handles") and not sys.is_finalizing():  # at the very end the library goes by itself
            self.close()
