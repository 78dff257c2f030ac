"""Sound in over OSC: in any order, with holes, at the sender's pace, through the daemon and out again."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import soundfile

from streamsep import listen as listening
from streamsep import rings
from streamsep.config import Config
from streamsep.daemon import open_device
from streamsep.devices import jitter, oscinput
from streamsep.devices.jitter import BUFFER_SECONDS, FADE, STALL, Arrivals, begin, make_buffer, put, render
from streamsep.devices.oscinput import OscInput
from streamsep.devices.portaudiodevice import DeviceError
from streamsep.engine import Separator
from streamsep.osc.packet import Packet, pack
from streamsep.soundfiles import AudioFileError
from tests.osc_client import HERE, WAIT, until
from tests.servers import REAL_TIME

RATE, BLOCK = 16000, 128
JITTER = 320  # frames: 20 ms
SECOND = 1_000_000_000


class Link:
    """Sender, network, buffer and reading clock, all on a time that the test makes: no thread, no socket.

    Packets of `size` frames come as `arrivals` says: (ns, index) pairs, in any order. What was handed out is in `out`.
    """

    def __init__(self, sound, rate=RATE, wait=JITTER):
        self.sound = sound
        self.buffer = make_buffer(rate, sound.shape[1], wait)
        self.buffer.state[jitter.PERIOD] = SECOND * BLOCK // rate
        self.arrivals = Arrivals(rate)
        self.time, self.out, self.waits = 0, [], []
        self.begun = False

    def take(self, when, index, size):
        x = np.ascontiguousarray(self.sound[index : index + size])
        end = index + len(x)
        self.buffer.state[jitter.FIRST] = self.arrivals.note(int(when), end, not self.begun)
        if self.begun:
            put(self.buffer, index, x)
        else:
            begin(self.buffer, index, x, index == 0)
        self.begun = True

    def run(self, packets, until_ns, size=BLOCK):
        """Deliver `packets` and hand out blocks up to a time."""
        waiting = sorted(packets)
        while self.time < until_ns:
            while waiting and waiting[0][0] <= self.time:
                self.take(*waiting.pop(0), size)
            block = np.empty((BLOCK, self.sound.shape[1]), np.float32)
            render(self.buffer, self.time, block)
            self.out.append(block)
            newest, read = int(self.buffer.state[jitter.NEWEST]), int(self.buffer.state[jitter.READ])
            self.waits.append(newest - read)
            self.time += int(self.buffer.state[jitter.PERIOD])
        return np.concatenate(self.out)

    def count(self, place):
        return int(self.buffer.state[place])


def steady(frames, rate=RATE, delay=0.005, size=BLOCK, first=0):
    """When each packet of a sender at `rate` comes: (ns, index)."""
    return [(round(SECOND * ((n + size) / rate + delay)), n) for n in range(first, frames - size + 1, size)]


def noise(seconds, channels=2):
    return np.random.default_rng(0).normal(0, 0.2, (int(seconds * RATE), channels)).astype(np.float32)


def found(out, sound):
    """Where in `out` the first frame of `sound` is."""
    (place,) = np.flatnonzero((out[:, None] == sound[:1]).all(axis=2)[:, 0])
    return int(place)


def test_what_comes_evenly_goes_through_untouched():
    sound = noise(3)
    link = Link(sound)
    out = link.run(steady(len(sound)), 2.9 * SECOND)
    start = found(out, sound)
    np.testing.assert_array_equal(out[start:], sound[: len(out) - start])
    assert not out[:start].any()
    # The last frame of a packet, here 5 ms after it was sent, waits as long as was told, to a block's grain.
    told = round((0.005 * RATE) + JITTER)
    assert told <= start <= told + 2 * BLOCK
    assert (link.count(jitter.LOST), link.count(jitter.STARVED), link.count(jitter.RESYNCS)) == (0, 0, 1)


def test_packets_may_come_in_any_order_and_twice_and_unevenly():
    """Up to 19 of the 20 ms later than the fastest, so that many overtake each other."""
    rng = np.random.default_rng(2)
    sound = noise(10)
    packets = [(when + int(rng.uniform(0, 0.019) * SECOND), n) for when, n in steady(len(sound))]
    packets += [(when + 3_000_000, n) for when, n in packets[::7]]
    packets[0] = steady(len(sound))[0]  # among the fastest: it sets the pace at the start
    assert sorted(n for _, n in packets) != [n for _, n in sorted(packets)]
    link = Link(sound)
    out = link.run(packets, 9.9 * SECOND)
    start = found(out, sound)
    np.testing.assert_array_equal(out[start:], sound[: len(out) - start])
    assert (link.count(jitter.LOST), link.count(jitter.STARVED)) == (0, 0)


@pytest.mark.parametrize("ppm", [-500, -60, 60, 500])
def test_the_senders_clock_is_followed(ppm):
    """Two minutes of a sender whose clock is off, with jitter: not a frame is lost, doubled or changed."""
    rng = np.random.default_rng(3)
    sound = noise(120, 1)
    rate = RATE * (1 + ppm * 1e-6)
    packets = [(when + int(min(rng.exponential(0.002), 0.015) * SECOND), n) for when, n in steady(len(sound), rate)]
    link = Link(sound)
    out = link.run(packets, 119 * SECOND)
    start = found(out, sound)
    np.testing.assert_array_equal(out[start:], sound[: len(out) - start])
    assert (link.count(jitter.LOST), link.count(jitter.STARVED), link.count(jitter.SKIPPED)) == (0, 0, 0)
    assert link.count(jitter.RESYNCS) == 1
    period = SECOND * BLOCK / RATE / link.count(jitter.PERIOD) - 1
    assert period == pytest.approx(ppm * 1e-6, abs=150e-6)
    waits = np.array(link.waits[len(link.waits) // 2 :])
    assert np.median(waits) == pytest.approx(JITTER, abs=2 * BLOCK)


def sine(seconds, hz=220):
    t = np.arange(int(seconds * RATE)) / RATE
    return (0.5 * np.sin(2 * np.pi * hz * t)).astype(np.float32)[:, None]


def test_holes_are_filled_without_a_click_and_counted():
    sound = sine(4)
    missing = {n for n in range(40 * BLOCK, 400 * BLOCK, 37 * BLOCK)} | {200 * BLOCK, 201 * BLOCK, 202 * BLOCK}
    link = Link(sound)
    out = link.run([p for p in steady(len(sound)) if p[1] not in missing], 3.8 * SECOND)[:, 0]
    # Three packets in a row are more than the jitter: when the second's turn comes, nothing later is there.
    assert link.count(jitter.LOST) + link.count(jitter.STARVED) == len(missing) * BLOCK
    assert link.count(jitter.STARVED) < BLOCK
    first = int(np.flatnonzero(out)[0]) - 1  # frame 0 of the sine is 0
    truth = sound[: len(out) - first, 0]
    heard = out[first:]
    fade = round(FADE * RATE)
    touched = np.zeros(len(heard), bool)
    for n in missing:
        touched[n : n + BLOCK + fade] = True
    np.testing.assert_array_equal(heard[~touched], truth[~touched])
    assert np.abs(heard[201 * BLOCK : 203 * BLOCK]).max() == 0  # long holes are silent
    natural = np.abs(np.diff(truth)).max()
    assert np.abs(np.diff(heard)).max() < 2 * natural + 0.5 / fade  # fades and turns, but no step
    bare = np.where(touched & ~np.roll(touched, fade), 0, truth)
    assert np.abs(np.diff(bare)).max() > 3 * np.abs(np.diff(heard)).max()  # what it would be without


def test_a_sender_that_pauses_is_found_again():
    """Silence while it is away, counted as starved and not as lost; afterwards the wait is what was told."""
    sound = noise(6)
    link = Link(sound)
    early = [p for p in steady(len(sound)) if p[1] < 2 * RATE]
    late = [(when + 2 * SECOND, n) for when, n in steady(len(sound)) if n >= 2 * RATE]  # its own clock stood still
    out = link.run(early + late, 7 * SECOND)
    start = found(out, sound)
    np.testing.assert_array_equal(out[start : start + 2 * RATE], sound[: 2 * RATE])
    assert link.count(jitter.STARVED) == pytest.approx(STALL * RATE, abs=2 * BLOCK)
    assert link.count(jitter.LOST) == 0
    again = found(out, sound[3 * RATE :])
    assert again - start == pytest.approx(3 * RATE + 2 * RATE, abs=2 * BLOCK)
    np.testing.assert_array_equal(out[again : again + RATE], sound[3 * RATE : 4 * RATE])


def test_a_network_that_fails_for_a_while_is_a_loss():
    """The sender went on: what it sent meanwhile is lost, and exactly that much."""
    sound = noise(6)
    link = Link(sound)
    packets = [p for p in steady(len(sound)) if not 2 * RATE <= p[1] < 4 * RATE]
    out = link.run(packets, 5.9 * SECOND)
    start, again = found(out, sound), found(out, sound[5 * RATE :])
    assert again - start == pytest.approx(5 * RATE, abs=2)
    assert link.count(jitter.LOST) + link.count(jitter.STARVED) == pytest.approx(2 * RATE, abs=2 * BLOCK)


def test_the_fastest_packets_set_the_time():
    arrivals = Arrivals(1000)
    assert arrivals.note(50_000_000, 10, True) == 40_000_000
    assert arrivals.note(65_000_000, 20, False) == 40_000_000  # 5 ms late: no matter
    assert arrivals.note(68_000_000, 30, False) == 38_000_000  # 2 ms faster than the first
    for n in range(31, 3000):
        latest = arrivals.note(45_000_000 + n * 1_000_000, n, False)
    assert latest == 45_000_000  # the fast one is forgotten after a while
    assert arrivals.note(10 * SECOND, 3001, False) == 10 * SECOND - 3001 * 1_000_000  # a pause: those before say nothing


# -------------------------------------------------------------------------------------------------------------- the device


@pytest.fixture
def device():
    device = OscInput(HERE, 0, RATE, BLOCK, 0.008, 0.02)
    ring = rings.make_rings(1 << 18, 2, 0, 4)
    device.start(ring)
    rings.arm(ring, BLOCK)
    yield device, ring
    device.stop()


@contextlib.contextmanager
def sender(port):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((HERE, 0))

        def send(index, x, stream=1, rate=RATE, sequence=None, encoding="f32"):
            number = index // BLOCK if sequence is None else sequence
            s.sendto(pack(Packet(stream, number, index, rate, encoding, np.asarray(x, np.float32))), (HERE, port))

        send.raw = lambda data: s.sendto(data, (HERE, port))
        yield send


@REAL_TIME
def test_the_device_takes_mono_and_more_and_says_what_it_refuses(device):
    device, ring = device
    with sender(device.port) as send, sender(device.port) as other:
        begin = time.monotonic()
        for n in range(40):
            send(n * BLOCK, np.full((BLOCK, 1 + n // 20 * 2), 0.25))  # mono, then three channels
            time.sleep(max(0.0, begin + (n + 1) * BLOCK / RATE - time.monotonic()))
            if n == 5:
                send(n * BLOCK, np.zeros((BLOCK, 1)))
                other(0, np.ones((BLOCK, 2)))
                send(n * BLOCK, np.ones((BLOCK, 2)), rate=48000)
                send.raw(b"/streamsep/version\0\0,\0\0\0")
        until(lambda: device.counts["packets"] == 41)
        counts = device.counts
        assert counts["refused"] == 3
        assert counts["duplicate"] + counts["late"] == 1
        until(lambda: int(ring.header[rings.IN_WRITE]) > 45 * BLOCK)
    heard = ring.inward[: int(ring.header[rings.IN_WRITE])]
    assert set(np.unique(heard[:, 0])) <= {np.float32(0), np.float32(0.25)} or np.abs(heard).max() <= 0.25
    np.testing.assert_array_equal(heard[:, 0], heard[:, 1])
    assert (heard[:, 0] == 0.25).sum() >= 39 * BLOCK - 200
    assert device.latency == 0.02
    assert not device.finished


def test_only_who_is_allowed_is_heard():
    silence = Packet(1, 0, 0, RATE, "f32", np.zeros((BLOCK, 2), np.float32))
    device = OscInput(HERE, 0, RATE, BLOCK, 0.008, 0.02, ["192.0.2.0/24"])
    try:
        with pytest.raises(ValueError, match=r"sender 198.51.100.7: expected one that --osc-allow names"):
            device._take(silence, ("198.51.100.7", 5))
        device._take(silence, ("192.0.2.9", 5))
        assert device.counts["packets"] == 1
    finally:
        device.stop()


def test_another_sender_is_heard_when_the_first_is_gone(device, monkeypatch):
    device, _ = device
    monkeypatch.setattr(oscinput, "TAKEOVER", 0.2)
    with sender(device.port) as send, sender(device.port) as other:
        send(0, np.ones((BLOCK, 2)))
        until(lambda: device.counts["packets"] == 1)
        other(0, np.ones((BLOCK, 2)))
        until(lambda: device.counts["refused"] == 1)
        assert "which is still sending" in device.counts["refusal"]
        time.sleep(0.3)
        other(0, np.ones((BLOCK, 2)))
        until(lambda: device.counts["packets"] == 2)


def test_what_cannot_be_is_refused_with_its_cure(tmp_path, lstm):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HERE, 0))
        port = taken.getsockname()[1]
        with pytest.raises(DeviceError, match=rf"input osc:{port} on 127.0.0.1 cannot be opened .*choose another port"):
            OscInput(HERE, port, None, 0, 0.008, 0.02)
    for name in ("osc:", "osc:x", "osc:70000", "osc:-1"):
        with pytest.raises(DeviceError, match="expected osc:PORT with 0 to 65535"):
            open_device(Config(input=name), lstm)
    with pytest.raises(DeviceError, match="sound from the network goes out over OSC or to a file"):
        open_device(Config(input="osc:0", output="jack"), lstm)
    with pytest.raises(AudioFileError, match="its folder does not exist"):
        open_device(Config(input="osc:0", output="file:nowhere/x.wav"), lstm)


def test_start_and_stop_leave_nothing_behind():
    before = threading.enumerate()
    device = OscInput(HERE, 0, None, 0, 0.008, 0.05)
    assert (device.sample_rate, device.latency) == (48000, 0.05)
    assert len(device._buffer.have) >= BUFFER_SECONDS * 48000
    device.start(rings.make_rings(1 << 16, 2, 0, 4))
    assert len(threading.enumerate()) == len(before) + 2
    device.stop()
    device.stop()
    assert threading.enumerate() == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HERE, device.port))


# ---------------------------------------------------------------------------------------------------- the whole house


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.bind((HERE, 0))
        return s.getsockname()[1]


@pytest.mark.parametrize(("ppm", "output"), [(0, "none"), (300, "file")])
@REAL_TIME
def test_through_the_daemon_and_out_again(lstm, tmp_path, ppm, output):
    """A network processor: sound goes in over OSC at the sender's pace, stems come out, equal to the offline engine's."""
    file = tmp_path / "stems.wav"
    inward, osc = free_port(), free_port()
    command = [sys.executable, "-m", "streamsep", "run", "--input", f"osc:{inward}", "--osc-port", str(osc)]
    command += ["--rate", str(RATE), "--model", str(lstm.path), "--provider", "cpu", "--json", "--osc-jitter-ms", "60"]
    command += ["--output", output if output == "none" else f"file:{file}"]
    sound = noise(4)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while "Ctrl-C ends" not in (line := process.stderr.readline()):
            assert line, process.communicate()[1]
            if "latency" in line:
                assert "60.0 device" in line
        heard = _feed_and_listen(sound, inward, osc, ppm)
    finally:
        process.send_signal(signal.SIGTERM)
        text, errors = process.communicate(timeout=6 * WAIT)
    assert process.returncode == 0, errors
    report = json.loads(text)
    assert report["input"]["refused"] == report["input"]["lost_frames"] == report["late"] == report["lost"] == 0, report
    (first_in, went_in), (first_out, came_out) = heard["input"], heard["vocals"]
    (start,) = np.flatnonzero((went_in == sound[0]).all(axis=1))
    np.testing.assert_array_equal(went_in[start : start + len(sound)], sound[: len(went_in) - start])
    # The engine hears from its position 0 on what is before the sound, silence, and then the sound.
    separator = Separator(lstm, RATE, 2, "cpu")
    hop = separator.geometry.hop_length
    x = np.concatenate([np.zeros((first_in + start, 2), np.float32), sound])
    hops = len(x) // hop
    truth = np.zeros((hops * hop, 2), np.float32)
    for n in range(hops):
        separator.state.x[:] = x[n * hop : (n + 1) * hop].T
        separator.hop()
        truth[n * hop : (n + 1) * hop] = separator.state.y[0].T
    n = min(len(truth) - first_out, len(came_out))
    assert n > 3 * RATE
    assert np.abs(truth).max() > 0.01
    np.testing.assert_array_equal(came_out[:n], truth[first_out : first_out + n])
    if output == "file":
        kept, rate = soundfile.read(file, dtype="float32")
        assert (rate, kept.shape[1]) == (RATE, 4)
        prefill = report["latency_samples"]["buffering"] + hop  # silence that goes out first
        np.testing.assert_array_equal(kept[prefill : prefill + 3 * RATE, :2], truth[: 3 * RATE])
    assert file.exists() == (output == "file")


def _feed_and_listen(sound, inward, osc, ppm):
    """Source -> (sample index of the first frame, frames), while `sound` is sent at RATE and a little."""
    heard, stop = {}, threading.Event()

    def hear(source):
        firsts, parts = [], []

        class Keep:
            def write(self, frames):
                if not parts:
                    firsts.append(listener.assembly._next - len(frames))
                parts.append(frames)

        with listening.Listener(source, HERE, osc) as listener:
            ready.release()
            report = listening.listen(listener, Keep(), stop, None, lambda _: None)
        assert report["gaps"] == 0, report
        heard[source] = firsts[0], np.concatenate(parts)

    ready = threading.Semaphore(0)
    threads = [threading.Thread(target=hear, args=(source,)) for source in ("input", "vocals")]
    for thread in threads:
        thread.start()
        ready.acquire()
    rate = RATE * (1 + ppm * 1e-6)
    begun = time.monotonic() + 0.1
    with sender(inward) as send:
        for index in range(0, len(sound), BLOCK):
            time.sleep(max(0, begun + index / rate - time.monotonic()))
            send(index, sound[index : index + BLOCK], rate=rate)
    time.sleep(0.3)
    stop.set()
    for thread in threads:
        thread.join(WAIT)
    return heard
