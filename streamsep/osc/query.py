"""OSCQuery: the addresses described to programs over HTTP, and kept up with over a WebSocket on the same port.

After the OSCQuery proposal (github.com/Vidvox/OSCQueryProposal). `GET /streamsep/bypass` is the node and all below it as JSON,
`?VALUE` one attribute of it (or several: `?VALUE&RANGE`), `?HOST_INFO` on any path where OSC itself is to be had. 404: there is
no such address. 400: there is no such attribute. 204: the attribute is one of the proposal's that is not kept here, or the
address is one that cannot be read. An attribute that says nothing about an address is left out of its node.

A WebSocket (any path) takes {"COMMAND": "LISTEN", "DATA": address} and IGNORE, and gets OSC packets in binary messages: the
value at once, then each change, whoever made it. OSC packets in binary messages to us are obeyed like any other, and answered.
When another model brings other sources, PATH_REMOVED, PATH_ADDED and PATH_CHANGED say which addresses are other ones now.

What is said of the addresses is `tree.py`'s. This module knows none of them, and of HTTP what aiohttp hands it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web

from .client import Client
from .framing import MAX_PACKET
from .sockets import Outbox, instance_name
from .tree import ATTRIBUTES, READ, Node, difference, find, tree
from .web import remote
from .wire import build

if TYPE_CHECKING:
    from .server import OscServer

MAX_WEBSOCKETS = 32
HEARTBEAT = 15.0  # s between two pings; who does not answer one is gone
BYE_WITHIN = 0.5  # s
NOT_HERE = ("TAGS", "EXTENDED_TYPE", "CRITICAL", "OVERLOADS", "HTML")  # the proposal's, too
EXTENSIONS = (*ATTRIBUTES[3:], "LISTEN", "PATH_CHANGED", "PATH_ADDED", "PATH_REMOVED")


class WebSocketClient:
    """One WebSocket; a `client.Client`, equal to itself alone."""

    kind = "ws"

    def __init__(self, server: OscServer, request: web.Request, socket: web.WebSocketResponse) -> None:
        self.host = remote(request)
        self._peer = (request.transport.get_extra_info("peername") if request.transport else None) or (self.host, 0)
        self.port = int(self._peer[1])
        self.outbox: Outbox[bytes | str] = Outbox()
        self._server, self._socket = server, socket
        self._waiting = asyncio.Event()

    def send(self, data: bytes | str) -> None:
        """Send an OSC packet, or a command as text; what the other end does not fetch waits, and is lost if it is too much."""
        if self._socket.closed:
            raise ConnectionResetError(f"ws {self.host}:{self.port} has gone")
        self.outbox.put(data)
        self._waiting.set()

    def at(self, port: int) -> Client:
        """A UDP port of the same host."""
        return self._server.reach(self._peer, port)

    async def write(self) -> None:
        """Send what waits, until the connection ends."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._waiting.wait()
                self._waiting.clear()
                while self.outbox:
                    data = self.outbox.take()
                    await (self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data))


