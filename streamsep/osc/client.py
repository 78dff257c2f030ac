"""Who sends us messages, and gets replies, feedback, meters and sound: the same to all of them, whatever the transport.

A client is a value that can be kept and compared: its identity decides whose lease a message renews. Nothing is ever sent to a
host that did not send to us first: `at` changes the port and never the host, so nobody can point us at a third.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import Any, Protocol

Address = tuple[Any, ...]  # as the socket module has it: (host, port), for IPv6 two more


class Client(Protocol):
    """One end of a conversation. Hashable; equal when it is the same end."""

    @property
    def kind(self) -> str:
        """ "udp", "tcp" or "ws"."""

    @property
    def host(self) -> str:
        """Its address, a numeric one."""

    @property
    def port(self) -> int:
        """Its port."""

    def send(self, data: bytes) -> None:
        """Send one OSC packet, now or never: it must not wait. OSError when it has gone or has no room."""

    def at(self, port: int) -> Client:
        """Another UDP port of the same host; itself where that is where it listens anyway."""

    def __hash__(self) -> int: ...


@dataclass(frozen=True)
class UdpClient:
    """A UDP port that spoke to us, or another of the same host (`at`)."""

    address: Address
    socket: socket.socket = field(compare=False, repr=False)
    kind = "udp"

    @property
    def host(self) -> str:
        """The host's numeric address; an IPv4 one also where an IPv6 socket took it."""
        return str(self.address[0]).removeprefix("::ffff:")

    @property
    def port(self) -> int:
        """The UDP port."""
        return int(self.address[1])

    def send(self, data: bytes) -> None:
        """Send one packet; OSError when the socket does not take it."""
        self.socket.sendto(data, self.address)

    def at(self, port: int) -> UdpClient:
        """The same host, another port."""
        return UdpClient((self.address[0], port, *self.address[2:]), self.socket)
