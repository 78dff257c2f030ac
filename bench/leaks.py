"""Does anything grow? Memory over a million hops of the live path, and handles over a thousand starts and stops of the daemon.

    python bench/leaks.py [--hops 1000000] [--cycles 1000] [--json]

Hops: the daemon's own worker between its own rings, fed by a device without a clock, which hands over the next block as soon
as the last has been worked off. Cycles: `streamsep run` from the configuration to the report, all but the process: model,
session, engine, device, OSC server, threads. What is counted is the kernel's: resident memory, open files, threads.

Growth is measured from a tenth of the run on: until then allocators and caches fill.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from streamsep import daemon, model
from streamsep.config import Config
from streamsep.demo import STEMS
from streamsep.engine import Separator
from streamsep.live import Live
from streamsep.rings import ARMED, IN_READ, IN_WRITE, STOP, Rings, exchange

BATCH = 32  # hops in one block of the device without a clock


def held() -> dict[str, float]:
    """What this process holds now: resident memory (MB), open files, threads."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return {
        "rss_mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
    }


def growth(samples: list[dict[str, float]]) -> dict[str, Any]:
    """First, last and largest of each figure, and by how much it grew."""
    return {
        key: {"first": s[0], "last": s[-1], "most": max(s), "growth": round(s[-1] - s[0], 3)}
        for key in samples[0]
        for s in [[round(sample[key], 3) for sample in samples]]
    }


class Unclocked:
    """A device that plays the bundled song round and round, as fast as it is worked off."""

    name, steady, latency, sample_rate = "unclocked", True, 0.0, 48_000
    in_channels, out_channels = 2, 4
    routes: Any = None

    def __init__(self, hop: int) -> None:
        song = sum(soundfile.read(path, dtype="float32")[0] for path in STEMS.values())
        size = BATCH * hop
        self._blocks = [np.ascontiguousarray(song[at : at + size]) for at in range(0, len(song) - size, size)]
        self._played = np.zeros((size, self.out_channels), np.float32)
        self._thread: threading.Thread | None = None
        self.finished = False

    def start(self, rings: Rings) -> None:
        """Begin to hand over."""
        self._thread = threading.Thread(target=self._run, args=(rings,), daemon=True)
        self._thread.start()

    def _run(self, rings: Rings) -> None:
        header, turn = rings.header, 0
        while not self.finished and not header[STOP]:
            if header[ARMED] and header[IN_WRITE] - header[IN_READ] >= len(self._played) // BATCH:
                time.sleep(0.0005)
                continue
            exchange(header, rings.inward, rings.outward, self._blocks[turn % len(self._blocks)], self._played)
            turn += 1
            if not header[ARMED]:
                time.sleep(0.001)

    def set_latency(self, samples: int) -> None:
        """Nobody asks."""

    def stop(self) -> None:
        """End it."""
        self.finished = True
        if self._thread:
            self._thread.join()


def over_hops(hops: int, name: str) -> dict[str, Any]:
    """The live path for `hops` hops."""
    loaded = model.load(name)
    hop = loaded.contract.hop_length * Unclocked.sample_rate // loaded.contract.sample_rate
    live = Live(Separator(loaded, Unclocked.sample_rate, Unclocked.in_channels, "cpu"), Unclocked(hop))
    live.prepare()
    live.open()
    live.start()
    samples: list[dict[str, float]] = []
    start = time.monotonic()
    for share in np.linspace(0.1, 1, 19):
        while live.separator.counts["hops"] < share * hops:
            time.sleep(0.01)
        samples.append(held())
    seconds = time.monotonic() - start
    live.stop()
    report = live.report()
    done = {
        "hops": report["hops"],
        "seconds": round(seconds, 1),
        "lost": report["lost"],
        "failed_steps": report["failed_steps"],
    }
    return done | growth(samples)


def over_cycles(cycles: int, name: str) -> dict[str, Any]:
    """`daemon.run` again and again, a few hops each."""
    samples = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "song.wav"
        soundfile.write(path, soundfile.read(STEMS["vocals"], frames=4800)[0], 48_000)
        settings = {
            "input": f"file:{path}",
            "output": "none",
            "model": name,
            "provider": "cpu",
            "osc_port": 0,
            "duration": 0.05,
        }
        config = Config.model_validate(settings)
        start = time.monotonic()
        for cycle in range(cycles):
            _run_once(config)
            if cycle >= cycles // 10:
                gc.collect()
                samples.append(held())
    return {"cycles": cycles, "seconds": round(time.monotonic() - start, 1)} | growth(samples)


def _run_once(config: Config) -> None:
    announced: list[object] = []
    daemon.run(config, announced.append, lambda line: None, threading.Event())
    if not announced:
        raise RuntimeError("the daemon did not start")


def markdown(report: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["| run | resident memory: first -> last (most) MB | open files | threads |", "|---|---|---|---|"]
    for title, r in (
        (f"{report['over_hops']['hops']:,} hops", report["over_hops"]),
        ("starts and stops", report["over_cycles"]),
    ):
        name = title if title[0].isdigit() else f"{r['cycles']:,} {title}"
        m, f, t = r["rss_mb"], r["files"], r["threads"]
        lines.append(
            f"| {name} in {r['seconds']:.0f} s | {m['first']:.2f} -> {m['last']:.2f} ({m['most']:.2f}) "
            f"| {f['first']:.0f} -> {f['last']:.0f} | {t['first']:.0f} -> {t['last']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--hops", type=int, default=1_000_000, help="(%(default)s)")
    p.add_argument("--cycles", type=int, default=1000, help="(%(default)s)")
    p.add_argument("--model", default="live", help="shipped name or .onnx file (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    report = {
        "over_hops": over_hops(arguments.hops, arguments.model),
        "over_cycles": over_cycles(arguments.cycles, arguments.model),
    }
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
