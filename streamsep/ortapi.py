"""ONNX Runtime's C API through ctypes: the versioned, append-only table of functions in the wheel's own `libonnxruntime`.

Only what `ort` needs of it, called while things are set up. It knows handles and statuses, not networks.
"""

from __future__ import annotations

import ctypes as C
import sys
from collections.abc import Mapping
from pathlib import Path

import onnxruntime

from . import StreamsepError, native

API_VERSION = 17

# Positions in `struct OrtApi` (onnxruntime_c_api.h).
GET_ERROR_MESSAGE, CREATE_ENV, CREATE_SESSION, RUN = 2, 3, 7, 9
CREATE_RUN_OPTIONS, RELEASE_RUN_OPTIONS, ADD_RUN_CONFIG_ENTRY = 39, 97, 165
CREATE_SESSION_OPTIONS, SET_INTRA_OP_NUM_THREADS, SET_INTER_OP_NUM_THREADS = 10, 24, 25
CREATE_TENSOR_WITH_DATA = 49
CREATE_MEMORY_INFO, CREATE_CPU_MEMORY_INFO = 68, 69
RELEASE_STATUS, RELEASE_MEMORY_INFO, RELEASE_SESSION, RELEASE_VALUE, RELEASE_SESSION_OPTIONS = 93, 94, 95, 96, 100
ADD_SESSION_CONFIG_ENTRY = 130
APPEND_CUDA, CREATE_CUDA_OPTIONS, UPDATE_CUDA_OPTIONS, RELEASE_CUDA_OPTIONS = 204, 205, 206, 208
FLOAT, DEVICE_ALLOCATOR = 1, 0


class OrtError(StreamsepError):
    """ONNX Runtime refused something; the message is its own."""


class Base(C.Structure):
    """`struct OrtApiBase`."""

    _fields_ = [("GetApi", C.CFUNCTYPE(C.c_void_p, C.c_uint32)), ("GetVersionString", C.CFUNCTYPE(C.c_char_p))]


class Api:
    """`struct OrtApi` of the wheel's library, with one logging environment for the process."""

    _instance: Api | None = None

    @classmethod
    def get(cls) -> Api:
        """The process's only one; OrtError if the library cannot be had."""
        if cls._instance is None:
            cls._instance = cls(library())
        return cls._instance

    def __init__(self, path: Path) -> None:
        try:
            self._library = C.CDLL(str(path))
        except OSError as error:
            raise OrtError(f"{path.name} cannot be loaded: {error}") from error
        self._library.OrtGetApiBase.restype = C.POINTER(Base)
        table = self._library.OrtGetApiBase().contents.GetApi(API_VERSION)
        if not table:
            raise OrtError(
                f"{path.name} does not offer C API version {API_VERSION}: install onnxruntime 1.{API_VERSION} or newer"
            )
        self.table = C.cast(table, C.POINTER(C.c_void_p))
        # 4: fatal messages only. What goes wrong comes back as a status and is told once, in our words.
        self.env = self.make(CREATE_ENV, C.c_int(4), C.c_char_p(b"streamsep"))

    def function(self, position: int, *argtypes: type, restype: type | None = C.c_void_p):  # type: ignore[no-untyped-def]
        """The function at `position` of the table."""
        return C.CFUNCTYPE(restype, *argtypes)(self.table[position])

    def check(self, status: int | None) -> None:
        """Raise OrtError with the message of `status`, and release it, unless it is 0."""
        if status:
            message = self.message(status)
            self.release(RELEASE_STATUS, status)
            raise OrtError(message)

    def message(self, status: int) -> str:
        """What `status` says."""
        return self.function(GET_ERROR_MESSAGE, C.c_void_p, restype=C.c_char_p)(status).decode(errors="replace")

    def call(self, position: int, *args: C._SimpleCData | C._Pointer | C.Array) -> None:
        """Call a function that returns a status; OrtError if it is not 0."""
        self.check(self.function(position, *map(type, args))(*args))

    def make(self, position: int, *args: C._SimpleCData | C._Pointer | C.Array) -> C.c_void_p:
        """Call a function whose last argument is the address of the handle it makes."""
        handle = C.c_void_p()
        self.call(position, *args, C.pointer(handle))
        return handle

    def release(self, position: int, handle: C.c_void_p | int) -> None:
        """Call one of the release functions."""
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


def append_cuda(api: Api, options: C.c_void_p, settings: Mapping[str, str]) -> None:
    """Add the CUDA provider with `settings` to session options; OrtError if it cannot be had."""
    cuda = api.make(CREATE_CUDA_OPTIONS)
    try:
        strings = C.c_char_p * len(settings)
        keys, values = (strings(*(text.encode() for text in texts)) for texts in (settings, settings.values()))
        api.call(UPDATE_CUDA_OPTIONS, cuda, keys, values, C.c_size_t(len(settings)))
        api.call(APPEND_CUDA, options, cuda)
    finally:
        api.release(RELEASE_CUDA_OPTIONS, cuda)


def reason(error: OrtError) -> str:
    """The telling end of a message that names source files of ONNX Runtime first."""
    return str(error).splitlines()[0].split("with error: ")[-1]
