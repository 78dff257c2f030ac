"""All figures of one model: its clips in every case, silence, sources alone, a song; and what is wanted of them.

Every line of a sheet is measured on the same clips, so that the differences between lines are those of the cases, and not of
clips. One pool of processes does it all.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from . import behaviour, jobs, song
from .estimates import Case
from .recordings import clip
from .report import clips_report, provenance, weighted
from .rows import clip_row
from .through import BANDS, CODECS
from .wanted import wanted

RATES, LEVELS = (44_100, 48_000), (-40.0, -20.0, 0.0)
GROUPS = ("rates", "levels", "bands", "codecs", "precision", "whole", "oracle", "silence", "instrumental", "solo", "song")
QUICK_EVERY, QUICK_SECONDS = 10, 60.0  # clips; seconds of the song
COSTS = 0.3  # processor seconds of a measurement, on two cores of 2023
ALONE = {"instrumental": "accompaniment", "solo": "vocals"}  # what is played

Clips = list[tuple[Path, Path]]  # each with the one before it
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Line:
    """A line of the sheet: a case, measured on all clips."""

    group: str
    label: str
    case: Case
    warm: bool = False


@dataclass(frozen=True)
class Task:
    """One measurement, and the name of what it belongs to."""

    key: str
    work: Callable[[], Any]


def lines(case: Case, beside: str | None, groups: tuple[str, ...]) -> list[Line]:
    """The lines of `groups`, beginning with the plain one. `beside`: the same network in another precision."""
    oracle = replace(case, way="oracle")
    after = [Line("bands", name, replace(case, through=name)) for name in BANDS]
    after += [Line("codecs", name, replace(case, through=name)) for name in CODECS]
    all_lines = [Line("plain", "plain", case, warm=True)]
    all_lines += [Line("rates", f"{rate / 1000:g} kHz", replace(case, rate=rate)) for rate in RATES]
    all_lines += [Line("levels", f"{level:g} dBFS", replace(case, level=level)) for level in LEVELS]
    all_lines += [Line("whole", "whole clip at once", replace(case, way="whole"))]
    if beside:
        all_lines += [Line("precision", "beside", replace(case, model=beside))]
        all_lines += [Line("whole", "beside, whole clip at once", replace(case, model=beside, way="whole"))]
    all_lines += [Line("oracle", "oracle", oracle)]
    all_lines += after
    all_lines += [replace(x, label=f"{x.label}, oracle", case=replace(oracle, through=x.label)) for x in after]
    needed = {"plain", *groups} | ({"oracle"} if {"bands", "codecs"} & set(groups) else set())
    needed |= {"precision"} if "whole" in groups else set()
    return [line for line in all_lines if line.group in needed]


@dataclass(frozen=True)
class Sheet:
    """What is to be measured of `case.model`.

    Attributes
    ----------
    clips
        with the ones heard before them (`recordings.clip_pairs`).
    out_of_domain
        a song, or `seconds` of it (`recordings.song`), at its own mixing level.
    beside
        another model on the same clips: the same network in another precision.
    groups
        some of `GROUPS`.
    """

    case: Case
    clips: Clips
    out_of_domain: Path
    beside: str | None = None
    groups: tuple[str, ...] = GROUPS
    seconds: float | None = None

    def lines(self) -> list[Line]:
        """The lines of its groups, beginning with the plain one."""
        return lines(self.case, self.beside, self.groups)

    def tasks(self) -> list[Task]:
        """All measurements, the longest first; then clip after clip, so that the time left can be told from the first ones."""
        own, case = replace(self.case, protocol="own"), self.case
        tasks: list[Task] = []
        if "song" in self.groups:
            tasks.append(Task("song", partial(song.song_report, own, self.out_of_domain, self.seconds)))
        for group, source in ALONE.items():
            if group in self.groups:
                work = partial(behaviour.song_alone, own, self.out_of_domain, source, self.seconds)
                tasks.append(Task(f"{group} song", work))
        if "silence" in self.groups:
            tasks.append(Task("silence", partial(behaviour.silence, case, clip(self.clips[0][0])[1])))
        for path, before in self.clips:
            alone = [(group, source) for group, source in ALONE.items() if group in self.groups]
            tasks += [Task(group, partial(behaviour.clip_alone, case, path, source)) for group, source in alone]
            for line in self.lines():
                tasks.append(Task(line.label, partial(clip_row, line.case, path, before if line.warm else None)))
        return tasks

    def measure(self, processes: int, progress: Progress = lambda done, of: None) -> dict[str, Any]:
        """The sheet, as JSON has it; `progress` is called with the measurements done and their number."""
        started, tasks, rate = time.perf_counter(), self.tasks(), clip(self.clips[0][0])[1]
        report = provenance(self.case, rate)
        if self.beside:
            report["beside"] = provenance(replace(self.case, model=self.beside), rate)
        found = defaultdict(list)
        for i, result in enumerate(jobs.run_all([task.work for task in tasks], processes)):
            found[tasks[i].key].append(result)
            progress(i + 1, len(tasks))
        report["plain"] = clips_report(found["plain"])
        report["lines"] = [_line(line, found[line.label]) for line in self.lines()]
        for group in ALONE.keys() & set(self.groups):
            report[group] = behaviour.summary(found[group]) | {"song": round(found[f"{group} song"][0], 2)}
        report |= {group: found[group][0] for group in ("silence", "song") if group in self.groups}
        report["wanted"] = wanted(report)
        return report | {"elapsed_s": round(time.perf_counter() - started, 1), "processes": processes}


def _line(line: Line, rows: list[Any]) -> dict[str, Any]:
    report = {"group": line.group, "label": line.label, "vocals": weighted(rows)}
    report["accompaniment"] = weighted(rows, "accompaniment")
    if line.warm:
        report["warm"] = {source: weighted(rows, source, warm=True) for source in ("vocals", "accompaniment")}
    return report | {"failed_hops": sum(r.failed for r in rows)}
