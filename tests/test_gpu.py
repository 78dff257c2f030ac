"""The network on a device: as on the CPU, as in PyTorch, for ten minutes with resets; and each known trap of CUDA graphs, set.

Everything runs three times without a GPU: on the CPU's own path, on the device's path over memory of this machine, and there
with graphs as ONNX Runtime keeps them (`tests.device`). On a machine with a GPU it runs on that, too.
"""

import importlib
import subprocess
import sys
import threading
import time

import numpy as np
import onnx
import pytest
import torch
from numba import njit

import export.graph
from streamsep import batch, ort, ortapi, ortsession, rows, worker
from streamsep import model as models
from streamsep.benchmark import handover
from streamsep.devicerows import DeviceRowsNetwork
from streamsep.engine import Separator
from streamsep.live import Live
from streamsep.model import METADATA_KEY
from streamsep.rings import MAX_BLOCK, SAMPLE_RATE, WHEN
from tests import graphs
from tests.conftest import ROOT
from tests.device import Capturing, HostDevice, broken, refusing
from train.model import MaskLSTM
from train.stft import Transform

TOLERANCE = 1e-4  # of a mask
LAYERS, HIDDEN, BINS = 3, 48, 513
MINUTES, HOPS_A_SECOND = 10, 125
KINDS = ("cpu", "device", "device graphs", "cuda", "cuda graphs")
NO_GPU = ortsession.why_no_cuda()


@pytest.fixture(scope="module")
def torch_model():
    torch.manual_seed(3)
    model = MaskLSTM(BINS, HIDDEN, LAYERS, 2).eval()
    with torch.no_grad():
        for name, weights in model.named_parameters():
            if "weight_hh" in name:
                weights.mul_(2.0)  # a memory that lasts
    return model


@pytest.fixture(scope="module")
def model(torch_model, folder, mags):
    """The same as a file."""
    torch_model.standardise(torch.from_numpy(mags[None, :2000]))
    proto = export.graph.build(torch_model)
    contract = graphs.contract(layers=LAYERS, hidden=HIDDEN)
    onnx.helper.set_model_props(proto, {METADATA_KEY: contract.model_dump_json()})
    onnx.save(proto, folder / "three.onnx")
    return models.load(folder / "three.onnx")


