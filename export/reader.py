"""A model file's weights, the other way round: what `graph` and `int8` wrote, as float32 tensors of the network.

Those of 8-bit files are the rounded ones. The features' mean and deviation are part of such a file's first layer; it comes back
as one that sees bare features, without them, unless the file has them for its sub-bands.
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
from streamsep.model import Contract, ModelError
from train.deepfilter import STEP
from train.growth import FULL, standardised

Floats = NDArray[np.float32]


def read(path: Path) -> dict[str, Any]:
    """As much of a checkpoint as the file at `path` holds: the weights of its LSTM, configuration and provenance.

    Raises
    ------
    ModelError
        not a model file, or of a network that has no way back.
    """
    contract = streamsep.model.load(path).contract
    constants = {t.name.removesuffix("_fp16"): numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    if not {"heads_weight", "heads_int8"} & constants.keys():
        raise ModelError(f"model file {str(path)!r} has no way back: expected an LSTM over all bins (network='lstm')")
    if "heads_int8" in constants and "state_zero_step" not in constants:
        raise ModelError(f"model file {str(path)!r} has no way back: an earlier version wrote its 8 bits; use its checkpoint")
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
        state |= {"heads.weight": heads.T, "heads.bias": self.constants["heads_bias"]}
        if not self.contract.filters:
            return state
        if "heads_int8" in self.constants:
            state = self._standardised(state)
        return {f"{FULL}{name}": value for name, value in state.items()} | self._sub_bands()

    def _standardised(self, state: dict[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """With a first layer that sees features less their mean, over their deviation."""
        tensors = {name: torch.from_numpy(np.array(value, np.float32)) for name, value in state.items()}
        return {name: value.numpy() for name, value in standardised(tensors, tensors["mean"], tensors["std"]).items()}

    def _sub_bands(self) -> dict[str, NDArray[np.generic]]:
        c: dict[str, Any] = self.constants
        common = {"see.weight": c["see"].reshape(len(c["see"]), -1), "place": c["place"].T}
        if "hear_int8" in c:
            say, bias = np.concatenate([self._matrix("say_h"), self._matrix("say_z")]), c["say_h_bias"]
            below, own, gates = self._matrix("W_sub").T, self._matrix("R_sub").T, c["W_sub_bias"]
            hear = self._matrix("hear")
        else:
            hear, say, bias = c["hear"], c["say"], c["say_bias"]
            below, own, gates = c["W_sub"][0], c["R_sub"][0], np.add(*np.split(c["B_sub"][0].astype(np.float32), 2))
        return common | {
            "hear.weight": hear.T,
            "lstm.weight_ih_l0": _gates(below),
            "lstm.weight_hh_l0": _gates(own),
            "lstm.bias_ih_l0": _gates(gates),
            "lstm.bias_hh_l0": np.zeros_like(_gates(gates)),
            "say.weight": say.T.astype(np.float32) / STEP,
            "say.bias": bias.astype(np.float32) / STEP,
        }

    def _layer(self, layer: int) -> tuple[NDArray[np.generic], NDArray[np.generic], NDArray[np.generic]]:
        """Weights `[shape=(4 hidden, inputs)]` of what comes from below and of its own h, and the bias. Gates: ONNX's order."""
        if f"R_{layer}_int8" not in self.constants:
            ours, theirs = np.split(self.constants[f"B_{layer}"][0], 2)
            return self.constants[f"W_{layer}"][0], self.constants[f"R_{layer}"][0], ours + theirs
        below = self._matrix(f"W_{layer}")
        if layer == 0:
            below = below.reshape(-1, 2, below.shape[1]).swapaxes(0, 1).reshape(below.shape)  # the halves took turns
            below = below[: self.contract.n_bins]
        return below.T, self._matrix(f"R_{layer}").T, self.constants[f"W_{layer}_bias"]

    def _matrix(self, name: str) -> Floats:
        """A matrix of 8 bits, `[shape=(inputs, outputs)]`."""
        return self.constants[f"{name}_int8"].astype(np.float32) * self.constants[f"{name}_scale"].astype(np.float32)


def _gates(value: NDArray[np.generic]) -> NDArray[np.generic]:
    """ONNX's input, output, forget, cell as PyTorch's input, forget, cell, output."""
    i, o, f, c = np.split(value, 4)
    return np.concatenate([i, f, c, o])
