"""The plugin in a host, paced in real time: what run() takes, and the late hops of many instances beside each other.

    python bench/plugin.py [--instances 10] [--block 128] [--seconds 60] [--json]

The host is tests/lv2_host.c: all instances, one after the other, for each block of the bundled song, as a mixer's graph calls
them. The engine is a process of its own, started here and warm; its figures are what it reports itself. Needs a C compiler.
"""

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from streamsep.demo import STEMS  # noqa: E402
from streamsep.plugin import SPACE, engine, engine_lock, install  # noqa: E402
from streamsep.soundfiles import read  # noqa: E402

RATE = 48_000


def build(folder: Path) -> tuple[Path, Path]:
    """The plugin's object and the host."""
    install.build(folder)
    host = folder / "lv2_host"
    sources = ["-I", str(install.SOURCE), "-o", str(host), str(ROOT / "tests" / "lv2_host.c")]
    subprocess.run([*install.compiler(), "-std=gnu11", "-O2", *sources, "-ldl", "-lpthread"], check=True)
    return folder / install.OBJECT, host


def song(seconds: float) -> np.ndarray:
    """The bundled song's mixture round and round, `[shape=(frames, 2)]`."""
    mixture = sum(read(path)[0] for path in STEMS.values())
    frames = int(seconds * RATE)
    return np.resize(np.asarray(mixture, np.float32), (frames, 2))


def measure(instances: int, block: int, seconds: float) -> dict[str, Any]:
    """What the host and the engine say of so many seconds."""
    os.environ[SPACE] = f"bench{os.getpid()}"
    os.environ["PYTHONPATH"] = str(ROOT)
    command = [sys.executable, "-P", "-m", "streamsep", "engine", "--idle", "60"]
    serving = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plugin, host = build(folder)
            song(seconds).tofile(folder / "in.f32")
            options = ["--instances", instances, "--blocks", block, "--nominal", block, "--paced", "--connect", "--wait", 2]
            play = [host, plugin, "play", folder / "in.f32", folder / "out.f32", *options]
            done = subprocess.run(
                list(map(str, play)), check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
            )
            served = engine.running() or {}
    finally:
        serving.send_signal(signal.SIGTERM)
        serving.wait(30)
        engine_lock().unlink(missing_ok=True)
    said = json.loads(done.stdout)
    if not said["all_connected"]:
        raise SystemExit("plugin: not every instance found the engine; run it again, it may have been compiling")
    return said | {
        "instances": instances,
        "block": block,
        "seconds": seconds,
        "hops": int(instances * seconds * 125),
        "latency_ms": round(1e3 * said["latency"] / RATE, 2),
        "engine": {key: served[key] for key in ("calls", "hops", "call_ms", "realtime")},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


HEAD = (
    "| instances | latency, ms | run() p50, us | p99, us | max, us | late hops | of | hops in a call | call p99, ms |\n|"
    + 9 * "---|"
)


def line(r: dict[str, Any]) -> str:
    """One row of the table."""
    served = r["engine"]
    together = served["hops"] / max(1, served["calls"])
    cells = (
        f"{r['instances']} | {r['latency_ms']:.1f}",
        *(f"{r[key]:.1f}" for key in ("p50_us", "p99_us", "max_us")),
        f"{r['late']:.0f} | {r['hops']} | {together:.1f} | {served['call_ms']['p99']:.2f}",
    )
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("--instances", type=int, default=10, help="(%(default)s)")
    p.add_argument("--block", type=int, default=128, help="samples at 48 kHz (%(default)s)")
    p.add_argument("--seconds", type=float, default=60, help="(%(default)s)")
    p.add_argument("--json", action="store_true", help="one JSON object")
    arguments = p.parse_args()
    started = time.monotonic()
    report = measure(arguments.instances, arguments.block, arguments.seconds)
    report["elapsed_s"] = round(time.monotonic() - started, 1)
    print(json.dumps(report, indent=2) if arguments.json else f"{HEAD}\n{line(report)}")


if __name__ == "__main__":
    main()
