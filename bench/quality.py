"""The ruler: how well a model separates, through the runtime engine, by the protocol of Huang et al. (ISMIR 2014).

    python bench/quality.py --model live                                   # 100 clips: voice and accompaniment, by singer
    python bench/quality.py --model live --quick                           # ten of them, half a minute
    python bench/quality.py --model live --rate 48000 --level -40 --through mp3
    python bench/quality.py --model live --beside fp32.onnx --way whole    # two precisions; the whole clip in one call
    python bench/quality.py --model live --way oracle                      # what masks in its windows could do
    python bench/quality.py --model live --song ../shared/data/songs/sodium
    python bench/quality.py --model live --sheet [--beside fp32.onnx] [--quick] [--only silence,levels]
    python bench/results.py quality                                        # the sheets of all shipped models -> RESULTS.md

Clips (MIR-1K: channel 0 the accompaniment, channel 1 the voice). Each source is divided by its own L2 norm, the mixture is
their sum (0 dB), scaled so that its peak stands at `--level` dBFS. It goes hop by hop through a cold `Separator` at `--rate`,
and once more through one that has just heard the list's clip before (warm); the estimates, moved back by the latency, are
measured at the clip's own rate with BSS Eval v3 (512-tap filter, no permutation). NSDR = SDR(estimate) - SDR(mixture taken as
the estimate). GNSDR, GSIR and GSAR are means weighted by clip length. docs/quality.md explains the terms.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from streamsep import jit_cache  # noqa: E402

jit_cache.use()  # before Numba: a kernel of another state of the sources would be measured

from bench.ruler import jobs, pictures, recordings, report, song  # noqa: E402
from bench.ruler.estimates import LEVEL, WAYS, Case, open_model  # noqa: E402
from bench.ruler.markdown import markdown  # noqa: E402
from bench.ruler.recordings import PROTOCOLS, QualityError  # noqa: E402
from bench.ruler.rows import clip_row  # noqa: E402
from bench.ruler.sheet import COSTS, GROUPS, QUICK_EVERY, QUICK_SECONDS, Sheet  # noqa: E402
from bench.ruler.through import THROUGH  # noqa: E402
from streamsep import StreamsepError  # noqa: E402
from streamsep.model import METADATA_KEY, Model, load  # noqa: E402

Report = dict[str, Any]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True, help="shipped name or .onnx file")
    p.add_argument("--beside", help="another one, measured on the same: the same network in fp32, say")
    p.add_argument("--set", default="public100", help="list of clips: a file, public100, public, dev (%(default)s)")
    p.add_argument("--data", type=Path, default=recordings.DATA, help="MIR-1K folder (%(default)s)")
    p.add_argument("--song", type=Path, help="measure DIR/NAME.vocals.* and .accompaniment.* instead; in a sheet: this one")
    p.add_argument("--protocol", choices=PROTOCOLS, help="paper: at 0 dB, of clips; own: as recorded, of songs")
    p.add_argument("--way", choices=WAYS, default="runtime", help="who separates (%(default)s)")
    p.add_argument("--through", choices=THROUGH, default="wire", help="what the sound goes through first (%(default)s)")
    p.add_argument("--rate", type=int, default=0, help="the engine's rate, Hz (the sound's own)")
    p.add_argument("--level", type=float, default=LEVEL, help="peak of the mixture, dBFS (%(default)s)")
    p.add_argument("--provider", default="auto", choices=("auto", "cpu", "cuda"))
    p.add_argument("--sheet", action="store_true", help="everything about the model, against what is wanted")
    p.add_argument("--only", type=_groups, default=GROUPS, help=f"of a sheet, some of {','.join(GROUPS)}")
    p.add_argument("--cold", action="store_true", help="of a set: leave out the warm figures, in half the time")
    p.add_argument("--quick", action="store_true", help="every tenth clip, a minute of the song")
    p.add_argument("--pictures", type=Path, metavar="DIR", help="a box plot, spectrograms and sounds of onsets")
    p.add_argument(
        "--stamp",
        nargs="?",
        const=True,
        type=Path,
        metavar="FILE",
        help="also write a set's figures into the model's contract, or into that of FILE, which has heard the set since",
    )
    p.add_argument("--jobs", type=int, default=1, help="processes (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    return p


def _groups(text: str) -> tuple[str, ...]:
    groups = tuple(text.split(","))
    if unknown := set(groups) - set(GROUPS):
        raise argparse.ArgumentTypeError(f"{', '.join(sorted(unknown))} is unknown: expected some of {','.join(GROUPS)}")
    return groups


def run(a: argparse.Namespace) -> Report:
    """What the command line asks for, as a report."""
    for model in filter(None, (a.model, a.beside)):
        open_model(model)  # before anything is measured with the other
    whole_song = a.song and not a.sheet
    protocol = a.protocol or ("own" if whole_song else "paper")
    case = Case(a.model, a.way, a.rate, a.level, a.through, protocol, a.provider)
    if a.stamp and (a.sheet or a.song or case != Case(a.model, provider=a.provider)):
        raise QualityError("--stamp wants a set of clips in the plain case: leave out what differs from it")
    measure = _song if whole_song else _sheet if a.sheet else _clips
    found = measure(a, case)
    if a.beside and not a.sheet:
        plain = argparse.Namespace(**vars(a) | {"pictures": None})  # they would have the same names
        found["beside"] = measure(plain, replace(case, model=a.beside))
    if a.stamp:
        stamp(load(a.model if a.stamp is True else a.stamp), found)
    return found


def _list(a: argparse.Namespace) -> list[tuple[Path, Path]]:
    return recordings.clip_pairs(recordings.clip_names(a.set, a.data), a.data, QUICK_EVERY if a.quick else 1)


def _clips(a: argparse.Namespace, case: Case) -> Report:
    clips = _list(a)
    head = report.provenance(case, recordings.clip(clips[0][0])[1]) | {"set": a.set}
    tasks = [partial(clip_row, case, path, before if case.way == "runtime" and not a.cold else None) for path, before in clips]
    rows, told = [], _progress(len(tasks))
    for row in jobs.run_all(tasks, a.jobs):
        rows.append(row)
        told(len(rows), len(tasks))
    found = head | report.clips_report(rows)
    if a.pictures:
        _box_plot(a.pictures, found, found["rows"])
        for path, _ in clips[:: max(1, len(clips) // 5)]:
            pictures.clip_onsets(a.pictures, case, path)
    return found


def _song(a: argparse.Namespace, case: Case) -> Report:
    seconds = QUICK_SECONDS if a.quick else None
    sources, rate = recordings.song(a.song, case.protocol, seconds)
    head = report.provenance(case, rate, sources.shape[1])
    if a.pictures:
        pictures.song_onsets(a.pictures, case, a.song, seconds)
    return head | song.song_report(case, a.song, seconds)


def _sheet(a: argparse.Namespace, case: Case) -> Report:
    path = a.song or recordings.SONGS / "sodium"
    sheet = Sheet(case, _list(a), path, a.beside, a.only, QUICK_SECONDS if a.quick else None)
    found = sheet.measure(a.jobs, _progress(len(sheet.tasks()))) | {"set": a.set}
    if a.pictures:
        _box_plot(a.pictures, found, found["plain"]["rows"])
    if a.pictures and "song" in a.only:
        with tempfile.TemporaryDirectory() as folder:
            drawn = pictures.song_onsets(Path(folder), replace(case, protocol="own"), path, QUICK_SECONDS)
            pictures.shrink(drawn[0], a.pictures / f"{found['model']}.onset.png")
    return found


def _box_plot(folder: Path, found: Report, rows: list[Report]) -> None:
    title = f"{found['model']} ({found['precision']}), {len(rows)} clips of {found['set']}"
    pictures.box_plot(folder / f"{found['model']}.singers.png", rows, title)


def _progress(tasks: int) -> Callable[[int, int], None]:
    """Says what it will cost, and then, on a terminal, what is left."""
    print(f"{tasks} measurements, some {COSTS * tasks / 60:.1f} processor minutes", file=sys.stderr)
    began = time.monotonic()

    def told(done: int, of: int) -> None:
        if sys.stderr.isatty():
            left = (time.monotonic() - began) / done * (of - done)
            print(f"\r{done}/{of}, {left / 60:.1f} minutes left ", end="\r", file=sys.stderr)

    return told


def stamp(model: Model, found: Report) -> None:
    """Write the figures of a set of clips into the contract of the model's file, replaced whole.

    Where another file was measured, the conditions say so.
    """
    import onnx

    by = "" if report.sha256(model.path) == found["sha256"] else found["sha256"]
    other = f", by the file {by}, which had not heard them" if by else ""
    figures = {
        "voice_gnsdr_db": round(found["vocals"]["gnsdr"], 2),
        "voice_gsir_db": round(found["vocals"]["gsir"], 2),
        "voice_gsar_db": round(found["vocals"]["gsar"], 2),
        "accompaniment_gnsdr_db": round(found["accompaniment"]["gnsdr"], 2),
        "conditions": f"{found['clips']} clips of MIR-1K ({found['set']}) at {found['rate']} Hz, BSS Eval v3, 0 dB mixtures "
        f"with their peak {found['peak_dbfs']:g} dBFS, cold start, hop by hop through the runtime{other}",
    }
    before = {key: value for key, value in model.contract.quality.items() if key != "by"}
    contract = model.contract.model_copy(update={"quality": before | figures | ({"by": by} if by else {})})
    proto = onnx.load(model.path)
    onnx.helper.set_model_props(proto, {METADATA_KEY: contract.model_dump_json()})
    temporary = model.path.with_name(f".{model.path.name}.partial")
    onnx.save(proto, temporary)
    os.replace(temporary, model.path)


def main() -> None:
    """Measure and print; one line and exit code 1 when it cannot be done."""
    arguments = parser().parse_args()
    try:
        found = run(arguments)
    except (StreamsepError, QualityError, ValueError) as error:
        sys.exit(f"quality: {error}")
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    if arguments.sheet:
        print(f"{markdown(found)}\n\n{found['elapsed_s']:.0f} s, {found['processes']} processes")
        return
    for r in (found, found["beside"]) if "beside" in found else (found,):
        print(report.head(r) + "\n")
        print((report.song_table(r) if arguments.song else report.clips_table(r)) + "\n")
    if "beside" in found:
        gain = report.voice(found) - report.voice(found["beside"])
        print(
            f"{found['model']} {found['precision']} against {found['beside']['precision']}: {gain:+.3f} dB of the voice's NSDR"
        )
    if found["failed_hops"]:
        print(f"warning: {found['failed_hops']} hops ran without the network: the figures are not its own")


if __name__ == "__main__":
    main()
