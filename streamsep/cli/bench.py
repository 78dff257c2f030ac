"""`streamsep bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.table import Table

from ..config import ConfigError, Provider, engine_provider
from .options import model_option, provider_option, require_gpu_option
from .terminal import err, json_option, out, print_json, progress

MOST_STREAMS = 4096


@click.command()
@model_option
@provider_option
@require_gpu_option
@click.option(
    "--streams",
    is_flag=False,
    flag_value="max",
    default="1",
    metavar="[N|max]",
    help="So many independent streams; max, or no number: as many as hold their deadlines.",
)
@click.option("--hops", default=1000, show_default=True, type=click.IntRange(10, 1_000_000), help="How many are measured.")
@click.option(
    "--paced/--back-to-back", default=True, help="One hop when it is due, as the daemon runs (default), or one after the other."
)
@click.option("--rehearse", is_flag=True, help="with dry runs of the network right before each hop, as `run --rehearse`.")
@click.option("--load", type=click.Choice(["gil", "cpu"]), help="Beside a Python thread that hogs the GIL, or busy cores.")
@click.option("--rate", default=48_000, show_default=True, type=click.IntRange(8_000, 192_000), help="Sample rate, Hz.")
@click.option("--channels", default=2, show_default=True, type=click.IntRange(1, 8), help="Of the input.")
@click.option(
    "-o", "--output-dir", type=click.Path(path_type=Path), help="Keep bench.json, bench.png and report.html in this folder."
)
@json_option
def bench(
    output_dir: Path | None, as_json: bool, rate: int, streams: str, provider: Provider, require_gpu: bool, **options: Any
) -> None:
    """Measure how long a hop takes, stage by stage, against its deadline and the memory floor.

    \b
    streamsep bench                                # about 20 s, paced as the daemon runs
    streamsep bench --load gil -o report           # beside a Python thread that hogs the GIL; keep a report
    streamsep bench --streams -o report            # how many streams hold, and what each number costs
    streamsep bench --model big.onnx --provider cuda --json
    """
    if options["rehearse"] and not (streams == "1" and options["paced"]):
        raise ConfigError("rehearse=True: expected one stream at the pace of the sound, neither --streams nor --back-to-back")
    from ..benchmark import measuring
    from ..ort import fallen_back

    settings = measuring.Settings(
        sample_rate=rate,
        streams=_count(streams, options["paced"]),
        provider=engine_provider(provider, require_gpu),
        **options,
    )
    with progress("benchmark", as_json) as advance:
        measurement = measuring.measure(settings, advance)
    report = measurement.report()
    if output_dir:
        from ..benchmark.report import keep

        report["files"] = {name: str(path) for name, path in keep(output_dir, measurement).items()}
    for line in fallen_back(provider, report["provider"], report["provider_notes"]):
        err.print(f"streamsep: {line}", markup=False)
    if as_json:
        print_json(report)
    else:
        _print(report)


def _count(streams: str, paced: bool) -> int:
    """What `--streams` says, 0 for as many as hold."""
    if streams == "max":
        if not paced:
            raise ConfigError(
                "streams='max' is looked for at the pace of the sound: leave out --back-to-back, or give a number"
            )
        return 0
    if not streams.isdecimal() or not 1 <= int(streams) <= MOST_STREAMS:
        raise ConfigError(f"streams={streams!r}: expected 1 to {MOST_STREAMS}, or max")
    return int(streams)


def _print(r: dict[str, Any]) -> None:
    from ..benchmark.picture import LABELS

    model, load = r["model"], f", beside load {r['load']['name']}" if r["load"] else ""
    many = f", {r['streams']['measured']} streams" if r["streams"] else ""
    many += ", rehearsed" if r["rehearse"] else ""
    out.print(
        f"{model['name']} ({model['network']}, {model['precision']}, {model['parameters'] / 1e6:.1f} M parameters) on "
        f"{r['provider']}, {r['sample_rate']} Hz, {r['channels']} ch, {r['hops']} hops {r['mode']}{many}{load}",
        markup=False,
    )
    table = Table("ms", "p50", "p99", "p99.9", "max", "p99 of deadline", box=None, pad_edge=False)
    for name, f in r["stages"].items():
        table.add_row(*_row(LABELS[name], f, r["deadline_ms"]))
    table.add_row(*_row("whole hop", r["hop_ms"], r["deadline_ms"]))
    table.add_row(*_row("live, arrival to output", r["live"]["response_ms"], r["deadline_ms"]))
    out.print(table)
    floor, loop, latency = r["floor_ms"], r["back_to_back"], r["latency_ms"]
    cold = f"; the paced step is {r['floor_ratio']:.2f} times the cold one" if r["floor_ratio"] is not None else ""
    warm = f", {loop['floor_ratio_warm']:.2f} times the warm floor" if loop["floor_ratio_warm"] is not None else ""
    for line in (
        f"deadline {r['deadline_ms']:g} ms: {r['late']} of {r['hops']} hops late; live {r['live']['late']} of "
        f"{r['live']['hops']}; {100 * r['real_time_factor']:.1f} % of real time",
        f"memory floor for {r['floor_bytes'] / 1e6:.1f} MB: warm {floor['warm']:.3f} ms, cold {floor['cold']:.3f} ms{cold}",
        f"back to back the step takes {loop['step_ms']['p50']:.3f} ms{warm}",
        f"latency {latency['total']:g} ms: algorithmic {latency['algorithmic']:g}, buffering {latency['buffering']:g}; "
        "a sound card adds its own",
    ):
        out.print(line, markup=False)
    if r["streams"]:
        _print_streams(r["streams"])
    for name, path in r.get("files", {}).items():
        out.print(f"{name:14s} {path}", markup=False)
    if not r["realtime"]:
        err.print("note: no real-time scheduling here; see `streamsep doctor`", markup=False)


def _print_streams(s: dict[str, Any]) -> None:
    table = Table("streams", "hop p50", "due to done p99", "for each", "late", "holds", box=None, pad_edge=False)
    for row in s["rows"]:
        figures = f"{row['hop_ms']['p50']:.3f}", f"{row['response_ms']['p99']:.3f}", f"{row['per_stream_ms']:.3f}"
        table.add_row(str(row["streams"]), *figures, f"{row['late']} of {row['hops']}", "yes" if row["holds"] else "no")
    out.print(table)
    how = "one call of the network takes all" if s["together"] else "the network takes one after the other"
    if s["largest"] is not None:
        out.print(f"{s['largest']} streams hold their deadlines (p99 below the hop); {how}", markup=False)


def _row(name: str, f: dict[str, float], deadline: float) -> tuple[str, ...]:
    return name, *(f"{f[key]:.3f}" for key in ("p50", "p99", "p99.9", "max")), f"{100 * f['p99'] / deadline:.1f} %"
