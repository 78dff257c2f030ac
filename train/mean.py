"""`python -m train.mean FIRST SECOND ... -o OUT.pt`: the mean of the weights of runs that have a beginning in common.

What one run learnt at the cost of what another one knows, a mean of both often keeps: Wortsman et al., "Model soups" (ICML
2022) and "Robust fine-tuning of zero-shot models" (CVPR 2022). It works where both began with the same weights and did not go
far; a mean of strangers is noise. OUT has the configuration of FIRST, and can be exported or begun with.

`--bias vocals=-0.06` is added to a source's heads, whose outputs are about 1 where it is alone: what it hears where it is
silent sinks by more than what it loses where it sounds (train/LOG.md).
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
import torch
from torch import Tensor

from streamsep.model import ModelError

from . import checkpoint, provenance
from .deepfilter import DeepFilter
from .growth import FULL, bare, first_weights, parted
from .model import MaskLSTM

Content = dict[str, Any]


def mean(contents: Sequence[Content], shares: Sequence[float], bias: Mapping[str, float] = MappingProxyType({})) -> Content:
    """The checkpoint whose averaged weights are the mean of those of `contents` by `shares`, which sum to 1.

    `bias`, by source, is added to what its head gives before the ReLU.

    Raises
    ------
    CheckpointError
        a network that is no LSTM over all bins, nor one with filters on it, or not of the first one's shape, or a bias for a
        source that it has not.
    """
    first = contents[0]
    config = checkpoint.config_of(first)
    if unknown := sorted(set(bias) - set(config.sources)):
        raise checkpoint.CheckpointError(f"bias for {unknown[0]!r}: expected one of {', '.join(config.sources)}")
    model = checkpoint.network(config)
    if not isinstance(model, MaskLSTM | DeepFilter):
        raise checkpoint.CheckpointError("mean of networks over bands: expected network='lstm' or 'filter'")
    parts = [parted(content["ema"]) for content in contents]
    if "mean" in parts[0][0]:  # the features' statistics, not this module
        model.load_state_dict(first["ema"])
    if isinstance(model, DeepFilter) and any(not torch.equal(own["mean"], parts[0][0]["mean"]) for own, _ in parts):
        raise checkpoint.CheckpointError(
            "mean of filters that see other features: expected runs that began with the same weights"
        )
    together = _mean([bare(own) for own, _ in parts], shares)
    subs = _mean([subs for _, subs in parts], shares)
    together["heads.bias"].unflatten(0, (len(config.sources), -1)).add_(
        torch.tensor([bias.get(source, 0.0) for source in config.sources])[:, None]
    )
    others = [{"share": share} | provenance.record(content) for share, content in zip(shares[1:], contents[1:], strict=True)]
    return {
        "config": first["config"],
        "data": [],
        "validation": first["validation"],
        "commit": provenance.commit(),
        "machine": provenance.machine(torch.device("cpu")),
        "init": provenance.record(first),
        "mean": others,
        "step": 0,
        "seconds": 0.0,
        "history": [],
        "ema": first_weights({FULL + name: value for name, value in together.items()} | subs if subs else together, model),
    } | ({"bias": dict(bias)} if bias else {})


def _mean(states: Sequence[dict[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    shapes = [{name: value.shape for name, value in state.items()} for state in states]
    if any(shape != shapes[0] for shape in shapes):
        raise checkpoint.CheckpointError("mean of networks of several shapes: expected the same layers, hidden and n_fft")
    return {
        name: torch.stack([share * state[name] for share, state in zip(shares, states, strict=True)]).sum(0)
        for name in states[0]
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--share", "shares", type=click.FloatRange(0, 1), multiple=True, help="Of each file.  [default: alike]")
@click.option("--bias", "biases", metavar="SOURCE=VALUE", multiple=True, help="Added to the heads of a source.")
@click.option("-o", "--out", type=click.Path(path_type=Path), required=True, help="The checkpoint.")
def main(files: tuple[Path, ...], shares: tuple[float, ...], biases: tuple[str, ...], out: Path) -> None:
    """Write the mean of the weights in FILES, checkpoints or .onnx, as a checkpoint."""
    shares = shares or (1 / len(files),) * len(files)
    if len(shares) != len(files) or abs(sum(shares) - 1) > 1e-6:
        raise click.UsageError(f"--share {' '.join(f'{s:g}' for s in shares)}: expected one for each file, 1 in all")
    try:
        bias = {source: float(value) for source, _, value in (b.partition("=") for b in biases)}
    except ValueError as error:
        raise click.UsageError(f"--bias {' '.join(biases)}: expected SOURCE=VALUE") from error
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        checkpoint.save(out, mean([checkpoint.first_weights(file) for file in files], shares, bias))
    except (checkpoint.CheckpointError, ModelError, OSError) as error:
        click.echo(f"train.mean: {error}", err=True)
        sys.exit(1)
    click.echo(f"{out}: next: python -m export {out} -o MODEL.onnx")


if __name__ == "__main__":
    main(prog_name="python -m train.mean")
