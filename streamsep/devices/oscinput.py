"""Sound that comes in as OSC messages, as if it were a device: the daemon as a network processor.

    socket -> receiving thread (Python: parses) -> jitter buffer -> pacing thread (compiled) -> rings

The buffer (`jitter.py`) says when what is due; its wait is the device's latency. The daemon runs on the sender's clock: nothing
is resampled, and the rate that its own packets tell is the sender's. What goes out goes to listeners, and to a file if wanted.

This module knows the rings and the packets, and no engine. One sender at a time is heard: the first, until it is silent for
`TAKEOVER`; the others are counted as refused.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from .. import native
from ..channelmap import Routes
from ..osc.packet import Packet, unpack
from ..rings import ARMED, INPUT_XRUNS, STOP, Rings, exchange, make_rings, position, publish
from .filesink import FileSink, keep
from .jitter import (
    FIRST,
    LOST,
    NEWEST,
    PERIOD,
    READ,
    RESYNCS,
    SKIPPED,
    STALLED,
    STARVED,
    Arrivals,
    Buffer,
    begin,
    make_buffer,
    put,
    render,
)
from .portaudiodevice import DeviceError

OSC = "osc:"
CHANNELS = 2  # of the engine: mono goes to both, of more channels the first two are taken
DEFAULT_RATE = 48_000  # Hz
TAKEOVER = 1.0  # s of silence of the sender after which another is heard
WRONG_RATE = 0.02  # relative
STOP_CHECK = 0.1  # s
CATCH_UP = 4  # blocks that a clock which was held up makes good at once

_PACKET = 65_536  # bytes: UDP has no longer ones


@njit(nogil=True, cache=True)
def step(rings, buffer, kept, written, when, x, y):  # type: ignore[no-untyped-def]
    """The block due at `when` (ns) between the buffer and the rings; what goes out is kept for a file."""
    concealed = render(buffer, when, x)
    armed = position(rings.header, ARMED) != 0
    if armed and concealed:
        rings.header[INPUT_XRUNS] += 1
    exchange(rings.header, rings.inward, rings.outward, x, y)
    if armed and y.shape[1] > 0:
        keep(kept, written, y)


@njit(nogil=True, cache=True)
def pace(rings, buffer, kept, written, x, y, clock):  # type: ignore[no-untyped-def]
    """Block after block at the sender's pace, until STOP is set. A clock that was held up for long goes on from there."""
    when = native.monotonic_ns(clock.gettime)
    while position(rings.header, STOP) == 0:
        step(rings, buffer, kept, written, when, x, y)
        period, now = buffer.state[PERIOD], native.monotonic_ns(clock.gettime)
        when = max(when + period, now - CATCH_UP * period)
        while now < when:
            native.sleep_ns(clock.nanosleep, min(when - now, 100_000_000))
            now = native.monotonic_ns(clock.gettime)


def pace_in_python(rings: Rings, buffer: Buffer, kept, written, x, y) -> None:  # type: ignore[no-untyped-def]
    """`pace` where the C library's clock cannot be called."""
    when = time.monotonic_ns()
    while not rings.header[STOP]:
        step(rings, buffer, kept, written, when, x, y)
        period, now = int(buffer.state[PERIOD]), time.monotonic_ns()
        when = max(when + period, now - CATCH_UP * period)
        time.sleep(max(0, when - now) / 1e9)


# ------------------------------------------------------------------------------------------------------------- the device