class OscQuery:
    """OSCQuery for an OSC server: a part of the HTTP server (`web.HttpServer`)."""

    def __init__(self) -> None:
        self._counts = {"ws_refused": 0, "ws_malformed": 0, "ws_lost": 0}
        self._clients: dict[WebSocketClient, web.WebSocketResponse] = {}

    def __call__(self, application: web.Application, server: OscServer) -> None:
        """Add the routes to `application`."""
        self._server = server
        self._known = tree(server, with_values=False)
        server.changed.append(self._changed)
        application.router.add_get("/{path:.*}", self._get, allow_head=True)
        application.on_shutdown.append(self._shutdown)

    @property
    def counts(self) -> dict[str, int]:
        """WebSockets refused, commands that are none, messages lost by slow ones; WebSockets."""
        lost = self._counts["ws_lost"] + sum(client.outbox.lost for client in list(self._clients))
        return self._counts | {"ws_lost": lost, "ws_connections": len(self._clients)}

    # ------------------------------------------------------------------------------------------------------------ HTTP

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if "upgrade" in request.headers.get("Connection", "").lower():
            return await self._converse(request)
        asked = [part.partition("=")[0] for part in request.rel_url.raw_query_string.split("&") if part]
        if unknown := [name for name in asked if name not in (*ATTRIBUTES, *NOT_HERE, "HOST_INFO")]:
            expected = ", ".join((*ATTRIBUTES, "HOST_INFO"))
            raise web.HTTPBadRequest(text=f"attribute {unknown[0]!r} is unknown: expected one of {expected}")
        if "HOST_INFO" in asked:
            return _answer(self.host_info(request))
        node = find(tree(self._server), request.path)
        if node is None:
            raise web.HTTPNotFound(text=f"address {request.path!r} is unknown: GET / tells all of them")
        if not asked:
            return _answer(node)
        if any(name in NOT_HERE or (name == "VALUE" and not node["ACCESS"] & READ) for name in asked):
            return web.Response(status=204)
        return _answer({name: node[name] for name in asked if name in node})

    def host_info(self, request: web.Request) -> Node:
        """Where OSC is to be had; for a server on all addresses the one that `request` came to."""
        met = request.transport.get_extra_info("sockname") if request.transport else None
        host = str(self._server.bound[0])
        if host in ("0.0.0.0", "::") and met:
            host = str(met[0]).removeprefix("::ffff:")
        return {
            "NAME": instance_name(self._server.port),
            "EXTENSIONS": dict.fromkeys(EXTENSIONS, True),
            "OSC_IP": host,
            "OSC_PORT": self._server.port,
            "OSC_TRANSPORT": "UDP",
        } | ({"WS_IP": str(met[0]).removeprefix("::ffff:"), "WS_PORT": met[1]} if met else {})

    # ------------------------------------------------------------------------------------------------------- WebSockets

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        if len(self._clients) >= MAX_WEBSOCKETS:
            self._counts["ws_refused"] += 1
            raise web.HTTPServiceUnavailable(text=f"WebSockets={len(self._clients)}: expected fewer than {MAX_WEBSOCKETS}")
        socket = web.WebSocketResponse(
            timeout=BYE_WITHIN, heartbeat=HEARTBEAT, max_msg_size=MAX_PACKET, writer_limit=1 << 16, compress=False
        )
        await socket.prepare(request)
        client = WebSocketClient(self._server, request, socket)
        self._clients[client] = socket
        writing = asyncio.create_task(client.write())
        try:
            async for message in socket:
                self._take(client, message.type, message.data)
                await asyncio.sleep(0)  # what has come at once must not keep others waiting
        finally:
            writing.cancel()
            del self._clients[client]
            self._counts["ws_lost"] += client.outbox.lost
            self._server.forget(client)
        return socket

    def _take(self, client: WebSocketClient, kind: WSMsgType, data: Any) -> None:
        if kind == WSMsgType.BINARY:
            self._server.handle(data, client)
        elif kind == WSMsgType.TEXT:
            self._command(client, data)

    def _command(self, client: WebSocketClient, text: str) -> None:
        """Obey one JSON command, or tell what is wrong with it as OSC does."""
        try:
            said = json.loads(text)
            command, address = said["COMMAND"], said["DATA"]
            if command not in ("LISTEN", "IGNORE") or not isinstance(address, str):
                raise ValueError
        except (ValueError, TypeError, KeyError, RecursionError):
            self._counts["ws_malformed"] += 1
            reason = 'expected {"COMMAND": "LISTEN" or "IGNORE", "DATA": address}'
            self._server.refuse("", f"command={text[:80]!r}: {reason}", client)
            return
        try:
            self._listen(client, address) if command == "LISTEN" else self._server.notify.ignore(client, address)
        except ValueError as error:
            self._server.refuse(address, str(error), client)

    def _listen(self, client: WebSocketClient, address: str) -> None:
        values = self._server.values(address) if address in self._server.targets else None
        if values is None:
            raise ValueError(f"LISTEN {address[:80]!r}: expected an address that has a value")
        self._server.notify.listen(client, address)
        client.send(build(address, values))

    def _changed(self) -> None:
        """The addresses may be others now: tell everybody what to ask again."""
        before, self._known = self._known, tree(self._server, with_values=False)
        for command, path in difference(before, self._known):
            text = json.dumps({"COMMAND": command, "DATA": path})
            for client in self._clients:
                with contextlib.suppress(OSError):
                    client.send(text)

    async def _shutdown(self, application: web.Application) -> None:
        self._server.changed.remove(self._changed)
        await asyncio.gather(*(socket.close(code=1001, message=b"the server ends") for socket in self._clients.values()))


def _answer(node: Node) -> web.Response:
    return web.json_response(node, dumps=lambda n: json.dumps(n, ensure_ascii=False, allow_nan=False))
