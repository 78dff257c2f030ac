"""What turns gradients into steps: AdamW for everything, or Muon for the matrices and AdamW for the biases.

    AdamW   Loshchilov & Hutter, "Decoupled Weight Decay Regularization", ICLR 2019
    Muon    Jordan et al., 2024: a matrix' momentum is made orthogonal before it is a step, so that rare directions are learnt
            as fast as common ones; its steps are scaled to the size of AdamW's (Liu et al., "Muon is Scalable for LLM
            Training", 2025), so that one learning rate and decay do for both

Weights decay, biases do not: they set where gates and masks rest. Of a `DeepFilter` Muon takes the full band's matrices only:
tried on the sub-bands', it loses what AdamW gains (train/LOG.md).
"""

from __future__ import annotations

from typing import Any

import torch

from .config import OptimizerName
from .deepfilter import DeepFilter
from .model import MaskNetwork


class Optimizer:
    """Of the weights of `model`."""

    def __init__(self, model: MaskNetwork, name: OptimizerName, learning_rate: float, weight_decay: float):
        learning = [p for p in model.parameters() if p.requires_grad]
        weights = [p for p in learning if p.ndim > 1]
        biases = [p for p in learning if p.ndim == 1]
        self.parts: list[torch.optim.Optimizer]
        if name == "muon":
            full_band = set((model.full if isinstance(model, DeepFilter) else model).parameters())
            matrices = [p for p in weights if p.ndim == 2 and p in full_band]
            others = [p for p in weights if p.ndim != 2 or p not in full_band]
            muon = torch.optim.Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
            self.parts = [muon, _adamw(others, biases, learning_rate, weight_decay)]
        else:
            self.parts = [_adamw(weights, biases, learning_rate, weight_decay)]

    def zero(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def step(self, learning_rate: float) -> None:
        """Change the weights."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = learning_rate
            part.step()

    def content(self) -> list[dict[str, Any]]:
        """All that the next step depends on, as plain data and tensors."""
        return [part.state_dict() for part in self.parts]

    def restore(self, content: list[dict[str, Any]] | dict[str, Any]) -> None:
        """Go on where `content` was taken; a dict: by a version that knew AdamW only."""
        for part, state in zip(self.parts, [content] if isinstance(content, dict) else content, strict=True):
            part.load_state_dict(state)


def _adamw(
    weights: list[torch.nn.Parameter], biases: list[torch.nn.Parameter], learning_rate: float, weight_decay: float
) -> torch.optim.Optimizer:
    groups = [{"params": weights, "weight_decay": weight_decay}, {"params": biases, "weight_decay": 0.0}]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=learning_rate)
