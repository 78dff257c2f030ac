"""Two processes on this machine, by torchrun and gloo: the same step as one, and a run that can be stopped anywhere."""

import signal

import pytest
import torch

from tests.training import command
from train import checkpoint

SMALL = 'extends = "tiny"\nhidden = 16\nbatch = 4\nseconds = 1.024\nsteps_per_epoch = 5\nema = 0.5\n'
EXACT = "dropout = 0.0\ncarry = 0.0\n"  # nothing that each process draws for itself
TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "train")


def finished(process) -> str:
    """What the process printed, once it ended well."""
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out


def test_gradients_of_two_processes_are_those_of_one(stems, tmp_path):
    config = tmp_path / "exact.toml"
    config.write_text(SMALL + EXACT + "epochs = 1\nwarm_up = 0\n")
    outs = {}
    for name, launcher in (("one", ("train",)), ("two", TORCHRUN)):
        run = (config, "--data", stems, "--out", tmp_path / name, "--set", "steps_per_epoch=1")
        outs[name] = finished(command(*run, launcher=launcher))
    assert outs["two"].count("voices,") == 1  # one of them speaks
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("one", "two"))
    assert two["losses"] == one["losses"] == []
    assert two["history"][0]["loss"] == pytest.approx(one["history"][0]["loss"], abs=1e-5)
    assert two["history"][0]["nsdr_vocals"] == pytest.approx(one["history"][0]["nsdr_vocals"], abs=1e-2)
    # After one step AdamW's first moment is a tenth of the gradient.
    ones, twos = (end["optimizer"][0]["state"] for end in (one, two))
    largest = max(float(s["exp_avg"].abs().max()) for s in ones.values())
    for number, state in ones.items():
        other = twos[number]["exp_avg"]
        torch.testing.assert_close(other, state["exp_avg"], atol=1e-5 * largest, rtol=1e-4)
    for a, b in zip(one["state"], two["state"], strict=True):
        torch.testing.assert_close(b, a, atol=1e-5, rtol=0)  # all rows, in order
        assert a.shape[1] == 4


def test_two_processes_stop_together_and_go_on_bit_by_bit(stems, tmp_path):
    config = tmp_path / "small.toml"
    config.write_text(SMALL + "epochs = 20\n")
    finished(command(config, "--data", stems, "--out", tmp_path / "straight", launcher=TORCHRUN))
    parts = (config, "--data", stems, "--out", tmp_path / "parts")
    process = command(*parts, launcher=TORCHRUN)
    try:
        for line in process.stdout:
            if "epoch    2" in line:
                process.send_signal(signal.SIGTERM)
                break
        process.communicate(timeout=120)
    finally:
        process.kill()
    stopped = checkpoint.load(tmp_path / "parts/last.pt")
    assert 10 <= stopped["step"] < 100
    finished(command(*parts, "--resume", launcher=TORCHRUN))
    ends = [checkpoint.load(tmp_path / name / "last.pt") for name in ("straight", "parts")]
    assert ends[1]["step"] == 100
    for part in ("model", "ema"):
        for name, weight in ends[0][part].items():
            assert torch.equal(weight, ends[1][part][name]), f"{part}: {name}"


def test_a_batch_that_cannot_be_shared_is_refused_by_name(stems, tmp_path):
    process = command("tiny", "--data", stems, "--out", tmp_path, "--set", "batch=3", launcher=TORCHRUN)
    _, err = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "batch=3 cannot be shared by 2 processes: expected a multiple" in err
