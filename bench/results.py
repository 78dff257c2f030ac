"""Runs the benchmarks and writes bench/RESULTS.md: every figure in it comes from a command that anyone can run.

    python bench/results.py            all of it that does not take long (about half an hour on two cores)
    python bench/results.py speed      one section; the others stay as they are
    python bench/results.py gpu        on a machine with a GPU (six minutes; bench/gpu.py says what it needs)
    python bench/results.py peers      other programs beside this one; installs them (about 1.5 GB) the first time
    python bench/results.py variants   ways to have a step start warm (five minutes)
    python bench/results.py kernels    ways to multiply by a network's weights (a minute)
    python bench/results.py live       the soaks: eight of 30 minutes (`--minutes`), or `--only daemon:gil`, ...
    python bench/results.py growth     memory and handles over a million hops and a thousand starts
    python bench/results.py clocks     an hour of two clocks, simulated
    python bench/results.py reopen     sound servers killed and started again
    python bench/results.py plugin     the plugin in a host: four minutes
    python bench/results.py paper --row FILE   a row of the paper's table: train/configs/paper.toml makes the files
    python bench/results.py instrumentals --music DIR   music that no model has heard (`python -m train.music --unheard DIR`)
    python bench/results.py quality    some ten minutes a model; `--only live`, `--fp32 FILE` (`python -m export`) beside 8 bits

Sections whose recordings are missing (see bench/quality.py) stay as they are too.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu  # type: ignore[import-not-found]  # beside this file
import instrumentals  # type: ignore[import-not-found]
import leaks  # type: ignore[import-not-found]
import page  # type: ignore[import-not-found]
import paper  # type: ignore[import-not-found]
import peers  # type: ignore[import-not-found]
import plugin  # type: ignore[import-not-found]
import reopen  # type: ignore[import-not-found]
import soak  # type: ignore[import-not-found]
import stages  # type: ignore[import-not-found]
import variants  # type: ignore[import-not-found]
from page import ROOT, commit  # type: ignore[import-not-found]
from ruler import markdown as ruler  # type: ignore[import-not-found]

from streamsep import model

DATA = ROOT.parent / "shared" / "data"
NETWORKS = ("live", "3x1000:int8", "3x1000:fp32")
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def call(*arguments: object) -> dict[str, Any]:
    """The JSON object that one of the benchmarks prints."""
    command = [sys.executable, *map(str, arguments), "--json"]
    return json.loads(subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout)


def printed(script: str) -> Callable[[], str]:
    """What one of the benchmarks prints for people."""
    command = [sys.executable, script]
    return lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def bench() -> str:
    """`streamsep bench` in its cases."""
    return stages.markdown(call("bench/stages.py"))


def against_peers() -> str:
    """bench/peers.py."""
    return peers.markdown(call("bench/peers.py"))


def on_a_gpu() -> str:
    """bench/gpu.py."""
    return gpu.markdown(call("bench/gpu.py"))


def warm_steps() -> str:
    """bench/variants.py on the shipped network, and on one of 3 x 1000 in both precisions."""
    return "\n\n".join(variants.markdown(call("bench/variants.py", "--network", network)) for network in NETWORKS)


def quality(only: list[str], fp32: list[str]) -> str:
    """bench/quality.py's sheets of the shipped models, or of `only` some. Written model by model, with their pictures.

    Of a model that has heard the ruler's singers, the file of its name in bench/held_out is measured, which has not.
    `fp32`: files of the same networks in 32 bits, by which the models' 8 bits are judged.
    """
    sheets = dict(ruler.sheets(page.section("quality")))
    beside = {model.load(path).contract.name: Path(path).resolve() for path in fp32}
    for name in only or model.shipped():
        options = ["--beside", beside[name]] if name in beside else []
        apart = ROOT / ruler.HELD_OUT / f"{name}.onnx"
        file, pictures = apart if apart.exists() else name, ROOT / ruler.PICTURES
        tool = ("bench/quality.py", "--model", file, "--sheet", "--jobs", CORES, "--pictures", pictures)
        sheets[name] = ruler.markdown(call(*tool, *options))
        write("quality", ruler.page(sheets))
    return ruler.page(sheets)


def papers_row(files: list[str]) -> str:
    """bench/paper.py's table, with rows of `files` new or anew. Written row by row."""
    rows = paper.rows(page.section("paper"))
    for path in files:
        row = paper.line(Path(path).resolve())
        rows[paper.key(row)] = row
        write("paper", paper.markdown([rows[key] for key in sorted(rows)]))
    return paper.markdown([rows[key] for key in sorted(rows)])


def unheard(music: str) -> str:
    """bench/instrumentals.py of all that ship."""
    return instrumentals.markdown(call("bench/instrumentals.py", music))


def live(minutes: float, only: list[str], beside: str) -> str:
    """bench/soak.py with every load, or `only` some, for the daemon and for the usual way in Python. Written row by row.

    `beside`: what else the machine did; such rows stand beside those of a quiet machine.
    """
    rows = dict(_rows(page.section("live")))
    for program, load in ((p, load) for p in soak.CLIENTS for load in soak.LOADS):
        if not only or f"{program}:{load}" in only:
            r = call("bench/soak.py", "--program", program, "--load", load, "--minutes", minutes)
            rows[program, load, beside] = f"{soak.line(r)} {beside} | {commit()} |"
            write("live", _soaks(r, rows))
    return _soaks(r, rows)


