"""The addresses by which clients get sound; the streams themselves are `streams.py`'s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .client import Client
from .host import Value
from .leases import LEASE
from .row import PORT, Ask, Row, text, told
from .streams import AUDIO, MIX

if TYPE_CHECKING:
    from .server import OscServer


def _destination(sender: Client, port: int | None) -> Client:
    return sender if port is None else sender.at(port)


def _subscribe(server: OscServer, ask: Ask, source: str, port: int | None = None) -> list[Value]:
    stream = server.streams.subscribe(source, ask.sender, _destination(ask.sender, port))
    separator = server.separator
    return [source, stream.id, separator.sample_rate, separator.channels, len(stream.frames)]


def _unsubscribe(server: OscServer, ask: Ask, source: str | None = None, port: int | None = None) -> list[Value]:
    ended = server.streams.unsubscribe(_destination(ask.sender, port), source)
    return [part for stream in ended for part in (stream.source, stream.id)]


SOUND = (
    Row(
        "/streamsep/audio/subscribe",
        (text("source", f"a source's name or {MIX}", optional=False), PORT),
        f"get a source as packets for {LEASE:g} s; any message from the same port renews all its streams",
        _subscribe,
        reply="source s, stream_id i, sample_rate i, channels i, frames_per_packet i",
    ),
    Row(
        "/streamsep/audio/unsubscribe",
        (text("source", f"a source's name or {MIX}"), PORT),
        "end the sender's streams, all or those of a source",
        _unsubscribe,
        reply="source s, stream_id i for each ended stream",
    ),
    Row(
        AUDIO,
        (),
        "sound: interleaved little-endian float32 frames",
        told=(
            told("stream_id", "i"),
            told("sequence", "i"),
            told("sample_index", "h"),
            told("sample_rate", "d", "Hz"),
            told("channels", "i"),
            told("frames", "b"),
        ),
    ),
)
