"""The listeners, and the sound packets they get: from the tap (`rings.read_tap`), without the audio path knowing of it.

A sound packet, at most `PAYLOAD` bytes of UDP so that no usual network splits it:

    /streamsep/audio  stream_id i, sequence i, sample_index h, sample_rate d, channels i, blob b

with interleaved little-endian float32 frames in the blob. `sample_index` is the position of its first frame in the tap: frames
since the stream was armed, 0 again when the daemon starts it anew; frame n holds the input's frame n - (S - H), S the engine's
latency and H its hop. `sequence` counts the packets handed to the network and wraps at 2^31. So a gap in both is the network's
loss, and a jump of `sample_index` without one in `sequence` is sound that this end lost: overwritten before it was read, or
refused by the socket.

A stream lives on a lease: UDP does not tell that a listener has gone. This module knows no thread, no socket and no clock but
the ones it is given, and of OSC only its one packet: which messages begin, renew and end a stream is the surface's affair.
"""

from __future__ import annotations

import reprlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import rings
from ..engine import Separator
from ..rings import Rings

LEASE = 10.0  # s a listener is served without a sign of life
MAX_STREAMS = 16
PAYLOAD = 1432  # bytes: a usual MTU of 1500 less IPv6's and UDP's headers and a tunnel's 20
BURST = 16  # packets for one stream in a row: what has piled up must not flood the listener's socket
MIX = "mix"
AUDIO = "/streamsep/audio"

Address = tuple[Any, ...]  # as the socket module has it: (host, port), for IPv6 two more

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
