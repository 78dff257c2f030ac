"""The addresses that steer the sound. Each sets one of the engine's controls, or asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..engine import GAIN_DB
from .row import number, parameter, switch

if TYPE_CHECKING:
    from .server import OscServer


def _set_mute(server: OscServer, source: str, on: bool) -> int:
    server.separator.set_mute(source, on)
    return int(on)


def _set_bypass(server: OscServer, source: str, on: bool) -> int:
    server.separator.bypass = on
    return int(on)


STEERING = (
    parameter(
        "/streamsep/source/<name>/gain",
        number("gain", "dB", *GAIN_DB),
        "set or query a source's gain",
        lambda server, source: server.separator.gain(source),
        lambda server, source, db: server.separator.set_gain(source, db),
        timed=True,
    ),
    parameter(
        "/streamsep/source/<name>/mute",
        switch("mute"),
        "set or query a source's mute",
        lambda server, source: int(server.separator.mute(source)),
        _set_mute,
        timed=True,
    ),
    parameter(
        "/streamsep/bypass",
        switch("bypass"),
        "set or query: the first source carries the delayed input, the others are silent",
        lambda server, _: int(server.separator.bypass),
        _set_bypass,
        timed=True,
    ),
)
