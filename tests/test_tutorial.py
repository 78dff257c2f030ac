"""The tutorial, with less time to learn: it trains, exports, runs, and what it made is a model that separates."""

import os
import re
import subprocess
import sys

import pytest

from streamsep import model as models
from tests.conftest import ROOT

pytestmark = pytest.mark.timeout(600)  # it computes on all there is, and may have to compile first

TUTORIAL = ROOT / "examples" / "tutorial"


def run(script, *arguments, cwd):
    line = [sys.executable, TUTORIAL / script, *map(str, arguments)]
    # One thread: on a pair of cores that others use, two wait for each other.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500, check=False)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tutorial")
    return folder, run("first_model.py", "--minutes", 0.4, cwd=folder)


def test_it_makes_a_model_that_the_runtime_takes(done):
    folder, told = done
    assert told.returncode == 0, told.stdout + told.stderr
    contract = models.load(folder / "first-model" / "first.onnx").contract
    assert (contract.name, contract.precision, contract.latency_ms, contract.hidden) == ("first", "int8", 16.0, 96)
    assert contract.quality["parity"]["mask_snr_db"] >= 20
    assert contract.training["validation"] == ["2-new"]
    assert contract.training["steps"] > 0


def test_it_separates_what_it_learnt_from_and_what_it_never_heard(done):
    _, told = done
    gains = [float(gain) for gain in re.findall(r"(?:vocals|accompaniment) ([+-]\d+\.\d) dB over the mixture", told.stdout)]
    assert len(gains) == 4
    assert min(gains) > 0, gains


def test_what_it_shows_are_commands_that_give_what_it_says(done):
    folder, told = done
    shown = [line[2:] for line in told.stdout.splitlines() if line.startswith("$ ")]
    assert [line.split(" first-model")[0] for line in shown] == [
        "python -m train", "python -m export", "streamsep separate", "streamsep separate"
    ]  # fmt: skip
    for name in ("run/curve.png", "run/metrics.csv", "stems/2-new/vocals.wav", "stems/2-new/spectrograms.png"):
        assert (folder / "first-model" / name).stat().st_size > 0


def test_a_second_time_nothing_is_overwritten(done):
    folder, _ = done
    again = run("first_model.py", cwd=folder)
    assert again.returncode == 2
    assert "holds a model already: give another --out" in again.stderr


def test_the_example_from_python_runs(tmp_path):
    told = run("from_python.py", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "('vocals', 'accompaniment') at 48000 Hz, 16 ms late" in told.stdout
    assert "'failed_steps': 0" in told.stdout
