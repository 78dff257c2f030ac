"""`python -m export CHECKPOINT -o FILE.onnx`: the only module here that prints or exits."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from streamsep.model import ModelError
from train.checkpoint import CheckpointError
from train.datasets import DataError

from .exporter import Precision, PrecisionError, export
from .parity import ParityError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The model file, .onnx.")
@click.option(
    "--quantize", type=click.Choice(["int8", "fp16"]), help="int8: fast on CPUs. fp16: half the size.  [default: fp32]"
)
@click.option(
    "--data", "roots", type=click.Path(path_type=Path), multiple=True, help="Data set for the parity check. Repeatable."
)
def main(checkpoint: Path, out: Path, quantize: Precision | None, roots: tuple[Path, ...]) -> None:
    """Turn CHECKPOINT into a model file that streamsep runs, and check that it does what PyTorch does."""
    if out.suffix != ".onnx":
        raise click.UsageError(f"--out {str(out)!r} must end in .onnx")
    if not out.parent.is_dir():
        raise click.UsageError(f"folder {str(out.parent)!r} does not exist: make it, or give another --out")
    try:
        contract, parity = export(checkpoint, out, quantize or "fp32", roots)
    except (CheckpointError, DataError, ParityError, PrecisionError, ModelError, OSError) as error:
        click.echo(f"export: {error}", err=True)
        sys.exit(1)
    megabytes = out.stat().st_size / 1e6
    click.echo(f"{out}: {contract.name}, {contract.precision}, {contract.latency_ms:g} ms, {megabytes:.1f} MB")
    sounds = contract.quality["parity"]["sounds"]
    click.echo(f"parity on {sounds}: mask SNR {parity.snr_db:.1f} dB, largest difference {parity.difference:.2g}")


if __name__ == "__main__":
    main(prog_name="python -m export")
