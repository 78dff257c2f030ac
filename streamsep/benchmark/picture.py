"""The pictures of a benchmark: every hop over time, and how often each duration came, with deadline and memory floor; and what
many streams cost.

Both panels of the first share one axis, ms on a logarithmic scale: what takes a tenth of the deadline and what a hundredth
can both be seen. matplotlib is used through its objects alone; nothing global is touched.
"""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .hops import BEGUN, DUE
from .measurement import Measurement, Scaling

LABELS = {"stft": "STFT", "network": "network", "masks_istft": "masks, inverse STFT", "handover": "hand-over"}
BINS_PER_DECADE = 40


class Look(NamedTuple):
    """Colours; of the stages those that colour-blind people can tell apart, too."""

    paper: str
    ink: str
    faint: str
    deadline: str
    floor: str
    hop: str
    stages: dict[str, str]


LIGHT = Look(
    "#ffffff",
    "#1b1f24",
    "#d7dce2",
    "#c2185b",
    "#6b7280",
    "#1b1f24",
    {"stft": "#009e73", "network": "#0072b2", "masks_istft": "#d55e00", "handover": "#9a6fb0"},
)
DARK = Look(
    "#14181d",
    "#e6e9ed",
    "#2f3740",
    "#ff5c93",
    "#9aa4b1",
    "#e6e9ed",
    {"stft": "#2dd4a4", "network": "#56b4e9", "masks_istft": "#ff9a52", "handover": "#c9a3e0"},
)


def draw(m: Measurement, look: Look = LIGHT) -> bytes:
    """PNG: on the left each hop and its network step over time, on the right how often each stage took how long."""
    figure = Figure(figsize=(11, 4.6), dpi=140, layout="constrained", facecolor=look.paper)
    canvas = FigureCanvasAgg(figure)
    line, counts = figure.subplots(1, 2, sharey=True, width_ratios=(5, 2))
    stages, hop = m.times.stages(), m.times.hop()
    at = m.times.between(DUE, BEGUN) + (m.times.stamps[:, DUE] - m.times.stamps[0, DUE]) / 1e6
    line.plot(at / 1e3, hop, ".", ms=2.6, color=look.hop, alpha=0.75, label="whole hop", rasterized=True)
    line.plot(at / 1e3, stages["network"], ".", ms=2.6, color=look.stages["network"], alpha=0.75, label="network")
    for name, ms in (stages | {"handover": m.handover.waiting}).items():
        _histogram(counts, ms, look.stages[name], LABELS[name])
    low = min(ms.min() for ms in stages.values())
    for panel in (line, counts):
        panel.axhline(m.deadline_ms, color=look.deadline, lw=1.6, zorder=0)
        if floor := m.floor.ms()["cold"]:
            panel.axhline(floor, color=look.floor, lw=1.2, ls=(0, (5, 3)), zorder=0)
        _dress(panel, look)
    line.set_ylim(10 ** np.floor(np.log10(max(low, 1e-3))), 1.6 * max(m.deadline_ms, hop.max()))
    _mark(line, m.deadline_ms, f"deadline {m.deadline_ms:.3g} ms", look.deadline)
    if floor:
        _mark(line, floor, f"memory floor, cold {floor:.3g} ms", look.floor)
    line.set(xlabel="time, s", ylabel="ms")
    line.margins(x=0.01)
    counts.set(xlabel="hops")
    title = f"{m.model.contract.name} on {m.provider}, {m.settings.as_dict()['mode']}"
    title += f", {m.scaling.measured} streams" if m.scaling else ""
    line.set_title(title + (f", beside load “{m.load['name']}”" if m.load else ""), loc="left", fontsize=10, color=look.ink)
    for panel in (line, counts):  # above the panels: inside, they would hide the deadline
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False, labelcolor=look.ink)
    return _png(canvas, look)


def draw_streams(m: Measurement, scaling: Scaling, look: Look = LIGHT) -> bytes:
    """PNG: on the left what a hop of N streams costs against its deadline, on the right each stream's share of it."""
    rows = scaling.as_dict()["rows"]
    counts = [r["streams"] for r in rows]
    figure = Figure(figsize=(11, 4.2), dpi=140, layout="constrained", facecolor=look.paper)
    canvas = FigureCanvasAgg(figure)
    whole, share = figure.subplots(1, 2)
    for key, colour, label in (("hop_ms", look.hop, "whole hop"), ("step_ms", look.stages["network"], "network")):
        whole.plot(counts, [r[key]["p50"] for r in rows], "o-", ms=4, color=colour, label=f"{label}, median")
        whole.plot(counts, [r[key]["p99"] for r in rows], "o--", ms=3, lw=1, color=colour, label=f"{label}, p99")
    share.plot(
        counts, [r["per_stream_ms"] for r in rows], "o-", ms=4, color=look.hop, label="whole hop, median, for each stream"
    )
    whole.axhline(m.deadline_ms, color=look.deadline, lw=1.6, zorder=0)
    for panel in (whole, share):
        _dress(panel, look)
        panel.set_xscale("log", base=2)
        panel.xaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
        panel.set(xlabel="streams", ylabel="ms")
        if scaling.largest:
            panel.axvline(scaling.largest, color=look.floor, lw=1.2, ls=(0, (5, 3)), zorder=0)
        panel.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize=8, frameon=False, labelcolor=look.ink)
    _mark(whole, m.deadline_ms, f"deadline {m.deadline_ms:.3g} ms", look.deadline)
    share.set_yscale("linear")
    share.set_ylim(bottom=0)
    if scaling.largest:
        _mark(share, 0, f"   {scaling.largest} streams hold", look.floor)
    return _png(canvas, look)


def _histogram(panel: Axes, ms: Any, colour: str, label: str) -> None:
    low, high = np.log10(max(ms.min(), 1e-4)), np.log10(max(ms.max(), 1e-4))
    edges = 10 ** np.arange(low - 1 / BINS_PER_DECADE, high + 2 / BINS_PER_DECADE, 1 / BINS_PER_DECADE)
    colours = {"facecolor": (colour, 0.4), "edgecolor": colour, "lw": 1.2}
    panel.hist(ms, list(edges), orientation="horizontal", histtype="stepfilled", label=label, **colours)  # type: ignore[arg-type]


def _mark(panel: Axes, ms: float, text: str, colour: str) -> None:
    place: dict[str, Any] = {"xy": (0.012, ms), "xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
    panel.annotate(text, xytext=(0, 3), fontsize=8, color=colour, **place)


def _dress(panel: Axes, look: Look) -> None:
    panel.set_yscale("log")
    panel.set_facecolor(look.paper)
    panel.yaxis.set_major_locator(LogLocator(10, (1, 2, 5)))
    panel.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    panel.yaxis.set_minor_formatter(NullFormatter())
    panel.grid(axis="y", which="major", color=look.faint, lw=0.6)
    panel.set_axisbelow(True)
    panel.tick_params(colors=look.ink, labelsize=8, which="both", length=0)
    for spine in panel.spines.values():
        spine.set_visible(False)
    for text in (panel.xaxis.label, panel.yaxis.label):
        text.set_color(look.ink)
        text.set_fontsize(9)


def _png(canvas: FigureCanvasAgg, look: Look) -> bytes:
    page = io.BytesIO()
    canvas.print_figure(page, format="png", facecolor=look.paper)
    return page.getvalue()
