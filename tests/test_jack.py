"""The whole house on a real JACK server: a song is played into the graph, `streamsep run` between, and captured."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from streamsep.engine import Separator
from tests.conftest import ROOT, need_program
from tests.running import osc_port, start_daemon, status, stop
from tests.servers import PERIOD, REAL_TIME, wait

OUTPUTS = "vocals_1", "vocals_2", "accompaniment_1", "accompaniment_2"


def start_client(*arguments):
    command = [sys.executable, "-m", "tests.jack_client", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout.readline() == "ready\n"
    return process


def go(process):
    process.stdin.write("go\n")
    process.stdin.flush()


def connect(*pairs):
    for a, b in pairs:
        subprocess.run(["jack_connect", a, b], check=True, capture_output=True)


def through_the_graph(model, song, tmp_path, seconds, during=None):
    """(input, vocals, accompaniment) as another client heard them, the daemon's report, and what it promised.

    `during(port)` is called when the song has begun, with the port that OSC is on.
    """
    np.save(tmp_path / "song.npy", np.ascontiguousarray(song.T))
    daemon, promised = start_daemon("--model", str(model.path))
    recorder = start_client("recorder", 6, seconds + 2, tmp_path / "recording.npy")
    player = start_client("player", 1, seconds, tmp_path / "unused.npy", tmp_path / "song.npy")
    connect(
        *((f"player:out_{c}", f"streamsep:input_{c + 1}") for c in range(2)),
        *((f"player:out_{c}", f"recorder:in_{c}") for c in range(2)),
        *((f"streamsep:{port}", f"recorder:in_{2 + c}") for c, port in enumerate(OUTPUTS)),
    )
    go(recorder)
    time.sleep(0.5)
    go(player)
    if during:
        during(osc_port(promised))
    heard = [client.communicate(timeout=60)[0] for client in (player, recorder)]
    assert (player.returncode, recorder.returncode) == (0, 0), heard
    out, err = stop(daemon)
    assert daemon.returncode == 0, err
    recording = np.load(tmp_path / "recording.npy").T
    return recording[:2], recording[2:4], recording[4:6], json.loads(out), promised


def in_time(model, song, tmp_path, during=None):
    """`through_the_graph`, for as long as the song is."""
    return through_the_graph(model, song, tmp_path, song.shape[1] / 48000, during)


def best_match(model, x, outputs, delay, rate):
    """Largest difference to the offline engine, over the places of its hops (they start wherever the daemon did)."""
    hop = 384
    found = []
    for phase in range(0, hop, PERIOD):
        separator = Separator(model, rate, 2)
        lead = np.zeros((2, 1200 * hop + phase), np.float32)  # the daemon heard silence before: so long that its state settled
        y = separator.process(np.concatenate([lead, x], -1))[..., lead.shape[1] :]
        shifted = np.pad(y, ((0, 0), (0, 0), (delay, 0)))[..., : x.shape[1]]
        found.append(max(np.abs(shifted[i] - output).max() for i, output in enumerate(outputs)))
    return min(found)


@REAL_TIME
def test_a_song_through_the_graph_equals_offline_shifted_by_the_reported_latency(jack, lstm, song, tmp_path):
    """With a float network, whose state in silence comes to rest: how long the daemon waited for the song plays no part."""
    x, rate = song
    heard, vocals, accompaniment, report, promised = in_time(lstm, x[:, rate * 4 : rate * 10], tmp_path)
    parts = report["latency_samples"]
    assert f"= {report['latency_ms']['total']:.1f} ms" in re.search("latency .*", promised).group()
    assert parts["algorithmic"] == 768
    assert parts["buffering"] <= 384
    assert parts["total"] == sum(parts[p] for p in ("algorithmic", "buffering", "device"))
    assert np.abs(heard).max() > 0.1
    # Inside the graph the sound passes no sound card: the device's own part stays out.
    difference = best_match(lstm, heard, (vocals, accompaniment), parts["buffering"], rate)
    # What is left of it is how far the state came to rest in the silence before, 2e-5 here; a wrong delay reads 0.04.
    assert difference < 1e-4, report
    np.testing.assert_allclose((vocals + accompaniment)[:, 1024:], heard[:, :-1024], atol=2e-6)
    assert report["hops"] > 6 * rate / 384
    assert report["late"] == report["missed_blocks"] == 0


def subscribe(port, source, seconds):
    """(positions, float32 [shape=(frames, 2)]) of the packets that came within `seconds`, in order."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.settimeout(1)
        message = build_msg("/streamsep/audio/subscribe", [source]).dgram
        listener.sendto(message, ("127.0.0.1", port))
        packets, others, end = [], set(), time.monotonic() + seconds
        while time.monotonic() < end:
            message = OscMessage(listener.recv(2048))
            if message.address != "/streamsep/audio":
                others.add(message.address)
                continue
            _, sequence, channels, encoding, blob, index, rate = message.params
            assert sequence == len(packets)
            assert (channels, encoding) == (2, "f32")
            assert rate == pytest.approx(48000, rel=0.05)  # as measured
            packets.append((index, np.frombuffer(blob, "<f4").reshape(-1, channels)))
    assert others == {"/streamsep/audio/format", "/streamsep/audio/subscribe"}
    indices = np.concatenate([index + np.arange(len(frames)) for index, frames in packets])
    return indices, np.concatenate([frames for _, frames in packets])


