"""JACK without PortAudio between: a client named `streamsep`, its ports in the graph, and their sound on the rings.

What libjack calls back is compiled (`jackcalls`); what is in the graph, and how libjack is asked without hanging with a server
that hangs, is `jackgraph`'s. It knows nothing of engines, models or settings.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import native
from ..channelmap import MIX, Routes, Wiring
from ..rings import IN_CHANNELS, OUT_CHANNELS, Rings, position, publish
from . import jackcalls as calls
from .jackgraph import (
    CLIENT,
    HOST_API,
    SECONDS,
    available,
    client_of,
    connect,
    devices,
    find_ports,
    libjack,
    ports_for,
    unanswered,
    within,
)
from .portaudiodevice import NONE, DeviceError

__all__ = ["JackDevice", "available", "devices", "find_ports", "open_jack"]

_QUIT_SECONDS = 0.1  # libjack's thread that told of the server's end takes less to end itself


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
    wiring
        which of the ports that `source` and `sink` mean, counted from 1; its inputs are the input ports, 1 to 64. Without:
        as many as `source` has, up to 2.

    Raises
    ------
    DeviceError
        no server, no such ports, or not like that.
    """

    steady = True  # JACK's periods come at even distances
    routes: Routes | None = None  # a pair of ports for each source; the graph does the rest

    def __init__(
        self,
        source: str | None,
        sink: str | None,
        sources: Sequence[str],
        sample_rate: int | None = None,
        block: int = 0,
        wiring: Wiring | None = None,
    ) -> None:
        if not 1 <= len(sources) <= calls.MAX_OUTPUTS // 2:
            raise DeviceError(f"{len(sources)} sources: expected 1 to {calls.MAX_OUTPUTS // 2}")
        self._arguments = source, sink, sources, None, 0, wiring
        self._state = np.zeros(calls.STATE, np.int64)
        self._wiring = wiring or Wiring()
        self._wires: list[tuple[int, str]] | None = None  # at the end of the device before: own port's number, other's name
        self._ports: list[Any] = []
        self._entered = False
        self._memory: list[object] = []  # what the callbacks work on lives as long as they may be called
        self._latency = 0.0
        self._client: Any = within(SECONDS, lambda: connect(CLIENT))
        try:
            self._read_server(sample_rate, block)
            self._from = find_ports(source, "input", ports_for(self._client, "input"))
            self._to = find_ports(sink, "output", ports_for(self._client, "output"))
            self.client = str(self._client.name)
            self._check_wiring(sources)
        except DeviceError:
            self.stop()
            raise
        self.in_channels, self.out_channels = len(self._wiring.inputs) or min(2, len(self._from) or 2), 2 * len(sources)
        self._sources = tuple(sources)
        self._names = list(self._wiring.input_names) or [f"input_{i + 1}" for i in range(self.in_channels)]
        self._names += [f"{stem}_{i}" for stem in sources for i in (1, 2)]
        ends = [client_of(ports[0]) if ports else NONE for ports in (self._from, self._to)]
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

    def _check_wiring(self, sources: Sequence[str]) -> None:
        inputs, outputs = self._wiring.inputs, self._wiring.outputs
        if len(inputs) > calls.MAX_INPUTS or (self._from and max(inputs, default=0) > len(self._from)):
            known = f" of {len(self._from)}: {self._from}" if self._from else ""
            most = min(calls.MAX_INPUTS, len(self._from) or calls.MAX_INPUTS)
            raise DeviceError(f"input channels {inputs}: expected 1 to {most}{known}")
        if self._to and self._wiring.highest_output > len(self._to):
            raise DeviceError(f"output channel {self._wiring.highest_output}: expected 1 to {len(self._to)}: {self._to}")
        for name in outputs:
            if not self._wiring.members(name, sources):
                raise DeviceError(f"output channels of {name!r}: expected one of {', '.join((*sources, MIX))}")

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
            within(SECONDS, lambda: self._enter(rings))
        except DeviceError:
            self.stop()
            raise
        except libjack().jack.JackError as error:
            self.stop()
            raise DeviceError(f"{self.name} does not start: {error}; is the JACK server still running?") from error

    def _enter(self, rings: Rings) -> None:
        library, client, state = libjack(), self._client, self._state
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
        atexit.register(self.stop)  # or libjack would call compiled code that Python has freed
        client.activate()
        for number, other in self._wanted() if self._wires is None else self._remembered():
            mine = self._ports[number].name
            client.connect(*((other, mine) if number < self.in_channels else (mine, other)))
        self._entered = True

    def _set_callbacks(self) -> None:
        library, client = libjack(), self._client._ptr
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
        library.c.jack_on_shutdown(library.address(client), calls.end.address, self._state.ctypes.data)
        library.c.jack_set_latency_callback(library.address(client), calls.latency.address, self._state.ctypes.data)

    def _wanted(self) -> list[tuple[int, str]]:
        """What to connect: the number of an own port, and the name of the other one."""
        numbers, outputs = self._wiring.inputs or range(1, self.in_channels + 1), self._wiring.outputs
        wires = [(i, self._from[n - 1]) for i, n in enumerate(numbers) if n <= len(self._from)]
        if not self._to:
            return wires
        if not outputs and len(self._to) < self.out_channels:
            outputs = {MIX: tuple(range(1, min(2, len(self._to)) + 1))}
        if not outputs:
            return wires + list(zip(range(self.in_channels, len(self._names)), self._to, strict=False))
        for name, channels in outputs.items():
            for source in self._wiring.members(name, self._sources):
                wires += self._spread(source, [self._to[c - 1] for c in channels])
        return wires

    def _spread(self, source: str, to: list[str]) -> list[tuple[int, str]]:
        """A source's pair of ports to one, two or more of a sink's. A graph can only add: one port gets the pair's sum."""
        first = self.in_channels + 2 * self._sources.index(source)
        pair = range(first, first + 2)
        if len(to) == 1:
            # Of a mono signal both are the same: their sum would be twice as loud.
            mono = self._wiring.channels.get(source, self.in_channels) == 1
            return [(number, to[0]) for number in (pair[:1] if mono else pair)]
        return [(pair[min(i, 1)], port) for i, port in enumerate(to)]

    def _remembered(self) -> list[tuple[int, str]]:
        """Those of the connections of the device before this one whose other end is there."""
        present = ports_for(self._client, "input").keys() | ports_for(self._client, "output").keys()
        return [(number, other) for number, other in self._wires or () if number < len(self._ports) and other in present]

    def again(self) -> JackDevice:
        """A new device like this one, which was stopped, connected as this one was, as far as that is known."""
        device = JackDevice(*self._arguments)
        device._wires = self._wires
        return device

    def stop(self) -> None:
        """Leave the graph. Returns also when the server does not answer: a thread of its own waits for that."""
        client, self._client = self._client, None
        if client is None:
            return
        atexit.unregister(self.stop)
        publish(self._state, calls.EXCHANGING, 0)
        waiting = list(unanswered)
        thread = threading.Thread(target=self._close, args=(client, waiting), name="streamsep-jack-close", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # Python is ending and starts no more threads
            self._close(client, [])
            return
        thread.join(SECONDS)
        unanswered[:] = [thread] if thread.is_alive() else []

    def _close(self, client: Any, waiting: list[threading.Thread]) -> None:
        for thread in waiting:
            thread.join()
        if self._state[calls.GONE]:
            time.sleep(_QUIT_SECONDS)  # libjack would kill that thread with a lock in its hands, and wait for the lock for ever
        # What is connected stands in memory that the server shared, also after the server was killed. One that ended in order
        # has taken it out: then it will be what was asked for.
        with contextlib.suppress(libjack().jack.JackError):
            wires = [(i, other.name) for i, mine in enumerate(self._ports) for other in client.get_all_connections(mine)]
            if self._entered and (wires or not self._state[calls.GONE]):
                self._wires = wires
        client.close()

    # -------------------------------------------------------------------------------------------------- how it is doing

    def set_latency(self, samples: int) -> None:
        """Tell the graph what the engine and its hand-over delay, so that a DAW can make up for it. Once started."""
        self._state[calls.DELAY] = samples
        if not self.finished:
            library = libjack()
            client = library.address(self._client._ptr)
            within(SECONDS, lambda: library.c.jack_recompute_total_latencies(client))

    @property
    def latency(self) -> float:
        """What lies before the connected inputs and behind the connected outputs, by what their ports say, seconds."""
        if not self.finished and self._ports:
            library = libjack()
            inputs, outputs = self._ports[: self.in_channels], self._ports[self.in_channels :]
            samples = 0
            for mode, mine in ((calls.CAPTURE, inputs), (calls.PLAYBACK, outputs)):
                # jackd tells the own port later than it is connected; PipeWire knows only that.
                others = [other for port in mine for other in self._client.get_all_connections(port)]
                samples += max(library.latency(port, mode) for port in mine + others)
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
    wiring: Wiring | None = None,
) -> JackDevice:
    """A client of the running server, not yet in its graph; the arguments are `JackDevice`'s.

    The host API's name may stand before a device's: `JACK:system`.
    """
    source, sink = (name and name.removeprefix(f"{HOST_API}:") for name in (source, sink))
    return JackDevice(source or None, sink or None, sources, sample_rate, block, wiring)
