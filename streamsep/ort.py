"""ONNX Runtime behind one `step()`: the network, one hop at a time, with its LSTM state kept between hops.

`NativeNetwork` calls the C API of the wheel's own `libonnxruntime` (a versioned, append-only table of functions) so that a
step can run inside a Numba function: no GIL, no Python object. Tensors are made once; two state sets take turns (ping-pong),
so a step that fails leaves the state it started from intact. `SessionNetwork` does the same with `InferenceSession.run`: the
reference that tests compare with bit by bit, and the fallback where a wheel has no C library.

On CUDA the state tensors live on the device and never leave it; mag and mask cross each hop. This module knows tensors, not
audio.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import onnxruntime
from numba import njit
from numpy.typing import NDArray

from . import native
from .model import OUTPUTS, Model
from .ortapi import OrtError, reason
from .ortsession import CONFIG, Session, run

PROVIDERS = ("auto", "cpu", "cuda")
Made = TypeVar("Made")


class Network(Protocol):
    """One hop of the network: fill `mag`, call `step()`, read `mask`.

    mag, mask : float32 [shape=(streams, 1, n_bins)], [shape=(streams, 1, sources, n_bins)]
    """

    provider: str
    mag: NDArray[np.float32]
    mask: NDArray[np.float32]

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""

    def many(self, mag: NDArray[np.float32], mask: NDArray[np.float32], apart: bool = False) -> Callable[[int], bool]:
        """Hops of one stream in one call, on the CPU: the function takes their number and returns what `step` does.

        mag, mask : float32 [shape=(frames, n_bins)], [shape=(frames, sources, n_bins)], of which it uses the first ones
        apart : from a zero state of its own; the stream's stays
        """

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
        for key, value in CONFIG.items():
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
        return self._run(self.mag, self.mask)

    def many(self, mag: NDArray[np.float32], mask: NDArray[np.float32], apart: bool = False) -> Callable[[int], bool]:
        """Hops of one stream in one call (see `Network`)."""
        own = copy(self) if apart else self
        if apart:
            own.reset()
        return lambda frames: own._run(mag[None, :frames], mask[None, :frames])

    def _run(self, mag: NDArray[np.float32], mask: NDArray[np.float32]) -> bool:
        try:
            masks, self.h, self.c = self._session.run(OUTPUTS, {"mag": mag, "h": self.h, "c": self.c})
        except Exception as error:  # the runtime's exceptions share no base class of their own
            self.error = self.error or str(error)
            return False
        mask[:] = masks
        return True


# ------------------------------------------------------------------------------------------------------------ the C path


class Step(NamedTuple):
    """What compiled code needs to run the network: addresses, and arrays of addresses.

    failure : int64 [shape=(1,)]     the OrtStatus of the first failed step, 0 if none
    turn : int64 [shape=(1,)]        which row of `values` comes next: 0 A to B, 1 B to A, 2 zeros to A (after a reset)
    values : int64 [shape=(3, 2, 3)] OrtValue pointers: turn, inputs or outputs, tensor
    """

    run: int
    release_status: int
    session: int
    names_in: int
    names_out: int
    failure: NDArray[np.int64]
    turn: NDArray[np.int64]
    values: NDArray[np.int64]


FROM_ZERO = 2


@njit(nogil=True, cache=True)
def step(s):  # type: ignore[no-untyped-def]
    """Run one hop of `s`, a `Step`; True when it went well. A failed step keeps the state it started from."""
    turn = s.turn[0]
    if not run(s, s.values[turn, 0], s.values[turn, 1]):
        return False
    s.turn[0] = 1 if turn == 0 else 0
    return True


@njit(nogil=True, cache=True)
def step_by_itself(s):  # type: ignore[no-untyped-def]
    """`step`, for a caller whose processor does not flush denormal numbers."""
    mode = native.flush_denormals()
    good = step(s)
    native.restore_denormals(mode)
    return good


class NativeNetwork:
    """The network through the C API; `compiled` is what Numba functions take.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    def __init__(self, model: Model, streams: int = 1, provider: str = "cpu") -> None:
        self.provider = provider
        self._session = session = Session(model.path, provider)
        shapes = model.contract.shapes(streams)
        self.mag = np.zeros(shapes["mag"], np.float32)
        self.mask = np.zeros(shapes["mask"], np.float32)
        self._keep = [np.zeros(shapes["h"], np.float32)]
        self._states = [session.tensor(self._keep[0])] * 2, *self._two_states(shapes["h"])
        values = _turns(session.tensor(self.mag), session.tensor(self.mask), *self._states)
        self.compiled = Step(**session.call(), turn=np.full(1, FROM_ZERO, np.int64), values=values)  # type: ignore[arg-type]

    def _two_states(self, shape: tuple[int, ...]) -> tuple[list[int], list[int]]:
        """Tensors for h and c, twice."""
        first, second = ([self._state(shape) for _ in "hc"] for _ in "AB")
        return first, second

    def _state(self, shape: tuple[int, ...]) -> int:
        """A state tensor: over an array on the CPU, in the device's memory on CUDA."""
        if self.provider == "cuda":
            return self._session.on_device(shape)
        self._keep.append(np.zeros(shape, np.float32))
        return self._session.tensor(self._keep[-1])

    def many(self, mag: NDArray[np.float32], mask: NDArray[np.float32], apart: bool = False) -> Callable[[int], bool]:
        """Hops of one stream in one call (see `Network`)."""
        zero, first, second = self._states
        turn = self.compiled.turn
        if apart:
            first, second = self._two_states(self._keep[0].shape)
            turn = np.full(1, FROM_ZERO, np.int64)

        def of(frames: int) -> Step:
            edges = [self._session.tensor(a, (1, frames, *a.shape[1:])) for a in (mag, mask)]
            return self.compiled._replace(turn=turn, values=_turns(edges[0], edges[1], zero, first, second))

        steps = [of(1 + n) for n in range(len(mag))]
        return lambda frames: step_by_itself(steps[frames - 1])

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""
        return step(self.compiled)

    def reset(self) -> None:
        """Start again from a zero state."""
        self.compiled.turn[0] = FROM_ZERO
        self._session.forgive()

    @property
    def error(self) -> str | None:
        """What the first failed step since `reset` said."""
        return self._session.error

    def close(self) -> None:
        """Give everything back. Must not be called while a step runs."""
        self._session.close()


