"""The figures of many clips: means weighted by length, by singer, with what they were measured with; and as text."""

import hashlib
import platform
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.page import commit
from streamsep.stft import Geometry

from .estimates import Case, open_model, open_separator
from .markdown import HELD_OUT
from .recordings import SHARED_BACKING
from .rows import Row

PAPER = {"gnsdr": 7.45, "gsir": 13.08, "gsar": 9.68}  # voice, on the paper's 825 test clips; sees one frame of the future
# What the paper's authors' network makes of two of these clips, by their own sound files; its test measures them again.
AUTHORS = {"gnsdr": 11.09, "gsir": 18.41, "gsar": 12.00}
AUTHORS_CLIPS = frozenset({"Ani_1_01", "Ani_1_02"})
KEYS = ("gnsdr", "gsir", "gsar", "si_sdri", "mixture_sdr")


def weighted(rows: Iterable[Row], source: str = "vocals", warm: bool = False) -> dict[str, float]:
    """GNSDR, GSIR, GSAR, and the means of SI-SDRi and of the mixture's SDR of `source`, dB: weighted by clip length."""
    rows = list(rows)
    each = [r.warm[source] if warm and r.warm else getattr(r, source) for r in rows]
    means = np.average(each, axis=0, weights=[r.frames for r in rows])
    return {key: round(float(m), 4) for key, m in zip(KEYS, means, strict=True)}


def clips_report(rows: Sequence[Row]) -> dict[str, Any]:
    """All figures of a set of clips, dB."""
    by_singer = defaultdict(list)
    for row in rows:
        by_singer[row.singer].append(row)
    clean = [r for r in rows if r.song not in SHARED_BACKING]
    report = {
        "clips": len(rows),
        "vocals": weighted(rows),
        "accompaniment": weighted(rows, "accompaniment"),
        "clean": {"clips": len(clean)} | (weighted(clean) if clean else {}),
        "singers": {s: {"clips": len(of)} | weighted(of) for s, of in sorted(by_singer.items())},
        "failed_hops": sum(r.failed for r in rows),
        "rows": [_plain(r) for r in rows],
    }
    theirs = [r for r in rows if r.name in AUTHORS_CLIPS]
    if len(theirs) == len(AUTHORS_CLIPS):
        report["authors"] = {"clips": len(theirs), "model": weighted(theirs), "paper": AUTHORS}
    if rows[0].warm:
        report["warm"] = {source: weighted(rows, source, warm=True) for source in ("vocals", "accompaniment")}
    return report


def _plain(row: Row) -> dict[str, Any]:
    """A row as JSON has it."""
    report = {"name": row.name, "frames": row.frames, "failed": row.failed}
    report |= {"vocals": row.vocals._asdict(), "accompaniment": row.accompaniment._asdict()}
    return report | ({"warm": {s: f._asdict() for s, f in row.warm.items()}} if row.warm else {})


def provenance(case: Case, rate: int, channels: int = 1) -> dict[str, Any]:
    """What the figures are measured with; fails here, and not in a worker, where the model does not run at this rate.

    `rate` is the recording's, Hz.
    """
    model = open_model(case.model)
    if case.way == "runtime":
        provider = open_separator(case.model, case.rate or rate, channels, case.provider).provider
    else:
        Geometry.at(model.contract, case.rate or rate)
        provider = "cpu" if case.way == "whole" else "none"
    return {
        "model": model.contract.name,
        "precision": model.contract.precision,
        "sha256": sha256(model.path),
        "figures_by": model.contract.quality.get("by"),
        "latency_ms": model.contract.latency_ms,
        "way": case.way,
        "protocol": case.protocol,
        "through": case.through,
        "rate": case.rate or rate,
        "peak_dbfs": case.level,
        "provider": provider,
        "commit": commit(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def sha256(path: Path) -> str:
    """What a model's file is known by in reports: twelve digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


# ------------------------------------------------------------------------------------------------------------- for people


def head(report: dict[str, Any]) -> str:
    """What was measured, with what."""
    lines = [f"model {report['model']} {report['precision']} {report['sha256']}, commit {report['commit']}"]
    who = {"runtime": "runtime engine", "whole": "whole recording in one call", "oracle": "oracle masks"}[report["way"]]
    through = "" if report["through"] == "wire" else f", after {report['through']}"
    lines.append(f"{who} at {report['rate']} Hz, mixture's peak at {report['peak_dbfs']:g} dBFS{through}")
    if by := report.get("figures_by"):
        lines.append(f"it has learnt from such recordings: its own figures are those of file {by}, in {HELD_OUT}")
    return "\n".join(lines)


def voice(report: dict[str, Any]) -> float:
    """The voice's NSDR of a report of clips or of a song, dB."""
    return report["vocals"]["gnsdr" if "clips" in report else "nsdr"]


def clips_table(report: dict[str, Any]) -> str:
    """A clips report for people."""
    lines = [f"{'':24}{'clips':>6}{'GNSDR':>8}{'GSIR':>8}{'GSAR':>8}{'SI-SDRi':>9}  dB"]

    def line(label: str, clips: int, ratios: dict[str, float]) -> None:
        cells = [f"{ratios[k]:{9 if k == 'si_sdri' else 8}.2f}" for k in KEYS[:4] if k in ratios]
        lines.append(f"{label:24}{clips:6}" + "".join(cells))

    for source in ("vocals", "accompaniment"):
        line(source, report["clips"], report[source])
        if "warm" in report:
            line("  warm", report["clips"], report["warm"][source])
        if source == "vocals" and 0 < report["clean"]["clips"] < report["clips"]:
            line("  no shared backing", report["clean"]["clips"], report["clean"])
    line("(paper, vocals)", 825, PAPER)
    for singer, ratios in report["singers"].items():
        line(f"  {singer}", ratios["clips"], ratios)
    if "authors" in report:
        line("Ani_1_01, Ani_1_02", report["authors"]["clips"], report["authors"]["model"])
        line("(paper, these two)", report["authors"]["clips"], report["authors"]["paper"])
    return "\n".join(lines)


def song_table(report: dict[str, Any]) -> str:
    """A song report for people."""
    keys = ("nsdr", "sir", "sar", "mixture_sdr", "sdr", "sdr_gain", "si_sdr", "si_sdri")
    names = ("NSDR", "SIR", "SAR", "mixture", "SDR", "gain", "SI-SDR", "SI-SDRi")
    lines = [f"{report['song']:16}{report['excerpts']:4} excerpts by BSS Eval v3     whole song, nothing forgiven"]
    lines += [" " * 16 + "".join(f"{name:>9}" for name in names) + "  dB"]
    lines += [f"{s:16}" + "".join(f"{report[s][k]:9.2f}" for k in keys) for s in ("vocals", "accompaniment")]
    return "\n".join(lines)
