"""The addresses that steer the sound: each sets one of the engine's controls, or asks for it (see `streamsep.controls`)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..engine import GAIN_DB, Engine
from .host import Value
from .row import Argument, Ask, Row, number, parameter, switch

if TYPE_CHECKING:
    from .server import OscServer

_PLACE = "/streamsep/source/<name>"


def _source(value: Argument, help: str) -> Row:
    """A control that each source has: `Engine.gain(source)` and `Engine.set_gain(source, gain)`."""
    get: Callable[[Engine, str], Value] = getattr(Engine, value.name)
    set: Callable[[Engine, str, Any], Value] = getattr(Engine, f"set_{value.name}")
    return parameter(
        f"{_PLACE}/{value.name}",
        value,
        help,
        lambda server, source: _told(get(server.separator, source)),
        lambda server, source, wanted: _told(set(server.separator, source, wanted)),
        timed=True,
    )


def _whole(address: str, name: str, value: Argument, help: str) -> Row:
    """A control of the whole sound: the property `name` of a `Engine`; what is set is what comes clamped."""

    def set(server: OscServer, _: str, wanted: Any) -> Value:
        setattr(server.separator, name, wanted)
        return _told(wanted)

    return parameter(address, value, help, lambda server, _: _told(getattr(server.separator, name)), set, timed=True)


def _told(value: Value) -> Value:
    return int(value) if isinstance(value, bool) else value


def _reset(server: OscServer, ask: Ask) -> list[Value]:
    server.separator.forget()
    return []


STEERING = (
    _source(number("gain", "dB", *GAIN_DB), "a source's gain"),
    _source(switch("mute"), "a source's mute"),
    _source(switch("solo"), "a source's solo: while any is on, the others are silent; mute wins"),
    _whole("/streamsep/output/gain", "output_gain", number("gain", "dB", *GAIN_DB), "gain of all that goes out"),
    _whole("/streamsep/wet", "wet", number("wet", "", 0, 1), "share of the sources in the mix; the rest is the delayed input"),
    _whole("/streamsep/bypass", "bypass", switch("bypass"), "the first source carries the delayed input, the others nothing"),
    _whole("/streamsep/panic", "panic", switch("panic"), "silence within a hop, until it is off again"),
    Row("/streamsep/reset", (), "forget all that was heard; a few hops of silence", _reset, steers=True, timed=True),
)
