"""ONNX Runtime behind one `step()`: the network, one hop at a time, with its LSTM state kept between hops.

`NativeNetwork` calls the C API of the wheel's own `libonnxruntime` (a versioned, append-only table of functions) so that a
step can run inside a Numba function: no GIL, no Python object. Tensors are made once; two state sets take turns (ping-pong),
so a step that fails leaves the state it started from intact. `SessionNetwork` does the same with `InferenceSession.run`: the
reference that tests compare with bit by bit, and the fallback where a wheel has no C library.

On CUDA the state tensors live on the device and never leave it; mag and mask cross each hop. This module knows tensors, not
audio.
"""

from __future__ import annotations

import ctypes as C
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import onnxruntime
from numba import njit
from numpy.typing import NDArray

from . import native, ortapi
from .model import INPUTS, OUTPUTS, Model
from .ortapi import Api, OrtError, append_cuda, reason

PROVIDERS = ("auto", "cpu", "cuda")

# Silence decays through the LSTM into denormal numbers, which cost a CPU a hundred times more. ONNX Runtime takes this from
# the first session of a process only, and sets it for the thread that makes it and those it starts later.
_CONFIG = {"session.set_denormal_as_zero": "1"}
# On the GPU a node that fell back to the CPU would copy back and forth every hop: refuse it.
_CUDA_CONFIG = {"session.disable_cpu_ep_fallback": "1"}


class Network(Protocol):
    """One hop of the network: fill `mag`, call `step()`, read `mask`.

    mag, mask : float32 [shape=(streams, 1, n_bins)], [shape=(streams, 1, sources, n_bins)]
    """

    provider: str
    mag: NDArray[np.float32]
    mask: NDArray[np.float32]

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""

    def reset(self) -> None:
        """Start again from a zero state."""

    @property
    def error(self) -> str | None:
        """What the first failed step since `reset` said."""


# --------------------------------------------------------------------------------------------------------- the reference


