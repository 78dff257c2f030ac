"""The command line: the only place that prints or exits.

Exit codes: 0 done, 1 it failed while running, 2 it was asked for wrongly. An error is one line on stderr. With `--json` there
is one JSON object on stdout and nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from . import StreamsepError, __version__, jit_cache
from .config import Config, ConfigError
from .config import load as load_config

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")


def main(args: list[str] | None = None) -> None:
    """Entry point of the `streamsep` command."""
    place = jit_cache.use()
    if place and not any(place.iterdir()) and err.is_terminal:
        err.print("first run: some seconds are spent on compiling", markup=False)
    sys.exit(_run(args))


def _run(args: list[str] | None) -> int:
    try:
        cli.main(args=args, prog_name="streamsep", standalone_mode=False)
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        return 2
    except click.UsageError as error:
        where = f"; see `{error.ctx.command_path} --help`" if error.ctx else ""
        return _fail(error.format_message().rstrip(".").replace("\n", " ") + where, 2)
    except ConfigError as error:
        return _fail(str(error), 2)
    except StreamsepError as error:
        return _fail(str(error), 1)
    except BrokenPipeError:  # whoever read stdout has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at exit
        return 1
    except OSError as error:
        return _fail(f"{error.filename or 'output'}: {error.strerror or error}", 1)
    return 0


def _fail(message: str, code: int) -> int:
    err.print(f"streamsep: {message}", markup=False)
    return code


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="streamsep")
def cli() -> None:
    """Live stem separator."""


def _print_json(value: object) -> None:
    click.echo(json.dumps(value, indent=2))


# --------------------------------------------------------------------------------------------------------------- separate


@cli.command()
@click.argument("input", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output-dir", default="stems", show_default=True, type=click.Path(path_type=Path), help="Where the stems go."
)
@click.option("--model", default="live", show_default=True, help="A shipped model's name, or an .onnx file.")
@click.option(
    "--provider", default="auto", show_default=True, type=click.Choice(["auto", "cpu", "cuda"]), help="Where it runs."
)
@click.option("--plot", is_flag=True, help="Also draw the spectrograms of mixture and stems.")
@json_option
def separate(input: Path, output_dir: Path, model: str, provider: str, plot: bool, as_json: bool) -> None:
    """Separate a sound file into OUTPUT_DIR/<name>/<source>.wav.

    \b
    streamsep separate song.flac
    streamsep separate song.ogg -o stems --plot
    """
    from . import model as models
    from . import offline

    with _progress(input.name, as_json) as advance:
        result = offline.separate(input, output_dir, models.load(model), provider, lambda done, total: advance(done / total))
    files = {name: str(path) for name, path in result.paths.items()}
    if plot:
        from .plot import from_files

        picture = next(iter(result.paths.values())).with_name("spectrograms.png")
        from_files({"mixture": input} | result.paths, picture)
        files["plot"] = str(picture)
    if as_json:
        _print_json(_separation(result, model) | {"files": files})
    else:
        for name, path in files.items():
            out.print(f"{name:14s} {path}", markup=False)
        out.print(
            f"{result.seconds:.1f} s at {result.sample_rate} Hz, {result.channels} ch, in {result.elapsed:.1f} s "
            f"({result.real_time_factor:.3f} of real time) with {model} on {result.provider}"
        )
    if result.failed:
        hops = result.counts["hops"]
        raise StreamsepError(f"{result.failed} of {hops} hops had no mask of their own: {result.error or 'not a mask'}")


def _separation(result: Any, model: str) -> dict[str, Any]:
    return {
        "input": str(result.input),
        "model": model,
        "sample_rate": result.sample_rate,
        "channels": result.channels,
        "frames": result.frames,
        "seconds": round(result.seconds, 3),
        "latency_ms": round(1e3 * result.latency / result.sample_rate, 3),
        "latency_samples": result.latency,
        "elapsed_s": round(result.elapsed, 3),
        "real_time_factor": round(result.real_time_factor, 4),
        "provider": result.provider,
        "provider_notes": list(result.provider_notes),
        "c_api": result.native,
        **result.counts,
    }


class _Advance:
    """Moves a progress bar to a share between 0 and 1."""

    def __init__(self, progress: Progress, name: str) -> None:
        self._progress = progress
        self._task = progress.add_task(name, total=1.0)

    def __call__(self, share: float) -> None:
        self._progress.update(self._task, completed=share)


@contextmanager
def _progress(name: str, quiet: bool) -> Iterator[_Advance]:
    """A bar with the time left, on stderr and only if that is a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:3.0f}%"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        yield _Advance(progress, name)


# -------------------------------------------------------------------------------------------------------------------- run


