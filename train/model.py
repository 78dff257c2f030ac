"""Mask networks: from magnitudes to one soft mask per source, with a state. The reference is a unidirectional LSTM.

After Huang et al., "Singing-Voice Separation from Monaural Recordings using Deep Recurrent Neural Networks" (ISMIR 2014),
with LSTM layers in place of the paper's recurrent ReLU layer, and two changes that make it causal:

    features   x_k = log(|X_k| / rms_k(|X|) + floor), then (x_k - mean_k) / std_k
               The paper scales a clip by its maximum, which needs the future. Dividing each frame by its own RMS over the
               bins needs nothing but the frame (instant layer normalisation: Westhausen & Meyer, "DTLN", 2020), so a gain
               anywhere before the network changes no mask.
    layers     past frames only; `forward` is the same for a whole sequence and for one frame with carried state; here the
               LSTM sees all bins at once, in `bands` it sees them band by band
    masks      y_i = relu(W_i o + b_i),  m_i = (y_i + e) / (sum_j y_j + n e): they sum to one, even where all y are zero

This module knows magnitudes and states; it does not know samples, windows, data or files.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

RMS_FLOOR = 1e-8  # below -160 dBFS a frame counts as silence, rather than as noise to be amplified without limit
LOG_FLOOR = 3e-4  # -70 dB under the frame's RMS: window leakage and dither stay below it, audible partials above
MASK_FLOOR = 1e-6
HEADS_BIAS = 0.5  # heads start alive and equal: a dead ReLU stays dead

State = tuple[Tensor, Tensor]


class MaskNetwork(nn.Module):
    """What all of them share: the shape of the state, and what goes in and comes out around `forward`."""

    layers: int
    state_size: int

    def __init__(self, n_bins: int, sources: int):
        super().__init__()
        self.n_bins, self.sources = n_bins, sources

    def initial(self, streams: int) -> State:
        """The state before the first frame: zeros, h and c each `[shape=(layers, streams, state_size)]`."""
        shape, like = (self.layers, streams, self.state_size), next(self.parameters())
        return like.new_zeros(shape), like.new_zeros(shape)

    def standardise(self, mag: Tensor) -> None:
        """Set the per-bin mean and deviation from training magnitudes `[shape=(streams, frames, n_bins)]`."""
        raise NotImplementedError

    def sees(self, mixture: Tensor, scale: float) -> Tensor:
        """What goes into `forward` of spectra `[shape=(streams, frames, n_bins)]`, complex: magnitudes times `scale`."""
        return mixture.abs() * scale

    def estimates(self, output: Tensor, mixture: Tensor) -> Tensor:
        """Spectra of the sources `[shape=(streams, sources, frames, n_bins)]`: what `forward` gave, put on the mixture's."""
        return output.transpose(1, 2) * mixture.unsqueeze(1)

    def forward(self, mag: Tensor, state: State) -> tuple[Tensor, State]:
        """Masks of the frames, and the state after them.

        Parameters
        ----------
        mag : float32 [shape=(streams, frames, n_bins)]
            |STFT| of the mono downmix; a full-scale sine peaks at 1.0
        state : (h, c), each float32 [shape=(layers, streams, state_size)]

        Returns
        -------
        mask : float32 [shape=(streams, frames, sources, n_bins)], in [0, 1], summing to 1 over the sources
        state : (h, c) like `state`
        """
        raise NotImplementedError


class MagnitudeNetwork(MaskNetwork):
    """Those that see magnitudes: features and masks; see the module's text for the maths."""

    mean: Tensor
    std: Tensor

    def __init__(self, n_bins: int, sources: int):
        super().__init__(n_bins, sources)
        self.register_buffer("mean", torch.zeros(n_bins))
        self.register_buffer("std", torch.ones(n_bins))

    def log_relative(self, mag: Tensor) -> Tensor:
        """Level-free log magnitudes `[shape=(streams, frames, n_bins)]`, before the per-bin affine."""
        rms = mag.square().mean(-1, keepdim=True).sqrt()
        return torch.log(mag / (rms + RMS_FLOOR) + LOG_FLOOR)

    @torch.no_grad()
    def standardise(self, mag: Tensor) -> None:
        """As `MaskNetwork.standardise`."""
        features = self.log_relative(mag).flatten(0, 1)
        self.mean.copy_(features.mean(0))
        self.std.copy_(features.std(0).clamp_min(0.1))

    def features(self, mag: Tensor) -> Tensor:
        """What the layers see of the frames, `[shape=(streams, frames, n_bins)]`."""
        return (self.log_relative(mag) - self.mean) / self.std

    def heads_to_masks(self, y: Tensor) -> Tensor:
        """Masks `[shape=(streams, frames, sources, n_bins)]` of the heads' output of that shape."""
        y = torch.relu(y).float()
        return (y + MASK_FLOOR) / (y.sum(-2, keepdim=True) + self.sources * MASK_FLOOR)


class MaskLSTM(MagnitudeNetwork):
    """The reference: every layer sees all bins."""

    def __init__(self, n_bins: int, hidden: int, layers: int, sources: int, dropout: float = 0.0):
        super().__init__(n_bins, sources)
        self.layers, self.state_size = layers, hidden
        self.lstm = nn.LSTM(n_bins, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.heads = nn.Linear(hidden, sources * n_bins)
        open_forget_gates(self.lstm)
        nn.init.constant_(self.heads.bias, HEADS_BIAS)

    def forward(self, mag: Tensor, state: State) -> tuple[Tensor, State]:
        """As `MaskNetwork.forward`."""
        out, state = self.lstm(self.features(mag), state)
        return self.heads_to_masks(self.heads(out).unflatten(-1, (self.sources, -1))), state


def open_forget_gates(lstm: nn.LSTM) -> None:
    """Let forget gates start open, so that gradients reach back."""
    hidden = lstm.hidden_size
    for layer in range(lstm.num_layers):
        nn.init.constant_(getattr(lstm, f"bias_hh_l{layer}")[hidden : 2 * hidden], 1.0)
