"""`python -m train CONFIG --data DIR`: one run. With train/recipe.py and the other commands here, what prints and exits."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Literal, NoReturn

import click
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from streamsep.model import ModelError

from . import cache, checkpoint, config, datasets, parallel
from .trainer import Precision, Trainer

USAGE, FAILURE = 2, 1


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="CONFIG")
@click.option(
    "--data",
    "roots",
    type=click.Path(path_type=Path),
    multiple=True,
    required=True,
    help="Folder of a data set, or of those that CONFIG names. Repeatable.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the run.  [default: runs/<name>]")
@click.option("--epochs", type=click.IntRange(1), help="Budget, instead of CONFIG's.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="Budget by the clock, instead of epochs.")
@click.option("--resume", is_flag=True, help="Go on from the run's last.pt.")
@click.option("--init", type=click.Path(path_type=Path), help="Checkpoint or .onnx whose weights to begin with.")
@click.option("--filters", type=click.Path(path_type=Path), help="Checkpoint or .onnx whose filters to begin with.")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Another value for a key of CONFIG. Repeatable.")
@click.option(
    "--cache", "kept", type=click.Path(path_type=Path), help="Where decoded recordings are kept.  [default: ~/.cache]"
)
@click.option("--no-cache", is_flag=True, help="Keep none.")
@click.option("--loaders", type=click.IntRange(1), help="Threads that make mixtures.  [default: 1; CUDA: 4]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True, help="auto: bf16 on CUDA."
)
def main(
    name: str,
    roots: tuple[Path, ...],
    out: Path | None,
    epochs: int | None,
    minutes: float | None,
    resume: bool,
    init: Path | None,
    filters: Path | None,
    changes: tuple[str, ...],
    kept: Path | None,
    no_cache: bool,
    loaders: int | None,
    device: str,
    precision: Precision,
) -> None:
    """Train CONFIG, a shipped name (live, reference, tiny ...) or a path to a TOML file.

    With several processes: torchrun --nproc-per-node N -m train CONFIG ...
    """
    if filters and not init:
        _fail("--filters goes with --init: whose masks they are for", USAGE)
    try:
        settings = config.load(name, changes)
        if epochs is not None:
            settings = settings.model_copy(update={"epochs": epochs})
        target = _device(device)
    except config.ConfigError as error:
        _fail(error, USAGE)
    store = cache.Cache(None if no_cache else kept or cache.folder())
    loaders = loaders or (4 if target == "cuda" else 1)
    try:
        training, held = datasets.load(settings.data, roots, settings.sample_rate, store)
        out = out or Path("runs") / settings.name
        out.mkdir(parents=True, exist_ok=True)
        with parallel.joined(target) as group:
            trainer = Trainer(settings, training, held, out, group, precision, minutes, loaders)
            if resume:
                trainer.restore(checkpoint.load(out / "last.pt"))
            elif (out / "last.pt").exists():
                _fail(f"{str(out)!r} holds a run already: go on with --resume, or give another --out", USAGE)
            elif init:
                trainer.begin_with(checkpoint.first_weights(init), checkpoint.first_weights(filters) if filters else None)
            _train(trainer, out)
    except config.ConfigError as error:
        _fail(error, USAGE)
    except (datasets.DataError, checkpoint.CheckpointError, ModelError, OSError) as error:
        _fail(error, FAILURE)


def _device(device: str) -> Literal["cpu", "cuda"]:
    if device == "cuda" and not torch.cuda.is_available():
        raise config.ConfigError("--device cuda: PyTorch sees no CUDA GPU; use --device cpu, or install PyTorch for CUDA")
    return "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"


def _train(trainer: Trainer, out: Path) -> None:
    """Run with a progress bar; Ctrl-C and SIGTERM end the run after the step at hand, with its state saved."""
    asked: list[int] = []
    before = {s: signal.signal(s, lambda number, _: asked.append(number)) for s in (signal.SIGINT, signal.SIGTERM)}
    console = Console(soft_wrap=True, highlight=False, quiet=not trainer.group.lead)
    console.print(_opening(trainer, out))
    columns: list[ProgressColumn] = [
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps,"),
        TimeRemainingColumn(),
        TextColumn("left"),
    ]
    try:
        with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
            task = bar.add_task("", total=trainer.steps or None, completed=trainer.step)
            done = trainer.run(
                stop=lambda: bool(asked),
                tick=lambda: bar.update(task, completed=trainer.step, total=trainer.steps),
                tell=console.print,
            )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if done:
        console.print(f"done; next: python -m export {out / 'best.pt'} -o {trainer.config.name}.onnx")
    else:
        console.print(f"stopped at step {trainer.step}, saved: go on with --resume")


def _opening(trainer: Trainer, out: Path) -> str:
    voice, other = (sum(d[f"{role}_minutes"] for d in trainer.provenance) for role in ("voice", "accompaniment"))
    return (
        f"{trainer.config.name}: {voice:.1f} min of voices, {other:.1f} min of accompaniments, {len(trainer.held)} "
        f"recordings held out; {trainer.machine}, {'bf16' if trainer.bf16 else 'fp32'}; run in {out}"
    )


def _fail(reason: Exception | str, code: int) -> NoReturn:
    click.echo(f"train: {reason}", err=True)
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="python -m train")
