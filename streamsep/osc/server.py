"""One thread, one socket: it takes packets, has them obeyed, answers their sender, and serves the listeners in between.

The audio path neither waits for this thread nor knows of it: controls cross as the engine's aligned 8-byte values, samples
through the tap. The port is open to whoever reaches it, so no packet ends the thread or holds it up: what is malformed is
counted and forgotten, what cannot be obeyed is answered with one line of reason, and a flood waits its turn.

This module knows no address by name but the error's: what a message means is `surface.py`'s, how it is written `wire.py`'s.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np
from pythonosc.osc_message_builder import build_msg

from .. import StreamsepError, rings
from ..engine import Separator
from ..rings import Rings
from .streams import Address, Streams
from .surface import ERROR, ROWS, SENT, Ask, Value
from .wire import Message, matches, parse, split

POLL = 0.003  # s between two looks at the tap while somebody listens
RECEIVE = 64  # datagrams in a row: a flood of messages must not starve the listeners
MAX_PACKET = 8192  # bytes of a packet to us; what is longer is cut off, and so malformed
MAX_ADDRESS = 128  # characters of a pattern, or of an address in an error; both keep a hostile packet short work
STOP_WITHIN = 5.0  # s


class OscError(StreamsepError):
    """The OSC server cannot listen where it was told to."""


class OscServer:
    """Listens for OSC on one UDP port, in one thread, from `start` to `stop`.

    Parameters
    ----------
    separator
        whose gains, mutes and bypass it sets.
    rings
        whose tap the listeners get.
    host, port
        where to listen; port 0 takes any free one (see `port`).
    status
        figures for `/streamsep/status`; called in the server's thread, so it must be quick.
    clock
        s, for the listeners' leases.

    Raises
    ------
    ValueError
        `rings` was not made for this separator, or no such port can be.
    """

    def __init__(
        self,
        separator: Separator,
        rings: Rings,
        host: str = "127.0.0.1",
        port: int = 9000,
        status: Callable[[], Mapping[str, Value]] = dict,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not 0 <= port <= 65535:
            raise ValueError(f"port={port} is out of range: expected 0 to 65535")
        self.separator = separator
        self.status = status
        self.streams = Streams(separator, rings, self._send, clock)
        self._host, self._port = host, port
        self._rings = rings
        self._counts = {"messages": 0, "malformed": 0, "refused": 0, "socket_errors": 0}
        self._targets = {
            row.address.replace("<name>", name): (row, name)
            for row in ROWS
            if row.handler
            for name in (separator.sources if "<name>" in row.address else [""])
        }
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port listened on; before the first `start` the one asked for."""
        return self._port

    @property
    def counts(self) -> dict[str, int]:
        """Messages taken, malformed packets, messages refused, socket errors; streams, packets and frames lost."""
        return self._counts | {"streams": len(self.streams.running)} | self.streams.counts

    def start(self) -> None:
        """Open the socket and begin to answer.

        Raises
        ------
        OscError
            the host or port cannot be had.
        RuntimeError
            it runs already.
        """
        if self._thread is not None:
            raise RuntimeError(f"the OSC server on port {self.port} runs already: call stop() first")
        # Compile, or load from Numba's cache, before sound runs.
        rings.read_tap(self._rings, 0, 0, np.empty((1, 1), np.float32))
        self._socket = _open(self._host, self._port)
        self._port = self._socket.getsockname()[1]
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="streamsep-osc", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and close the socket, in `STOP_WITHIN` at most; harmless when it does not run."""
        if self._thread is None:
            return
        self._wake.close()
        self._thread.join(STOP_WITHIN)
        self._socket.close()
        self._woken.close()
        self._thread = None
        self.streams.running.clear()

    def __enter__(self) -> OscServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # ----------------------------------------------------------------------------------------------------- its thread

    def _run(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                events = selector.select(POLL if self.streams.running else None)
                ready = [key.fileobj for key, _ in events]
                if self._socket in ready:
                    self._receive()
                self.streams.pump()  # when told to end, too: the last hops are out
                if self._woken in ready:
                    return

    def _receive(self) -> None:
        for _ in range(RECEIVE):
            try:
                packet, sender = self._socket.recvfrom(MAX_PACKET)
            except BlockingIOError:
                return
            except OSError:  # Windows reports here that an earlier packet reached nobody
                self._counts["socket_errors"] += 1
                return
            self.handle(packet, sender)

    def handle(self, packet: bytes, sender: Address) -> None:
        """Obey one packet, whatever is in it, and answer `sender`."""
        try:
            messages = [parse(data) for data in split(packet)]
        except Exception:  # see `parse`; there is nobody to tell but the counter
            self._counts["malformed"] += 1
            return
        for message in messages:
            if message.address not in SENT:  # else two servers, or one that listens to itself, would go on for ever
                self._counts["messages"] += 1
                self.streams.renew(sender)
                self._answer(message, sender)

    def _answer(self, message: Message, sender: Address) -> None:
        targets = self._find(message.address)
        if not targets:
            self._refuse(message.address, self._unknown(), sender)
        for address in targets:
            row, source = self._targets[address]
            try:
                assert row.handler
                values = row.handler(self, Ask(sender, source), *row.read(message))
                reply = build_msg(row.reply_address or address, values).dgram
            except ValueError as error:
                self._refuse(address, str(error), sender)
            except Exception as error:  # `status` is not ours: its faults end a message, not the thread
                self._refuse(address, f"failed: {type(error).__name__}: {error}", sender)
            else:
                self._reply(reply, sender)

    def _find(self, address: str) -> list[str]:
        """The addresses that a message's address, or pattern, means."""
        if address in self._targets:
            return [address]
        if len(address) > MAX_ADDRESS or not set(address) & set("?*[{"):
            return []
        return [target for target in self._targets if matches(address, target)]

    def _unknown(self) -> str:
        known = ", ".join(row.address for row in ROWS if row.handler)
        return f"address is unknown: expected one of {known} with <name> one of {', '.join(self.separator.sources)}"

    def _refuse(self, address: str, reason: str, sender: Address) -> None:
        self._counts["refused"] += 1
        self._reply(build_msg(ERROR, [address[:MAX_ADDRESS], " ".join(reason.split())]).dgram, sender)

    def _reply(self, data: bytes, sender: Address) -> None:
        try:
            self._send(data, sender)
        except OSError:  # who asked has gone, or its buffer is full
            self._counts["socket_errors"] += 1

    def _send(self, data: bytes, destination: Address) -> None:
        self._socket.sendto(data, destination)


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
        opened.bind(address)
    except OSError as error:
        opened.close()
        raise OscError(_why(host, port, error)) from error
    return opened


def _why(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"OSC port {port} on {host} is in use: choose another with --osc-port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"OSC host {host} is not an address of this machine: choose another with --osc-host"
    return f"OSC port {port} on {host} cannot be opened ({error.strerror}): choose another with --osc-port"
