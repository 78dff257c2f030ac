"""What is done with a packet: its messages are found their rows, obeyed at their time, and answered.

Messages of a bundle whose time has come, or that has none, take effect in one and the same hop. Of a bundle with a time to
come, what can wait (gains and the like) waits on the engine's clock and is answered now, with the value that it will set;
questions are answered now; all else is refused. Nothing is kept for longer than `AHEAD`.

No packet ends the thread or holds it up: what is malformed is counted and forgotten, what cannot be obeyed is answered with
one line of reason. This module knows no transport, and no address but the error's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from .. import meters
from ..controls import ScheduleFullError
from .client import Client
from .host import Line, Value
from .row import Ask, Place, Row
from .surface import ERROR, ROWS
from .wire import Message, build, parse, search, seconds, split

if TYPE_CHECKING:
    from .server import OscServer

MAX_ADDRESS = 128  # characters of a pattern, or of an address in an error; both keep a hostile packet short work
MOST = 256  # addresses that one packet may reach: no packet holds up the others for long
AHEAD = 60.0  # s that a bundle may wait for its time
SENT = {row.address for row in ROWS if row.handler is None}  # by us: who sends them here gets no answer


class Target(NamedTuple):
    """What a concrete address means."""

    row: Row
    place: Place


def make_targets(sources: Sequence[str], lines: Sequence[Line]) -> dict[str, Target]:
    """Every concrete address of a daemon with these sources and streams; a stream goes by its number and by its name."""
    calls = [(n, call) for n, line in enumerate(lines) for call in (str(n + 1), line.name) if call]
    return {
        row.address.replace("<n>", call).replace("<name>", name): Target(row, Place(name, stream))
        for row in ROWS
        if row.handler
        for stream, call in (calls if "<n>" in row.address else [(0, "")])
        for name in (sources if "<name>" in row.address else [""])
    }


class Dispatcher:
    """Obeys packets on behalf of a server."""

    def __init__(self, server: OscServer, read_only: bool) -> None:
        self.counts = {"messages": 0, "malformed": 0, "refused": 0, "socket_errors": 0}
        self._server, self._read_only = server, read_only
        self._left, self._full = MOST, False  # of the packet in hand

    def handle(self, packet: bytes, client: Client) -> None:
        """Obey one packet, whatever is in it, and answer `client`."""
        try:
            messages = [(time_tag, parse(data)) for time_tag, data in split(packet)]
        except Exception:  # see `parse`; there is nobody to tell but the counter
            self.counts["malformed"] += 1
            return
        messages = [m for m in messages if m[1].address not in SENT]  # else two servers would go on for ever
        if not messages:
            return
        self.counts["messages"] += len(messages)
        self._left, self._full = MOST, False
        self._server.renew(client)
        alone = len(messages) == 1 and messages[0][1].address in self._server.targets
        with nullcontext() if alone else self._together():
            for time_tag, group in groupby(messages, itemgetter(0)):
                self._obey(seconds(time_tag) - time.time(), [message for _, message in group], client)

    def _obey(self, ahead: float, messages: Sequence[Message], client: Client) -> None:
        """Messages that have the same time, `ahead` s from now."""
        for message in messages:
            self._server.dumping.tell(message, client)
        if ahead <= 0:
            for message in messages:
                for reply in self._answers(message, client, waits=False):
                    self.post(reply, client)
            return
        if ahead > AHEAD:
            reason = f"the bundle's time is {ahead:.0f} s ahead: expected at most {AHEAD:g} s"
            self.refuse(messages[0].address, reason, client)
            return
        try:
            with self._at(ahead):
                replies = [reply for message in messages for reply in self._answers(message, client, waits=True)]
        except ScheduleFullError as error:
            self.refuse(messages[0].address, str(error), client)
        else:
            for reply in replies:
                self.post(reply, client)

    @contextmanager
    def _together(self) -> Iterator[None]:
        with ExitStack() as stack:
            for engine in self._server.engines:
                stack.enter_context(engine.together())
            yield

    @contextmanager
    def _at(self, ahead: float) -> Iterator[None]:
        """Where each engine's clock will be in `ahead` s, as far as can be told now; it stands while no sound comes."""
        histories = [line.meters for line in self._server.lines] or [self._server.meters]
        with ExitStack() as stack:
            for engine, history in zip(self._server.engines, histories, strict=True):
                now = meters.clock_of(history, engine.sample_rate, time.monotonic_ns())
                position = round((engine.clock if now is None else now) + ahead * engine.sample_rate)
                stack.enter_context(engine.at(position))
            yield

    def _answers(self, message: Message, client: Client, waits: bool) -> Iterator[bytes]:
        targets = self._find(message.address)
        self._left -= max(1, len(targets))
        if self._left < 0:
            if not self._full:
                self._full = True
                yield self._refusal(message.address, f"one packet reaches too much from here on: expected {MOST} addresses")
            return
        if not targets:
            yield self._refusal(message.address, self._unknown(message.address))
        for address in targets:
            row, place = self._server.targets[address]
            try:
                assert row.handler
                values = row.handler(self._server, Ask(client, place), *self._read(row, message, waits))
                yield build(row.reply_address or address, values)
            except ValueError as error:
                yield self._refusal(address, str(error))
            except Exception as error:  # the host is not ours: its faults end a message, not the thread
                yield self._refusal(address, f"failed: {type(error).__name__}: {error}")

    def _read(self, row: Row, message: Message, waits: bool) -> list[object]:
        arguments = row.read(message)
        asks = bool(row.get) and not arguments
        if self._read_only and row.steers and not asks:
            raise ValueError("this daemon only answers questions: expected osc_read_only = false for what steers")
        if waits and not row.timed and not asks:
            raise ValueError("cannot wait for its time: expected no bundle, or one with the time tag of now")
        return arguments

    def _find(self, address: str) -> list[str]:
        """The addresses that a message's address, or pattern, means."""
        if address in self._server.targets:
            return [address]
        if len(address) > MAX_ADDRESS or not set(address) & set("?*[{"):
            return []
        return [place for place in search(address, self._server.tree) if place in self._server.targets]

    def _unknown(self, address: str) -> str:
        """What stands at the deepest place that the address has in common with ours; short, for nobody knows who asked."""
        targets = self._server.targets
        parts = address[:MAX_ADDRESS].split("/")
        while parts:
            parts.pop()
            place = "/".join([*parts, ""])
            known = sorted({target[len(place) :].partition("/")[0] for target in targets if target.startswith(place)})
            if known:
                return f"address is unknown: expected {place} with one of {', '.join(known)}"
        return "address is unknown: expected /streamsep"

    def values(self, address: str) -> list[Value] | None:
        """What an address holds now; None where that cannot be told."""
        row, place = self._server.targets[address]
        try:
            return row.get(self._server, place) if row.get else None
        except Exception:  # as in `_answers`
            return None

    def _refusal(self, address: str, reason: str) -> bytes:
        self.counts["refused"] += 1
        return build(ERROR, [address[:MAX_ADDRESS], " ".join(reason.split())])

    def refuse(self, address: str, reason: str, client: Client) -> None:
        """Tell `client` that and why something cannot be obeyed."""
        self.post(self._refusal(address, reason), client)

    def post(self, data: bytes, client: Client) -> None:
        """Send one packet, or count that it could not be sent."""
        try:
            client.send(data)
        except OSError:  # it has gone, or its buffer is full
            self.counts["socket_errors"] += 1
