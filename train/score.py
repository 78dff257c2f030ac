"""How well held recordings are separated while training: NSDR, dB, by plain SDR. The ruler is bench/quality.py, not this."""

from __future__ import annotations

import torch
from torch import Tensor

from .datasets import Recording
from .model import MaskNetwork
from .stft import Transform


@torch.no_grad()
def nsdr(model: MaskNetwork, transform: Transform, recording: Recording) -> list[float]:
    """What each source of `recording` gains over the mixture at 0 dB, from a zero state: from its start, as at run time."""
    both = [torch.tensor(stem) for stem in (recording.voice, recording.accompaniment)]
    stems = torch.stack(both)[None].to(next(model.parameters()).device)
    mixture = transform.analyse(stems.sum(1))
    output, _ = model(model.sees(mixture, transform.mag_scale), model.initial(1))
    estimate = transform.synthesise(model.estimates(output, mixture))
    truth = stems[..., : estimate.shape[-1]]
    gain: list[float] = (sdr(estimate, truth) - sdr(truth.sum(1, keepdim=True), truth))[0].tolist()
    return gain


def sdr(estimate: Tensor, truth: Tensor) -> Tensor:
    """10 log10(||s||² / ||ŝ-s||²) over the last axis, dB."""
    return 10 * torch.log10(truth.square().sum(-1) / (estimate - truth).square().sum(-1).clamp_min(1e-12))
