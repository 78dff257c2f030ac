"""`streamsep run`: the daemon, and what a terminal is told of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.console import Console

from .. import __version__
from ..config import load as load_config
from .options import config_options
from .terminal import err, json_option, out, print_json, stop_signals, tell


@click.command()
@config_options
@click.option("--config", "config_file", type=click.Path(path_type=Path), help="TOML file with these settings; flags win.")
@json_option
def run(config_file: Path | None, as_json: bool, **flags: Any) -> None:
    """Separate live sound until Ctrl-C, steered over OSC.

    \b
    streamsep run
    streamsep run --input "USB Audio" --output jack --osc-port 9000
    streamsep run --input file:song.flac --output file:stems.wav
    """
    config = load_config(config_file, flags)
    with stop_signals() as stop:
        from .. import daemon

        report = daemon.run(config, lambda setup: _announce(setup, err if as_json else out), tell, stop)
    if as_json:
        print_json(report)
        return
    step: Any = report["step_ms"]
    out.print(
        f"{report['hops']} hops, {report['late']} late ({report['bridged']} bridged), {report['lost']} lost; "
        f"xruns: {report['input_xruns']} in, "
        f"{report['output_xruns']} out; step p50 {step['p50']:.2f}, p99 {step['p99']:.2f}, max {step['max']:.2f} ms "
        f"of {report['deadline_ms']} ms"
    )
    if report["failed_steps"] or report["bad_samples"]:
        out.print(
            f"{report['failed_steps']} network steps failed ({report['error']}); {report['bad_samples']} bad input samples"
        )


def _announce(setup: dict[str, Any], console: Console) -> None:
    parts = setup["latency_ms"]
    tcp = f", {setup['osc_tcp']} (TCP)" if "osc_tcp" in setup else ""
    http = f", OSCQuery at {setup['http']}" if "http" in setup else ""
    path = "C path" if setup["c_api"] else "Python path: ONNX Runtime has no C library here"
    lines = (
        f"streamsep {__version__}: {setup['model']} ({', '.join(setup['sources'])}) on {setup['provider']}, {path}",
        f"{setup['device']}: {setup['in_channels']} in, {setup['out_channels']} out, {setup['sample_rate']} Hz, "
        f"block {setup['block']}, hop {setup['hop']}",
        f"latency {parts['algorithmic']:.1f} ms algorithmic + {parts['buffering']:.1f} buffering "
        f"+ {parts['device']:.1f} device = {parts['total']:.1f} ms",
        f"recording to {setup['recording']}" if setup["recording"] else "",
        f"monitor page: {setup['monitor']}" if "monitor" in setup else "",
        f"OSC on {setup['osc']} (UDP){tcp}{http}; Ctrl-C ends",
    )
    for line in filter(None, lines):
        console.print(line, markup=False)
    console.file.flush()
