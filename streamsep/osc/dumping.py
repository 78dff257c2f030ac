"""What comes in, told to whoever wants to see it (`/streamsep/dumpOSC`, as scsynth has it): for those who set up a controller.

At most `PER_SECOND` messages a second are told: who looks on must not make a flood worse.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from .client import Client
from .leases import Lease, Leases
from .wire import Message, build

if TYPE_CHECKING:
    from .server import OscServer

DUMP = "/streamsep/dump"
MOST = 4  # listeners
PER_SECOND = 100
_SHORT = 128  # characters of an address


class Dumping:
    """Who sees what comes in."""

    def __init__(self, server: OscServer, clock: Callable[[], float]) -> None:
        self.listeners: Leases[Lease] = Leases("dump", MOST, clock)
        self._server, self._clock = server, clock
        self._second, self._told = 0.0, 0

    def tell(self, message: Message, client: Client) -> None:
        """`client` sent `message`; its own are not told to a listener."""
        if not len(self.listeners) or not self._may():
            return
        words = " ".join(map(reprlib.repr, message.arguments or ()))
        data = build(DUMP, [f"{client.kind} {client.host}:{client.port}", message.address[:_SHORT], words])
        for listener in self.listeners:
            if not listener.concerns(client):
                self._server.post(data, listener.destination)

    def _may(self) -> bool:
        now = self._clock()
        if now - self._second >= 1:
            self._second, self._told = now, 0
        self._told += 1
        return self._told <= PER_SECOND
