"""The figures of a whole song, in full band and all its channels, separated in one go.

Two kinds, which cannot be compared with each other. By BSS Eval v3, as clips are: in excerpts of `EXCERPT` seconds, each
channel by itself, and the mean of all excerpts in which both sources sound. And over the whole song and both channels at
once, where nothing is forgiven: SDR as the Music Demixing Challenge defines it, and SI-SDR.
"""

from pathlib import Path
from typing import Any

import numpy as np

from . import recordings
from .estimates import Case, estimates
from .ratios import Array, sdr, si_sdr
from .recordings import SOURCES, QualityError
from .rows import Figures, measure
from .through import through

EXCERPT = 10.0  # seconds: what a clip of MIR-1K has at most
SOUNDS = -25.0  # dB: a source's power in an excerpt over that in the whole song; less is a rest


def song_report(case: Case, path: Path, seconds: float | None = None) -> dict[str, Any]:
    """All figures of a song, or of `seconds` of it (see `recordings.song`), dB."""
    sources, rate = recordings.song(path, case.protocol, seconds)
    references, mixture = through(case.through, sources, rate)
    found = estimates(case, references, mixture, rate)
    report: dict[str, Any] = {"song": path.name, "seconds": round(mixture.shape[1] / rate, 1)}
    by_excerpt = excerpts(references, mixture, found.sources, rate)
    for source, reference, estimate in zip(SOURCES, references, found.sources, strict=True):
        report[source] = by_excerpt[source] | {
            "sdr": sdr(reference, estimate),
            "sdr_gain": sdr(reference, estimate) - sdr(reference, mixture),
            "si_sdr": si_sdr(reference, estimate),
            "si_sdri": si_sdr(reference, estimate) - si_sdr(reference, mixture),
        }
    return report | {"excerpts": by_excerpt["excerpts"], "failed_hops": found.failed}


def excerpts(references: Array, mixture: Array, estimated: Array, rate: int) -> dict[str, Any]:
    """Means over the excerpts in which both sources sound: NSDR, SIR, SAR by source, the mixture's SDR, and how many."""
    frames = round(EXCERPT * rate)
    mean = np.mean(references**2, axis=(1, 2))
    found = []
    for i in range(0, max(1, mixture.shape[1] - frames + 1), frames):
        part = slice(i, i + frames)
        power = np.mean(references[:, :, part] ** 2, axis=2)
        if (power > 10 ** (SOUNDS / 10) * mean[:, None]).all():
            found += measure(references[:, :, part], mixture[:, part], [estimated[:, :, part]])
    if not found:
        raise QualityError(f"0 excerpts of {EXCERPT:g} s have both sources: expected a song with a voice in it")
    report: dict[str, Any] = {"excerpts": len(found)}
    for source in SOURCES:
        means = Figures(*map(float, np.mean([f[source] for f in found], axis=0)))
        report[source] = {key: getattr(means, key) for key in ("nsdr", "sir", "sar", "mixture_sdr")}
    return report
