"""`streamsep separate`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .. import StreamsepError
from .terminal import json_option, out, print_json, progress


@click.command()
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
    from .. import model as models
    from .. import offline

    with progress(input.name, as_json) as advance:
        result = offline.separate(input, output_dir, models.load(model), provider, lambda done, total: advance(done / total))
    files = {name: str(path) for name, path in result.paths.items()}
    if plot:
        from ..plot import from_files

        picture = next(iter(result.paths.values())).with_name("spectrograms.png")
        from_files({"mixture": input} | result.paths, picture)
        files["plot"] = str(picture)
    if as_json:
        print_json(_separation(result, model) | {"files": files})
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
