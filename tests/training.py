"""What the training room's tests are made with: recordings that sing badly, and runs of the commands. Imports no torch."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

ROOT = Path(__file__).parents[1]
RATE = 16_000


def voice(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """A gliding harmonic tone with a tremolo [shape=(samples,)]: sings, if badly."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(300 * 2 ** (0.5 * np.sin(2 * np.pi * rng.uniform(0.3, 0.7) * t))) / rate
    return 0.1 * sum(np.sin(k * phase) / k for k in range(1, 9)) * (1 + 0.5 * np.sin(30 * t))


def music(seconds: float, rate: int = RATE, seed: int = 0) -> np.ndarray:
    """Decaying noise, twice a second, and a steady low chord [shape=(samples,)]."""
    rng = np.random.default_rng(seed)
    t = np.arange(round(seconds * rate)) / rate
    beats = rng.standard_normal(len(t)) * np.exp(-15 * (t * 2 % 1))
    return 0.1 * beats + 0.05 * sum(np.sin(2 * np.pi * f * t) for f in rng.uniform(80, 240, 3))


@pytest.fixture(scope="module", name="stems")
def short_songs(tmp_path_factory) -> Path:
    """Four short songs, flat."""
    folder = tmp_path_factory.mktemp("songs")
    for i in range(4):
        soundfile.write(folder / f"song{i}.vocals.wav", voice(5, seed=i), RATE)
        soundfile.write(folder / f"song{i}.accompaniment.wav", music(5, seed=i), RATE)
    return folder


def command(*arguments: object, launcher: tuple[str, ...] = ("train",)) -> subprocess.Popen:
    """`python -m train ARGUMENTS`, or by another module; recordings are kept beside the run."""
    kept = str(arguments[arguments.index("--out") + 1]) + "-cache"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "XDG_CACHE_HOME": kept}
    line = [sys.executable, "-m", *launcher, *map(str, arguments), "--device", "cpu"]
    return subprocess.Popen(line, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
