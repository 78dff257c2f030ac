"""The command line is a contract: names, JSON, exit codes, one line for an error, nothing half-written."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamsep import __version__
from tests.conftest import DATA, ROOT, need_data


def run(*arguments, cwd=ROOT, env=None):
    command = [sys.executable, "-m", "streamsep", *map(str, arguments)]
    path = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=os.environ | path | (env or {}), timeout=240)


def fails(result, code, *words):
    assert result.returncode == code, result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert result.stdout == ""
    for word in words:
        assert word in result.stderr, result.stderr


def test_version_and_help():
    assert __version__ in run("--version").stdout
    top = run("--help").stdout
    for command in ("separate", "run", "devices", "models", "doctor", "demo"):
        assert command in top
        assert run(command, "--help").returncode == 0
    assert len(top.splitlines()) < 40


def test_separate(tmp_path, song_file):
    result = run("separate", song_file, "-o", tmp_path, "--plot", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    (song,) = report["separated"]
    assert (report["failed"], report["skipped"]) == ([], [])
    info = soundfile.info(song_file)
    for source in ("vocals", "accompaniment"):
        path = tmp_path / "mixture" / f"{source}.wav"
        assert song["files"][source] == str(path)
        stem = soundfile.info(path)
        assert (stem.frames, stem.samplerate, stem.channels) == (info.frames, info.samplerate, info.channels)
    assert (tmp_path / "mixture" / "spectrograms.png").stat().st_size > 50_000
    assert song["latency_ms"] == 16
    assert song["c_api"]
    assert 0 < song["real_time_factor"] < 1
    stems = sum(soundfile.read(tmp_path / "mixture" / f"{s}.wav")[0] for s in ("vocals", "accompaniment"))
    np.testing.assert_allclose(stems, soundfile.read(song_file)[0], atol=2e-6)
    text = run("separate", song_file, "-o", tmp_path)
    assert "vocals.wav" in text.stdout
    assert text.stderr == ""


def tone(path, seconds=0.5, rate=16000):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(np.arange(int(seconds * rate)) / 9), rate)
    return path


def stems_in(folder):
    return sorted(str(p.relative_to(folder).parent) for p in folder.rglob("vocals.*"))


def test_separate_many_goes_on_after_a_bad_one_and_names_it(tmp_path):
    tone(tmp_path / "in/one/song.wav")
    tone(tmp_path / "in/two/song.wav")
    tone(tmp_path / "in/two/deep/er.flac")
    bad = tmp_path / "in/two/bad.wav"
    bad.write_text("not sound")
    (tmp_path / "in/one/cover.jpg").write_text("a picture")
    result = run("separate", tmp_path / "in", tmp_path / "none.wav", "-o", tmp_path / "out", "--jobs", "2", "--json")
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 2
    assert f"{bad} cannot be read" in result.stderr
    assert "none.wav" in result.stderr
    report = json.loads(result.stdout)
    assert {f["input"] for f in report["failed"]} == {str(bad), str(tmp_path / "none.wav")}
    assert report["skipped"] == [{"input": str(tmp_path / "in/one/cover.jpg"), "why": "not a sound file by its name"}]
    assert stems_in(tmp_path / "out") == ["one/song", "two/deep/er", "two/song"]
    text = run("separate", tmp_path / "in", "-o", tmp_path / "out2", "--format", "flac")
    assert text.returncode == 1
    assert "skipped 1: " in text.stdout
    assert "1 of 4 failed" in text.stdout
    assert soundfile.info(tmp_path / "out2/two/song/vocals.flac").subtype == "PCM_24"


def test_separate_patterns_and_names_that_meet(tmp_path):
    for name in ("a/song.wav", "b/song.wav", "b/song.flac", "b/other.wav"):
        tone(tmp_path / name)
    assert run("separate", "*/song.*", "-o", "out", cwd=tmp_path).returncode == 0
    assert stems_in(tmp_path / "out") == ["a/song", "b/song.flac", "b/song.wav"]
    named = ("a/song.wav", "b/song.wav", "b/other.wav")
    assert run("separate", *named, *named, "-o", "out2", cwd=tmp_path).returncode == 0
    assert stems_in(tmp_path / "out2") == ["a/song", "b/song", "other"]
    again = run("separate", ".", "-o", "out2", "--json", cwd=tmp_path)  # its own stems are no songs
    skipped = {s["input"]: s["why"] for s in json.loads(again.stdout)["skipped"]}
    assert skipped["out2/other/vocals.wav"] == "lies in the output folder"
    assert again.returncode == 0
    fails(run("separate", "*.mp3", cwd=tmp_path), 1, "*.mp3 matches no sound file")
    fails(run("separate", "a/song.wav", "--format", "flac", "--bits", "32", cwd=tmp_path), 2, "bits=32 in flac")


def test_separate_never_overwrites_an_input(tmp_path):
    tone(tmp_path / "song.wav")
    kept = tone(tmp_path / "stems/song/vocals.wav")
    before = kept.read_bytes()
    result = run("separate", "song.wav", "stems/song/vocals.wav", cwd=tmp_path)
    assert result.returncode == 1
    assert "is an input, too" in result.stderr
    assert kept.read_bytes() == before


def test_an_interrupted_batch_leaves_whole_files_only(tmp_path):
    for name in "abcdef":
        tone(tmp_path / f"{name}.wav", 240, 48000)  # long enough that a busy machine sees it at work
    command = [sys.executable, "-m", "streamsep", "separate", str(tmp_path), "-o", str(tmp_path / "out"), "--jobs", "2"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not list((tmp_path).rglob(".*.part")) and time.monotonic() < end:
        time.sleep(0.02)
    assert process.poll() is None, "it was over before anybody looked"
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].strip()
    assert (process.returncode, said) == (130, "streamsep: interrupted")
    assert not list(tmp_path.rglob(".*.part"))


def test_separate_a_song_nobody_trained_on(tmp_path):
    need_data()
    stems = [
        soundfile.read(DATA / "songs" / f"sodium.{s}.opus", start=48000 * 60, frames=48000 * 20)[0]
        for s in ("vocals", "accompaniment")
    ]
    mixture = tmp_path / "sodium.flac"
    soundfile.write(mixture, sum(stems), 48000)
    assert run("separate", mixture, "-o", tmp_path / "out").returncode == 0
    estimate = soundfile.read(tmp_path / "out" / "sodium" / "vocals.wav")[0]

    def sdr(e):
        return 10 * np.log10(np.sum(stems[0] ** 2) / np.sum((stems[0] - e) ** 2))

    assert sdr(estimate) - sdr(sum(stems)) > 5


def test_run_from_file_to_file(tmp_path, song_file):
    beginning = tmp_path / "in.wav"
    soundfile.write(beginning, soundfile.read(song_file, frames=96_000)[0], 48000)
    config = tmp_path / "c.toml"
    config.write_text(f'input = "file:{beginning}"\nosc_port = 0\n[gain]\nvocals = -90\n')
    out = tmp_path / "out.wav"
    result = run("run", "--config", config, "--output", f"file:{out}", "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert {"hops", "late", "input_xruns", "output_xruns", "step_ms", "latency_ms"} <= report.keys()
    assert "16.0 ms algorithmic" in result.stderr
    played, rate = soundfile.read(out)
    assert (rate, played.shape[1]) == (48000, 4)
    assert np.abs(played[:, :2]).max() == 0  # the gain of the configuration holds from the first sample
    assert np.abs(played[:, 2:]).max() > 0.01


def test_a_second_start_compiles_nothing(tmp_path, song_file):
    """What was compiled is kept between runs, in the folder that the environment names."""

    def kept():
        return {p: p.stat().st_mtime_ns for p in Path(os.environ["NUMBA_CACHE_DIR"]).rglob("*.nb?")}

    arguments = ("run", "--input", f"file:{song_file}", "--osc-port", "0", "--duration", "0.3", "--json")
    assert run(*arguments).returncode == 0
    before = kept()
    assert len(before) > 50
    assert run(*arguments).returncode == 0
    assert kept() == before


def test_models_and_doctor():
    models = json.loads(run("models", "--json").stdout)["models"]
    live = next(m for m in models if m["name"] == "live")
    assert live["sources"] == ["vocals", "accompaniment"]
    assert live["latency_ms"] == 16
    assert live["quality"]["voice_gnsdr_db"] >= 5
    facts = json.loads(run("doctor", "--json").stdout)
    assert facts["network"]["works"]
    assert facts["network"]["c_api"]
    assert facts["network"]["provider"] == "cpu"
    assert {"cuda", "portaudio", "media", "realtime", "jit_cache"} <= facts.keys()
    assert "live" in run("models").stdout
    assert "network" in run("doctor").stdout


def test_usage_errors_are_two(tmp_path, song_file):
    fails(run("nosuch"), 2, "nosuch", "--help")
    fails(run("separate"), 2, "INPUT", "--help")
    fails(run("run", "--rate", "100"), 2, "rate=100", "8000")
    fails(run("run", "--rate", "fast"), 2, "fast")
    fails(run("run", "--frobnicate"), 2, "--frobnicate")
    fails(run("run", "--config", tmp_path / "no.toml"), 2, "no.toml")
    fails(run("separate", song_file, "--provider", "tpu"), 2, "tpu")
    for text, word in (("[gain]\ndrums = -3\n", "drums"), ("[gain]\nvocals = nan\n", "gain.vocals")):
        (tmp_path / "gain.toml").write_text(text)
        fails(run("run", "--config", tmp_path / "gain.toml", "--input", f"file:{song_file}"), 2, word)
    assert run().returncode == 2


def test_run_time_failures_are_one(tmp_path, song_file):
    text = tmp_path / "text.wav"
    text.write_text("not sound")
    soundfile.write(tmp_path / "empty.wav", np.zeros((0, 2)), 48000)
    truncated = tmp_path / "t.onnx"
    truncated.write_bytes((ROOT / "streamsep/models/live.onnx").read_bytes()[:9999])
    out = tmp_path / "out"
    fails(run("separate", tmp_path / "none.wav", "-o", out), 1, "none.wav")
    fails(run("separate", text, "-o", out), 1, "text.wav")
    fails(run("separate", tmp_path / "empty.wav", "-o", out), 1, "empty.wav")
    fails(run("separate", song_file, "-o", out, "--model", truncated), 1, "t.onnx")
    fails(run("separate", song_file, "-o", out, "--model", "nosuch"), 1, "nosuch", "live")
    assert not out.exists() or not list(out.rglob("*.*"))
    fails(run("run", "--input", f"file:{text}"), 1, "text.wav")
    fails(run("run", "--input", f"file:{song_file}", "--output", "speakers"), 1, "speakers")
    fails(run("run", "--input", f"file:{song_file}", "--output", f"file:{tmp_path}/none/x.wav"), 1, "folder")
    for rate, channels, word in ((48000, 10, "channels=10"), (4000, 1, "sample_rate=4000")):
        soundfile.write(tmp_path / "odd.wav", np.zeros((9000, channels)), rate)
        fails(run("run", "--input", f"file:{tmp_path}/odd.wav"), 1, word)
    fails(run("demo", "-o", text), 1, "text.wav")
    (tmp_path / "x.raw").write_bytes(bytes(1000))
    fails(run("run", "--input", f"file:{tmp_path}/x.raw"), 1, "x.raw")


def test_osc_addresses_are_listed():
    out = run("osc")
    assert "/streamsep/source/<name>/gain\n    a source's gain\n    [gain]: f, i, d, h or a numeric s (dB," in out.stdout
    addresses = json.loads(run("osc", "--json").stdout)["addresses"]
    assert addresses["/streamsep/panic"]["reply"] == "panic i"


def test_osc_port_in_use(song_file):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        fails(run("run", "--input", f"file:{song_file}", "--osc-port", port), 1, str(port), "in use")


@pytest.fixture
def without_portaudio(tmp_path):
    """An environment in which Python does not find the PortAudio library."""
    (tmp_path / "sitecustomize.py").write_text(
        "import ctypes.util\nfound = ctypes.util.find_library\n"
        "ctypes.util.find_library = lambda name: None if 'portaudio' in name else found(name)\n"
    )
    return {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}


def test_only_devices_need_portaudio(tmp_path, song_file, without_portaudio):
    fails(run("run", env=without_portaudio), 1, "PortAudio", "libportaudio2")
    fails(run("devices", env=without_portaudio), 1, "libportaudio2")
    assert run("separate", song_file, "-o", tmp_path, env=without_portaudio).returncode == 0
    assert run("models", env=without_portaudio).returncode == 0
    facts = json.loads(run("doctor", "--json", env=without_portaudio).stdout)
    assert not facts["portaudio"]["works"]


def test_runtime_needs_no_torch_and_no_training_code(tmp_path):
    """Every module of the runtime imports where torch, onnx, train and export do not exist."""
    shutil.copytree(ROOT / "streamsep", tmp_path / "streamsep", ignore=shutil.ignore_patterns("__pycache__"))
    script = (
        "import sys, importlib, pkgutil\n"
        "for name in ('torch', 'onnx', 'onnxscript', 'train', 'export', 'bench', 'mir_eval'): sys.modules[name] = None\n"
        "import streamsep\n"
        "names = [m.name for m in pkgutil.iter_modules(streamsep.__path__, 'streamsep.') if not m.name.endswith('__main__')]\n"
        "for name in names: importlib.import_module(name)\n"
        "assert 'sounddevice' not in sys.modules, 'PortAudio is for those who use a device'\n"
        "print(len(names))\n"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 15


def test_dependencies_are_what_the_design_says():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    runtime = " ".join(project["dependencies"])
    assert "torch" not in runtime
    assert {"cuda", "train", "dev"} <= project["optional-dependencies"].keys()
    from packaging.requirements import Requirement

    for system, machine, expected in (
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ):
        chosen = [
            r.name
            for r in map(Requirement, project["dependencies"])
            if r.name.startswith("onnxruntime") and r.marker.evaluate({"sys_platform": system, "platform_machine": machine})
        ]
        assert chosen == [expected], (system, machine)


def test_demo(tmp_path):
    result = run("demo", "-o", tmp_path, "--json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    for name in ("mixture", "vocals", "accompaniment"):
        info = soundfile.info(tmp_path / f"{name}.wav")
        assert 18 < info.duration < 22
        assert (info.samplerate, info.channels) == (48000, 2)
    assert (tmp_path / "spectrograms.png").stat().st_size > 100_000
    assert report["nsdr_db"]["vocals"] > 2
    assert report["nsdr_db"]["accompaniment"] > 3
    assert report["latency_ms"]["algorithmic"] == 16
    assert report["hops"] >= 20 * 125