@pytest.fixture(scope="module")
def mags(song):
    """Ten minutes of the bundled song at changing levels, magnitudes float32 [shape=(frames, n_bins)]."""
    x, rate = song
    assert rate == 48_000
    mono = torch.from_numpy(x.mean(0)[::3].copy())  # aliases and all: it is sound
    transform = Transform(1024, 256, 128)
    once = transform.magnitude(transform.analyse(mono[None]))[0].numpy()
    frames = MINUTES * 60 * HOPS_A_SECOND
    levels = 10 ** np.random.default_rng(0).uniform(-2, 0, (-(-frames // len(once)), 1, 1))
    return np.concatenate([once * level for level in levels])[:frames].astype(np.float32)


def open_network(model, kind, streams=None):
    """A network of `kind`: one of `NativeNetwork`, or for several `streams`."""
    if kind.startswith("cuda") and NO_GPU:
        pytest.skip(f"no CUDA device: {NO_GPU}")
    provider, device = ("cuda", None) if kind.startswith("cuda") else ("cpu", HostDevice() if kind != "cpu" else None)
    if streams is None:
        network = ort.NativeNetwork(model, provider=provider, device=device)
    elif kind == "cpu":
        return rows.RowsNetwork(model, streams)
    else:
        network = DeviceRowsNetwork(model, streams, provider, device)
    if kind == "device graphs":
        Capturing(network)
    if kind.endswith("graphs"):
        network.warm()
        assert network.notes == []
        assert network._session.graphs
    return network


@pytest.fixture(params=KINDS)
def network(request, model):
    return open_network(model, request.param)


@njit(nogil=True)
def play(step, mag, mask, frames, masks):
    """One hop after the other; how many went well."""
    good = 0
    for k in range(len(frames)):
        mag[:] = frames[k]
        good += ort.step(step)
        masks[k] = mask
    return good


def run(network, frames):
    masks = np.zeros((len(frames), 2, BINS), np.float32)
    assert play(network.compiled, network.mag[0, 0], network.mask[0, 0], frames, masks) == len(frames), network.error
    return masks


# ----------------------------------------------------------------------------------------------------------------- parity


@torch.no_grad()
def test_ten_minutes_with_resets_as_in_pytorch(network, torch_model, mags):
    """Resets after odd and even numbers of hops, so that each of the two state sets is where one falls."""
    first, count, worst = 0, 0, 0.0
    while first < len(mags):
        part = mags[first : first + 8_000 + count % 2]
        expected = torch_model(torch.from_numpy(part[None]), torch_model.initial(1))[0][0].numpy()
        worst = max(worst, float(np.abs(run(network, part) - expected).max()))
        network.reset()
        first, count = first + len(part), count + 1
    assert count == 10
    assert worst <= TOLERANCE
    assert np.ptp(expected, axis=0).max() > 0.1  # the network does answer


def test_without_reset_the_state_is_carried(network, mags):
    first = run(network, mags[:51])
    again = run(network, mags[:51])
    assert np.abs(first[0] - again[0]).max() > 10 * TOLERANCE


def test_dry_runs_change_nothing(network, model, mags):
    expected = run(open_network(model, "cpu"), mags[:40])
    masks = []
    for frame in mags[:40]:
        dry_run(network.compiled)
        masks.append(run(network, frame[None]).copy())
        held = network.mask.copy()
        dry_run(network.compiled)
        np.testing.assert_array_equal(network.mask, held)
    np.testing.assert_allclose(np.concatenate(masks), expected, atol=TOLERANCE)


@njit(nogil=True)
def dry_run(step):
    ort.dry_run(step)


def test_another_thread_goes_on(network, model, mags):
    """Where graphs belong to a thread, another one captures its own, from the state as it is."""
    expected = run(open_network(model, "cpu"), mags[:21])
    masks = [run(network, mags[:7])]
    thread = threading.Thread(target=lambda: masks.append(run(network, mags[7:14])))
    thread.start()
    thread.join()
    masks.append(run(network, mags[14:21]))
    np.testing.assert_allclose(np.concatenate(masks), expected, atol=TOLERANCE)


@pytest.mark.parametrize("kind", KINDS[1:3])
@pytest.mark.parametrize("hops", [4, 5])
def test_a_copy_that_fails_keeps_the_state(model, mags, kind, hops):
    network, twin = open_network(model, kind), open_network(model, "cpu")
    run(network, mags[:hops])
    run(twin, mags[:hops])
    whole, network.compiled = network.compiled, broken(network.compiled)
    assert not network.step()
    assert network.error == "CUDA error 700"
    network.compiled = whole
    np.testing.assert_array_equal(run(network, mags[hops:20]), run(twin, mags[hops:20]))
    network.reset()
    assert network.error is None


@pytest.mark.parametrize("make", [ort.NativeNetwork, DeviceRowsNetwork])
def test_a_network_that_cannot_run_is_refused_at_once(model, make):
    device = HostDevice()
    device.runtime = refusing(device.runtime)
    with pytest.raises(ort.OrtError, match="the network's first run failed: CUDA error 700"):
        make(model, 1, "cpu", device)


# ------------------------------------------------------------------------------------------------- the traps, and each one set


def test_capture_leaves_no_trace(model, mags):
    """Although ONNX Runtime runs the network three times for each graph."""
    network = open_network(model, "device graphs")
    runs, replays, plain = network.capturing.counts
    assert (runs - replays - plain) == 4 * 3
    assert plain == replays == 4
    np.testing.assert_array_equal(run(network, mags[:31]), run(open_network(model, "cpu"), mags[:31]))
    assert network.capturing.counts[1] == 4 + 31  # every hop was a replay


def test_a_state_changed_in_place_would_be_advanced_by_capture(model, mags):
    """What two state sets are for: with one, the same code is found out by the parity test's comparison."""
    network = open_network(model, "device")
    values = network.compiled.values
    values[:3, 0, 1:] = values[:3, 1, 1:] = values[0, 0, 1:]  # A to A
    Capturing(network)
    network.compiled.options[:] = network._numbered
    network.compiled.turn[0] = 0
    expected = run(open_network(model, "cpu"), mags[:9])
    assert np.abs(run(network, mags[:9]) - expected).max() > 10 * TOLERANCE


def test_one_graph_for_both_ways_is_refused(model, mags):
    network = open_network(model, "device")
    Capturing(network, graph_of=[1, 1, 2, 3])
    expected = run(open_network(model, "cpu"), mags[:9])
    network.warm()
    assert network.notes == ["cuda: no CUDA graph: a replayed graph gave other masks than a run"]
    np.testing.assert_array_equal(run(network, mags[:9]), expected)  # it goes on without
    network.compiled.options[:] = network._numbered
    network.reset()
    assert np.abs(run(network, mags[:9]) - expected).max() > 10 * TOLERANCE  # and that would have been heard


def test_a_stale_input_is_refused(model, mags):
    network = open_network(model, "device")
    Capturing(network, stale=True)
    network.warm()
    assert network.notes == ["cuda: no CUDA graph: a replayed graph gave other masks than a run"]
    np.testing.assert_array_equal(run(network, mags[:9]), run(open_network(model, "cpu"), mags[:9]))


def test_the_next_thread_looks_again(model, mags):
    """A device that comes back is a new worker: its graphs are compared with runs, and not with the last worker's graphs."""
    network = open_network(model, "device graphs")
    Capturing(network, stale=True)  # the new thread's: nothing is captured yet
    network.warm()
    assert network.notes == ["cuda: no CUDA graph: a replayed graph gave other masks than a run"]
    assert (network.compiled.options == network._plain).all()
    np.testing.assert_array_equal(run(network, mags[:9]), run(open_network(model, "cpu"), mags[:9]))


def test_a_capture_that_fails_is_a_note(model, mags):
    network = open_network(model, "device")
    Capturing(network)
    names = network.compiled.names_in
    network.compiled = network.compiled._replace(names_in=network.compiled.names_out)
    network.warm()
    assert network.notes[0].startswith("cuda: no CUDA graph: ")
    assert "mask" in network.notes[0]
    network.compiled = network.compiled._replace(names_in=names)
    np.testing.assert_array_equal(run(network, mags[:9]), run(open_network(model, "cpu"), mags[:9]))


@pytest.mark.parametrize("hops", [6, 7])
def test_a_reset_while_graphs_are_captured(model, mags, hops):
    network = open_network(model, "device graphs")
    run(network, mags[:hops])
    network.reset()
    np.testing.assert_array_equal(run(network, mags[:12]), run(open_network(model, "cpu"), mags[:12]))


def test_run_options_are_what_they_are_taken_for():
    """The function at that place of the table: it refuses a key that no option can have."""
    api = ortapi.Api.get()
    options = api.make(ortapi.CREATE_RUN_OPTIONS)
    key, value = ortsession.C.c_char_p(b""), ortsession.C.c_char_p(b"1")
    with pytest.raises(ort.OrtError, match=r"[Kk]ey"):
        api.call(ortapi.ADD_RUN_CONFIG_ENTRY, options, key, value)
    api.release(ortapi.RELEASE_RUN_OPTIONS, options)


# ------------------------------------------------------------------------------------------------------------ many streams


@pytest.mark.parametrize("kind", KINDS)
def test_streams_hear_nothing_of_each_other(model, mags, kind):
    """Some take part, some do not, some begin anew: each as if it were alone."""
    streams, random = 5, np.random.default_rng(1)
    network = open_network(model, kind, streams)
    alone = [open_network(model, "cpu") for _ in range(streams)]
    stepped = np.zeros(streams, np.int64)
    for k in range(120):
        members = np.flatnonzero(random.random(streams) < 0.7)
        for stream in np.flatnonzero(random.random(streams) < 0.05):
            network.compiled.fresh[stream] = 1
            alone[stream].reset()
        for stream in members:
            network.compiled.mag[stream] = mags[100 * stream + k]
        stepped[:] = -1
        step(network.compiled, members, stepped)
        assert (np.flatnonzero(stepped == 1) == members).all()
        for stream in members:
            expected = run(alone[stream], mags[100 * stream + k][None])[0]
            np.testing.assert_allclose(network.compiled.mask[stream], expected, atol=TOLERANCE)


@njit
def step(network, members, stepped):
    batch.step_network(network, members, stepped)


def test_a_failed_step_of_many_keeps_their_states(model, mags):
    network, twin = open_network(model, "device", 3), open_network(model, "device", 3)
    members, stepped = np.arange(3), np.zeros(3, np.int64)
    for k in range(9):
        for n in (network, twin):
            n.compiled.mag[:] = mags[[k, 50 + k, 90 + k]]
        if k == 4:
            step(broken(network.compiled), members, stepped)
            assert not stepped.any()
        step(network.compiled, members, stepped)
        assert stepped.all()
        step(twin.compiled, members, stepped)
    np.testing.assert_array_equal(network.compiled.mask, twin.compiled.mask)


# --------------------------------------------------------------------------------------------------------------- in the house


def separator(model, network, monkeypatch):
    monkeypatch.setattr(ort, "open_network", lambda *_: (network, []))
    return Separator(model, 48_000, 2)


def test_a_separator_is_the_same_on_a_device(model, song, monkeypatch):
    x = song[0][:, :48_000]
    expected = Separator(model, 48_000, x.shape[0], "cpu").process(x)
    network = open_network(model, "device graphs")
    monkeypatch.setattr(ort, "open_network", lambda *_: (network, []))
    made = Separator(model, 48_000, x.shape[0])
    np.testing.assert_array_equal(made.process(x), expected)
    assert network.capturing.counts[1] > 100


def test_the_worker_captures_in_its_own_thread_and_keeps_warm(model, song, monkeypatch):
    network = open_network(model, "device")
    network.provider = "cuda"
    Capturing(network)
    seen, warm = [], network.warm
    network.warm = lambda: (seen.append(threading.current_thread().name), warm())
    x = np.ascontiguousarray(song[0].T)
    made = handover.measure(separator(model, network, monkeypatch), x, 60)
    assert seen == ["streamsep-worker"]
    assert network._session.graphs
    assert made.report["failed_steps"] == made.report["bad_masks"] == 0
    assert network.capturing.counts[1] > 60 + 20  # hops, and dry runs between them


@pytest.mark.parametrize(
    ("since", "every", "expected"),
    [
        (100, 1, 1),  # ms after a block, a second before the next one
        (700, 1, 0),  # soon
        (1_500, 1, 0),  # due for half a second: it is waited for
        (2_500, 1, 1),  # there is none
        (2_500, 2_000, 1),
        (100, 200, 0),  # too early after the hop
        (2_500, 0, 0),  # never
    ],
)
def test_dry_runs_never_when_a_hop_is_due(model, monkeypatch, since, every, expected):
    network = open_network(model, "device")
    capturing = Capturing(network)
    made = separator(model, network, monkeypatch)
    sound = np.zeros((4096, 2), np.float32)
    live = Live(made, handover.PacedDevice(sound, 48_000, 384, 4, 10))
    desk = live._make_desk()
    header = live.rings.header
    header[[MAX_BLOCK, SAMPLE_RATE]] = 48_000
    header[WHEN] = time.monotonic_ns() - since * 1_000_000
    desk.warmth[worker.EVERY] = every * 1_000_000
    worker.keep_warm(desk)
    assert capturing.counts[0] == expected
    assert (desk.warmth[worker.LAST] > 0) == bool(expected)
    if every == 2_000:
        worker.keep_warm(desk)  # not again so soon
        assert capturing.counts[0] == expected


def test_on_the_cpu_nothing_is_kept_warm(model):
    made = Separator(model, 48_000, 2, "cpu")
    live = Live(made, handover.PacedDevice(np.zeros((4096, 2), np.float32), 48_000, 384, 4, 10))
    assert live._make_desk().warmth[worker.EVERY] == 0


# ---------------------------------------------------------------------------------------------------------- asked for a GPU


needs_none = pytest.mark.skipif(NO_GPU is None, reason="there is a GPU here")
REQUIRING = [
    ("separate", "SONG", "-o", "OUT"),
    ("run", "--input", "file:SONG", "--output", "none", "--osc-port", "0"),
    ("bench", "--hops", "10"),
    ("engine", "--idle", "0"),
]


def streamsep(*words, **places):
    words = [w.replace("SONG", str(places.get("song"))).replace("OUT", str(places.get("out"))) for w in words]
    return subprocess.run([sys.executable, "-m", "streamsep", *words], capture_output=True, text=True, timeout=120, check=False)


@needs_none
@pytest.mark.parametrize("words", REQUIRING, ids=lambda words: words[0])
def test_who_requires_a_gpu_gets_exit_code_3_and_one_line(words, model, song_file, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    done = streamsep(*words, "--model", str(model.path), "--require-gpu", song=song_file, out=tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert done.stderr.count("\n") == 1
    assert NO_GPU in done.stderr
    assert not (tmp_path / "out").exists()


@needs_none
@pytest.mark.parametrize("words", REQUIRING[:2], ids=lambda words: words[0])
def test_who_wishes_one_is_told_and_goes_on(words, model, song_file, tmp_path):
    more = ["--duration", "0.5"] if words[0] == "run" else []
    done = streamsep(*words, *more, "--model", str(model.path), "--provider", "cuda", "--json", song=song_file, out=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stderr.splitlines() if "runs on the CPU" in line]
    assert len(told) == 1
    assert NO_GPU in told[0]
    assert "cpu" in done.stdout


def test_the_shipped_model_is_not_for_a_gpu_and_says_so(song_file, tmp_path):
    done = streamsep("separate", "SONG", "-o", "OUT", "--require-gpu", song=song_file, out=tmp_path / "out")
    assert done.returncode == 3
    assert "int8" in done.stderr


def test_the_cpu_is_no_gpu(tmp_path):
    (tmp_path / "c.toml").write_text("provider = 'cpu'\nrequire_gpu = true\n")
    for words in (("run", "--config", str(tmp_path / "c.toml")), ("bench", "--provider", "cpu", "--require-gpu")):
        done = streamsep(*words)
        assert done.returncode == 2
        assert "expected provider 'auto' or 'cuda'" in done.stderr


# ------------------------------------------------------------------------------------------------------------ the benchmark


@pytest.fixture
def gpu(monkeypatch):
    """bench/gpu.py, with memory of this machine for the device."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    module = importlib.import_module("gpu")
    native_network, rows_network = ort.NativeNetwork, DeviceRowsNetwork

    def made(network):
        Capturing(network)
        return network

    def one(model, provider):
        return native_network(model) if provider == "cpu" else made(native_network(model, device=HostDevice()))

    monkeypatch.setattr(module.ort, "NativeNetwork", one)
    monkeypatch.setattr(
        module.devicerows, "DeviceRowsNetwork", lambda model, n: made(rows_network(model, n, "cpu", HostDevice()))
    )
    changes = {
        "MINUTES": 0.2,
        "PART": 501,
        "HOP": 200_000,
        "EVERY": 50_000,
        "WARM_UP": 5,
        "STREAM_HOPS": 20,
        "MOST_STREAMS": 128,
    }
    for name, value in changes.items():
        monkeypatch.setattr(module, name, value)
    return module


def test_the_benchmark_measures_what_it_says(gpu, tmp_path, monkeypatch):
    """Each part but the card's own, then the page; a difference too large and a part that failed are told."""
    monkeypatch.setattr(gpu, "MOST_MS", 1e9)
    gpu.make_network(tmp_path, "2x16")
    report = {"network": "2x16", "floor": {"error": "exit code 1: no card"}}
    report |= {name: gpu.PARTS[name](tmp_path, 30) for name in ("parity", "one", "streams")}
    parity = report["parity"]
    assert (parity["hops"], parity["resets"]) == (1500, 2)
    assert all(parity[name] <= TOLERANCE for name in ("cpu, first minute", "cuda", "cuda, captured graphs"))
    assert len(report["one"]) == 6
    assert all(figures["failed"] == 0 for figures in report["one"].values())
    assert report["streams"]["largest"] == 128
    assert report["streams"]["tried"][128]["graph"]
    parity["cuda"] = 0.01
    text = gpu.markdown(report)
    assert "the card: failed: exit code 1: no card" in text
    assert "0.01, **too much**" in text
    assert "128 streams hold" in text


def test_the_benchmark_finds_a_graph_that_is_wrong(gpu, tmp_path, monkeypatch):
    made = gpu.ort.NativeNetwork

    def with_one_graph(model, provider):
        network = made(model, provider)
        if provider == "cuda":
            Capturing(network, graph_of=[1, 1, 2, 3])
        return network

    monkeypatch.setattr(gpu.ort, "NativeNetwork", with_one_graph)
    gpu.make_network(tmp_path, "1x16")
    assert "other masks than a run" in str(gpu.parity(tmp_path, 0)["cuda, captured graphs"])


@needs_none
def test_without_a_gpu_the_benchmark_says_not_run():
    done = subprocess.run([sys.executable, ROOT / "bench" / "gpu.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"Not run: {NO_GPU}.")


@pytest.mark.parametrize(
    "name", ["soundfile", "sounddevice", "rocket_fft", "aiohttp", "rich", "click", "jack", "zeroconf", "soxr"]
)
def test_the_benchmark_needs_no_more_than_it_says(name):
    code = (
        f"import sys; sys.modules[{name!r}] = None; sys.path.insert(0, 'bench'); import gpu; from train.model import MaskLSTM"
    )
    code += "; from export import graph"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
