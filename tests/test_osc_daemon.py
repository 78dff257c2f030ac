"""OSC and the real daemon: a process that separates a song in real time is steered, watched and ended by another."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_message_builder import build_msg

from tests.conftest import ROOT
from tests.osc_client import HERE, Client, bundle, until

RATE = 16000


@pytest.fixture
def port(lstm, tmp_path):
    """Of a daemon that plays noise at -6 dBFS for longer than any test takes, and may be told to quit."""
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (60 * RATE, 1))
    soundfile.write(tmp_path / "noise.wav", noise, RATE, subtype="PCM_16")
    (tmp_path / "c.toml").write_text("osc_quit = true\n")
    command = [sys.executable, "-m", "streamsep", "run", "--config", str(tmp_path / "c.toml"), "--model", str(lstm.path)]
    command += ["--input", f"file:{tmp_path / 'noise.wav'}", "--output", "none", "--osc-port", "0", "--json"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            said = next(line for line in process.stderr if "OSC on" in line)
            yield int(said.split(f"{HERE}:")[1].split()[0])
            out, _ = process.communicate(timeout=10)
            assert process.returncode == 0
            assert json.loads(out)["osc"]["faults"] == 0
        finally:
            process.kill()


def test_a_daemon_is_steered_watched_and_ended(port):
    client = Client(port)
    try:
        assert client.ask("/streamsep/latency/algorithmic") == [16]
        assert client.ask("/streamsep/latency/total") == [16]  # files: nothing else
        assert client.ask("/streamsep/stats/provider") == ["cpu"]
        until(lambda: client.ask("/streamsep/state") == ["running"])
        until(lambda: client.ask("/streamsep/stats/step/p50")[0] > 0)  # sound flows

        client.ask("/streamsep/meters/subscribe", 20)
        meter = {m.address: m.params for m in OscBundle(client.socket.recv(65536))}
        assert meter["/streamsep/meter/input"] == [
            pytest.approx(-6, abs=1),
            pytest.approx(-10.8, abs=2),
            0,
        ]  # one hop may be all
        client.send("/streamsep/meters/unsubscribe")
        while not client.socket.recv(65536).startswith(b"/streamsep/meters/unsubscribe"):
            pass

        client.send("/streamsep/notify", 1)
        while client.receive()[0] != "/streamsep/notify":
            pass
        when = time.time() + 0.5
        client.send_raw(bundle(when, build_msg("/streamsep/wet", [0.25]), build_msg("/streamsep/bypass", [1])).dgram)
        replies = [client.receive(), client.receive()]
        assert replies == [("/streamsep/wet", [0.25]), ("/streamsep/bypass", [1])]  # what will be set
        told = []
        while ("/streamsep/wet", [0.25]) not in told or ("/streamsep/bypass", [1]) not in told:
            told.append(client.receive())
        assert time.time() > when - 0.02  # not before: feedback follows it
        client.send("/streamsep/quit")
        while client.receive()[0] != "/streamsep/quit":
            pass
    finally:
        client.socket.close()
