"""Who gets something again and again, and until when: UDP does not tell that a listener has gone.

A lease lasts `LEASE` from the last message of its owner or of its destination; one that is kept ends only when it is ended, or
when the connection that it goes to closes. Their number is bounded. This module knows no clock but the one it is given, and
not what is sent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from .client import Client

LEASE = 10.0  # s without a sign of life


@dataclass(eq=False)
class Lease:
    """One listener. `owner` asked, `destination` gets; mostly they are the same."""

    owner: Client
    destination: Client
    expires: float = 0.0  # s on the clock
    kept: bool = False

    def concerns(self, client: Client) -> bool:
        """Whether `client` asked for it or gets it."""
        return client in (self.owner, self.destination)


L = TypeVar("L", bound=Lease)


class Leases(Generic[L]):
    """The listeners to one thing: at most `most` of them."""

    def __init__(self, what: str, most: int, clock: Callable[[], float]) -> None:
        self._what, self._most, self._clock = what, most, clock
        self._running: list[L] = []

    def __iter__(self) -> Iterator[L]:
        """Those that run, after the end of those whose time is over."""
        now = self._clock()
        self._running = [lease for lease in self._running if lease.expires > now]
        return iter(self._running)

    def __len__(self) -> int:
        return len(self._running)

    def add(self, lease: L) -> L:
        """Begin it; a lease for the same destination ends. ValueError where there are too many."""
        others = [other for other in self if other.destination != lease.destination]
        if len(others) >= self._most:
            raise ValueError(f"{self._what} listeners={len(others)}: expected fewer than {self._most}; end one first")
        lease.expires = math.inf if lease.kept else self._clock() + LEASE
        self._running = [*others, lease]
        return lease

    def end(self, client: Client) -> bool:
        """End what `client` asked for or gets; whether there was any."""
        before = len(self._running)
        self._running = [lease for lease in self._running if not lease.concerns(client)]
        return len(self._running) < before

    def renew(self, client: Client) -> None:
        """A sign of life of `client`."""
        for lease in self._running:
            if lease.concerns(client) and not lease.kept:
                lease.expires = self._clock() + LEASE
