"""How fast `streamsep separate` is on one core, what memory it takes, where the time goes, and how near it is to live sound.

    python bench/offline.py [--model live] [--minutes 10] [--rounds 5] [--json]

The bundled song round and round, 48 kHz stereo, through `offline.separate` from file to file, in a process of its own bound to
one core. Speeds are seconds of sound a second: by the clock, and by the processor's time, which other programs on the machine
disturb less; the median of the rounds, and the fastest, for a machine whose neighbours take turns. Memory is the process's
peak beyond what it had taken when the model was loaded.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from streamsep import jit_cache

RATE, NEAR_SECONDS, STAGE_CALLS = 48_000, 10, 200


def song(path: Path, seconds: float) -> None:
    """The bundled song's mixture, repeated."""
    from streamsep import demo, soundfiles

    x = sum(soundfiles.read(p)[0] for p in demo.STEMS.values())
    assert isinstance(x, np.ndarray)
    left = int(seconds * RATE)
    with soundfile.SoundFile(path, "w", RATE, 2, "PCM_24") as file:
        while left > 0:
            file.write(x[:, :left].T)
            left -= x.shape[1]


def child(path: Path, model: str) -> dict[str, float]:
    """One separation, in this process."""
    from streamsep import offline
    from streamsep.model import load

    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    loaded = load(model)
    with tempfile.TemporaryDirectory() as folder:
        short = Path(folder) / "short.wav"
        song(short, 1)
        offline.separate(short, folder, loaded)  # compiled and warm
        before = resource.getrusage(resource.RUSAGE_SELF)
        clock = time.perf_counter()
        result = offline.separate(path, folder, loaded)
        clock = time.perf_counter() - clock
        after = resource.getrusage(resource.RUSAGE_SELF)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": result.seconds,
        "times_real_time": result.seconds / clock,
        "times_real_time_cpu": result.seconds / used,
        "growth_mib": (after.ru_maxrss - before.ru_maxrss) / 1024,
        "peak_mib": after.ru_maxrss / 1024,
    }


def near(path: Path, model: str) -> dict[str, float]:
    """How far samples are from the streaming result: at most, and the noise below the sound, dB."""
    from streamsep import offline
    from streamsep.engine import Separator
    from streamsep.frames import Frames
    from streamsep.model import load

    x = np.ascontiguousarray(soundfile.read(path, frames=NEAR_SECONDS * RATE, dtype="float32")[0].T)
    loaded = load(model)
    live = Separator(loaded, RATE, 2, "cpu")
    y = np.concatenate([live.process(x), live.flush()], axis=2)[:, :, live.latency :]
    z = np.concatenate(list(offline.aligned(Frames(Separator(loaded, RATE, 2, "cpu")), [x])), axis=2)
    noise = np.sum((z - y) ** 2, dtype=np.float64)
    below = 10 * np.log10(np.sum(y**2, dtype=np.float64) / noise) if noise else float("inf")
    return {"max": float(np.abs(z - y).max()), "snr_db": below}


def stages(path: Path, model: str) -> dict[str, float]:
    """Where a hop's time goes, µs of the processor's time."""
    from streamsep import frames
    from streamsep.engine import Separator
    from streamsep.model import load
    from streamsep.stems import Form, writing

    separator = Separator(load(model), RATE, 2, "cpu")
    many = frames.Frames(separator, together=False)
    together = frames.Frames(Separator(load(model), RATE, 2, "cpu"), together=True)
    s, w = separator.state, many._work
    y = np.empty((len(separator.sources), 2, many.samples), np.float32)
    with (
        soundfile.SoundFile(path) as source,
        tempfile.TemporaryDirectory() as folder,
        writing([Path(folder) / f"{i}.wav" for i in range(len(y))], Form(), RATE, 2, 0) as stems,
    ):
        x = np.ascontiguousarray(source.read(many.samples, dtype="float32").T)
        work = {
            "read": lambda: source.read(many.samples, dtype="float32").T.copy(),
            "analysis": lambda: frames.analyse(s, w, x),
            "network, a frame a call": lambda: many._step(frames.FRAMES),
            "network, many frames a call": lambda: together._step(frames.FRAMES),
            "masks and synthesis": lambda: frames.synthesise(s, w, frames.FRAMES, y),
            "write": lambda: stems.write(y),
        }
        for do in work.values():
            do()
        return {name: _cpu(do) / frames.FRAMES for name, do in work.items()}


def _cpu(do: Any) -> float:
    start = time.thread_time()
    for _ in range(STAGE_CALLS):
        do()
    return 1e6 * (time.thread_time() - start) / STAGE_CALLS


def measure(model: str, minutes: float, rounds: int) -> dict[str, Any]:
    """All figures."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "song.wav"
        song(path, 60 * minutes)
        command = [sys.executable, __file__, "--model", model, "--child", str(path)]
        runs = [
            json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout) for _ in range(rounds)
        ]
        run = {key: statistics.median(r[key] for r in runs) for key in runs[0]}
        run["times_real_time_fastest"] = max(r["times_real_time"] for r in runs)
        return {"model": model, "rounds": rounds, "run": run, "near": near(path, model), "stages_us": stages(path, model)}


def markdown(r: dict[str, Any]) -> str:
    """The figures for people."""
    run, n = r["run"], r["near"]
    apart = "no bit" if n["max"] == 0 else f"{n['max']:.1e} at most, {n['snr_db']:.0f} dB below"
    speed = f"{run['times_real_time']:.1f} (fastest {run['times_real_time_fastest']:.1f})"
    figures = [speed, f"{run['times_real_time_cpu']:.1f}", f"{run['growth_mib']:.0f}", apart]
    lines = [
        f"`streamsep separate` of {run['seconds'] / 60:g} minutes at 48 kHz stereo by `{r['model']}`, one core, file to "
        f"file; {r['rounds']} rounds.",
        "",
        "| times real time | by the processor's time | memory beyond the loaded model, MiB | from live sound |",
        "|---|---|---|---|",
        f"| {' | '.join(figures)} |",
    ]
    lines += ["", "| stage | µs a hop, processor's time |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {us:.1f} |" for name, us in r["stages_us"].items())])


def main() -> None:
    """Measure and print."""
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", default="live", help="shipped name or .onnx file (%(default)s)")
    p.add_argument("--minutes", type=float, default=10, help="of sound (%(default)s)")
    p.add_argument("--rounds", type=int, default=5, help="(%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    p.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    arguments = p.parse_args()
    jit_cache.use()
    if arguments.child:
        print(json.dumps(child(arguments.child, arguments.model)))
        return
    report = measure(arguments.model, arguments.minutes, arguments.rounds)
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
