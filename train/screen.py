"""`python -m train.screen FOLDER ...`: which accompaniments hold a voice? Asks a trained model.

From each track it takes EXCERPTS of SECONDS, separates them through the runtime engine, and says how much of their energy came
out as vocals. A track of which any excerpt is above LIMIT_DB is named as one to leave out (`exclude` in a configuration). A
model that hears voices in flutes and synthesizers costs some good tracks; one that misses a choir lets it in: titles say more
about those.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from streamsep import StreamsepError
from streamsep.engine import Separator
from streamsep.model import Model, load

from .datasets import AUDIO

EXCERPTS, SECONDS = (0.15, 0.5, 0.8), 12.0
LIMIT_DB = -8.1  # 15.5 % of the energy
LEVEL = 0.1  # RMS at which excerpts are played


def share_db(model: Model, sound: NDArray[np.float32]) -> float:
    """Energy of the vocals that `model` hears in `sound` `[shape=(samples,)]` at its rate, to that of the sound, dB."""
    rms = float(np.sqrt(np.mean(np.square(sound))))
    if rms == 0:
        return -np.inf
    separator = Separator(model, model.contract.sample_rate, 1)
    stems = separator.process((sound * np.float32(LEVEL / rms))[None])
    vocals = stems[separator.sources.index("vocals")]
    return float(10 * np.log10(np.mean(np.square(vocals)) / LEVEL**2 + 1e-12))


def excerpts(path: Path, rate: int) -> Iterator[NDArray[np.float32]]:
    """The excerpts of the track at `path`, mono `[shape=(samples,)]` at `rate` Hz."""
    with soundfile.SoundFile(path) as file:
        for place in EXCERPTS:
            file.seek(int(place * file.frames))
            x = file.read(round(SECONDS * file.samplerate), dtype="float32", always_2d=True).mean(1)
            yield soxr.resample(x, file.samplerate, rate)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folders", nargs=-1, required=True, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--model", "name", default="live", show_default=True, help="A shipped name or an .onnx file.")
def main(folders: tuple[Path, ...], name: str) -> None:
    """Say how much of a voice is in the music in FOLDERS, track by track, and which tracks to leave out."""
    try:
        model = load(name)
        for folder in folders:
            out = []
            for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in AUDIO):
                shares = [share_db(model, x) for x in excerpts(path, model.contract.sample_rate) if len(x)]
                track = path.relative_to(folder).with_suffix("").as_posix()
                click.echo(f"{folder.name:14} {track:50}" + "".join(f"{s:8.1f}" for s in shares) + "  dB")
                out += [track] if max(shares, default=-np.inf) > LIMIT_DB else []
            click.echo(f"{folder.name:14} exclude = {out}")
    except (StreamsepError, soundfile.LibsndfileError, OSError) as error:
        click.echo(f"train.screen: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main(prog_name="python -m train.screen")
