"""What `streamsep run` shows on a terminal: the picture of one moment, drawn from the daemon's own figures.

`gather` asks a daemon (`osc.Host`, as OSC does) and its meters; `draw` makes lines of that, for any width and height. Where
room is short, what matters least goes first: the log, the keys, the figures; meters and alarms stay. Colour only repeats what
a character says already. This module knows no keyboard, no thread and no clock.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

from rich.text import Text

from .keys import COMMANDS

if TYPE_CHECKING:
    from ..osc.host import Host

FLOOR_DB, TOP_DB = -60.0, 0.0  # of a meter
HOT_DB, WARM_DB = -3.0, -12.0
WIDE, MEDIUM = 76, 52  # columns from which on a line has room for its second and first extra
BARS = "█▌─│"  # RMS, half a cell of it, up to the peak, where there is nothing
PLAIN_BARS = "#=-."  # for terminals without Unicode


@dataclass(frozen=True)
class Level:
    """A meter's reading, dBFS; `clip` is held."""

    peak: float
    rms: float
    clip: bool


@dataclass(frozen=True)
class Strip:
    """A line with a meter; those of the input have no controls (`gain` is None)."""

    name: str
    level: Level
    key: str = ""
    gain: float | None = None  # dB
    mute: bool = False
    solo: bool = False
    silenced: bool = False  # by another's solo
    selected: bool = False


@dataclass(frozen=True)
class Picture:
    """All that is shown of one moment."""

    strips: tuple[Strip, ...]
    model: str
    device: str
    sample_rate: int
    provider: str
    osc: str
    state: str
    problem: str
    recording: str
    bypass: bool
    panic: bool
    wet: float
    latency_ms: dict[str, float]
    counts: dict[str, int]  # hops, late, bridged, missed, xruns
    trouble: bool  # whether one of the last four has grown of late
    step_ms: dict[str, float]
    deadline_ms: float


def gather(host: Host, levels: Sequence[Level], selected: int, figures: dict[str, Any], osc: str, trouble: bool) -> Picture:
    """The picture of a daemon; `levels` are those of the sources, the input and the output, `figures` its status."""
    engine = host.separator
    n = len(engine.sources)
    if len(levels) != n + 2:  # the engine was replaced between two looks
        levels = [Level(-144.0, -144.0, False)] * (n + 2)
    solo = any(engine.solo(source) for source in engine.sources)
    sources = [
        Strip(
            source,
            levels[i],
            key=str(i + 1) if i < 9 else "",
            gain=engine.gain(source),
            mute=engine.mute(source),
            solo=engine.solo(source),
            silenced=solo and not engine.solo(source),
            selected=selected == i,
        )
        for i, source in enumerate(engine.sources)
    ]
    output = Strip("output", levels[n + 1], gain=engine.output_gain, mute=engine.panic, selected=selected == n)
    return Picture(
        strips=(Strip("input", levels[n]), *sources, output),
        model=str(figures["model"]),
        device=str(figures["device"]),
        sample_rate=int(figures["sample_rate"]),
        provider=str(figures["provider"]),
        osc=osc,
        state=host.state,
        problem=str(figures["problem"]),
        recording=host.recording,
        bypass=engine.bypass,
        panic=engine.panic,
        wet=engine.wet,
        latency_ms={part: float(figures[f"latency_ms.{part}"]) for part in ("algorithmic", "buffering", "device", "total")},
        counts=counts(figures),
        trouble=trouble,
        step_ms={q: float(figures[f"step_ms.{q}"]) for q in ("p50", "p99", "max")},
        deadline_ms=float(figures["deadline_ms"]),
    )


def counts(figures: dict[str, Any]) -> dict[str, int]:
    """Hops, and what went wrong with them."""
    xruns = int(figures["input_xruns"]) + int(figures["output_xruns"])
    counted = {"hops": "hops", "late": "late", "bridged": "bridged", "missed": "missed_blocks"}
    return {name: int(figures[key]) for name, key in counted.items()} | {"xruns": xruns}


# ---------------------------------------------------------------------------------------------------------------- drawing


def draw(picture: Picture, log: Sequence[str], width: int, height: int, plain: bool = False) -> Text:
    """`height` lines, of `width` columns at most; `plain`: no character beyond ASCII."""
    alarms = _alarms(picture)
    meters = _meters(picture.strips, width, PLAIN_BARS if plain else BARS)
    figures = _figures(picture, width)
    keys = _keys(width, plain)
    parts = [_title(picture), alarms, meters, figures, keys]
    while len(parts) > 3 and sum(map(len, parts)) > height:
        parts.pop()
    spare = height - sum(map(len, parts)) - 1
    told = [Text(line, style="dim") for line in log][-spare:] if spare > 0 else []
    told += [Text("")] * (spare + 1 - len(told))  # what is below stays in its place
    lines = [*told, *(line for part in parts for line in part)]
    for line in lines:
        line.truncate(width, overflow="crop" if plain else "ellipsis")
    text = Text("\n", no_wrap=True, end="").join(lines[:height])
    if plain:
        text.plain = text.plain.translate(_ASCII).encode("ascii", "replace").decode()  # as many characters: styles stay
    return text


_ASCII = str.maketrans("↑↓·●→", "^v-*>")


def _title(p: Picture) -> list[Text]:
    line = Text.assemble(
        ("streamsep ", "bold"),
        (p.state, "green" if p.state == "running" else "bold yellow"),
        ("  ● rec " + p.recording, "bold red") if p.recording else "",
        (f"  OSC {p.osc} · {p.model} on {p.provider} · {p.sample_rate} Hz · {p.device}", "dim"),
    )
    return [line]


