"""`streamsep devices`, `models`, `osc` and `doctor`: what there is."""

from __future__ import annotations

from typing import Any

import click
from rich.markup import escape
from rich.table import Table

from .terminal import json_option, out, print_json


@click.command()
@json_option
def devices(as_json: bool) -> None:
    """List the audio devices.

    \b
    streamsep devices
    streamsep run --input 3 --output "USB Audio"     # index, name or words of it
    """
    from ..devices import portaudiodevice as device

    found = device.devices()
    if as_json:
        print_json({"devices": [d.as_dict() for d in found]})
        return
    table = Table("", "name", "host API", "in", "out", "Hz", "default", box=None, pad_edge=False)
    for d in found:
        default = " ".join(word for word, is_it in (("in", d.default_input), ("out", d.default_output)) if is_it)
        numbers = map(str, (d.in_channels, d.out_channels, d.default_sample_rate))
        table.add_row(str(d.index), escape(d.name), escape(d.host_api), *numbers, default)
    out.print(table if found else "no audio device: is a sound server (JACK, PipeWire, PulseAudio) running?")


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the models that come with streamsep.

    \b
    streamsep models
    streamsep run --model live
    """
    from .. import model

    rows = [_model_row(model.load(name)) for name in model.shipped()]
    if as_json:
        print_json({"models": rows})
        return
    table = Table("name", "sources", "latency", "network", "size", "voice GNSDR", box=None, pad_edge=False)
    table.columns[1].no_wrap = True  # names to look for; where it is narrow, the network takes two lines
    for r in rows:
        gnsdr = r["quality"].get("voice_gnsdr_db")
        network = f"{r['network']}, {r['precision']}"
        size = f"{r['bytes'] / 2**20:.1f} MiB"
        figure = "not measured" if gnsdr is None else f"{gnsdr:.2f} dB"
        table.add_row(r["name"], ", ".join(r["sources"]), f"{r['latency_ms']:g} ms", network, size, figure)
    out.print(table)


@click.command()
@json_option
def osc(as_json: bool) -> None:
    """List the OSC addresses, what they take and tell.

    \b
    streamsep osc | less
    oscsend localhost 9000 /streamsep/source/vocals/gain f -12
    """
    from ..osc import table as surface

    rows = {row[0].strip("`"): [cell.replace("`", "").replace("*", "") for cell in row[1:]] for row in surface()}
    if as_json:
        keys = ("arguments", "reply", "help")
        print_json({"addresses": {name: dict(zip(keys, row, strict=True)) for name, row in rows.items()}})
        return
    for name, (arguments, reply, help) in rows.items():
        out.print(f"{name}\n    {help}\n    {arguments} -> {reply}", markup=False, highlight=False, soft_wrap=True)


def _model_row(model: Any) -> dict[str, Any]:
    contract = model.contract
    row = contract.model_dump(include={"name", "sources", "layers", "hidden", "precision", "licence", "training", "quality"})
    more = {"network": contract.network, "latency_ms": contract.latency_ms, "bytes": model.size, "path": str(model.path)}
    return row | more


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what works here, what does not, and why.

    \b
    streamsep doctor
    streamsep doctor --json > report.json            # for a bug report
    """
    from ..doctor import examine

    facts: dict[str, Any] = examine()
    if as_json:
        print_json(facts)
    else:
        for topic, fact in facts.items():
            text = ", ".join(f"{k} {v}" for k, v in fact.items() if v != "") if isinstance(fact, dict) else fact
            out.print(f"[bold]{topic:10s}[/bold] {escape(text)}")
    if not facts["network"]["works"]:
        raise click.exceptions.Exit(1)
