"""The addresses that concern the daemon as a whole: its model and devices, its recording, its end, and what comes in.

Another model or device takes its time. The answer tells what holds now; that it has changed is told by feedback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dumping import DUMP
from .host import Value
from .leases import LEASE, Lease
from .row import PORT, Ask, Place, Row, parameter, switch, text, told

if TYPE_CHECKING:
    from .server import OscServer


def _model(server: OscServer, _: Place, name: str) -> str:
    server.host.choose(model=name)
    return server.host.model


def _input(server: OscServer, _: Place, name: str) -> str:
    server.host.choose(input=name)
    return server.host.devices[0]


def _output(server: OscServer, _: Place, name: str) -> str:
    server.host.choose(output=name)
    return server.host.devices[1]


def _record(server: OscServer, _: Place, on: bool) -> int:
    return int(server.host.record(on))


def _quit(server: OscServer, ask: Ask) -> list[Value]:
    if not server.may_quit:
        raise ValueError("is not allowed: expected osc_quit = true in the configuration")
    server.host.quit()
    return []


def _dump(server: OscServer, ask: Ask, on: bool, port: int | None = None) -> list[Value]:
    destination = ask.sender if port is None else ask.sender.at(port)
    if on:
        server.dumping.listeners.add(Lease(ask.sender, destination))
    else:
        server.dumping.listeners.end(destination)
    return [int(on)]


HOUSE = (
    parameter(
        "/streamsep/model",
        text("model", "a shipped model's name, or an .onnx file"),
        "change to another model, or ask which it is",
        lambda server, _: server.host.model,
        _model,
    ),
    parameter(
        "/streamsep/device/input",
        text("device", "as --input takes it"),
        "change to another input device, or ask which it is",
        lambda server, _: server.host.devices[0],
        _input,
    ),
    parameter(
        "/streamsep/device/output",
        text("device", "as --output takes it"),
        "change to another output device, or ask which it is",
        lambda server, _: server.host.devices[1],
        _output,
    ),
    parameter(
        "/streamsep/record",
        switch("record"),
        "begin or end the recording, or ask whether it runs",
        lambda server, _: int(bool(server.host.recording)),
        _record,
    ),
    parameter(
        "/streamsep/recording",
        told("file", "s"),
        "ask where the recording goes; empty while there is none",
        lambda server, _: server.host.recording,
    ),
    Row(
        "/streamsep/dumpOSC",
        (switch("dump")._replace(optional=False), PORT),
        f"see what others send here, as `{DUMP}`, for {LEASE:g} s from your last message",
        _dump,
        told=(told("dump", "i"),),
    ),
    Row("/streamsep/quit", (), "end the daemon, where the configuration allows that (`osc_quit`)", _quit, steers=True),
    Row(DUMP, (), "a message that came in", told=(told("sender", "s"), told("address", "s"), told("arguments", "s"))),
)
