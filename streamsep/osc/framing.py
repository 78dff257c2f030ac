"""Packets in a stream of bytes, cut from it and put into it. Two framings are in use, and the first byte tells which:

    OSC 1.1   SLIP (RFC 1055) with END at both ends of a packet    python-osc, Max, TouchDesigner; begins with END, "/" or "#"
    OSC 1.0   the packet's size as a big-endian int32 before it    liblo, Pure Data; begins with 0, as no packet is 16 MiB long

Bytes come in any pieces, and nothing that they hold lets more than one packet pile up. No socket, no loop, no OSC in here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_PACKET = 8192  # bytes of a packet to us, as over UDP
END, ESC = b"\xc0", b"\xdb"
_ESCAPED = re.compile(rb"\xdb(.?)", re.DOTALL)
_PLAIN = {b"\xdc": END, b"\xdd": ESC}


class FramingError(ValueError):
    """The stream of bytes cannot be cut into packets from here on."""


class Slip:
    """OSC 1.1: END packet END, with END and ESC inside the packet written as two bytes each."""

    def __init__(self) -> None:
        self.malformed = 0  # packets that were too long or wrongly escaped; the next END begins anew
        self._part = bytearray()
        self._too_long = False

    @staticmethod
    def encode(packet: bytes) -> bytes:
        """The bytes that carry `packet`."""
        return END + packet.replace(ESC, ESC + b"\xdd").replace(END, ESC + b"\xdc") + END

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that end in `data`."""
        *ended, begun = data.split(END)
        for piece in ended:
            self._add(piece)
            packet = self._end()
            if packet:  # between two packets stands an END of each
                yield packet
        self._add(begun)

    def _add(self, piece: bytes) -> None:
        self._too_long |= len(self._part) + len(piece) > 2 * MAX_PACKET  # all of it could be escaped
        if self._too_long:
            self._part.clear()
        else:
            self._part += piece

    def _end(self) -> bytes:
        part, too_long = bytes(self._part), self._too_long
        self._part.clear()
        self._too_long = False
        try:
            packet = _ESCAPED.sub(lambda found: _PLAIN[found[1]], part)
        except KeyError:
            packet, too_long = b"", True
        if too_long or len(packet) > MAX_PACKET:
            self.malformed += 1
            return b""
        return packet


class Sized:
    """OSC 1.0: the size of the packet, int32, then the packet."""

    malformed = 0  # none that one could step over: see `feed`

    def __init__(self) -> None:
        self._part = bytearray()

    @staticmethod
    def encode(packet: bytes) -> bytes:
        """The bytes that carry `packet`."""
        return len(packet).to_bytes(4, "big") + packet

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The packets that end in `data`; FramingError if a size is impossible: where the next one stands is then unknown."""
        self._part += data
        while len(self._part) >= 4:
            end = 4 + int.from_bytes(self._part[:4], "big")
            if not 4 < end <= 4 + MAX_PACKET:
                raise FramingError(f"size={end - 4} bytes: expected 1 to {MAX_PACKET}")
            if len(self._part) < end:
                return
            packet = bytes(self._part[4:end])
            del self._part[:end]
            yield packet


def framing(first: bytes) -> Slip | Sized:
    """The framing of a stream that begins with `first`."""
    return Sized() if first[:1] == b"\0" else Slip()
