"""One thread, one asyncio loop: it takes packets, has them obeyed, and serves the listeners in between.

The audio path neither waits for this thread nor knows of it: controls cross as the engine's aligned 8-byte values, samples
through the tap, levels through the meters.

`handle` is the one way in for a packet, whatever brought it; a `Client` is the one way out. Other transports and the
announcements live in the same loop as `Service`s. This module knows no address: what is done with a packet is `dispatch.py`'s.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from .. import rings
from ..engine import Engine
from ..meters import Meters
from ..rings import Rings
from . import metering, notify
from .client import Address, Client, UdpClient
from .dispatch import Dispatcher, Target, make_targets
from .dumping import Dumping
from .host import Host, Line, Value
from .leases import Leases
from .streams import Streams
from .ticker import Ticker
from .udp import OscError, UdpPort
from .wire import Tree, tree

__all__ = ["OscError", "OscServer", "Service", "Target"]

POLL = 0.003  # s between two looks at the tap while somebody listens
STALE = 0.25  # s for which the host's figures are kept: feedback asks for each of them
STOP_WITHIN = 5.0  # s


class Service(Protocol):
    """Something else that lives in the server's loop: another transport, an announcement."""

    async def start(self, server: OscServer) -> None:
        """Begin; a StreamsepError ends the server's start. The UDP port is open already (`OscServer.port`)."""

    async def stop(self) -> None:
        """End, soon."""


