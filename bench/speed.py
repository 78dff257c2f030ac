"""How long a hop takes, back to back and as a daemon runs it, quiet and beside a Python thread that hogs the GIL.

    python bench/speed.py [--model live] [--seconds 10] [--json]

Paced: the bundled song through the real worker loop in real time, from a file device to a file device; every hop is one
sample. Back to back: the same song through `Separator.process` in one call. The paced figures count: between hops the
weights leave the cache and the core sleeps. Deadlines are one hop. All figures of a run come from one process, one after
the other; compare them with each other, not with those of another machine.
"""

import argparse
import json
import os
import platform
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import soundfile
import soxr

from streamsep import demo, stats
from streamsep.devices.filedevice import FileDevice
from streamsep.engine import Separator
from streamsep.live import Live
from streamsep.model import Model, load

CASES = ((16_000, 1), (44_100, 2), (48_000, 2), (96_000, 2))


def song(rate: int, channels: int, seconds: float) -> np.ndarray:
    """The bundled song's mixture at `rate`, float32 `[shape=(samples, channels)]`."""
    stems = [soundfile.read(path, dtype="float32") for path in demo.STEMS.values()]
    mixture = sum(x for x, _ in stems)[: int(seconds * stems[0][1])]
    mixture = soxr.resample(mixture, stems[0][1], rate).astype(np.float32)
    return mixture if channels == 2 else mixture.mean(axis=1, keepdims=True)


def back_to_back(model: Model, x: np.ndarray, rate: int) -> dict[str, float]:
    """Mean time of a hop, ms, and the share of real time it takes."""
    separator = Separator(model, rate, x.shape[1], "cpu")
    separator.process(x[: rate // 10].T)
    start = time.perf_counter()
    separator.process(x.T)
    elapsed = time.perf_counter() - start
    return {"hop_ms": 1e3 * elapsed / (len(x) / separator.geometry.hop_length), "real_time_factor": elapsed * rate / len(x)}


def network_step(model: Model, steps: int = 2000) -> dict[str, float]:
    """The network alone, back to back, ms."""
    network = Separator(model, 16_000, 1, "cpu").network
    network.mag[:] = np.random.default_rng(0).random(network.mag.shape)
    times = stats.histogram()
    for k in range(steps + 100):
        start = time.perf_counter_ns()
        network.step()
        if k >= 100:
            stats.record(times, time.perf_counter_ns() - start)
    return stats.summary(times)


def paced(model: Model, x: np.ndarray, rate: int, hogs: int = 0, use_c_api: bool = True) -> dict[str, Any]:
    """A run through the worker loop in real time, with `hogs` Python threads that never let go of the GIL by themselves."""
    stop = threading.Event()

    def hog() -> None:
        while not stop.is_set():
            sum(i * i for i in range(100_000))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "song.wav"
        soundfile.write(path, x, rate, subtype="FLOAT")
        device = FileDevice(path, 0, model.contract.hop_length / model.contract.sample_rate, len(model.contract.sources))
    live = Live(Separator(model, rate, x.shape[1], "cpu", use_c_api=use_c_api), device)
    live.prepare()
    live.open()
    threads = [threading.Thread(target=hog, daemon=True) for _ in range(hogs)]
    for thread in threads:
        thread.start()
    live.start()
    while not device.finished:
        time.sleep(0.05)
    live.stop()
    stop.set()
    for thread in threads:
        thread.join()
    report = live.report()
    return {key: report[key] for key in ("hops", "late", "missed_blocks", "step_ms", "deadline_ms", "latency_ms")}


def by_level(model: Model, x: np.ndarray, rate: int, rounds: int = 3) -> list[dict[str, Any]]:
    """Median time of a hop back to back, ms, of the same sound as it is, too quiet for full precision, and silent."""
    gains = {"as it is": 1.0, "-780 dB (denormal numbers)": 1e-39, "silent": 0.0}
    times: dict[str, list[float]] = {name: [] for name in gains}
    for _ in range(rounds):  # in turn: the machine is not the same from minute to minute
        for name, gain in gains.items():
            times[name].append(back_to_back(model, (x * np.float32(gain)), rate)["hop_ms"])
    return [{"level": name, "hop_ms": float(np.median(values))} for name, values in times.items()]


def measure(model: Model, seconds: float) -> dict[str, Any]:
    """All figures."""
    cases = []
    for rate, channels in CASES:
        x = song(rate, channels, seconds)
        cases.append(
            {"rate": rate, "channels": channels, "back_to_back": back_to_back(model, x, rate), "paced": paced(model, x, rate)}
        )
    x = song(48_000, 2, seconds)
    hogged = [
        {"path": "C API" if native else "InferenceSession", "hogs": hogs} | paced(model, x, 48_000, hogs, native)
        for native in (True, False)
        for hogs in (0, 1)
    ]
    return {
        "model": model.contract.name,
        "network": f"{model.contract.layers} x {model.contract.hidden} LSTM, {model.contract.precision}",
        "step_ms": network_step(model),
        "cases": cases,
        "by_level": by_level(model, x, 48_000),
        "gil": hogged,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "onnxruntime": onnxruntime.__version__,
        "seconds": seconds,
    }


def markdown(report: dict[str, Any]) -> str:
    """The figures for people."""
    step = report["step_ms"]
    lines = [
        f"Model `{report['model']}` ({report['network']}), onnxruntime {report['onnxruntime']}, {report['machine']}, "
        f"one thread, {report['seconds']:g} s of the bundled song a figure.",
        "",
        f"The network alone, back to back: p50 {step['p50']:.3f}, p99 {step['p99']:.3f} ms.",
        "",
        "| rate, channels | back to back: ms (share of real time) | paced: p50 / p99 / max ms | deadline ms | late hops |",
        "|---|---|---|---|---|",
    ]
    for c in report["cases"]:
        b, p = c["back_to_back"], c["paced"]
        s = p["step_ms"]
        lines.append(
            f"| {c['rate']}, {c['channels']} | {b['hop_ms']:.3f} ({100 * b['real_time_factor']:.1f} %) "
            f"| {s['p50']:.2f} / {s['p99']:.2f} / {s['max']:.2f} | {p['deadline_ms']:.1f} | {p['late']} of {p['hops']} |"
        )
    lines += ["", "| level of the input, 48 kHz stereo | back to back: ms |", "|---|---|"]
    lines += [f"| {r['level']} | {r['hop_ms']:.3f} |" for r in report["by_level"]]
    lines += ["", "| path at 48 kHz stereo, paced | GIL hogs | p50 / p99 / max ms | late hops |", "|---|---|---|---|"]
    for g in report["gil"]:
        s = g["step_ms"]
        numbers = f"{s['p50']:.2f} / {s['p99']:.2f} / {s['max']:.2f}"
        lines.append(f"| {g['path']} | {g['hogs']} | {numbers} | {g['late']} of {g['hops']} |")
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
