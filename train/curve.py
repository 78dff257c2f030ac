"""`python -m train.curve METRICS.csv ... -o PNG`: loss and voice NSDR over the steps of one run or several.

A run's own `curve.png` is this picture of its `metrics.csv`. Several files are runs of which each began with the
weights of the one before (`--init`): their steps are counted on, and a line stands where the next began. This module knows no
network.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Row = dict[str, float]
LOSS, NSDR = "tab:blue", "tab:orange"


def read(path: Path) -> list[Row]:
    """The rows of a `metrics.csv`."""
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def draw(png: Path, runs: Sequence[Sequence[Row]], title: str) -> None:
    """Draw `runs`, each a list of rows with `step`, `seconds`, `loss` and `nsdr_vocals` (dB), into the file `png`."""
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left = figure.subplots()
    right = left.twinx()
    done, minutes = 0.0, 0.0
    for number, rows in enumerate(runs):
        if number:
            left.axvline(done, color="0.6", linestyle=":", linewidth=1)
        if len(runs) > 1:
            name = f" run {number + 1}" if not number else f" {number + 1}"
            place = (done, 0.95 if number % 2 else 1)  # short runs' names would stand on each other
            left.annotate(name, place, xycoords=("data", "axes fraction"), va="top", fontsize="small")
        steps = [done + row["step"] for row in rows]
        dots: dict[str, Any] = {"marker": "o", "markersize": 3, "linewidth": 1.5}
        left.plot(steps, [row["loss"] for row in rows], color=LOSS, label=None if number else "training loss", **dots)
        nsdr = [row["nsdr_vocals"] for row in rows]
        right.plot(steps, nsdr, color=NSDR, label=None if number else "voice NSDR, watched clips", **dots)
        done, minutes = steps[-1], minutes + rows[-1]["seconds"] / 60
    left.set(xlabel="optimiser steps", title=f"{title}: {minutes:.0f} min of training" if minutes >= 1 else title)
    left.set_ylabel("training loss (lower is better)", color=LOSS)
    right.set_ylabel("voice NSDR, dB (higher is better)", color=NSDR)
    left.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    canvas.print_figure(png)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("metrics", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), default="curve.png", show_default=True, help="The picture.")
@click.option("--title", default="training", show_default=True)
def main(metrics: tuple[Path, ...], out: Path, title: str) -> None:
    """Draw the loss and the voice NSDR of the runs that wrote METRICS, in their order."""
    draw(out, [read(path) for path in metrics], title)


if __name__ == "__main__":
    main(prog_name="python -m train.curve")
