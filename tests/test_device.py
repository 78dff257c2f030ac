"""PortAudio devices on real servers: sound through one stream and through two, servers that die, and what is refused how."""

import json
import signal

import numpy as np
import pytest

from streamsep import rings as R
from streamsep.devices import drift, portaudio
from streamsep.devices.callbacks import on_both
from streamsep.devices.portaudio import DeviceError
from tests.conftest import need_program
from tests.pulse_server import RATE, PulseServer, tone
from tests.servers import REAL_TIME, JackServer, wait


@pytest.fixture
def pulse(tmp_path):
    server = PulseServer(tmp_path)
    try:
        yield server.start()
    finally:
        server.end()


def heard(path):
    """The recorded tone, without the silence around it `[shape=(frames,)]`."""
    x = np.fromfile(path, np.float32)
    x = x[: len(x) // 2 * 2].reshape(-1, 2)[:, 0].astype(np.float64)
    loud = np.flatnonzero(np.abs(x) > 0.01)
    return x[loud[0] : loud[-1] + 1] if len(loud) else x[:0]


def gaps(x):
    """Pieces of 10 ms that are not as loud as the tone."""
    pieces = x[: len(x) // 480 * 480].reshape(-1, 480)
    return int((np.sqrt(np.mean(pieces**2, axis=1)) < 0.3).sum())


@pytest.mark.parametrize(("input_", "output"), [("mic", "speakers"), ("pulse", "pulse")])
@REAL_TIME
def test_sound_passes_without_a_gap(pulse, identity, tmp_path, input_, output):
    """A tone through the whole daemon, for some seconds, by two streams that the resampler keeps together."""
    pulse.environment |= {"PULSE_SOURCE": "in.monitor", "PULSE_SINK": "out"}  # what `pulse` alone means
    pulse.play("/dev/zero")
    pulse.record(tmp_path / "heard.raw")
    names = ("--input", f"ALSA:{input_}", "--output", output, "--rate", RATE, "--input-channels", "2,1")
    others = ("--output-channels", "mix=1,2", "--model", identity.path, "--duration", 7, "--osc-port", 0, "--json")
    process = pulse.python("-m", "streamsep", "run", *names, *others)
    while not process.stderr.readline().startswith("OSC on"):
        assert process.poll() is None, process.communicate()
    pulse.play(tone(tmp_path / "tone.raw", 20))
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    report = json.loads(out)
    assert report["device"] == f"ALSA:{input_} -> ALSA:{output}, two clocks"
    assert (report["in_channels"], report["out_channels"]) == (2, 2)
    assert report["missed_blocks"] == report["input_xruns"] == 0, report
    x = heard(tmp_path / "heard.raw")
    assert len(x) > 5 * RATE
    x = x[RATE // 2 : -RATE // 2]
    assert gaps(x) == 0
    assert np.abs(x).max() == pytest.approx(0.5, abs=0.01)
    omega = 2 * np.pi * 997 / RATE
    assert np.abs(np.diff(x, 2)).max() < 0.5 * omega**2 * 1.05  # a click would be far above
    # The names were given, so they are the next time's.
    kept = json.loads((tmp_path / "state/streamsep/devices.json").read_text())
    assert kept == {"input": f"ALSA:{input_}", "output": f"ALSA:{output}"}


def test_one_stream_records_what_was_picked_and_plays_what_is_there():
    """What PortAudio calls, called as PortAudio calls it."""
    rings = R.make_rings(256, 2, 3, 4)
    kernel, scratch = drift.kernel(1.0), np.zeros(100)
    bridge = drift.make_bridge(rings, kernel, scratch, RATE, RATE)
    bridge[drift.WIDTH] = 5
    bridge[[drift.PICKS, drift.PICKS + 1]] = 4, 1
    x = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)
    y = np.full((64, 3), np.nan, np.float32)

    def call(status=0):
        on_both.ctypes(x.ctypes.data, y.ctypes.data, 64, None, status, bridge.ctypes.data)

    call(status=15)
    assert not y.any()
    R.arm(rings, 64)
    rings.header[R.LEVEL] = R.FULL
    rings.outward[:64] = sent = np.random.default_rng(1).standard_normal((64, 3))
    call(status=2 | 4)
    np.testing.assert_array_equal(rings.inward[:64], x[:, [4, 1]])
    np.testing.assert_array_equal(y, sent.astype(np.float32))
    assert list(rings.header[[R.CALLS, R.IN_WRITE, R.OUT_READ, R.INPUT_XRUNS, R.OUTPUT_XRUNS]]) == [2, 64, 64, 1, 1]


@REAL_TIME
def test_the_daemon_goes_on_when_the_server_was_killed_and_came_back(pulse, identity, tmp_path):
    """It says so, with the device's name, and the same tone is heard again."""
    pulse.play("/dev/zero")
    names = ("--input", "mic", "--output", "speakers", "--rate", RATE, "--output-channels", "mix=1,2")
    process = pulse.python("-m", "streamsep", "run", *names, "--model", identity.path, "--osc-port", 0, "--json")

    def until(words):
        for line in process.stderr:
            if words in line:
                return line
        raise AssertionError(process.communicate())

    try:
        until("OSC on")
        pulse.end()
        assert "ALSA:mic -> ALSA:speakers, two clocks went away" in until("went away")
        pulse.start().play("/dev/zero")
        pulse.record(tmp_path / "heard.raw")
        until("ALSA:mic -> ALSA:speakers, two clocks is back: sound goes on")
        pulse.play(tone(tmp_path / "tone.raw", 3))
        wait(lambda: len(heard(tmp_path / "heard.raw")) > 2.5 * RATE)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 0, err
        assert json.loads(out)["reopened"] == 1
    finally:
        process.kill()
        process.communicate()


REOPENING = """
import sys, threading, time
from streamsep.devices.portaudiodevice import DeviceError, PortAudioDevice
from streamsep.rings import CALLS, make_rings

device = PortAudioDevice({input!r}, {output!r}, 48000, 0, 0.008, ("vocals", "accompaniment"))
def open_():
    rings = make_rings(1 << 16, device.in_channels, device.out_channels, 4, device.routes)
    device.start(rings)
    end = time.monotonic() + 10
    while rings.header[CALLS] < 50:
        if time.monotonic() > end or device.finished: raise DeviceError("no sound")
        time.sleep(0.005)
    assert device.latency > 0
    return rings
rings = open_()
print("open", device.name, flush=True)
for line in sys.stdin:
    before, since = -1, time.monotonic()
    while not device.finished and time.monotonic() - since < 0.5:  # some streams of a killed server stay "active", but silent
        if rings.header[CALLS] != before: before, since = rings.header[CALLS], time.monotonic()
        time.sleep(0.01)
    print("gone", flush=True)
    device.stop()
    sys.stdin.readline()
    for attempt in range(40):
        try:
            device = device.again()
            rings = open_()
            break
        except DeviceError as error:
            problem = error
            device.stop()
            time.sleep(0.25)
    else:
        raise problem
    print("open", device.name, flush=True)
print("done", flush=True)
"""


@pytest.mark.parametrize(("input_", "output"), [("pulse", "pulse"), ("mic", "speakers")])
@REAL_TIME
def test_the_same_process_opens_it_again_whenever_its_server_comes_back(pulse, input_, output):
    pulse.play("/dev/zero")
    process = pulse.python("-c", REOPENING.format(input=input_, output=output))
    try:
        names = process.stdout.readline()
        assert names.startswith("open"), process.communicate()
        for _ in range(4):
            pulse.end()
            process.stdin.write("killed\n")
            process.stdin.flush()
            assert process.stdout.readline() == "gone\n", process.communicate()
            pulse.start().play("/dev/zero")
            process.stdin.write("there again\n")
            process.stdin.flush()
            assert process.stdout.readline() == names, process.communicate()
        assert process.communicate(timeout=20)[0] == "done\n"
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_the_last_device_named_is_used_again_and_said(pulse):
    """And "default" forgets it."""
    program = """
from streamsep import rings
from streamsep.devices import portaudiodevice as device
def chosen(source):
    d = device.PortAudioDevice(source, "none", 48000, 0, 0.008, ("a", "b"))
    d.start(rings.make_rings(4096, d.in_channels, d.out_channels, 4))
    d.stop()
    print(d.spelled[0], d.notes)
for name in (None, "mic", None, "default", None): chosen(name)
"""
    out, err = pulse.python("-c", program).communicate(timeout=60)
    first, named, again, default, after = out.splitlines() or pytest.fail(err)
    assert named == "ALSA:mic []"
    assert again == """ALSA:mic ["input 'ALSA:mic' as last time; --input default is the system's"]"""
    assert first == default == after
    assert "mic" not in first


def test_no_device_at_all_is_one_clear_line(pulse):
    pulse.end()
    for command in (("run",), ("run", "--input", "mic")):
        result = pulse.streamsep(*command)
        assert result.returncode == 1
        assert result.stderr.count("\n") == 1
        assert "there is no input device: expected one of a sound card or server; start JACK, PipeWire" in result.stderr
    assert "no audio device" in pulse.streamsep("devices").stdout


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--input-channels", "33"), "input_channels=33: expected channels from 1 to 32 of 'mic'"),
        (("--output-channels", "vocals=40"), "output_channels=40: expected channels from 1 to 32 of 'speakers'"),
        (("--output-channels", "drums=1"), "source 'drums' is unknown: expected one of vocals, accompaniment, mix"),
        (("--input", "nosuch"), "input device 'nosuch' is unknown: expected one of 0 'ALSA:"),
        (("--input", "JACK:system"), "JACK"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(pulse, flags, says):
    result = pulse.streamsep("run", "--input", "mic", "--output", "speakers", *flags)
    assert result.returncode == 1, result.stderr
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.fixture
def jack(tmp_path, monkeypatch):
    monkeypatch.setenv("JACK_DEFAULT_SERVER", f"streamsep-device-{tmp_path.name}")
    monkeypatch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
    need_program("jackd")
    server = JackServer(tmp_path / "jackd.log")
    try:
        yield server.start()
    finally:
        server.end()


def test_a_rate_that_cannot_be_is_said_with_those_that_can(jack, pulse):
    program = """
from streamsep.devices import portaudiodevice as device
try: device.PortAudioDevice("JACK:system", "JACK:system", 44100, 0, 0.008, ("a", "b"))
except device.DeviceError as error: print(error)
"""
    out, err = pulse.python("-c", program).communicate(timeout=60)
    expected = "rate=44100 Hz: input 'system' (JACK Audio Connection Kit) cannot do that; it can do 48000 Hz\n"
    assert out == expected, err


@REAL_TIME
def test_from_jack_to_another_sound_system(jack, pulse):
    """Two host APIs, two clocks: sound flows both ways of the bridge, and the figure for the delay is there at once."""
    pulse.play("/dev/zero")
    program = """
import time
from streamsep import rings as R
from streamsep.devices import drift, portaudiodevice as device
d = device.PortAudioDevice("JACK:system", "ALSA:speakers", None, 0, 0.008, ("a", "b"))
rings = R.make_rings(1 << 16, d.in_channels, d.out_channels, 4)
d.start(rings)
latency = d.latency
R.arm(rings, 24_000)
time.sleep(1.0)
assert d.latency == latency and not d.finished
d.stop()
print(d.name, d.steady, latency > 0.01, rings.header[R.OUT_READ] > 24_000, d.drift["jumps"])
"""
    out, err = pulse.python("-c", program).communicate(timeout=60)
    assert out == "JACK:system -> ALSA:speakers, two clocks True True True 0\n", err


def test_settings_of_a_host_api_reach_it_or_are_refused_by_name():
    exclusive = portaudio.settings("Windows WASAPI", {"exclusive": True})
    assert exclusive._streaminfo.flags == portaudio.portaudio()._lib.paWinWasapiExclusive
    assert portaudio.settings("ALSA", {}) is None
    for host_api, options, says in (
        ("ALSA", {"exclusive": True}, "host_api setting 'exclusive': ALSA has none; expected WASAPI or Core Audio"),
        ("Windows WASAPI", {"exclusiv": True}, "'exclusiv': expected one of Windows WASAPI's exclusive, auto_convert"),
        ("Core Audio", {"conversion_quality": "best"}, "conversion_quality"),
    ):
        with pytest.raises(DeviceError) as caught:
            portaudio.settings(host_api, options)
        assert says in str(caught.value)
    selectors = portaudio.asio_selectors("ASIO", (3, 1))
    assert list(selectors._selectors) == [2, 0]
    assert portaudio.asio_selectors("ALSA", (1,)) is None
