"""JACK without PortAudio between: a client named `streamsep`, its ports in the graph, and their sound on the rings.

It speaks the plain client API, which PipeWire's libjack answers as jackd's does; what libjack calls back is `jackcalls`. It
knows nothing of engines, models or settings. JACK's library is loaded on first use, not on import.

What libjack asks of a server that is stopped or hung may never be answered, and meanwhile it holds a lock that all clients of
the process share. So nothing that needs the server is called outside `_within`, which gives up after some seconds.
"""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import cache
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from . import jackcalls as calls
from . import native
from .device import NONE, DeviceError, DeviceInfo
from .rings import IN_CHANNELS, OUT_CHANNELS, Rings, position, publish

CLIENT = "streamsep"  # the server makes it streamsep-01 where that is taken
HOST_API = "JACK"
SECONDS = 3.0  # for the server to answer; it does within some periods
_QUIT_SECONDS = 0.1  # libjack's thread that told of the server's end takes less to end itself

_Result = TypeVar("_Result")


# ------------------------------------------------------------------------------------------------------------ the library


class _Range(ctypes.Structure):
    _fields_ = (("least", ctypes.c_uint32), ("most", ctypes.c_uint32))


class _Library:
    """libjack as JACK-Client loaded it, and those of its functions that JACK-Client does not declare."""

    def __init__(self, jack: ModuleType) -> None:
        self.jack, self.ffi = jack, jack._ffi
        self.c = ctypes.CDLL(jack._libname)
        self.c.jack_port_get_latency_range.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.POINTER(_Range)]
        self.c.jack_set_latency_callback.argtypes = [ctypes.c_void_p] * 3
        self.c.jack_recompute_total_latencies.argtypes = [ctypes.c_void_p]
        for setter in (self.c.jack_set_error_function, self.c.jack_set_info_function):
            setter.argtypes = [ctypes.c_void_p]
            setter(calls.ignore.address)

    def function(self, name: str) -> int:
        """The address of one of libjack's functions."""
        return ctypes.cast(getattr(self.c, name), ctypes.c_void_p).value or 0

    def address(self, pointer: Any) -> int:
        """The address in one of JACK-Client's pointers."""
        return int(self.ffi.cast("uintptr_t", pointer))

    def latency(self, port: Any, mode: int) -> int:
        """The longest latency of `port`, samples."""
        span = _Range()
        self.c.jack_port_get_latency_range(self.address(port._ptr), mode, ctypes.byref(span))
        return int(span.most)


@cache
def _library() -> _Library:
    """JACK's library; DeviceError where there is none."""
    try:
        import jack
    except (ImportError, OSError) as error:
        raise DeviceError(
            "JACK's library is not installed: apt install libjack-jackd2-0 or pipewire-jack (Debian, Ubuntu), "
            "brew install jack (macOS)"
        ) from error
    return _Library(jack)


_unanswered: list[threading.Thread] = []  # questions that were given up; while one waits, nobody in this process is answered