class SessionNetwork:
    """The network through `InferenceSession.run`, on the CPU."""

    provider = "cpu"

    def __init__(self, model: Model, streams: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        for key, value in _CONFIG.items():
            options.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
        shapes = model.contract.shapes(streams)
        self.mag = np.zeros(shapes["mag"], np.float32)
        self.mask = np.zeros(shapes["mask"], np.float32)
        self._zero = np.zeros(shapes["h"], np.float32)
        self.reset()

    def reset(self) -> None:
        """Start again from a zero state."""
        self.h = self.c = self._zero
        self.error: str | None = None

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""
        try:
            mask, self.h, self.c = self._session.run(OUTPUTS, {"mag": self.mag, "h": self.h, "c": self.c})
        except Exception as error:  # the runtime's exceptions share no base class of their own
            self.error = self.error or str(error)
            return False
        self.mask[:] = mask
        return True


# ------------------------------------------------------------------------------------------------------------ the C path


class Step(NamedTuple):
    """What compiled code needs to run the network: addresses, and arrays of addresses.

    turn : int64 [shape=(1,)]        which row of `values` comes next: 0 A to B, 1 B to A, 2 zeros to A (after a reset)
    values : int64 [shape=(3, 2, 3)] OrtValue pointers: turn, inputs or outputs, tensor
    failure : int64 [shape=(1,)]     the OrtStatus of the first failed step, 0 if none
    """

    run: int
    release_status: int
    session: int
    names_in: int
    names_out: int
    turn: NDArray[np.int64]
    values: NDArray[np.int64]
    failure: NDArray[np.int64]


FROM_ZERO = 2


@njit(nogil=True, cache=True)
def step(s):  # type: ignore[no-untyped-def]
    """Run one hop of `s`, a `Step`; True when it went well. A failed step keeps the state it started from."""
    turn = s.turn[0]
    status = native.ort_run(
        s.run,
        s.session,
        s.names_in,
        s.values[turn, 0].ctypes.data,
        3,
        s.names_out,
        3,
        s.values[turn, 1].ctypes.data,
    )
    if status == 0:
        s.turn[0] = 1 if turn == 0 else 0
        return True
    if s.failure[0] == 0:
        s.failure[0] = status
    else:
        native.call_void(s.release_status, status)
    return False


class NativeNetwork:
    """The network through the C API; `compiled` is what Numba functions take.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    def __init__(self, model: Model, streams: int = 1, provider: str = "cpu") -> None:
        self._api = api = Api.get()
        self.provider = provider
        self._handles: list[tuple[int, C.c_void_p]] = []  # (release function, handle), in order of making
        try:
            session = self._session(model.path)
            shapes = model.contract.shapes(streams)
            self.mag = np.zeros(shapes["mag"], np.float32)
            self.mask = np.zeros(shapes["mask"], np.float32)
            zero = np.zeros(shapes["h"], np.float32)
            state = [[self._state(session, shapes["h"]) for _ in "hc"] for _ in "AB"]
            self._keep = zero, state
            cpu = self._own(ortapi.RELEASE_MEMORY_INFO, api.make(ortapi.CREATE_CPU_MEMORY_INFO, C.c_int(0), C.c_int(0)))
            mag, mask, from_zero = (self._tensor(cpu, a) for a in (self.mag, self.mask, zero))
            a, b = ([self._value(cpu, s) for s in pair] for pair in state)
        except BaseException:
            self.close()
            raise
        self._names = [(C.c_char_p * 3)(*[n.encode() for n in names]) for names in (INPUTS, OUTPUTS)]
        values = np.array(
            [[[mag, *a], [mask, *b]], [[mag, *b], [mask, *a]], [[mag, from_zero, from_zero], [mask, *a]]],
            np.int64,
        )
        self.compiled = Step(
            api.table[ortapi.RUN] or 0,
            api.table[ortapi.RELEASE_STATUS] or 0,
            session.value or 0,
            C.addressof(self._names[0]),
            C.addressof(self._names[1]),
            np.full(1, FROM_ZERO, np.int64),
            values,
            np.zeros(1, np.int64),
        )

    def _own(self, release: int, handle: C.c_void_p) -> C.c_void_p:
        self._handles.append((release, handle))
        return handle

    def _session(self, path: Path) -> C.c_void_p:
        api = self._api
        options = api.make(ortapi.CREATE_SESSION_OPTIONS)
        try:
            # One thread beats two for one stream, and never waits for a core that something else has.
            api.call(ortapi.SET_INTRA_OP_NUM_THREADS, options, C.c_int(1))
            api.call(ortapi.SET_INTER_OP_NUM_THREADS, options, C.c_int(1))
            for key, value in (_CONFIG | (_CUDA_CONFIG if self.provider == "cuda" else {})).items():
                api.call(ortapi.ADD_SESSION_CONFIG_ENTRY, options, C.c_char_p(key.encode()), C.c_char_p(value.encode()))
            if self.provider == "cuda":
                append_cuda(api, options)
            # On Windows the path would be wide characters; the C path is POSIX only.
            return self._own(ortapi.RELEASE_SESSION, api.make(ortapi.CREATE_SESSION, api.env, C.c_char_p(bytes(path)), options))
        finally:
            api.release(ortapi.RELEASE_SESSION_OPTIONS, options)

    def _state(self, session: C.c_void_p, shape: tuple[int, ...]) -> NDArray[np.float32] | C.c_void_p:
        """A state tensor: an array on the CPU, an OrtValue in the device's memory on CUDA."""
        if self.provider != "cuda":
            return np.zeros(shape, np.float32)
        api = self._api
        where = (C.c_char_p(b"Cuda"), C.c_int(ortapi.DEVICE_ALLOCATOR), C.c_int(0), C.c_int(ortapi.DEFAULT_MEMORY))
        info = self._own(ortapi.RELEASE_MEMORY_INFO, api.make(ortapi.CREATE_MEMORY_INFO, *where))
        allocator = self._own(ortapi.RELEASE_ALLOCATOR, api.make(ortapi.CREATE_ALLOCATOR, session, info))
        dimensions = (C.c_int64 * len(shape))(*shape)
        tensor = api.make(ortapi.CREATE_TENSOR, allocator, dimensions, C.c_size_t(len(shape)), C.c_int(ortapi.FLOAT))
        return self._own(ortapi.RELEASE_VALUE, tensor)

    def _value(self, cpu: C.c_void_p, state: NDArray[np.float32] | C.c_void_p) -> int:
        return self._tensor(cpu, state) if isinstance(state, np.ndarray) else state.value or 0

    def _tensor(self, cpu: C.c_void_p, array: NDArray[np.float32]) -> int:
        """An OrtValue over `array`'s own memory, which must outlive it."""
        shape = (C.c_int64 * array.ndim)(*array.shape)
        data, size = C.c_void_p(array.ctypes.data), C.c_size_t(array.nbytes)
        value = self._api.make(
            ortapi.CREATE_TENSOR_WITH_DATA, cpu, data, size, shape, C.c_size_t(array.ndim), C.c_int(ortapi.FLOAT)
        )
        return self._own(ortapi.RELEASE_VALUE, value).value or 0

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""
        return step(self.compiled)

    def reset(self) -> None:
        """Start again from a zero state."""
        self.compiled.turn[0] = FROM_ZERO
        if failure := int(self.compiled.failure[0]):
            self.compiled.failure[0] = 0
            self._api.release(ortapi.RELEASE_STATUS, failure)

    @property
    def error(self) -> str | None:
        """What the first failed step since `reset` said."""
        failure = int(self.compiled.failure[0])
        return self._api.message(failure) if failure else None

    def close(self) -> None:
        """Give everything back, last made first. Must not be called while a step runs."""
        while self._handles:
            self._api.release(*self._handles.pop())

    def __del__(self) -> None:
        if hasattr(self, "_handles"):
            self.close()


# ----------------------------------------------------------------------------------------------------------------- choice


def open_network(
    model: Model, provider: str = "auto", use_c_api: bool = True
) -> tuple[NativeNetwork | SessionNetwork, list[str]]:
    """The best network that runs here, and why a better one does not.

    `auto` takes CUDA where it works, else the CPU. int8 models are for the CPU: CUDA has no `DynamicQuantizeLSTM`.

    Raises
    ------
    OrtError
        `provider="cuda"` was asked for and does not work here.
    ValueError
        `provider` is none of `PROVIDERS`.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"provider={provider!r} is unknown: expected one of {', '.join(PROVIDERS)}")
    reasons: list[str] = []
    for candidate in ("cuda", "cpu") if provider == "auto" else (provider,):
        if candidate == "cuda" and model.contract.precision == "int8":
            reasons.append("cuda: an int8 model runs on the CPU; export fp32 or fp16 for the GPU")
            continue
        if not use_c_api:
            reasons.append("C API: switched off")
            break
        try:
            return NativeNetwork(model, provider=candidate), reasons
        except OrtError as error:
            reasons.append(f"{candidate}: {reason(error)}")
    if provider == "cuda":
        raise OrtError(f"provider 'cuda' does not work here ({'; '.join(reasons)}): use --provider cpu or auto")
    return SessionNetwork(model), reasons
