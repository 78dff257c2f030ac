"""One checkpoint in, one checked model file out, or none."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import onnx
import torch

import streamsep.model
from streamsep.model import METADATA_KEY, Contract, Filters
from train import checkpoint, provenance
from train.bands import BandLSTM
from train.config import Config
from train.deepfilter import DeepFilter
from train.model import MaskLSTM, MaskNetwork

from . import bands, deepfilter, graph, int8, parity
from .parity import Parity

Precision = Literal["fp32", "fp16", "int8"]


class PrecisionError(Exception):
    """There is no graph of that precision of this network."""


def export(source: Path, target: Path, precision: Precision = "fp32", roots: Sequence[Path] = ()) -> tuple[Contract, Parity]:
    """Write the checkpoint at `source` as a model file at `target`.

    The file is made and checked under another name and renamed last: where anything fails, what was at `target` stays.

    Raises
    ------
    CheckpointError, DataError, ParityError, PrecisionError, ModelError
        the checkpoint or the data cannot be read; the file differs from the network; no graph of this precision; the runtime
        refuses the file.
    """
    content = checkpoint.load(source)
    config, model = checkpoint.config_of(content), checkpoint.trained(content)
    mixtures, sounds = parity.recordings(config, roots)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export-") as folder:
        made = Path(folder) / "model.onnx"
        write(model, made, precision)
        result = parity.measure(model, made, mixtures)
        result.check(precision)
        contract = describe(content, config, model, precision, result, sounds)
        _attach(made, contract)
        streamsep.model.load(made)
        os.replace(made, target)
    return contract, result


def write(model: MaskNetwork, path: Path, precision: Precision) -> None:
    """The bare graph, without its contract.

    Raises
    ------
    PrecisionError
        there is no such graph of this network.
    """
    onnx.save(_build(model, precision), path)


def _build(model: MaskNetwork, precision: Precision) -> onnx.ModelProto:
    if isinstance(model, BandLSTM):
        if precision == "int8":
            raise PrecisionError("precision='int8': expected fp32 or fp16 for network='bands', whose weights are few")
        return bands.build(model, precision)
    if isinstance(model, DeepFilter):
        return deepfilter.build(model, precision)
    assert isinstance(model, MaskLSTM)
    return int8.build(model) if precision == "int8" else graph.build(model, precision)


def describe(
    content: dict[str, Any], config: Config, model: MaskNetwork, precision: Precision, result: Parity, sounds: str
) -> Contract:
    """What the file says about itself; names and figures, no paths."""
    quality: dict[str, Any] = {
        "parity": {
            "against": "PyTorch fp32, whole sequence; the file hop by hop on the CPU",
            "sounds": sounds,
            "mask_largest_difference": float(f"{result.difference:.3g}"),
            "mask_snr_db": round(result.snr_db, 1),
        }
    }
    if content["history"]:
        last = content["history"][-1]
        quality["validation"] = {
            "measure": "NSDR, dB, plain SDR at 0 dB, mean over the clips named in training.validation; fp32 weights in PyTorch"
        } | {k: round(v, 2) for k, v in last.items() if k.startswith("nsdr_")}
    training = {
        "data": content["data"],
        "validation": content["validation"],
        "commit": content["commit"],
        "init": content.get("init"),
        "steps": content["step"],
        "minutes": round(content["seconds"] / 60, 1),
        "machine": content.get("machine", "not noted"),
        "config": {k: v for k, v in content["config"].items() if k not in ("name", "licence", "sources")},
        "torch": torch.__version__,
    }
    training |= {key: content[key] for key in provenance.EXTRAS if content.get(key)}
    return Contract(
        name=config.name,
        sample_rate=config.sample_rate,
        n_fft=config.n_fft,
        synthesis_length=config.synthesis_length,
        hop_length=config.hop_length,
        n_bins=config.n_bins,
        sources=config.sources,
        layers=model.layers,
        hidden=model.state_size,
        filters=filters(model),
        precision=precision,
        licence=config.licence,
        training=training,
        quality=quality,
    )


def filters(model: MaskNetwork) -> Filters | None:
    """What the file's filters are, if the network gives any."""
    if not isinstance(model, DeepFilter):
        return None
    f = model.shape
    return Filters(taps=f.taps, near=f.near, group=f.group, groups=f.groups, seen=model.top)


def _attach(path: Path, contract: Contract) -> None:
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {METADATA_KEY: contract.model_dump_json()})
    onnx.save(model, path)
