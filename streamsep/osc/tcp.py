"""OSC over TCP: as many connections as are let in, their packets handed on, and answers in the framing that each speaks.

Nobody who connects can cost more than a share: a packet has a largest size, a connection is read a little at a time, what its
end does not fetch waits in an `Outbox` of bounded size, and connections that have never said anything make room for new ones.

This module knows no address and no meaning: whole packets go to whoever called, with the connection they came by.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .client import Client
from .framing import FramingError, Sized, Slip, framing
from .sockets import BACKLOG, Outbox, client_address, listen, watch

if TYPE_CHECKING:
    from .server import OscServer

MAX_CONNECTIONS = 64
RECEIVE = 512  # bytes read at once: a flood of messages must leave room for the others in between


class TcpClient(asyncio.BufferedProtocol):
    """One connection, from `connection_made` to `connection_lost`; a `client.Client`, equal to itself alone."""

    kind = "tcp"

    def __init__(self, server: TcpServer) -> None:
        self.host, self.port = "", 0
        self.spoke = False  # it has sent a packet that looked like OSC
        self._server = server
        self._buffer = bytearray(RECEIVE)
        self._framing: Slip | Sized | None = None
        self._transport: asyncio.Transport | None = None
        self._outbox: Outbox[bytes] = Outbox()
        self._writable = True

    def __repr__(self) -> str:
        return f"<tcp {self.host}:{self.port}>"

    def send(self, data: bytes) -> None:
        """Send one packet; what the other side does not fetch waits, and is lost and counted when it is too much."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError(f"{self!r} has gone")
        frame = (self._framing or Slip).encode(data)
        if self._writable and not self._outbox:
            self._transport.write(frame)
        else:
            before = self._outbox.lost
            self._outbox.put(frame)
            self._server.lost(self._outbox.lost - before)

    def at(self, port: int) -> Client:
        """A UDP port of the same host: steering over TCP, sound over UDP."""
        return self._server.server.reach(self._transport.get_extra_info("peername") if self._transport else (self.host,), port)

    def abort(self) -> None:
        """End the connection now; what waits is lost."""
        if self._transport is not None:
            self._transport.abort()

    # ------------------------------------------------------------------------------------------------- asyncio's part

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = transport  # type: ignore[assignment]
        self.host, self.port = client_address(transport)
        watch(transport)
        self._server.admit(self)

    def get_buffer(self, sizehint: int) -> bytearray:  # noqa: D102
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:  # noqa: D102
        data = bytes(self._buffer[:nbytes])
        self._framing = self._framing or framing(data)
        malformed = self._framing.malformed
        try:
            for packet in self._framing.feed(data):
                self.spoke |= packet[:1] in (b"/", b"#")
                self._server.server.handle(packet, self)
        except FramingError:
            self._server.malformed(1)
            self.abort()
        self._server.malformed(self._framing.malformed - malformed)

    def pause_writing(self) -> None:  # noqa: D102
        self._writable = False

    def resume_writing(self) -> None:  # noqa: D102
        self._writable = True
        while self._writable and self._outbox and self._transport is not None:
            self._transport.write(self._outbox.take())

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self._outbox.clear()
        self._server.dismiss(self)
        self._transport = None


class TcpServer:
    """The TCP port: lets connections in, up to `MAX_CONNECTIONS`, and hands on the packets that they bring.

    A `server.Service`. `port` 0 takes any free one; `port` is then the one that was found.
    """

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self.address = ""  # the numeric one that it listens at
        self._counts = {"tcp_malformed": 0, "tcp_refused": 0, "tcp_lost": 0}
        self._clients: dict[TcpClient, None] = {}  # in the order in which they came
        self._listening: asyncio.Server | None = None

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return len(self._clients)

    @property
    def counts(self) -> dict[str, int]:
        """Packets that could not be cut out, connections refused, messages lost by slow ones; connections."""
        return self._counts | {"tcp_connections": self.connections}

    @property
    def place(self) -> dict[str, str]:
        """Where it is to be found, for people."""
        return {"osc_tcp": f"{self.host}:{self.port}"}

    async def start(self, server: OscServer) -> None:
        """Let connections in; ListenError if the port cannot be had."""
        self.server = server
        sock = listen(self.host, self.port, "OSC TCP", "--osc-host", "--osc-tcp-port")
        self.address, self.port = sock.getsockname()[:2]
        self._listening = await asyncio.get_running_loop().create_server(lambda: TcpClient(self), sock=sock, backlog=BACKLOG)

    async def stop(self) -> None:
        """Let nobody in any more and end all connections."""
        if self._listening is None:
            return
        self._listening.close()
        for client in list(self._clients):
            client.abort()
        await asyncio.sleep(0)  # connection_lost is called
        self._listening = None

    def admit(self, client: TcpClient) -> None:
        """A connection has come; where there are too many, it or one that has never said anything ends."""
        if not client.host or not self.server.admits(client.host):
            client.abort()
            return
        if len(self._clients) >= MAX_CONNECTIONS:
            silent = next((other for other in self._clients if not other.spoke), client)
            self._counts["tcp_refused"] += 1
            self._clients.pop(silent, None)
            silent.abort()
            if silent is client:
                return
        self._clients[client] = None

    def malformed(self, packets: int) -> None:
        """So many packets could not be cut out of a stream."""
        self._counts["tcp_malformed"] += packets

    def lost(self, messages: int) -> None:
        """So many messages were not fetched."""
        self._counts["tcp_lost"] += messages

    def dismiss(self, client: TcpClient) -> None:
        """A connection has ended."""
        self._clients.pop(client, None)
        self.server.forget(client)
