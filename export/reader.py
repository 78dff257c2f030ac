"""A model file's weights, the other way round: what `graph` and `int8` wrote, as float32 tensors of the network.

Those of 8-bit files are the rounded ones. The features' mean and deviation are part of such a file's first layer; it comes back
as one that sees bare features, without them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

import streamsep.model
from streamsep.model import Contract
from train.checkpoint import CheckpointError

Floats = NDArray[np.float32]


def read(path: Path) -> dict[str, Any]:
    """As much of a checkpoint as the file at `path` holds: the weights of its LSTM, configuration and provenance.

    Raises
    ------
    ModelError
        not a model file.
    CheckpointError
        of a network that has no way back.
    """
    contract = streamsep.model.load(path).contract
    constants = {t.name.removesuffix("_fp16"): numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    if not {"heads_weight", "heads_int8"} & constants.keys():
        raise CheckpointError(f"model file {str(path)!r} has no way back: expected an LSTM over all bins (network='lstm')")
    state = _File(constants, contract).state()
    nothing = {"commit": "unknown", "data": [], "validation": [], "steps": 0, "minutes": 0.0, "config": {}}
    training: dict[str, Any] = nothing | contract.training
    of_file = {"name": contract.name, "licence": contract.licence, "sources": contract.sources}
    return training | {
        "config": training["config"] | of_file,
        "history": [],
        "ema": {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()},
        "step": training["steps"],
        "seconds": 60 * training["minutes"],
    }


class _File:
    def __init__(self, constants: dict[str, NDArray[np.generic]], contract: Contract) -> None:
        self.constants, self.contract = constants, contract

    def state(self) -> dict[str, NDArray[np.generic]]:
        state = {name: value for name, value in self.constants.items() if name in ("mean", "std")}
        for layer in range(self.contract.layers):
            below, own, bias = self._layer(layer)
            state[f"lstm.weight_ih_l{layer}"] = _gates(below)
            state[f"lstm.weight_hh_l{layer}"] = _gates(own)
            state[f"lstm.bias_ih_l{layer}"] = _gates(bias)
            state[f"lstm.bias_hh_l{layer}"] = np.zeros_like(bias)
        heads = self._matrix("heads") if "heads_int8" in self.constants else self.constants["heads_weight"]
        return state | {"heads.weight": heads.T, "heads.bias": self.constants["heads_bias"]}

    def _layer(self, layer: int) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
        """Weights `[shape=(4 hidden, inputs)]` of what comes from below and of its own h, and the bias. Gates: ONNX's order."""
        if f"R_{layer}_int8" not in self.constants:
            ours, theirs = np.split(self.constants[f"B_{layer}"][0], 2)
            return self.constants[f"W_{layer}"][0], self.constants[f"R_{layer}"][0], ours + theirs
        below = self._matrix(f"W_{layer}", scale=f"R_{layer}" if layer else "W_0")
        if layer == 0:
            below = below.reshape(-1, 2, below.shape[1]).swapaxes(0, 1).reshape(below.shape)  # the halves took turns
            below = below[: self.contract.n_bins]
        bias = self.constants["W_0_bias" if layer == 0 else f"R_{layer}_bias"]
        return below.T, self._matrix(f"R_{layer}").T, bias

    def _matrix(self, name: str, scale: str = "") -> Floats:
        """A matrix of 8 bits, `[shape=(inputs, outputs)]`. Scales are stored times the step of what they are multiplied by."""
        quantised = self.constants[f"{name}_int8"].astype(np.float32)
        step = self.constants["feature_step"] if name == "W_0" else 1 / 127
        return quantised * (self.constants[f"{scale or name}_scale"].astype(np.float32) / np.float32(step))


def _gates(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """ONNX's input, output, forget, cell as PyTorch's input, forget, cell, output."""
    i, o, f, c = np.split(value, 4)
    return np.concatenate([i, f, c, o])
