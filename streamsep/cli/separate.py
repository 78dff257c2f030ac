"""`streamsep separate`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import Provider, engine_provider
from .options import model_option, provider_option, require_gpu_option
from .terminal import err, json_option, out, print_json, uncollected

if TYPE_CHECKING:
    from ..filelist import FileList
    from ..offline import Result

EXAMPLES_OF_SKIPPED = 3


@click.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o", "--output-dir", default="stems", show_default=True, type=click.Path(path_type=Path), help="Where the stems go."
)
@model_option
@provider_option
@require_gpu_option
@click.option("-j", "--jobs", default=1, show_default=True, type=click.IntRange(0, 256), help="Files at a time; 0: one a core.")
@click.option(
    "--format", "container", default="wav", show_default=True, type=click.Choice(["wav", "flac"]), help="Of the stems."
)
@click.option("--bits", type=click.Choice(["16", "24", "32"]), help="A sample; 32: float. [default: 32, with flac 24]")
@click.option("--plot", is_flag=True, help="Also draw the spectrograms of mixture and stems.")
@json_option
def separate(
    inputs: tuple[str, ...],
    output_dir: Path,
    model: str,
    provider: Provider,
    require_gpu: bool,
    jobs: int,
    container: str,
    bits: str | None,
    plot: bool,
    as_json: bool,
) -> None:
    """Separate sound files into OUTPUT_DIR/<name>/<source>.wav.

    INPUT is a file, a folder with all below it, or a pattern in quotes. WAV, FLAC, Ogg, Opus and MP3 are read as they are; m4a,
    aac, wma and videos with PyAV or ffmpeg.

    \b
    streamsep separate song.flac
    streamsep separate albums "films/**/*.mkv" -o stems --jobs 4 --format flac
    streamsep separate song.ogg --plot
    """
    with uncollected():
        from .. import filelist
        from .. import model as models
        from ..ort import fallen_back
        from ..stems import Form
        from .batch import Batch

    try:
        form = Form(container, int(bits) if bits else 32 if container == "wav" else 24)
    except ValueError as error:
        raise click.UsageError(f"--bits: {error}") from error
    batch = Batch(output_dir, models.load(model), engine_provider(provider, require_gpu), form, plot)
    found = filelist.find(inputs, output_dir)
    started = time.perf_counter()
    results, failures = batch.run(found, jobs or os.cpu_count() or 1, as_json)
    report = _summary(results, failures, found, model, time.perf_counter() - started)
    if as_json:
        print_json(report)
    else:
        _print(results, report, output_dir)
    for line in fallen_back(provider, results[0][0].provider, results[0][0].provider_notes) if results else ():
        err.print(f"streamsep: {line}", markup=False)
    for path, why in failures.items():
        err.print(f"streamsep: {why if path in why else f'{path}: {why}'}", markup=False)
    if failures:
        raise click.exceptions.Exit(1)


# -------------------------------------------------------------------------------------------------------------- telling


def _summary(
    results: list[tuple[Result, Path | None]], failures: dict[str, str], found: FileList, model: str, elapsed: float
) -> dict[str, Any]:
    seconds = sum(result.seconds for result, _ in results)
    return {
        "model": model,
        "separated": [_separation(result, picture) for result, picture in results],
        "failed": [{"input": path, "error": why} for path, why in failures.items()],
        "skipped": [{"input": path, "why": why} for path, why in found.skipped.items()],
        "seconds": round(seconds, 3),
        "elapsed_s": round(elapsed, 3),
        "real_time_factor": round(elapsed / seconds, 4) if seconds else None,
    }


def _separation(result: Result, picture: Path | None) -> dict[str, Any]:
    files = result.paths | ({"plot": picture} if picture else {})
    return {
        "input": str(result.input),
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
        "clipped_samples": result.clipped,
        **result.counts,
        "files": {name: str(path) for name, path in files.items()},
    }


def _print(results: list[tuple[Result, Path | None]], report: dict[str, Any], output_dir: Path) -> None:
    if len(results) == 1 and not report["failed"]:
        for name, path in report["separated"][0]["files"].items():
            out.print(f"{name:14s} {path}", markup=False)
    elif results:
        for result, _ in results:
            out.print(f"{result.input} -> {next(iter(result.paths.values())).parent}", markup=False)
    for line in _remarks(results, report):
        out.print(line, markup=False)


def _remarks(results: list[tuple[Result, Path | None]], report: dict[str, Any]) -> Iterator[str]:
    for result, _ in results:
        if result.clipped:
            yield f"{result.input}: {result.clipped} samples of its stems were beyond full scale: clipped; --bits 32 keeps them"
    if skipped := report["skipped"]:
        names = ", ".join(f"{s['input']} ({s['why']})" for s in skipped[:EXAMPLES_OF_SKIPPED])
        more = (
            f" and {len(skipped) - EXAMPLES_OF_SKIPPED} more (--json lists them)" if len(skipped) > EXAMPLES_OF_SKIPPED else ""
        )
        yield f"skipped {len(skipped)}: {names}{more}"
    if results:
        result = results[0][0]
        what = f"{result.sample_rate} Hz, {result.channels} ch" if len(results) == 1 else f"{len(results)} files"
        yield (
            f"{report['seconds']:.1f} s ({what}) in {report['elapsed_s']:.1f} s "
            f"({report['real_time_factor']:.3f} of real time) with {report['model']} on {result.provider}"
        )
    if (failed := len(report["failed"])) and failed + len(results) > 1:
        yield f"{failed} of {failed + len(results)} failed"
