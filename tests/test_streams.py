"""Several streams on one device: settings, the live path, OSC, recordings, and the whole house on a real JACK server."""

import json
import time

import numpy as np
import pytest
import soundfile

from streamsep import config, live
from streamsep.batch import Batch
from streamsep.channelmap import default_routes, part
from streamsep.devices.filedevice import FileDevice
from streamsep.engine import Separator
from streamsep.lines import Lines
from streamsep.osc import OscServer
from streamsep.osc.host import Line
from tests.osc_client import CHANNELS, RATE, Daemon
from tests.running import ask, osc_port, start_daemon, stop
from tests.servers import PERIOD, REAL_TIME
from tests.test_jack import connect, go, start_client

TOML = """
[[stream]]
name = "stage"
input_channels = "1,2"

[[stream]]
input_channels = 3
output_channels = "vocals=5;accompaniment=6"
gain = { accompaniment = -6 }

[[stream]]
name = "booth"
input_channels = [4]
mute = ["vocals"]
"""


PLAIN = "\n".join(line for line in TOML.splitlines() if line.split(" ")[0] not in ("output_channels", "gain", "mute"))


def settings(tmp_path, text=TOML) -> config.Config:
    path = tmp_path / "streamsep.toml"
    path.write_text(text)
    return config.load(path, {})


# ------------------------------------------------------------------------------------------------------------ settings


def test_streams_are_spelled_as_the_settings_of_one(tmp_path):
    first, second, third = settings(tmp_path).stream
    assert (first.name, first.wiring.inputs, first.active) == ("stage", (1, 2), True)
    assert second.wiring.outputs == {"vocals": (5,), "accompaniment": (6,)}
    assert (third.wiring.inputs, third.mute) == ((4,), ["vocals"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[stream]]\nname = "a"', "stream.0.input_channels"),
        ('input_channels = "1"\n[[stream]]\ninput_channels = "1"', "input_channels in each"),
        ('[gain]\nvocals = 1\n[[stream]]\ninput_channels = "1"', "gain in each"),
        ('[[stream]]\ninput_channels = "1"\nname = "a"\n[[stream]]\ninput_channels = "1"\nname = "a"', "'a' again"),
        ('[[stream]]\ninput_channels = "1"\n[[stream]]\ninput_channels = "1"\nname = "stream1"', "'stream1' again"),
        ('[[stream]]\ninput_channels = "1"\nname = "2"', "stream.0.name='2'"),
        ('[[stream]]\ninput_channels = "0"', "stream.0.input_channels"),
        ('[[stream]]\ninput_channels = "1"\npan = 1', "stream.0.pan"),
    ],
)
def test_what_cannot_be_is_refused_by_name(tmp_path, text, says):
    with pytest.raises(config.ConfigError, match=says):
        settings(tmp_path, text)


def test_a_source_that_the_model_has_not(tmp_path):
    with pytest.raises(ValueError, match="stream 'booth': source 'vocals' is unknown: expected one of drums, rest"):
        Lines(settings(tmp_path).stream[2:], ("drums", "rest"))


def test_a_device_sees_one_stream_of_many_sources(tmp_path):
    lines = Lines(settings(tmp_path).stream, ("vocals", "accompaniment"))
    assert lines.names == ("stage", "stream2", "booth")
    assert lines.all_sources[2:4] == ("stream2_vocals", "stream2_accompaniment")
    wiring = lines.wiring
    assert wiring.inputs == (1, 2, 3, 4)
    assert wiring.input_names == ("stage_1", "stage_2", "stream2_1", "booth_1")
    assert wiring.outputs == {"stream2_vocals": (5,), "stream2_accompaniment": (6,)}
    assert wiring.members("booth_mix", lines.all_sources) == ("booth_vocals", "booth_accompaniment")
    first, second, third = lines.shares(None, wiring.inputs, 12)
    assert (first.columns, second.columns, third.columns) == ((0, 1), (2,), (3,))
    assert third.routes.where.tolist() == [[0, 0, 8], [0, 0, 9], [1, 0, 10], [1, 0, 11]]  # mono to both of its pair
    routed = wiring.routes(lines.all_sources, 1)
    assert lines.shares(routed, wiring.inputs, 6)[1].routes.where.tolist() == [[0, 0, 4], [1, 0, 5]]
    with pytest.raises(ValueError, match="stream 'booth': input channel 4: expected one of 1, 2, 3"):
        lines.shares(None, (1, 2, 3), 12)


