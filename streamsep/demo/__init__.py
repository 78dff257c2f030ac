"""The bundled song, sent through the real worker loop in real time: from a file device to a file device."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .. import model as models
from ..devices.filedevice import FileDevice
from ..engine import Separator
from ..live import Live
from ..plot import from_files
from ..soundfiles import read, write

SONG = Path(__file__).parent
STEMS = {name: SONG / f"song.{name}.ogg" for name in ("vocals", "accompaniment")}


@dataclass(frozen=True)
class DemoResult:
    """Where the files are, what the run reported, and how well each source came out (dB)."""

    files: dict[str, Path]
    report: dict[str, object]
    nsdr_db: dict[str, float]
    seconds: float


def run(folder: Path, model: models.Model, progress: Callable[[float], None] | None = None) -> DemoResult:
    """Play the song through `model`; write mixture, stems and their picture into `folder`.

    `progress` gets the share that is done, 0 to 1. NSDR is the gain in plain SDR over taking the mixture itself,
    10 log10(|s|^2 / |s - e|^2), against the true stems.
    """
    truth = {name: np.ascontiguousarray(read(path)[0].T) for name, path in STEMS.items()}
    mixture = truth["vocals"] + truth["accompaniment"]
    rate = read(STEMS["vocals"])[1]
    files = {"mixture": folder / "mixture.wav"}
    write(files["mixture"], mixture, rate)

    contract = model.contract
    device = FileDevice(files["mixture"], 0, contract.hop_length / contract.sample_rate, len(contract.sources))
    live = Live(Separator(model, rate, device.in_channels), device)
    live.prepare()
    try:
        delay = live.open().total
        live.start()
        while not device.finished:
            time.sleep(0.05)
            if progress:
                progress(min(1.0, device.position / (device.frames + delay)))
    finally:
        live.stop()

    nsdr = {}
    for i, source in enumerate(contract.sources):
        stem = device.played[delay : delay + device.frames, 2 * i : 2 * i + 2]
        files[source] = folder / f"{source}.wav"
        write(files[source], stem, rate)
        if source in truth:
            nsdr[source] = round(_sdr(truth[source], stem) - _sdr(truth[source], mixture), 2)
    files["plot"] = folder / "spectrograms.png"
    title = f"The demo song, separated live, {contract.latency_ms:g} ms late"
    from_files({name: path for name, path in files.items() if name != "plot"}, files["plot"], title)
    return DemoResult(files, live.report(), nsdr, device.frames / rate)


def _sdr(true: NDArray[np.float32], estimate: NDArray[np.float32]) -> float:
    """Plain signal-to-distortion ratio, dB, of arrays of one shape."""
    return float(10 * np.log10(np.sum(true.astype(np.float64) ** 2) / np.sum((true.astype(np.float64) - estimate) ** 2)))
