"""The monitor page's part of the HTTP port: its files, who is let in, and the WebSocket that each open page holds.

Off the loopback a page needs the token that stands in the URL which the daemon prints; one that was set is needed everywhere.
It comes on top of what holds for all of the port (`osc.web`): who is not let in by `osc_allow`, or comes from a foreign page,
gets nothing. The list says which machines may speak at all, the token who at them may see and steer. The page's scripts and
styles are no secret. Nothing the page loads may come from elsewhere, and nothing in it may run that is not one of its files.

A browser that asks for `/` is sent to the page; everybody else gets OSCQuery there, as before.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aiohttp import WSMsgType, web
from aiohttp.typedefs import Handler

from ..config import Config, is_loopback
from ..osc.framing import MAX_PACKET
from ..osc.query import BYE_WITHIN, HEARTBEAT
from ..osc.ticker import Ticker
from . import facts
from .hops import Hops, Second
from .page import Page
from .spectra import Spectra, count

if TYPE_CHECKING:
    from ..osc.server import OscServer

STATIC = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
PLACE = "/monitor/"
MAX_PAGES = 24  # fewer than notify and meters have room for
HISTORY_EVERY, FIGURES_EVERY = 0.25, 1.0  # s
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src {connect}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Monitor:
    """The monitor page of a daemon with these settings: a part of the HTTP server (`osc.web.HttpServer`)."""

    def __init__(self, config: Config) -> None:
        self.token = config.http_token or ("" if is_loopback(config.http_host) else secrets.token_urlsafe(16))
        self._config = config
        self._files = {path.name: path.read_text(encoding="utf-8") for path in STATIC.iterdir() if path.suffix in TYPES}
        self._pages: dict[Page, web.WebSocketResponse] = {}
        self._counts = {"monitor_refused": 0, "monitor_malformed": 0, "monitor_lost": 0, "monitor_columns": 0}
        self._hops: Hops | None = None
        self._asking: asyncio.Task[None] | None = None  # for the devices

    @property
    def pages(self) -> dict[str, str]:
        """Where people find it."""
        return {"monitor": PLACE + (f"?token={self.token}" if self.token else "")}

    @property
    def counts(self) -> dict[str, int]:
        """Pages that are open, refused for their token or number; messages that were none; what slow pages lost; columns."""
        lost = self._counts["monitor_lost"] + sum(page.fleeting.lost for page in list(self._pages))
        return self._counts | {"monitor_lost": lost, "monitor_pages": len(self._pages)}

    def __call__(self, application: web.Application, server: OscServer) -> None:
        """Add the routes to `application`."""
        self._server, loop = server, asyncio.get_running_loop()
        self._spectra = Spectra(server.separator, server.rings, lambda data: _soon(loop, self._show, data))
        self._tickers = [Ticker(HISTORY_EVERY, self._tell_history), Ticker(FIGURES_EVERY, self._tell_figures)]
        server.changed.append(self._changed)
        application.middlewares.append(self._welcome)
        application.router.add_get(PLACE.rstrip("/"), self._home)
        application.router.add_get(f"{PLACE}socket", self._converse)
        application.router.add_get(f"{PLACE}{{name:.*}}", self._file)
        application.on_shutdown.append(self._shutdown)

    # ------------------------------------------------------------------------------------------------------------- files

    @web.middleware
    async def _welcome(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """People who come by the bare address want the page; programs want OSCQuery."""
        browses = request.path == "/" and "text/html" in request.headers.get("Accept", "") and set(request.query) <= {"token"}
        return await (self._home(request) if browses else handler(request))

    async def _home(self, request: web.Request) -> web.StreamResponse:
        raise web.HTTPFound(PLACE + (f"?{request.query_string}" if request.query_string else ""))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"] or "index.html"
        if name not in self._files:
            raise web.HTTPNotFound(text=f"{name[:80]!r} is no file of the monitor page")
        if name == "index.html":
            self._check(request)
        headers = {"Content-Security-Policy": POLICY.format(connect=_own_sockets(request)), "Referrer-Policy": "no-referrer"}
        return web.Response(text=self._files[name], content_type=TYPES[Path(name).suffix], charset="utf-8", headers=headers)

    def _check(self, request: web.Request) -> None:
        """403 where the token is not the one in our URL."""
        given = request.query.get("token", "")
        if self.token and not hmac.compare_digest(given.encode(), self.token.encode()):
            self._counts["monitor_refused"] += 1
            raise web.HTTPForbidden(text="token: expected the one in the URL that streamsep printed when it started")

    # ----------------------------------------------------------------------------------------------------------- sockets

    async def _converse(self, request: web.Request) -> web.StreamResponse:
        self._check(request)
        if len(self._pages) >= MAX_PAGES:
            self._counts["monitor_refused"] += 1
            raise web.HTTPServiceUnavailable(text=f"pages={len(self._pages)}: expected fewer than {MAX_PAGES}")
        socket = web.WebSocketResponse(
            timeout=BYE_WITHIN, heartbeat=HEARTBEAT, max_msg_size=MAX_PACKET, writer_limit=1 << 16, compress=False
        )
        await socket.prepare(request)
        page = Page(self._server, request, socket)
        self._pages[page] = socket
        writing = asyncio.create_task(page.write())
        self._greet(page)
        try:
            async for message in socket:
                self._take(page, message.type, message.data)
                await asyncio.sleep(0)  # what has come at once must not keep others waiting
        finally:
            writing.cancel()
            del self._pages[page]
            self._counts["monitor_lost"] += page.fleeting.lost
            self._server.forget(page)
            self._look()
        return socket

    def _greet(self, page: Page) -> None:
        page.tell("setup", facts.setup(self._server, self._config))
        page.tell("figures", dict(self._server.status()))
        first = self._hops is None
        self._look()
        if self._hops and not first:  # else all of it is news, and comes with the next look
            self._tell_seconds([page], list(self._hops.seconds))

    def _take(self, page: Page, kind: WSMsgType, data: Any) -> None:
        if kind == WSMsgType.BINARY:
            self._server.handle(data, page)
        elif kind == WSMsgType.TEXT:
            try:
                said = json.loads(data)
                asks, looks = bool(said.get("devices")), said.get("looks")
            except (ValueError, AttributeError, RecursionError):
                self._counts["monitor_malformed"] += 1
                return
            if looks is not None:
                page.looks = bool(looks)
                self._look()
            if asks and self._asking is None:
                self._asking = asyncio.create_task(self._tell_devices())

    def _changed(self) -> None:
        """Another engine: other sources, perhaps, and another history."""
        self._spectra.attach(self._server.separator, self._server.rings)
        self._hops = None
        for page in self._pages:
            page.tell("setup", facts.setup(self._server, self._config))
        self._look()

    async def _shutdown(self, application: web.Application) -> None:
        self._server.changed.remove(self._changed)
        for ticker in self._tickers:
            ticker.stop()
        self._spectra.stop()
        if self._asking is not None:
            self._asking.cancel()
        closing = (socket.close(code=1001, message=b"the daemon ends") for socket in self._pages.values())
        await asyncio.gather(*closing, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------------------- feeds

    @property
    def _lookers(self) -> list[Page]:
        return [page for page in self._pages if page.looks]

    def _look(self) -> None:
        """Work while a page looks, and not a moment longer."""
        if self._lookers:
            self._hops = self._hops or Hops(self._server.meters, facts.deadline(self._server))
            self._spectra.start()
            for ticker in self._tickers:
                ticker.wake()
        else:
            self._hops = None
            self._spectra.stop()

    def _show(self, data: bytes) -> None:
        self._counts["monitor_columns"] += count(data)
        for page in self._lookers:
            page.show(data)

    def _tell_history(self) -> bool:
        if self._hops is None:
            return False
        news = self._hops.look(time.monotonic(), self._server.status())
        self._tell_seconds(self._lookers, news)
        return True

    def _tell_seconds(self, pages: list[Page], seconds: list[Second]) -> None:
        assert self._hops
        now = time.monotonic()
        said = {"now": round(now, 3), "seconds": [s.told for s in seconds], "histogram": self._hops.histogram(now)}
        for page in pages:
            page.tell("hops", said)

    def _tell_figures(self) -> bool:
        figures = dict(self._server.status())
        for page in self._lookers:
            page.tell("figures", figures)
        return bool(self._lookers)

    async def _tell_devices(self) -> None:
        try:
            found = await facts.devices()
            for page in self._pages:
                page.tell("devices", found)
        finally:
            self._asking = None


def _soon(loop: asyncio.AbstractEventLoop, function: Any, data: bytes) -> None:
    """Have `function` called in the loop, from another thread; nothing happens where the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, data)


def _own_sockets(request: web.Request) -> str:
    """What the page may connect to: where it came from. Some browsers do not count WebSockets as 'self'."""
    return (
        f"'self' ws://{request.host}" if re.fullmatch(r"[\w.\-]+(:\d+)?|\[[\da-fA-F:.]+\](:\d+)?", request.host) else "'self'"
    )
