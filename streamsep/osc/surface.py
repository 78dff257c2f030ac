"""Every address of the daemon: what it takes, what it answers, and the few lines that obey it.

`ROWS` is the one list: the server dispatches by it, error messages and the README's table are made from it. An argument is
checked here, by name, before a handler sees it; a handler's return value is the reply, so it is the value really set and not
the one asked for. A query is the same message without its argument.

This module knows neither packets nor sockets: a message comes parsed, and a reply, or the ValueError that refuses, goes to
whoever called. It sets nothing by itself: gains, mutes and bypass are the engine's, streams are `streams.py`'s.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, NamedTuple, Protocol

from .. import __version__
from ..engine import GAIN_DB, Separator
from .streams import AUDIO, LEASE, MIX, Address, Streams
from .wire import Message

ERROR, STATUS_REPLY = "/streamsep/error", "/streamsep/status.reply"

Value = int | float | str


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


class Server(Protocol):
    """What a handler gets to see of the server."""

    separator: Separator
    streams: Streams
    status: Callable[[], Mapping[str, Value]]


Handler = Callable[Concatenate[Server, Ask, ...], list[Value]]  # (server, ask, *arguments) -> the reply's arguments


class Row(NamedTuple):
    """One address of the OSC surface. Without a handler it is a message that the server sends."""

    address: str  # `<name>` stands for each source's name
    arguments: tuple[Argument, ...]
    reply: str
    help: str
    handler: Handler | None = None
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


def _gain(server: Server, ask: Ask, db: float | None = None) -> list[Value]:
    return [server.separator.gain(ask.source) if db is None else server.separator.set_gain(ask.source, db)]


def _mute(server: Server, ask: Ask, mute: bool | None = None) -> list[Value]:
    if mute is not None:
        server.separator.set_mute(ask.source, mute)
    return [int(server.separator.mute(ask.source))]


def _bypass(server: Server, ask: Ask, on: bool | None = None) -> list[Value]:
    if on is not None:
        server.separator.bypass = on
    return [int(server.separator.bypass)]


def _status(server: Server, ask: Ask) -> list[Value]:
    return [part for pair in server.status().items() for part in pair]


def _version(server: Server, ask: Ask) -> list[Value]:
    return [__version__]


def _destination(sender: Address, port: int | None) -> Address:
    return sender if port is None else (sender[0], port, *sender[2:])


def _subscribe(server: Server, ask: Ask, source: str, port: int | None = None) -> list[Value]:
    stream = server.streams.subscribe(source, ask.sender, _destination(ask.sender, port))
    separator = server.separator
    return [source, stream.id, separator.sample_rate, separator.channels, len(stream.frames)]


def _unsubscribe(server: Server, ask: Ask, source: str | None = None, port: int | None = None) -> list[Value]:
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
SENT = {row.address for row in ROWS if row.handler is None}  # by us: who sends them here gets no answer


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
