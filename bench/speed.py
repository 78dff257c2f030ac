"""What the compiled path is for: a Python thread that hogs the GIL, beside it and beside `InferenceSession.run`.

    python bench/speed.py [--model live] [--seconds 10] [--json]

Stages, rates, loads and the memory floor are `streamsep bench`'s. Here is what only a comparison inside the house shows: the
live path in real time with either way to run the network, quiet and hogged, and a hop's time by the level of its sound. All
figures of a run come from one process, one after the other; compare them with each other, not with those of another machine.
"""

import argparse
import json
import time
from typing import Any

import numpy as np

from streamsep.benchmark import loads
from streamsep.benchmark.handover import PacedDevice
from streamsep.benchmark.sound import song
from streamsep.engine import Separator
from streamsep.live import Live
from streamsep.model import Model, load

RATE, CHANNELS = 48_000, 2
GAINS = {"as it is": 1.0, "-780 dB (denormal numbers)": 1e-39, "silent": 0.0}


def paced(model: Model, x: np.ndarray, hogged: bool, use_c_api: bool) -> dict[str, Any]:
    """`x` `[shape=(frames, channels)]` through the live path in real time, beside a hog or not."""
    separator = Separator(model, RATE, CHANNELS, "cpu", use_c_api=use_c_api)
    hop = separator.geometry.hop_length
    device = PacedDevice(x, RATE, hop, 2 * len(separator.sources), len(x) // hop)
    live = Live(separator, device)
    live.prepare()
    live.open()
    with loads.beside("gil" if hogged else None):
        live.start()
        while not device.finished:
            time.sleep(0.05)
        live.stop()
    report = live.report()
    return {key: report[key] for key in ("hops", "late", "missed_blocks", "step_ms", "deadline_ms")}


def by_level(model: Model, x: np.ndarray, rounds: int = 3) -> list[dict[str, Any]]:
    """Median over `rounds` of a hop's time back to back, ms: the same sound as it is, with denormal numbers, and silent."""
    separator = Separator(model, RATE, CHANNELS, "cpu")
    hops = len(x) / separator.geometry.hop_length
    times: dict[str, list[float]] = {name: [] for name in GAINS}
    for _ in range(rounds):  # in turn: the machine is not the same from minute to minute
        for name, gain in GAINS.items():
            block = (x * np.float32(gain)).T
            separator.reset()
            separator.process(block[:, : RATE // 10])
            start = time.perf_counter()
            separator.process(block)
            times[name].append(1e3 * (time.perf_counter() - start) / hops)
    return [{"level": name, "hop_ms": float(np.median(values))} for name, values in times.items()]


def measure(model: Model, seconds: float) -> dict[str, Any]:
    """All figures."""
    x = song(RATE, CHANNELS, seconds)
    return {
        "model": model.contract.name,
        "seconds": len(x) / RATE,
        "gil": [
            {"path": "C API" if native else "InferenceSession", "hogs": int(hogged)} | paced(model, x, hogged, native)
            for native in (True, False)
            for hogged in (False, True)
        ],
        "by_level": by_level(model, x),
    }


def markdown(report: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        f"Model `{report['model']}`, 48 kHz stereo, one thread, {report['seconds']:g} s of the bundled song a figure.",
        "",
        "| path, paced | GIL hogs | p50 / p99 / max ms | late hops |",
        "|---|---|---|---|",
    ]
    for g in report["gil"]:
        s = g["step_ms"]
        numbers = f"{s['p50']:.2f} / {s['p99']:.2f} / {s['max']:.2f}"
        lines.append(f"| {g['path']} | {g['hogs']} | {numbers} | {g['late']} of {g['hops']} |")
    lines += ["", "| level of the input | a hop back to back: ms |", "|---|---|"]
    lines += [f"| {r['level']} | {r['hop_ms']:.3f} |" for r in report["by_level"]]
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="live", help="shipped name or .onnx file (%(default)s)")
    p.add_argument("--seconds", type=float, default=10, help="of the song, for each figure; at most 20 (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    report = measure(load(arguments.model), arguments.seconds)
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
