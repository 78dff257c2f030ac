"""ONNX Runtime behind one `step()`: the network, one hop at a time, with its LSTM state kept between hops.

`NativeNetwork` calls the C API of the wheel's own `libonnxruntime` (a versioned, append-only table of functions) so that a
step can run inside a Numba function: no GIL, no Python object. Tensors are made once; two state sets take turns (ping-pong),
so a step that fails leaves the state it started from intact. `SessionNetwork` does the same with `InferenceSession.run`: the
reference that tests compare with bit by bit, and the fallback where a wheel has no C library.

On CUDA the state tensors live on the device and never leave it; mag and mask cross each hop. This module knows tensors, not
audio.
"""

from __future__ import annotations

import contextlib
import ctypes as C
import io
import sys
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import onnxruntime
from numba import njit
from numpy.typing import NDArray

from . import StreamsepError, native
from .model import INPUTS, OUTPUTS, Model

API_VERSION = 17
PROVIDERS = ("auto", "cpu", "cuda")

# Positions in `struct OrtApi` (onnxruntime_c_api.h).
_GET_ERROR_MESSAGE, _CREATE_ENV, _CREATE_SESSION, _RUN = 2, 3, 7, 9
_CREATE_SESSION_OPTIONS, _SET_INTRA_OP_NUM_THREADS, _SET_INTER_OP_NUM_THREADS = 10, 24, 25
_CREATE_TENSOR, _CREATE_TENSOR_WITH_DATA = 48, 49
_CREATE_MEMORY_INFO, _CREATE_CPU_MEMORY_INFO = 68, 69
_RELEASE_STATUS, _RELEASE_MEMORY_INFO, _RELEASE_SESSION, _RELEASE_VALUE, _RELEASE_SESSION_OPTIONS = 93, 94, 95, 96, 100
_ADD_SESSION_CONFIG_ENTRY, _CREATE_ALLOCATOR, _RELEASE_ALLOCATOR = 130, 131, 132
_APPEND_CUDA, _CREATE_CUDA_OPTIONS, _UPDATE_CUDA_OPTIONS, _RELEASE_CUDA_OPTIONS = 204, 205, 206, 208
_FLOAT, _DEVICE_ALLOCATOR, _DEFAULT_MEMORY = 1, 0, 0

# Silence decays through the LSTM into denormal numbers, which cost a CPU a hundred times more. ONNX Runtime takes this from
# the first session of a process only, and sets it for the thread that makes it and those it starts later.
_CONFIG = {"session.set_denormal_as_zero": "1"}
# On the GPU a node that fell back to the CPU would copy back and forth every hop: refuse it.
_CUDA_CONFIG = {"session.disable_cpu_ep_fallback": "1"}


class OrtError(StreamsepError):
    """ONNX Runtime refused something; the message is its own."""


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


class _Base(C.Structure):
    _fields_ = [("GetApi", C.CFUNCTYPE(C.c_void_p, C.c_uint32)), ("GetVersionString", C.CFUNCTYPE(C.c_char_p))]


class _Api:
    """`struct OrtApi` of the wheel's library, with one logging environment for the process."""

    _instance: _Api | None = None

    @classmethod
    def get(cls) -> _Api:
        if cls._instance is None:
            cls._instance = cls(library())
        return cls._instance

    def __init__(self, path: Path) -> None:
        try:
            self._library = C.CDLL(str(path))
        except OSError as error:
            raise OrtError(f"{path.name} cannot be loaded: {error}") from error
        self._library.OrtGetApiBase.restype = C.POINTER(_Base)
        table = self._library.OrtGetApiBase().contents.GetApi(API_VERSION)
        if not table:
            raise OrtError(
                f"{path.name} does not offer C API version {API_VERSION}: install onnxruntime 1.{API_VERSION} or newer"
            )
        self.table = C.cast(table, C.POINTER(C.c_void_p))
        # 4: fatal messages only. What goes wrong comes back as a status and is told once, in our words.
        self.env = self.make(_CREATE_ENV, C.c_int(4), C.c_char_p(b"streamsep"))

    def function(self, position: int, *argtypes: type, restype: type | None = C.c_void_p):  # type: ignore[no-untyped-def]
        return C.CFUNCTYPE(restype, *argtypes)(self.table[position])

    def check(self, status: int | None) -> None:
        if status:
            message = self.message(status)
            self.release(_RELEASE_STATUS, status)
            raise OrtError(message)

    def message(self, status: int) -> str:
        return self.function(_GET_ERROR_MESSAGE, C.c_void_p, restype=C.c_char_p)(status).decode(errors="replace")

    def call(self, position: int, *args: C._SimpleCData | C._Pointer | C.Array) -> None:
        self.check(self.function(position, *map(type, args))(*args))

    def make(self, position: int, *args: C._SimpleCData | C._Pointer | C.Array) -> C.c_void_p:
        """Call a function whose last argument is the address of the handle it makes."""
        handle = C.c_void_p()
        self.call(position, *args, C.pointer(handle))
        return handle

    def release(self, position: int, handle: C.c_void_p | int) -> None:
        self.function(position, C.c_void_p, restype=None)(handle)


def library() -> Path:
    """The wheel's `libonnxruntime`.

    Raises
    ------
    OrtError
        this wheel has none.
    """
    folder = Path(onnxruntime.__file__).parent / "capi"
    pattern = "libonnxruntime.*dylib" if sys.platform == "darwin" else "libonnxruntime.so*"
    found = sorted(folder.glob(pattern))
    if not native.AVAILABLE or not found:
        raise OrtError(f"onnxruntime {onnxruntime.__version__} brings no C library for {sys.platform}")
    return found[0]


