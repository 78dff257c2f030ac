"""The addresses by which clients get sound; the streams themselves are `streams.py`'s, the packets `packet.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .host import Value
from .leases import LEASE
from .packet import AUDIO
from .row import Ask, Row, text, told, whole
from .stream import AUDIO_HOLDS, CHALLENGE, ENCODINGS, FORMAT, FORMAT_HOLDS, INPUT, MIX, TOLD

if TYPE_CHECKING:
    from .server import OscServer


def _subscribe(
    server: OscServer, ask: Ask, source: str, port: int = 0, encoding: str = ENCODINGS[0], frames: int = 0, channels: int = 0
) -> list[Value]:
    destination = ask.sender.at(port) if port else ask.sender
    return list(server.streams.subscribe(source, ask.sender, destination, encoding, frames, channels).told)


def _confirm(server: OscServer, ask: Ask, token: str) -> list[Value]:
    return [part for stream in server.streams.confirm(ask.sender, token) for part in (stream.source, stream.id)]


def _unsubscribe(server: OscServer, ask: Ask, source: str | None = None, port: int = 0) -> list[Value]:
    ended = server.streams.unsubscribe(ask.sender.at(port) if port else ask.sender, source)
    return [part for stream in ended for part in (stream.source, stream.id)]


_SOURCE = f"a source's name, {MIX} or {INPUT}"
_PORT = whole("port", 0, 65535, "0 to 65535; 0, the default: the sender's")
_ENDED = "source s, stream_id i for each"

SOUND: tuple[Row, ...] = (
    Row(
        f"{AUDIO}/subscribe",
        (
            text("source", _SOURCE, optional=False),
            _PORT,
            text("encoding", f"{' or '.join(ENCODINGS)}; default: {ENCODINGS[0]}", values=ENCODINGS),
            whole("frames", 0, 65535, "frames in a packet, held to what the network takes; 0, the default: a hop, cut evenly"),
            whole("channels", 0, 64, "0, the default: all; 1: their mean; n: the first n, of mono twice the same"),
        ),
        f"get a source as packets for {LEASE:g} s; any message from the same port renews all its streams",
        _subscribe,
        told=tuple(told(*value) for value in TOLD),
    ),
    Row(
        f"{AUDIO}/confirm",
        (text("token", f"what came with `{CHALLENGE}`", optional=False),),
        "say that the sound is wanted where this comes from",
        _confirm,
        reply=f"{_ENDED} stream that now flows",
    ),
    Row(
        f"{AUDIO}/unsubscribe",
        (text("source", _SOURCE), _PORT),
        "end the sender's streams, all or those of a source",
        _unsubscribe,
        reply=f"{_ENDED} ended stream",
    ),
    Row(
        AUDIO,
        (),
        "sound: interleaved little-endian frames, f32 or s16 (full scale 32768)",
        told=tuple(told(*value) for value in AUDIO_HOLDS),
    ),
    Row(
        FORMAT,
        (),
        "what a stream is: at its beginning and every second",
        told=tuple(told(*value) for value in FORMAT_HOLDS),
    ),
    Row(
        CHALLENGE,
        (),
        f"asks whether sound is wanted here: answer `{AUDIO}/confirm token`",
        told=(told("token", "s"), told("stream_id", "i")),
    ),
)
