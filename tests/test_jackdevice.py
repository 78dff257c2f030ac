"""The JACK client on real servers: its ports, its latency, and what it does when the server stops, hangs or dies."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from streamsep.channelmap import Wiring
from streamsep.devices import jackdevice, jackgraph
from streamsep.devices.jackdevice import find_ports, open_jack
from streamsep.devices.portaudiodevice import DeviceError
from streamsep.engine import Separator
from streamsep.live import Live
from streamsep.rings import ARMED, CALLS, IN_WRITE, INPUT_XRUNS, MAX_BLOCK, arm, make_rings, publish
from tests.conftest import ROOT
from tests.servers import PERIOD, RATE, REAL_TIME, JackServer, wait

jack = pytest.importorskip("jack", reason="libjack is missing", exc_type=OSError)

SOURCES = ["vocals", "accompaniment"]


@pytest.fixture
def idle(tmp_path, monkeypatch):
    """A server that is not yet running."""
    monkeypatch.setenv("JACK_DEFAULT_SERVER", f"streamsep-test-{os.getpid()}")
    monkeypatch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
    server = JackServer(tmp_path / "jackd.log")
    yield server
    server.end()


@pytest.fixture
def server(idle):
    return idle.start()


@contextmanager
def running(source=None, sink=None, sources=SOURCES, length=RATE, **settings):
    """A device in the graph, and its rings."""
    device = open_jack(source, sink, sources, **settings)
    rings = make_rings(length, device.in_channels, device.out_channels, 4)
    try:
        device.start(rings)
        yield device, rings
    finally:
        device.stop()


@contextmanager
def looking():
    """Another client, to look at the graph with."""
    client = jack.Client("looker", no_start_server=True)
    client.activate()
    try:
        yield client
    finally:
        client.close()


def connections(client, name="streamsep"):
    ports = client.get_ports(f"^{name}:")
    return {p.shortname: sorted(other.name for other in client.get_all_connections(p)) for p in ports}


def ports():
    return subprocess.run(["jack_lsp"], capture_output=True, text=True, check=True, timeout=20).stdout


# -------------------------------------------------------------------------------------------------------------- which ports

GRAPH = {
    "system:capture_1": True,
    "system:capture_2": True,
    "Second card:capture_1": True,
    "Ardour:master/audio_out 1": False,
    "Ardour:master/audio_out 2": False,
    "Firefox:output_FL": False,
}


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (None, ["system:capture_1", "system:capture_2"]),
        ("none", []),
        ("system", ["system:capture_1", "system:capture_2"]),
        ("ardour", ["Ardour:master/audio_out 1", "Ardour:master/audio_out 2"]),
        ("Firefox:output_FL,system:capture_2", ["Firefox:output_FL", "system:capture_2"]),
        ("*out* 2", ["Ardour:master/audio_out 2"]),
        ("*:capture_1", ["system:capture_1", "Second card:capture_1"]),
        ("second card", ["Second card:capture_1"]),
        ("master 1", ["Ardour:master/audio_out 1"]),
    ],
)
def test_a_name_means_ports(name, found):
    assert find_ports(name, "input", GRAPH) == found


def test_a_name_that_means_no_client_or_several_lists_them():
    with pytest.raises(DeviceError, match=r"input device 'nosuch' is unknown: expected one of system, Second card, Ardour, Fi"):
        find_ports("nosuch", "input", GRAPH)
    with pytest.raises(DeviceError, match=r"'capture' means 2 clients: expected one of system, Second card, ports"):
        find_ports("capture", "input", GRAPH)
    with pytest.raises(DeviceError, match=r"'system' is unknown: expected one of \(no client has such ports\)"):
        find_ports("system", "input", {})


# ---------------------------------------------------------------------------------------------------------- without a server

ALONE = """
from streamsep.devices import jackdevice, jackgraph
from streamsep.channelmap import Wiring
from streamsep.devices.portaudiodevice import DeviceError
print(jackdevice.available(), jackdevice.devices())
try:
    jackdevice.open_jack(None, None, ["vocals"])
except DeviceError as error:
    print(error)
