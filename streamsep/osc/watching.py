"""The addresses that tell how the daemon does, and keep on telling whoever asks them to: status, feedback, meters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import __version__
from .host import Value
from .leases import LEASE
from .metering import METER, RATE, STREAM_METER
from .notify import BEAT, HEARTBEAT
from .row import PORT, Argument, Ask, Place, Row, number, parameter, told, whole

if TYPE_CHECKING:
    from .server import OscServer

STATUS_REPLY, SYNCED, PONG = "/streamsep/status.reply", "/streamsep/synced", "/streamsep/pong"

# address, key in the host's status, type tag, unit, what it is; the last word says whether it always moves
FIGURES = (
    ("latency/total", "latency_ms.total", "f", "ms", "delay from input to output, constant", False),
    ("latency/algorithmic", "latency_ms.algorithmic", "f", "ms", "its part that the synthesis window makes", False),
    ("latency/buffering", "latency_ms.buffering", "f", "ms", "its part that the hand-over to the worker makes", False),
    ("latency/device", "latency_ms.device", "f", "ms", "its part that the audio system reports", False),
    ("stats/provider", "provider", "s", "", "where the network runs", False),
    ("stats/late", "late", "i", "", "hops that had no mask of their own when they were due", True),
    ("stats/bridged", "bridged", "i", "", "those of them that went out through the last mask", True),
    ("stats/missed", "missed_blocks", "i", "", "blocks of the device that found nothing, or too little", True),
    ("stats/xruns", "xruns", "i", "", "over- and underruns that the audio system reported", True),
    ("stats/step/p50", "step_ms.p50", "f", "ms", "work for one hop, median", True),
    ("stats/step/p99", "step_ms.p99", "f", "ms", "work for one hop, 99 of 100 take no longer", True),
    ("stats/step/max", "step_ms.max", "f", "ms", "work for one hop, the longest", True),
)


def _figure(name: str, key: str, tag: str, unit: str, help: str, slow: bool) -> Row:
    def get(server: OscServer, _: Place) -> Value:
        status = server.status()
        if key == "xruns":
            return int(status.get("input_xruns", 0)) + int(status.get("output_xruns", 0))
        if key not in status:
            raise ValueError(f"{key} is not known now: expected a device that runs")
        return {"f": float, "i": int, "s": str}[tag](status[key])

    return parameter(f"/streamsep/{name}", told(name.rpartition("/")[2], tag, unit), help, get, slow=slow)


def _status(server: OscServer, ask: Ask) -> list[Value]:
    figures = {**server.status(fresh=True), **{f"osc.{key}": count for key, count in server.counts.items()}}
    return [part for pair in figures.items() for part in pair]


def _echo(server: OscServer, ask: Ask, *values: Any) -> list[Value]:
    return list(values)


def _notify(server: OscServer, ask: Ask, mode: int, port: int | None = None) -> list[Value]:
    destination = ask.sender if port is None else ask.sender.at(port)
    if mode:
        server.notify.subscribe(ask.sender, destination, keep=mode == 2)
    else:
        server.notify.listeners.end(destination)
    return [mode]


def _subscribe(server: OscServer, ask: Ask, rate: float, port: int | None = None) -> list[Value]:
    server.metering.subscribe(ask.sender, ask.sender if port is None else ask.sender.at(port), rate)
    return [rate]


def _unsubscribe(server: OscServer, ask: Ask, port: int | None = None) -> list[Value]:
    return [int(server.metering.watchers.end(ask.sender if port is None else ask.sender.at(port)))]


def _reset(server: OscServer, ask: Ask) -> list[Value]:
    server.metering.reset()
    return []


_LEVELS = (told("peak", "f", "dBFS"), told("rms", "f", "dBFS"), told("clip", "i"))
_RATE = number("rate", "Hz", *RATE)._replace(optional=False)
_ANYTHING = Argument("anything", "i", "any type", "comes back")

WATCHING = (
    parameter("/streamsep/version", told("version", "s"), "ask for the program's version", lambda *_: __version__),
    parameter("/streamsep/state", told("state", "s"), "ask how it is: running, device lost ...", lambda s, _: s.host.state),
    *(_figure(*figure) for figure in FIGURES),
    Row("/streamsep/status", (), "ask for all figures", _status, reply=f"`{STATUS_REPLY}`", reply_address=STATUS_REPLY),
    Row("/streamsep/ping", (_ANYTHING,), "ask for a sign of life", _echo, reply=f"`{PONG}`", reply_address=PONG),
    Row(
        "/streamsep/sync",
        (whole("n", -(2**31), 2**31 - 1, "any", optional=False),),
        "ask to be told when all messages before this one have been obeyed",
        _echo,
        reply=f"`{SYNCED}`",
        reply_address=SYNCED,
    ),
    Row(
        "/streamsep/notify",
        (whole("mode", 0, 2, "1: on, 2: on without a lease, 0: off", optional=False), PORT),
        f"hear every value now and each change from now on, for {LEASE:g} s from your last message; 2: until 0",
        _notify,
    ),
    Row(
        "/streamsep/meters/subscribe",
        (_RATE, PORT),
        f"get the meters, so many bundles a second, for {LEASE:g} s from your last message",
        _subscribe,
        told=(_RATE,),
    ),
    Row("/streamsep/meters/unsubscribe", (PORT,), "end the sender's meters", _unsubscribe, reply="whether there were any i"),
    Row("/streamsep/meters/reset", (), "let go of the clips that the meters hold", _reset),
    Row(f"{METER}/source/<name>", (), "a source's level since the last packet; clip: since the last reset", told=_LEVELS),
    Row(f"{METER}/input", (), "the same of the input", told=_LEVELS),
    Row(f"{METER}/output", (), "the same of the sources' sum", told=_LEVELS),
    Row(
        f"{METER}/step",
        (),
        "the longest work for a hop since the last packet, late hops so far, hops since the last packet",
        told=(told("step", "f", "ms"), told("late", "i"), told("hops", "i")),
    ),
    Row(HEARTBEAT, (), f"to who is notified, every {BEAT:g} s"),
    Row(STATUS_REPLY, (), "the answer to `/streamsep/status`", reply="key s, value i, f or s, and so on"),
    Row(SYNCED, (), "the answer to `/streamsep/sync`", told=(told("n", "i"),)),
    Row(PONG, (), "the answer to `/streamsep/ping`", reply="its argument"),
)

STREAM_METERS = (
    Row(f"{STREAM_METER}/source/<name>", (), "the same of a stream, where there are several", told=_LEVELS),
    Row(f"{STREAM_METER}/input", (), "the same of a stream's input", told=_LEVELS),
    Row(f"{STREAM_METER}/output", (), "the same of the sum of a stream's sources", told=_LEVELS),
)