def test_the_parts_of_a_table_are_the_table():
    whole = default_routes(6, [2, 2, 1, 1, 3, 3], 2)
    rows = [
        [source + 2 * n, channel, output] for n in range(3) for source, channel, output in part(whole, 2 * n, 2).where.tolist()
    ]
    assert rows == whole.where.tolist()


# -------------------------------------------------------------------------------------------------------------- live path


@pytest.fixture
def four(song, tmp_path):
    """Four channels of three songs, in a file; (float32 [shape=(4, samples)], path)."""
    x, rate = song
    sounds = [x[:, rate * n : rate * (n + 3)] for n in (3, 7, 11)]
    four = np.ascontiguousarray(np.vstack([sounds[0], sounds[1][:1], sounds[2][1:]]))
    soundfile.write(tmp_path / "four.wav", four.T, rate, subtype="FLOAT")
    return four, tmp_path / "four.wav"


COLUMNS = [0, 1], [2], [3]


def expected(model, x, stream, rate=48_000, before=0):
    """Stem by stem what the offline engine gives, after `before` samples of silence."""
    lead = np.zeros((len(COLUMNS[stream]), before), np.float32)
    sound = np.concatenate([lead, x[COLUMNS[stream]]], -1)
    return Separator(model, rate, len(COLUMNS[stream]), "cpu").process(sound)[..., before:]


def test_every_stream_is_the_offline_engine(tmp_path, lstm, four):
    x, path = four
    lines = Lines(settings(tmp_path, PLAIN).stream, lstm.contract.sources)
    device = FileDevice(path, PERIOD, 0.008, len(lines.all_sources))
    batch = Batch(lstm, [(48_000, n) for n in lines.channels], "cpu")
    for slot in range(3):
        batch.join(slot)
    run = live.Live(batch, device, lines.shares(None, (1, 2, 3, 4), device.out_channels))
    run.prepare()
    delay = run.open().buffering
    run.start()
    while not device.finished:
        time.sleep(0.02)
    run.stop()
    report = run.report()
    assert report["late"] == report["lost"] == report["missed_blocks"] == 0, report
    for stream in range(3):
        y = expected(lstm, x, stream)
        for source in range(2):
            for channel in range(2):
                heard = device.played[:, 4 * stream + 2 * source + channel]
                there = y[source, min(channel, y.shape[1] - 1)]
                n = len(there) - 2000
                np.testing.assert_array_equal(heard[delay + 1000 : delay + n], there[1000:n])  # the first 5 ms fade in
        meters = run.parts[stream].meters
        assert meters.hops[0] == report["hops"]
        assert meters.peak[:, 2].max() == pytest.approx(np.abs(x[COLUMNS[stream]]).max(), rel=1e-3)


# -------------------------------------------------------------------------------------------------------------------- OSC


class Several(Daemon):
    """Two streams, the second with a name."""

    def __init__(self, separator, batch, tap, figures):
        self.batch = batch
        super().__init__(batch.streams[0], tap, figures)
        parts = [live.meters.make_meters(2) for _ in batch.streams]
        self.lines = tuple(Line(name, s, m) for name, s, m in zip(("", "booth"), batch.streams, parts, strict=True))

    def active(self, stream):
        return self.batch.wanted(stream)

    def activate(self, stream, on):
        (self.batch.join if on else self.batch.leave)(stream)
        return on


@pytest.fixture
def several(separator, lstm, tap, status):
    batch = Batch(lstm, [(RATE, CHANNELS)] * 2, "cpu")
    host = Several(separator, batch, tap, status)
    with OscServer(host, "127.0.0.1", 0) as server:
        yield server, host
    assert server.counts["faults"] == 0


