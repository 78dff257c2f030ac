"""The paper's row: networks trained on the 175 clips of Huang et al. (ISMIR 2014) alone, on other singers of MIR-1K.

    python bench/paper.py MODEL.onnx ... [--set public] [--json]
    python bench/results.py paper --row MODEL.onnx ...         # into RESULTS.md, beside the rows that are there

The paper measured 825 clips; 489 of them are `public.txt`, the other 336 we do not have. A model says itself how it was trained
(its contract); whether it heard more than the 175 clips is looked at. train/configs/paper.toml says how to make the files.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from streamsep import model  # noqa: E402
from streamsep.model import Contract  # noqa: E402
from train.provenance import lineage  # noqa: E402

CLIPS = 175
PAPER = "| Huang et al., 3 x 1000, sees one frame ahead | 64 + 32 | discriminative | 825 | 7.45 | | 13.08 | 9.68 | |"
HEAD = [
    "Trained on the 175 clips of the paper alone, augmented; cold, hop by hop through the engine (`bench/paper.py`). dB.",
    "*Apart*: without the three songs whose backing tracks are sung to by the paper's own singers, too. How each was made:",
    "train/configs/paper*.toml, train/LOG.md. The first row is what the paper says of itself.",
    "",
    "| network | ms | loss | clips | voice GNSDR | apart | GSIR | GSAR | accompaniment GNSDR |",
    "|---|---|---|---|---|---|---|---|---|",
    PAPER,
]


def measure(path: Path, clips: str) -> dict[str, Any]:
    """bench/quality.py's report of a file on a set of clips, cold."""
    words = ["--model", path, "--set", clips, "--cold", "--jobs", os.cpu_count(), "--json"]
    command = [sys.executable, ROOT / "bench" / "quality.py", *words]
    return json.loads(subprocess.run([*map(str, command)], check=True, stdout=subprocess.PIPE, text=True).stdout)


def line(path: Path, clips: str = "public") -> str:
    """The row of a model.

    Raises
    ------
    ValueError
        it was trained on something else than the 175 clips.
    """
    contract = model.load(path).contract
    if heard := sorted(_others(contract)):
        raise ValueError(f"{path} was trained on {', '.join(heard)}: expected mir1k's train.txt and nothing else")
    r = measure(path, clips)
    voice, other = r["vocals"], r["accompaniment"]
    figures = (voice["gnsdr"], r["clean"]["gnsdr"], voice["gsir"], voice["gsar"], other["gnsdr"])
    cells = (network(contract), f"{contract.latency_ms:g}", loss(contract), str(r["clips"]), *(f"{f:.2f}" for f in figures))
    return f"| {' | '.join(cells)} |"


def _others(contract: Contract) -> Iterator[str]:
    """What it was trained on that the paper was not, in this run and in those before it."""
    for run in lineage(contract.training):
        for data in run["data"]:
            if data["name"] != "mir1k" or data["recordings"] > CLIPS:
                yield f"{data['name']} ({data['recordings']} recordings)"


def network(contract: Contract) -> str:
    """What it is made of."""
    trained = contract.training["config"]
    kind = f"bands of {trained['width']} channels, LSTM" if trained.get("network") == "bands" else "LSTM"
    filters = ", filters" if contract.filters else ""
    hop = f"hop {1000 * contract.hop_length / contract.sample_rate:g} ms"
    averaged = _averaged(contract.training)
    steps = f"mean of {averaged} runs" if averaged > 1 else f"{contract.training['steps']} steps"
    return f"{kind} {contract.layers} x {trained['hidden']}{filters}, {hop}, {steps}"


def _averaged(run: dict[str, Any]) -> int:
    """Runs whose last weights a mean is of, itself perhaps of means; 1 of what is none."""
    return sum(map(_averaged, [run["init"], *run["mean"]])) if run.get("mean") else 1


def loss(contract: Contract) -> str:
    """What it was trained for."""
    trained = contract.training["config"]
    return f"γ = {trained['gamma']:g}" if trained["loss"] == "discriminative" else "SDR"


def markdown(rows: list[str]) -> str:
    """The table of `rows`."""
    return "\n".join([*HEAD, *rows])


def rows(section: str) -> dict[tuple[str, ...], str]:
    """The rows that a `markdown` holds but for the paper's own, by what they are of."""
    lines = [text for text in section.splitlines() if text.startswith("|")][3:]
    return {key(text): text for text in lines}


def key(row: str) -> tuple[str, ...]:
    """What a row is of: network, latency, loss."""
    return tuple(cell.strip() for cell in row.split("|")[1:4])


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="+", type=Path, metavar="MODEL.onnx")
    p.add_argument("--set", default="public", help="list of clips (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    a = p.parse_args()
    try:
        found = [line(path, a.set) for path in a.models]
    except ValueError as error:
        sys.exit(f"paper: {error}")
    print(json.dumps({"rows": found}) if a.json else markdown(found))


if __name__ == "__main__":
    main()
