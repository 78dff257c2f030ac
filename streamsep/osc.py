"""OSC over UDP: the daemon's controls with feedback, its status, and the separated sound as packets for whoever subscribes.

One thread, one socket. The thread answers messages and reads the tap (`rings.read_tap`) for its listeners; the audio path
neither waits for it nor knows of it: controls cross as the engine's aligned 8-byte values, samples through the tap.
Every reply goes to the sender of the message: on the same address, with the value really set, or `/streamsep/error` with the
address and one line of reason. `ROWS` is the one list of addresses; the handlers and the README's table come from it.

A sound packet, at most `PAYLOAD` bytes of UDP so that no usual network splits it:

    /streamsep/audio  stream_id i, sequence i, sample_index h, sample_rate d, channels i, blob b

with interleaved little-endian float32 frames in the blob. `sample_index` is the position of its first frame in the tap: frames
since the stream was armed, 0 again when the daemon starts it anew; frame n holds the input's frame n - (S - H), S the engine's
latency and H its hop. `sequence` counts the packets handed to the network and wraps at 2^31. So a gap in both is the network's
loss, and a jump of `sample_index` without one in `sequence` is sound that this end lost: overwritten before it was read, or
refused by the socket.

Time tags of bundles are not obeyed: a message acts when it comes. Messages are parsed and built by python-osc, but its server
is not for an open port: it loops for ever on a bundle's element of negative size, drops a whole bundle for one bad message,
and its pattern matcher backtracks.
"""

from __future__ import annotations

import errno
import re
import reprlib
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg
from pythonosc.parsing import osc_types

from . import StreamsepError, __version__, rings
from .engine import GAIN_DB, Separator
from .rings import Rings

LEASE = 10.0  # s a listener is served without a sign of life
POLL = 0.003  # s between two looks at the tap while somebody listens
MAX_STREAMS = 16
PAYLOAD = 1432  # bytes: a usual MTU of 1500 less IPv6's and UDP's headers and a tunnel's 20
BURST = 16  # packets for one stream in a row: what has piled up must not flood the listener's socket
RECEIVE = 64  # datagrams in a row: a flood of messages must not starve the listeners
MAX_PACKET = 8192  # bytes of a packet to us; what is longer is cut off, and so malformed
MAX_ADDRESS = 128  # characters of a pattern, or of an address in an error; both keep a hostile packet short work
STOP_WITHIN = 5.0  # s
MIX = "mix"
AUDIO, ERROR, STATUS_REPLY = "/streamsep/audio", "/streamsep/error", "/streamsep/status.reply"

Address = tuple[Any, ...]  # as the socket module has it: (host, port), for IPv6 two more
Value = int | float | str


class OscError(StreamsepError):
    """The OSC server cannot listen where it was told to."""


# ------------------------------------------------------------------------------------------------------------------- wire


class Message(NamedTuple):
    """One OSC message; `arguments` is None when a type tag is none that we know."""

    address: str
    tags: str
    arguments: list[Any] | None


def split(packet: bytes) -> list[bytes]:
    """The messages of a packet, of bundles in bundles too, in order; ValueError if it is not OSC."""
    messages, pending = [], [packet]
    while pending:  # no recursion: a packet holds 400 bundles one in another
        part = pending.pop()
        if part.startswith(b"#bundle\0"):
            pending.extend(reversed(list(_elements(part))))
        elif part.startswith(b"/"):
            messages.append(part)
        else:
            raise ValueError("neither a message nor a bundle")
    return messages


def _elements(bundle: bytes) -> Iterator[bytes]:
    at = 16  # "#bundle" and the time tag
    if len(bundle) < at:
        raise ValueError("a bundle is cut off")
    while at < len(bundle):
        size = int.from_bytes(bundle[at : at + 4], "big")  # unsigned: a negative size is one beyond the end
        at += 4 + size
        if at > len(bundle):
            raise ValueError(f"a bundle's element of {size} bytes is cut off")
        yield bundle[at - size : at]


