"""First weights from a network of fewer units: the same masks, with new units that nobody listens to yet.

After Chen, Goodfellow & Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer" (ICLR 2016), whose widening copies
units. Here new units start as an untrained network's do and hear everything; what old units and heads make of them starts at
zero, so that training alone decides what they are for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .model import MaskLSTM


@torch.no_grad()
def grown(state: dict[str, Tensor], model: MaskLSTM) -> dict[str, Tensor]:
    """A state for `model` that gives the masks of `state`, that of a `MaskLSTM` with as many layers and at most as many units.

    A `state` without the features' mean and deviation sees them bare; it gets those of `model`.

    Raises
    ------
    ValueError
        it has other layers, other bins, or more units.
    """
    new = {name: value.clone() for name, value in model.state_dict().items()}
    if "mean" not in state:
        state = _standardised(state, model.mean, model.std)
    if new.keys() != state.keys() or new["heads.bias"].shape != state["heads.bias"].shape:
        raise ValueError("other layers or bins")
    for name, old in state.items():
        gates = 4 if name.startswith("lstm") else 1
        mine, theirs = (value.unflatten(0, (gates, -1)) for value in (new[name], old))
        if any(m < t for m, t in zip(mine.shape, theirs.shape, strict=True)):
            raise ValueError("more units")
        units = theirs.shape[1]
        if mine.ndim == 3:
            mine[:, :units] = 0
            mine[:, :units, : theirs.shape[2]] = theirs
        else:
            mine[:, :units] = theirs
    return new


def _standardised(state: dict[str, Tensor], mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """W f + b of bare features as W' (f - mean) / std + b'."""
    weight, bias = state["lstm.weight_ih_l0"].to(mean.device), state["lstm.bias_ih_l0"].to(mean.device)
    return state | {"lstm.weight_ih_l0": weight * std, "lstm.bias_ih_l0": bias + weight @ mean, "mean": mean, "std": std}
