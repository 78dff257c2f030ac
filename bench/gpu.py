"""The network on a GPU: parity with PyTorch and the CPU, latency of one stream, the card's floor, and how many streams hold.

    python bench/gpu.py --write            about six minutes; writes the section `gpu` of bench/RESULTS.md
    python bench/gpu.py [--network 3x1000] [--hops 3000] [--json]

It needs no more than a checkout, Python 3.11, PyTorch with CUDA, numpy, numba with llvmlite, onnx, onnxruntime-gpu for the same
CUDA (1.31: CUDA 13, cuDNN 9), and pydantic with what that needs (pydantic-core, annotated-types, typing-inspection,
typing-extensions); a folder of unpacked wheels on PYTHONPATH will do. ONNX Runtime finds CUDA and cuDNN in the wheels that
PyTorch brought. Where there is no GPU it says "not run", and why.

    parity   ten minutes of synthetic sound with resets: the largest difference of any mask between PyTorch (float32, TF32 off),
             ONNX Runtime on the GPU hop by hop, with captured graphs and without, and on the CPU (the first minute)
    one      steps of one stream paced at 8 ms, as the daemon makes them (magnitudes there, masks back, from compiled code):
             with and without a captured graph, with and without dry runs in between, and back to back
    floor    how long the card takes to read the weights once, and do nothing else
    streams  steps of many streams at once, paced at 8 ms: the most whose p99 is below 4 ms. The network only: transforms and
             masking are the processor's, 30 to 60 µs a stream and hop, on as many cores as that takes

Each part runs in a process of its own: one that fails, or hangs, leaves the others' figures. Weights are random: that changes
no time, and parity is the harder for it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import page  # type: ignore[import-not-found]  # beside this file
from numba import njit
from numpy.typing import NDArray

sys.path.insert(0, str(page.ROOT))
os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")  # before anybody loads NVIDIA's libraries: PyTorch comes first here

from streamsep import devicerows, model, native, ort, ortsession

TITLE = "On a GPU"
HOP = 8_000_000  # ns
EVERY = 2_000_000  # ns between two dry runs
RATE, N_FFT, HOP_LENGTH = 16_000, 1024, 128
MINUTES, PART = 10, 7_501  # of sound; hops between two resets, an odd number
TOLERANCE = 1e-4
MOST_MS, MOST_STREAMS, STREAM_HOPS = 4.0, 8192, 400
WARM_UP = 200
TIMEOUT = 150  # s for each part

Report = dict[str, Any]


# ------------------------------------------------------------------------------------------------------------ compiled loops


@njit(nogil=True)
def sleep_until(due, clock):  # type: ignore[no-untyped-def]
    """Sleep until `due`, ns of the monotonic clock."""
    left = due - native.monotonic_ns(clock.gettime)
    while left > 0:
        native.sleep_ns(clock.nanosleep, min(left, 100_000_000))
        left = due - native.monotonic_ns(clock.gettime)


@njit(nogil=True)
def one(step, mag, mags, period, every, clock, times):  # type: ignore[no-untyped-def]
    """Steps of one stream, one each `period` ns (0: at once); dry runs each `every` ns (0: none); `times` gets ns of each."""
    native.flush_denormals()
    start, good = native.monotonic_ns(clock.gettime) + period, 0
    for k in range(times.size):
        due = start + k * period
        while every and native.monotonic_ns(clock.gettime) + every < due:
            ort.dry_run(step)
            sleep_until(min(due, native.monotonic_ns(clock.gettime) + every), clock)
        if period:
            sleep_until(due, clock)
        mag[:] = mags[k % mags.shape[0]]
        begin = native.monotonic_ns(clock.gettime)
        good += ort.step(step)
        times[k] = native.monotonic_ns(clock.gettime) - begin
    return good


@njit(nogil=True)
def many(network, members, stepped, period, clock, times):  # type: ignore[no-untyped-def]
    """The same for all streams of `network` at once."""
    native.flush_denormals()
    start, good = native.monotonic_ns(clock.gettime) + period, 0
    for k in range(times.size):
        sleep_until(start + k * period, clock)
        begin = native.monotonic_ns(clock.gettime)
        devicerows.step(network, members, stepped)
        times[k] = native.monotonic_ns(clock.gettime) - begin
        good += stepped.min()
    return good


@njit(nogil=True)
def masks_of(step, mag, mask, mags, masks):  # type: ignore[no-untyped-def]
    """The masks of one magnitude after the other; how many steps went well."""
    good = 0
    for k in range(mags.shape[0]):
        mag[:] = mags[k]
        good += ort.step(step)
        masks[k] = mask
    return good


def in_a_thread(job: Callable[[], Any]) -> Any:
    """What `job` returns, run in a thread with the worker's priority: graphs belong to the thread that captures them."""
    with ThreadPoolExecutor(1, initializer=lambda: native.become_realtime(native.WORKER_PRIORITY)) as pool:
        return pool.submit(job).result()


