"""What the ports have in common: sockets that listen, machines that vanish, clients that do not fetch, the daemon's name.

This module knows neither OSC nor HTTP, and no loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections import deque
from typing import Any, Generic, TypeVar

from .. import StreamsepError
from .client import Address

OUTBOX = 1 << 18  # bytes that wait for one client; what is more, it loses
BACKLOG = 256  # connections that wait to be accepted; who finds no room waits for a second
IDLE, PROBES, PROBE_EVERY = 10, 3, 5  # s, count, s: a machine that vanished is noticed after 25 s

T = TypeVar("T", bytes, str, bytes | str)


class ListenError(StreamsepError):
    """A TCP port cannot be had."""


def listen(host: str, port: int, what: str, host_flag: str, port_flag: str) -> socket.socket:
    """A listening TCP socket; ListenError names the flag that cures."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ListenError(f"{what} host {host!r} is unknown ({reason}): choose another with {host_flag}") from error
    # "localhost" means both; OSC programs are at home on IPv4
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    opened = socket.socket(family, kind, protocol)
    try:
        if hasattr(socket, "SO_REUSEPORT"):  # not Windows, where SO_REUSEADDR would share the port with a stranger
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" is all addresses, IPv4's too
        opened.bind(address)
        opened.listen()
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise ListenError(why(what, host, port, host_flag, port_flag, error)) from error
    return opened


def why(what: str, host: str, port: int, host_flag: str, port_flag: str, error: OSError) -> str:
    """What a port that cannot be opened is to be told, with the flag that cures."""
    if error.errno == errno.EADDRINUSE:
        return f"{what} port {port} on {host} is in use: choose another with {port_flag}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{what} host {host} is not an address of this machine: choose another with {host_flag}"
    return f"{what} port {port} on {host} cannot be opened ({error.strerror}): choose another with {port_flag}"


def client_address(transport: asyncio.BaseTransport) -> tuple[str, int]:
    """The other end's numeric address and port; IPv4's also where an IPv6 socket took the connection."""
    peer: Address = transport.get_extra_info("peername") or ("", 0)
    return str(peer[0]).removeprefix("::ffff:"), int(peer[1])


def watch(transport: asyncio.BaseTransport) -> None:
    """Have the system notice when the other end's machine vanishes, where it can."""
    opened: Any = transport.get_extra_info("socket")
    if opened is None:
        return
    wanted = {"TCP_KEEPIDLE": IDLE, "TCP_KEEPCNT": PROBES, "TCP_KEEPINTVL": PROBE_EVERY, "TCP_USER_TIMEOUT": 25_000}
    with contextlib.suppress(OSError):
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in wanted.items():
            if hasattr(socket, name):
                opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class Outbox(Generic[T]):
    """What waits for a client that does not fetch it: at most `size` bytes, of which the oldest go first.

    The oldest and not the newest, for the last message on an address is the state that its listener must end with.
    """

    def __init__(self, size: int = OUTBOX) -> None:
        self.lost = 0  # messages
        self._size, self._bytes = size, 0
        self._waiting: deque[T] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def put(self, data: T) -> None:
        """Let `data` wait."""
        self._waiting.append(data)
        self._bytes += len(data)
        while self._bytes > self._size:
            self.take()
            self.lost += 1

    def take(self) -> T:
        """The oldest; IndexError if there is none."""
        data = self._waiting.popleft()
        self._bytes -= len(data)
        return data

    def clear(self) -> None:
        """Forget what waits: nobody is there any more."""
        self._waiting.clear()
        self._bytes = 0


def instance_name(port: int) -> str:
    """The name under which the daemon with this OSC port is told.

    It has the port in it because two daemons of one machine cannot always hear each other's probes: the system gives a unicast
    answer to either of those who share mDNS' port.
    """
    return f"streamsep on {machine()[:40]}, port {port}"  # 63 bytes at most: a DNS label


def machine() -> str:
    """This machine's name, in ASCII."""
    return socket.gethostname().partition(".")[0].encode("ascii", "replace").decode() or "host"


def local_name() -> str:
    """The name in zeroconf's domain under which our ports are told.

    One of our own: the machine's name belongs to its own responder, which gives it up if another claims it.
    """
    return f"streamsep-{machine()[:40]}.local"
