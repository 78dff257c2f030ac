"""A checkpoint holds all that rebuilds its run: configuration, weights, optimiser, random states, place in the run.

It is written under a temporary name and renamed: a crash or a full disk leaves the last one whole. It is plain data and
tensors, read with `weights_only=True`: opening a stranger's file runs none of its code. Paths of the machine stay out.
"""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

from .bands import BandLSTM
from .config import Config, ConfigError, validate
from .deepfilter import DeepFilter
from .model import MaskLSTM, MaskNetwork

FORMAT = 1


class CheckpointError(Exception):
    """A checkpoint is missing, damaged, or of another run."""


def save(path: Path, content: dict[str, Any]) -> None:
    """Write `content` to `path`, whole or not at all."""
    temporary = path.with_name(path.name + ".part")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT} | content, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def load(path: Path, device: str = "cpu") -> dict[str, Any]:
    """The content of the checkpoint at `path`, tensors on `device`.

    Raises
    ------
    CheckpointError
        no such file, not a checkpoint, or one of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"checkpoint {str(path)!r} does not exist: give a file made by `python -m train`")
    try:
        content = torch.load(path, map_location=device, weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:100]
        raise CheckpointError(f"checkpoint {str(path)!r} is damaged or foreign: train again ({reason})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CheckpointError(f"checkpoint {str(path)!r} is foreign: expected format {FORMAT}, made by `python -m train`")
    return content


def first_weights(path: Path) -> dict[str, Any]:
    """What a run can begin with: the checkpoint at `path`, or as much of one as a model file, `.onnx`, holds.

    Raises
    ------
    CheckpointError, ModelError
        neither.
    """
    if path.suffix != ".onnx":
        return load(path)
    from export import reader  # needs onnx, which no other run does

    return reader.read(path)


def config_of(content: dict[str, Any]) -> Config:
    """The run's configuration."""
    try:
        return validate(content["config"], "checkpoint")
    except ConfigError as error:
        raise CheckpointError(f"{error}; the checkpoint was made by another version of train") from error


def network(config: Config) -> MaskNetwork:
    """An untrained network of the configuration's shape."""
    if config.network == "filter":
        return DeepFilter(config)
    size = config.hidden, config.layers, len(config.sources), config.dropout
    if config.network == "bands":
        return BandLSTM(config.n_bins, config.bin_hz, config.width, *size)
    return MaskLSTM(config.n_bins, *size)


def trained(content: dict[str, Any]) -> MaskNetwork:
    """The network with the averaged weights, for inference."""
    model = network(config_of(content))
    model.load_state_dict(content["ema"])
    return model.eval()