def _rows(held: str) -> Iterator[tuple[tuple[str, str, str], str]]:
    """The soaks that a section holds, by program, load and what else the machine did."""
    for line in held.splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if cells and cells[0] in soak.CLIENTS:
            yield (cells[0], cells[1], cells[-2]), line


def growth() -> str:
    """bench/leaks.py."""
    return leaks.markdown(call("bench/leaks.py"))


def reopening() -> str:
    """bench/reopen.py."""
    return reopen.markdown(call("bench/reopen.py")["servers"])


def in_a_host() -> str:
    """bench/plugin.py, a minute for each number of instances."""
    lines = [
        "`bench/plugin.py`: instances of the plugin in one host, 48 kHz, blocks of 128, the bundled song, paced in real time;",
        "the engine beside it. run() is one call of one instance.",
        "",
        plugin.HEAD,
    ]
    return "\n".join([*lines, *(plugin.line(call("bench/plugin.py", "--instances", n)) for n in (1, 4, 10))])


def two_clocks() -> str:
    """bench/drift.py, an hour a case."""
    lines = [
        "Two devices with clocks of their own, an hour simulated through the functions PortAudio calls (`bench/drift.py`):",
        "",
        "| devices | wander of the delay, ms | missed blocks | jumps |",
        "|---|---|---|---|",
    ]
    for name, r in call("bench/drift.py").items():
        lines.append(f"| {name} | {r['wander_ms']:.2f} | {r['missed_blocks']} | {r['jumps']} |")
    return "\n".join(lines)


def _soaks(r: dict[str, Any], rows: dict[tuple[str, str, str], str]) -> str:
    lines = [
        "`bench/soak.py`: JACK with its dummy driver, 48 kHz, blocks of 128, the bundled song round and round;",
        f"{r['machine']}. `daemon` is `streamsep run`, `callback` the usual way in Python: `InferenceSession.run` in a",
        "sounddevice callback, with the same model and windows. Beside them: nothing; a Python thread in the program that hogs",
        f"the GIL; 10,000 OSC messages a second; one core busy; all three. A hop is due every {r['deadline_ms']:g} ms.",
        "",
        *soak.head("besides", "commit"),
        *(rows[key] for key in sorted(rows, key=_soaks_order)),
    ]
    return "\n".join(lines)


def _soaks_order(key: tuple[str, str, str]) -> tuple[int, str, int]:
    return list(soak.CLIENTS).index(key[0]), key[2], soak.LOADS.index(key[1])


SECTIONS: dict[str, tuple[str, Callable[[], str]]] = {
    "bench": ("A hop, stage by stage", bench),
    "speed": ("Beside the GIL", printed("bench/speed.py")),
    "offline": ("Files", printed("bench/offline.py")),
    "start": ("Start", printed("bench/start.py")),
    "osc": ("OSC", printed("bench/osc.py")),
    "monitor": ("The monitor page", printed("bench/monitor.py")),
    "quality": ("Quality", lambda: quality([], [])),
}
LONG: dict[str, tuple[str, Callable[[], str]]] = {  # only when named
    "gpu": (gpu.TITLE, on_a_gpu),
    "peers": ("Beside other programs", against_peers),
    "variants": ("Steps that start warm", warm_steps),
    "kernels": ("Ways to multiply", printed("bench/kernels.py")),
    "paper": ("The paper's row", lambda: papers_row([])),
    "instrumentals": ("Music that no model has heard", lambda: unheard("music")),
    "live": ("Live for hours", lambda: live(30, [], "")),
    "growth": ("Does anything grow?", growth),
    "clocks": ("Two clocks", two_clocks),
    "reopen": ("A server comes back", reopening),
    "plugin": ("In a host", in_a_host),
}


def write(name: str, text: str) -> None:
    """Replace or add one section."""
    page.write(name, (SECTIONS | LONG)[name][0], text)


def main() -> None:
    """Run the sections named, or all short ones."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("names", nargs="*", metavar="section", choices=[[], *SECTIONS, *LONG], help=", ".join(SECTIONS | LONG))
    p.add_argument("--minutes", type=float, default=30, help="of each soak in `live` (%(default)s)")
    p.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="a soak (PROGRAM:LOAD), a model's sheet; the others stay"
    )
    p.add_argument("--fp32", action="append", default=[], metavar="FILE", help="a model in 32 bits beside that of its name")
    p.add_argument("--music", default="music", metavar="DIR", help="where train.music put it, for `instrumentals`")
    p.add_argument("--row", action="append", default=[], metavar="FILE", help="a model for the table `paper`; the others stay")
    p.add_argument("--beside", default="", help="what else the machine does during them, for the table")
    arguments = p.parse_args()
    commit()
    LONG["live"] = ("Live for hours", lambda: live(arguments.minutes, arguments.only, arguments.beside))
    LONG["paper"] = (LONG["paper"][0], lambda: papers_row(arguments.row))
    LONG["instrumentals"] = (LONG["instrumentals"][0], lambda: unheard(arguments.music))
    SECTIONS["quality"] = ("Quality", lambda: quality(arguments.only, arguments.fp32))
    for name in arguments.names or SECTIONS:
        if name == "quality" and not DATA.is_dir():
            print(f"results: {DATA} is missing: the section {name!r} stays as it is", file=sys.stderr)
        else:
            write(name, (SECTIONS | LONG)[name][1]())


if __name__ == "__main__":
    main()
