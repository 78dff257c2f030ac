"""The listeners, and the sound packets they get: from the rings, without the audio path knowing of it.

Packets are `packet.py`'s. Frame n of a source and of the mix holds the input's frame n - (S - H), S the engine's latency
and H its hop; frame n of the input is frame n. So one `sample_index` means one moment in all streams of a daemon; `delay` in
the format message tells S - H. A stream that begins anew, because the daemon does, gets a new id: what is still under way
from before cannot be mistaken for it.

A stream lives on a lease, for UDP does not tell that a listener has gone. And it flows to no address that has not shown that it
wants it: the sender of a UDP packet is whoever it says it is, so a forged one could turn a stream on somebody. What is known:

    TCP, WebSocket                  the connection itself is the proof
    UDP on this machine             the sender's own port, and ports that have sent something themselves
    other ports, other machines     `/streamsep/audio/challenge token` goes there, and `/streamsep/audio/confirm token` must
                                    come back from that host; until then nothing else goes (see `CHALLENGE_EVERY`)

This module knows no thread, no socket and no clock but the ones it is given, and of OSC only the messages that it sends: which
messages begin, renew and end a stream is the surface's affair.
"""

from __future__ import annotations

import ipaddress
import reprlib
import secrets
import time
from collections.abc import Callable, Iterable

import numpy as np
from pythonosc.osc_message_builder import build_msg

from .. import rings
from ..engine import Engine
from ..rings import TAP_WRITE, Rings, position
from .client import Client
from .leases import LEASE
from .packet import PAYLOAD, SEQUENCES, Packet, frames_in, pack
from .ratemeter import RateMeter
from .stream import CHALLENGE, ENCODINGS, INPUT, MIX, Stream, read_input

MAX_STREAMS = 16
IDS = 65_535  # 1 to here: two bytes and a float32 hold them, which is what patches have
MAX_HEARD = 256  # clients of this machine that are remembered; the oldest are forgotten first
BURST = 16  # packets for one stream in a row: what has piled up must not flood the listener's socket
SHORTEST = 0.001  # s of sound in a packet: shorter ones would be a flood of our own
FORMAT_EVERY = 1.0  # s
CHALLENGE_EVERY = 1.0  # s: an address gets one for a subscription to it, and no more than that