def _turns(mag: int, mask: int, zero: list[int], a: list[int], b: list[int]) -> NDArray[np.int64]:
    """`Step.values` of these OrtValues: `zero`, `a` and `b` are h and c each."""
    return np.array([[[mag, *a], [mask, *b]], [[mag, *b], [mask, *a]], [[mag, *zero], [mask, *a]]], np.int64)


# ----------------------------------------------------------------------------------------------------------------- choice


def choose(model: Model, provider: str, make: Callable[[str], Made], use_c_api: bool = True) -> tuple[Made, list[str]]:
    """What `make` makes for the best provider ("cuda" or "cpu") that runs here through the C API, and why a better does not.

    `auto` takes CUDA where it works, else the CPU. int8 models are for the CPU: CUDA has no `DynamicQuantizeLSTM`.

    Raises
    ------
    OrtError
        none does.
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
            return make(candidate), reasons
        except OrtError as error:
            reasons.append(f"{candidate}: {reason(error)}")
    cure = "use --provider cpu or auto" if provider == "cuda" else "no provider is left"
    raise NoProviderError(f"provider {provider!r} does not work here ({'; '.join(reasons)}): {cure}", reasons)


class NoProviderError(OrtError):
    """Nothing runs through the C API here; `reasons` says why, a line each."""

    def __init__(self, message: str, reasons: list[str]) -> None:
        super().__init__(message)
        self.reasons = reasons


def open_network(
    model: Model, provider: str = "auto", use_c_api: bool = True
) -> tuple[NativeNetwork | SessionNetwork, list[str]]:
    """The best network that runs here (see `choose`), without a C library the reference.

    Raises
    ------
    OrtError
        `provider="cuda"` was asked for and does not work here.
    ValueError
        `provider` is none of `PROVIDERS`.
    """
    try:
        return choose(model, provider, lambda chosen: NativeNetwork(model, provider=chosen), use_c_api)
    except NoProviderError as error:
        if provider == "cuda":
            raise
        return SessionNetwork(model), error.reasons
