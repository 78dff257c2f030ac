"""The addresses that steer the sound: each sets one of the engine's controls, or asks for it (see `streamsep.controls`).

Where there are several streams each has all of them below `/streamsep/stream/<n>`. Those without a number then steer the first
stream, but for panic and reset, which somebody reaches for in a hurry: they are for all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine import GAIN_DB, Engine
from .host import Value
from .row import Argument, Ask, Place, Row, number, parameter, switch, told

if TYPE_CHECKING:
    from .server import OscServer

ALL, ONE = "/streamsep", "/streamsep/stream/<n>"


def _source(prefix: str, value: Argument, help: str) -> Row:
    """A control that each source has: `Engine.gain(source)` and `Engine.set_gain(source, gain)`."""
    get: Callable[[Engine, str], Value] = getattr(Engine, value.name)
    set: Callable[[Engine, str, Any], Value] = getattr(Engine, f"set_{value.name}")
    return parameter(
        f"{prefix}/source/<name>/{value.name}",
        value,
        help,
        lambda server, place: _told(get(server.engines[place.stream], place.source)),
        lambda server, place, wanted: _told(set(server.engines[place.stream], place.source, wanted)),
        timed=True,
    )


def _whole(address: str, name: str, value: Argument, help: str, everywhere: bool = False) -> Row:
    """A control of a whole stream, or of all: the property `name` of an `Engine`; what is set is what comes clamped."""

    def set(server: OscServer, place: Place, wanted: Any) -> Value:
        for engine in server.engines if everywhere else [server.engines[place.stream]]:
            setattr(engine, name, wanted)
        return _told(wanted)

    return parameter(
        address, value, help, lambda server, place: _told(getattr(server.engines[place.stream], name)), set, timed=True
    )


def _told(value: Value) -> Value:
    return int(value) if isinstance(value, bool) else value


def _reset(server: OscServer, ask: Ask) -> list[Value]:
    server.engines[ask.place.stream].forget()
    return []


def _reset_all(server: OscServer, ask: Ask) -> list[Value]:
    for engine in server.engines:
        engine.forget()
    return []


def _rows(prefix: str) -> tuple[Row, ...]:
    gain, every = number("gain", "dB", *GAIN_DB), prefix == ALL
    return (
        _source(prefix, gain, "a source's gain"),
        _source(prefix, switch("mute"), "a source's mute"),
        _source(prefix, switch("solo"), "a source's solo: while any is on, the others are silent; mute wins"),
        _whole(f"{prefix}/output/gain", "output_gain", gain, "gain of all that goes out"),
        _whole(
            f"{prefix}/wet", "wet", number("wet", "", 0, 1), "share of the sources in the mix; the rest is the delayed input"
        ),
        _whole(
            f"{prefix}/bypass", "bypass", switch("bypass"), "the first source carries the delayed input, the others nothing"
        ),
        _whole(f"{prefix}/panic", "panic", switch("panic"), "silence within a hop, until it is off again", everywhere=every),
        Row(
            f"{prefix}/reset",
            (),
            "forget all that was heard; a few hops of silence",
            _reset_all if every else _reset,
            steers=True,
            timed=True,
        ),
    )


STEERING = _rows(ALL)
STREAMS = (
    parameter(
        f"{ONE}/active",
        switch("active"),
        "whether a stream takes part: it leaves and joins with a fade, with nothing remembered, and disturbs no other",
        lambda server, place: int(server.host.active(place.stream)),
        lambda server, place, on: int(server.host.activate(place.stream, on)),
    ),
    parameter(f"{ONE}/name", told("name", "s"), "a stream's name", lambda server, place: server.lines[place.stream].name),
    *_rows(ONE),
)
