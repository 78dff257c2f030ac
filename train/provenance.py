"""Where a run's weights come from: commit, machine, recordings. Names and figures; no paths, no host names."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

from .datasets import DataSet


def commit() -> str:
    """The checkout's git commit, with `+` if files differ from it, or "unknown" outside git."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


EXTRAS = ("mean", "bias", "filters")  # of some runs only: what else their weights began with


def record(content: dict[str, Any]) -> dict[str, Any]:
    """What a run's successor remembers of its checkpoint, for the model's contract."""
    of = {
        "steps": content["step"],
        "minutes": round(content["seconds"] / 60, 1),
        "machine": content.get("machine", "unknown"),
        "commit": content["commit"],
        "seed": content["config"].get("seed", 0),
        "data": content["data"],
        "init": content.get("init"),
    }
    return of | {key: content[key] for key in EXTRAS if content.get(key)}


def lineage(training: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs behind weights, from a contract's `training`, each once and after those whose weights it began with."""
    runs: list[dict[str, Any]] = []

    def visit(run: dict[str, Any]) -> None:
        for before in [*filter(None, [run.get("init"), run.get("filters")]), *run.get("mean", ())]:
            visit(before)
        plain = {key: value for key, value in run.items() if key != "share"}
        if plain not in runs:
            runs.append(plain)

    visit(training)
    return runs


def machine(device: torch.device, processes: int = 1) -> str:
    """What a run computes on, for its model card: "2 cores of AMD EPYC", "1 NVIDIA H100 80GB HBM3"."""
    if device.type == "cuda":
        return f"{processes} {torch.cuda.get_device_name(device)}"
    return f"{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores of {_processor()}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def contribution(data: DataSet, rate: int) -> dict[str, Any]:
    """What a data set contributed, for the model's contract: names and lengths."""
    return {
        "name": data.name,
        "weight": data.weight,
        "recordings": len(data.recordings),
        "voice_minutes": round(sum(len(r.voice) for r in data.recordings if r.voice is not None) / rate / 60, 1),
        "accompaniment_minutes": round(
            sum(len(r.accompaniment) for r in data.recordings if r.accompaniment is not None) / rate / 60, 1
        ),
    }
