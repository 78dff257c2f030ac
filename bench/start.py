"""How long streamsep takes to start: the import, the help, and `streamsep run` up to its first separated hop.

    python bench/start.py [--rounds 5] [--json]

Each round is a process of its own with a warm cache of compiled code (the first, which may compile, is not counted). Sound
comes from a file, so no audio server has a part in it; the first separated hop is seen over OSC, by asking every few
milliseconds. Where the time goes is Python's own account of one start (`-X importtime`), by package.
"""

import argparse
import collections
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import soundfile
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from streamsep import demo, jit_cache

LIMITS = {"import streamsep": 0.3, "streamsep run, to the first separated hop": 1.5}
ASK_EVERY = 0.004  # s


def timed(*command: str) -> float:
    """Seconds that a process takes from its start to its end."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def to_first_hop(song: Path) -> tuple[float, float]:
    """Seconds, and seconds of processor time, until a daemon that plays `song` has separated something."""
    command = [sys.executable, "-m", "streamsep", "run", "--input", f"file:{song}", "--osc-port", "0", "--json"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        port = _port(process)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            while _hops(client, port) < 1:
                time.sleep(ASK_EVERY)
        elapsed = time.perf_counter() - start
    finally:
        process.terminate()
        process.wait()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return elapsed, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr
    for line in process.stderr:
        if found := re.search(r"OSC on 127\.0\.0\.1:(\d+)", line):
            return int(found[1])
    raise RuntimeError("the daemon did not start")


def _hops(client: socket.socket, port: int) -> int:
    client.sendto(build_msg("/streamsep/status", []).dgram, ("127.0.0.1", port))
    values = OscMessage(client.recv(65536)).params
    return int(dict(zip(values[::2], values[1::2], strict=True)).get("hops", 0))


def imports() -> dict[str, float]:
    """ms that the imports of a daemon take, by package, from the most on; those that matter."""
    code = "from streamsep import jit_cache; jit_cache.use(); import streamsep.cli.run, streamsep.daemon"
    done = subprocess.run([sys.executable, "-X", "importtime", "-c", code], check=True, stderr=subprocess.PIPE, text=True)
    spent: collections.Counter[str] = collections.Counter()
    for self_us, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s*(\S+)", done.stderr):
        spent[name.partition(".")[0].lstrip("_")] += int(self_us)
    return {name: us / 1e3 for name, us in spent.most_common(8)}


def measure(rounds: int) -> dict[str, Any]:
    """All figures, s; medians."""
    with tempfile.TemporaryDirectory() as folder:
        song = Path(folder) / "song.wav"
        x, rate = soundfile.read(demo.STEMS["vocals"])
        soundfile.write(song, x, rate)
        to_first_hop(song)
        starts = [to_first_hop(song) for _ in range(rounds)]
    return {
        "interpreter": statistics.median(timed("-c", "pass") for _ in range(rounds)),
        "import streamsep": statistics.median(timed("-c", "import streamsep") for _ in range(rounds)),
        "streamsep --help": statistics.median(timed("-m", "streamsep", "--help") for _ in range(rounds)),
        "streamsep run, to the first separated hop": statistics.median(s for s, _ in starts),
        "the same, processor time to its end": statistics.median(c for _, c in starts),
        "imports_ms": imports(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


def markdown(r: dict[str, Any]) -> str:
    """The figures for people."""
    lines = [
        "Fresh processes, warm cache of compiled code, the interpreter's own start included.",
        "",
        "| | s | goal |",
        "|---|---|---|",
    ]
    lines += [
        f"| {name} | {s:.2f} | {LIMITS.get(name, '')} |" for name, s in r.items() if isinstance(s, float) and name != "load"
    ]
    spent = ", ".join(f"{name} {ms:.0f}" for name, ms in r["imports_ms"].items())
    return "\n".join([*lines, "", f"Imports, ms: {spent}. Load of the machine ({r['cores']} cores): {r['load']:.1f}."])


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=5, help="processes for each figure (%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    jit_cache.use()
    report = measure(arguments.rounds)
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
