"""Does the file say what the network says? PyTorch over a whole recording against ONNX Runtime hop by hop.

    fp32    largest difference of any mask value (or part of a filter): 1e-4 at most. Only the order of sums differs.
    fp16    mask signal-to-noise ratio, dB: at least 40. Trained networks reach 78 to 80 (half precision has 11 bits).
    int8    the same: at least 20. Trained networks reach 47; at 20 the noise would still lie below what the best
            possible masks of this kind leave of the other source (12 to 14 dB).

The mask's signal-to-noise ratio is 10 log10(sum m² / sum (m' - m)²) over all frames, bins and sources, filters included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from numpy.typing import NDArray

import streamsep
from train import datasets
from train.config import Config
from train.model import MaskNetwork
from train.stft import Transform

LARGEST_DIFFERENCE = 1e-4
LEAST_SNR_DB = {"fp16": 40.0, "int8": 20.0}
RECORDINGS, SECONDS = 3, 8.0
SONG = Path(streamsep.__file__).parent / "demo"

Floats = NDArray[np.float32]
Spectra = NDArray[np.complex64]


class ParityError(Exception):
    """The exported file does not do what the checkpoint does."""


@dataclass(frozen=True)
class Parity:
    """How far the file is from the network."""

    difference: float
    snr_db: float

    def check(self, precision: str) -> None:
        """Raise ParityError if this is too far for `precision`."""
        if precision == "fp32" and not self.difference <= LARGEST_DIFFERENCE:
            raise ParityError(
                f"masks differ from PyTorch's by {self.difference:.2g}: expected at most {LARGEST_DIFFERENCE:g} "
                "(report it, with the checkpoint); no file is written"
            )
        least = LEAST_SNR_DB.get(precision, -np.inf)
        if not self.snr_db >= least:
            raise ParityError(
                f"mask SNR is {self.snr_db:.1f} dB: expected at least {least:g} for {precision}; no file is written"
            )


def recordings(config: Config, roots: Sequence[Path]) -> tuple[list[Spectra], str]:
    """Spectra `[shape=(1, frames, n_bins)]`, times the network's scale, of what parity is measured on, and its name.

    Mixtures of recordings from all over the data sets, or, without any, the song that comes with streamsep.
    """
    files = [f for root in roots for f in _spread(datasets.scan(root))][:RECORDINGS] or datasets.scan(SONG)
    signals = [_mixture(datasets.read(f, config.sample_rate, stop=SECONDS)) for f in files]
    name = ", ".join(f.name for f in files) if roots else "the song of `streamsep demo`"
    transform = Transform(config.n_fft, config.synthesis_length, config.hop_length)
    return [(transform.mag_scale * transform.analyse(torch.from_numpy(s)[None])).numpy() for s in signals], name


def _spread(files: Sequence[datasets.Files]) -> Sequence[datasets.Files]:
    """From all over the list: neighbours are of one singer."""
    return files[:: max(1, len(files) // RECORDINGS)]


def _mixture(recording: datasets.Recording) -> datasets.Signal:
    stems = [s for s in (recording.voice, recording.accompaniment) if s is not None]
    if not stems:
        raise datasets.DataError(f"recording {recording.name!r} is silent: parity needs sound, give other --data")
    mixture: datasets.Signal = (0.05 * np.sum(stems, axis=0)).astype(np.float32)  # -26 dBFS each
    return mixture


def measure(model: MaskNetwork, path: Path, mixtures: Sequence[Spectra]) -> Parity:
    """Compare the network with the file at `path` on scaled spectra `[shape=(1, frames, n_bins)]` each."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a single frame is too little for two
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    seen = [model.sees(torch.from_numpy(mixture), 1.0).numpy() for mixture in mixtures]
    pairs = [(whole(model, s), hop_by_hop(session, model, s)) for s in seen]
    truth, got = (np.concatenate(m, 1).astype(np.float64) for m in zip(*pairs, strict=True))
    noise = float(np.square(got - truth).sum())
    return Parity(float(np.abs(got - truth).max()), float(10 * np.log10(np.square(truth).sum() / max(noise, 1e-30))))


@torch.no_grad()
def whole(model: MaskNetwork, seen: Floats) -> Floats:
    """What PyTorch gives, `[shape=(streams, frames, ...)]`, for all frames `[shape=(streams, frames, n)]` in one call."""
    return model(torch.from_numpy(seen), model.initial(len(seen)))[0].numpy()


def hop_by_hop(session: onnxruntime.InferenceSession, model: MaskNetwork, seen: Floats) -> Floats:
    """What the file gives, one frame a call, its state carried."""
    name, h_name, c_name = (tensor.name for tensor in session.get_inputs())
    h, c = (s.numpy() for s in model.initial(len(seen)))
    given = []
    for t in range(seen.shape[1]):
        one, h, c = session.run(None, {name: seen[:, t : t + 1], h_name: h, c_name: c})
        given.append(one)
    return np.concatenate(given, 1)
