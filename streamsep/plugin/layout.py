"""`streamsep_rings.h`: what the C plugin must know of the rings and of the model, written from `rings` and its contract.

    python -m streamsep.plugin.layout        writes it beside streamsep.c

So there is one description of the memory that plugin and engine share. A test writes it again and compares, and asks a C
program for the same figures.
"""

from __future__ import annotations

from pathlib import Path

from .. import model, rings
from . import CHANNELS, SOURCES, SPACE

HEADER_FILE = Path(__file__).with_name("streamsep_rings.h")
PLACES = (
    *("VERSION", "CAPACITY", "IN_CHANNELS", "OUT_CHANNELS", "TAP_CHANNELS", "SAMPLE_RATE"),
    *("IN_WRITE", "IN_READ", "OUT_WRITE", "OUT_READ", "PATIENCE", "MAX_BLOCK"),
    *("ENGINE", "BEGUN", "BEAT", "REFUSED", "EPOCH", "START", "PREFILL", "HOP"),
)
TEXT = """\
/* Written by `python -m streamsep.plugin.layout`: the rings as streamsep/rings.py has them, and the shipped model's times. */
#ifndef STREAMSEP_RINGS_H
#define STREAMSEP_RINGS_H

#define STREAMSEP_LAYOUT {layout}
#define STREAMSEP_SPACE "{space}" /* the environment variable that tells installations apart */

enum {{ CHANNELS = {channels}, SOURCES = {sources}, HEADER = {header}, FADE = {fade} }};

/* Places of the header, int64 each. After it lie the rings, float32: `in`, then `out`, frame by frame. */
enum {{
{places}
}};

/* Samples at the model's rate; at another rate its durations hold. */
enum {{ MODEL_RATE = {rate}, MODEL_HOP = {hop}, MODEL_SYNTHESIS = {synthesis} }};

#endif
"""


def header() -> str:
    """The text of `streamsep_rings.h`."""
    contract = model.load("live").contract
    return TEXT.format(
        layout=rings.LAYOUT,
        space=SPACE,
        channels=CHANNELS,
        sources=len(SOURCES),
        header=rings.HEADER,
        fade=rings.GAP_FRAMES,
        places="\n".join(f"\t{name} = {getattr(rings, name)}," for name in PLACES),
        rate=contract.sample_rate,
        hop=contract.hop_length,
        synthesis=contract.synthesis_length,
    )


if __name__ == "__main__":
    HEADER_FILE.write_text(header())