def _append_cuda(api: _Api, options: C.c_void_p) -> None:
    """Add the CUDA provider to session options; OrtError if it cannot be had."""
    try:
        C.CDLL("libcuda.so.1")
    except OSError as error:
        raise OrtError("no NVIDIA driver on this machine (libcuda.so.1)") from error
    with contextlib.redirect_stdout(io.StringIO()):  # it prints what it misses; the status below says so too
        onnxruntime.preload_dlls()  # the CUDA and cuDNN wheels' libraries, where the `cuda` extra brought them
    cuda = api.make(_CREATE_CUDA_OPTIONS)
    try:
        keys = (C.c_char_p * 1)(b"device_id")
        values = (C.c_char_p * 1)(b"0")
        api.call(_UPDATE_CUDA_OPTIONS, cuda, keys, values, C.c_size_t(1))
        api.call(_APPEND_CUDA, options, cuda)
    finally:
        api.release(_RELEASE_CUDA_OPTIONS, cuda)


def why_no_cuda() -> str | None:
    """Why the network cannot run on a GPU here; None if nothing stands against it."""
    try:
        api = _Api.get()
        options = api.make(_CREATE_SESSION_OPTIONS)
        try:
            _append_cuda(api, options)
        finally:
            api.release(_RELEASE_SESSION_OPTIONS, options)
    except OrtError as error:
        return _reason(error)
    return None


def _reason(error: OrtError) -> str:
    """The telling end of a message that names source files of ONNX Runtime first."""
    return str(error).splitlines()[0].split("with error: ")[-1]


class NativeNetwork:
    """The network through the C API; `compiled` is what Numba functions take.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    def __init__(self, model: Model, streams: int = 1, provider: str = "cpu") -> None:
        self._api = api = _Api.get()
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
            cpu = self._own(_RELEASE_MEMORY_INFO, api.make(_CREATE_CPU_MEMORY_INFO, C.c_int(0), C.c_int(0)))
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
            api.table[_RUN] or 0,
            api.table[_RELEASE_STATUS] or 0,
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
        options = api.make(_CREATE_SESSION_OPTIONS)
        try:
            # One thread beats two for one stream, and never waits for a core that something else has.
            api.call(_SET_INTRA_OP_NUM_THREADS, options, C.c_int(1))
            api.call(_SET_INTER_OP_NUM_THREADS, options, C.c_int(1))
            for key, value in (_CONFIG | (_CUDA_CONFIG if self.provider == "cuda" else {})).items():
                api.call(_ADD_SESSION_CONFIG_ENTRY, options, C.c_char_p(key.encode()), C.c_char_p(value.encode()))
            if self.provider == "cuda":
                _append_cuda(api, options)
            # On Windows the path would be wide characters; the C path is POSIX only.
            return self._own(_RELEASE_SESSION, api.make(_CREATE_SESSION, api.env, C.c_char_p(bytes(path)), options))
        finally:
            api.release(_RELEASE_SESSION_OPTIONS, options)

    def _state(self, session: C.c_void_p, shape: tuple[int, ...]) -> NDArray[np.float32] | C.c_void_p:
        """A state tensor: an array on the CPU, an OrtValue in the device's memory on CUDA."""
        if self.provider != "cuda":
            return np.zeros(shape, np.float32)
        api = self._api
        where = (C.c_char_p(b"Cuda"), C.c_int(_DEVICE_ALLOCATOR), C.c_int(0), C.c_int(_DEFAULT_MEMORY))
        info = self._own(_RELEASE_MEMORY_INFO, api.make(_CREATE_MEMORY_INFO, *where))
        allocator = self._own(_RELEASE_ALLOCATOR, api.make(_CREATE_ALLOCATOR, session, info))
        dimensions = (C.c_int64 * len(shape))(*shape)
        tensor = api.make(_CREATE_TENSOR, allocator, dimensions, C.c_size_t(len(shape)), C.c_int(_FLOAT))
        return self._own(_RELEASE_VALUE, tensor)

    def _value(self, cpu: C.c_void_p, state: NDArray[np.float32] | C.c_void_p) -> int:
        return self._tensor(cpu, state) if isinstance(state, np.ndarray) else state.value or 0

    def _tensor(self, cpu: C.c_void_p, array: NDArray[np.float32]) -> int:
        """An OrtValue over `array`'s own memory, which must outlive it."""
        shape = (C.c_int64 * array.ndim)(*array.shape)
        data, size = C.c_void_p(array.ctypes.data), C.c_size_t(array.nbytes)
        value = self._api.make(_CREATE_TENSOR_WITH_DATA, cpu, data, size, shape, C.c_size_t(array.ndim), C.c_int(_FLOAT))
        return self._own(_RELEASE_VALUE, value).value or 0

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""
        return step(self.compiled)

    def reset(self) -> None:
        """Start again from a zero state."""
        self.compiled.turn[0] = FROM_ZERO
        if failure := int(self.compiled.failure[0]):
            self.compiled.failure[0] = 0
            self._api.release(_RELEASE_STATUS, failure)

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
            reasons.append(f"{candidate}: {_reason(error)}")
    if provider == "cuda":
        raise OrtError(f"provider 'cuda' does not work here ({'; '.join(reasons)}): use --provider cpu or auto")
    return SessionNetwork(model), reasons
