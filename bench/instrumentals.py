"""Music without a voice that no model has heard: how far below it is what comes out as vocals?

    python -m train.music --unheard MUSIC                                # once: Debian's packages, 0.3 GB are downloaded
    python bench/instrumentals.py MUSIC [--model FILE ...] [--json]
    python bench/results.py instrumentals --music MUSIC                  # into RESULTS.md

Of each track of half a minute and more its middle is played, stereo at its own rate, cold, hop by hop through the engine.
Nobody has listened to the tracks: a choir among them is a voice, and counts against a model that hears it. Read the middle of
the table, not its worst.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]

from ruler.behaviour import alone  # type: ignore[import-not-found]  # noqa: E402
from ruler.estimates import Case  # type: ignore[import-not-found]  # noqa: E402
from ruler.recordings import SOURCES  # type: ignore[import-not-found]  # noqa: E402

from streamsep import model as models  # noqa: E402
from streamsep.soundfiles import read  # noqa: E402
from train.music import UNHEARD  # noqa: E402

SECONDS = 30.0
WANTED = 20.0  # dB


def tracks(music: Path) -> list[Path]:
    """The tracks of at least `SECONDS` in the folders of `UNHEARD`."""
    found = [p for name in UNHEARD for p in sorted((music / name).glob("*.ogg")) if soundfile.info(p).duration >= SECONDS]
    if not found:
        raise SystemExit(f"instrumentals: no track of {SECONDS:g} s in {music}: `python -m train.music --unheard {music}`")
    return found


def down(model: str, track: Path) -> float:
    """How far below the track its vocals are, dB."""
    x, rate = read(track)
    frames = round(SECONDS * rate)
    start = (x.shape[1] - frames) // 2
    sources = np.zeros((len(SOURCES), len(x), frames))
    sources[SOURCES.index("accompaniment")] = x[:, start : start + frames]
    return alone(Case(model), sources, rate, "accompaniment")


def measure(model: str, found: list[Path]) -> dict[str, Any]:
    """The figures of one model."""
    each = {f"{path.parent.name}/{path.stem}": round(down(model, path), 1) for path in found}
    low, middle, high = np.percentile(list(each.values()), (10, 50, 90))
    enough = float(np.mean([v >= WANTED for v in each.values()]))
    return {"model": model, "median": middle, "p10": low, "p90": high, "enough": enough, "tracks": each}


def markdown(reports: list[dict[str, Any]]) -> str:
    """The table for people."""
    first = reports[0]["tracks"]
    names = ", ".join(sorted({name.partition("/")[0] for name in first}))
    lines = [
        f"`bench/instrumentals.py`: {len(first)} tracks that nothing was trained on, of Debian's {names};",
        f"{SECONDS:g} s of each. By how many dB `vocals` is below the music: in the middle track, in the tenth of a hundred,",
        f"in the ninetieth, and of how many tracks by at least {WANTED:g}.",
        "",
        "| model | median | 10 % | 90 % | enough |",
        "|---|---|---|---|---|",
    ]
    for r in reports:
        lines.append(
            f"| {Path(r['model']).stem} | {r['median']:.1f} | {r['p10']:.1f} | {r['p90']:.1f} | {100 * r['enough']:.0f} % |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("music", type=Path, help="the folder that train.music filled")
    p.add_argument("--model", action="append", default=[], help="shipped name or file, any number (all that ship)")
    p.add_argument("--json", action="store_true", help="print one JSON object, with every track")
    arguments = p.parse_args()
    found = tracks(arguments.music)
    reports = [measure(model, found) for model in arguments.model or models.shipped()]
    print(json.dumps(reports, indent=1) if arguments.json else markdown(reports))


if __name__ == "__main__":
    main()
