"""A mask network that sees the spectrum band by band, with the same LSTM for each.

After Luo & Yu, "Music Source Separation with Band-Split RNN" (IEEE/ACM TASLP 2023), made causal and small:

    bands      125 Hz wide below 1 kHz, 250 below 3, 500 below 5, 1000 above; each has a projection of its bins to
               `width` channels of its own
    block      z = z + P LSTM(norm(z))        along time, each band by itself, all with the same weights
               z = z + W2 relu(W1 norm(z))    across the bands of one frame, each channel by itself
    heads      each band's own, from `width` channels to its bins of every source

The paper has an LSTM in both directions across the bands, which is a chain of as many small steps as there are bands in every
hop; two matrices over the bands take one. What one band learns all know, so that a few hours of recordings go further; the
weights are few and stay in a processor's own cache, but there are as many sums as in a network of twenty times their number.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from .model import HEADS_BIAS, MagnitudeNetwork, State, open_forget_gates

WIDTHS = ((1_000.0, 125.0), (3_000.0, 250.0), (5_000.0, 500.0), (float("inf"), 1_000.0))  # Hz: up to there, so wide
VECTOR = 16  # float32 in the widest register: bands are padded to whole ones (see `export.bands`)


def edges(n_bins: int, bin_hz: float) -> list[int]:
    """First bin of each band, and behind the last; a rest narrower than half a band joins the one before it."""
    found = [0]
    while found[-1] < n_bins:
        width = next(width for top, width in WIDTHS if found[-1] * bin_hz < top)
        found.append(found[-1] + max(1, round(width / bin_hz)))
        if n_bins - found[-1] < width / bin_hz / 2:
            found[-1] = n_bins
    return found


class Block(nn.Module):
    """Along time, then across the bands."""

    def __init__(self, bands: int, width: int, hidden: int):
        super().__init__()
        self.norm_time, self.norm_bands = nn.LayerNorm(width), nn.LayerNorm(width)
        self.lstm = nn.LSTM(width, hidden)  # (frames, streams * bands, width)
        self.project = nn.Linear(hidden, width)
        self.up, self.down = nn.Linear(bands, 2 * bands), nn.Linear(2 * bands, bands)
        open_forget_gates(self.lstm)

    def forward(self, z: Tensor, state: State) -> tuple[Tensor, State]:
        """z `[shape=(frames, streams, bands, width)]`, h and c `[shape=(streams, bands * hidden)]`, both as they come out."""
        frames, streams, bands, width = z.shape
        h, c = (s.reshape(1, streams * bands, -1) for s in state)
        out, (h, c) = self.lstm(self.norm_time(z).view(frames, streams * bands, width), (h.contiguous(), c.contiguous()))
        z = z + self.project(out).view_as(z)
        mixed = self.down(torch.relu(self.up(self.norm_bands(z).transpose(-1, -2))))
        return z + mixed.transpose(-1, -2), (h.view(streams, -1), c.view(streams, -1))


class BandLSTM(MagnitudeNetwork):
    """See the module's text. `bin_hz`: from one bin to the next."""

    index: Tensor

    def __init__(self, n_bins: int, bin_hz: float, width: int, hidden: int, layers: int, sources: int, dropout: float = 0.0):
        super().__init__(n_bins, sources)
        self.edges = edges(n_bins, bin_hz)
        sizes = [b - a for a, b in pairwise(self.edges)]
        self.bands, self.widest = len(sizes), -(-max(sizes) // VECTOR) * VECTOR
        self.layers, self.state_size = layers, self.bands * hidden
        # Where each bin lies in bands of equal width; the places between hold zeros.
        places = torch.cat([band * self.widest + torch.arange(size) for band, size in enumerate(sizes)])
        self.register_buffer("index", places, persistent=False)
        self.split = nn.Parameter(torch.empty(self.bands, self.widest, width))
        self.split_bias = nn.Parameter(torch.zeros(self.bands, width))
        self.blocks = nn.ModuleList(Block(self.bands, width, hidden) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.heads = nn.Parameter(torch.empty(self.bands, width, sources * self.widest))
        self.heads_bias = nn.Parameter(torch.full((self.bands, sources * self.widest), HEADS_BIAS))
        self.dropout = nn.Dropout(dropout)
        for band, size in enumerate(sizes):
            nn.init.normal_(self.split[band], std=size**-0.5)
        nn.init.normal_(self.heads, std=0.5 * width**-0.5)

    def forward(self, mag: Tensor, state: State) -> tuple[Tensor, State]:
        """As `MaskNetwork.forward`."""
        x = self.features(mag)
        streams, frames = x.shape[:2]
        padded = x.new_zeros(streams, frames, self.bands * self.widest)
        padded[..., self.index] = x
        z = torch.einsum("sfbk,bkn->fsbn", padded.unflatten(-1, (self.bands, -1)), self.split) + self.split_bias
        ends = []
        for layer, block in enumerate(self.blocks):
            z, end = block(self.dropout(z) if layer else z, (state[0][layer], state[1][layer]))
            ends.append(end)
        y = torch.einsum("fsbn,bnk->sfbk", self.norm(z), self.heads) + self.heads_bias
        y = y.unflatten(-1, (self.sources, -1)).transpose(2, 3).flatten(3)[..., self.index]  # (streams, frames, sources, bins)
        return self.heads_to_masks(y), (torch.stack([h for h, _ in ends]), torch.stack([c for _, c in ends]))
