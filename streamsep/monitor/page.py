"""One monitor page, as the server holds it: an OSC client over a WebSocket that gets pictures and facts as well.

OSC packets go both ways as binary messages; they begin with `/` or `#`. Other binary messages, to the page, begin with a byte
that says what they are (`spectra.COLUMNS`); text is JSON. What is of the moment (levels, columns, sound) may be lost by a page
that does not keep up, the oldest first. All else is the state that the page must end with: where that is too much for it, the
connection ends, and the page comes again and is told all of it.
"""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from aiohttp import web

from ..osc.packet import AUDIO
from ..osc.query import WebSocketClient
from ..osc.sockets import Outbox

if TYPE_CHECKING:
    from ..osc.server import OscServer

FLEETING = 1 << 17  # bytes that wait: most of a second of sound
_OF_THE_MOMENT = (b"#bundle", f"{AUDIO}\0".encode())  # meters come as bundles


class Page(WebSocketClient):
    """A page that is open: a `client.Client`, equal to itself alone."""

    def __init__(self, server: OscServer, request: web.Request, socket: web.WebSocketResponse) -> None:
        super().__init__(server, request, socket)
        self._transport = request.transport
        self.looks = True  # somebody sees it; a hidden one is told what changes, and gets no pictures
        self.fleeting: Outbox[bytes] = Outbox(FLEETING)

    def send(self, data: bytes | str) -> None:
        """Send an OSC packet, or text; ConnectionResetError when the page has gone, or does not keep up and is sent away."""
        if isinstance(data, bytes) and data.startswith(_OF_THE_MOMENT):
            self.show(data)
            return
        super().send(data)
        if self.outbox.lost:
            if self._transport is not None:
                self._transport.abort()
            raise ConnectionResetError("the page does not keep up")

    def tell(self, kind: str, facts: Any) -> None:
        """Send facts as JSON: an object of this one kind."""
        with contextlib.suppress(ConnectionError):
            self.send(json.dumps({kind: facts}, ensure_ascii=False))

    def show(self, data: bytes) -> None:
        """Send what will soon be followed by more of the kind."""
        if not self._socket.closed:
            self.fleeting.put(data)
            self._waiting.set()

    async def write(self) -> None:
        """Send what waits, until the connection ends: first what must arrive."""
        with contextlib.suppress(ConnectionError):
            while True:
                await self._waiting.wait()
                self._waiting.clear()
                while self.outbox or self.fleeting:
                    data = self.outbox.take() if self.outbox else self.fleeting.take()
                    await (self._socket.send_str(data) if isinstance(data, str) else self._socket.send_bytes(data))
