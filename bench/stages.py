"""`streamsep bench` in its cases: rates, loads, and as many streams as hold.

    python bench/stages.py [--model live] [--hops 1000] [--json]

Each case is the command as anyone runs it, in a process of its own; read the rows of one table against each other.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CASES: dict[str, tuple[str, ...]] = {
    "48 kHz stereo": (),
    "48 kHz stereo, a Python thread hogs the GIL": ("--load", "gil"),
    "48 kHz stereo, every core busy": ("--load", "cpu"),
    "48 kHz stereo, dry runs before each hop": ("--rehearse",),
    "16 kHz mono": ("--rate", "16000", "--channels", "1"),
    "44.1 kHz stereo": ("--rate", "44100"),
    "96 kHz stereo": ("--rate", "96000"),
}
STREAMS = ("--streams", "max")


def bench(*arguments: str) -> dict[str, Any]:
    """What `streamsep bench` prints with `arguments`."""
    command = [sys.executable, "-m", "streamsep", "bench", *arguments, "--json"]
    path = {"PYTHONPATH": str(ROOT)}
    return json.loads(subprocess.run(command, env=os.environ | path, check=True, stdout=subprocess.PIPE, text=True).stdout)


def measure(model: str, hops: int) -> dict[str, Any]:
    """All cases, one after the other."""
    common = ("--model", model, "--hops", str(hops))
    return {"cases": {name: bench(*common, *case) for name, case in CASES.items()}, "streams": bench(*common, *STREAMS)}


def markdown(report: dict[str, Any]) -> str:
    """The tables for people."""
    first = next(iter(report["cases"].values()))
    model, m = first["model"], first["machine"]
    lines = [
        f"`streamsep bench`, model `{model['name']}` ({model['network']}, {model['precision']}, "
        f"{model['parameters'] / 1e6:.1f} M parameters) on {first['provider']}, {m['cpu']}, {m['cores']} cores,",
        f"onnxruntime {first['versions']['onnxruntime']}, real time {'granted' if first['realtime'] else 'refused'}; "
        f"{first['hops']} hops a figure, paced, one thread. Memory floor: reading the weights' "
        f"{first['floor_bytes'] / 1e6:.1f} MB.",
        "",
        "| case | STFT p50 | network p50 / p99 | masks, inverse STFT p50 | hop p50 / p99 / p99.9 / max ms "
        "| hand-over p50 / p99 | late | floor warm / cold ms | step over cold floor | the same back to back, over warm "
        "| hop without network, paced / back to back |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *(_row(name, r) for name, r in report["cases"].items()),
    ]
    return "\n".join(lines + _streams(report["streams"]))


def _row(name: str, r: dict[str, Any]) -> str:
    stft, network, masks, handover = (r["stages"][stage] for stage in ("stft", "network", "masks_istft", "handover"))
    hop, floor, loop = r["hop_ms"], r["floor_ms"], r["back_to_back"]
    late = r["late"] + r["live"]["late"]
    bare, loop_bare = r["without_network_ms"]["p50"], loop["without_network_ms"]["p50"]
    return (
        f"| {name} | {stft['p50']:.3f} | {network['p50']:.3f} / {network['p99']:.3f} | {masks['p50']:.3f} "
        f"| {hop['p50']:.2f} / {hop['p99']:.2f} / {hop['p99.9']:.2f} / {hop['max']:.2f} "
        f"| {handover['p50']:.2f} / {handover['p99']:.2f} | {late} of {r['hops'] + r['live']['hops']} "
        f"| {floor['warm']:.3f} / {floor['cold']:.3f} | {r['floor_ratio']:.2f} | {loop['floor_ratio_warm']:.2f} "
        f"| {bare:.3f} / {loop_bare:.3f} |"
    )


def _streams(r: dict[str, Any]) -> list[str]:
    s = r["streams"]
    how = "all in one call of the network" if s["together"] else "one after the other through the network"
    return [
        "",
        f"Independent streams on one core, {how}: **{s['largest']}** hold their deadlines (p99 below the hop).",
        "",
        "| streams | hop p50 / due to done p99 ms | for each stream ms | late |",
        "|---|---|---|---|",
        *(
            f"| {row['streams']} | {row['hop_ms']['p50']:.2f} / {row['response_ms']['p99']:.2f} | {row['per_stream_ms']:.3f} "
            f"| {row['late']} of {row['hops']} |"
            for row in s["rows"]
        ),
    ]


def main() -> None:
    """Measure and print."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="live", help="shipped name or .onnx file (%(default)s)")
    p.add_argument("--hops", type=int, default=1000, help="of each case (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    report = measure(arguments.model, arguments.hops)
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
