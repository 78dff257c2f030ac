"""ONNX Runtime behind one `step()`: the network, one hop at a time, with its LSTM state kept between hops.

`NativeNetwork` calls the C API of the wheel's own `libonnxruntime` (a versioned, append-only table of functions) so that a
step can run inside a Numba function: no GIL, no Python object. Tensors are made once; two state sets take turns (ping-pong),
so a step that fails leaves the state it started from intact. `SessionNetwork` does the same with `InferenceSession.run`: the
reference that tests compare with bit by bit, and the fallback where a wheel has no C library.

On CUDA the state lives on the device and never leaves it; mag and mask cross each hop, between fixed places (`cuda`). Runs are
captured as CUDA graphs where a thread asks for that (`warm`): a graph belongs to the thread that captured it, and holds the
addresses it saw, so that each of the turns needs its own. ONNX Runtime runs a graph three times to capture it. That would
advance a state that is changed in place (onnxruntime #32243); from one of two sets into the other it does nothing, three times.

This module knows tensors, not audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import NamedTuple, Protocol, TypeVar

import numpy as np
import onnxruntime
from numba import njit
from numpy.typing import NDArray

from . import NoGpuError, cuda, cudagraph, native
from .cuda import Crossing, Device, Runtime
from .model import Model
from .ortapi import OrtError, reason
from .ortsession import CONFIG, Session, run

PROVIDERS = ("auto", "cpu", "cuda")
Made = TypeVar("Made")


class Network(Protocol):
    """One hop of the network: fill `mag`, call `step()`, read `mask`.

    mag, mask : float32 [shape=(streams, 1, n_bins)], [shape=(streams, 1, sources, n_bins)]; of a model with filters its
        `spectrum` and `filter`, as `model` says
    """

    provider: str
    mag: NDArray[np.float32]
    mask: NDArray[np.float32]

    def step(self) -> bool:
        """Run one hop; False when it failed (see `error`)."""

    def many(self, mag: NDArray[np.float32], mask: NDArray[np.float32], apart: bool = False) -> Callable[[int], bool]:
        """Hops of one stream in one call, on the CPU: the function takes their number and returns what `step` does.

        mag, mask : float32 [shape=(frames, n_bins)], [shape=(frames, sources, n_bins)], of which it uses the first ones;
            or as wide as the model's are
        apart : from a zero state of its own; the stream's stays
        """

    def reset(self) -> None:
        """Start again from a zero state."""

    def warm(self) -> None:
        """To be called in the thread that steps, before there is sound; the state is zero after."""

    @property
    def notes(self) -> Sequence[str]:
        """What it does not do here, and why."""

    @property
    def error(self) -> str | None:
        """What the first failed step since `reset` said."""


# --------------------------------------------------------------------------------------------------------- the reference


class SessionNetwork:
    """The network through `InferenceSession.run`, on the CPU."""

    provider = "cpu"
    notes: Sequence[str] = ()

    def __init__(self, model: Model, streams: int = 1) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        for key, value in CONFIG.items():
            options.add_session_config_entry(key, value)
        self._session = onnxruntime.InferenceSession(model.path, options, providers=["CPUExecutionProvider"])
        self._contract = model.contract
        shapes = model.contract.shapes(streams)
        self.mag = np.zeros(shapes[model.contract.sees], np.float32)
        self.mask = np.zeros(shapes[model.contract.gives], np.float32)
        self._zero = np.zeros(shapes["h"], np.float32)
        self.reset()

    def reset(self) -> None:
        """Start again from a zero state."""
        self.h = self.c = self._zero
        self.error: str | None = None

    def warm(self) -> None:
        """Nothing: the first step is like the others."""

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
            seen = dict(zip(self._contract.inputs, (mag, self.h, self.c), strict=True))
            masks, self.h, self.c = self._session.run(self._contract.outputs, seen)
        except Exception as error:  # the runtime's exceptions share no base class of their own
            self.error = self.error or str(error)
            return False
        mask[:] = masks
        return True


# ------------------------------------------------------------------------------------------------------------ the C path


class Step(NamedTuple):
    """What compiled code needs to run the network: addresses, and arrays of addresses.

    failure : int64 [shape=(1,)]     the first failure, 0 if none (see `ortsession.Session.call`)
    turn : int64 [shape=(1,)]        which row of `values` comes next: 0 A to B, 1 B to A, 2 zeros to A (after a reset)
    values : int64 [shape=(4, 2, 3)] OrtValue pointers: turn (3 is the dry run's), inputs or outputs, tensor
    options : int64 [shape=(4,)]     OrtRunOptions pointers of the turns
    runtime and both crossings       where tensors lie on a device: how and what is copied there and back
    """

    run: int
    release_status: int
    session: int
    names_in: int
    names_out: int
    failure: NDArray[np.int64]
    turn: NDArray[np.int64]
    values: NDArray[np.int64]
    options: NDArray[np.int64]
    runtime: Runtime
    mag_crossing: Crossing
    mask_crossing: Crossing


FROM_ZERO, DRY = 2, 3
_TURNS = FROM_ZERO, 0, 1, DRY  # in an order that needs nothing of before


@njit(nogil=True, cache=True)
def step(s):  # type: ignore[no-untyped-def]
    """Run one hop of `s`, a `Step`; True when it went well. A failed step keeps the state it started from."""
    turn = s.turn[0]
    good = take_turn(s, turn) if s.runtime.stream == 0 else take_turn_there(s, turn)
    if good:
        s.turn[0] = 1 if turn == 0 else 0
    return good


@njit(nogil=True, cache=True)
def take_turn(s, turn):  # type: ignore[no-untyped-def]
    """Run the network as `turn` says; whether it went well. `s.turn` stays."""
    return run(s, s.options[turn], s.values[turn, 0], s.values[turn, 1])


@njit(nogil=True, cache=True)
def take_turn_there(s, turn):  # type: ignore[no-untyped-def]
    """The same on a device, with the way there and back."""
    return (
        cuda.send(s.runtime, s.mag_crossing, s.failure)
        and take_turn(s, turn)
        and cuda.fetch(s.runtime, s.mask_crossing, s.failure)
    )


@njit(nogil=True, cache=True)
def dry_run(s):  # type: ignore[no-untyped-def]
    """Compute, and change nothing that a step uses: a device's clocks and caches stay as they are while it works."""
    if s.runtime.stream == 0:
        take_turn(s, DRY)
    elif take_turn(s, DRY):
        cuda.wait(s.runtime, s.failure)


@njit(nogil=True, cache=True)
def step_by_itself(s):  # type: ignore[no-untyped-def]
    """`step`, for a caller whose processor does not flush denormal numbers."""
    mode = native.flush_denormals()
    good = step(s)
    native.restore_denormals(mode)
    return good


class NativeNetwork:
    """The network through the C API; `compiled` is what Numba functions take.

    Parameters
    ----------
    device
        see `ortsession.Session`.

    Raises
    ------
    OrtError
        no C library, or no session for this model and provider.
    """

    def __init__(self, model: Model, streams: int = 1, provider: str = "cpu", device: Device | None = None) -> None:
        self.provider = provider
        self._session = session = Session(model, provider, device)
        self._keep: list[NDArray[np.float32]] = []
        shapes = model.contract.shapes(streams)
        seen, given = shapes[model.contract.sees], shapes[model.contract.gives]
        self.mag, mag, mag_crossing = self._twin(seen)
        self.mask, mask, mask_crossing = self._twin(given)
        self._shape = shapes["h"]
        self._states = [self._tensor(self._shape)] * 2, *self._two_states()
        dry = [[self._tensor(seen), *self._states[0]], [self._tensor(given), *self._two_states()[0]]]
        self._plain = session.options() if session.device else 0
        self._numbered = [session.options(1 + turn) for turn in range(len(_TURNS))] if session.graphs else []
        self.compiled = Step(
            **session.call(),  # type: ignore[arg-type]
            turn=np.full(1, FROM_ZERO, np.int64),
            values=np.concatenate([_turns(mag, mask, *self._states), np.array([dry], np.int64)]),
            options=np.full(len(_TURNS), self._plain, np.int64),
            runtime=session.device.runtime if session.device else cuda.NOWHERE,
            mag_crossing=mag_crossing,
            mask_crossing=mask_crossing,
        )
        if session.device and not take_turn_there(self.compiled, DRY):
            session.fail_at_once()

    def _twin(self, shape: tuple[int, ...]) -> tuple[NDArray[np.float32], int, Crossing]:
        """An array for this side, the tensor that the network gets, and what crosses between them, if they are two."""
        if self._session.device is None:
            array = np.zeros(shape, np.float32)
            return array, self._session.tensor(array), Crossing(0, 0, 0)
        array, crossing = self._session.device.twin(shape)
        return array, self._session.tensor_there(crossing.device, shape), crossing

    def _tensor(self, shape: tuple[int, ...]) -> int:
        """A tensor of zeros that this side never looks at: over an array on the CPU, else in the device's memory."""
        if self._session.device:
            return self._session.tensor_there(self._session.device.on_device(shape), shape)
        self._keep.append(np.zeros(shape, np.float32))
        return self._session.tensor(self._keep[-1])

    def _two_states(self) -> tuple[list[int], list[int]]:
        """Tensors for h and c, twice."""
        first, second = ([self._tensor(self._shape) for _ in "hc"] for _ in "AB")
        return first, second

    @property
    def notes(self) -> list[str]:
        """What this network does not do here, and why."""
        return self._session.notes

    def warm(self) -> None:
        """Let the calling thread's steps be replayed CUDA graphs, where that can be; to be called in the thread that steps.

        The state is zero after. What was captured is looked at: replayed on other input it must give what a run gives.
        """
        if self._session.graphs:
            self._session.graphs = cudagraph.capture(
                self._session, self._plain, self._numbered, self.compiled.options, self._play
            )
            self.reset()

    def _play(self, seed: int) -> NDArray[np.float32] | None:
        """Masks of all turns on noise, None when one failed."""
        self.mag[:] = np.random.default_rng(seed).random(self.mag.shape) ** 4
        masks = []
        for turn in _TURNS:
            if not take_turn_there(self.compiled, turn):
                return None
            masks.append(self.mask.copy())
        return np.array(masks)

    def many(self, mag: NDArray[np.float32], mask: NDArray[np.float32], apart: bool = False) -> Callable[[int], bool]:
        """Hops of one stream in one call (see `Network`)."""
        zero, first, second = self._states
        turn = self.compiled.turn
        if apart:
            first, second = self._two_states()
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
    NoProviderError
        none does; a `NoCudaError` where "cuda" was asked for.
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
    kind, cure = (
        (NoCudaError, "use --provider cpu or auto, without --require-gpu")
        if provider == "cuda"
        else (NoProviderError, "no provider is left")
    )
    raise kind(f"provider {provider!r} does not work here ({'; '.join(reasons)}): {cure}", reasons)


class NoProviderError(OrtError):
    """Nothing runs through the C API here; `reasons` says why, a line each."""

    def __init__(self, message: str, reasons: list[str]) -> None:
        super().__init__(message)
        self.reasons = reasons


class NoCudaError(NoProviderError, NoGpuError):
    """CUDA was asked for, and does not work here."""


def fallen_back(wished: str, provider: str, notes: Sequence[str]) -> list[str]:
    """A line for who wished "cuda" and got another `provider`; `notes` say why. Empty where there is nothing to tell."""
    return [f"{'; '.join(notes)}: the network runs on the CPU"] if wished == "cuda" != provider else []


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
