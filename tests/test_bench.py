"""The benchmark is held to its accounts: what it measures is the engine, its parts add up, its report needs nothing else.

No test asks how fast this machine is.
"""

import json
import math
import os
import re
import signal
import subprocess
import sys
import threading
from html.parser import HTMLParser

import numpy as np
import onnx
import pytest

from streamsep import StreamsepError, model
from streamsep.benchmark import floor, handover, hops, loads, machine, measuring, sound, streams, weights
from streamsep.engine import Separator
from tests import graphs
from tests.conftest import ROOT, need
from tests.test_cli import fails, run

RANKS = ("p50", "p99", "p99.9", "max")
BENCH = str(ROOT / "bench")


def in_order(figures):
    ranks = [figures[rank] for rank in RANKS]
    return ranks[0] > 0 and ranks == sorted(ranks) and 0 < figures["mean"] <= figures["max"]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(report, folder) of one run of the command."""
    folder = tmp_path_factory.mktemp("bench") / "made"
    result = run("bench", "--hops", 60, "-o", folder, "--json")
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    return json.loads(result.stdout), folder


# ------------------------------------------------------------------------------------------------------------ accounting


def test_the_figures_add_up(kept):
    r, _ = kept
    assert set(r["stages"]) == {"stft", "network", "masks_istft", "handover"}
    for figures in (*r["stages"].values(), r["hop_ms"], r["live"]["hop_ms"], r["live"]["response_ms"]):
        assert in_order(figures), figures
    parts = [r["stages"][name] for name in ("stft", "network", "masks_istft")]
    bare = r["stages"]["stft"]["mean"] + r["stages"]["masks_istft"]["mean"]
    assert r["without_network_ms"]["mean"] == pytest.approx(bare, abs=1e-4)
    assert sum(part["mean"] for part in parts) == pytest.approx(r["hop_ms"]["mean"], abs=1e-4)
    assert max(part["max"] for part in parts) <= r["hop_ms"]["max"] <= sum(part["max"] for part in parts) + 1e-4
    live = r["live"]
    assert r["stages"]["handover"]["mean"] + live["hop_ms"]["mean"] == pytest.approx(live["response_ms"]["mean"], abs=1e-4)
    assert r["step_ms"] == r["stages"]["network"]
    assert r["deadline_ms"] == 8
    assert r["real_time_factor"] == pytest.approx(r["hop_ms"]["mean"] / 8, abs=1e-4)
    assert r["floor_ms"]["warm"] > 0
    assert r["floor_ms"]["cold"] > 0
    assert r["floor_ratio"] == pytest.approx(r["step_ms"]["p50"] / r["floor_ms"]["cold"], abs=1e-3)
    assert 0 <= r["late"] <= r["hops"] == live["hops"] == 60
    assert r["latency_ms"] == {"algorithmic": 16.0, "buffering": 0.0, "device": 0.0, "total": 16.0}
    assert r["provider"] == "cpu"  # the shipped model is int8
    assert r["load"] is r["streams"] is None
    assert r["versions"]["onnxruntime"]
    assert {"cpu", "cores", "caches", "ram_gib", "kernel", "governor", "realtime"} <= set(r["machine"])


def test_figures_are_ranks():
    """Nearest rank: the least of the times that so many percent do not exceed."""
    figures = hops.figures(np.arange(1000, 0, -1) / 1.0)
    assert figures == {"p50": 500, "p99": 990, "p99.9": 999, "max": 1000, "mean": 500.5}
    assert hops.figures(np.array([3.0]))["p99.9"] == 3


def test_what_is_measured_is_the_engine(live):
    """Every hop went through, and the last one is what a Separator gives for the same sound."""
    measured, plain = Separator(live, 48_000, 2, "cpu"), Separator(live, 48_000, 2, "cpu")
    song = sound.song(48_000, 2, 1.0)
    times = hops.measure(measured, song, 40, paced=False)
    assert measured.counts == {"hops": 40, "bad_samples": 0, "failed_steps": 0, "bad_masks": 0}
    plain.process(song[: 40 * 384].T)
    np.testing.assert_array_equal(measured.state.y, plain.state.y)
    assert np.abs(plain.state.y).max() > 0.01
    assert (np.diff(times.stamps, axis=1) >= 0).all()
    assert (np.diff(times.stamps[:, hops.BEGUN]) > 0).all()


def test_paced_hops_keep_their_deadlines_in_step(lstm):
    times = hops.measure(Separator(lstm, 48_000, 2, "cpu"), sound.song(48_000, 2, 1.0), 20, paced=True)
    assert (np.diff(times.stamps[:, hops.DUE]) == 8_000_000).all()  # a late hop moves no other
    assert (times.stamps[:, hops.BEGUN] >= times.stamps[:, hops.DUE]).all()


def test_the_handover_belongs_to_its_hops(lstm):
    measured = handover.measure(Separator(lstm, 48_000, 2, "cpu"), sound.song(48_000, 2, 1.0), 30)
    assert len(measured.waiting) == len(measured.work) == 30
    assert (measured.waiting > 0).all()  # no hop was begun before its block came
    assert (measured.work > 0).all()
    assert measured.latency.total == 768


def test_late_hops_are_counted():
    stamps = np.array([[0, 1, 2, 3, 4], [10, 11, 12, 13, 21], [20, 21, 22, 23, 30]])
    times = hops.Times(stamps, 10)
    assert times.late() == 1
    np.testing.assert_allclose(times.hop(), np.array([3, 10, 9]) / 1e6)


def test_ctrl_c_ends_a_measurement(lstm):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # or it would go on for a quarter of an hour
        hops.measure(Separator(lstm, 48_000, 2, "cpu"), sound.song(48_000, 2, 1.0), 100_000, True, interrupted)
    assert not [t for t in threading.enumerate() if t.name == "streamsep-benchmark"]


def test_a_failed_step_is_an_error(lstm):
    separator = Separator(lstm, 48_000, 2, "cpu")
    separator.network.compiled = separator.network.compiled._replace(names_in=separator.network.compiled.names_out)
    with pytest.raises(hops.BenchError, match="5 of 5 network steps failed"):
        hops.measure(separator, sound.song(48_000, 2, 1.0), 5, paced=False)


def test_without_a_compiled_path_there_is_nothing_to_measure(lstm):
    with pytest.raises(StreamsepError, match="switched off"):
        measuring.require_native(Separator(lstm, 48_000, 2, "cpu", use_c_api=False))


# ------------------------------------------------------------------------------------------------------------- the floor


def test_the_reader_reads_every_word():
    words = np.random.default_rng(0).integers(-(2**40), 2**40, 100_003)
    assert floor.add_up(words) == words.sum()


@pytest.mark.parametrize("size", [0, 100, 3_000_000])
def test_the_floor_of_any_size(size):
    measured = floor.Floor(size, 1000)
    measured.measure()
    assert measured.ms()["warm"] >= 0
    assert measured.ms()["cold"] >= 0
    if size > 1000:
        assert min(measured.ms().values()) > 0
        assert measured.bandwidth()["cold"] > 0


def counted_by_onnx(path):
    graph = onnx.load(path).graph
    constants = [a.t for node in graph.node for a in node.attribute if a.HasField("t")]
    return sum(math.prod(t.dims) for t in [*graph.initializer, *constants])


def test_weights_are_those_of_the_file(live, lstm, folder):
    for loaded in (live, lstm, model.load(graphs.constant(folder / "const.onnx", (1, 0)))):
        assert weights.weights(loaded.path).parameters == counted_by_onnx(loaded.path)
    assert weights.weights(live.path).bytes == pytest.approx(live.size, rel=0.02)  # int8: a byte a weight, and little else
    assert weights.weights(lstm.path).bytes == pytest.approx(lstm.size, rel=0.02)


# ------------------------------------------------------------------------------------------------------- loads, streams


@pytest.mark.parametrize("load", loads.LOADS)
def test_loads_run_and_end(load):
    result = run("bench", "--hops", 20, "--back-to-back", "--load", load, "--json")
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert r["load"]["name"] == load
    assert r["load"]["cpu_s"] > 0.1  # of some three seconds
    assert r["floor_ratio"] is None  # that is a paced figure
    assert r["back_to_back"]["floor_ratio_warm"] > 0


def test_a_load_is_over_with_its_body():
    before = threading.active_count()
    with loads.beside("gil") as spent:
        assert threading.active_count() == before + 1
    assert threading.active_count() == before
    assert spent["cpu_s"] >= 0


def test_busy_processes_end_with_whoever_started_them():
    code = (
        "import os, subprocess, sys; from streamsep.benchmark import loads\n"
        "print(subprocess.Popen(loads.command(), stdout=subprocess.DEVNULL).pid, flush=True); os._exit(0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    pid = int(done.stdout)
    for _ in range(100):
        if state_of(pid) in ("", "Z"):
            return
        threading.Event().wait(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the busy process outlived its parent")


def state_of(pid):
    """A letter, as ps has it; "" when it is gone."""
    found = subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return found.stdout.strip()


def test_streams_are_measured_together(tmp_path):
    result = run("bench", "--streams", 3, "--hops", 20, "--back-to-back", "--json", "-o", tmp_path)
    assert result.returncode == 0, result.stderr
    r = json.loads(result.stdout)
    assert r["streams"]["measured"] == 3
    assert r["streams"]["largest"] is None
    (row,) = r["streams"]["rows"]
    assert row["hop_ms"] == r["hop_ms"]
    assert row["per_stream_ms"] == pytest.approx(row["hop_ms"]["p50"] / 3, abs=1e-4)
    assert "Many streams" in (tmp_path / "report.html").read_text()


def test_the_largest_number_of_streams(monkeypatch, tmp_path):
    """The search ends with a number that held for all hops, beside one that did not."""
    monkeypatch.setattr(streams, "SEARCH_HOPS", 12)
    loaded = model.load(graphs.lstm(tmp_path / "ultra.onnx", hidden=64, **{k: graphs.ULTRA[k] for k in graphs.ULTRA}))
    found = measuring.measure(measuring.Settings(model=str(loaded.path), hops=16, streams=0)).scaling
    assert found.largest in found.tried
    assert list(found.tried) == sorted(found.tried)
    if found.largest:
        assert streams.holds(found.tried[found.largest])
        assert len(found.tried[found.largest].stamps) == 16
    assert found.largest >= streams.MOST // 2 or any(
        not streams.holds(times) for count, times in found.tried.items() if count > found.largest
    )


def test_every_stream_hears_its_own_place_in_the_song(lstm):
    many = streams.Streams(lstm, 48_000, "cpu", sound.song(48_000, 2, 1.0))
    many.measure(3, 10, paced=False)
    heard = [stream.state.x.copy() for stream in many.batch(3).streams]
    assert all(stream.counts["hops"] == 10 for stream in many.batch(3).streams)
    assert not np.array_equal(heard[0], heard[1])
    assert not np.array_equal(heard[1], heard[2])


# -------------------------------------------------------------------------------------------------------- what is kept


class Page(HTMLParser):
    """Open elements, and whatever a browser would fetch."""

    VOID = ("meta", "img", "source", "br", "link")

    def __init__(self):
        super().__init__()
        self.open, self.fetched, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "poster")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_report_needs_nothing_else(kept):
    r, folder = kept
    text = (folder / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert not page.open
    assert len(page.fetched) == 2  # light and dark
    assert all(place.startswith("data:image/png;base64,") for place in page.fetched)
    written = re.sub(r"base64,[\w+/=]+", "", text).lower()  # any four letters turn up in a picture's sooner or later
    for word in ("http", "url(", "@import", "<script", "$"):
        assert word not in written, word
    for word in (r["machine"]["cpu"], r["versions"]["numba"], "live", "How to compare", "streamsep bench --model live", "8 ms"):
        assert word in page.text, word
    assert "prefers-color-scheme: dark" in text


def test_json_and_picture_are_kept(kept):
    r, folder = kept
    assert {name: str(folder / file) for name, file in FILES.items()} == r["files"]
    assert sorted(p.name for p in folder.iterdir()) == sorted(FILES.values())
    assert json.loads((folder / "bench.json").read_text()) == {key: value for key, value in r.items() if key != "files"}
    picture = (folder / "bench.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000


FILES = {"json": "bench.json", "png": "bench.png", "html": "report.html"}


def test_for_people():
    result = run("bench", "--hops", 20, "--back-to-back", "--rate", 16_000, "--channels", 1)
    assert result.returncode == 0, result.stderr
    for word in ("STFT", "network", "masks, inverse STFT", "hand-over", "deadline 8 ms", "memory floor", "latency 16 ms"):
        assert word in result.stdout, result.stdout


def test_wrong_arguments(tmp_path):
    fails(run("bench", "--streams", "0"), 2, "streams='0'", "1 to 4096, or max")
    fails(run("bench", "--streams", "many"), 2, "streams='many'")
    fails(run("bench", "--streams", "--back-to-back"), 2, "--back-to-back")
    fails(run("bench", "--load", "osc"), 2, "load")
    fails(run("bench", "--hops", 1), 2, "hops")
    fails(run("bench", "--rate", 1), 2, "rate")
    fails(run("bench", "--model", "nope"), 1, "model 'nope' is unknown")
    (tmp_path / "file").write_text("")
    fails(run("bench", "--hops", 10, "--back-to-back", "-o", tmp_path / "file"), 1, "cannot be written")


def test_the_machine_says_what_it_knows():
    assert machine._count("0-3,8") == 5
    assert machine._count("not told by the system") == 0
    facts = machine.machine()
    assert facts["usable_cores"] >= 1
    assert all(cache["kib"] > 0 for cache in facts["caches"])
    json.dumps(facts)


# ------------------------------------------------------------------------------------------------------------ in bench/


def test_stages_run_the_command(monkeypatch):
    """bench/stages.py with one case of a few hops; its table has a row for each case and one for each number of streams."""
    monkeypatch.syspath_prepend(BENCH)
    import stages

    one = stages.bench("--hops", "20")
    text = stages.markdown({"cases": {"here": one, "there": one}, "streams": stages.bench("--hops", "20", "--streams", "2")})
    assert text.count("| here |") == text.count("| there |") == 1
    assert "| 2 |" in text


def test_a_real_peer_beside_this_one(monkeypatch, tmp_path):
    """The light one: its wheel is installed into an environment made for it. The heavy ones' rows are tested below."""
    monkeypatch.syspath_prepend(BENCH)
    import peers

    report = peers.measure(["streamsep", "DeepFilterNet3"], blocks=20, rounds=2, place=tmp_path / "place")
    ours, theirs = report["peers"]["streamsep"], report["peers"]["DeepFilterNet3"]
    need("failed" not in theirs, f"the peer ({report['not_installed']})")
    assert ours["paced_blocks"] == theirs["paced_blocks"] == 40
    assert (ours["hop_ms"], ours["latency_ms"]) == (8, 16)
    assert (theirs["hop_ms"], theirs["latency_ms"]) == (10, 40)
    assert ours["parameters"] > theirs["parameters"] > 2_000_000
    for peer in (ours, theirs):
        assert in_order(peer["paced_ms"])
        assert in_order(peer["back_to_back_ms"])
        assert peer["ms_per_second"] == pytest.approx(peer["paced_ms"]["p50"] * 1000 / peer["hop_ms"], abs=0.01)
    assert peers.environment(["DeepFilterNet3"], tmp_path / "place") == {}  # nothing is installed twice


