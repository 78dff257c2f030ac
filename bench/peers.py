"""Other streaming separators and denoisers beside streamsep: the same sound, the same minute, one thread each.

    python bench/peers.py [--blocks 1000] [--rounds 2] [--only NAME] [--json]

Makes `.venv-peers` by itself (bench/peers.txt, about 1.5 GB, most of it PyTorch) so that streamsep's own environment stays as
it is. Every peer is a process of its own (bench/peer.py), through the interface that its package offers from Python; so is
streamsep here. They take turns, `--rounds` times, so that a change of the machine's mood meets all of them. What cannot be
installed or does not run is in the table with the reason.

Algorithmic latency is what windows and look-ahead delay, the gathering of a block included; no device, no hand-over. Quality is
no part of this: the peers' tasks differ, and where weights are random only the architecture's speed is shown.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from peer import PEERS  # type: ignore[import-not-found]  # beside this file

from streamsep.benchmark import machine
from streamsep.benchmark.hops import figures
from streamsep.benchmark.sound import song

ROOT = Path(__file__).resolve().parents[1]
PLACE, LIST = ROOT / ".venv-peers", ROOT / "bench" / "peers.txt"
RATES = (16_000, 44_100, 48_000)
MODES = ("back_to_back", "paced")
INSTALL_SECONDS, RUN_SECONDS = 1800, 600


def requirements() -> dict[str, list[str]]:
    """What bench/peers.txt asks for, and the peers that need it."""
    lines = (line.partition("#") for line in LIST.read_text().splitlines())
    return {package.strip(): [name.strip() for name in names.split(",")] for package, _, names in lines if package.strip()}


def environment(names: list[str], place: Path) -> dict[str, str]:
    """Install what the peers `names` need and is not there; of those lines that could not be installed, why."""
    stamp = place / "installed.json"
    done: dict[str, str] = json.loads(stamp.read_text()) if stamp.exists() else {}
    wanted = [package for package, users in requirements().items() if set(users) & set(names)]
    if wanted and not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    for package in wanted:
        if done.get(package) != "":  # what failed before is tried again
            print(f"peers: installing {package}", file=sys.stderr)
            done[package] = _install(package, place)
            stamp.write_text(json.dumps(done))
    return {package: done[package] for package in wanted if done[package]}


def _install(requirement: str, place: Path) -> str:
    """Install it; "" or pip's last word."""
    command = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement]
    done = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False)
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
    return (errors or done.stderr.splitlines() or ["pip failed"])[-1] if done.returncode else ""


def run(name: str, songs: Path, blocks: int, place: Path) -> dict[str, Any]:
    """One process: what bench/peer.py prints, or why it prints nothing as `failed`."""
    python = sys.executable if name == "streamsep" else str(place / "bin" / "python")
    path = {"PYTHONPATH": str(ROOT)} if name == "streamsep" else {}
    command = [python, "-W", "ignore", "bench/peer.py", name, str(songs), "--blocks", str(blocks)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=os.environ | path, timeout=RUN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"took longer than {RUN_SECONDS} s"}
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def measure(names: list[str], blocks: int, rounds: int, place: Path = PLACE) -> dict[str, Any]:
    """All peers in turn; figures in ms over the blocks of all rounds."""
    failed = environment(names, place)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        for rate in RATES:
            np.save(Path(folder) / f"{rate}.npy", song(rate, 2))
        for turn in range(rounds):
            for name in names:
                if not any("failed" in done for done in runs[name]):
                    print(f"peers: {name}, round {turn + 1} of {rounds}", file=sys.stderr)
                    runs[name].append(run(name, Path(folder), blocks, place))
    return {
        "peers": {name: summary(done) for name, done in runs.items()},
        "not_installed": failed,
        "blocks": blocks,
        "rounds": rounds,
        "machine": machine.machine(),
        "when": time.strftime("%Y-%m-%d"),
    }


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One peer's figures from its rounds."""
    for done in runs:
        if "failed" in done:
            return done
    first = runs[0]
    hop_ms, latency_ms = (1e3 * first[key] / first["sample_rate"] for key in ("hop", "latency"))
    facts = {key: first[key] for key in ("sample_rate", "channels", "parameters", "what", "realtime")}
    times = {mode: np.concatenate([done[mode] for done in runs]) / 1e6 for mode in MODES}
    return {
        **facts,
        "hop_ms": round(hop_ms, 3),
        "latency_ms": round(latency_ms, 3),
        **{f"{mode}_ms": figures(ms) for mode, ms in times.items()},
        "ms_per_second": round(figures(times["paced"])["p50"] * 1e3 / hop_ms, 2),
        "late": int((times["paced"] > hop_ms).sum()),
        "paced_blocks": len(times["paced"]),
    }


def markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    m = report["machine"]
    priority = "real-time" if m["realtime"] else "ordinary"
    lines = [
        f"`bench/peers.py`, {m['cpu']}, {m['cores']} cores, {priority} priority, one thread; {report['rounds']} rounds of",
        f"{report['blocks']} blocks, each program's own, called from Python. Paced: one block when it is due, asleep between.",
        "The programs' tasks differ, and random weights show speed only.",
        "",
        "| program | what it does | parameters | hop / latency ms | back to back p50 / p99 ms | paced p50 / p99 / p99.9 ms "
        "| paced, ms for a second of sound | late |",
        "|---|---|---|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(_row(name, peer) for name, peer in report["peers"].items()), *_missing(report)])


def _row(name: str, peer: dict[str, Any]) -> str:
    if "failed" in peer:
        return f"| {name} | not run: {peer['failed'].replace('|', '/')} | | | | | | |"
    loop, paced = peer["back_to_back_ms"], peer["paced_ms"]
    size = f"{peer['parameters'] / 1e6:.2f} M" if peer["parameters"] else "not told"
    return (
        f"| {name} | {peer['what']} | {size} | {peer['hop_ms']:.1f} / {peer['latency_ms']:.1f} "
        f"| {loop['p50']:.2f} / {loop['p99']:.2f} | {paced['p50']:.2f} / {paced['p99']:.2f} / {paced['p99.9']:.2f} "
        f"| {peer['ms_per_second']:.1f} | {peer['late']} of {peer['paced_blocks']} |"
    )


def _missing(report: dict[str, Any]) -> list[str]:
    reasons = [f"- `{line}` could not be installed here: {reason}" for line, reason in report["not_installed"].items()]
    return ["", *reasons] if reasons else []


def main() -> None:
    """Measure and print."""
    brief, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=brief, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--blocks", type=int, default=1000, help="of each round and way (%(default)s)")
    p.add_argument("--rounds", type=int, default=2, help="(%(default)s)")
    p.add_argument("--only", action="append", choices=PEERS, help="may be given again")
    p.add_argument("--place", type=Path, default=PLACE, help="of the peers' environment (.venv-peers)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    report = measure(arguments.only or list(PEERS), arguments.blocks, arguments.rounds, arguments.place)
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