class OscInput:
    """An input device fed by OSC messages on a UDP port. It plays nothing: the sources go out as OSC messages, or to a file.

    Parameters
    ----------
    host, port
        where to listen; port 0 takes any free one (see `port`).
    sample_rate
        Hz; what comes at another rate is refused, and counted. None: 48000.
    block
        frames; 0: one hop.
    jitter
        s that the fastest packets wait, so that others may come later by as much.
    allow
        addresses or networks that are listened to, besides this machine's own loopback.
    sink
        where what goes out is kept, of the same rate; None: it goes nowhere but over OSC.

    Raises
    ------
    DeviceError
        the port cannot be had.
    """

    steady = True
    in_channels = CHANNELS
    finished = False  # more may always come
    routes: Routes | None = None  # to the file as to any device

    def __init__(
        self,
        host: str,
        port: int,
        sample_rate: int | None,
        block: int,
        hop_seconds: float,
        jitter: float,
        allow: Sequence[str] = (),
        sink: FileSink | None = None,
    ) -> None:
        self.sample_rate = sample_rate or DEFAULT_RATE
        self._socket = _open(host, port)
        self.port: int = self._socket.getsockname()[1]
        self.name = f"{OSC}{self.port}" + (f" -> {sink.path}" if sink else "")
        self.out_channels = sink.channels if sink else 0
        self._sink = sink
        self._block = block or round(hop_seconds * self.sample_rate)
        self._buffer = make_buffer(self.sample_rate, self.in_channels, round(jitter * self.sample_rate))
        self._buffer.state[PERIOD] = 1_000_000_000 * self._block // self.sample_rate
        self._received = {"packets": 0, "late": 0, "reordered": 0, "duplicate": 0, "refused": 0}
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._arrivals = Arrivals(self.sample_rate)
        self._sender: tuple[object, int] | None = None  # address and stream id
        self._heard = -TAKEOVER  # s, monotonic: when it last sent
        self._refusal = ""
        self._threads: list[threading.Thread] = []
        self._rings: Rings | None = None
        self._stopping = threading.Event()

    def set_latency(self, samples: int) -> None:
        """The sender does not ask."""

    @property
    def latency(self) -> float:
        """Seconds that the last frame of the fastest packets waits from its arrival to the rings."""
        return self._buffer.jitter / self.sample_rate

    @property
    def counts(self) -> dict[str, int | float | str]:
        """Packets, by what became of them; frames that were lost, had not come yet, or too many; jumps; the clock's turn."""
        state = self._buffer.state
        turn = 1e9 * self._block / self.sample_rate / state[PERIOD] - 1
        return {
            **self._received,
            "lost_frames": int(state[LOST]),
            "starved_frames": int(state[STARVED]),
            "skipped_frames": int(state[SKIPPED]),
            "resyncs": int(state[RESYNCS]),
            "file_lost_frames": self._sink.lost if self._sink else 0,
            "clock_ppm": round(1e6 * float(turn), 1),
            "refusal": self._refusal,
        }

    def start(self, rings: Rings) -> None:
        """Begin to receive and to hand over."""
        self._rings = rings
        self._compile()
        if self._sink:
            self._sink.start()
        for name, run in (("receive", self._receive), ("pace", self._pace)):
            thread = threading.Thread(target=run, name=f"streamsep-osc-{name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """End both, give the port back and close the file; AudioFileError if it could not be written."""
        self._stopping.set()
        if self._rings:
            publish(self._rings.header, STOP, 1)
        for thread in self._threads:
            thread.join()
        self._threads.clear()
        self._socket.close()
        if self._sink:
            self._sink.stop()

    def _compile(self) -> None:
        """Before sound comes, not with its first packet."""
        spare = make_buffer(self.sample_rate, self.in_channels, 1)
        silence = np.zeros((1, self.in_channels), np.float32)
        begin(spare, 0, silence, True)
        put(spare, 0, silence)
        rings = make_rings(1, self.in_channels, self.out_channels, 1)
        rings.header[STOP] = 1
        self._run(rings, spare, self._sink)

    def _pace(self) -> None:
        assert self._rings
        native.become_realtime(native.FILE_PRIORITY)
        self._run(self._rings, self._buffer, self._sink)

    def _run(self, rings: Rings, buffer: Buffer, sink: FileSink | None) -> None:
        x = np.zeros((self._block, self.in_channels), np.float32)
        y = np.zeros((self._block, self.out_channels), np.float32)
        kept, written = (sink.ring, sink.written) if sink else (np.zeros((1, 0), np.float32), np.zeros(1, np.int64))
        if native.AVAILABLE:
            pace(rings, buffer, kept, written, x, y, native.clock())
        else:
            pace_in_python(rings, buffer, kept, written, x, y)

    # ----------------------------------------------------------------------------------------------- receiving thread

    def _receive(self) -> None:
        while not self._stopping.is_set():
            try:
                data, sender = self._socket.recvfrom(_PACKET)
            except TimeoutError:
                continue
            except OSError:  # Windows reports here that an earlier packet reached nobody
                continue
            try:
                self._take(unpack(data), sender)
            except ValueError as error:
                self._received["refused"] += 1
                self._refusal = str(error)

    def _take(self, packet: Packet, sender: tuple[Any, ...]) -> None:
        """One packet into the buffer; ValueError if it is none for us."""
        host = ipaddress.ip_address(str(sender[0]).partition("%")[0].removeprefix("::ffff:"))
        if not host.is_loopback and not any(host in network for network in self._allow):
            raise ValueError(f"sender {host}: expected one that --osc-allow names")
        if abs(packet.sample_rate / self.sample_rate - 1) > WRONG_RATE:
            raise ValueError(f"sample_rate={packet.sample_rate:g} Hz: expected {self.sample_rate}; give --rate")
        self._admit(packet, sender)
        index, x = packet.sample_index, _as_stereo(packet.frames)
        state = self._buffer.state
        newest, read = int(state[NEWEST]), int(state[READ])
        self._received["packets"] += 1
        # A jump that the buffer cannot hold is a new beginning, too.
        anew = self._sender != (sender, packet.stream_id) or abs(index - newest) > len(self._buffer.have) // 4
        state[FIRST] = self._arrivals.note(time.monotonic_ns(), index + len(x), anew)
        if anew:
            self._sender = sender, packet.stream_id
            begin(self._buffer, index, x, packet.sequence == 0)
        elif index + len(x) <= read and not state[STALLED]:
            self._received["late"] += 1
        elif put(self._buffer, index, x) == 0:
            self._received["duplicate"] += 1
        elif index < newest:
            self._received["reordered"] += 1

    def _admit(self, packet: Packet, sender: object) -> None:
        """ValueError while another is heard."""
        now = time.monotonic()
        if self._sender and self._sender[0] != sender and now - self._heard < TAKEOVER:
            raise ValueError(f"another sender: expected {self._sender[0]}, which is still sending")
        self._heard = now


def _as_stereo(frames: NDArray[np.float32]) -> NDArray[np.float32]:
    """Two channels of however many."""
    if frames.shape[1] == 1:
        return np.repeat(frames, CHANNELS, axis=1)
    return np.ascontiguousarray(frames[:, :CHANNELS])


def _open(host: str, port: int) -> socket.socket:
    """A bound UDP socket; DeviceError names the cure."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)[0]
        opened = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError, OverflowError) as error:
        raise DeviceError(
            f"input {OSC}{port} on {host} cannot be opened ({error}): choose another port or --osc-host"
        ) from error
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        opened.settimeout(STOP_CHECK)
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise DeviceError(_why(host, port, str(error.strerror))) from error
    return opened


def _why(host: str, port: int, reason: str) -> str:
    return f"input {OSC}{port} on {host} cannot be opened ({reason}): choose another port, or another address with --osc-host"
