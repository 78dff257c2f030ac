"""One listener to one source: what it gets, and how that is told to it.

This module knows no lease and no proof, and of the rings only how the input is read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray
from pythonosc.osc_message_builder import build_msg

from ..rings import CAPACITY, IN_WRITE, TAP_WRITE, position
from .client import Client
from .packet import AUDIO, DTYPES

MIX, INPUT = "mix", "input"
FORMAT, CHALLENGE = f"{AUDIO}/format", f"{AUDIO}/challenge"
ENCODINGS = tuple(DTYPES)
ENOUGH = 2**31 - 1  # where a counter stops that is told as an int32


@dataclass(eq=False)
class Stream:
    """One listener to one source."""

    id: int
    source: str
    client: Client  # who subscribed: its messages renew the lease
    destination: Client
    encoding: str
    sample_rate: int  # Hz, nominal
    channels: int
    delay: int  # frames that the source is late against the input
    expires: float  # s on the clock
    position: int  # of the next frame
    first_channel: int  # in the tap
    frames: NDArray[np.float32]  # [shape=(frames_per_packet, channels to read)], work space
    token: str = ""  # that must come back from the destination before sound flows; "": it flows
    told_at: float = -np.inf  # s on the clock: the last format message or challenge
    sequence: int = 0
    counts: dict[str, int] = field(default_factory=lambda: {"packets": 0, "lost_frames": 0, "failed_packets": 0})

    @property
    def confirmed(self) -> bool:
        """Whether sound flows."""
        return not self.token

    @property
    def told(self) -> list[int | str]:
        """What the answer to a subscription tells, in the order of `TOLD`."""
        return [
            self.source,
            self.id,
            self.sample_rate,
            self.channels,
            len(self.frames),
            self.encoding,
            self.delay,
            int(self.confirmed),
        ]

    @property
    def format(self) -> bytes:
        """The format message: what a listener must know, and how much of it this end could not send."""
        return build_msg(FORMAT, [self.id, *self.told[:1], *self.told[2:7], min(self.counts["lost_frames"], ENOUGH)]).dgram


# What `Stream.told` and the messages hold: (name, type tag, unit).
TOLD = (
    ("source", "s", ""),
    ("stream_id", "i", ""),
    ("sample_rate", "i", "Hz"),
    ("channels", "i", ""),
    ("frames_per_packet", "i", ""),
    ("encoding", "s", ""),
    ("delay", "i", "frames"),
    ("confirmed", "i", ""),
)
FORMAT_HOLDS = (TOLD[1], TOLD[0], *TOLD[2:7], ("lost_frames", "i", ""))
AUDIO_HOLDS = (
    ("stream_id", "i", ""),
    ("sequence", "i", ""),
    ("channels", "i", ""),
    ("encoding", "s", ""),
    ("frames", "b", ""),
    ("sample_index", "h", ""),
    ("sample_rate", "d", "Hz"),
)


@njit(nogil=True, cache=True)
def read_input(rings, first, out):  # type: ignore[no-untyped-def]
    """As `rings.read_tap`, for the input: frames from position `first` to `out`, as soon as their hop has been worked on."""
    header = rings.header
    capacity = header[CAPACITY]
    if position(header, TAP_WRITE) < first + out.shape[0]:
        return 0
    for n in range(out.shape[0]):
        frame = rings.inward[(first + n) & (capacity - 1)]
        for c in range(out.shape[1]):
            out[n, c] = frame[c]
    if position(header, IN_WRITE) - first > capacity - capacity // 4:
        return -1
    return 1
