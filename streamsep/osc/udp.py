"""The UDP port: opened with one line of reason where it cannot be, read in small batches.

This module knows no OSC: whole datagrams go to whoever reads, with the client that they came from.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from .. import StreamsepError
from .client import Address, Client, UdpClient
from .sockets import why

RECEIVE = 16  # datagrams in a row: a flood of messages must not starve the listeners
MAX_PACKET = 8192  # bytes of a packet to us; what is longer is cut off, and so malformed


class OscError(StreamsepError):
    """The OSC server cannot listen where it was told to."""


class UdpPort:
    """A bound UDP socket; port 0 takes any free one (see `bound`).

    Raises
    ------
    OscError
        the host or port cannot be had.
    """

    def __init__(self, host: str, port: int) -> None:
        self.socket = _open(host, port)
        self.bound: tuple[str, int] = self.socket.getsockname()[:2]
        self.errors = 0  # of the socket, at reading

    def read(self, take: Callable[[bytes, Client], object]) -> None:
        """Hand on what comes to the running loop, until `close`."""
        self._take = take
        asyncio.get_running_loop().add_reader(self.socket, self._receive)

    def silence(self) -> None:
        """The end of `read`."""
        asyncio.get_running_loop().remove_reader(self.socket)

    def close(self) -> None:
        """Give the port back."""
        self.socket.close()

    def reach(self, address: Address, port: int) -> UdpClient:
        """The client at a UDP port of the host at `address`, which came by another transport."""
        host = str(address[0]).removeprefix("::ffff:")
        if self.socket.family != socket.AF_INET6:
            return UdpClient((host, port), self.socket)
        scope = address[3] if len(address) > 3 else 0
        return UdpClient((host if ":" in host else f"::ffff:{host}", port, 0, scope), self.socket)

    def _receive(self) -> None:
        for _ in range(RECEIVE):
            try:
                packet, sender = self.socket.recvfrom(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:  # Windows reports here that an earlier packet reached nobody
                self.errors += 1
                return
            self._take(packet, UdpClient(sender, self.socket))


def _open(host: str, port: int) -> socket.socket:
    """A bound, non-blocking socket; OscError names the flag that cures."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OscError(f"OSC host {host!r} is unknown ({reason}): choose another with --osc-host") from error
    # "localhost" means both; OSC programs are at home on IPv4
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    opened = socket.socket(family, kind, protocol)
    opened.setblocking(False)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" is all addresses, IPv4's too
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise OscError(why("OSC", host, port, "--osc-host", "--osc-port", error)) from error
    return opened
