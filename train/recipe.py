"""`python -m train.recipe NAME --data DIR ...`: a shipped model from its recordings to its `.onnx`, in one command.

A recipe, train/recipes/NAME.toml, names stages, in order:

    stages = [
        "first", "second",                                        # configurations: each begins with the weights before it
        { config = "third", after = "first" },                    # ... or with those of an earlier stage
        { config = "fourth", filters = "third" },                 # ... its filters with those of another one
        { name = "both", mean = { third = 0.7, second = 0.3 } },  # no training: the mean of weights (train.mean)
    ]
    held_out = "second"                                           # the last stage that has not heard what figures are of

Then the last weights are exported, and those of `held_out` as NAME.held-out.onnx, the course is drawn and the card written.
Every step is a command that you could type yourself, and is shown. Stopped anywhere, the same command goes on where it was.
"""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Literal, NoReturn

import click
from pydantic import Field, ValidationError, model_validator

from . import checkpoint, config
from .config import Strict

RECIPES = Path(__file__).with_name("recipes")


class Stage(Strict):
    """A run by a configuration, or the mean of the weights of earlier stages."""

    name: str = Field(min_length=1, description="of its folder, and for later stages; of a run: the configuration's")
    config: str | None = None
    after: str | None = Field(default=None, description="the stage whose weights it begins with, if not the one before")
    filters: str | None = Field(default=None, description="the stage whose filters it begins with, if not the one before")
    mean: dict[str, float] = Field(default={}, description="share of each stage's weights; windows and names are the first's")
    bias: dict[str, float] = Field(default={}, description="of a mean: added to the heads of a source")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, given: Any) -> Any:
        table = {"config": given} if isinstance(given, str) else given
        return {"name": Path(table["config"]).stem} | table if isinstance(table, dict) and "config" in table else table

    @model_validator(mode="after")
    def _one_kind(self) -> Stage:
        if bool(self.config) == bool(self.mean) or (self.mean and (self.after or self.filters)) or (self.bias and self.config):
            raise ValueError(f"stage {self.name!r}: expected config (and after, filters), or mean (and bias)")
        if self.mean and abs(sum(self.mean.values()) - 1) > 1e-6:
            raise ValueError(f"stage {self.name!r}: the shares of its mean are {sum(self.mean.values()):g} in all: expected 1")
        return self


class Recipe(Strict):
    """How a model is made."""

    stages: tuple[Stage, ...] = Field(min_length=1, description="in order")
    held_out: str | None = Field(default=None, description="the last stage that has not heard what figures are of")
    quantize: Literal["int8", "fp16"] | None = "int8"

    @model_validator(mode="after")
    def _in_order(self) -> Recipe:
        before: list[str] = []
        for stage in self.stages:
            unknown = [name for name in (stage.after, stage.filters, *stage.mean) if name and name not in before]
            if unknown or stage.name in before:
                wanted = f"{unknown[0]!r} is no earlier stage" if unknown else "there is an earlier stage of that name"
                raise ValueError(f"stage {stage.name!r}: {wanted}; before it: {', '.join(before) or 'none'}")
            before.append(stage.name)
        if self.held_out and self.held_out not in before:
            raise ValueError(f"held_out={self.held_out!r} is no stage: expected one of {', '.join(before)}")
        return self

    def stage(self, name: str) -> Stage:
        """The one called `name`."""
        return next(s for s in self.stages if s.name == name)

    def behind(self, name: str) -> set[str]:
        """Names of the stages whose runs are in the weights of the stage called `name`, and its own."""
        stage, names = self.stage(name), [s.name for s in self.stages]
        before = [*stage.mean] or ([stage.after] if stage.after else names[: names.index(name)][-1:])
        before += [stage.filters] if stage.filters else []
        return {name}.union(*map(self.behind, before))

    def configuration(self, name: str) -> str:
        """That of the stage called `name`; of a mean, its first one's."""
        stage = self.stage(name)
        return stage.config or self.configuration(next(iter(stage.mean)))


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
        return found.model_copy(update={"stages": tuple(_beside(path.parent, stage) for stage in found.stages)})
    except OSError as error:
        expected = f"expected one of {', '.join(shipped())} or a path to a TOML file"
        raise config.ConfigError(f"recipe {name!r} is unknown: {expected}") from error
    except (tomllib.TOMLDecodeError, ValidationError) as error:
        raise config.ConfigError(f"recipe {name!r}: {error}") from error


def _beside(folder: Path, stage: Stage) -> Stage:
    """The stage with its configuration's path made one from here, if it is a file in `folder`."""
    there = folder / (stage.config or "")
    return stage.model_copy(update={"config": str(there)}) if there.is_file() else stage


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
    runs: dict[str, Path] = {}
    try:
        recipe = load(asked)
        last = None
        for number, stage in enumerate(recipe.stages, 1):
            run, start = out / f"{number}-{stage.name}", runs.get(stage.after or "", last)
            if stage.mean and not (run / "last.pt").exists():
                shares = [word for share in stage.mean.values() for word in ("--share", share)]
                biases = [word for source, value in stage.bias.items() for word in ("--bias", f"{source}={value}")]
                _do("train.mean", *(runs[of] / "last.pt" for of in stage.mean), *shares, *biases, "-o", run / "last.pt")
            elif stage.config and not _finished(run, stage.config, changes):
                begin = ["--resume"] if (run / "last.pt").exists() else ["--init", start / "last.pt"] if start else []
                if stage.filters and start and "--init" in begin:
                    begin += ["--filters", runs[stage.filters] / "last.pt"]
                _do(*launcher, "train", stage.config, *data, "--out", run, *begin, *options)
                if not _finished(run, stage.config, changes):
                    click.echo("stopped: the same command goes on")
                    return
            runs[stage.name] = last = run
    except (config.ConfigError, checkpoint.CheckpointError) as error:
        _fail(error)
    model = out / f"{name}.onnx"
    exported = {model: run} | ({out / f"{name}.held-out.onnx": runs[recipe.held_out]} if recipe.held_out else {})
    for file, of in exported.items():
        _do("export", of / "last.pt", "-o", file, *(("--quantize", recipe.quantize) if recipe.quantize else ()))
    courses = [folder / "metrics.csv" for folder in runs.values() if (folder / "metrics.csv").exists()]
    _do("train.curve", *courses, "-o", out / "curve.png", "--title", name)
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
