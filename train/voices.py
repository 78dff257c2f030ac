"""One voice -> another: formants moved, pitch kept. With `speeds`, which move both, pitch and formants vary by themselves.

Source and filter told apart in the cepstrum (Oppenheim & Schafer; for voices: Röbel & Rodet, "Efficient spectral envelope
estimation and its application to pitch shifting and envelope preservation", DAFx 2005): the log spectrum's slow part over
frequency is the mouth, its fast part the voice's partials. Each frame is filtered by the moved envelope over the envelope.
Zero-phase, frame by frame, overlap-added. Knows signals only.
"""

from __future__ import annotations

import torch
from torch import Tensor

N_FFT, HOP = 512, 256
QUEFRENCIES = 34  # at 16 kHz 2.1 ms: shorter than the period of 470 Hz
FLOOR = 1e-3  # of a frame's RMS: no envelope is read from what lies between the partials of a quiet room
LIMIT = 2.3  # 20 dB: a formant may move, a hole may not become a whistle


def move_formants(signals: Tensor, ratios: Tensor) -> Tensor:
    """Signals `[shape=(streams, samples)]` whose spectral envelopes are stretched to `ratios` `[shape=(streams,)]` times
    the frequency; what a signal has at one frequency changes in level, not in pitch."""
    window = torch.hann_window(N_FFT, device=signals.device)
    spectrum = torch.stft(signals, N_FFT, HOP, window=window, return_complex=True)  # (streams, bins, frames)
    envelope = _envelope(spectrum.abs())
    gain = (_stretched(envelope, ratios) - envelope).clamp(-LIMIT, LIMIT).exp()
    return torch.istft(spectrum * gain, N_FFT, HOP, window=window, length=signals.shape[-1])


def _envelope(magnitude: Tensor) -> Tensor:
    """Natural log of the spectral envelope, like `magnitude` `[shape=(streams, bins, frames)]`."""
    floor = FLOOR * magnitude.square().mean(1, keepdim=True).sqrt() + 1e-8
    cepstrum = torch.fft.irfft(torch.log(magnitude + floor), N_FFT, dim=1)
    lifter = torch.zeros(N_FFT, 1, device=magnitude.device)
    slope = 0.5 + 0.5 * torch.cos(torch.linspace(0, torch.pi, QUEFRENCIES, device=magnitude.device))
    lifter[:QUEFRENCIES, 0] = slope
    lifter[N_FFT - QUEFRENCIES + 1 :, 0] = slope[1:].flip(0)
    return torch.fft.rfft(cepstrum * lifter, N_FFT, dim=1).real


def _stretched(envelope: Tensor, ratios: Tensor) -> Tensor:
    """The envelope at bin k taken from bin k / ratio, linearly between bins, the last one beyond them."""
    bins = envelope.shape[1]
    place = (torch.arange(bins, device=envelope.device) / ratios[:, None]).clamp_max(bins - 1)  # (streams, bins)
    below = place.floor().long().clamp_max(bins - 2)
    part = (place - below).unsqueeze(-1)
    index = below.unsqueeze(-1).expand(-1, -1, envelope.shape[2])
    return torch.lerp(envelope.gather(1, index), envelope.gather(1, index + 1), part)
