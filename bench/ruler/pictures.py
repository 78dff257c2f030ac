"""Pictures to judge by eye what no mean shows: the spread by singer, and what happens where the voice comes in.

Musical noise is short tones that come and go, mostly where the voice begins or pauses. In a spectrogram of `vocals` they are
dots where the true voice has none. The sounds of the same seconds are written beside the pictures, for the ear.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from streamsep import plot
from streamsep.soundfiles import replacing, write

from . import recordings
from .estimates import Case, estimates
from .ratios import Array
from .recordings import SOURCES
from .through import through

FRAME = 0.02  # seconds
BEFORE, AFTER = 0.7, 1.3  # seconds of an excerpt, around the onset
REST, RISE = 0.3, 0.2  # seconds before and after an onset, whose levels are compared
FLOOR, SUNG = -40.0, -18.0  # dB against the voice's loudest frame: what counts as silence, and as singing
STEP = 3.0  # dB, at least, of a rise
APART = 2.0  # seconds between two onsets
WIDTH, COLOURS = 960, 40  # of spectrograms for a page: they compress badly


def box_plot(png: Path, rows: Sequence[dict[str, Any]], title: str) -> Path:
    """NSDR of the clips of a report (`report.clips_report`'s rows), a box of the voice's and one of the rest for each singer.

    The box holds the middle half, the line in it is the median, the whiskers reach 1.5 boxes further, circles lie beyond.
    """
    singers = sorted({r["name"].split("_")[0] for r in rows})
    groups = [("all", list(rows))] + [(s, [r for r in rows if r["name"].split("_")[0] == s]) for s in singers]
    figure = Figure(figsize=(max(5.0, 1.6 + 1.1 * len(groups)), 4), dpi=110, layout="constrained", facecolor="white")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    for source, shift, colour in (("vocals", -0.18, "#d95f02"), ("accompaniment", 0.18, "#5b6fb5")):
        found = axes.boxplot(
            [[r[source]["nsdr"] for r in of] for _, of in groups],
            positions=np.arange(len(groups)) + shift,
            widths=0.3,
            patch_artist=True,
            flierprops={"markersize": 3, "markeredgecolor": colour},
            medianprops={"color": "black"},
        )
        for box in found["boxes"]:
            box.set_facecolor(colour)
        found["boxes"][0].set_label(source)
    axes.set_xticks(np.arange(len(groups)), [f"{name}\n{len(of)} clips" for name, of in groups])
    axes.set_ylabel("NSDR, dB")
    axes.grid(axis="y", alpha=0.3)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.legend(frameon=False)
    axes.set_title(title, fontsize="medium")
    with replacing(png) as (part,):
        canvas.print_figure(part, format="png")
    return png


def onsets(voice: Array, rate: int) -> list[int]:
    """Samples at which the voice `[shape=(channels, samples)]` comes in, the steepest rise of its level first."""
    frame, rest, rise = round(FRAME * rate), round(REST / FRAME), round(RISE / FRAME)
    frames = voice.shape[1] // frame
    power = np.mean(voice[:, : frames * frame].reshape(len(voice), frames, frame) ** 2, axis=(0, 2))
    level = np.maximum(10 * np.log10(power / power.max() + 1e-12), FLOOR)
    means = {i: (level[i - rest : i].mean(), level[i : i + rise].mean()) for i in range(rest, frames - rise)}
    found: list[int] = []
    for i in sorted(means, key=lambda i: means[i][0] - means[i][1]):
        before, after = means[i]
        if after > SUNG and after - before > STEP and all(abs(i - j) * FRAME >= APART for j in found):
            found.append(i)
    return [i * frame for i in found]


def listen(folder: Path, name: str, case: Case, sources: Array, rate: int, most: int = 2) -> list[Path]:
    """Pictures and sounds of the `most` best onsets of a recording into `folder`; the pictures' paths."""
    references, mixture = through(case.through, sources, rate)
    found = estimates(case, references, mixture, rate).sources
    gain = 0.5 / np.abs(mixture).max()
    pictures = []
    for i, place in enumerate(onsets(references[1], rate)[:most]):
        part = slice(max(0, place - round(BEFORE * rate)), place + round(AFTER * rate))
        parts = {"mixture": mixture[:, part]}
        for source, reference, estimate in zip(SOURCES[::-1], references[::-1], found[::-1], strict=True):
            parts |= {f"{source}, true": reference[:, part], f"{source}, separated": estimate[:, part]}
        sounds = {label: (gain * x).astype(np.float32) for label, x in parts.items()}
        stem = folder / f"{name}.onset{i + 1}"
        for label, x in sounds.items():
            write(folder / f"{stem.name}.{label.replace(', ', '.')}.wav", x.T, rate)
        title = f"{name}, {place / rate:.2f} s: the voice comes in {min(place / rate, BEFORE):g} s after the left edge"
        pictures.append(plot.spectrograms(stem.with_suffix(stem.suffix + ".png"), sounds, rate, title))
    return pictures


def shrink(png: Path, target: Path) -> Path:
    """The spectrogram at `png`, small enough for a page."""
    image = Image.open(png).convert("RGB")
    image = image.resize((WIDTH, WIDTH * image.height // image.width), Image.Resampling.LANCZOS)
    with replacing(target) as (part,):
        image.quantize(COLOURS, dither=Image.Dither.NONE).save(part, format="png", optimize=True)
    return target


def clip_onsets(folder: Path, case: Case, path: Path) -> list[Path]:
    """`listen` to the best onset of a clip."""
    return listen(folder, path.stem, case, *recordings.clip(path, case.protocol), most=1)


def song_onsets(folder: Path, case: Case, path: Path, seconds: float | None) -> list[Path]:
    """`listen` to the best onsets of a song."""
    return listen(folder, path.name, case, *recordings.song(path, case.protocol, seconds))
