"""`streamsep demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from .options import model_option
from .terminal import json_option, out, print_json, progress


@click.command()
@click.option(
    "-o", "--output-dir", default="demo", show_default=True, type=click.Path(path_type=Path), help="Where the files go."
)
@model_option
@json_option
def demo(output_dir: Path, model: str, as_json: bool) -> None:
    """Play the bundled song live and keep what comes out.

    \b
    streamsep demo
    streamsep demo -o out --model first.onnx
    """
    from .. import demo as demonstration
    from .. import model as models

    with progress("demo song, in real time", as_json) as advance:
        result = demonstration.run(output_dir, models.load(model), advance)
    report: dict[str, Any] = {
        "files": {name: str(path) for name, path in result.files.items()},
        "seconds": result.seconds,
        "nsdr_db": result.nsdr_db,
        **result.report,
    }
    if as_json:
        print_json(report)
        return
    for name, path in report["files"].items():
        out.print(f"{name:14s} {path}", markup=False)
    table = Table("latency", "ms", "samples", box=None, pad_edge=False)
    for part, ms in report["latency_ms"].items():
        table.add_row(part, f"{ms:.1f}", str(report["latency_samples"][part]))
    out.print(table)
    for source, db in report["nsdr_db"].items():
        out.print(f"{source:14s} NSDR {db:+.1f} dB (plain SDR against the true stem, gain over the mixture)")
    p50 = report["step_ms"]["p50"]
    out.print(f"{report['hops']} hops, {report['late']} late; step p50 {p50:.2f} ms of {report['deadline_ms']} ms")
