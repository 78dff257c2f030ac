"""One thread, one asyncio loop: it takes packets, has them obeyed, answers their sender, and serves the listeners in between.

The audio path neither waits for this thread nor knows of it: controls cross as the engine's aligned 8-byte values, samples
through the tap, levels through the meters. The ports are open to whoever reaches them, so no packet ends the thread or holds
it up: what is malformed is counted and forgotten, what cannot be obeyed is answered with one line of reason, and a flood
waits its turn.

`handle` is the one way in for a packet, whatever brought it; a `Client` is the one way out. Other transports and the
announcements live in the same loop as `Service`s. This module knows no address by name but the error's: what a message means
is `surface.py`'s, how it is written `wire.py`'s.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from pythonosc.osc_message_builder import build_msg

from .. import StreamsepError, rings
from ..engine import Separator
from ..meters import Meters
from ..rings import Rings
from . import metering, notify
from .client import Address, Client, UdpClient
from .host import Host, Value
from .row import Ask, Row
from .sockets import why
from .streams import Streams
from .surface import ERROR, ROWS
from .wire import Message, matches, parse, split

POLL = 0.003  # s between two looks at the tap while somebody listens
RECEIVE = 16  # datagrams in a row: a flood of messages must not starve the listeners
MAX_PACKET = 8192  # bytes of a packet to us; what is longer is cut off, and so malformed
MAX_ADDRESS = 128  # characters of a pattern, or of an address in an error; both keep a hostile packet short work
STALE = 0.25  # s for which the host's figures are kept: feedback asks for each of them
STOP_WITHIN = 5.0  # s
SENT = {row.address for row in ROWS if row.handler is None}  # by us: who sends them here gets no answer


class OscError(StreamsepError):
    """The OSC server cannot listen where it was told to."""


class Service(Protocol):
    """Something else that lives in the server's loop: another transport, an announcement."""

    async def start(self, server: OscServer) -> None:
        """Begin; a StreamsepError ends the server's start. The UDP port is open already (`OscServer.port`)."""

    async def stop(self) -> None:
        """End, soon."""


class Target(NamedTuple):
    """What a concrete address means."""

    row: Row
    source: str  # "": none