def test_each_stream_is_steered_by_number_and_by_name(several, connect):
    server, host = several
    first, second = host.batch.streams
    client = connect(server)
    assert client.ask("/streamsep/stream/2/source/vocals/gain", -6.0) == [-6.0]
    assert client.ask("/streamsep/stream/booth/source/vocals/gain") == [pytest.approx(-6.0)]
    assert (first.gain("vocals"), second.gain("vocals")) == (0, pytest.approx(-6))
    assert client.ask("/streamsep/source/vocals/gain", -12.0) == [-12.0]  # without a number: the first
    assert first.gain("vocals") == pytest.approx(-12)
    assert client.ask("/streamsep/stream/1/bypass", 1) == [1]
    assert (first.bypass, second.bypass) == (True, False)
    assert client.ask("/streamsep/panic", 1) == [1]  # for all
    assert first.panic
    assert second.panic
    assert client.ask("/streamsep/stream/2/panic", 0) == [0]
    assert (first.panic, second.panic) == (True, False)
    assert client.ask("/streamsep/stream/2/name") == ["booth"]
    assert "expected /streamsep/stream/ with one of 1, 2, booth" in client.refused("/streamsep/stream/3/active")


def test_streams_join_and_leave_over_osc(several, connect):
    server, host = several
    client = connect(server)
    assert client.ask("/streamsep/stream/booth/active") == [0]
    assert client.ask("/streamsep/stream/booth/active", 1) == [1]
    assert host.batch.wanted(1)
    assert client.ask("/streamsep/stream/2/active", 0) == [0]
    assert not host.batch.wanted(1)


def test_meters_come_for_each_stream(several, connect):
    server, _ = several
    client = connect(server)
    client.send("/streamsep/meters/subscribe", 20.0)
    data = b"".join(client.socket.recv(65536) for _ in range(3))
    for where in ("/meter/source/vocals", "/stream/1/meter/source/vocals", "/stream/2/meter/input", "/meter/step"):
        assert f"/streamsep{where}".encode() in data


def test_without_streams_there_are_no_such_addresses(server):
    assert not [address for address in server.targets if address.startswith("/streamsep/stream/")]


# -------------------------------------------------------------------------------------------------------- the whole house


def as_heard(song, heard):
    """`song` where its first channel is in the recording `heard`, silence around it."""
    probe = song[0, 48_000:48_064]
    (start,) = (n for n in np.flatnonzero(heard == probe[0]) if np.array_equal(heard[n : n + 64], probe))
    start -= 48_000
    whole = np.zeros((2, len(heard)), np.float32)
    whole[:, start : start + song.shape[1]] = song[:, : len(heard) - start]
    np.testing.assert_array_equal(whole[0], heard)
    return whole


