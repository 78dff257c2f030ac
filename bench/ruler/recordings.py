"""What is measured: clips and songs whose true sources are known, lists of them, and how the sources are mixed.

Clips are MIR-1K's: channel 0 the accompaniment, channel 1 the voice. Songs are two files each, `NAME.vocals.*` and
`NAME.accompaniment.*`. Everything comes out as sources `[shape=(sources, channels, samples)]`, in the order of `SOURCES`, with
the loudness that they have in the mixture: the mixture is their sum. MIR-1K's order, accompaniment first, is kept.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from streamsep import StreamsepError
from streamsep.soundfiles import read

from .ratios import Array

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT.parent / "shared" / "data" / "mir1k"
SONGS = ROOT.parent / "shared" / "data" / "songs"
SETS = ROOT / "bench" / "sets"
SOURCES = ("accompaniment", "vocals")
PROTOCOLS = ("paper", "own")
# Songs of other singers over the backing tracks of amy_6, amy_7 and abjones_2, on which the paper trains.
SHARED_BACKING = ("leon_5", "yifen_2", "stool_4")


class QualityError(StreamsepError):
    """What was asked for cannot be measured."""


def mixed(sources: NDArray[np.float32], protocol: str) -> Array:
    """The sources as loud as `protocol` has them in the mixture.

    "paper": each over its own L2 norm, as Huang et al. (2014) do, so that the mixture is at 0 dB. "own": as recorded.
    """
    x = sources.astype(np.float64)
    norms = np.sqrt(np.sum(x**2, axis=(1, 2), keepdims=True))
    if not norms.all():
        raise QualityError("a source is silent: expected sound in each; leave the clip out")
    return x / norms if protocol == "paper" else x


def clip(path: Path, protocol: str = "paper") -> tuple[Array, int]:
    """The sources of a clip, `[shape=(2, 1, samples)]`, and its rate, Hz."""
    x, rate = read(path)
    if len(x) != len(SOURCES):
        raise QualityError(f"{path} has {len(x)} channels: expected 2, the accompaniment and the voice, as MIR-1K has them")
    return mixed(x[:, None], protocol), rate


def song(path: Path, protocol: str = "own", seconds: float | None = None) -> tuple[Array, int]:
    """The sources of a song (`path` without `.vocals.*`), and its rate, Hz.

    Of a song longer than `seconds`, so much from where the voice is loudest.
    """
    loaded = [read(_stem(path, source)) for source in SOURCES]
    kinds = {(rate, len(x)) for x, rate in loaded}
    if len(kinds) != 1:
        raise QualityError(f"stems of {path} have rates and channels {sorted(kinds)}: expected the same; convert one")
    rate = loaded[0][1]
    frames = min(x.shape[1] for x, _ in loaded)
    sources = np.stack([x[:, :frames] for x, _ in loaded])
    if seconds and seconds * rate < frames:
        wanted = round(seconds * rate)
        energy = np.cumsum(np.mean(sources[SOURCES.index("vocals")].astype(np.float64) ** 2, axis=0))
        begin = int(np.argmax(energy[wanted:] - energy[:-wanted]))
        sources = sources[:, :, begin : begin + wanted]
    return mixed(sources, protocol), rate


def _stem(path: Path, source: str) -> Path:
    found = sorted(path.parent.glob(f"{path.name}.{source}.*"))
    if not found:
        raise QualityError(f"stem {path}.{source}.* does not exist: expected a stem for each of {', '.join(SOURCES)}")
    return found[0]


def clip_names(which: str, data: Path) -> list[str]:
    """Names from a list: a file, or the name of one in bench/sets or in the data folder.

    Raises
    ------
    QualityError
        no such list, or nothing in it.
    """
    places = [Path(which), SETS / f"{which}.txt", data / f"{which}.txt"]
    found = next((p for p in places if p.is_file()), None)
    if found is None:
        raise QualityError(f"set {which!r} is unknown: expected a file or one of public100, public, dev, train")
    names = [s for line in found.read_text().splitlines() if (s := line.split("#")[0].strip())]
    if not names:
        raise QualityError(f"set {found} names 0 clips: expected one name a line")
    return names


def clip_pairs(names: Sequence[str], data: Path, every: int = 1) -> list[tuple[Path, Path]]:
    """Every `every`-th clip of a list, and the clip before it in the whole list; the first one's is the last."""
    paths = [data / "clips" / f"{name}.flac" for name in names]
    return [(paths[i], paths[i - 1]) for i in range(0, len(paths), every)]
