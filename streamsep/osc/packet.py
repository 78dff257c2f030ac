"""Sound in OSC messages: how one packet is written and read. The daemon sends them, takes them in, and `listen` keeps them.

    /streamsep/audio  stream_id i, sequence i, channels i, encoding s, frames b, sample_index h, sample_rate d

The blob holds interleaved little-endian frames: `f32`, IEEE 754 with full scale at 1.0, or `s16`, signed 16-bit integers with
full scale at 32768, rounded to the nearest, not dithered: what is to be measured or processed further goes as f32.
Every packet can be read by itself; whoever comes in late needs nothing that went before.

`sample_index` counts frames up to the blob's first one; `sample_rate` (Hz) is what the sender measures against its monotonic
clock, not what is written on the device. `sequence` counts the packets given to the network and wraps at 2^31. So a gap in both
is the network's loss, and a jump of `sample_index` without one in `sequence` is sound that the sender itself had to leave out.

What not everybody can read comes last: Pure Data's `oscparse` knows neither `h` nor `d`, sclang no `h`, and both lose their
place there. All before it reaches them whole.

This module knows no socket, no clock and no ring.
"""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

AUDIO = "/streamsep/audio"
PAYLOAD = 1432  # bytes: a usual MTU of 1500 less IPv6's and UDP's headers and a tunnel's 20
SEQUENCES = 2**31
CHANNELS = 64  # more in one packet is no sound of ours
DTYPES: dict[str, np.dtype[Any]] = {"f32": np.dtype("<f4"), "s16": np.dtype("<i2")}
FULL_SCALE = 32768  # of s16

_ADDRESS, _TAGS = AUDIO.encode() + b"\0", b",iiisbhd" + bytes(4)
_HEAD = struct.Struct(f">{-(-len(_ADDRESS) // 4) * 4}s{len(_TAGS)}siii4si")
_TAIL = struct.Struct(">qd")
OVERHEAD = _HEAD.size + _TAIL.size


class Packet(NamedTuple):
    """One sound packet. `frames` is float32 `[shape=(frames, channels)]`, whatever the encoding on the wire."""

    stream_id: int
    sequence: int
    sample_index: int
    sample_rate: float  # Hz, measured by the sender
    encoding: str
    frames: NDArray[np.float32]


def frames_in(size: int, channels: int, encoding: str) -> int:
    """How many frames a packet of `size` bytes holds at most."""
    return (size - OVERHEAD) // 4 * 4 // (DTYPES[encoding].itemsize * channels)


def pack(packet: Packet) -> bytes:
    """The OSC message. Built by hand: a general builder takes ten times as long."""
    if packet.encoding == "f32":
        blob = packet.frames.astype("<f4", copy=False).tobytes()
    else:
        blob = np.clip(np.rint(packet.frames * FULL_SCALE), -FULL_SCALE, FULL_SCALE - 1).astype("<i2").tobytes()
    encoding, channels = packet.encoding.encode(), packet.frames.shape[1]
    head = _HEAD.pack(_ADDRESS, _TAGS, packet.stream_id, packet.sequence, channels, encoding, len(blob))
    return head + blob + bytes(-len(blob) % 4) + _TAIL.pack(packet.sample_index, packet.sample_rate)


def unpack(data: bytes) -> Packet:
    """The packet in `data`; ValueError says why there is none."""
    if len(data) < OVERHEAD:
        raise ValueError(f"{len(data)} bytes: expected {OVERHEAD} or more")
    address, tags, stream_id, sequence, channels, code, size = _HEAD.unpack_from(data)
    if address.rstrip(b"\0") != _ADDRESS[:-1] or tags != _TAGS:
        raise ValueError(f"expected a message to {AUDIO} with the types {_TAGS.decode().rstrip(chr(0))}")
    encoding = code.rstrip(b"\0").decode("ascii", "replace")
    if encoding not in DTYPES:
        raise ValueError(f"encoding={encoding!r}: expected one of {', '.join(DTYPES)}")
    dtype = DTYPES[encoding]
    if not 1 <= channels <= CHANNELS or size < 0 or size % (dtype.itemsize * channels):
        raise ValueError(f"channels={channels} with {size} bytes of {encoding}: expected 1 to {CHANNELS} and whole frames")
    if len(data) != OVERHEAD + size + -size % 4:
        raise ValueError(f"{len(data)} bytes: expected {OVERHEAD + size + -size % 4} for a blob of {size}")
    sample_index, sample_rate = _TAIL.unpack_from(data, len(data) - _TAIL.size)
    if not 1 <= sample_rate <= 1e6 or not 0 <= sample_index < 2**62 or sequence < 0:  # catches NaN too
        raise ValueError(f"sample_rate={sample_rate}, sample_index={sample_index}, sequence={sequence}: expected a stream's")
    samples = np.frombuffer(data, dtype, size // dtype.itemsize, _HEAD.size)
    frames = samples.astype(np.float32).reshape(-1, channels)
    if encoding == "s16":
        frames /= FULL_SCALE
    return Packet(stream_id, sequence, sample_index, sample_rate, encoding, frames)