def test_a_peer_that_does_not_run_says_why(monkeypatch):
    """Canned: what PyTorch's peers take to install is too much for every run of the tests."""
    monkeypatch.syspath_prepend(BENCH)
    import peers

    fact = {"sample_rate": 44_100, "channels": 2, "hop": 512, "latency": 1024, "parameters": 28_000_000}
    block = fact | {
        "what": "music",
        "realtime": True,
        "back_to_back": [5_000_000] * 3,
        "paced": [9_000_000, 9_000_000, 12_000_000],
    }
    found = {"HS-TasNet": peers.summary([block, block]), "Other": peers.summary([{"failed": "no | library"}])}
    facts = {"cpu": "Some CPU", "cores": 2, "realtime": True}
    missing = {"other==1": "ERROR: no matching distribution"}
    text = peers.markdown({"peers": found, "not_installed": missing, "blocks": 3, "rounds": 2, "machine": facts})
    row = "| HS-TasNet | music | 28.00 M | 11.6 / 23.2 | 5.00 / 5.00 | 9.00 / 12.00 / 12.00 | 775.2 | 2 of 6 |"
    assert row in text
    assert "| Other | not run: no / library |" in text
    assert "`other==1` could not be installed here: ERROR: no matching distribution" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1  # a table


def test_every_peer_is_in_the_list_of_requirements(monkeypatch):
    monkeypatch.syspath_prepend(BENCH)
    import peers

    users = {name for names in peers.requirements().values() for name in names}
    assert users == set(peers.PEERS) - {"streamsep"}