class Streams:
    """The subscriptions, and their packets; no thread and no socket of its own.

    Parameters
    ----------
    separator, rings
        whose sources, and where their sound is.
    clock
        s, for leases and for the measured rate.

    Raises
    ------
    ValueError
        `rings` has not one tap channel for each channel of each source.
    """

    def __init__(self, separator: Engine, rings: Rings, clock: Callable[[], float] = time.monotonic) -> None:
        self.running: list[Stream] = []
        self._ended = {"packets": 0, "lost_frames": 0, "failed_packets": 0}
        self._clock = clock
        self._last_id = secrets.randbelow(IDS)  # a daemon that starts again must not seem to go on
        self._heard: dict[Client, None] = {}  # in the order in which they were last heard
        self._use(separator, rings)

    def _use(self, separator: Engine, rings: Rings) -> None:
        expected = len(separator.sources) * separator.channels
        if rings.tap.shape[1] != expected:
            raise ValueError(f"tap_channels={rings.tap.shape[1]}: expected {expected}, each source with each channel")
        self._separator, self._rings = separator, rings
        self._hop = separator.geometry.hop_length
        self._meter = RateMeter(separator.sample_rate)

    def attach(self, separator: Engine, rings: Rings) -> None:
        """Go on with another engine and its rings; streams of sources that it does not have end."""
        self._use(separator, rings)
        self._end(s for s in self.running if s.source not in self.sources)
        for stream in self.running:
            self._again(stream)

    @property
    def sources(self) -> tuple[str, ...]:
        """What can be subscribed to."""
        return (*self._separator.sources, MIX, INPUT)

    @property
    def counts(self) -> dict[str, int]:
        """Packets sent, frames lost and packets refused by the network, of all streams, those that have ended included."""
        return {key: count + sum(s.counts[key] for s in self.running) for key, count in self._ended.items()}

    # -------------------------------------------------------------------------------------------------- begin and end

    def subscribe(
        self,
        source: str,
        client: Client,
        destination: Client,
        encoding: str = ENCODINGS[0],
        frames: int = 0,
        channels: int = 0,
    ) -> Stream:
        """Send `source` to `destination` from now on for `LEASE`; the same once more renews it.

        `frames` in a packet are held to what the network takes; 0: a hop, cut evenly. `channels`: 0 all of the
        engine's, 1 their mean, n the first n; 2 of mono are twice the same.

        Raises
        ------
        ValueError
            no such source, encoding or channels, or `MAX_STREAMS` are running.
        """
        if encoding not in ENCODINGS:
            raise ValueError(f"encoding={reprlib.repr(encoding)}: expected one of {', '.join(ENCODINGS)}")
        most = max(2, self._separator.channels)
        if not 0 <= channels <= most:
            raise ValueError(f"channels={channels}: expected 0 to {most}")
        first, count = self._span(source)
        channels = channels or self._separator.channels
        frames = self.frames_per_packet(channels, encoding, frames)
        for stream in self.running:
            if (stream.source, stream.destination) == (source, destination):
                if (stream.encoding, stream.channels, len(stream.frames)) == (encoding, channels, frames):
                    self._known(stream, client)
                    return stream
                self._end([stream])
                break
        self._make_room()
        stream = Stream(
            id=self._next_id(),
            source=source,
            client=client,
            destination=destination,
            encoding=encoding,
            sample_rate=self._separator.sample_rate,
            channels=channels,
            delay=0 if source == INPUT else self._separator.latency - self._hop,
            expires=self._clock() + LEASE,
            position=position(self._rings.header, TAP_WRITE),
            first_channel=first,
            frames=np.zeros((frames, count), np.float32),
            token="" if self._proven(client, destination) else f"t{secrets.token_hex(6)}",
        )
        self.running.append(stream)
        self._tell(stream)
        return stream

    def frames_per_packet(self, channels: int, encoding: str, frames: int = 0) -> int:
        """What is asked for, as far as packets may be that long or short; for 0 a hop, cut evenly."""
        most = frames_in(PAYLOAD, channels, encoding)
        if frames:
            return max(min(frames, most), min(most, round(SHORTEST * self._separator.sample_rate)))
        return _even(self._hop, most)

    def _span(self, source: str) -> tuple[int, int]:
        """The tap's first channel and number of channels that `source` is made of."""
        sources, channels = self._separator.sources, self._separator.channels
        if source in sources:
            return sources.index(source) * channels, channels
        if source == MIX:
            return 0, len(sources) * channels
        if source == INPUT:
            return 0, channels
        raise ValueError(f"source {reprlib.repr(source)} is unknown: expected one of {', '.join(self.sources)}")

    def _known(self, stream: Stream, client: Client) -> None:
        """A subscription to what runs already, or waits to be confirmed."""
        stream.client = client
        if stream.token and self._proven(client, stream.destination):
            stream.token = ""
        if stream.confirmed:
            stream.expires = self._clock() + LEASE
        elif self._clock() - stream.told_at >= CHALLENGE_EVERY:
            self._tell(stream)

    def _make_room(self) -> None:
        """Waiting ones give way: nobody can keep others out with subscriptions that are never confirmed."""
        if len(self.running) < MAX_STREAMS:
            return
        waiting = next((s for s in self.running if not s.confirmed), None)
        if waiting is None:
            raise ValueError(f"streams={MAX_STREAMS} are running: expected fewer than {MAX_STREAMS}; unsubscribe one")
        self._end([waiting])

    def _next_id(self) -> int:
        self._last_id = self._last_id % IDS + 1
        return self._last_id

    def _proven(self, client: Client, destination: Client) -> bool:
        """Whether `destination` has shown that it wants what is sent there (see the module's text)."""
        if destination.kind != "udp":
            return True
        if ipaddress.ip_address(destination.host.partition("%")[0]).is_loopback:
            return destination == client or destination in self._heard
        return any(s.destination == destination and s.confirmed for s in self.running)

    def confirm(self, client: Client, token: str) -> list[Stream]:
        """Whoever knows `token` gets what is sent where it went, and wants it: the streams that now flow there.

        The answer may come from another port of that host: many programs send from one and listen on another.

        Raises
        ------
        ValueError
            no such token was sent to that host and still waits for an answer.
        """
        waiting = [s for s in self.running if s.token and s.destination.host == client.host]
        found = [s for s in waiting if secrets.compare_digest(s.token.encode(), token.encode())]
        if not found:
            raise ValueError(f"token={reprlib.repr(token)}: expected one that was sent to this host in the last {LEASE:g} s")
        begun = [s for s in waiting if s.destination == found[0].destination]  # one proof is enough
        for stream in begun:
            stream.token = ""
            stream.expires = self._clock() + LEASE
            stream.position = position(self._rings.header, TAP_WRITE)
            self._tell(stream)
        return begun

    def unsubscribe(self, who: Client, source: str | None = None) -> list[Stream]:
        """End the streams that `who` subscribed or gets, all or those of `source`; the ended ones."""
        if source is not None:
            self._span(source)
        ended = [s for s in self.running if who in (s.client, s.destination) and source in (None, s.source)]
        self._end(ended)
        return ended

    def renew(self, client: Client) -> None:
        """A sign of life of `client`: its streams go on for `LEASE` from now."""
        self._heard.pop(client, None)
        self._heard[client] = None
        if len(self._heard) > MAX_HEARD:
            del self._heard[next(iter(self._heard))]
        for stream in self.running:
            if stream.confirmed and client in (stream.client, stream.destination):
                stream.expires = self._clock() + LEASE

    def _end(self, streams: Iterable[Stream]) -> None:
        for stream in list(streams):
            self.running.remove(stream)
            for key, count in stream.counts.items():
                self._ended[key] += count

    def _again(self, stream: Stream) -> None:
        """The same subscription from the beginning: other numbers, so another id."""
        separator = self._separator
        stream.first_channel, count = self._span(stream.source)
        stream.channels = min(stream.channels, max(2, separator.channels))
        frames = self.frames_per_packet(stream.channels, stream.encoding, len(stream.frames))
        stream.frames = np.zeros((frames, count), np.float32)
        stream.sample_rate = separator.sample_rate
        stream.delay = 0 if stream.source == INPUT else separator.latency - self._hop
        stream.id, stream.sequence, stream.position = self._next_id(), 0, 0
        stream.told_at = -np.inf

    # --------------------------------------------------------------------------------------------------------- sending

    def pump(self) -> None:
        """Send each listener what there is for it; end the streams whose lease is over. To be called every few ms."""
        now = self._clock()
        self._end(s for s in self.running if s.expires <= now)
        written = position(self._rings.header, TAP_WRITE)
        self._meter.observe(now, int(written))
        for stream in self.running:
            if not stream.confirmed:
                continue
            if written < stream.position:  # the rings were cleared: the daemon starts anew
                self._again(stream)
            if now - stream.told_at >= FORMAT_EVERY:
                self._tell(stream)
            self._serve(stream)

    def _tell(self, stream: Stream) -> None:
        """The format message, or what must come back before."""
        stream.told_at = self._clock()
        message = stream.format if stream.confirmed else build_msg(CHALLENGE, [stream.token, stream.id]).dgram
        try:
            stream.destination.send(message)
        except OSError:
            stream.counts["failed_packets"] += 1

    def _serve(self, stream: Stream) -> None:
        for _ in range(BURST):
            found = self._read(stream)
            if found == 0:
                return
            if found < 0:  # live sound: go on with the newest
                newest = position(self._rings.header, TAP_WRITE)
                stream.counts["lost_frames"] += newest - stream.position
                stream.position = newest
                return
            self._send(stream)

    def _read(self, stream: Stream) -> int:
        if stream.source == INPUT:
            return int(read_input(self._rings, stream.position, stream.frames))
        return int(rings.read_tap(self._rings, stream.position, stream.first_channel, stream.frames))

    def _send(self, stream: Stream) -> None:
        frames = len(stream.frames)
        try:
            stream.destination.send(pack(self._packet(stream)))
        except OSError:  # full socket buffer, unreachable host: this listener's loss alone
            stream.counts["failed_packets"] += 1
            stream.counts["lost_frames"] += frames
        else:
            stream.counts["packets"] += 1
            stream.sequence = (stream.sequence + 1) % SEQUENCES
        stream.position += frames

    def _packet(self, stream: Stream) -> Packet:
        # (frames, sources, channels) -> (frames, channels): one source stays as it is, the mix is summed
        sound = stream.frames.reshape(len(stream.frames), -1, self._separator.channels).sum(axis=1)
        if stream.channels == 1:
            sound = sound.mean(axis=1, keepdims=True)
        elif stream.channels > sound.shape[1]:
            sound = np.repeat(sound, stream.channels, axis=1)
        return Packet(
            stream.id, stream.sequence, stream.position, self._meter.rate, stream.encoding, sound[:, : stream.channels]
        )


def _even(hop: int, most: int) -> int:
    """How a hop, which comes at once, is cut: into equal packets if it can be, so that none waits for the next hop."""
    fewest = -(-hop // most)
    packets = next((n for n in range(fewest, 2 * fewest) if hop % n == 0), fewest)
    return -(-hop // packets)
