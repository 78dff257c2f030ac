"""Measured beside promised: a cable, a JACK graph, and a daemon in the loop, exact to the sample; or no figure."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest
from pythonosc.osc_message_builder import build_msg

from streamsep import loopback, roundtrip
from streamsep.devices.portaudiodevice import DeviceError
from streamsep.rings import exchange
from streamsep.roundtrip import RoundTripError, Take, measure, through_device, through_jack
from tests.conftest import ROOT, need_program
from tests.pulse_server import PulseServer
from tests.servers import PERIOD, REAL_TIME, JackServer, wait

# ------------------------------------------------------------------------------------------------------------------ cables


class Cable:
    """A sound card in real time whose first output is wired to its second input, `delay` frames late and turned over."""

    name, sample_rate, in_channels, out_channels, steady = "cable", 8000, 2, 4, True

    def __init__(self, delay, block, promised=0.0, gain=-0.05):
        self.delay, self.block, self.latency, self.gain = delay, block, promised, gain
        self.finished = False
        self._ended = threading.Event()
        self._thread = None

    def start(self, rings):
        self._thread = threading.Thread(target=self._run, args=(rings,))
        self._thread.start()

    def _run(self, rings):
        on_the_way = np.zeros(self.delay, np.float32)
        noise = np.random.default_rng(0)
        due = time.monotonic()
        while not self._ended.is_set():
            # As a real one: what is recorded in a call can hold nothing of what that call plays.
            x = 0.0005 * noise.standard_normal((self.block, 2)).astype(np.float32)
            x[:, 1] += self.gain * on_the_way[: self.block]
            y = np.zeros((self.block, 4), np.float32)
            exchange(rings.header, rings.inward, rings.outward, x, y)
            on_the_way = np.concatenate([on_the_way[self.block :], y[:, 0]])
            due += self.block / self.sample_rate
            time.sleep(max(0.0, due - time.monotonic()))

    def stop(self):
        self._ended.set()
        if self._thread:
            self._thread.join()


@pytest.mark.parametrize(("delay", "block"), [(100, 100), (1234, 64)])
@REAL_TIME
def test_a_cable(delay, block):
    result = measure(lambda: through_device(Cable(delay, block, promised=delay / 8000), max_delay=0.5))
    facts = result.as_dict()
    assert facts["loopback"]
    assert facts["measured_samples"] == pytest.approx(delay, abs=0.01)
    assert facts["difference_samples"] == pytest.approx(0, abs=0.01)
    assert facts["computed_samples"] == {"device": delay, "total": delay}
    assert facts["measured_ms"] == pytest.approx(delay / 8, abs=0.01)
    assert (facts["channel"], facts["inverted"], facts["steady"]) == (2, True, True)
    assert facts["gain_db"] == pytest.approx(-26, abs=0.1)
    assert facts["block"] == block
    assert facts["confidence"] > 1 - loopback.FALSE_ALARM
    assert result.remarks() == []
    json.dumps(facts)


def test_no_cable():
    result = measure(lambda: through_device(Cable(100, 100, gain=0), max_delay=0.2))
    assert result.loop is None
    facts = result.as_dict()
    assert facts["loopback"] is False
    assert "measured_samples" not in facts
    assert "no loopback" in result.why_none()
    json.dumps(facts)


def test_a_device_without_a_way_back():
    cable = Cable(100, 100)
    cable.out_channels = 0
    with pytest.raises(RoundTripError, match="cable is no way round"):
        through_device(cable)


def a_take(gaps=0, change=lambda y: y):
    sent = loopback.burst(8000, 8000, -20, np.random.default_rng(1))
    heard = np.zeros((1, 16_000), np.float32)
    heard[0, 500:8500] = sent
    return Take(sent, change(heard), 8000, 64, "take", {"graph": 64}, gaps)


def test_a_take_with_a_gap_is_taken_again():
    gaps = iter([3, 1, 0, 0])
    result = measure(lambda: a_take(next(gaps)))
    assert result.take.gaps == 0
    assert list(gaps) == [0]
    stubborn = measure(lambda: a_take(2))
    assert any("2 xruns" in line for line in stubborn.remarks())


def test_promised_parts_add_up():
    result = measure(a_take, {"algorithmic": 300, "buffering": 100})
    facts = result.as_dict()
    assert facts["computed_samples"] == {"algorithmic": 300, "buffering": 100, "graph": 64, "total": 464}
    assert facts["difference_samples"] == 36


def test_what_makes_a_figure_doubtful_is_said():
    def moved(y):
        y[0, 6500:] = np.roll(y[0, 6500:], 40)
        return y

    assert any("moved by 40" in line for line in measure(lambda: a_take(change=moved)).remarks())
    assert any("clips" in line for line in measure(lambda: a_take(change=lambda y: y * 10)).remarks())
    echo = measure(lambda: a_take(change=lambda y: y + 0.5 * np.roll(y, 1000)))
    assert any("1500 samples (-6 dB)" in line for line in echo.remarks())


# ------------------------------------------------------------------------------------------------------------- JACK graphs


@pytest.fixture(params=[PERIOD])
def server(request, tmp_path, monkeypatch):
    """A JACK server of its own."""
    # Always the same: JACK has eight places for the names of all servers, and a killed one's is only free for its name again.
    monkeypatch.setenv("JACK_DEFAULT_SERVER", "streamsep-test-latency")
    monkeypatch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
    server = JackServer(tmp_path / "jackd.log")
    try:
        yield server.start(period=request.param)
    finally:
        server.end(signal.SIGKILL)  # jackd itself does not end otherwise once a client has died without a word (jack_iodelay)


@pytest.mark.parametrize("server", [64, 256], indirect=True)
@REAL_TIME
def test_the_graph_alone_is_one_period(server):
    result = measure(lambda: through_jack([], [], max_delay=0.2))
    facts = result.as_dict()
    assert facts["measured_samples"] == facts["block"] == facts["computed_samples"]["total"]
    assert facts["difference_samples"] == 0


def test_ports_that_nobody_joins(server):
    """The dummy driver's ports are no loop: no figure, but the card's own promise."""
    facts = measure(lambda: through_jack(["system:playback_1"], ["system:capture_1"], max_delay=0.2)).as_dict()
    assert not facts["loopback"]
    assert facts["computed_samples"]["capture"] == PERIOD
    assert facts["computed_samples"]["playback"] >= PERIOD
    with pytest.raises(DeviceError, match=r"--send 'nosuch' is unknown: expected a client, or one of system:playback_1"):
        through_jack(["nosuch"], ["system"])
    with pytest.raises(DeviceError, match="two ends"):
        through_jack(["system"], [])


def streamsep(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "streamsep", *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, timeout=120
    )


@contextmanager
def daemon():
    """A running daemon's OSC port, and its inputs and outputs in the graph."""
    command = [sys.executable, "-m", "streamsep", "run", "--osc-port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    lines = []
    try:
        for line in process.stderr:
            lines.append(line)
            if line.startswith("OSC on"):
                break
        port = int(re.search(r"OSC on .*:(\d+)", lines[-1]).group(1))
        yield port
    finally:
        process.terminate()
        process.communicate(timeout=20)


def set_bypass(port, on):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(build_msg("/streamsep/bypass", [on]).dgram, ("127.0.0.1", port))


def promise_kept(port, bypass, back):
    """What the command tells of a daemon in the loop."""
    set_bypass(port, bypass)
    measured = streamsep(
        "latency", "--send", "streamsep:input_1", "--return", back, "--osc-port", port, "--max-delay", 0.5, "--json"
    )
    assert measured.returncode == 0, measured.stderr
    facts = json.loads(measured.stdout)
    parts = facts["computed_samples"]
    assert parts["algorithmic"] == 768
    assert parts["graph"] == facts["block"]
    assert parts["total"] == parts["algorithmic"] + parts["buffering"] + parts["graph"]
    assert facts["difference_samples"] == pytest.approx(0, abs=0.01), (bypass, back, facts)
    assert facts["steady"]
    assert facts["confidence"] == 1


@REAL_TIME
def test_a_daemon_in_the_loop_keeps_its_promise_to_the_sample(server):
    """In bypass by its first source alone; separating by all of them, and by the one that the noise goes to."""
    with daemon() as port:
        promise_kept(port, 1, "streamsep:vocals_1")
        promise_kept(port, 0, "streamsep")
        promise_kept(port, 0, "streamsep:accompaniment_1")


@pytest.mark.parametrize("server", [1024, 80], indirect=True)
@REAL_TIME
def test_and_with_blocks_that_are_larger_than_a_hop_or_do_not_divide_it(server):
    with daemon() as port:
        promise_kept(port, 0, "streamsep")


@REAL_TIME
def test_jack_iodelay_says_the_same_of_a_daemon_in_bypass(server):
    """Another method, of another hand: phases of many tones. It needs a path that stands still, so bypass."""
    tool = need_program("jack_iodelay")
    with daemon() as port:
        set_bypass(port, 1)
        ours = measure(
            lambda: through_jack(["streamsep:input_1"], ["streamsep:vocals_1"], max_delay=0.5),
            roundtrip.promised_by_daemon(port),
        )
        # Line by line: into a pipe it would keep its lines to itself.
        theirs = subprocess.Popen([need_program("stdbuf"), "-oL", tool], stdout=subprocess.PIPE, text=True)
        try:
            wait(lambda: "jack_delay:out" in subprocess.run(["jack_lsp"], capture_output=True, text=True, check=False).stdout)
            for one, other in (("jack_delay:out", "streamsep:input_1"), ("streamsep:vocals_1", "jack_delay:in")):
                subprocess.run(["jack_connect", one, other], check=True, capture_output=True)
            found = []
            for line in theirs.stdout:
                found += re.findall(r"([\d.]+) frames", line)
                if len(found) > 6:
                    break
        finally:
            theirs.terminate()
            theirs.communicate(timeout=20)
    assert ours.loop.delay == pytest.approx(ours.promised, abs=0.001)
    assert float(found[-1]) == pytest.approx(ours.loop.delay, abs=0.05)


def test_the_command_tells_people_and_leaves_nothing_behind(server):
    with daemon() as port:
        set_bypass(port, 1)
        told = streamsep("latency", "--send", "streamsep", "--return", "streamsep:vocals_1", "--osc-port", port)
        assert told.returncode == 0, told.stderr
        assert "algorithmic 768 + buffering" in told.stdout
        assert "+0.00 samples" in told.stdout
        assert told.stderr == ""
    none = streamsep("latency", "--send", "system", "--return", "system", "--max-delay", 0.2)
    assert none.returncode == 1
    assert none.stdout == ""
    assert "no loopback" in none.stderr
    assert len(none.stderr.splitlines()) == 1
    ports = subprocess.run(["jack_lsp"], capture_output=True, text=True, check=True).stdout
    assert "streamsep" not in ports


@REAL_TIME
def test_the_daemons_own_device_code_in_a_loop(server):
    """`streamsep latency` without ports: the live run's own stream, here with its outputs wired to its inputs."""
    command = [sys.executable, "-m", "streamsep", "latency", "--json", "--max-delay", "0.5"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        while process.poll() is None:  # from the moment on in which there are ports
            subprocess.run(["jack_connect", "streamsep:vocals_1", "streamsep:input_1"], capture_output=True)
            time.sleep(0.05)
        out, err = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert process.returncode == 0, err
    facts = json.loads(out)
    assert (
        facts["measured_samples"] == PERIOD
    )  # one of the graph; the card's latencies, which it promises, are not in this loop
    assert facts["channel"] == 1


@REAL_TIME
def test_a_sound_server_behind_portaudio(tmp_path):
    """PulseAudio: what is played into a null sink is recorded from its monitor. Two streams: their clocks are learnt before."""
    server = PulseServer(tmp_path)
    server.environment |= {"PULSE_SINK": "in", "PULSE_SOURCE": "in.monitor"}
    try:
        server.start()
        measured = server.streamsep("latency", "--input", "ALSA:pulse", "--output", "ALSA:pulse", "--rate", 48000, "--json")
    finally:
        server.end()
    assert measured.returncode == 0, measured.stderr
    facts = json.loads(measured.stdout)
    assert facts["confidence"] > 1 - 1e-8
    assert 0 < facts["measured_ms"] < 500
    assert facts["computed_samples"]["device"] > 0


def test_what_is_asked_for_wrongly(monkeypatch):
    monkeypatch.setenv("JACK_DEFAULT_SERVER", f"streamsep-none-{os.getpid()}")
    monkeypatch.setenv("JACK_NO_START_SERVER", "1")
    with pytest.raises(DeviceError, match="no JACK server"):
        through_jack([], [])
    silent = streamsep("latency", "--send", "a", "--return", "b", "--osc-port", 9)
    assert silent.returncode == 1
    assert "no streamsep answers on OSC port 9" in silent.stderr
    file = streamsep("latency", "--input", f"file:{ROOT / 'streamsep/demo/song.vocals.ogg'}")
    assert file.returncode == 1
    assert "no way round" in file.stderr