@REAL_TIME
def test_three_streams_through_a_graph(jack, lstm, song, tmp_path):
    """Another song into each; one is muted over OSC, one leaves and comes back, and the others hear nothing of it."""
    x, rate = song
    seconds = 7
    a, b = (np.ascontiguousarray(x[:, rate * n : rate * (n + seconds)]) for n in (3, 11))
    for name, sound in (("a", a), ("b", b)):
        np.save(tmp_path / f"{name}.npy", np.ascontiguousarray(sound.T))
    settings(tmp_path, PLAIN)
    daemon, promised = start_daemon(
        "--model", str(lstm.path), "--config", tmp_path / "streamsep.toml", "--output", "none", "--record", tmp_path / "takes"
    )
    # The dummy server lets PortAudio's clients have eight inputs: one channel of each song, and six stems.
    recorder = start_client("recorder", 8, seconds + 2, tmp_path / "recording.npy")
    players = [start_client(f"player{n}", 1, seconds, tmp_path / "unused.npy", tmp_path / f"{n}.npy") for n in "ab"]
    ports = "stage_1", "stage_2", "stream2_1", "booth_1"
    outs = [f"player{p}:out_{c}" for p in "ab" for c in (0, 1)]
    stems = [f"{name}_{source}_1" for name in ("stage", "stream2", "booth") for source in ("vocals", "accompaniment")]
    connect(
        *((out, f"streamsep:{port}") for out, port in zip(outs, ports, strict=True)),
        *((out, f"recorder:in_{n}") for n, out in enumerate(outs[::2])),
        *((f"streamsep:{port}", f"recorder:in_{2 + n}") for n, port in enumerate(stems)),
    )
    go(recorder)
    time.sleep(0.5)
    for player in players:
        go(player)
    port = osc_port(promised)
    time.sleep(2)
    assert ask(port, "/streamsep/stream/2/source/vocals/mute", 1) == [1]
    assert ask(port, "/streamsep/stream/booth/active", 0) == [0]
    time.sleep(1)
    assert ask(port, "/streamsep/stream/booth/active", 1) == [1]
    for client in (*players, recorder):
        client.communicate(timeout=60)
        assert client.returncode == 0
    out, err = stop(daemon)
    assert daemon.returncode == 0, err
    report = json.loads(out)
    assert report["late"] == report["missed_blocks"] == 0, report
    heard = np.load(tmp_path / "recording.npy").T
    source = np.vstack([as_heard(a, heard[0]), as_heard(b, heard[1])])
    stage, second, booth = heard[2:4], heard[4:6], heard[6:8]
    delay = report["latency_samples"]["buffering"]

    begun = np.flatnonzero(source[0])[0], np.flatnonzero(source[2])[0]

    def best(stream, stems, end=None, sources=slice(None)):
        """Largest difference of the first channel to the offline engine, over the places of its hops; see `test_jack`.

        From a second of song on. What the silence before left in the network's state is forgotten by then: 2e-4 in the first
        second, 4e-6 in the next; another delay reads 0.04.
        """
        frames = slice(begun[stream > 0] + rate, end)
        found = []
        for phase in range(0, 384, PERIOD):
            y = expected(lstm, source, stream, rate, before=1200 * 384 + phase)[sources, 0]
            shifted = np.pad(y, ((0, 0), (delay, 0)))[..., : source.shape[1]]
            found.append(np.abs(shifted - stems)[..., frames].max())
        return min(found)

    assert best(0, stage) < 2e-5
    assert best(1, second[1:], sources=slice(1, 2)) < 2e-5
    assert second[0, : rate * 2].any()
    assert not second[0, 4 * rate :].any()

    gone = np.flatnonzero(np.abs(booth).sum(axis=0) == 0)
    runs = np.split(gone, np.flatnonzero(np.diff(gone) > 1) + 1)
    longest = max((r for r in runs if r[0] > rate and r[-1] < 6 * rate), key=len)
    assert 0.8 * rate < len(longest) < 1.6 * rate  # away for a second
    assert best(2, booth, longest[0] - 800) < 2e-5  # until it faded out
    back = longest[-1] + 2000
    late = delay + 768
    np.testing.assert_allclose(booth.sum(axis=0)[back:], source[3, back - late : -late], atol=2e-6)  # and there again, whole
    edges = np.abs(np.diff(booth, 4))[:, rate:].max()
    assert edges < 3 * np.abs(np.diff(expected(lstm, source, 2, rate)[:, 0], 4)).max()  # no click at either end

    assert [s["name"] for s in report["streams"]] == ["stage", "stream2", "booth"]
    assert all(s["active"] for s in report["streams"])
    assert report["streams"][2]["hops"] < report["streams"][0]["hops"]
    for name, channels in (("stage", 2), ("stream2", 1), ("booth", 1)):
        (take,) = (tmp_path / "takes" / name).iterdir()
        assert {f.name for f in take.iterdir()} == {"vocals.flac", "accompaniment.flac", "heard.flac"}
        assert soundfile.info(take / "vocals.flac").channels == channels
    frames = {soundfile.info(path).frames for path in (tmp_path / "takes").rglob("*.flac")}
    assert max(frames) - min(frames) < 0.5 * rate