def _config_options(command: Callable[..., None]) -> Callable[..., None]:
    """One option for every field of `Config` that a flag can carry."""
    for name, field in reversed(Config.model_fields.items()):
        kind = _flag_type(field.annotation)
        if kind is None:
            continue
        text = field.description or ""
        if field.default is not None:
            text += f" [default: {field.default}]"
        flag = f"--{name.replace('_', '-')}"
        if kind is bool:
            flag += f"/--no-{flag[2:]}"
        command = click.option(flag, name, type=kind, default=None, help=text)(command)
    return command


def _flag_type(annotation: Any) -> Any:
    """The click type of a field, None if no flag can carry it."""
    if get_origin(annotation) is Literal:
        return click.Choice(get_args(annotation))
    if isinstance(annotation, UnionType):
        annotation = next(a for a in get_args(annotation) if a is not type(None))
    return annotation if annotation in (str, int, float, bool) else None


@cli.command()
@_config_options
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
    with _stop_signals() as stop:
        from . import daemon

        report = daemon.run(config, lambda setup: _announce(setup, err if as_json else out), _tell, stop)
    if as_json:
        _print_json(report)
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


def _tell(line: str) -> None:
    err.print(f"streamsep: {line}", markup=False)


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set, from the start of the command on; the handlers before come back at the end."""
    stop = threading.Event()
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
        f"OSC on {setup['osc']} (UDP){tcp}{http}; Ctrl-C ends",
    )
    for line in filter(None, lines):
        console.print(line, markup=False)
    console.file.flush()


# ----------------------------------------------------------------------------------------------------------------- listen


@cli.command()
@click.argument("source")
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
    """Take SOURCE, mix or input of a running daemon off the network.

    \b
    streamsep listen vocals -o vocals.wav
    streamsep listen mix --play --host 192.168.1.20
    streamsep listen vocals                           # only shows loss and jitter
    """
    from . import listen as listening

    if play and output:
        raise click.UsageError("--play and --output exclude each other")
    with _stop_signals() as stop, listening.Listener(source, host, port, encoding) as listener:
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
        _print_json(report)
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


# ---------------------------------------------------------------------------------------------------------------- listings


@cli.command()
@json_option
def devices(as_json: bool) -> None:
    """List the audio devices."""
    from .devices import portaudiodevice as device

    found = device.devices()
    if as_json:
        _print_json({"devices": [d.as_dict() for d in found]})
        return
    table = Table("", "name", "host API", "in", "out", "Hz", "default", box=None, pad_edge=False)
    for d in found:
        default = " ".join(word for word, is_it in (("in", d.default_input), ("out", d.default_output)) if is_it)
        numbers = map(str, (d.in_channels, d.out_channels, d.default_sample_rate))
        table.add_row(str(d.index), escape(d.name), escape(d.host_api), *numbers, default)
    out.print(table if found else "no audio device: is a sound server (JACK, PipeWire, PulseAudio) running?")


@cli.command()
@json_option
def models(as_json: bool) -> None:
    """List the models that come with streamsep."""
    from . import model

    rows = [_model_row(model.load(name)) for name in model.shipped()]
    if as_json:
        _print_json({"models": rows})
        return
    table = Table("name", "sources", "latency", "network", "size", "voice GNSDR", box=None, pad_edge=False)
    for r in rows:
        gnsdr = r["quality"].get("voice_gnsdr_db")
        network = f"{r['layers']} x {r['hidden']} LSTM, {r['precision']}"
        size = f"{r['bytes'] / 2**20:.1f} MiB"
        figure = "not measured" if gnsdr is None else f"{gnsdr:.2f} dB"
        table.add_row(r["name"], ", ".join(r["sources"]), f"{r['latency_ms']:g} ms", network, size, figure)
    out.print(table)


@cli.command()
@json_option
def osc(as_json: bool) -> None:
    """List the OSC addresses of a running daemon, with what they take and tell."""
    from .osc import table as surface

    rows = {row[0].strip("`"): [cell.replace("`", "").replace("*", "") for cell in row[1:]] for row in surface()}
    if as_json:
        keys = ("arguments", "reply", "help")
        _print_json({"addresses": {name: dict(zip(keys, row, strict=True)) for name, row in rows.items()}})
        return
    for name, (arguments, reply, help) in rows.items():
        out.print(f"{name}\n    {help}\n    {arguments} -> {reply}", markup=False, highlight=False, soft_wrap=True)


def _model_row(model: Any) -> dict[str, Any]:
    contract = model.contract
    row = contract.model_dump(include={"name", "sources", "layers", "hidden", "precision", "licence", "training", "quality"})
    return row | {"latency_ms": contract.latency_ms, "bytes": model.size, "path": str(model.path)}


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """Say what works here, what does not, and why."""
    from .doctor import examine

    facts: dict[str, Any] = examine()
    if as_json:
        _print_json(facts)
    else:
        for topic, fact in facts.items():
            text = ", ".join(f"{k} {v}" for k, v in fact.items() if v != "") if isinstance(fact, dict) else fact
            out.print(f"[bold]{topic:10s}[/bold] {escape(text)}")
    if not facts["network"]["works"]:
        raise click.exceptions.Exit(1)


# --------------------------------------------------------------------------------------------------------------- latency


def _loop_options(command: Callable[..., None]) -> Callable[..., None]:
    """The fields of `Config` that name a device."""
    for name in ("block", "rate", "output", "input"):
        field = Config.model_fields[name]
        command = click.option(f"--{name}", type=_flag_type(field.annotation), default=None, help=field.description)(command)
    return command


@cli.command()
@_loop_options
@click.option(
    "--send", multiple=True, help="JACK port or client to play into; may be given again. Instead of --input, --output."
)
@click.option("--return", "back", multiple=True, help="JACK port or client to record; several are added up.")
@click.option(
    "--osc-port", type=click.IntRange(1, 65535), help="OSC port of a streamsep in the loop: it tells what it promises."
)
@click.option(
    "--max-delay", default=2.0, show_default=True, type=click.FloatRange(0.1, 30), help="Longest delay looked for, s."
)
@click.option(
    "--level", default=-20.0, show_default=True, type=click.FloatRange(-90, 0), help="Of the noise that is played, dBFS."
)
@json_option
def latency(
    send: tuple[str, ...],
    back: tuple[str, ...],
    osc_port: int | None,
    max_delay: float,
    level: float,
    as_json: bool,
    **flags: Any,
) -> None:
    """Measure the round trip through a cable or a JACK graph: plays two seconds of noise.

    \b
    streamsep latency --input "USB Audio" --output "USB Audio"     # a cable from an output to an input
    streamsep latency --send system:playback_1 --return system:capture_1
    streamsep latency --send streamsep --return streamsep --osc-port 9000
    """
    from . import roundtrip

    config = load_config(None, flags)
    parts = roundtrip.promised_by_daemon(osc_port) if osc_port else {}
    if send or back:
        result = roundtrip.measure(lambda: roundtrip.through_jack(send, back, max_delay, level), parts)
    else:
        from . import model
        from .devices import opening

        shipped = model.load("live")
        result = roundtrip.measure(
            lambda: roundtrip.through_device(opening.open_device(config, shipped), max_delay, level), parts
        )
    if as_json:
        _print_json(result.as_dict() | {"remarks": result.remarks()})
    elif result.loop:
        _print_round_trip(result.as_dict())
    for line in [] if as_json else result.remarks():
        err.print(f"note: {line}", markup=False)
    if not result.loop:
        if as_json:
            raise click.exceptions.Exit(1)
        raise StreamsepError(result.why_none())


def _print_round_trip(facts: dict[str, Any]) -> None:
    parts = " + ".join(f"{name} {samples}" for name, samples in facts["computed_samples"].items() if name != "total")
    chance = max(facts["false_alarm"], 1e-99)
    for line in (
        f"{facts['device']}: {facts['sample_rate']} Hz, block {facts['block']}",
        f"measured    {facts['measured_samples']:10.2f} samples {facts['measured_ms']:9.3f} ms; "
        f"{facts['snr_db']:.0f} dB signal to noise, chance of a mistake below {chance:.0e}",
        f"computed    {facts['computed_samples']['total']:7d}    samples {facts['computed_ms']['total']:9.3f} ms = {parts}",
        f"difference  {facts['difference_samples']:+10.2f} samples",
    ):
        out.print(line, markup=False)


# ------------------------------------------------------------------------------------------------------------------- demo


@cli.command()
@click.option(
    "-o", "--output-dir", default="demo", show_default=True, type=click.Path(path_type=Path), help="Where the files go."
)
@click.option("--model", default="live", show_default=True, help="A shipped model's name, or an .onnx file.")
@json_option
def demo(output_dir: Path, model: str, as_json: bool) -> None:
    """Play the bundled song through the live path in real time and keep what comes out."""
    from . import demo as demonstration
    from . import model as models

    with _progress("demo song, in real time", as_json) as advance:
        result = demonstration.run(output_dir, models.load(model), advance)
    report: dict[str, Any] = {
        "files": {name: str(path) for name, path in result.files.items()},
        "seconds": result.seconds,
        "nsdr_db": result.nsdr_db,
        **result.report,
    }
    if as_json:
        _print_json(report)
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
