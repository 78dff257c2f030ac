"""The mask network: a unidirectional LSTM from magnitudes to one soft mask per source.

After Huang et al., "Singing-Voice Separation from Monaural Recordings using Deep Recurrent Neural Networks" (ISMIR 2014),
with LSTM layers in place of the paper's recurrent ReLU layer, and two changes that make it causal:

    features   x_k = log(|X_k| / rms_k(|X|) + floor), then (x_k - mean_k) / std_k
               The paper scales a clip by its maximum, which needs the future. Dividing each frame by its own RMS over the
               bins needs nothing but the frame (instant layer normalisation: Westhausen & Meyer, "DTLN", 2020), so a gain
               anywhere before the network changes no mask.
    layers     past frames only; `forward` is the same for a whole sequence and for one frame with carried state
    masks      y_i = relu(W_i o + b_i),  m_i = (y_i + e) / (sum_j y_j + n e): they sum to one, even where all y are zero

This module knows magnitudes and states; it does not know samples, windows, data or files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RMS_FLOOR = 1e-8  # below -160 dBFS a frame counts as silence, rather than as noise to be amplified without limit
LOG_FLOOR = 3e-4  # -70 dB under the frame's RMS: window leakage and dither stay below it, audible partials above
MASK_FLOOR = 1e-6

State = tuple[Tensor, Tensor]


class MaskLSTM(nn.Module):
    """Magnitudes to masks; see the module's text for the maths."""

    mean: Tensor
    std: Tensor

    def __init__(self, n_bins: int, hidden: int, layers: int, sources: int, dropout: float = 0.0):
        super().__init__()
        self.sources = sources
        self.register_buffer("mean", torch.zeros(n_bins))
        self.register_buffer("std", torch.ones(n_bins))
        self.lstm = nn.LSTM(n_bins, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.heads = nn.Linear(hidden, sources * n_bins)
        self._initialise()

    def _initialise(self) -> None:
        """Forget gates start open, so that gradients reach back; heads start alive and equal: a dead ReLU stays dead."""
        hidden = self.lstm.hidden_size
        for layer in range(self.lstm.num_layers):
            nn.init.constant_(getattr(self.lstm, f"bias_hh_l{layer}")[hidden : 2 * hidden], 1.0)
        nn.init.constant_(self.heads.bias, 0.5)

    def initial(self, streams: int) -> State:
        """The state before the first frame: zeros, h and c each `[shape=(layers, streams, hidden)]`."""
        shape = (self.lstm.num_layers, streams, self.lstm.hidden_size)
        return self.mean.new_zeros(shape), self.mean.new_zeros(shape)

    def log_relative(self, mag: Tensor) -> Tensor:
        """Level-free log magnitudes `[shape=(streams, frames, n_bins)]`, before the per-bin affine."""
        rms = mag.square().mean(-1, keepdim=True).sqrt()
        return torch.log(mag / (rms + RMS_FLOOR) + LOG_FLOOR)

    @torch.no_grad()
    def standardise(self, mag: Tensor) -> None:
        """Set the per-bin mean and deviation from training magnitudes `[shape=(streams, frames, n_bins)]`."""
        features = self.log_relative(mag).flatten(0, 1)
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp_min(0.1))

    def forward(self, mag: Tensor, state: State) -> tuple[Tensor, State]:
        """Masks of the frames, and the state after them.

        Parameters
        ----------
        mag : float32 [shape=(streams, frames, n_bins)]
            |STFT| of the mono downmix; a full-scale sine peaks at 1.0
        state : (h, c), each float32 [shape=(layers, streams, hidden)]

        Returns
        -------
        mask : float32 [shape=(streams, frames, sources, n_bins)], in [0, 1], summing to 1 over the sources
        state : (h, c) like `state`
        """
        features = (self.log_relative(mag) - self.mean) / self.std
        out, state = self.lstm(features, state)
        y = torch.relu(self.heads(out)).float().unflatten(-1, (self.sources, -1))  # (streams, frames, sources, n_bins)
        mask = (y + MASK_FLOOR) / (y.sum(-2, keepdim=True) + self.sources * MASK_FLOOR)
        return mask, state