"""


def test_without_a_server_it_says_so_and_is_quiet(idle):
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert first == "False []"
    assert second.startswith("no JACK server runs: start jackd or PipeWire")


# --------------------------------------------------------------------------------------------------------------- in the graph


def test_its_ports_have_good_names_and_go_where_the_sound_card_has_them(server):
    with looking() as client:
        with running() as (device, rings):
            wait(lambda: rings.header[CALLS] > 4)
            assert connections(client) == {
                "input_1": ["system:capture_1"],
                "input_2": ["system:capture_2"],
                "vocals_1": ["system:playback_1"],
                "vocals_2": ["system:playback_2"],
                "accompaniment_1": ["system:playback_3"],
                "accompaniment_2": ["system:playback_4"],
            }
            for port in client.get_ports("^streamsep:"):
                assert port.is_input == port.shortname.startswith("input")
                assert not port.is_terminal  # a patch bay may follow the sound through it
                assert not port.is_physical
            assert (device.sample_rate, device.block, rings.header[MAX_BLOCK]) == (RATE, PERIOD, PERIOD)
            assert (device.finished, device.changed, device.freewheeling) == (False, False, False)
        assert device.finished
        assert connections(client) == {}


def test_on_a_stereo_card_the_graph_mixes_the_pairs(idle):
    idle.start(playback=2)
    with looking() as client, running(wiring=Wiring((1,))) as (device, _):
        assert (device.in_channels, device.out_channels) == (1, 4)
        found = connections(client)
        assert found.pop("input_1") == ["system:capture_1"]
        assert found == {f"{stem}_{i}": [f"system:playback_{i}"] for stem in SOURCES for i in (1, 2)}


def test_channels_ports_and_clients_are_chosen(server):
    with looking() as client:
        with running("JACK:system", "none", sources=["a", "b", "c"], wiring=Wiring(tuple(range(8, 0, -1)))) as (device, _):
            found = connections(client)
            assert [found[f"input_{i}"] for i in range(1, 9)] == [[f"system:capture_{9 - i}"] for i in range(1, 9)]
            assert not any(found[f"{stem}_{i}"] for stem in "abc" for i in (1, 2))
            assert device.name == "system -> none (JACK, client streamsep)"
        with running("system:capture_7", "system:playback_5,system:playback_6") as (device, _):
            found = connections(client)
            assert device.in_channels == 1
            assert found["input_1"] == ["system:capture_7"]
            assert found["vocals_2"] == found["accompaniment_2"] == ["system:playback_6"]
        wiring = Wiring((3,), {"vocals": (1, 2), "accompaniment": (4,), "mix": (5, 6, 7)})
        with running(wiring=wiring):
            assert connections(client) == {
                "input_1": ["system:capture_3"],
                "vocals_1": ["system:playback_1", "system:playback_5"],
                "vocals_2": ["system:playback_2", "system:playback_6", "system:playback_7"],
                "accompaniment_1": ["system:playback_4", "system:playback_5"],
                "accompaniment_2": ["system:playback_6", "system:playback_7"],
            }


def test_a_second_one_gets_a_name_of_its_own_and_can_follow_the_first(server):
    with looking() as client, running(), running("streamsep", "none") as (second, _):
        assert second.client == "streamsep-01"
        assert connections(client, "streamsep-01")["input_2"] == ["streamsep:vocals_2"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"sample_rate": 44100}, "rate=44100 Hz: expected the JACK server's 48000 Hz"),
        ({"block": 256}, "block=256: expected the JACK server's 128 frames"),
        ({"wiring": Wiring(inputs=(2, 9))}, r"input channels \(2, 9\): expected 1 to 8 of 8"),
        ({"wiring": Wiring(outputs={"vocals": (9,)})}, "output channel 9: expected 1 to 8"),
        ({"wiring": Wiring(outputs={"drums": (1,)})}, "'drums': expected one of vocals, accompaniment, mix"),
        ({"source": "nosuch"}, "input device 'nosuch' is unknown: expected one of system"),
        ({"sink": "nosuch"}, "output device 'nosuch' is unknown: expected one of system"),
    ],
)
def test_what_the_server_cannot_do_is_said_and_leaves_no_client(server, settings, problem):
    with pytest.raises(DeviceError, match=problem):
        open_jack(**{"source": None, "sink": None, "sources": SOURCES} | settings)
    with looking() as client, running() as (device, _):  # the name is free again
        assert device.client == "streamsep"
        assert connections(client)


def test_the_graphs_clients_are_listed_as_devices(server):
    with running():
        found = {d.name: d for d in jackdevice.devices()}
    assert found.keys() == {"system", "streamsep"}
    system, own = found["system"], found["streamsep"]
    assert (system.in_channels, system.out_channels, system.default_sample_rate) == (8, 8, RATE)
    assert (system.host_api, system.default_input, system.default_output) == ("JACK", True, True)
    assert (own.in_channels, own.out_channels, own.default_input, own.default_output) == (4, 2, False, False)


# ------------------------------------------------------------------------------------------------------------------- latency


def spans(name, side):
    """(capture, playback) latency of a port as `jack_lsp` reports it, samples."""
    listed = subprocess.run(["jack_lsp", "-l", f"{name}:{side}"], capture_output=True, text=True, check=True).stdout
    found = re.findall(r"(playback|capture) latency = \[ (\d+) (\d+) \]", listed)
    numbers = {mode: int(most) for mode, least, most in found if least == most}  # one way through: no other is shorter
    return numbers["capture"], numbers["playback"]


def test_the_graph_is_told_what_the_engine_delays(server):
    """The dummy driver reports one period on each side."""
    with running() as (device, _):
        assert round(device.latency * RATE) == 2 * PERIOD
        device.set_latency(1024)
        wait(lambda: spans("streamsep", "vocals_1") == (PERIOD + 1024, PERIOD), lambda: spans("streamsep", "vocals_1"))
        wait(lambda: spans("streamsep", "input_2") == (PERIOD, PERIOD + 1024))
        wait(lambda: spans("system", "playback_4") == (PERIOD + 1024, PERIOD))
        device.set_latency(640)
        wait(lambda: spans("system", "playback_4") == (PERIOD + 640, PERIOD))
        with running("streamsep", "none") as (second, _):  # connected later: the graph computes it anew
            second.set_latency(100)
            wait(lambda: spans("streamsep-01", "accompaniment_2") == (PERIOD + 640 + 100, 0))
            assert round(second.latency * RATE) == PERIOD + 640
    with running("none", "none") as (alone, _):
        assert alone.latency == 0


def test_a_block_that_changes_while_it_runs_is_noticed(server):
    with running() as (device, rings):
        wait(lambda: rings.header[CALLS] > 4)
        subprocess.run(["jack_bufsize", "256"], check=True, capture_output=True)
        wait(lambda: device.changed)
        assert not device.finished
    with running() as (device, rings):
        wait(lambda: rings.header[CALLS] > 4)
        assert (device.block, rings.header[MAX_BLOCK], device.changed) == (256, 256, False)


def test_the_servers_xruns_are_counted_while_sound_runs(server):
    with running() as (_, rings):
        publish(rings.header, ARMED, 1)
        before = int(rings.header[INPUT_XRUNS])
        server.process.send_signal(signal.SIGSTOP)
        time.sleep(0.2)
        server.process.send_signal(signal.SIGCONT)
        wait(lambda: rings.header[INPUT_XRUNS] > before)


# --------------------------------------------------------------------------------------------------------------------- sound


LENGTH = 1 << 18  # frames that are played and recorded, 5.5 s


@contextmanager
def player_and_recorder(x):
    """Two more clients, one to play `x` `[shape=(2, LENGTH)]`, one to record six inputs; their names, the latter's rings, and
    what starts both.
    """
    with (
        running("none", "none", sources=["song"], length=LENGTH) as (player, playing),
        running("none", "none", sources=["nothing"], wiring=Wiring((1, 2, 3, 4, 5, 6)), length=LENGTH) as (recorder, recording),
    ):

        def start():
            for rings in (recording, playing):
                arm(rings, LENGTH)
            playing.outward[:] = x.T

        yield player.client, recorder.client, recording, start


@contextmanager
def separating(model):
    """A live path with nothing connected."""
    device = open_jack("none", "none", model.contract.sources)
    live = Live(Separator(model, device.sample_rate, device.in_channels, "cpu"), device)
    live.prepare()
    try:
        live.open()
        live.start()
        yield live
    finally:
        live.stop()


@pytest.mark.parametrize("freewheel", [False, True])
@REAL_TIME
def test_sound_comes_through_late_by_exactly_what_the_graph_was_told(server, identity, song, freewheel):
    """Also when the graph runs far faster than real time for a while: then the worker is waited for."""
    x = song[0][:, 4 * RATE : 4 * RATE + LENGTH]
    with separating(identity) as live, player_and_recorder(x) as others, looking() as steer:
        player, recorder, recording, start = others
        for i in (1, 2):
            steer.connect(f"{player}:song_{i}", f"streamsep:input_{i}")
            steer.connect(f"{player}:song_{i}", f"{recorder}:input_{i}")
            steer.connect(f"streamsep:vocals_{i}", f"{recorder}:input_{i + 2}")
            steer.connect(f"streamsep:accompaniment_{i}", f"{recorder}:input_{i + 4}")
        start()
        wait(lambda: recording.header[IN_WRITE] > RATE)
        if freewheel:
            steer.set_freewheel(True)
            wait(lambda: recording.header[IN_WRITE] > 4 * RATE)
            assert live.device.freewheeling
            steer.set_freewheel(False)
        wait(lambda: recording.header[IN_WRITE] >= LENGTH - RATE // 2)
        assert not live.device.freewheeling
        report, told = live.report(), spans("streamsep", "vocals_1")[0]
        recorded = int(recording.header[IN_WRITE])
    assert recorded < LENGTH
    heard, vocals, rest = np.split(recording.inward[:recorded].T, 3)
    assert told == report["latency_samples"]["algorithmic"] + report["latency_samples"]["buffering"]
    assert np.abs(heard).max() > 0.1
    np.testing.assert_allclose(vocals[:, told:], heard[:, :-told], atol=2e-6)
    assert np.abs(rest).max() < 2e-6
    assert (report["late"], report["lost"], report["missed_blocks"]) == (0, 0, 0)


# -------------------------------------------------------------------------------------------------------------- when it ends


def handles():
    """Open files and threads of this process."""
    return len(os.listdir("/proc/self/fd")), len(os.listdir("/proc/self/task"))


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts handles in /proc")
def test_a_server_that_dies_again_and_again_is_noticed_and_a_new_device_runs_on_the_next_one(server):
    counts = []
    for number in (signal.SIGKILL, signal.SIGTERM) * 3:
        with running() as (device, rings):
            wait(lambda: rings.header[CALLS] > 20)
            server.end(number)
            wait(lambda: device.finished, seconds=1)
            assert device.why == "JACK server has been closed"
            began = time.monotonic()
            device.stop()
            assert time.monotonic() - began < jackgraph.SECONDS
            calls = rings.header[CALLS]
        counts.append(handles())
        with pytest.raises(DeviceError, match="no JACK server runs"):
            open_jack(None, None, SOURCES)
        server.start()
        assert rings.header[CALLS] == calls
    files, threads = zip(*counts, strict=True)
    assert max(files[1:]) <= files[0] + 1
    assert max(threads[1:]) <= threads[0] + 1


def test_a_server_that_hangs_stops_nobody(server):
    with running() as (device, rings):
        wait(lambda: rings.header[CALLS] > 20)
        server.process.send_signal(signal.SIGSTOP)
        began = time.monotonic()
        device.stop()
        assert time.monotonic() - began < jackgraph.SECONDS + 2
        assert device.finished
        with pytest.raises(DeviceError, match="does not answer within 3 s: is it stopped or hung"):
            open_jack(None, None, SOURCES)
        assert not jackdevice.available()
        server.process.send_signal(signal.SIGCONT)
    wait(jackdevice.available)
    with looking() as client:
        assert connections(client) == {}
    with running() as (device, rings):
        wait(lambda: rings.header[CALLS] > 20)
        assert device.client == "streamsep"


@pytest.mark.parametrize("number", [None, signal.SIGKILL])
def test_what_was_connected_by_hand_is_connected_again(server, number):
    """After a stop, as for a new block size, and after the server was killed; what has gone is left out."""
    with looking() as client:
        with running("none", "none") as (device, rings):
            wait(lambda: rings.header[CALLS] > 20)
            client.connect("system:capture_5", "streamsep:input_2")
            client.connect("streamsep:vocals_1", "system:playback_3")
            client.connect("streamsep:vocals_1", "system:playback_4")
            with running("streamsep", "none"):
                if number:
                    server.end(number)
                    wait(lambda: device.finished)
                device.stop()
        if number:
            server.start()
    with looking() as client:
        again = device.again()
        try:
            again.start(make_rings(RATE, 2, 4, 4))
            found = {port: others for port, others in connections(client).items() if others}
            assert found == {"input_2": ["system:capture_5"], "vocals_1": ["system:playback_3", "system:playback_4"]}
        finally:
            again.stop()


def test_stop_is_harmless_twice_and_before_the_start(server):
    device = open_jack(None, None, SOURCES)
    device.stop()
    device.stop()
    with pytest.raises(DeviceError, match="expected a device not started before"):
        device.start(make_rings(1024, 2, 4, 4))
    assert not [t for t in threading.enumerate() if t.name.startswith("streamsep-jack")]


RUNNING = """
import time
from streamsep.devices.jackdevice import open_jack
from streamsep.rings import make_rings
device = open_jack(None, None, ["vocals", "accompaniment"])
device.start(make_rings(4096, 2, 4, 4))
print("ready", flush=True)
time.sleep(60)
"""


def test_a_client_that_is_killed_is_not_stuck_in_the_server(idle):
    idle.start(synchronous=False)
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", RUNNING], stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            assert process.stdout.readline() == "ready\n"
            assert "streamsep:vocals_1" in ports()
        finally:
            process.kill()
            process.communicate()
        wait(lambda: "streamsep" not in ports())
    with running() as (device, rings):
        wait(lambda: rings.header[CALLS] > 20)
        assert device.client == "streamsep"