def figures(ns: NDArray[np.int64]) -> dict[str, float]:
    """p50, p99, p99.9 and maximum, ms."""
    ms = ns / 1e6
    found = {f"p{q:g}": float(np.percentile(ms, q, method="inverted_cdf")) for q in (50, 99, 99.9)}
    return {name: round(value, 4) for name, value in (found | {"max": float(ms.max())}).items()}


# ------------------------------------------------------------------------------------------------------------ what is measured


def sound(seconds: float) -> NDArray[np.float32]:
    """Magnitudes of gliding harmonics, noise bursts and silences at changing levels, float32 [shape=(frames, n_bins)]."""
    random = np.random.default_rng(0)
    t = np.arange(int(seconds * RATE)) / RATE
    pitch = 110 * 2 ** (np.interp(t, np.arange(0, seconds + 2, 0.5), random.uniform(0, 2, int(2 * seconds) + 4)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    x = sum(np.sin(h * phase) / h for h in range(1, 12))
    bursts = np.repeat(random.random(len(t) // 2000 + 1) < 0.2, 2000)[: len(t)]
    x = x + bursts * random.normal(0, 0.5, len(t))
    x = x * np.repeat(10 ** random.uniform(-4, 0, len(t) // RATE + 1), RATE)[: len(t)]
    window = np.sqrt(np.hanning(N_FFT + 1)[:-1])
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(x, (N_FFT - HOP_LENGTH, 0)), N_FFT)[::HOP_LENGTH]
    parts = [np.abs(np.fft.rfft(part * window)) for part in np.array_split(frames, max(1, len(frames) // 4096))]
    return (np.concatenate(parts) * 2 / window.sum()).astype(np.float32)


def make_network(folder: Path, name: str) -> None:
    """`name`, LAYERSxHIDDEN, with random weights: as a model file, and for PyTorch."""
    import onnx
    import torch

    from export import graph
    from train.model import MaskLSTM

    layers, hidden = map(int, name.split("x"))
    contract = model.load("live").contract
    torch.manual_seed(0)
    network = MaskLSTM(contract.n_bins, hidden, layers, len(contract.sources)).eval()
    network.standardise(torch.from_numpy(sound(60)[None]))
    changes = {"layers": layers, "hidden": hidden, "precision": "fp32", "name": name, "filters": None}
    made = graph.build(network)
    onnx.helper.set_model_props(made, {model.METADATA_KEY: contract.model_copy(update=changes).model_dump_json()})
    onnx.save(made, folder / "network.onnx")
    torch.save(network, folder / "network.pt")


def parity(folder: Path, _: int) -> Report:
    """Largest differences from PyTorch."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    there = "cuda" if torch.cuda.is_available() else "cpu"
    network = torch.load(folder / "network.pt", weights_only=False).to(there)
    loaded, mags = model.load(folder / "network.onnx"), sound(60 * MINUTES)
    found: Report = {"hops": len(mags), "resets": len(mags) // PART, "pytorch": f"{torch.__version__} on {there}"}
    expected = []
    with torch.no_grad():
        for first in range(0, len(mags), PART):
            part = torch.from_numpy(mags[first : first + PART][None]).to(there)
            expected.append(network(part, network.initial(1))[0][0].cpu().numpy())
    found["masks_range"] = [round(float(m), 3) for m in (min(e.min() for e in expected), max(e.max() for e in expected))]

    def worst(provider: str, graphs: bool, parts: int) -> float:
        n = ort.NativeNetwork(loaded, provider=provider)
        if graphs:
            n.warm()
            if n.notes:
                raise RuntimeError(n.notes[0])
        largest = 0.0
        for k, wanted in enumerate(expected[:parts]):
            masks = np.zeros_like(wanted)
            n.reset()
            good = masks_of(n.compiled, n.mag[0, 0], n.mask[0, 0], mags[k * PART :][: len(wanted)], masks)
            if good < len(wanted):
                raise RuntimeError(f"{len(wanted) - good} steps failed: {n.error}")
            largest = max(largest, float(np.abs(masks - wanted).max()))
        return largest

    jobs = {
        "cpu, first minute": partial(worst, "cpu", False, 1),
        "cuda": partial(worst, "cuda", False, len(expected)),
        "cuda, captured graphs": partial(worst, "cuda", True, len(expected)),
    }
    for name, job in jobs.items():
        try:
            found[name] = in_a_thread(job)
        except (RuntimeError, ort.OrtError) as error:
            found[name] = str(error)
    return found


def one_stream(folder: Path, hops: int) -> Report:
    """Steps of one stream in all variants, ms."""
    loaded, mags, clock = model.load(folder / "network.onnx"), sound(8), native.clock()
    found: Report = {}
    for graphs in (True, False):
        n = ort.NativeNetwork(loaded, provider="cuda")

        def measure(n: ort.NativeNetwork = n, graphs: bool = graphs) -> None:
            if graphs:
                n.warm()
                if n.notes:
                    raise RuntimeError(n.notes[0])
            for name, period, every in (("paced", HOP, 0), ("paced, kept warm", HOP, EVERY), ("back to back", 0, 0)):
                for count in (WARM_UP, hops):
                    times = np.zeros(count, np.int64)
                    good = one(n.compiled, n.mag[0, 0], mags, period, every, clock, times)
                found[f"{'graph' if graphs else 'no graph'}, {name}"] = figures(times) | {"failed": hops - int(good)}

        try:
            in_a_thread(measure)
        except RuntimeError as error:
            found["graph" if graphs else "no graph"] = {"failed": str(error)}
        n.close()
    return found


def floor(folder: Path, _: int) -> Report:
    """The card, and how long it takes to read as many bytes as the weights are."""
    import torch

    size = (folder / "network.onnx").stat().st_size
    properties = torch.cuda.get_device_properties(0)
    words = torch.ones(size // 4, device="cuda")
    others = torch.ones(1 << 28, device="cuda")  # 1 GiB: more than any cache of a card
    times: dict[str, list[float]] = {"warm": [], "cold": []}
    for k in range(60):
        for name in times:
            if name == "cold":
                others.sum()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            words.sum()
            end.record()
            end.synchronize()
            if k > 9:
                times[name].append(begin.elapsed_time(end))
    ms = {name: round(float(np.median(values)), 4) for name, values in times.items()}
    return {
        "card": properties.name,
        "memory_gib": round(properties.total_memory / 2**30),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "onnxruntime": ort.onnxruntime.__version__,
        "bytes": size,
        "read_ms": ms,
        "read_gb_s": {name: round(size / value / 1e6) for name, value in ms.items()},
    }


def streams(folder: Path, _: int) -> Report:
    """Steps of many streams, and the most whose p99 is below `MOST_MS`."""
    loaded, clock = model.load(folder / "network.onnx"), native.clock()
    tried: dict[int, Report] = {}

    def holds(count: int) -> bool:
        n = devicerows.DeviceRowsNetwork(loaded, count)
        n.compiled.mag[:] = sound(4)[:1]
        members, stepped = np.arange(count), np.zeros(count, np.int64)

        def measure() -> tuple[NDArray[np.int64], int]:
            n.warm()
            for hops in (WARM_UP, STREAM_HOPS):
                times = np.zeros(hops, np.int64)
                good = many(n.compiled, members, stepped, HOP, clock, times)
            return times, good

        times, good = in_a_thread(measure)
        tried[count] = figures(times) | {"failed": STREAM_HOPS - int(good), "graph": not n.notes, "error": n.error}
        n.close()
        return bool(good == STREAM_HOPS and tried[count]["p99"] < MOST_MS)

    good, bad = 0, 128
    while bad <= MOST_STREAMS and holds(bad):
        good, bad = bad, 2 * bad
    while bad <= MOST_STREAMS and bad - good > max(16, good // 16):
        middle = (good + bad) // 32 * 16
        good, bad = (middle, bad) if holds(middle) else (good, middle)
    return {"largest": good, "tried": dict(sorted(tried.items()))}


PARTS: dict[str, Callable[[Path, int], Report]] = {
    "floor": floor,
    "parity": parity,
    "one": one_stream,
    "streams": streams,
}


def measure(network: str, hops: int) -> Report:
    """All parts, each in a process of its own; `not_run` says why where there is no GPU."""
    if why := ortsession.why_no_cuda():
        return {"not_run": why}
    report: Report = {"network": network, "hops": hops}
    with tempfile.TemporaryDirectory() as folder:
        make_network(Path(folder), network)
        for name in PARTS:
            print(f"gpu: {name}", file=sys.stderr, flush=True)
            report[name] = apart(name, folder, hops)
    return report


def apart(name: str, folder: str, hops: int) -> Report:
    """One part in another process; {"error": why} where it fails."""
    command = [sys.executable, __file__, "--part", name, "--folder", folder, "--hops", str(hops)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"took more than {TIMEOUT} s"}
    if done.returncode:
        print(done.stderr, file=sys.stderr)
        return {"error": f"exit code {done.returncode}: {(done.stderr.strip() or 'no word').splitlines()[-1]}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


# ------------------------------------------------------------------------------------------------------------ told


def markdown(r: Report) -> str:
    """The section for people."""
    if "not_run" in r:
        return f"Not run: {r['not_run']}. `bench/gpu.py` says what it measures and what it needs."
    return "\n\n".join([_card(r["floor"], r["network"]), _parity(r["parity"]), _one(r["one"]), _streams(r["streams"])])


def _failed(title: str, part: Report) -> str:
    return f"{title}: failed: {part['error']}"


def _card(f: Report, network: str) -> str:
    if "error" in f:
        return _failed(f"Network {network}, the card", f)
    read = f["read_ms"]
    return (
        f"`bench/gpu.py`, network {network} with random weights, {f['bytes'] / 1e6:.1f} MB in float32, {f['card']} "
        f"({f['memory_gib']} GiB), CUDA {f['cuda']}, cuDNN {f['cudnn']}, onnxruntime {f['onnxruntime']}. To read the "
        f"weights once takes the card {read['warm']:.3f} ms warm, {read['cold']:.3f} ms cold."
    )


def _parity(p: Report) -> str:
    if "error" in p:
        return _failed("Parity", p)
    rows = {name: value for name, value in p.items() if name.startswith(("cpu", "cuda"))}
    lines = [
        f"{p['hops']} hops with {p['resets']} resets against PyTorch {p['pytorch']}; {TOLERANCE:g} is allowed:",
        "",
        "| | largest difference of a mask |",
        "|---|---|",
    ]
    for name, value in rows.items():
        told = f"failed: {value}" if isinstance(value, str) else f"{value:.2g}{'' if value <= TOLERANCE else ', **too much**'}"
        lines.append(f"| {name} | {told} |")
    return "\n".join(lines)


def _one(part: Report) -> str:
    if "error" in part:
        return _failed("One stream", part)
    lines = ["One stream, a step each 8 ms:", "", "| | p50 / p99 / p99.9 / max ms | failed |", "|---|---|---|"]
    return "\n".join(lines + [f"| {name} | {_times(f)} | {f['failed']} |" for name, f in part.items()])


def _streams(part: Report) -> str:
    if "error" in part:
        return _failed("Many streams", part)
    lines = [
        f"{part['largest']} streams hold (p99 of the network's step below {MOST_MS:g} ms, one each 8 ms):",
        "",
        "| streams | p50 / p99 / p99.9 / max ms | failed | graph |",
        "|---|---|---|---|",
    ]
    return "\n".join(
        lines + [f"| {n} | {_times(f)} | {f['failed']} | {'yes' if f['graph'] else 'no'} |" for n, f in part["tried"].items()]
    )


def _times(f: Report) -> str:
    return " / ".join(f"{f[key]:.3f}" for key in ("p50", "p99", "p99.9", "max")) if "p50" in f else ""


def main() -> None:
    """Measure and print, or write."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--network", default="3x1000", help="LAYERSxHIDDEN (%(default)s)")
    p.add_argument("--hops", type=int, default=2500, help="of each paced figure (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--write", action="store_true", help="write the section of bench/RESULTS.md")
    p.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    p.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = p.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "4")
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments.folder, arguments.hops)))
        return
    page.commit()
    report = measure(arguments.network, arguments.hops)
    if arguments.write:
        page.write("gpu", TITLE, markdown(report))
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
