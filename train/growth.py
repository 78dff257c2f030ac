"""First weights from another network: the same masks, with other statistics of the features, or with more units.

After Chen, Goodfellow & Shlens, "Net2Net: Accelerating Learning via Knowledge Transfer" (ICLR 2016), whose widening copies
units. Here new units, which nobody listens to yet, start as an untrained network's do and hear everything; what old units and
heads make of them starts at zero, so that training alone decides what they are for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .deepfilter import DeepFilter
from .model import MaskLSTM, MaskNetwork

FULL = "full."  # the full band's weights in a `DeepFilter`


def first_weights(state: dict[str, Tensor], model: MaskNetwork, filters: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A state for `model` from `state`, that of another one of its kind. A `DeepFilter` takes its full band from a `MaskLSTM`
    as well, and its sub-bands from `filters`, a `DeepFilter`'s state, where given.

    Raises
    ------
    ValueError
        it does not fit, as `grown` says, or there are no sub-bands in `filters`, or in `model`.
    """
    if not isinstance(model, DeepFilter):
        if filters:
            raise ValueError("filters for a network that has none")
        return grown(state, model) if isinstance(model, MaskLSTM) else state
    own, subs = parted(state)
    if filters:
        subs = parted(filters)[1]
        if not subs:
            raise ValueError("no filters in what they were to come from")
    full = grown(own, model.full)
    return model.state_dict() | {FULL + name: value for name, value in full.items()} | subs


def parted(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The full band of a state, and its sub-bands, none where it is a `MaskLSTM`'s."""
    if not any(name.startswith(FULL) for name in state):
        return state, {}
    own = {name.removeprefix(FULL): value for name, value in state.items() if name.startswith(FULL)}
    return own, {name: value for name, value in state.items() if not name.startswith(FULL)}


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
        state = standardised(state, model.mean, model.std)
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


@torch.no_grad()
def bare(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state`, that of a `MaskLSTM`, as one that sees bare features, without mean and deviation, and gives the same masks."""
    if "mean" not in state:
        return state
    weight = state["lstm.weight_ih_l0"] / state["std"]
    new = {name: value for name, value in state.items() if name not in ("mean", "std")}
    return new | {"lstm.weight_ih_l0": weight, "lstm.bias_ih_l0": state["lstm.bias_ih_l0"] - weight @ state["mean"]}


def standardised(state: dict[str, Tensor], mean: Tensor, std: Tensor) -> dict[str, Tensor]:
    """W f + b of bare features as W' (f - mean) / std + b'."""
    weight, bias = state["lstm.weight_ih_l0"].to(mean.device), state["lstm.bias_ih_l0"].to(mean.device)
    return state | {"lstm.weight_ih_l0": weight * std, "lstm.bias_ih_l0": bias + weight @ mean, "mean": mean, "std": std}
