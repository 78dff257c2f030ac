"""The C path is the reference, bit by bit; what fails says so and leaves the process and the state alive."""

import gc
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from streamsep import model, ort, ortsession
from tests import graphs
from tests.conftest import ROOT


def run(network, frames):
    masks = []
    for mag in frames:
        network.mag[0, 0] = mag
        assert network.step()
        masks.append(network.mask.copy())
    return np.array(masks)


@pytest.mark.parametrize("which", ["lstm", "live"])
def test_native_step_equals_session(which, request):
    chosen = request.getfixturevalue(which)
    width = chosen.contract.shapes()[chosen.contract.sees][-1]
    frames = np.random.default_rng(0).random((200, width), np.float32) ** 4
    native, session = ort.NativeNetwork(chosen), ort.SessionNetwork(chosen)
    first = run(native, frames)
    np.testing.assert_array_equal(first, run(session, frames))
    assert np.ptp(first, axis=0).max() > 0.01  # the network does answer
    native.reset()
    np.testing.assert_array_equal(run(native, frames), first)  # reset really clears the state


def test_state_is_carried(lstm):
    network = ort.NativeNetwork(lstm)
    frame = np.full((1, 513), 0.1, np.float32)
    first, second = run(network, frame), run(network, frame)
    assert np.abs(first - second).max() > 1e-4


def test_a_failed_step_is_reported_and_keeps_the_state(lstm):
    network, twin = ort.NativeNetwork(lstm), ort.NativeNetwork(lstm)
    frames = np.random.default_rng(1).random((6, 513), np.float32)
    run(network, frames[:3])
    run(twin, frames[:3])
    names = network.compiled.names_in
    broken = network.compiled._replace(names_in=network.compiled.names_out)  # asks for inputs the graph does not have
    network.compiled = broken
    assert not network.step()
    assert not network.step()
    assert "mask" in network.error
    network.compiled = broken._replace(names_in=names)
    np.testing.assert_array_equal(run(network, frames[3:]), run(twin, frames[3:]))
    network.reset()
    assert network.error is None


def test_networks_do_not_disturb_each_other(lstm):
    """Two threads stepping two networks of one model: each keeps its own state."""
    frames = np.random.default_rng(2).random((100, 513), np.float32)
    expected = run(ort.NativeNetwork(lstm), frames)
    results = [None] * 2
    networks = [ort.NativeNetwork(lstm) for _ in results]

    def job(i):
        results[i] = run(networks[i], frames)

    threads = [threading.Thread(target=job, args=(i,)) for i in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_cuda_is_used_or_refused_with_a_reason(lstm):
    reason = ortsession.why_no_cuda()
    if reason is None:
        assert ort.open_network(lstm, "cuda")[0].provider == "cuda"  # and right: test_gpu.py
        return
    with pytest.raises(ort.OrtError, match="use --provider cpu") as caught:
        ort.open_network(lstm, "cuda")
    assert "\n" not in str(caught.value)
    network, notes = ort.open_network(lstm, "auto")
    assert network.provider == "cpu"
    assert notes == [f"cuda: {reason}"]


def test_int8_does_not_go_to_the_gpu(live):
    assert live.contract.precision == "int8"
    network, notes = ort.open_network(live, "auto")
    assert network.provider == "cpu"
    assert "int8" in notes[0]


def test_unknown_provider(lstm):
    with pytest.raises(ValueError, match="provider='tpu'"):
        ort.open_network(lstm, "tpu")


def test_a_graph_that_cannot_run_is_one_error(tmp_path):
    proto = onnx.load(graphs.lstm(tmp_path / "m.onnx"))
    proto.graph.node[3].attribute[0].i = 99  # the LSTM's hidden size
    onnx.save(proto, tmp_path / "bad.onnx")
    with pytest.raises(model.ModelError, match="damaged"):
        model.load(tmp_path / "bad.onnx")


REPORTS = ".cache/Microsoft"  # where ONNX Runtime keeps what it means to send


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="knows the folder on Linux")
def test_onnxruntime_reports_to_nobody(tmp_path):
    """Neither from the command line nor from a program that imports streamsep first; what it would do is looked at as well."""

    def kept(*command, **more):
        home = tmp_path / f"home{len(list(tmp_path.iterdir()))}"
        home.mkdir()
        silent = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_DISABLE_TELEMETRY")  # with these it says nothing of its own accord
        environment = {k: v for k, v in os.environ.items() if k not in silent} | {"HOME": str(home)} | more
        subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=120)
        return (home / REPORTS).exists()

    if not kept("-c", "import onnxruntime"):
        assert [int(n) for n in onnxruntime.__version__.split(".")[:2]] < [1, 29]  # a build that would not report at all
    assert not kept("-c", "import streamsep, onnxruntime")
    assert not kept("-m", "streamsep", "models", "--json")
    assert not kept("-m", "export", "--help")
    assert not kept("-c", "import train.trainer, train.score, onnxruntime")
    for path in (ROOT / "bench").rglob("*.py"):
        text = path.read_text()
        if ours := re.search(r"^import onnxruntime", text, re.MULTILINE):
            assert "import streamsep" in text[: ours.start()], path


def test_networks_are_given_back(lstm):
    def resident():
        return int(re.search(r"VmRSS:\s+(\d+)", Path("/proc/self/status").read_text()).group(1))

    for k in range(220):
        if k == 20:
            before = resident()
        network = ort.NativeNetwork(lstm)
        network.step()
        del network
        gc.collect(0)
    assert resident() - before < 20_000  # kB; a session of this model holds some hundreds, 200 of them 100 MB
    network = ort.NativeNetwork(lstm)
    network.close()
    network.close()  # twice is harmless
