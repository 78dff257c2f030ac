"""`python -m train.card MODEL.onnx`: what a model's file knows about itself, written into its card.

The parts between `<!-- begin facts -->` and `<!-- end facts -->`, and likewise `runs` and `measured`, are made from the file's
contract: windows, size, runs, recordings, machine, figures. The rest of a card is prose that no program can know (what it
sounds like, what it fails on) and stays. Without a card there, a new one is begun.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click

from streamsep.model import Contract, Model, ModelError, load

from .provenance import lineage

NEW = """\
# {name}

<!-- begin facts -->
<!-- end facts -->

## Measured

<!-- begin measured -->
<!-- end measured -->

## Training

<!-- begin runs -->
<!-- end runs -->

## Limits

Nobody has written down yet what it fails on.
"""


def facts(model: Model) -> str:
    """The network and its file."""
    c = model.contract
    ms = 1e3 / c.sample_rate
    rows = {
        "file": f"`{c.name}.onnx`, {c.precision}, {model.size / 2**20:.1f} MiB",
        "latency": f"{c.latency_ms:g} ms, algorithmic; causal, no look-ahead",
        "network": network(c),
        "input": f"{'spectrum' if c.filters else 'magnitude'} of the mono downmix, {c.sample_rate / 1000:g} kHz bins, "
        f"window {c.n_fft * ms:g} ms, synthesis {c.synthesis_length * ms:g} ms, hop {c.hop_length * ms:g} ms",
        "sources": ", ".join(c.sources),
        "licence": c.licence,
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items())])


def network(c: Contract) -> str:
    """In a line."""
    config = c.training.get("config", {})
    if config.get("network") == "bands":
        units = config["hidden"]
        return (
            f"{c.layers} blocks over {c.hidden // units} bands: an LSTM of {units} units along time, the same for each "
            "band, then two layers across the bands; ReLU heads of each band, masking layer"
        )
    full = f"{config.get('hidden', c.hidden)} units, one dense ReLU head a source, masking layer"
    if c.filters:
        f, of = c.filters, config["filter"]
        top = f"{1e-3 * f.reach * c.sample_rate / c.n_fft:.1f} kHz"
        full += f"; below {top} complex filters over {f.taps} frames and {f.bins} bins, "
        full += f"by one LSTM of {of['width']} units for every {of['group']} bins"
    return f"{c.layers} LSTM layers of {full}"


def runs(contract: Contract) -> str:
    """The runs behind the weights, first to last, and what each learnt from; minutes as they lie on the disk."""
    chain = lineage(contract.training)
    lines = ["| run | steps | minutes | on | commit |", "|---|---|---|---|---|"]
    lines += [
        _mean(i, r, chain)
        if "mean" in r
        else f"| {i} | {r['steps']} | {r['minutes']:g} | {r.get('machine', 'not noted')} | {r['commit']} |"
        for i, r in enumerate(chain, 1)
    ]
    lines += ["", "| recordings | of | voices, min | accompaniments, min | run: weight |", "|---|---|---|---|---|"]
    heard: dict[str, list[str]] = {}
    for i, r in enumerate(chain, 1):
        for d in r["data"]:
            what = f"| {d['recordings']} | {d['name']} | {d['voice_minutes']:g} | {d['accompaniment_minutes']:g} |"
            heard.setdefault(what, []).append(f"{i}: {d['weight']:g}")
    lines += [f"{what} {', '.join(weights)} |" for what, weights in heard.items()]
    names = ", ".join(contract.training["validation"])
    seed = contract.training["config"]["seed"]
    return "\n".join([*lines, "", f"Seed {seed}. The last run's course was watched on: {names}."])


def _mean(number: int, run: dict[str, Any], chain: list[dict[str, Any]]) -> str:
    """The line of a run that was none: the mean of others' weights."""
    others = [({k: v for k, v in other.items() if k != "share"}, other["share"]) for other in run["mean"]]
    parts = [(run["init"], 1 - sum(share for _, share in others)), *others]
    text = ", ".join(f"{100 * share:.0f} % of {chain.index(part) + 1}" for part, share in parts)
    text += "".join(f"; heads of {source} {value:+g}" for source, value in run.get("bias", {}).items())
    return f"| {number} | mean of weights: {text} | | | {run['commit']} |"


def measured(contract: Contract) -> str:
    """The figures in the file, with their conditions."""
    q = contract.quality
    lines: list[str] = []
    if "voice_gnsdr_db" in q:
        lines += ["| | GNSDR | GSIR | GSAR |", "|---|---|---|---|"]
        for source in ("voice", "accompaniment"):
            cells = [q.get(f"{source}_{figure}_db") for figure in ("gnsdr", "gsir", "gsar")]
            lines.append(f"| {source} | " + " | ".join("–" if v is None else f"{v:.2f}" for v in cells) + " |")
        lines += ["", f"dB; {q['conditions']}."]
    else:
        lines.append("Not by the ruler yet: `python bench/quality.py --model FILE --stamp`.")
    if "parity" in q:
        p = q["parity"]
        lines += ["", f"{contract.precision} against PyTorch: mask SNR {p['mask_snr_db']:g} dB, on {p['sounds']}."]
    return "\n".join(lines)


def write(model: Model, card: str | None) -> str:
    """The card with its made parts made anew; a new one if there was none.

    Raises
    ------
    ModelError
        the card has not one of the parts.
    """
    text = card if card is not None else NEW.format(name=model.contract.name)
    parts = {"facts": facts(model), "measured": measured(model.contract), "runs": runs(model.contract)}
    for part, made in parts.items():
        marks = re.compile(rf"(<!-- begin {part} -->\n).*?(<!-- end {part} -->)", re.DOTALL)
        if not marks.search(text):
            raise ModelError(f"card has no part {part!r}: expected the lines <!-- begin {part} --> and <!-- end {part} -->")
        text = marks.sub(lambda m, made=made: f"{m[1]}{made}\n{m[2]}", text)  # type: ignore[misc]
    return text


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("file", metavar="MODEL", type=click.Path(path_type=Path))
@click.option("-o", "--out", type=click.Path(path_type=Path), help="The card.  [default: MODEL with the ending .md]")
def main(file: Path, out: Path | None) -> None:
    """Write what MODEL, an .onnx file, says about itself into its card."""
    out = out or file.with_suffix(".md")
    try:
        text = write(load(file), out.read_text() if out.exists() else None)
        out.write_text(text)
    except (ModelError, OSError) as error:
        click.echo(f"train.card: {error}", err=True)
        sys.exit(1)
    click.echo(f"{out}: facts, measured, runs")


if __name__ == "__main__":
    main(prog_name="python -m train.card")