def _alarms(p: Picture) -> list[Text]:
    """What must not be overlooked, a line each."""
    lines = []
    if p.state == "device lost":
        lines.append(f" DEVICE LOST: waiting for it to come back{f' ({p.problem})' if p.problem else ''} ")
    if p.panic:
        lines.append(" PANIC: nothing goes out; p ends it ")
    if p.bypass:
        lines.append(" BYPASS: the first source carries the input; b ends it ")
    return [Text(line, style="bold reverse red" if "LOST" in line or "PANIC" in line else "bold reverse") for line in lines]


def _meters(strips: Sequence[Strip], width: int, bars: str) -> list[Text]:
    """A scale, and a line for each strip."""
    name = 14 if width >= WIDE else 10 if width >= MEDIUM else 6
    before = 3 + name + (8 if width >= MEDIUM else 0) + 3
    after = "   peak   rms" if width >= WIDE else "   peak"
    clip = "CLIP" if width >= MEDIUM else "!"
    cells = max(width - before - len(after) - 1 - len(clip), 4)
    return [_scale(before, cells, after), *(_strip(s, width, name, cells, bars, clip) for s in strips)]


def _strip(s: Strip, width: int, name: int, cells: int, bars: str, clip: str) -> Text:
    """`>1 vocals         -12.0 MS ████──────│  -3.2 -12.1 CLIP`"""
    line = Text(f"{'>' if s.selected else ' '}{s.key:1s} ")
    line.append(f"{s.name[:name]:{name}s}", "bold" if s.selected else "dim" if s.mute or s.silenced else "")
    if width >= MEDIUM:
        line.append("        " if s.gain is None else " silent " if s.gain <= -90 else f" {s.gain:+6.1f} ", "cyan")
    line.append("M" if s.mute else " ", "bold red")
    line.append("S " if s.solo else "- " if s.silenced else "  ", "bold yellow" if s.solo else "dim")
    line.append_text(_bar(s.level, cells, bars))
    line.append(f" {_db(s.level.peak)}{_db(s.level.rms)} " if width >= WIDE else f" {_db(s.level.peak)} ", "dim")
    line.append(clip if s.level.clip else " " * len(clip), "bold reverse red" if s.level.clip else "")
    return line


def _db(level: float) -> str:
    return f"{level:6.1f}" if level > -100 else "  -inf"


def _bar(level: Level, cells: int, bars: str) -> Text:
    """RMS as a bar, the peak as a line beyond it."""

    def place(db: float) -> float:
        return min(max((db - FLOOR_DB) / (TOP_DB - FLOOR_DB), 0.0), 1.0) * cells

    def style(cell: int) -> str:
        db = FLOOR_DB + (cell + 1) * (TOP_DB - FLOOR_DB) / cells
        return "red" if db > HOT_DB else "yellow" if db > WARM_DB else "green"

    rms, peak = place(level.rms), place(level.peak)
    full = int(rms)
    line = bars[0] * full + bars[1] * (rms - full >= 0.5)
    line = line + bars[2] * (round(peak) - len(line))
    line = line.ljust(cells - 1) + ("" if len(line) == cells else bars[3])
    text = Text()
    for hue, run in groupby(range(cells), style):  # a style for each run, not for each cell: it is all sent ten times a second
        place_of = list(run)
        text.append(line[place_of[0] : place_of[-1] + 1], hue)
    return text


def _scale(before: int, cells: int, after: str) -> Text:
    """What stands above the meters: their scale in dB, and what the numbers are."""
    marks = [" "] * (before + cells)
    for db in (-48, -36, -24, -12, -6):
        word = f"{db}"
        at = before + round((db - FLOOR_DB) / (TOP_DB - FLOOR_DB) * cells) - len(word)
        if cells >= 40 or db in (-36, -12):
            marks[at : at + len(word)] = word
    return Text("".join(marks) + after, style="dim")


def _figures(p: Picture, width: int) -> list[Text]:
    ms, n, step = p.latency_ms, p.counts, p.step_ms
    parts = f" = {ms['algorithmic']:.1f} algorithmic + {ms['buffering']:.1f} buffering + {ms['device']:.1f} device"
    bad = "bold red" if p.trouble else "yellow" if n["late"] + n["missed"] + n["xruns"] else "green"
    troubles = f"late {n['late']}  bridged {n['bridged']}  missed {n['missed']}  xruns {n['xruns']}"
    slow = "bold red" if step["p99"] > p.deadline_ms else ""
    lines = [
        Text.assemble(("latency ", "dim"), (f"{ms['total']:.1f} ms", "bold"), (parts if width >= WIDE else "", "dim")),
        Text.assemble((troubles, bad), (f"  of {n['hops']} hops" if width >= MEDIUM else "", "dim")),
        Text.assemble(
            ("step ", "dim"),
            (f"p50 {step['p50']:.2f}  p99 {step['p99']:.2f}  max {step['max']:.2f} ms", slow),
            (f"  of {p.deadline_ms:g}" if width >= MEDIUM else "", "dim"),
            (f"  wet {p.wet:.0%}" if p.wet < 1 else "", "cyan"),
        ),
    ]
    return [Text(""), *lines]


def _keys(width: int, plain: bool) -> list[Text]:
    """The help line, or two of them where one has no room."""
    lines, line = [], Text()
    for command in COMMANDS:
        part = Text.assemble((command.keys, "bold"), (f" {command.does}", "dim"))
        if len(line) and len(line) + 2 + len(part) > width - 2 * plain:
            lines.append(line)
            line = Text()
        line.append_text(Text.assemble("  ", part) if len(line) else part)
    return [Text(""), *lines, line]
