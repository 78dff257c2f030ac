"""`streamsep listen`."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import click

from .. import StreamsepError
from . import completing
from .terminal import err, json_option, out, print_json, stop_signals


@click.command()
@click.argument("source", shell_complete=completing.sources)
@click.option("--host", default="127.0.0.1", show_default=True, help="Where the daemon runs.")
@click.option("--port", default=9000, show_default=True, type=click.IntRange(1, 65535), help="Its OSC port.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Keep the sound in this WAV file.")
@click.option("--play", is_flag=True, help="Play the sound.")
@click.option("--device", help="The device that plays it [default: the system's].")
@click.option("--encoding", default="f32", show_default=True, type=click.Choice(["f32", "s16"]), help="On the wire.")
@click.option("--duration", type=click.FloatRange(0, min_open=True), help="Stop after so many seconds of sound.")
@json_option
def listen(
    source: str,
    host: str,
    port: int,
    output: Path | None,
    play: bool,
    device: str | None,
    encoding: str,
    duration: float | None,
    as_json: bool,
) -> None:
    """Take a running daemon's sound off the network.

    SOURCE is a source's name, mix or input.

    \b
    streamsep listen vocals -o vocals.wav
    streamsep listen mix --play --host 192.168.1.20
    streamsep listen vocals                           # only shows loss and jitter
    """
    from .. import listen as listening

    if play and output:
        raise click.UsageError("--play and --output exclude each other")
    with stop_signals() as stop, listening.Listener(source, host, port, encoding) as listener:
        sink: Any = nullcontext(listening.Nowhere())
        if output:
            sink = listening.wav(output, listener)
        elif play:
            sink = listening.Player(listener, device)
        with sink as target, err.status("") if err.is_terminal and not as_json else nullcontext() as line:
            tell: Any = (lambda report: line.update(_reception(report))) if line else (lambda report: None)
            report = listening.listen(listener, target, stop, duration, tell)
    if play:
        report |= {"underruns": target.underruns, "skipped_frames": target.skipped}
    if output:
        report["file"] = str(output)
    if as_json:
        print_json(report)
    else:
        out.print(f"{report['file']}: {_reception(report)}" if output else _reception(report), markup=False)
    if report["gone"]:
        raise StreamsepError(f"{host}:{port} has gone silent: is streamsep still running there? What came before is kept")


def _reception(report: dict[str, Any]) -> str:
    lost = report["lost_frames"] + report["sender_lost_frames"]
    return (
        f"{report['source']}, {report['seconds']:.1f} s at {report['measured_rate']:.1f} Hz in {report['packets']} packets; "
        f"{lost} frames lost in {report['gaps']} gaps, {report['late']} packets late; "
        f"jitter {report['jitter_ms']:.2f} ms, at most {report['jitter_max_ms']:.1f}"
    )
