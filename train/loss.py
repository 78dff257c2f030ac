"""What training minimises. All losses look through the masking layer at separated sources, never at masks.

    discriminative   ||ŷ1-s1||² - γ||ŷ1-s2||² + ||ŷ2-s2||² - γ||ŷ2-s1||²  on magnitudes (Huang et al., ISMIR 2014), divided
                     by the mixture's energy clip by clip: a loud clip counts no more than a quiet one
    sdr              10 log10(||ŷ-s||² / ||s||²), the negative signal-to-distortion ratio of each source in the time domain,
                     after the same overlap-add as at run time: the network learns to mend what the short window breaks
    spectral         L1 distance of magnitudes of what was separated, at three resolutions (Yamamoto, Song & Kim, "Parallel
                     WaveGAN", ICASSP 2020): beside one of the others, where a mean over seconds forgives bursts

Every array is (streams, sources, ...), all sources of a clip together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .stft import Transform

RESOLUTIONS = ((2048, 512), (1024, 256), (256, 64))  # window and hop: partials, syllables, onsets
SOFT_FLOOR = 1e-3  # -30 dB of the mixture: errors below it, and sources that are silent, stop mattering


def discriminative(estimates: Tensor, mixture: Tensor, sources: Tensor, gamma: float) -> Tensor:
    """Mean squared error of the masked magnitudes, less gamma times that to the *other* sources.

    Parameters
    ----------
    estimates, sources : complex [shape=(streams, sources, frames, n_bins)]
    mixture : complex [shape=(streams, frames, n_bins)]
    gamma : weight of the discriminative term
    """
    estimate, truth = estimates.abs(), sources.abs()
    n = truth.shape[1]
    # distance[b, i, j] = ||estimate_i - truth_j||², by the binomial formula: no (i, j) copies of the spectra
    e, t = estimate.flatten(2), truth.flatten(2)
    cross = e @ t.transpose(1, 2)
    distance = e.square().sum(-1).unsqueeze(2) - 2 * cross + t.square().sum(-1).unsqueeze(1)
    weight = (1 + gamma) * torch.eye(n, device=truth.device) - gamma
    energy = mixture.abs().square().sum((1, 2)) + 1e-8
    return ((distance * weight).sum((1, 2)) / energy).mean()


def negative_sdr(estimates: Tensor, sources: Tensor, transform: Transform) -> Tensor:
    """Mean over clips and sources of 10 log10(error / source energy), dB.

    Parameters
    ----------
    estimates : complex [shape=(streams, sources, frames, n_bins)], which add up to the mixture
    sources : [shape=(streams, sources, samples)], time domain
    """
    estimate = transform.synthesise(estimates[:, :-1])
    truth = sources[..., : estimate.shape[-1]]
    first = estimate - truth[:, :-1]
    # Estimates add up to the mixture and the transform reconstructs, so errors sum to zero: the last one costs no transform.
    error = torch.cat([first, -first.sum(1, keepdim=True)], 1).square().sum(-1)
    energy = truth.square().sum(-1)
    floor = SOFT_FLOOR * truth.sum(1).square().sum(-1, keepdim=True) + 1e-8
    return 10 * (torch.log10(error + floor) - torch.log10(energy + floor)).mean()


def spectral(estimates: Tensor, sources: Tensor, transform: Transform) -> Tensor:
    """Mean over resolutions, clips and sources of sum ||ŝ| - |s|| / sum |x|, after overlap-add, x the mixture.

    The mixture's magnitudes divide, in place of the source's own: a silent source has none. For the same reason there is no
    logarithm. Parameters as `negative_sdr` has them.
    """
    estimate = transform.synthesise(estimates)
    truth = sources[..., : estimate.shape[-1]]
    values = []
    for n_fft, hop in RESOLUTIONS:
        window = torch.hann_window(n_fft, device=sources.device)
        e, s, x = (
            torch.stft(y.flatten(0, -2), n_fft, hop, window=window, return_complex=True).abs().unflatten(0, y.shape[:-1])
            for y in (estimate, truth, truth.sum(1, keepdim=True))
        )
        values.append(((e - s).abs().sum((-1, -2)) / (x.sum((-1, -2)) + 1e-8)).mean())
    return torch.stack(values).mean()