def parse(data: bytes) -> Message:
    """One message; any exception means that it is not one (python-osc lets more than its own ParseError through)."""
    address, at = osc_types.get_string(data, 0)
    tags = osc_types.get_string(data, at)[0] if at < len(data) else ","
    if set(tags[1:]) - set("ihfdsbrmtTFN[]"):  # python-osc would drop the argument and log to the root logger
        return Message(address, tags, None)
    return Message(address, tags, OscMessage(data).params)


def matches(pattern: str, address: str) -> bool:
    """Whether an OSC 1.0 address pattern (`?`, `*`, `[a-z]`, `[!a-z]`, `{one,two}`) means `address`.

    Keeps the set of places in `address` that can be reached: no backtracking, so no pattern takes long.
    """
    places = {0}
    for token in re.findall(r"\*+|\[[^\]]*\]|\{[^}]*\}|.", pattern, re.DOTALL):
        places = {end for at in places for end in _reach(token, address, at)}
    return len(address) in places


def _reach(token: str, address: str, at: int) -> list[int]:
    """Where in `address` one token of a pattern can end that begins at `at`."""
    if token[0] == "*":
        part = address[at:].partition("/")[0]
        return list(range(at, at + len(part) + 1))
    if token[0] == "{" and len(token) > 1:
        return [at + len(word) for word in token[1:-1].split(",") if address.startswith(word, at)]
    here = address[at : at + 1]
    return [at + 1] if here and fnmatchcase(here, token) and (here != "/" or token == "/") else []


# ------------------------------------------------------------------------------------------------------------------ sound

_HEADER = struct.Struct(">16s4x8siiqdii")  # address, type tags, the numbers, the blob's size


@dataclass(eq=False)
class Stream:
    """One listener to one source."""

    id: int
    source: str
    client: Address  # who subscribed: its messages renew the lease
    destination: Address
    expires: float  # s on the clock
    position: int  # of the next frame in the tap
    first_channel: int  # in the tap
    frames: NDArray[np.float32]  # [shape=(frames_per_packet, channels of the tap to read)], work space
    sequence: int = 0


