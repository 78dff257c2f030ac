"""`python -m train.recipe NAME --data DIR ...`: a shipped model from its recordings to its `.onnx`, in one command.

A recipe, train/recipes/NAME.toml, names configurations; each one's run begins with the weights of the run before. Then the last
weights are exported, the runs' course is drawn and the card written. Every step is a command that you could type yourself, and
is shown. Stopped anywhere, the same command goes on where it was.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Literal, NoReturn

import click
from pydantic import Field, ValidationError

from . import checkpoint, config
from .config import Strict

RECIPES = Path(__file__).with_name("recipes")


class Recipe(Strict):
    """How a model is made."""

    stages: tuple[str, ...] = Field(min_length=1, description="configurations, in order")
    quantize: Literal["int8", "fp16"] | None = "int8"


def shipped() -> list[str]:
    """Names of the recipes that come with the checkout."""
    return sorted(p.stem for p in RECIPES.glob("*.toml"))


def load(name: str) -> Recipe:
    """The recipe called `name` (a shipped name) or stored at `name` (a path, to which its stages' paths are relative).

    Raises
    ------
    ConfigError
        no such name or file, or it is wrong.
    """
    path = RECIPES / f"{name}.toml" if name in shipped() else Path(name)
    try:
        found = Recipe.model_validate(tomllib.loads(path.read_text()))
        beside = tuple(str(path.parent / s) if (path.parent / s).is_file() else s for s in found.stages)
        return found.model_copy(update={"stages": beside})
    except OSError as error:
        expected = f"expected one of {', '.join(shipped())} or a path to a TOML file"
        raise config.ConfigError(f"recipe {name!r} is unknown: {expected}") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise config.ConfigError(f"recipe {name!r}: {error}") from error


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", metavar="RECIPE")
@click.option("--data", "roots", type=click.Path(path_type=Path), multiple=True, required=True, help="As `python -m train`.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of everything.  [default: runs/<name>]")
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Another value for a key of every configuration.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="On this machine, by torchrun.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="auto", show_default=True)
def main(
    name: str, roots: tuple[Path, ...], out: Path | None, changes: tuple[str, ...], processes: int, device: str, precision: str
) -> None:
    """Make the model RECIPE (live, studio, ultra or a TOML file): train all stages, export, draw the course, write the card."""
    name, asked = Path(name).stem, name
    out = out or Path("runs") / name
    data = [word for root in roots for word in ("--data", root)]
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", processes, "-m"] if processes > 1 else []
    options = ["--device", device, "--precision", precision, *(word for change in changes for word in ("--set", change))]
    runs: list[Path] = []
    try:
        recipe = load(asked)
        for number, stage in enumerate(recipe.stages, 1):
            run = out / f"{number}-{Path(stage).stem}"
            begin = ["--resume"] if (run / "last.pt").exists() else ["--init", runs[-1] / "last.pt"] if runs else []
            if not _finished(run, stage, changes):
                _do(*launcher, "train", stage, *data, "--out", run, *begin, *options)
            if not _finished(run, stage, changes):
                click.echo("stopped: the same command goes on")
                return
            runs.append(run)
    except (config.ConfigError, checkpoint.CheckpointError) as error:
        _fail(error)
    model = out / f"{name}.onnx"
    _do("export", runs[-1] / "last.pt", "-o", model, *(("--quantize", recipe.quantize) if recipe.quantize else ()))
    _do("train.curve", *(run / "metrics.csv" for run in runs), "-o", out / "curve.png", "--title", name)
    _do("train.card", model, "-o", out / f"{name}.md")
    click.echo(f"done; hear it: streamsep separate SONG --model {model}")


def _finished(run: Path, stage: str, changes: tuple[str, ...]) -> bool:
    if not (run / "last.pt").exists():
        return False
    settings = config.load(stage, changes)
    step: int = checkpoint.load(run / "last.pt")["step"]
    return step >= settings.epochs * settings.steps_per_epoch


def _do(*words: object) -> None:
    """Show and run `python -m words`; signals are the command's to obey, and its failure ends this one."""
    line = [sys.executable, "-m", *map(str, words)]
    click.echo(f"$ python -m {shlex.join(line[2:])}")
    process = subprocess.Popen(line)
    # Ctrl-C reaches the command by itself, from the terminal; SIGTERM does not.
    before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None)}
    before[signal.SIGTERM] = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code:
        sys.exit(code)


def _fail(reason: Exception) -> NoReturn:
    click.echo(f"train.recipe: {reason}", err=True)
    sys.exit(2)


if __name__ == "__main__":
    main(prog_name="python -m train.recipe")