class OscServer:
    """Listens for OSC on one UDP port and what `services` bring, in one thread, from `start` to `stop`.

    Parameters
    ----------
    host
        the daemon: whose engine, rings and meters it serves, and what it steers.
    address, port
        where to listen; port 0 takes any free one (see `port`).
    allow
        addresses or networks ("192.168.1.0/24") that are listened to, besides this machine's own loopback.
    read_only
        answer questions and subscriptions, refuse everything that steers.
    may_quit
        whether `/streamsep/quit` ends the daemon.
    services
        started with the UDP port open, stopped in reverse order.
    clock
        s, for the listeners' leases.

    Raises
    ------
    ValueError
        the rings were not made for the separator, no such port can be, or `allow` holds what is no network.
    """

    host: Host
    separator: Engine
    lines: tuple[Line, ...]  # the streams, where there are several
    engines: tuple[Engine, ...]  # those of the streams, or `separator`
    rings: Rings
    meters: Meters
    targets: dict[str, Target]  # what each concrete address means
    tree: Tree  # the same by parts
    notify: notify.Notify
    metering: metering.Metering
    dumping: Dumping

    def __init__(
        self,
        host: Host,
        address: str = "127.0.0.1",
        port: int = 9000,
        *,
        allow: Sequence[str] = (),
        read_only: bool = False,
        may_quit: bool = False,
        services: Sequence[Service] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port={port} is out of range: expected 0 to 65535")
        self.host, self.services = host, services
        self.may_quit = may_quit
        self.changed: list[Callable[[], None]] = []  # called in the loop when the addresses may have changed (see `attach`)
        self._bound = address, port
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._admitted = ""  # the last host that was
        self._counts = {"denied": 0, "faults": 0}
        self._figures: tuple[float, Mapping[str, Value]] = -STALE, {}
        self._thread: threading.Thread | None = None
        self.streams = Streams(host.separator, host.rings, clock)
        self._use(host.separator, host.rings, host.meters)
        self.notify = notify.Notify(self, clock)
        self.metering = metering.Metering(self, clock)
        self.dumping = Dumping(self, clock)
        self._leases: list[Leases[Any]] = [self.notify.listeners, self.metering.watchers, self.dumping.listeners]
        self._dispatcher = Dispatcher(self, read_only)
        self._tickers = [
            Ticker(POLL, self._pump),
            Ticker(notify.TICK, self.notify.tick),
            Ticker(notify.BEAT, self.notify.beat),
            Ticker(metering.TICK, self.metering.tick),
        ]

    @property
    def port(self) -> int:
        """The UDP port listened on; before the first `start` the one asked for."""
        return self._bound[1]

    @property
    def bound(self) -> tuple[str, int]:
        """The numeric address and the port that it really listens on; before the first `start` as they were told."""
        return self._bound

    @property
    def counts(self) -> dict[str, int]:
        """Messages, malformed packets, messages refused, packets of hosts not allowed, socket errors, faults; the streams'."""
        counts = self._dispatcher.counts | self._counts | {"streams": len(self.streams.running)} | self.streams.counts
        for service in self.services:
            counts |= getattr(service, "counts", {})
        return counts

    # ------------------------------------------------------------------------------------------------- from any thread

    def start(self) -> None:
        """Open the socket and begin to answer.

        Raises
        ------
        OscError, StreamsepError
            the host or port cannot be had, or a service cannot start.
        RuntimeError
            it runs already.
        """
        if self._thread is not None:
            raise RuntimeError(f"the OSC server on port {self.port} runs already: call stop() first")
        # Compile, or load from Numba's cache, before sound runs.
        rings.read_tap(self.rings, 0, 0, np.empty((1, 1), np.float32))
        self._udp = UdpPort(*self._bound)
        self._bound = self._udp.bound
        begun: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._life(begun)), name="streamsep-osc", daemon=True)
        self._thread.start()
        try:
            begun.result()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the thread and close the socket, in `STOP_WITHIN` at most; harmless when it does not run."""
        if self._thread is None:
            return
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(STOP_WITHIN)
        self._udp.close()
        self._thread = None
        self.streams.running.clear()

    def attach(self, separator: Engine, rings: Rings, meters: Meters) -> None:
        """Serve another engine from now on; when this returns, nothing of the old one is used any more.

        The addresses are made anew, whoever is notified hears everything again, meters and sound go on with what it has.
        """
        self.call(lambda: self._attach(separator, rings, meters))

    def call(self, function: Callable[[], object]) -> None:
        """Run `function` in the server's thread and wait for its end; at once where no thread runs. Its exception is raised."""
        if self._thread is None or threading.current_thread() is self._thread:
            function()
            return
        done: concurrent.futures.Future[None] = concurrent.futures.Future()

        def call() -> None:
            try:
                function()
            except BaseException as error:
                done.set_exception(error)
            else:
                done.set_result(None)

        self._loop.call_soon_threadsafe(call)
        done.result(STOP_WITHIN)

    def __enter__(self) -> OscServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ----------------------------------------------------------------------------------------------------- in its loop

    async def _life(self, begun: concurrent.futures.Future[None]) -> None:
        self._loop, self._end = asyncio.get_running_loop(), asyncio.Event()
        self._loop.set_exception_handler(self._fault)
        async with contextlib.AsyncExitStack() as stack:
            try:
                for service in self.services:
                    stack.push_async_callback(service.stop)
                    await service.start(self)
            except BaseException as error:
                begun.set_exception(error)
                return
            self._udp.read(self._receive)
            begun.set_result(None)
            await self._end.wait()
            self._udp.silence()
            self._pump()  # the last hops go out
            for ticker in self._tickers:
                ticker.stop()

    def _attach(self, separator: Engine, rings: Rings, meters: Meters) -> None:
        self.streams.attach(separator, rings)
        self._use(separator, rings, meters)
        self.metering.attach()
        self.notify.restart()
        for tell in self.changed:
            tell()

    def _use(self, separator: Engine, rings: Rings, meters: Meters) -> None:
        self.separator, self.rings, self.meters = separator, rings, meters
        self.lines = tuple(self.host.lines)
        self.engines = tuple(line.engine for line in self.lines) or (separator,)
        self.targets = make_targets(separator.sources, self.lines)
        self.tree = tree(self.targets)

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Something in the loop failed that was not expected to: counted, for only the command line prints."""
        self._counts["faults"] += 1

    def _pump(self) -> bool:
        self.streams.pump()
        return bool(self.streams.running)

    def _receive(self, packet: bytes, client: Client) -> None:
        if self.admits(client.host):
            self.handle(packet, client)

    # ------------------------------------------------------------------------- for those who live in the loop, too

    def handle(self, packet: bytes, client: Client) -> None:
        """Obey one packet, whatever is in it, and answer `client`."""
        self._dispatcher.handle(packet, client)
        self.wake()

    def wake(self) -> None:
        """Somebody may have begun to listen to something."""
        for ticker in self._tickers:
            ticker.wake()

    def admits(self, host: str) -> bool:
        """Whether the host at this numeric address is listened to; who is not gets no answer, and is counted."""
        if host == self._admitted:  # who spoke last speaks next, most of the time
            return True
        address = ipaddress.ip_address(host.partition("%")[0])
        admitted = address.is_loopback or any(address in network for network in self._allow)
        if admitted:
            self._admitted = host
        self._counts["denied"] += not admitted
        return admitted

    def reach(self, address: Address, port: int) -> UdpClient:
        """The client at a UDP port of the host at `address`, which came by another transport."""
        return self._udp.reach(address, port)

    def renew(self, client: Client) -> None:
        """A sign of life of `client`."""
        self.streams.renew(client)
        for leases in self._leases:
            leases.renew(client)

    def forget(self, client: Client) -> None:
        """The connection of `client` has ended, and with it all that goes there or was asked for from there."""
        self.streams.unsubscribe(client)
        for leases in self._leases:
            leases.end(client)

    def values(self, address: str) -> list[Value] | None:
        """What an address holds now; None where that cannot be told."""
        return self._dispatcher.values(address)

    def status(self, fresh: bool = False) -> Mapping[str, Value]:
        """The host's figures, at most `STALE` old."""
        now = time.monotonic()
        if fresh or now - self._figures[0] >= STALE:
            self._figures = now, self.host.status()
        return self._figures[1]

    def refuse(self, address: str, reason: str, client: Client) -> None:
        """Tell `client` that and why something cannot be obeyed."""
        self._dispatcher.refuse(address, reason, client)

    def post(self, data: bytes, client: Client) -> None:
        """Send one packet, or count that it could not be sent."""
        self._dispatcher.post(data, client)
