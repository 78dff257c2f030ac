"""What an address is made of: its arguments, what it tells, and the few lines that obey it.

From these rows come the handlers, the table of docs/osc.md, the command line's help and the OSCQuery tree. An argument is
checked here, by name, before a handler sees it; a handler's return value is the reply, so it is the value really set and not
the one asked for. This module knows no address.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, NamedTuple

from .client import Client
from .host import Value
from .wire import Message

if TYPE_CHECKING:
    from .server import OscServer

_WORDS = {"on": True, "true": True, "off": False, "false": False}


class Argument(NamedTuple):
    """One argument of a message, to us or from us. `convert` raises TypeError or ValueError on what it does not take."""

    name: str
    tag: str  # the type tag under which its value is told
    takes: str  # the type tags that are taken, for people
    range: str  # for people
    convert: Callable[[Any], Any] = lambda value: value
    optional: bool = True
    low: float | None = None  # what OSCQuery calls RANGE ...
    high: float | None = None
    values: tuple[Value, ...] = ()
    unit: str = ""  # ... and UNIT
    clamps: bool = False  # what lies outside the range is set to its end, not refused

    def read(self, value: object) -> Any:
        """The argument's value; ValueError if it is ill-typed or out of range."""
        try:
            return self.convert(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"{self.name}={reprlib.repr(value)}: expected {self.takes}, {self.range}") from None

    def __str__(self) -> str:
        return f"[{self.name}]" if self.optional else self.name


class Place(NamedTuple):
    """What an address names: the source ("" where it has none), and the stream, from 0 (the first where it has none)."""

    source: str = ""
    stream: int = 0


class Ask(NamedTuple):
    """Who asks, and for what."""

    sender: Client
    place: Place


Handler = Callable[Concatenate["OscServer", Ask, ...], list[Value]]  # (server, ask, *arguments) -> the reply's arguments
Getter = Callable[["OscServer", Place], list[Value]]  # -> the values that hold now


class Row(NamedTuple):
    """One address of the OSC surface. Without a handler it is a message that the server sends."""

    address: str  # `<name>` stands for each source's name, `<n>` for each stream's number, or its name
    arguments: tuple[Argument, ...]
    help: str
    handler: Handler | None = None
    get: Getter | None = None  # the value, for feedback and OSCQuery; None: it has none
    told: tuple[Argument, ...] = ()  # what a reply holds; (): the arguments
    reply: str = ""  # the same for people, where `told` cannot say it
    reply_address: str = ""  # "": the same address
    steers: bool = False  # with an argument it changes sound or daemon: refused where only reading is allowed
    timed: bool = False  # may wait in a bundle for its time
    slow: bool = False  # a figure that always moves: feedback once a second

    @property
    def usage(self) -> str:
        """The arguments, as an error message tells them."""
        return " ".join(map(str, self.arguments)) or "no arguments"

    @property
    def values(self) -> tuple[Argument, ...]:
        """What the address holds, or its messages carry."""
        return self.told or self.arguments

    @property
    def types(self) -> str:
        """OSCQuery's TYPE: the type tags of `values`."""
        return "".join(value.tag for value in self.values)

    @property
    def access(self) -> int:
        """OSCQuery's ACCESS: 1 can be read, 2 can be written, 3 both."""
        return (1 if self.get or not self.handler else 0) | (2 if self.handler and (self.arguments or not self.get) else 0)

    @property
    def content(self) -> str:
        """What a reply, or a message of ours, holds; for people."""
        if self.reply:
            return self.reply
        parts = (f"{v.name} {v.tag}" + (f" ({v.unit})" if v.unit else "") for v in self.values)
        return ", ".join(parts) or "no arguments"

    def read(self, message: Message) -> list[Any]:
        """The arguments of `message`, checked; ValueError says what was expected."""
        if not self.arguments and message.tags in (",N", ",I"):
            return []  # OSCQuery clients send nil or an impulse to what has no arguments
        if message.arguments is None:
            raise ValueError(f"type tags {reprlib.repr(message.tags)} are unknown: expected {self.usage}")
        count = len(message.arguments)
        if not sum(not a.optional for a in self.arguments) <= count <= len(self.arguments):
            raise ValueError(f"arguments={count}: expected {self.usage}")
        return [a.read(value) for a, value in zip(self.arguments, message.arguments, strict=False)]


def parameter(
    address: str,
    value: Argument,
    help: str,
    get: Callable[[OscServer, Place], Value],
    set: Callable[[OscServer, Place, Any], Value] | None = None,
    timed: bool = False,
    slow: bool = False,
) -> Row:
    """A row with one value: with an argument the message sets it, without one it asks; no `set`: it can only be asked."""

    def handle(server: OscServer, ask: Ask, *values: Any) -> list[Value]:
        return [set(server, ask.place, *values) if values and set else get(server, ask.place)]

    def values(server: OscServer, place: Place) -> list[Value]:
        return [get(server, place)]

    return Row(
        address, (value,) if set else (), help, handle, values, told=(value,), steers=set is not None, timed=timed, slow=slow
    )


# ---------------------------------------------------------------------------------------------------- kinds of arguments


def number(name: str, unit: str, low: float, high: float) -> Argument:
    """A float, clamped to its range; integers and numeric strings are taken too."""

    def convert(value: Any) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise TypeError
        found = float(value)
        if found != found:
            raise ValueError
        return min(max(found, low), high)

    what = f"{unit}, clamped to {low:g} to {high:g}" if unit else f"clamped to {low:g} to {high:g}"
    return Argument(name, "f", "f, i, d, h or a numeric s", what, convert, low=low, high=high, unit=unit, clamps=True)


def switch(name: str) -> Argument:
    """0 or 1, told as an integer; whatever an OSC client's toggle may send is taken."""

    def convert(value: Any) -> bool:
        if isinstance(value, str):
            value = _WORDS[value.lower()] if value.lower() in _WORDS else float(value)
        if not isinstance(value, int | float) or value != value:
            raise TypeError
        return bool(value)

    return Argument(name, "i", "i, f, T, F or s", "0, F or off: off, else on", convert, low=0, high=1)


def whole(name: str, low: int, high: int, says: str = "", optional: bool = True) -> Argument:
    """An integer in its range, or the float of one: some controllers send nothing else. What lies outside is refused."""

    def convert(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value) or not low <= value <= high:
            raise ValueError
        return int(value)

    return Argument(name, "i", "i", says or f"{low} to {high}", convert, optional, low, high)


def text(name: str, says: str, optional: bool = True, values: tuple[Value, ...] = ()) -> Argument:
    """A string."""

    def convert(value: Any) -> str:
        if not isinstance(value, str) or (values and value not in values):
            raise TypeError
        return value

    return Argument(name, "s", "s", says, convert, optional, values=values)


def told(name: str, tag: str, unit: str = "") -> Argument:
    """A value that is only ever told."""
    return Argument(name, tag, "nothing", "read-only", unit=unit)


PORT = whole("port", 1, 65535, "1 to 65535; default: the sender's")
