"""Ways to have the network's step start warm, measured against each other: what each gains, and what it costs.

    python bench/variants.py [--network live|LAYERSxHIDDEN:int8|LAYERSxHIDDEN:fp32] [--hops 500] [--rounds 5] [--json]

A step of one stream reads every weight once, and between two hops others use the caches. So what can be won lies in the
milliseconds before the hop is due:

    plain           asleep until then, as a hop that is waited for
    poll            wakes up 32 times a hop to look, as the daemon's worker does
    spin            awake for the last 0.3 ms, doing nothing
    touch           reads all memory that making the session took (its weights, packed for the kernels, lie in there)
    dry run         a step with a state of its own, whose result is thrown away
    dry run + spin  the same, and awake from there on
    dry runs        one after the other, for eight times as long as a warm one takes (`streamsep run --rehearse`)
    dry runs + spin the same, and awake from there on
    no packing, own allocator       the session made with these options
    small pages     without streamsep.hugepages, which puts the memory that making the session took on pages of 2 MiB

Paced at 8 ms. `here`: as this machine leaves the caches between hops. `swept`: a buffer larger than the last cache is read
after each step (at 32 ms), as if neighbours took all of it. The variants take turns, `--rounds` times, some hops each: read
the ratios to `plain`. `work` is the processor time of a hop, the step's own included. LAYERSxHIDDEN is a network of random
weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from numba import carray, njit
from numpy.typing import NDArray

from streamsep import hugepages, model, native, ort, ortsession
from streamsep.benchmark import machine
from streamsep.benchmark.floor import Floor, add_up
from streamsep.benchmark.hops import figures, sleep_until
from streamsep.benchmark.threads import in_realtime_thread
from streamsep.benchmark.weights import weights
from streamsep.rings import make_rings
from streamsep.worker import dry_runs, lead

SPIN, POLL, DRY, TOUCH, MORE = 1, 2, 4, 8, 16
HOP, SWEPT_HOP = 8_000_000, 32_000_000  # ns
SPIN_FOR = 300_000  # ns
LEAD = 1.5  # a single dry run, or touching, begins so many plain steps before the hop is due
SMALL = "small pages"
SESSIONS: dict[str, dict[str, str]] = {
    "": {},
    "no packing": {"session.disable_prepacking": "1"},
    "own allocator": {"session.use_device_allocator_for_initializers": "1"},
    SMALL: {},
}
VARIANTS: dict[str, tuple[int, str]] = {
    "plain": (0, ""),
    "poll": (POLL, ""),
    "spin": (SPIN, ""),
    "touch": (TOUCH, ""),
    "touch + spin": (TOUCH | SPIN, ""),
    "dry run": (DRY, ""),
    "dry run + spin": (DRY | SPIN, ""),
    "dry runs": (MORE, ""),
    "dry runs + spin": (MORE | SPIN, ""),
    "no packing": (0, "no packing"),
    "own allocator": (0, "own allocator"),
    SMALL: (0, SMALL),
    "small pages, dry runs": (MORE, SMALL),
}


@njit(nogil=True)
def touch(places):  # type: ignore[no-untyped-def]
    """Read one word of each cache line of the memory `places` `[shape=(n, 2)]`, addresses and bytes."""
    total = np.int64(0)
    for n in range(places.shape[0]):
        words = carray(native.pointer(places[n, 0]), (places[n, 1] // 8,), np.int64)
        for i in range(0, words.size, 8):
            total += words[i]
    return total


@njit(nogil=True)
def awake_until(due, clock):  # type: ignore[no-untyped-def]
    """Spin."""
    while native.monotonic_ns(clock.gettime) < due:
        pass


@njit(nogil=True)
def wait(kind, due, ahead, takes, period, step, places, header, clock):  # type: ignore[no-untyped-def]
    """Until `due`, in the way of `kind`; ns of processor time that took, what a warm dry run takes, and a number."""
    begin, total = due, np.int64(0)
    if kind & POLL:
        while native.monotonic_ns(clock.gettime) < due:
            native.sleep_ns(clock.nanosleep, min(period // 32, 500_000))
    if kind & (DRY | TOUCH | MORE):
        sleep_until(due - (lead(takes, HOP) if kind & MORE else ahead), clock)
        begin = native.monotonic_ns(clock.gettime)
        if kind & MORE:
            takes = dry_runs(step, header, 1, takes, due, clock)
        elif kind & DRY:
            ort.dry_run(step)
        else:
            total = touch(places)
    elif kind & SPIN:
        sleep_until(due - SPIN_FOR, clock)
        begin = native.monotonic_ns(clock.gettime)
    if kind & SPIN:
        awake_until(due, clock)
    end = native.monotonic_ns(clock.gettime)
    sleep_until(due, clock)
    return max(0, end - begin), takes, total


@njit(nogil=True)
def run(kind, ahead, period, step, places, mags, mag, others, header, clock, times, spent, stop):  # type: ignore[no-untyped-def]
    """Steps paced at `period` ns; `times` `[shape=(hops,)]` gets ns of each, `spent` also what waiting cost.

    `header`: of rings where no hop ever comes in.
    """
    native.flush_denormals()
    start, takes, total = native.monotonic_ns(clock.gettime) + period, np.int64(HOP // 8), np.int64(0)
    for k in range(times.size):
        if stop[0]:
            break
        cost, takes, seen = wait(kind, start + k * period, ahead, takes, period, step, places, header, clock)
        mag[:] = mags[k % mags.shape[0]]
        begin = native.monotonic_ns(clock.gettime)
        ort.step(step)
        times[k] = native.monotonic_ns(clock.gettime) - begin
        spent[k] = times[k] + cost
        total += seen
        if others.size:
            total += add_up(others)
    return total


class Network(NamedTuple):
    """A session, and the memory that making it took: where it begins, and bytes."""

    network: ort.NativeNetwork
    places: NDArray[np.int64]


def open_network(loaded: model.Model, key: str) -> Network:
    """A network with a session of its own, as `key` of `SESSIONS` and the pages say, and its places in memory."""
    before = hugepages.places()
    pages = contextlib.nullcontext if key == SMALL else hugepages.huge_pages
    with mock.patch.multiple(ortsession, CONFIG=ortsession.CONFIG | SESSIONS[key], huge_pages=pages):
        network = ort.NativeNetwork(loaded)
    network.step()
    found = [(begin, end - begin) for begin, end in hugepages.grown(before, hugepages.places())]
    return Network(network, np.array(found, np.int64).reshape(-1, 2))


def load_network(name: str, folder: Path) -> model.Model:
    """A shipped model, a file, or LAYERSxHIDDEN:PRECISION with random weights."""
    size, _, precision = name.partition(":")
    if precision not in ("int8", "fp32") or "x" not in size:
        return model.load(name)
    layers, hidden = map(int, size.split("x"))
    path = folder / f"{layers}x{hidden}.onnx"
    # Elsewhere: what PyTorch leaves behind in this process' memory would be used again for the session (see `places`).
    maker = multiprocessing.get_context("spawn").Process(target=make_network, args=(path, layers, hidden, precision))
    maker.start()
    maker.join()
    return model.load(path)


def make_network(path: Path, layers: int, hidden: int, precision: str) -> None:
    """A model file with random weights."""
    import onnx
    import torch

    from export.exporter import write
    from train.model import MaskLSTM

    torch.manual_seed(0)
    shipped = model.load("live").contract
    write(MaskLSTM(shipped.n_bins, hidden, layers, len(shipped.sources)).eval(), path, precision)  # type: ignore[arg-type]
    changes = {"layers": layers, "hidden": hidden, "precision": precision, "name": f"{layers}x{hidden}", "filters": None}
    graph = onnx.load(path)
    onnx.helper.set_model_props(graph, {model.METADATA_KEY: shipped.model_copy(update=changes).model_dump_json()})
    onnx.save(graph, path)


def measure(name: str, hops: int, rounds: int) -> dict[str, Any]:
    """Every variant, here and swept; ms."""
    with tempfile.TemporaryDirectory() as folder:
        loaded = load_network(name, Path(folder))
        networks = {key: open_network(loaded, key) for key in SESSIONS}
        floor = Floor(weights(loaded.path).bytes, HOP)
    floor.measure()
    swept = np.ones(3 * machine.last_cache_bytes() // 8, np.int64)
    nothing, header, clock = np.zeros(0, np.int64), no_hops(), native.clock()
    mags = np.random.default_rng(0).random((64, loaded.contract.n_bins), np.float32) ** 4
    plain = _typical(networks[""], mags, clock)
    found: dict[str, Any] = {}
    for place, others, period in (("here", nothing, HOP), ("swept", swept, SWEPT_HOP)):
        got: dict[str, list[NDArray[np.int64]]] = {variant: [] for variant in VARIANTS}
        for _ in range(rounds):
            for variant, (kind, key) in VARIANTS.items():
                times, spent = np.zeros((2, max(10, hops * HOP // period // rounds)), np.int64)
                n = networks[key]
                ahead = int(LEAD * plain)
                arguments = (n.network.compiled, n.places, mags, n.network.mag[0, 0], others, header, clock, times, spent)
                in_realtime_thread(partial(run, kind, ahead, period, *arguments))
                got[variant].append(np.array([times, spent]))
        for variant, parts in got.items():
            times, spent = np.concatenate(parts, axis=1)
            found.setdefault(variant, {})[place] = {"step_ms": figures(times / 1e6), "work_ms": figures(spent / 1e6)}
    floor.measure()
    return {"network": name, "floor_ms": floor.ms(), "floor_bytes": floor.bytes, "variants": found}


def no_hops() -> NDArray[np.int64]:
    """The header of rings where no hop is."""
    return make_rings(1, 1, 1, 1).header


def _typical(n: Network, mags: NDArray[np.float32], clock: native.Clock) -> float:
    """A plain step's median, ns, with all compiled before."""
    times, spent = np.zeros((2, 40), np.int64)
    nothing = np.zeros(0, np.int64)
    for kind in (0, DRY, TOUCH | SPIN, MORE):
        fixed = (n.network.compiled, n.places, mags, n.network.mag[0, 0], nothing, no_hops(), clock, times, spent)
        in_realtime_thread(partial(run, kind, SPIN_FOR, HOP, *fixed))
    return float(np.median(times))


def markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    floor, base = report["floor_ms"], report["variants"]["plain"]
    lines = [
        f"`bench/variants.py`, network {report['network']}, weights {report['floor_bytes'] / 1e6:.1f} MB; memory floor warm "
        f"{floor['warm']:.3f}, cold {floor['cold']:.3f} ms.",
        "",
        "| variant | here p50 / p99 ms | to plain | over the cold floor | work p50 ms | swept p50 / p99 ms | to plain |",
        "|---|---|---|---|---|---|---|",
    ]
    for variant, r in report["variants"].items():
        here, swept = (r[place]["step_ms"] for place in ("here", "swept"))
        ratios = [
            f"{s['p50'] / base[place]['step_ms']['p50']:.2f} / {s['p99'] / base[place]['step_ms']['p99']:.2f}"
            for place, s in (("here", here), ("swept", swept))
        ]
        lines.append(
            f"| {variant} | {here['p50']:.3f} / {here['p99']:.3f} | {ratios[0]} | {here['p50'] / floor['cold']:.2f} "
            f"| {r['here']['work_ms']['p50']:.3f} | {swept['p50']:.3f} / {swept['p99']:.3f} | {ratios[1]} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--network", default="live", help="(%(default)s)")
    p.add_argument("--hops", type=int, default=500, help="of each variant (%(default)s)")
    p.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    report = measure(arguments.network, arguments.hops, arguments.rounds)
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