def _within(seconds: float, ask: Callable[[], _Result]) -> _Result:
    """What `ask` returns or raises; DeviceError if that takes longer than `seconds`, or an earlier question still waits."""
    answers: list[_Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as error:
            errors.append(error)

    if not any(thread.is_alive() for thread in _unanswered):
        thread = threading.Thread(target=run, name="streamsep-jack", daemon=True)
        thread.start()
        thread.join(seconds)
        _unanswered[:] = [thread] if thread.is_alive() else []
    if _unanswered:
        raise DeviceError(f"the JACK server does not answer within {seconds:g} s: is it stopped or hung? Start it again")
    if errors:
        raise errors[0]
    return answers[0]


def _connect(name: str) -> Any:
    """A new client of a server that runs already; DeviceError if there is none."""
    library = _library()
    try:
        return library.jack.Client(name, no_start_server=True)
    except library.jack.JackError as error:
        raise DeviceError(
            "no JACK server runs: start jackd or PipeWire (`jack_lsp` shows it), or use another device"
        ) from error


# ---------------------------------------------------------------------------------------------------------- what there is


def available() -> bool:
    """Whether a JACK server runs and answers. Starts none and prints nothing."""
    try:
        _within(SECONDS, lambda: _connect(f"{CLIENT}-look").close())
    except DeviceError:
        return False
    return True


def devices() -> list[DeviceInfo]:
    """The graph's clients that have audio ports, as devices; none where no server runs.

    Their index is -1: clients come and go, they are chosen by name.
    """
    try:
        return _within(SECONDS, _list)
    except DeviceError:
        return []


def _list() -> list[DeviceInfo]:
    client = _connect(f"{CLIENT}-look")
    try:
        sources, sinks = _ports(client, "input"), _ports(client, "output")
        cards = [_client_of(next(iter(_card(ports)), "")) for ports in (sources, sinks)]
        return [
            DeviceInfo(
                index=-1,
                name=name,
                host_api=HOST_API,
                in_channels=len(_of_client(name, sources)),
                out_channels=len(_of_client(name, sinks)),
                default_sample_rate=client.samplerate,
                default_input=name == cards[0],
                default_output=name == cards[1],
            )
            for name in dict.fromkeys(map(_client_of, sources | sinks))
        ]
    finally:
        client.close()


def _ports(client: Any, kind: str) -> dict[str, bool]:
    """What can be connected to the inputs ("input") or outputs of `client`, in the server's order: names, whether physical."""
    found = client.get_ports(is_audio=True, is_output=kind == "input", is_input=kind == "output")
    return {port.name: port.is_physical for port in found if _client_of(port.name) != client.name}


def _client_of(port: str) -> str:
    return port.partition(":")[0]


def _of_client(name: str, ports: dict[str, bool]) -> list[str]:
    return [port for port in ports if _client_of(port).lower() == name.lower()]


def _card(ports: dict[str, bool]) -> list[str]:
    """The first sound card's; PipeWire lists the default one first."""
    physical = [port for port, is_physical in ports.items() if is_physical]
    return [port for port in physical if _client_of(port) == _client_of(physical[0])]


def find_ports(name: str | None, kind: str, ports: dict[str, bool]) -> list[str]:
    """Those of `ports` (names, whether physical) that `name` means, for `kind` "input" or "output".

    Without a name the first sound card's, for "none" no port; else a client's, ports with commas between, those of a pattern
    with `*`, or those that hold all its words, if they are one client's.

    Raises
    ------
    DeviceError
        no port, or several clients'.
    """
    if name is None or name == NONE:
        return [] if name else _card(ports)
    listed = [part.strip() for part in name.split(",")]
    if set(listed) <= set(ports):
        return listed
    if "*" in name:
        found = [port for port in ports if fnmatchcase(port.lower(), name.lower())]
    else:
        words = name.lower().split()
        found = _of_client(name, ports) or [port for port in ports if all(word in port.lower() for word in words)]
    clients = list(dict.fromkeys(map(_client_of, found)))
    if not found or (len(clients) > 1 and "*" not in name):
        problem = f"means {len(clients)} clients" if clients else "is unknown"
        known = ", ".join(clients or dict.fromkeys(map(_client_of, ports))) or "(no client has such ports)"
        raise DeviceError(
            f"{kind} device {name!r} {problem}: expected one of {known}, ports as `jack_lsp` lists them, "
            f"or {NONE!r} to connect it yourself"
        )
    return found


# ------------------------------------------------------------------------------------------------------------- the device


class JackDevice:
    """The client `streamsep`: ports `input_1` ..., and a pair for each source: `vocals_1`, `vocals_2`, `accompaniment_1` ...

    Parameters
    ----------
    source, sink
        what to connect, as `find_ports` takes it. A sink with a pair of ports for each source gets them so; on one with fewer
        the graph mixes the pairs.
    sources
        the stems' names.
    sample_rate, block
        refused where the server's are others: they belong to all its clients.
    channels
        input ports, 1 to 8; None: as many as `source` has, up to 2.

    Raises
    ------
    DeviceError
        no server, no such ports, or not like that.
    """

    steady = True  # JACK's periods come at even distances

    def __init__(
        self,
        source: str | None,
        sink: str | None,
        sources: Sequence[str],
        sample_rate: int | None = None,
        block: int = 0,
        channels: int | None = None,
    ) -> None:
        if not 1 <= (channels or 1) <= calls.MAX_INPUTS:
            raise DeviceError(f"channels={channels}: expected 1 to {calls.MAX_INPUTS}")
        if not 1 <= len(sources) <= calls.MAX_OUTPUTS // 2:
            raise DeviceError(f"{len(sources)} sources: expected 1 to {calls.MAX_OUTPUTS // 2}")
        self._state = np.zeros(calls.STATE, np.int64)
        self._ports: list[Any] = []
        self._memory: list[object] = []  # what the callbacks work on lives as long as they may be called
        self._latency = 0.0
        self._client: Any = _within(SECONDS, lambda: _connect(CLIENT))
        try:
            self._read_server(sample_rate, block)
            self._from = find_ports(source, "input", _ports(self._client, "input"))
            self._to = find_ports(sink, "output", _ports(self._client, "output"))
            self.client = str(self._client.name)
        except DeviceError:
            self.stop()
            raise
        self.in_channels, self.out_channels = channels or min(2, len(self._from) or 2), 2 * len(sources)
        self._names = [f"input_{i + 1}" for i in range(self.in_channels)]
        self._names += [f"{stem}_{i}" for stem in sources for i in (1, 2)]
        ends = [_client_of(ports[0]) if ports else NONE for ports in (self._from, self._to)]
        self.name = f"{ends[0]} -> {ends[1]} ({HOST_API}, client {self.client})"

    def _read_server(self, sample_rate: int | None, block: int) -> None:
        self.sample_rate, self.block = int(self._client.samplerate), int(self._client.blocksize)
        if sample_rate not in (None, self.sample_rate):
            raise DeviceError(
                f"rate={sample_rate} Hz: expected the JACK server's {self.sample_rate} Hz; leave it out, "
                f"or start the server with -r {sample_rate}"
            )
        if block not in (0, self.block):
            raise DeviceError(
                f"block={block}: expected the JACK server's {self.block} frames; leave it out, or run `jack_bufsize {block}`"
            )
        if self.block > calls.MAX_FRAMES:
            raise DeviceError(f"the JACK server's block={self.block}: expected up to {calls.MAX_FRAMES} frames")

    # ----------------------------------------------------------------------------------------------------- start and stop

    def start(self, rings: Rings) -> None:
        """Register the ports, enter the graph and connect."""
        channels = tuple(int(n) for n in rings.header[[IN_CHANNELS, OUT_CHANNELS]])
        if self._client is None or self._ports or channels != (self.in_channels, self.out_channels):
            raise DeviceError(
                f"{self.name}: expected a device not started before, and rings for {self.in_channels} channels in and "
                f"{self.out_channels} out, got {channels}"
            )
        try:
            _within(SECONDS, lambda: self._enter(rings))
        except DeviceError:
            self.stop()
            raise
        except _library().jack.JackError as error:
            self.stop()
            raise DeviceError(f"{self.name} does not start: {error}; is the JACK server still running?") from error

    def _enter(self, rings: Rings) -> None:
        library, client, state = _library(), self._client, self._state
        scratch = np.zeros(calls.MAX_FRAMES * (self.in_channels + self.out_channels), np.float32)
        self._memory = [rings, scratch]
        self.block = int(client.blocksize)
        state[[calls.RINGS, calls.SCRATCH]] = rings.memory.ctypes.data, scratch.ctypes.data
        state[calls.GET_BUFFER] = library.function("jack_port_get_buffer")
        state[calls.GET_RANGE] = library.function("jack_port_get_latency_range")
        state[calls.SET_RANGE] = library.function("jack_port_set_latency_range")
        state[calls.NANOSLEEP] = native.clock().nanosleep if native.AVAILABLE else 0
        state[[calls.BLOCK, calls.RATE]] = self.block, self.sample_rate
        state[[calls.INPUTS, calls.OUTPUTS, calls.EXCHANGING]] = self.in_channels, self.out_channels, 1
        for i, name in enumerate(self._names):  # none is terminal: what comes in goes on to the outputs
            ports = client.inports if i < self.in_channels else client.outports
            self._ports.append(ports.register(name))
            state[calls.PORTS + i] = library.address(self._ports[i]._ptr)
        self._set_callbacks()
        client.activate()
        for one, other in self._wires():
            client.connect(one, other)

    def _set_callbacks(self) -> None:
        library, client = _library(), self._client._ptr
        lib, cast = library.jack._lib, library.ffi.cast
        for setter, kind, function in (
            (lib.jack_set_process_callback, "JackProcessCallback", calls.process),
            (lib.jack_set_xrun_callback, "JackXRunCallback", calls.xrun),
            (lib.jack_set_sample_rate_callback, "JackSampleRateCallback", calls.sample_rate),
            (lib.jack_set_freewheel_callback, "JackFreewheelCallback", calls.freewheel),
            (lib.jack_on_info_shutdown, "JackInfoShutdownCallback", calls.shutdown),
        ):
            if setter(client, cast(kind, function.address), cast("void *", self._state.ctypes.data)):
                raise library.jack.JackError(f"the server refuses a {kind}")
        library.c.jack_set_latency_callback(library.address(client), calls.latency.address, self._state.ctypes.data)

    def _wires(self) -> list[tuple[str, str]]:
        """(from, to): the names of the ports to connect."""
        mine = [port.name for port in self._ports]
        inputs, outputs = mine[: self.in_channels], mine[self.in_channels :]
        wires = list(zip(self._from, inputs, strict=False))
        if len(self._to) >= len(outputs):
            return wires + list(zip(outputs, self._to, strict=False))
        if len(self._to) == 1 and self.in_channels == 1:
            outputs = outputs[::2]  # both of a pair are the same then: their sum would be twice as loud
        return wires + [(port, self._to[i % min(2, len(self._to))]) for i, port in enumerate(outputs) if self._to]

    def stop(self) -> None:
        """Leave the graph. Returns also when the server does not answer: a thread of its own waits for that."""
        client, self._client = self._client, None
        if client is None:
            return
        publish(self._state, calls.EXCHANGING, 0)
        waiting = list(_unanswered)
        thread = threading.Thread(target=self._close, args=(client, waiting), name="streamsep-jack-close", daemon=True)
        thread.start()
        thread.join(SECONDS)
        _unanswered[:] = [thread] if thread.is_alive() else []

    def _close(self, client: Any, waiting: list[threading.Thread]) -> None:
        for thread in waiting:
            thread.join()
        if self._state[calls.GONE]:
            time.sleep(_QUIT_SECONDS)  # libjack would kill that thread with a lock in its hands, and wait for the lock for ever
        client.close()

    # -------------------------------------------------------------------------------------------------- how it is doing

    def set_latency(self, samples: int) -> None:
        """Tell the graph what the engine and its hand-over delay, so that a DAW can make up for it. Once started."""
        self._state[calls.DELAY] = samples
        if not self.finished:
            library = _library()
            client = library.address(self._client._ptr)
            _within(SECONDS, lambda: library.c.jack_recompute_total_latencies(client))

    @property
    def latency(self) -> float:
        """What lies before the connected inputs and behind the connected outputs, by what their ports say, seconds."""
        if not self.finished and self._ports:
            library = _library()
            inputs, outputs = self._ports[: self.in_channels], self._ports[self.in_channels :]
            samples = 0
            for mode, mine in ((calls.CAPTURE, inputs), (calls.PLAYBACK, outputs)):
                others = [other for port in mine for other in self._client.get_all_connections(port)]
                samples += max((library.latency(other, mode) for other in others), default=0)
            self._latency = samples / self.sample_rate
        return self._latency

    @property
    def finished(self) -> bool:
        """True once the server has gone, or the client was stopped."""
        return self._client is None or bool(position(self._state, calls.GONE))

    @property
    def changed(self) -> bool:
        """True once the server's block or rate are not what they were at the start: open a new device."""
        return bool(self._state[calls.CHANGED])

    @property
    def freewheeling(self) -> bool:
        """Whether the graph runs as fast as it can. It waits for the worker then: nothing is lost, the delay stays."""
        return bool(self._state[calls.FREEWHEELING])

    @property
    def why(self) -> str:
        """What the server said at its end, if it said something."""
        text = self._state[calls.REASON :].view(np.uint8)[: calls.REASON_BYTES]
        return bytes(text).partition(b"\0")[0].decode(errors="replace")


def open_jack(
    source: str | None,
    sink: str | None,
    sources: Sequence[str],
    sample_rate: int | None = None,
    block: int = 0,
    channels: int | None = None,
) -> JackDevice:
    """A client of the running server, not yet in its graph; the arguments are `JackDevice`'s.

    The host API's name may stand before a device's: `JACK:system`.
    """
    source, sink = (name and name.removeprefix(f"{HOST_API}:") for name in (source, sink))
    return JackDevice(source or None, sink or None, sources, sample_rate, block, channels)
