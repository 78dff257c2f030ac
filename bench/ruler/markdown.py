"""Sheets as bench/RESULTS.md has them. Knows nothing but reports and text, so that bench/results.py can have it alone."""

from collections.abc import Iterator
from typing import Any

Report = dict[str, Any]

# From the root of the repository.
PICTURES = "docs/quality"
HELD_OUT = "bench/held_out"  # of each model, the weights that have not heard what figures are of
DRAWN = {
    "singers": "NSDR of the clips by singer: voice and accompaniment",
    "onset": "Spectrograms of a song where the voice comes in: mixture, true and separated sources",
}
HEADS = {"rates": "engine at", "levels": "peak at", "whole": "", "precision": ""}
AFTER = {
    "3500hz": "cut at 3.5 kHz",
    "5000hz": "cut at 5 kHz",
    "7000hz": "cut at 7 kHz",
    "microphone": "a microphone's band, 150 Hz to 6.5 kHz",
    "telephone": "a telephone's band, 300 Hz to 3.4 kHz",
    "mp3": "MP3 (LAME, 24 kbit/s)",
    "aac": "AAC (24 kbit/s)",
    "opus": "Opus (16 kbit/s)",
}


def page(sheets: dict[str, str]) -> str:
    """The section of all models' sheets, by name."""
    head = [
        "What is measured, and how: [docs/quality.md](../docs/quality.md). Where a model has heard the singers below in its",
        f"last runs, the file of its name in `{HELD_OUT}` is measured, which has not.",
    ]
    return "\n\n".join(["\n".join(head), *(f"### `{name}`\n\n{sheets[name]}" for name in sorted(sheets))])


def sheets(section: str) -> Iterator[tuple[str, str]]:
    """The sheets that a `page` holds, by model; what is written below it is left out."""
    for part in section.split("\n### ")[1:]:
        name, _, sheet = part.partition("\n")
        yield name.strip("`"), sheet.split("\n\n(`python")[0].strip()


def markdown(r: Report) -> str:
    """The sheet of a model: tables and pictures, without a heading."""
    clips = r["plain"]["clips"]
    text = [
        f"{r['precision']}, {r['latency_ms']:g} ms, file {r['sha256']}, measured at commit {r['commit']}: {clips} clips",
        f"({r['set']}), the paper's protocol, 16 kHz and a peak at -6 dBFS unless said, through the runtime engine hop by hop.",
        "All in dB.",
        "",
        *_lines(r),
    ]
    for part in (_after(r), _singers(r), _song(r), _wanted(r), _pictures(r)):
        rows = list(part)
        text += ["", *rows] if rows else []
    return "\n".join(text)


def _pictures(r: Report) -> Iterator[str]:
    for kind, what in DRAWN.items() if "song" in r else ():
        yield f"![{what}](../{PICTURES}/{r['model']}.{kind}.png)"


def _lines(r: Report) -> Iterator[str]:
    yield "| | voice GNSDR | GSIR | GSAR | SI-SDRi | accompaniment GNSDR |"
    yield "|---|---|---|---|---|---|"
    for line in r["lines"]:
        label = line["label"]
        if line["group"] in ("bands", "codecs"):
            continue
        if line["group"] == "oracle":
            label = "oracle ratio masks in these windows"
        elif label == "plain":
            label = "cold start"
        elif label.startswith("beside"):
            label = label.replace("beside", r["beside"]["precision"])
        else:
            label = f"{HEADS[line['group']]} {label}".strip()
        yield _cells(label, line)
        if "warm" in line:
            yield _cells("warm", line["warm"])


def _cells(label: str, figures: Report) -> str:
    v, a = figures["vocals"], figures["accompaniment"]
    ratios = " | ".join(f"{v[key]:.2f}" for key in ("gnsdr", "gsir", "gsar", "si_sdri"))
    return f"| {label} | {ratios} | {a['gnsdr']:.2f} |"


def _after(r: Report) -> Iterator[str]:
    by_label = {line["label"]: line["vocals"]["gnsdr"] for line in r["lines"]}
    found = [label for label in AFTER if label in by_label]
    if not found:
        return
    yield "| sound that went through | voice GNSDR | lost | oracle | lost |"
    yield "|---|---|---|---|---|"
    for label in found:
        model, oracle = by_label[label], by_label[f"{label}, oracle"]
        lost, lost_by_oracle = by_label["plain"] - model, by_label["oracle"] - oracle
        yield f"| {AFTER[label]} | {model:.2f} | {lost:.2f} | {oracle:.2f} | {lost_by_oracle:.2f} |"


def _singers(r: Report) -> Iterator[str]:
    yield "| singer | clips | voice GNSDR | GSIR | GSAR |"
    yield "|---|---|---|---|---|"
    for name, s in r["plain"]["singers"].items():
        yield _singer(name, s["clips"], s)
    if "authors" in r["plain"]:
        two = r["plain"]["authors"]
        yield _singer("Ani_1_01 and Ani_1_02", two["clips"], two["model"])
        yield _singer("what Huang et al. published of these two, one frame ahead", two["clips"], two["paper"])


def _singer(name: str, clips: int, ratios: Report) -> str:
    return f"| {name} | {clips} | {ratios['gnsdr']:.2f} | {ratios['gsir']:.2f} | {ratios['gsar']:.2f} |"


def _song(r: Report) -> Iterator[str]:
    if "song" not in r:
        return
    s = r["song"]
    yield f"The song *{s['song']}*, {s['seconds']:g} s, full band, at its own mixing level: {s['excerpts']} excerpts of 10 s"
    yield "in which both sources sound, by BSS Eval v3, and the whole song with nothing forgiven."
    yield ""
    yield "| source | NSDR | SIR | SAR | mixture's SDR | whole song: SDR | gain | SI-SDR | gain |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for source in ("vocals", "accompaniment"):
        keys = ("nsdr", "sir", "sar", "mixture_sdr", "sdr", "sdr_gain", "si_sdr", "si_sdri")
        yield f"| {source} | " + " | ".join(f"{s[source][key]:.2f}" for key in keys) + " |"


def _wanted(r: Report) -> Iterator[str]:
    yield "| promise | measured | wanted | holds |"
    yield "|---|---|---|---|"
    for w in r["wanted"]:
        yield f"| {w['what']} | {w['measured']:g} | {w['wanted']} | {'yes' if w['holds'] else '**no**'} |"
