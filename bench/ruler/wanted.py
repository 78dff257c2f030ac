"""What a model that ships must keep, held against a sheet. The figures that are wanted stand here and nowhere else."""

from collections.abc import Iterator
from typing import Any

INSTRUMENTAL, SOLO = 20.0, 15.0  # dB, at least, between what is played alone and the other stem
LEVELS = 0.3  # dB between the best and the worst level from -40 to 0 dBFS
BAND = 0.5  # dB that a cut may cost more than it costs the oracle
PRECISION = 0.1  # dB that 8 bits may cost
AGREE = 0.01  # dB between the streaming network and the one that gets the whole clip at once, in 32 bits
BEHIND = 0.5  # dB that the accompaniment may be behind the voice
SONG = 9.0  # dB of voice NSDR on a song of another world
CUTS = ("3500hz", "5000hz", "7000hz")

Report = dict[str, Any]


def wanted(report: Report) -> list[Report]:
    """For each promise that the sheet's groups tell of: what, the figure measured, what is wanted, and whether it holds."""
    return [
        {"what": what, "measured": measured, "wanted": f"{'at least' if least else 'at most'} {limit:g}", "holds": holds}
        for what, measured, least, limit in _promises(report)
        for holds in [measured >= limit if least else measured <= limit]
    ]


def _promises(report: Report) -> Iterator[tuple[str, float, bool, float]]:
    """What, measured, whether it must be at least or at most, the limit."""
    by_label = {line["label"]: line for line in report["lines"]}
    gnsdr = {label: line["vocals"]["gnsdr"] for label, line in by_label.items()}
    plain = gnsdr["plain"]
    if "silence" in report:
        yield "silence in, from the start: largest sample out", report["silence"]["cold"], False, 0
        yield "silence after sound: largest sample out", report["silence"]["after_sound"], False, 0
    for group, source, stem, limit in (
        ("instrumental", "an instrumental", "vocals", INSTRUMENTAL),
        ("solo", "a solo voice", "accompaniment", SOLO),
    ):
        if group in report:
            yield f"{source}, clips: dB below it in `{stem}`", report[group]["mean"], True, limit
            yield f"{source}, a song: dB below it in `{stem}`", report[group]["song"], True, limit
    levels = [g for label, g in gnsdr.items() if by_label[label]["group"] in ("levels", "plain")]
    if len(levels) > 1:
        yield "between levels from -40 to 0 dBFS, dB", round(max(levels) - min(levels), 3), False, LEVELS
    for cut in CUTS:
        if cut in gnsdr:
            more = (plain - gnsdr[cut]) - (gnsdr["oracle"] - gnsdr[f"{cut}, oracle"])
            yield f"cut at {int(cut[:-2]) / 1000:g} kHz: dB lost beyond the oracle's loss", round(more, 3), False, BAND
    if "beside" in gnsdr:
        less = round(gnsdr["beside"] - plain, 3)
        yield f"{report['precision']} against {report['beside']['precision']}, dB lost", less, False, PRECISION
        if "beside, whole clip at once" in gnsdr:
            apart = round(abs(gnsdr["beside"] - gnsdr["beside, whole clip at once"]), 4)
            yield f"{report['beside']['precision']}, hop by hop against the whole clip at once, dB", apart, False, AGREE
    behind = round(plain - report["plain"]["accompaniment"]["gnsdr"], 3)
    yield "accompaniment behind the voice, dB GNSDR", behind, False, BEHIND
    if "song" in report:
        name = report["song"]["song"]
        yield f"voice NSDR on *{name}*, at its own level, dB", round(report["song"]["vocals"]["nsdr"], 2), True, SONG
