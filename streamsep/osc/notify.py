"""Feedback: whoever listens hears every value of the daemon once, and then every change of one, whoever made it.

The values are looked at `1 / TICK` times a second while somebody listens and compared with what was told last. So it does not
matter how a value changed (a message, a bundle whose time came, a clamp, the daemon itself), and a fader that moves faster is
told at this pace. All listeners are told the same at the same time: they stay in step.

This module knows no address: what has a value is `surface.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .client import Client
from .host import Value
from .leases import Lease, Leases
from .wire import build

if TYPE_CHECKING:
    from .server import OscServer

TICK = 0.02  # s
BEAT = 1.0  # s between two heartbeats, and between two looks at the figures that always move
MOST = 32  # listeners
HEARTBEAT = "/streamsep/heartbeat"
_BEAT = build(HEARTBEAT)


@dataclass(eq=False)
class Listener(Lease):
    """Who hears of changes: of all, or of those `paths` it asked for (an OSCQuery client)."""

    paths: set[str] | None = None

    def wants(self, address: str) -> bool:
        """Whether it is to hear of `address`."""
        return self.paths is None or address in self.paths


class Notify:
    """The listeners and what they were told."""

    def __init__(self, server: OscServer, clock: Callable[[], float]) -> None:
        self.listeners: Leases[Listener] = Leases("notify", MOST, clock)
        self._server = server
        self._told: dict[str, list[Value]] = {}

    def subscribe(self, owner: Client, destination: Client, keep: bool = False) -> None:
        """Tell `destination` everything now and each change from now on; ValueError where there are too many."""
        self._look(slow=None)  # the others hear first what is new to them
        listener = self.listeners.add(Listener(owner, destination, kept=keep))
        self._tell([listener], self._told)

    def listen(self, client: Client, address: str) -> None:
        """Tell `client`, which has a connection, the changes of one address until it closes; ValueError as above."""
        self._look(slow=None)
        for listener in self.listeners:
            if listener.destination == client:
                if listener.paths is not None:  # else it hears everything
                    listener.paths.add(address)
                return
        self.listeners.add(Listener(client, client, kept=True, paths={address}))
        self._server.wake()

    def ignore(self, client: Client, address: str) -> None:
        """The end of `listen`."""
        for listener in self.listeners:
            if listener.destination == client and listener.paths is not None:
                listener.paths.discard(address)
                if not listener.paths:
                    self.listeners.end(client)

    def restart(self) -> None:
        """The daemon has another engine: everybody is told everything again."""
        self._told = {}
        self._look(slow=None)

    def tick(self) -> bool:
        """Tell what changed since the last look; whether anybody listens."""
        listeners = any(True for _ in self.listeners)
        if listeners:
            self._look(slow=False)
        return listeners

    def beat(self) -> bool:
        """A heartbeat for everybody, and the figures that always move; whether anybody listens."""
        listeners = list(self.listeners)
        for listener in listeners:
            if listener.paths is None:
                self._server.post(_BEAT, listener.destination)
        if listeners:
            self._look(slow=True)
        return bool(listeners)

    def _look(self, slow: bool | None) -> None:
        """Look at the values, all or only the slow ones or the others, and tell those that changed."""
        changed = {}
        for address, target in self._server.targets.items():
            if target.row.get and slow in (None, target.row.slow):
                values = self._server.values(address)
                if values is not None and values != self._told.get(address):
                    changed[address] = values
        self._told |= changed
        self._tell(self.listeners, changed)

    def _tell(self, listeners: Iterable[Listener], values: dict[str, list[Value]]) -> None:
        listeners = list(listeners)
        for address, held in values.items() if listeners else ():
            data = build(address, held)
            for listener in listeners:
                if listener.wants(address):
                    self._server.post(data, listener.destination)
