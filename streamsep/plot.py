"""Spectrograms of a mixture and its sources, one above the other, in one PNG.

Every panel shows the same time, the same frequencies (50 Hz to Nyquist, logarithmic) and the same colours (dB against a
full-scale sine), so that what left the mixture can be looked for in the sources. A picture has `COLUMNS` columns whatever
the sound's length: each is the mean power of the frames that fall into it, gathered while the sound streams by, and a long
sound gives no more than a few frames to each. matplotlib is used through its objects alone; nothing global is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import ArrayLike, NDArray

from .bands import LOWEST, WINDOW, log_bands
from .soundfiles import Reader, replacing

COLUMNS = 1200
ROWS = 320
FRAMES_PER_COLUMN = 6  # of a long sound; more would cost time and change little
RANGE_DB = 80.0
FLOOR = 1e-12  # power of digital silence, -120 dB
TICKS = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000)  # Hz

Blocks = Iterable[NDArray[np.float32]]


# ------------------------------------------------------------------------------------------------------------ measuring


def spectrogram(blocks: Blocks, frames: int, sample_rate: int) -> NDArray[np.float32]:
    """Power in dB (0: a full-scale sine) of a stream of `frames` samples, `[shape=(ROWS, columns)]`, columns <= COLUMNS.

    Parameters
    ----------
    blocks : float32 [shape=(channels, samples)]
        of any lengths; the channels' powers are averaged, so that what is out of phase does not vanish.
    frames
        samples in all; what exceeds them is left out.
    """
    n_fft = 2 * round(WINDOW * sample_rate / 2)
    hop = max(n_fft // 16, min(n_fft // 4, frames // COLUMNS), frames // (COLUMNS * FRAMES_PER_COLUMN))
    columns = min(COLUMNS, -(-frames // hop))
    total, count = np.zeros((columns, n_fft // 2 + 1), np.float32), np.zeros(columns, np.float32)
    window = np.hanning(n_fft).astype(np.float32)
    window *= 2 / window.sum()
    for place, chunk in _chunks(blocks, n_fft, hop):
        spectrum = np.fft.rfft(chunk * window)
        power = (spectrum.real**2 + spectrum.imag**2).mean(axis=0)
        column = (place + np.arange(len(power))) * hop * columns // frames
        inside = column < columns
        np.add.at(total, column[inside], power[inside])
        np.add.at(count, column[inside], 1)
    rows = log_bands(n_fft, sample_rate, ROWS) @ (total / np.maximum(count, 1)[:, None]).T
    return 10 * np.log10(rows + np.float32(FLOOR))


def _chunks(blocks: Blocks, n_fft: int, hop: int) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Overlapping frames as they come: number of the first, `[shape=(channels, frames, n_fft)]`.

    Half a window of silence goes before and after, so that frame i is centred on sample i * hop.
    """
    rest: NDArray[np.float32] | None = None
    place = skip = 0
    for block in _padded(blocks, n_fft // 2):
        rest = block if rest is None else np.concatenate((rest, block), axis=1)
        drop = min(skip, rest.shape[1])  # where the hop is longer than the window, some samples belong to no frame
        rest, skip = rest[:, drop:], skip - drop
        ready = (rest.shape[1] - n_fft) // hop + 1
        if ready > 0:
            yield place, np.lib.stride_tricks.sliding_window_view(rest, n_fft, axis=1)[:, : ready * hop : hop]
            place += ready
            skip = max(0, ready * hop - rest.shape[1])
            rest = rest[:, ready * hop :]


def _padded(blocks: Blocks, n: int) -> Iterator[NDArray[np.float32]]:
    silence: NDArray[np.float32] | None = None
    for block in blocks:
        if silence is None:
            silence = np.zeros((len(block), n), np.float32)
            yield silence
        yield block
    if silence is not None:
        yield silence


# -------------------------------------------------------------------------------------------------------------- drawing


def spectrograms(png: str | Path, signals: Mapping[str, ArrayLike], sample_rate: int, title: str = "") -> Path:
    """Draw `signals`, in their order from the top, into the file `png`, which is replaced whole; its path.

    Parameters
    ----------
    signals : float32 [shape=(channels, samples)] or [shape=(samples,)] each
        by label; full scale 1.0; all of one length.
    sample_rate
        Hz.

    Raises
    ------
    ValueError
        no signals, or empty ones, or of several lengths.
    AudioFileError
        the file cannot be written.
    """
    arrays = {label: np.atleast_2d(np.asarray(x, np.float32)) for label, x in signals.items()}
    lengths = {x.shape[1] for x in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(f"signals have lengths {sorted(lengths)}: expected one length above 0 for all")
    frames = lengths.pop()
    step = 2**16  # bounds the memory that the transforms take
    pictures = {
        label: spectrogram((x[:, i : i + step] for i in range(0, frames, step)), frames, sample_rate)
        for label, x in arrays.items()
    }
    return draw(png, pictures, frames / sample_rate, sample_rate, title)


def from_files(files: Mapping[str, str | Path], png: str | Path, title: str = "", frames: int = 0) -> Path:
    """Like `spectrograms`, from sound files of one rate, streamed: memory does not grow with their length.

    The title is the first file's name if none is given. `frames` is their length where it is known better than from the
    last file, which is most often a stem, whose header is exact.

    Raises
    ------
    ValueError
        no files, or of several rates.
    AudioFileError
        a file cannot be read, or `png` not written.
    """
    with ExitStack() as stack:
        readers = {label: stack.enter_context(Reader(path)) for label, path in files.items()}
        rates = {r.sample_rate for r in readers.values()}
        if len(rates) != 1:
            raise ValueError(f"files have sample rates {sorted(rates)}: expected one for all")
        rate = rates.pop()
        frames = frames or [r.frames for r in readers.values()][-1]
        if not frames:
            raise ValueError(f"frames={frames} and {list(files.values())[-1]} does not tell its length: pass frames")
        pictures = {label: spectrogram(r.blocks(), frames, rate) for label, r in readers.items()}
    return draw(png, pictures, frames / rate, rate, title or Path(next(iter(files.values()))).name)


def draw(png: str | Path, pictures: Mapping[str, NDArray[np.float32]], seconds: float, sample_rate: int, title: str) -> Path:
    """Draw spectrograms in dB, `[shape=(ROWS, columns)]` by label."""
    top = max(float(np.percentile(p, 99.9)) for p in pictures.values())
    top = max(5 * np.ceil(top / 5), RANGE_DB - 120)
    figure = Figure(figsize=(10, 0.8 + 1.9 * len(pictures)), dpi=144, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    panels = figure.subplots(len(pictures), 1, sharex=True, sharey=True, squeeze=False)[:, 0]
    for panel, (label, picture) in zip(panels, pictures.items(), strict=True):
        image = panel.imshow(
            picture,
            aspect="auto",
            origin="lower",
            extent=(0, seconds, np.log10(LOWEST), np.log10(sample_rate / 2)),
            cmap="magma",
            vmin=top - RANGE_DB,
            vmax=top,
            interpolation="antialiased",
        )
        _dress(panel, label, sample_rate)
    panels[-1].set_xlabel("time, min:s" if seconds >= 60 else "time, s")
    panels[-1].xaxis.set_major_locator(MaxNLocator(12, steps=[1, 1.5, 2, 3, 5, 6, 10]))
    if seconds >= 60:
        panels[-1].xaxis.set_major_formatter(FuncFormatter(lambda t, _: f"{int(t) // 60}:{int(t) % 60:02d}"))
    figure.supylabel("frequency, Hz", fontsize="medium")
    figure.colorbar(image, ax=panels, pad=0.01, aspect=30, label="dB, full-scale sine = 0")
    figure.suptitle(title or " · ".join(pictures), fontsize="large", fontweight="bold")
    with replacing(Path(png)) as (part,):
        canvas.print_figure(part, format="png")
    return Path(png)


def _dress(panel: Axes, label: str, sample_rate: int) -> None:
    ticks = [f for f in TICKS if f <= sample_rate / 2]
    panel.set_yticks(np.log10(ticks), [f"{f // 1000}k" if f >= 1000 else str(f) for f in ticks])
    panel.tick_params(labelsize="small")
    panel.set_title(label, loc="left", fontsize="medium", pad=4)
    for spine in panel.spines.values():
        spine.set_visible(False)