@REAL_TIME
def test_osc_steers_the_daemon_and_takes_the_stems_off_the_wire(jack, lstm, song, tmp_path):
    """What a subscriber gets is, sample for sample, what the graph gets; and oscsend mutes it, without a click."""
    x, rate = song
    oscsend = need_program("oscsend")
    received = []

    def during(port):
        received[:] = subscribe(port, "vocals", 3)
        subprocess.run([oscsend, "127.0.0.1", str(port), "/streamsep/source/vocals/gain", "f", "-90"], check=True)

    _, vocals, accompaniment, *_ = in_time(lstm, x[:, rate * 4 : rate * 10], tmp_path, during)
    indices, frames = received
    np.testing.assert_array_equal(np.diff(indices), 1)
    assert len(indices) > 2 * rate
    probe = frames[rate : rate + 64]
    places = [n for n in np.flatnonzero(vocals[0] == probe[0, 0]) if np.array_equal(vocals[:, n : n + 64].T, probe)]
    assert len(places) == 1
    start = places[0] - rate
    np.testing.assert_array_equal(vocals[:, start : start + len(frames)].T, frames)
    assert not vocals[:, -2 * rate :].any()
    assert np.abs(accompaniment[:, -3 * rate : -2 * rate]).max() > 0.01
    muted = np.flatnonzero(np.abs(vocals).max(0))[-1]
    assert np.abs(vocals[:, muted - 8 : muted + 1]).max() < 0.02 * np.abs(vocals).max()


@REAL_TIME
def test_a_thread_that_hogs_the_gil_adds_no_underrun(jack):
    """Quiet and hogged runs in turn (test_live.py holds the same against a path that does need the GIL)."""

    def underruns(hogged):
        daemon, _ = start_daemon("--duration", "3", hogged=hogged)
        report = json.loads(daemon.communicate(timeout=60)[0])
        assert report["c_api"]
        assert report["hops"] >= 350
        return report["missed_blocks"]

    quiet, hogged = ([underruns(hogged) for _ in range(2)] for hogged in (False, True))
    assert min(hogged) <= min(quiet), (quiet, hogged)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly(jack, number):
    daemon, _ = start_daemon()
    out, _ = stop(daemon, number)
    assert daemon.returncode == 0
    report = json.loads(out)
    assert {"hops", "late", "input_xruns", "output_xruns", "step_ms", "latency_ms"} <= report.keys()
    assert {"algorithmic", "buffering", "device", "total"} == report["latency_ms"].keys()
    ports = subprocess.run(["jack_lsp"], capture_output=True, text=True, check=True).stdout
    assert "streamsep" not in ports


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@REAL_TIME
def test_a_server_that_goes_is_waited_for(jack, number):
    """OSC lives on; within 2 s of the server's return sound does too, with the same latency; again and again."""
    daemon, promised = start_daemon()
    port = osc_port(promised)
    before = status(port)
    for lap in range(1, 4):
        jack.end(number)
        wait(lambda: status(port)["state"] == "device lost")
        time.sleep(0.5)
        jack.start()
        start = time.monotonic()
        wait(lambda: status(port)["state"] == "running")
        assert time.monotonic() - start < 2  # what the README promises; it takes a tenth of that
        hops = status(port)["hops"]
        wait(lambda hops=hops: status(port)["hops"] > hops)
        assert status(port)["reopened"] == lap
        assert status(port)["latency_samples.total"] == before["latency_samples.total"]
        listed = subprocess.run(["jack_lsp", "-c"], capture_output=True, text=True, check=True).stdout
        assert "streamsep:vocals_1" in listed
    out, err = stop(daemon)
    assert daemon.returncode == 0
    assert json.loads(out)["reopened"] == 3
    assert err.count("went away: waiting for it to come back") == 3
    assert err.count("is back: sound goes on") == 3


@REAL_TIME
def test_a_new_block_of_the_server_is_a_new_promise(jack):
    daemon, promised = start_daemon()
    port = osc_port(promised)
    subprocess.run(["jack_bufsize", "1024"], check=True, capture_output=True)
    wait(lambda: status(port)["reopened"] == 1)
    assert status(port)["block"] == 1024
    before = status(port)
    time.sleep(1)
    after = status(port)
    assert after["hops"] > before["hops"] + 100
    assert after["missed_blocks"] == before["missed_blocks"]
    stop(daemon)


@REAL_TIME
def test_a_daemon_held_up_for_a_second_has_the_same_delay_after(jack, lstm, song, tmp_path):
    """SIGSTOP and SIGCONT: what comes a second later is, sample for sample, where it belongs."""
    x, rate = song

    def during(port):
        time.sleep(1.0)
        pid = int(status(port)["pid"])
        os.kill(pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(pid, signal.SIGCONT)

    seconds = 6
    heard, vocals, accompaniment, report, _ = through_the_graph(lstm, x[:, : rate * seconds], tmp_path, seconds, during)
    delay = report["latency_samples"]["total"] - report["latency_samples"]["device"]
    total = (vocals + accompaniment)[:, 4 * rate :]
    n = total.shape[1]
    played = heard[:, 4 * rate - delay :][:, :n]
    assert np.abs(played).max() > 0.01
    np.testing.assert_allclose(total, played, atol=1e-5)


def test_duration_and_devices(jack):

    def streamsep(*arguments):
        return subprocess.run([sys.executable, "-m", "streamsep", *arguments], capture_output=True, text=True, cwd=ROOT)

    out = streamsep("run", "--osc-port", "0", "--duration", "1", "--json")
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["hops"] >= 100
    listed = json.loads(streamsep("devices", "--json").stdout)["devices"]
    assert any(d["name"] == "system" and d["in_channels"] == 8 for d in listed)
    wrong = streamsep("run", "--input", "nosuch")
    assert wrong.returncode == 1
    assert "input device 'nosuch' is unknown: expected one of" in wrong.stderr
    assert len(wrong.stderr.splitlines()) == 1
