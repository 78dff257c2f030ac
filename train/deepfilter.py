"""A mask network whose masks become short complex filters where partials of voice and band meet.

A mask takes each bin of the mixture as it is; what two sources have put into one bin it cannot take apart. A few frames that
overlap can: "deep filtering" (Mack & Habets, "Deep Filtering: Signal Extraction and Reconstruction Using Complex Time-Frequency
Filters", IEEE Signal Processing Letters 2020; Schröter et al., "DeepFilterNet", ICASSP 2022):

    s_i(t, k) = m_i(t, k) X(t, k) + sum_j sum_n w_ijn(t, k) X(t - j, k + n)        j = 0 .. taps - 1,  n = -near .. near

with every X turned to the newest frame's phase, exp(2 pi i k hop / n_fft) a hop, so that a steady partial in the middle of its
bin is the same number in all of them. The network has two stages:

    full band   `train.model.MaskLSTM`: features x, what its last layer gives, o, and the masks m; all bins
    sub-band    groups of `group` neighbouring bins, up to `groups` of them; each sees what is in its bins and in `context` more
                on either side: x, log m, and the directions of X(t, k) X*(t - 1, k) and X(t, k) X*(t, k - 1), how phase goes on
                in time and along the spectrum. z_g = W seen_g + V o + b_g, held in [0, CEILING]; one LSTM along time, each
                group by itself, all with the same weights; from z and it the w of the group's bins

The second stage is that of Hao et al., "FullSubNet" (ICASSP 2021): how a partial moves is the same in every place of the
spectrum, so it is learnt once for all of them, and from few voices. No absolute phase and no level goes in, and what comes out
is applied to the mixture: the whole turns with its phase and grows with its level. All w start at zero: a trained full band is
what such a network begins as, and `frozen` it stays what it was.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamsep.stft import DIRECTION_FLOOR

from .config import Config
from .model import MaskLSTM, MaskNetwork, State, open_forget_gates

SHARE_FLOOR = 1e-2  # of a mask, before its logarithm
CEILING = 4.0  # of what a group's LSTM sees: trained units seldom reach it, and 8 bits know their range
STEP = 0.2  # of the filters: what one unit of the last layer is worth


class DeepFilter(MaskNetwork):
    """See the module's text."""

    turn: Tensor

    def __init__(self, config: Config):
        super().__init__(config.n_bins, len(config.sources))
        f = self.shape = config.filter
        self.top = f.reach + f.context  # bins that groups see
        self.frozen = config.frozen
        self.full = MaskLSTM(self.n_bins, config.hidden, config.layers, self.sources, config.dropout)
        self.full.requires_grad_(not self.frozen)
        self.layers, self.hidden = config.layers, config.hidden
        self.state_size = self.hidden + f.groups // self.layers * f.width
        channels = 1 + self.sources + 4
        self.see = nn.Linear(channels * f.span, f.width, bias=False)
        self.hear = nn.Linear(self.hidden, f.width, bias=False)
        self.place = nn.Parameter(torch.zeros(f.groups, f.width))
        self.lstm = nn.LSTM(f.width, f.width)
        self.say = nn.Linear(2 * f.width, (self.sources - 1) * f.taps * f.bins * 2 * f.group)
        open_forget_gates(self.lstm)
        nn.init.zeros_(self.say.weight)
        nn.init.zeros_(self.say.bias)
        angle = 2 * math.pi * config.hop_length / config.n_fft * torch.arange(self.n_bins, dtype=torch.float64)
        self.register_buffer("turn", torch.polar(torch.ones_like(angle), angle).to(torch.complex64), persistent=False)

    def train(self, mode: bool = True) -> DeepFilter:
        """As `nn.Module.train`; a frozen full band has no dropout."""
        super().train(mode)
        if self.frozen:
            self.full.eval()
        return self

    def standardise(self, mag: Tensor) -> None:
        """As `MaskNetwork.standardise`."""
        self.full.standardise(mag)

    def sees(self, mixture: Tensor, scale: float) -> Tensor:
        """The input `[shape=(streams, frames, n_bins + 4 top)]` of spectra `[shape=(streams, frames, n_bins)]`: magnitudes,
        then of the bins that groups see real and imaginary parts of the directions in time, and of those along the spectrum."""
        scaled = mixture * scale
        here = scaled[..., : self.top]
        before = functional.pad(here, (0, 0, 1, 0))[:, :-1] * self.turn[: self.top]
        below = functional.pad(here, (1, 0))[..., :-1]
        directions = [part for other in (before, below) for part in direction(here, other)]
        return torch.cat([scaled.abs(), *directions], -1)

    def forward(self, seen: Tensor, state: State) -> tuple[Tensor, State]:
        """Masks and filters of the frames, and the state after them.

        Parameters
        ----------
        seen : float32 [shape=(streams, frames, n_bins + 4 top)]
            see `sees`
        state : (h, c), each float32 [shape=(layers, streams, state_size)]
            of the full band's units, then of the sub-bands': the first layer has the lowest groups

        Returns
        -------
        output : float32 [shape=(streams, frames, sources * n_bins + groups * (sources - 1) * taps * (2 near + 1) * 2 * group)]
            masks, then filters: of each group, of each source but the last, by tap, by neighbour, real and imaginary parts
        state : (h, c) like `state`
        """
        mag, directions = seen.split([self.n_bins, 4 * self.top], -1)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            x = self.full.features(mag)
            h, c = (s[..., : self.hidden].contiguous() for s in state)
            o, full_end = self.full.lstm(x, (h, c))
            masks = self.full.heads_to_masks(self.full.heads(o).unflatten(-1, (self.sources, -1)))
        shares = torch.log(masks[..., : self.top] + SHARE_FLOOR)
        groups_see = torch.cat([x[:, :, None, : self.top], shares, directions.unflatten(-1, (4, -1))], 2)
        filters, sub_end = self._sub_bands(groups_see, o, (self._sub(state[0]), self._sub(state[1])))
        ends = [self._joined(full, sub) for full, sub in zip(full_end, sub_end, strict=True)]
        return torch.cat([masks.flatten(2), filters], -1), (ends[0], ends[1])

    def _sub_bands(self, seen: Tensor, o: Tensor, state: State) -> tuple[Tensor, State]:
        """Filters `[shape=(streams, frames, all of them)]` of what is seen, `[shape=(streams, frames, channels, top)]`."""
        f = self.shape
        streams, frames, channels, _ = seen.shape
        weight = self.see.weight.unflatten(1, (channels, f.span))
        near = functional.conv1d(functional.pad(seen, (f.context, 0)).flatten(0, 1), weight, stride=f.group)
        near = near.transpose(1, 2).unflatten(0, (streams, frames))  # (streams, frames, groups, width)
        z = torch.clamp(near + self.hear(o).unsqueeze(2) + self.place, 0, CEILING)
        z = z.transpose(0, 1).reshape(frames, streams * f.groups, f.width)
        out, state = self.lstm(z, state)
        w = STEP * self.say(torch.cat([out, z], -1)).float()
        return w.view(frames, streams, -1).transpose(0, 1), state

    def _sub(self, s: Tensor) -> Tensor:
        """The sub-bands' part of a state, `[shape=(1, streams * groups, width)]`."""
        return s[..., self.hidden :].transpose(0, 1).reshape(1, -1, self.shape.width)

    def _joined(self, full: Tensor, sub: Tensor) -> Tensor:
        return torch.cat([full, sub.view(full.shape[1], self.layers, -1).transpose(0, 1)], -1)

    def estimates(self, output: Tensor, mixture: Tensor) -> Tensor:
        """As `MaskNetwork.estimates`."""
        f = self.shape
        masks, filters = output.split([self.sources * self.n_bins, output.shape[-1] - self.sources * self.n_bins], -1)
        masked = masks.unflatten(-1, (self.sources, -1)).transpose(1, 2) * mixture.unsqueeze(1)
        parts = filters.unflatten(-1, (f.groups, self.sources - 1, f.taps, f.bins, 2, f.group))
        re, im = parts.permute(6, 0, 1, 3, 4, 5, 2, 7).flatten(-2)
        w = torch.complex(re, im)  # (streams, frames, sources - 1, taps, bins, reach)
        past = functional.pad(mixture[..., : f.reach + f.near], (f.near, 0))
        turn = functional.pad(self.turn[: f.reach + f.near], (f.near, 0))
        found = torch.zeros_like(masked[:, :-1, :, : f.reach])
        for tap in range(f.taps):
            for n in range(f.bins):
                found = found + w[:, :, :, tap, n].transpose(1, 2) * past[:, None, :, n : n + f.reach]
            past = functional.pad(past, (0, 0, 1, 0))[:, :-1] * turn
        first = masked[:, :-1] + functional.pad(found, (0, self.n_bins - f.reach))
        return torch.cat([first, mixture.unsqueeze(1) - first.sum(1, keepdim=True)], 1)


def direction(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """a b* / |a b|, real and imaginary part; 0 where there is none."""
    product = a * b.conj()
    size = product.abs() + DIRECTION_FLOOR
    return product.real / size, product.imag / size