class Ticker:
    """Calls `work` every `period` s as long as it returns True; `wake` begins it again. Lives in a loop."""

    def __init__(self, period: float, work: Callable[[], bool]) -> None:
        self._period, self._work = period, work
        self._next: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """There may be work again."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_later(self._period, self._tick)

    def stop(self) -> None:
        """Call `work` no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _tick(self) -> None:
        self._next = None
        more = True
        try:
            more = self._work()
        finally:  # a fault is counted (`_fault`); it must not be the last tick
            if more:
                self.wake()


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
    separator: Separator
    rings: Rings
    meters: Meters
    targets: dict[str, Target]  # what each concrete address means
    notify: notify.Notify
    metering: metering.Metering

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
        self.read_only, self.may_quit = read_only, may_quit
        self.changed: list[Callable[[], None]] = []  # called in the loop when the addresses may have changed (see `attach`)
        self._bound = address, port
        self._allow = [ipaddress.ip_network(network) for network in allow]
        self._counts = {"messages": 0, "malformed": 0, "refused": 0, "denied": 0, "socket_errors": 0, "faults": 0}
        self._figures: tuple[float, Mapping[str, Value]] = -STALE, {}
        self._thread: threading.Thread | None = None
        self.streams = Streams(host.separator, host.rings, clock)
        self._use(host.separator, host.rings, host.meters)
        self.notify = notify.Notify(self, clock)
        self.metering = metering.Metering(self, clock)
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
        counts = self._counts | {"streams": len(self.streams.running)} | self.streams.counts
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
        self._socket = _open(*self._bound)
        self._bound = self._socket.getsockname()[:2]
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
        self._socket.close()
        self._thread = None
        self.streams.running.clear()

    def attach(self, separator: Separator, rings: Rings, meters: Meters) -> None:
        """Serve another engine from now on; when this returns, nothing of the old one is used any more.

        The addresses are made anew, whoever is notified hears everything again, meters' subscriptions end.
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
            self._loop.add_reader(self._socket, self._receive)
            begun.set_result(None)
            await self._end.wait()
            self._loop.remove_reader(self._socket)
            self._pump()  # the last hops go out
            for ticker in self._tickers:
                ticker.stop()

    def _attach(self, separator: Separator, rings: Rings, meters: Meters) -> None:
        self.streams.attach(separator, rings)
        self._use(separator, rings, meters)
        self.metering.attach(meters)
        self.notify.restart()
        for tell in self.changed:
            tell()

    def _use(self, separator: Separator, rings: Rings, meters: Meters) -> None:
        self.separator, self.rings, self.meters = separator, rings, meters
        self.targets = {
            row.address.replace("<name>", name): Target(row, name)
            for row in ROWS
            if row.handler
            for name in (separator.sources if "<name>" in row.address else [""])
        }

    def _fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Something in the loop failed that was not expected to: counted, for only the command line prints."""
        self._counts["faults"] += 1

    def _pump(self) -> bool:
        self.streams.pump()
        return bool(self.streams.running)

    def _receive(self) -> None:
        for _ in range(RECEIVE):
            try:
                packet, sender = self._socket.recvfrom(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:  # Windows reports here that an earlier packet reached nobody
                self._counts["socket_errors"] += 1
                return
            client = UdpClient(sender, self._socket)
            if self.admits(client.host):
                self.handle(packet, client)

    def admits(self, host: str) -> bool:
        """Whether the host at this numeric address is listened to; who is not gets no answer, and is counted."""
        address = ipaddress.ip_address(host.partition("%")[0])
        admitted = address.is_loopback or any(address in network for network in self._allow)
        self._counts["denied"] += not admitted
        return admitted

    def reach(self, address: Address, port: int) -> UdpClient:
        """The client at a UDP port of the host at `address`, which came by another transport."""
        host = str(address[0])
        if self._socket.family == socket.AF_INET6:
            mapped = host if ":" in host else f"::ffff:{host}"
            return UdpClient((mapped, port, 0, *address[3:4]) if len(address) > 3 else (mapped, port, 0, 0), self._socket)
        return UdpClient((host.removeprefix("::ffff:"), port), self._socket)

    def forget(self, client: Client) -> None:
        """The connection of `client` has ended, and with it all that goes there or was asked for from there."""
        self.streams.unsubscribe(client)
        self.notify.listeners.end(client)
        self.metering.watchers.end(client)

    def handle(self, packet: bytes, client: Client) -> None:
        """Obey one packet, whatever is in it, and answer `client`."""
        try:
            messages = [parse(data) for _, data in split(packet)]
        except Exception:  # see `parse`; there is nobody to tell but the counter
            self._counts["malformed"] += 1
            return
        for message in messages:
            if message.address not in SENT:  # else two servers, or one that listens to itself, would go on for ever
                self._counts["messages"] += 1
                self._renew(client)
                self._answer(message, client)
        for ticker in self._tickers:
            ticker.wake()

    def _renew(self, client: Client) -> None:
        self.streams.renew(client)
        self.notify.listeners.renew(client)
        self.metering.watchers.renew(client)

    def _answer(self, message: Message, client: Client) -> None:
        targets = self._find(message.address)
        if not targets:
            self.refuse(message.address, self._unknown(message.address), client)
        for address in targets:
            row, source = self.targets[address]
            try:
                assert row.handler
                values = row.handler(self, Ask(client, source), *self._read(row, message))
                reply = build_msg(row.reply_address or address, values).dgram
            except ValueError as error:
                self.refuse(address, str(error), client)
            except Exception as error:  # the host is not ours: its faults end a message, not the thread
                self.refuse(address, f"failed: {type(error).__name__}: {error}", client)
            else:
                self.post(reply, client)

    def _read(self, row: Row, message: Message) -> list[object]:
        arguments = row.read(message)
        if self.read_only and row.steers and (arguments or not row.get):
            raise ValueError("this daemon only answers questions: expected no arguments, or osc_read_only = false")
        return arguments

    def _find(self, address: str) -> list[str]:
        """The addresses that a message's address, or pattern, means."""
        if address in self.targets:
            return [address]
        if len(address) > MAX_ADDRESS or not set(address) & set("?*[{"):
            return []
        return [target for target in self.targets if matches(address, target)]

    def _unknown(self, address: str) -> str:
        """What stands at the deepest place that the address has in common with ours; short, for nobody knows who asked."""
        parts = address[:MAX_ADDRESS].split("/")
        while parts:
            parts.pop()
            place = "/".join([*parts, ""])
            known = sorted({target[len(place) :].partition("/")[0] for target in self.targets if target.startswith(place)})
            if known:
                return f"address is unknown: expected {place} with one of {', '.join(known)}"
        return "address is unknown: expected /streamsep"

    def values(self, address: str) -> list[Value] | None:
        """What an address holds now; None where that cannot be told."""
        row, source = self.targets[address]
        try:
            return row.get(self, source) if row.get else None
        except Exception:  # as in `_answer`
            return None

    def status(self, fresh: bool = False) -> Mapping[str, Value]:
        """The host's figures, at most `STALE` old."""
        now = time.monotonic()
        if fresh or now - self._figures[0] >= STALE:
            self._figures = now, self.host.status()
        return self._figures[1]

    def refuse(self, address: str, reason: str, client: Client) -> None:
        """Tell `client` that and why something cannot be obeyed."""
        self._counts["refused"] += 1
        self.post(build_msg(ERROR, [address[:MAX_ADDRESS], " ".join(reason.split())]).dgram, client)

    def post(self, data: bytes, client: Client) -> None:
        """Send one packet, or count that it could not be sent."""
        try:
            client.send(data)
        except OSError:  # it has gone, or its buffer is full
            self._counts["socket_errors"] += 1


def _open(host: str, port: int) -> socket.socket:
    """A bound, non-blocking UDP socket; OscError names the flag that cures."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OscError(f"OSC host {host!r} is unknown ({reason}): choose another with --osc-host") from error
    # "localhost" means both; OSC programs are at home on IPv4
    family, kind, protocol, _, address = min(found, key=lambda info: info[0] != socket.AF_INET)
    opened = socket.socket(family, kind, protocol)
    opened.setblocking(False)
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)  # "::" is all addresses, IPv4's too
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise OscError(why("OSC", host, port, "--osc-host", "--osc-port", error)) from error
    return opened
