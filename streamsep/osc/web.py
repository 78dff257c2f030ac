"""The HTTP port: one aiohttp application in the OSC server's loop, made of parts that other modules bring.

A part is a function `part(application, server)` that adds routes and whatever they need; the first that has a route for a path
gets it. OSCQuery, which answers to every path, comes last (`query.py`), the monitor page (`streamsep.monitor`) before it. A
part may have `counts` of its own, and `pages` for people: paths by name.

What a browser can be talked into is kept out here, for all parts: a request must name this machine in its Host header, or a web
page could reach the loopback through a name of its own that it lets point there (DNS rebinding); and one that comes from a web
page (Origin) must come from a page of this machine, for WebSockets know no same-origin policy. Whoever asks must be let in by
the OSC server. Requests are small, connections are counted, and one that says nothing makes room for others.

Importing this module imports aiohttp: it is imported when the port is opened, and not before.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from .sockets import BACKLOG, listen, local_name, watch

if TYPE_CHECKING:
    from .server import OscServer

MAX_CONNECTIONS = 64
MAX_BODY = 8192  # bytes
MAX_LINE, MAX_FIELD, MAX_HEADERS = 4096, 4096, 64  # bytes of the request line and of a header; headers
IDLE = 10.0  # s a connection may wait between two requests, or say nothing at all
END_WITHIN = 1.0  # s

_SILENT = logging.getLogger("streamsep.http")  # what goes wrong is counted; whoever wants the whole story adds a handler
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

Part = Callable[[web.Application, "OscServer"], None]


@dataclass(eq=False)
class _Connection:
    transport: asyncio.Transport
    came: float  # s on the loop's clock
    spoke: bool = False  # it has asked for something


class HttpServer:
    """The HTTP port, from `start` to `stop`, both in the OSC server's loop: a `server.Service`.

    Parameters
    ----------
    host, port
        where to answer; port 0 takes any free one, and `port` is then the one that was found.
    parts
        what there is to be had, in the order in which routes are tried.
    """

    def __init__(self, host: str, port: int, parts: Sequence[Part]) -> None:
        self.host, self.port, self._parts = host, port, parts
        self.address = ""  # the numeric one that it listens at
        self._counts = {"http_requests": 0, "http_refused": 0, "http_faults": 0}
        name = socket.gethostname().lower()
        self._names = {host.lower(), "localhost", name, f"{name}.local", local_name().lower()}
        self._open: dict[object, _Connection] = {}  # by aiohttp's protocol, in the order in which they came
        self._sweeping: asyncio.TimerHandle | None = None
        self._runner: web.AppRunner | None = None
        self._listening: asyncio.Server | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Requests, those refused (connections, too), connections; and what the parts count."""
        counts = self._counts | {"http_connections": self.connections}
        for part in self._parts:
            counts |= getattr(part, "counts", {})
        return counts

    @property
    def connections(self) -> int:
        """How many connections there are."""
        return sum(not c.transport.is_closing() for c in list(self._open.values()))

    @property
    def place(self) -> dict[str, str]:
        """Where it and its parts are to be found, for people."""
        found = {"http": f"http://{_bracketed(self.host)}:{self.port}/"}
        for part in self._parts:
            for name, path in getattr(part, "pages", {}).items():
                found[name] = f"http://{_bracketed(reachable(self.host))}:{self.port}{path}"
        return found

    async def start(self, server: OscServer) -> None:
        """Begin to answer; ListenError if the port cannot be had."""
        self._admits = server.admits
        application = web.Application(middlewares=[self._guard()], client_max_size=MAX_BODY)
        for part in self._parts:
            part(application, server)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            logger=_SILENT,
            keepalive_timeout=IDLE,
            lingering_time=0,
            shutdown_timeout=END_WITHIN,
            max_line_size=MAX_LINE,
            max_field_size=MAX_FIELD,
            max_headers=MAX_HEADERS,
        )
        await self._runner.setup()
        sock = listen(self.host, self.port, "HTTP", "--http-host", "--http")
        self.address, self.port = sock.getsockname()[:2]
        self._listening = await asyncio.get_running_loop().create_server(lambda: _Door(self), sock=sock, backlog=BACKLOG)
        self._sweep()

    async def stop(self) -> None:
        """Answer nobody any more and end all connections, in little more than `END_WITHIN`."""
        if self._listening is not None:
            self._listening.close()
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._runner is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._runner.cleanup(), 2 * END_WITHIN)
        self._listening = self._runner = None
        self._open.clear()

    def connect(self, transport: asyncio.Transport) -> None:
        """A connection has come; where there are too many, it or one that has asked nothing yet ends."""
        server = self._runner.server if self._runner else None
        if server is None:
            transport.abort()
            return
        self._prune()
        if len(self._open) >= MAX_CONNECTIONS:
            self._counts["http_refused"] += 1
            silent = next((c for c in self._open.values() if not c.spoke), None)
            (silent.transport if silent else transport).abort()
            self._prune()
            if silent is None:
                return
        handler = server()
        self._open[handler] = _Connection(transport, asyncio.get_running_loop().time())
        transport.set_protocol(handler)
        handler.connection_made(transport)

    def _prune(self) -> None:
        """Forget the connections that have ended."""
        self._open = {handler: c for handler, c in self._open.items() if not c.transport.is_closing()}

    def _sweep(self) -> None:
        """End the connections that have asked nothing for too long; aiohttp does that after the first request only."""
        loop = asyncio.get_running_loop()
        self._prune()
        for connection in self._open.values():
            if not connection.spoke and loop.time() - connection.came >= IDLE:
                connection.transport.abort()
        self._sweeping = loop.call_later(IDLE / 4, self._sweep)

    def _guard(self) -> Middleware:
        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            self._counts["http_requests"] += 1
            connection = self._open.get(request.protocol)
            if connection and not connection.spoke:
                connection.spoke = True
                watch(connection.transport)
            if reason := self._refusal(request):
                self._counts["http_refused"] += 1
                raise web.HTTPForbidden(text=reason)
            try:
                response = await handler(request)
            except (web.HTTPException, ConnectionError):
                raise
            except Exception as error:  # a part's fault ends a request, not the server
                self._counts["http_faults"] += 1
                raise web.HTTPInternalServerError(text=f"failed: {type(error).__name__}: {error}") from error
            if not response.prepared:
                response.headers.setdefault("X-Content-Type-Options", "nosniff")
                response.headers.setdefault("Cache-Control", "no-store")
            return response

        return guard

    def _refusal(self, request: web.Request) -> str:
        """Why `request` gets no answer; "" if it does."""
        if not self._admits(remote(request)):
            return f"address {remote(request)} is not let in"
        host = request.headers.get("Host", "")
        if not self._is_ours(_name(f"//{host}")):
            return f"Host {host!r} is not this machine: use its address"
        origin = request.headers.get("Origin")
        if origin is not None and not self._is_from_here(origin, host):
            return f"Origin {origin!r} is not this machine: open the page from it"
        return ""

    def _is_ours(self, name: str) -> bool:
        """Whether `name` is a numeric address, which no name server can bend, or a name of this machine."""
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(name.partition("%")[0])
            return True
        return name in self._names

    def _is_from_here(self, origin: str, host: str) -> bool:
        """Whether a page of `origin` is one of ours, or of another server on this machine's loopback."""
        name = _name(origin)
        if name and origin.partition("://")[2].lower() == host.lower():
            return True
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(name).is_loopback
        return name == "localhost"


def reachable(host: str) -> str:
    """An address at which others reach what listens on `host`: for all addresses, the one that leads out of this machine."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # reserved for documentation; a UDP socket sends nothing to connect
        return str(probe.getsockname()[0])
    return local_name()


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def remote(request: web.Request) -> str:
    """The numeric address that `request` comes from; IPv4's also where an IPv6 socket took it."""
    return (request.remote or "").removeprefix("::ffff:")


def _name(url: str) -> str:
    """The host in `url`, without the port; "" if there is none."""
    try:
        return (urlsplit(url).hostname or "").lower().removesuffix(".")
    except ValueError:  # brackets that do not match
        return ""


class _Door(asyncio.Protocol):
    """What a connection meets first: aiohttp's own protocol lets everybody in."""

    def __init__(self, server: HttpServer) -> None:
        self._server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._server.connect(transport)
