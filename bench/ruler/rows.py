"""One clip's figures in one case."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .estimates import Case, estimates
from .ratios import Array, bss_eval, si_sdr
from .recordings import SOURCES, clip
from .through import through


class Figures(NamedTuple):
    """Of one source, dB: the gain of SDR over the mixture (NSDR), SIR, SAR; the gain of SI-SDR; the mixture's own SDR.

    All but the gain of SI-SDR are BSS Eval v3's.
    """

    nsdr: float
    sir: float
    sar: float
    si_sdri: float
    mixture_sdr: float


@dataclass(frozen=True)
class Row:
    """One clip's figures by source, from a cold start, and warm where that was asked for."""

    name: str
    frames: int
    vocals: Figures
    accompaniment: Figures
    warm: dict[str, Figures] | None = None
    failed: int = 0  # hops whose mask was not the network's

    @property
    def singer(self) -> str:
        """Of MIR-1K's singer_song_clip."""
        return self.name.split("_")[0]

    @property
    def song(self) -> str:
        """Singer and song."""
        return "_".join(self.name.split("_")[:2])


def measure(references: Array, mixture: Array, sets: Sequence[Array]) -> list[dict[str, Figures]]:
    """The figures of each set of estimates, by source; those of several channels are averaged.

    Parameters
    ----------
    references : float64 [shape=(2, channels, samples)]
        as loud as they are in the mixture, in the order of `SOURCES`; the sets likewise.
    mixture : float64 [shape=(channels, samples)]
        what NSDR and SI-SDRi are gained over.
    """
    found = np.zeros((len(sets), len(SOURCES), 5))
    for c in range(len(mixture)):
        truth = references[:, c]
        same = np.broadcast_to(mixture[c], truth.shape)
        ratios = bss_eval(truth, np.stack([same, *(s[:, c] for s in sets)]))
        ratios[1:, :, 0] -= ratios[0, :, 0]
        found[:, :, :3] += ratios[1:]
        found[:, :, 4] += ratios[0, :, 0]
        for i, s in enumerate(sets):
            found[i, :, 3] += [si_sdr(r, e) - si_sdr(r, mixture[c]) for r, e in zip(truth, s[:, c], strict=True)]
    found /= len(mixture)
    return [{source: Figures(*map(float, f)) for source, f in zip(SOURCES, one, strict=True)} for one in found]


def clip_row(case: Case, path: Path, before: Path | None = None) -> Row:
    """The figures of one clip; warm ones, too, where there is a clip to be heard `before` it.

    Warm means that the engine has just heard another clip of the list, at the same level, and goes on without a pause: it is
    in the state of a daemon that runs, and has heard nothing of this clip.
    """
    sources, rate = clip(path, case.protocol)
    references, mixture = through(case.through, sources, rate)
    results = [estimates(case, references, mixture, rate)]
    if before:
        heard = through(case.through, *clip(before, case.protocol))[1]
        results.append(estimates(case, references, mixture, rate, heard))
    cold, *warm = measure(references, mixture, [r.sources for r in results])
    failed = sum(r.failed for r in results)
    return Row(path.stem, mixture.shape[1], cold["vocals"], cold["accompaniment"], warm[0] if warm else None, failed)