def _frames_per_packet(hop: int, channels: int) -> int:
    """How a hop, which comes at once, is cut: into equal packets if it can be, so that none waits for the next hop."""
    most = (PAYLOAD - _HEADER.size) // (4 * channels)
    fewest = -(-hop // most)
    packets = next((n for n in range(fewest, 2 * fewest) if hop % n == 0), fewest)
    return -(-hop // packets)


class Streams:
    """The subscriptions, and their packets; no thread and no socket of its own.

    Parameters
    ----------
    separator, rings
        whose sources, and the tap they come from.
    send
        `send(data, destination)`; an OSError means that this packet is lost.
    clock
        s, for the leases.

    Raises
    ------
    ValueError
        `rings` has not one tap channel for each channel of each source.
    """

    def __init__(
        self, separator: Separator, rings: Rings, send: Callable[[bytes, Address], object], clock: Callable[[], float]
    ) -> None:
        self.running: list[Stream] = []
        self.counts = {"packets": 0, "lost_frames": 0, "failed_packets": 0}
        self._sources = separator.sources
        self._channels = separator.channels
        self._sample_rate = separator.sample_rate
        self._rings, self._send, self._clock = rings, send, clock
        self._last_id = 0
        expected = len(self._sources) * self._channels
        if rings.tap.shape[1] != expected:
            raise ValueError(f"tap_channels={rings.tap.shape[1]}: expected {expected}, each source with each channel")
        self.frames_per_packet = _frames_per_packet(separator.geometry.hop_length, self._channels)

    def subscribe(self, source: str, client: Address, destination: Address) -> Stream:
        """Send `source` to `destination` from now on for `LEASE`; the same once more renews it.

        Raises
        ------
        ValueError
            no such source, or `MAX_STREAMS` are running.
        """
        first, count = self._span(source)
        for stream in self.running:
            if (stream.source, stream.destination) == (source, destination):
                stream.client = client
                stream.expires = self._clock() + LEASE
                return stream
        if len(self.running) >= MAX_STREAMS:
            raise ValueError(f"streams={len(self.running)} are running: expected fewer than {MAX_STREAMS}; unsubscribe one")
        self._last_id += 1
        frames = np.zeros((self.frames_per_packet, count), np.float32)
        expires, position = self._clock() + LEASE, rings.position(self._rings.header, rings.TAP_WRITE)
        self.running.append(Stream(self._last_id, source, client, destination, expires, position, first, frames))
        return self.running[-1]

    def _span(self, source: str) -> tuple[int, int]:
        """The tap's first channel and number of channels that `source` is made of."""
        if source in self._sources:
            return self._sources.index(source) * self._channels, self._channels
        if source == MIX:
            return 0, len(self._sources) * self._channels
        names = ", ".join((*self._sources, MIX))
        raise ValueError(f"source {reprlib.repr(source)} is unknown: expected one of {names}")

    def unsubscribe(self, who: Address, source: str | None = None) -> list[Stream]:
        """End the streams that `who` subscribed or gets, all or those of `source`; the ended ones."""
        if source is not None:
            self._span(source)
        ended = [s for s in self.running if who in (s.client, s.destination) and source in (None, s.source)]
        self.running = [s for s in self.running if s not in ended]
        return ended

    def renew(self, client: Address) -> None:
        """A sign of life of `client`: its streams go on for `LEASE` from now."""
        for stream in self.running:
            if client in (stream.client, stream.destination):
                stream.expires = self._clock() + LEASE

    def pump(self) -> None:
        """Send each listener what the tap has for it; end the streams whose lease is over."""
        now = self._clock()
        self.running = [s for s in self.running if s.expires > now]
        for stream in self.running:
            if rings.position(self._rings.header, rings.TAP_WRITE) < stream.position:
                stream.position = 0  # the daemon cleared the rings and starts anew
            self._serve(stream)

    def _serve(self, stream: Stream) -> None:
        for _ in range(BURST):
            found = rings.read_tap(self._rings, stream.position, stream.first_channel, stream.frames)
            if found == 0:
                return
            if found < 0:  # live sound: go on with the newest
                newest = rings.position(self._rings.header, rings.TAP_WRITE)
                self.counts["lost_frames"] += newest - stream.position
                stream.position = newest
                return
            self._send_packet(stream)

    def _send_packet(self, stream: Stream) -> None:
        frames = len(stream.frames)
        try:
            self._send(self._packet(stream), stream.destination)
        except OSError:  # full socket buffer, unreachable host: this listener's loss alone
            self.counts["failed_packets"] += 1
            self.counts["lost_frames"] += frames
        else:
            self.counts["packets"] += 1
            stream.sequence = (stream.sequence + 1) % 2**31
        stream.position += frames

    def _packet(self, stream: Stream) -> bytes:
        """The OSC message, built by hand: python-osc would parse each blob again."""
        # (frames, sources, channels) -> (frames, channels): one source stays as it is, the mix is summed
        sound = stream.frames.reshape(len(stream.frames), -1, self._channels).sum(axis=1)
        numbers = (stream.id, stream.sequence, stream.position, self._sample_rate, self._channels, sound.nbytes)
        return _HEADER.pack(AUDIO.encode(), b",iihdib\0", *numbers) + sound.astype("<f4", copy=False).tobytes()


# -------------------------------------------------------------------------------------------------------------- the table


class Argument(NamedTuple):
    """One argument of a message to the server. `convert` raises TypeError or ValueError on what it does not take."""

    name: str
    types: str
    range: str
    convert: Callable[[Any], Any]
    optional: bool = True

    def read(self, value: object) -> Any:
        """The argument's value; ValueError if it is ill-typed or out of range."""
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.name}={reprlib.repr(value)}: expected {self.types}, {self.range}") from None

    def __str__(self) -> str:
        return f"[{self.name}]" if self.optional else self.name


class Ask(NamedTuple):
    """Who asks, and the source in the address ("" where it has none)."""

    sender: Address
    source: str


class Row(NamedTuple):
    """One address of the OSC surface. Without a handler it is a message that the server sends."""

    address: str  # `<name>` stands for each source's name
    arguments: tuple[Argument, ...]
    reply: str
    help: str
    handler: Callable[..., list[Value]] | None = None  # handler(server, ask, *arguments) -> the reply's arguments
    reply_address: str = ""  # "": the same address

    @property
    def usage(self) -> str:
        """The arguments, as an error message tells them."""
        return " ".join(map(str, self.arguments)) or "no arguments"

    def read(self, message: Message) -> list[Any]:
        """The arguments of `message`, checked; ValueError says what was expected."""
        if message.arguments is None:
            raise ValueError(f"type tags {reprlib.repr(message.tags)} are unknown: expected {self.usage}")
        count = len(message.arguments)
        if not sum(not a.optional for a in self.arguments) <= count <= len(self.arguments):
            raise ValueError(f"arguments={count}: expected {self.usage}")
        return [a.read(value) for a, value in zip(self.arguments, message.arguments, strict=False)]


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    return float(value)


def _switch(value: Any) -> bool:
    if not isinstance(value, int | float) or value != value:
        raise TypeError
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _port(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 65535:
        raise ValueError
    return value


def _gain(server: OscServer, ask: Ask, db: float | None = None) -> list[Value]:
    return [server.separator.gain(ask.source) if db is None else server.separator.set_gain(ask.source, db)]


def _mute(server: OscServer, ask: Ask, mute: bool | None = None) -> list[Value]:
    if mute is not None:
        server.separator.set_mute(ask.source, mute)
    return [int(server.separator.mute(ask.source))]


def _bypass(server: OscServer, ask: Ask, on: bool | None = None) -> list[Value]:
    if on is not None:
        server.separator.bypass = on
    return [int(server.separator.bypass)]


def _status(server: OscServer, ask: Ask) -> list[Value]:
    return [part for pair in server.status().items() for part in pair]


def _version(server: OscServer, ask: Ask) -> list[Value]:
    return [__version__]


def _destination(sender: Address, port: int | None) -> Address:
    return sender if port is None else (sender[0], port, *sender[2:])


def _subscribe(server: OscServer, ask: Ask, source: str, port: int | None = None) -> list[Value]:
    stream = server.streams.subscribe(source, ask.sender, _destination(ask.sender, port))
    separator = server.separator
    return [source, stream.id, separator.sample_rate, separator.channels, len(stream.frames)]


def _unsubscribe(server: OscServer, ask: Ask, source: str | None = None, port: int | None = None) -> list[Value]:
    ended = server.streams.unsubscribe(_destination(ask.sender, port), source)
    return [part for stream in ended for part in (stream.source, stream.id)]


_SWITCH = "i, f, T or F", "0 or F: off, else on", _switch
_SOURCE = "s", f"a source's name or {MIX}", _text
_PORT = Argument("port", "i", "1 to 65535; default: the sender's", _port)
_GAIN = Argument("gain", "f, i, d, h or a numeric s", f"dB, clamped to {GAIN_DB[0]:g} to {GAIN_DB[1]:g}", _number)

ROWS = (
    Row("/streamsep/source/<name>/gain", (_GAIN,), "gain f (dB)", "set or query a source's gain", _gain),
    Row("/streamsep/source/<name>/mute", (Argument("mute", *_SWITCH),), "mute i", "set or query a source's mute", _mute),
    Row(
        "/streamsep/bypass",
        (Argument("bypass", *_SWITCH),),
        "bypass i",
        "set or query: the first source carries the delayed input, the others are silent",
        _bypass,
    ),
    Row("/streamsep/status", (), f"`{STATUS_REPLY}`", "ask for all figures", _status, STATUS_REPLY),
    Row("/streamsep/version", (), "version s", "ask for the program's version", _version),
    Row(
        "/streamsep/audio/subscribe",
        (Argument("source", *_SOURCE, optional=False), _PORT),
        "source s, stream_id i, sample_rate i, channels i, frames_per_packet i",
        f"get a source as packets for {LEASE:g} s; any message from the same port renews all its streams",
        _subscribe,
    ),
    Row(
        "/streamsep/audio/unsubscribe",
        (Argument("source", *_SOURCE), _PORT),
        "source s, stream_id i for each ended stream",
        "end the sender's streams, all or those of a source",
        _unsubscribe,
    ),
    Row(
        AUDIO,
        (),
        "stream_id i, sequence i, sample_index h, sample_rate d, channels i, frames b",
        "sound: interleaved little-endian float32 frames",
    ),
    Row(STATUS_REPLY, (), "key s, value i, f or s, and so on", "the answer to `/streamsep/status`"),
    Row(ERROR, (), "address s, reason s", "the answer to a message that cannot be obeyed"),
)
_SENT = {row.address for row in ROWS if row.handler is None}


def table() -> list[tuple[str, str, str, str]]:
    """The OSC surface: address, arguments, reply (or content of what the server sends), help."""
    lines = []
    for row in ROWS:
        arguments = "; ".join(f"{a}: {a.types} ({a.range})" for a in row.arguments) or "none"
        lines.append((f"`{row.address}`", arguments if row.handler else "*sent by streamsep*", row.reply, row.help))
    return lines


def markdown() -> str:
    """`table()` for the README."""
    head = [("address", "arguments ([optional])", "reply", "what it does"), ("---",) * 4]
    return "\n".join("| " + " | ".join(line) + " |" for line in [*head, *table()])


# ------------------------------------------------------------------------------------------------------------- the server


class OscServer:
    """Listens for OSC on one UDP port, in one thread, from `start` to `stop`.

    Parameters
    ----------
    separator
        whose gains, mutes and bypass it sets.
    rings
        whose tap the listeners get.
    host, port
        where to listen; port 0 takes any free one (see `port`).
    status
        figures for `/streamsep/status`; called in the server's thread, so it must be quick.
    clock
        s, for the listeners' leases.

    Raises
    ------
    ValueError
        `rings` was not made for this separator, or no such port can be.
    """

    def __init__(
        self,
        separator: Separator,
        rings: Rings,
        host: str = "127.0.0.1",
        port: int = 9000,
        status: Callable[[], Mapping[str, Value]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port={port} is out of range: expected 0 to 65535")
        self.separator = separator
        self.status = status
        self.streams = Streams(separator, rings, self._send, clock)
        self._host, self._port = host, port
        self._rings = rings
        self._counts = {"messages": 0, "malformed": 0, "refused": 0, "socket_errors": 0}
        self._targets = {
            row.address.replace("<name>", name): (row, name)
            for row in ROWS
            if row.handler
            for name in (separator.sources if "<name>" in row.address else [""])
        }
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port listened on; before the first `start` the one asked for."""
        return self._port

    @property
    def counts(self) -> dict[str, int]:
        """Messages taken, malformed packets, messages refused, socket errors; streams, packets and frames lost."""
        return self._counts | {"streams": len(self.streams.running)} | self.streams.counts

    def start(self) -> None:
        """Open the socket and begin to answer.

        Raises
        ------
        OscError
            the host or port cannot be had.
        RuntimeError
            it runs already.
        """
        if self._thread is not None:
            raise RuntimeError(f"the OSC server on port {self.port} runs already: call stop() first")
        # Compile, or load from Numba's cache, before sound runs.
        rings.read_tap(self._rings, 0, 0, np.empty((1, 1), np.float32))
        self._socket = _open(self._host, self._port)
        self._port = self._socket.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="streamsep-osc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the socket, in `STOP_WITHIN` at most; harmless when it does not run."""
        if self._thread is None:
            return
        self._wake.close()
        self._thread.join(STOP_WITHIN)
        self._socket.close()
        self._woken.close()
        self._thread = None
        self.streams.running.clear()

    def __enter__(self) -> OscServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ----------------------------------------------------------------------------------------------------- its thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                events = selector.select(POLL if self.streams.running else None)
                ready = [key.fileobj for key, _ in events]
                if self._socket in ready:
                    self._receive()
                self.streams.pump()  # when told to end, too: the last hops are out
                if self._woken in ready:
                    return

    def _receive(self) -> None:
        for _ in range(RECEIVE):
            try:
                packet, sender = self._socket.recvfrom(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:  # Windows reports here that an earlier packet reached nobody
                self._counts["socket_errors"] += 1
                return
            self.handle(packet, sender)

    def handle(self, packet: bytes, sender: Address) -> None:
        """Obey one packet, whatever is in it, and answer `sender`."""
        try:
            messages = [parse(data) for data in split(packet)]
        except Exception:  # see `parse`; there is nobody to tell but the counter
            self._counts["malformed"] += 1
            return
        for message in messages:
            if message.address not in _SENT:  # else two servers, or one that listens to itself, would go on for ever
                self._counts["messages"] += 1
                self.streams.renew(sender)
                self._answer(message, sender)

    def _answer(self, message: Message, sender: Address) -> None:
        targets = self._find(message.address)
        if not targets:
            self._refuse(message.address, self._unknown(), sender)
        for address in targets:
            row, source = self._targets[address]
            try:
                assert row.handler
                values = row.handler(self, Ask(sender, source), *row.read(message))
                reply = build_msg(row.reply_address or address, values).dgram
            except ValueError as error:
                self._refuse(address, str(error), sender)
            except Exception as error:  # `status` is not ours: its faults end a message, not the thread
                self._refuse(address, f"failed: {type(error).__name__}: {error}", sender)
            else:
                self._reply(reply, sender)

    def _find(self, address: str) -> list[str]:
        """The addresses that a message's address, or pattern, means."""
        if address in self._targets:
            return [address]
        if len(address) > MAX_ADDRESS or not set(address) & set("?*[{"):
            return []
        return [target for target in self._targets if matches(address, target)]

    def _unknown(self) -> str:
        known = ", ".join(row.address for row in ROWS if row.handler)
        return f"address is unknown: expected one of {known} with <name> one of {', '.join(self.separator.sources)}"

    def _refuse(self, address: str, reason: str, sender: Address) -> None:
        self._counts["refused"] += 1
        self._reply(build_msg(ERROR, [address[:MAX_ADDRESS], " ".join(reason.split())]).dgram, sender)

    def _reply(self, data: bytes, sender: Address) -> None:
        try:
            self._send(data, sender)
        except OSError:  # who asked has gone, or its buffer is full
            self._counts["socket_errors"] += 1

    def _send(self, data: bytes, destination: Address) -> None:
        self._socket.sendto(data, destination)


def _open(host: str, port: int) -> socket.socket:
    """A bound, non-blocking UDP socket; OscError names the flag that cures."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OscError(f"OSC host {host!r} is unknown ({reason}): choose another with --osc-host") from error
    # "localhost" means both; OSC programs are at home on IPv4
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    opened = socket.socket(family, kind, protocol)
    opened.setblocking(False)
    try:
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise OscError(_why(host, port, error)) from error
    return opened


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"OSC port {port} on {host} is in use: choose another with --osc-port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"OSC host {host} is not an address of this machine: choose another with --osc-host"
    return f"OSC port {port} on {host} cannot be opened ({error.strerror}): choose another with --osc-port"
