"""The runtime's transform, over whole sequences and with gradients: same windows, same framing, same scale.

Frame t holds the `n_fft` samples that end with hop t (zeros before the start), as the engine sees them. Overlap-add of the
synthesis window gives the signal back, late by `synthesis_length - hop_length` samples on top of the hop itself; here the
delay is cut off, so that outputs line up with targets.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from streamsep.stft import mag_scale, window_pair


class Transform(nn.Module):
    """Analysis and synthesis with one window pair."""

    analysis_window: Tensor
    synthesis_window: Tensor

    def __init__(self, n_fft: int, synthesis_length: int, hop_length: int):
        super().__init__()
        analysis, synthesis = window_pair(n_fft, synthesis_length, hop_length)
        self.n_fft, self.synthesis_length, self.hop_length = n_fft, synthesis_length, hop_length
        self.mag_scale = mag_scale(analysis)
        self.register_buffer("analysis_window", torch.from_numpy(analysis), persistent=False)
        self.register_buffer("synthesis_window", torch.from_numpy(synthesis), persistent=False)

    def analyse(self, signal: Tensor) -> Tensor:
        """Spectra `[shape=(..., frames, n_bins)]`, complex, of signals `[shape=(..., samples)]`.

        `frames` = samples // hop_length.
        """
        padded = functional.pad(signal, (self.n_fft - self.hop_length, 0))
        return torch.fft.rfft(padded.unfold(-1, self.n_fft, self.hop_length) * self.analysis_window)

    def magnitude(self, spectrum: Tensor) -> Tensor:
        """What the network reads: a full-scale sine peaks at 1.0."""
        return spectrum.abs() * self.mag_scale

    def synthesise(self, spectrum: Tensor) -> Tensor:
        """Signals `[shape=(..., (frames - overlap + 1) * hop_length)]` of spectra `[shape=(..., frames, n_bins)]`.

        `overlap` = synthesis_length / hop_length. The last `overlap - 1` hops are not complete yet and left out; sample 0
        is the analysed signal's sample 0.
        """
        overlap = self.synthesis_length // self.hop_length
        tail = torch.fft.irfft(spectrum, self.n_fft)[..., -self.synthesis_length :] * self.synthesis_window
        # (..., frames, overlap, hop_length): part j of frame t belongs to hop t - overlap + 1 + j
        parts = tail.unflatten(-1, (overlap, self.hop_length))
        hops = parts.shape[-3] - overlap + 1
        done = sum(parts[..., overlap - 1 - j : overlap - 1 - j + hops, j, :] for j in range(overlap))
        return torch.as_tensor(done).flatten(-2)
