"""The daemon's life on a real JACK server: it records, and says so when it cannot."""

import json
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile

from tests.conftest import ROOT
from tests.running import ask, osc_port, start_daemon, status, stop
from tests.servers import REAL_TIME, wait


@REAL_TIME
def test_it_records_while_it_plays(jack, tmp_path):
    daemon, promised = start_daemon("--record", tmp_path / "takes")
    time.sleep(2)
    out, err = stop(daemon)
    assert daemon.returncode == 0, err
    (take,) = (tmp_path / "takes").iterdir()
    assert f"recording to {take}\n" in promised
    assert {path.name for path in take.iterdir()} == {"vocals.flac", "accompaniment.flac", "heard.flac"}
    frames = json.loads(out)["hops"] * 384
    for path in take.iterdir():
        assert soundfile.info(path).samplerate == 48000
        assert frames - 48000 // 4 <= soundfile.info(path).frames <= frames


@REAL_TIME
def test_a_recording_goes_on_when_the_server_comes_back(jack, tmp_path):
    daemon, promised = start_daemon("--record", tmp_path / "takes")
    port = osc_port(promised)
    time.sleep(1)
    jack.end(signal.SIGKILL)
    wait(lambda: status(port)["state"] == "device lost")
    jack.start()
    wait(lambda: status(port)["state"] == "running")
    hops = status(port)["hops"]
    wait(lambda: status(port)["hops"] > hops + 125)
    out, _ = stop(daemon)
    (take,) = (tmp_path / "takes").iterdir()
    recorded = soundfile.info(take / "heard.flac").frames
    assert recorded == pytest.approx(json.loads(out)["hops"] * 384, abs=12_000)


def test_model_and_devices_are_changed_while_it_runs(jack, lstm):
    """Gains stay as they were; what cannot be is refused, or told, and the sound goes on as before."""
    daemon, promised = start_daemon()
    port = osc_port(promised)
    wait(lambda: status(port)["state"] == "running")
    ask(port, "/streamsep/source/vocals/gain", -6.0)
    before = status(port)

    def goes_on():
        hops = status(port)["hops"]
        wait(lambda: status(port)["hops"] != hops)

    ask(port, "/streamsep/model", str(lstm.path))
    wait(lambda: status(port)["model"] == lstm.contract.name)
    wait(lambda: status(port)["state"] == "running")
    assert ask(port, "/streamsep/model") == [str(lstm.path)]
    assert ask(port, "/streamsep/source/vocals/gain") == [pytest.approx(-6)]
    assert status(port)["latency_samples.total"] == before["latency_samples.total"]
    goes_on()

    ask(port, "/streamsep/device/output", "none")
    wait(lambda: status(port)["device"].startswith("system -> none") and status(port)["state"] == "running")
    goes_on()

    address, reason = ask(port, "/streamsep/model", "nosuch")
    assert address == "/streamsep/model"
    assert "nosuch" in reason
    address, reason = ask(port, "/streamsep/device/output", "file:/tmp/x.wav")
    assert "files are named at the start only" in reason
    ask(port, "/streamsep/device/input", "JACK:nosuch")
    said = next(line for line in daemon.stderr if "no change" in line)
    assert "nosuch" in said
    wait(lambda: status(port)["state"] == "running")
    assert status(port)["device"].startswith("system -> none")
    goes_on()
    stop(daemon)
    assert daemon.returncode == 0


def test_osc_begins_and_ends_recordings(jack, tmp_path):
    (tmp_path / "c.toml").write_text(f'record = "{tmp_path / "takes"}"\n')
    daemon, promised = start_daemon("--config", tmp_path / "c.toml")
    port = osc_port(promised)
    (first,) = ask(port, "/streamsep/recording")
    time.sleep(1.2)  # a take of no sound leaves nothing
    assert ask(port, "/streamsep/record") == [1]
    assert ask(port, "/streamsep/record", 0) == [0]
    assert ask(port, "/streamsep/recording") == [""]
    wait(lambda: ask(port, "/streamsep/record", 1) == [1])  # the first one may still be closing
    (second,) = ask(port, "/streamsep/recording")
    assert first != second
    time.sleep(1)
    stop(daemon)
    for folder in (first, second):
        assert soundfile.info(f"{folder}/heard.flac").frames > 0


def test_a_recording_that_cannot_begin_is_one_line(jack, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    command = [sys.executable, "-m", "streamsep", "run", "--osc-port", "0", "--record", str(tmp_path / "file" / "takes")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "file" in done.stderr


def test_a_second_daemon_on_the_port_says_so(jack):
    daemon, promised = start_daemon()
    port = osc_port(promised)
    command = [sys.executable, "-m", "streamsep", "run", "--osc-port", str(port)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 1
    assert done.stderr == f"streamsep: OSC port {port} on 127.0.0.1 is in use: choose another with --osc-port\n"
    assert status(port)["state"] == "running"
    stop(daemon)


def ports():
    """What the server lists, "" when it did not answer."""
    return subprocess.run(["jack_lsp"], capture_output=True, text=True, check=False).stdout


def test_nothing_is_left_of_a_daemon_that_was_killed(jack):
    jack.end()
    jack.start(synchronous=False)
    for _ in range(3):
        daemon, _ = start_daemon()
        assert "streamsep" in ports()
        stop(daemon, signal.SIGKILL)
        wait(lambda: "system" in ports() and "streamsep" not in ports())
    assert jack.process.poll() is None


@REAL_TIME
def test_sigterm_fades_out(jack, identity, song, tmp_path):
    """What goes out at the end falls over 20 ms, without a step."""
    from tests.test_jack import connect, go, start_client

    _, rate = song
    np.save(tmp_path / "song.npy", np.ascontiguousarray(np.full((2, 4 * rate), 0.5, np.float32).T))
    daemon, _ = start_daemon("--model", identity.path)
    recorder = start_client("recorder", 1, 5, tmp_path / "recording.npy")
    player = start_client("player", 1, 4, tmp_path / "unused.npy", tmp_path / "song.npy")
    connect(("player:out_0", "streamsep:input_1"), ("player:out_0", "streamsep:input_2"))
    connect(("streamsep:vocals_1", "recorder:in_0"))
    go(recorder)
    go(player)
    time.sleep(2)
    stop(daemon)
    for client in (player, recorder):
        client.communicate(timeout=60)
    heard = np.load(tmp_path / "recording.npy")[:, 0]
    full = np.flatnonzero(heard > 0.499)
    end = heard[full[-1] :]
    assert len(full) > rate
    silent = np.flatnonzero(end == 0)[0]
    assert 0.015 * rate < silent < 0.025 * rate
    assert np.abs(np.diff(end[: silent + 1])).max() < 0.5 / (0.01 * rate)
