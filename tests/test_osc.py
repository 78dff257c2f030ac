"""OSC: every value set, asked and refused over real sockets; sound that arrives sample by sample; nothing left behind."""

import contextlib
import socket
import struct
import subprocess
import threading
import time

import numpy as np
import pytest
import soundfile
from pythonosc.osc_bundle_builder import IMMEDIATELY, OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder, build_msg

from streamsep import __version__, rings
from streamsep.engine import Separator
from streamsep.osc import OscError, OscServer, markdown
from streamsep.osc.streams import LEASE, MAX_STREAMS, Streams
from streamsep.osc.surface import ROWS
from streamsep.osc.wire import matches
from tests.conftest import DATA, need_program

CLIP = DATA / "mir1k" / "clips" / "abjones_5_08.flac"
RATE, CHANNELS, HOP = 16000, 2, 128
WAIT = 10.0  # s until a test gives up; none waits this long
HERE = "127.0.0.1"


class Client:
    """An OSC client on its own port of the loopback."""

    def __init__(self, port=0):
        self.server = (HERE, port)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((HERE, 0))
        self.socket.settimeout(WAIT)
        self.address = self.socket.getsockname()

    def send(self, address, *arguments, types=None):
        builder = OscMessageBuilder(address)
        for n, value in enumerate(arguments):
            builder.add_arg(value, types[n] if types else None)
        self.send_raw(builder.build().dgram)

    def send_raw(self, data):
        self.socket.sendto(data, self.server)

    def receive(self):
        message = OscMessage(self.socket.recv(65536))
        return message.address, message.params

    def ask(self, address, *arguments, types=None):
        """The reply, which must be on the same address."""
        self.send(address, *arguments, types=types)
        where, values = self.receive()
        assert where == address, values
        return values

    def refused(self, address, *arguments, types=None):
        """The reason of the error reply."""
        self.send(address, *arguments, types=types)
        where, values = self.receive()
        assert (where, values[0]) == ("/streamsep/error", address)
        assert "\n" not in values[1]
        assert "expected" in values[1]
        return values[1]

    def silent(self):
        """Nothing has come: the reply to a question is the next packet."""
        return self.ask("/streamsep/version") == [__version__]


def until(condition):
    end = time.monotonic() + WAIT
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def separator(lstm):
    return Separator(lstm, RATE, CHANNELS, "cpu")


@pytest.fixture
def tap():
    return rings.make_rings(1 << 16, CHANNELS, CHANNELS, 2 * CHANNELS)


@pytest.fixture
def status():
    return {"hops": 3, "latency_ms": 16.5, "model": "test"}


@pytest.fixture
def server(separator, tap, status):
    before = threading.enumerate()
    server = OscServer(separator, tap, HERE, 0, lambda: status)
    with server:
        yield server
    assert threading.enumerate() == before


@pytest.fixture
def connect():
    """Makes clients of a server; closes them at the end."""
    with contextlib.ExitStack() as stack:

        def make(server=None):
            client = Client(server.port if server else 0)
            stack.callback(client.socket.close)
            return client

        yield make


@pytest.fixture
def client(server, connect):
    return connect(server)


# --------------------------------------------------------------------------------------------------------------- controls


def test_gain_is_set_and_told(client, separator):
    assert client.ask("/streamsep/source/vocals/gain") == [0.0]
    assert client.ask("/streamsep/source/vocals/gain", -6.0) == [-6.0]
    assert separator.gain("vocals") == pytest.approx(-6)
    assert client.ask("/streamsep/source/vocals/gain") == pytest.approx([-6], abs=1e-5)  # dB went through linear
    assert separator.gain("accompaniment") == 0


@pytest.mark.parametrize(
    ("value", "kind", "expected"),
    [
        (3, "i", 3),
        (-12, "h", -12),
        (1.5, "d", 1.5),
        ("-7.5", "s", -7.5),
        (100.0, "f", 24),
        (-1000, "i", -90),
        (float("inf"), "f", 24),
        (float("-inf"), "f", -90),
    ],
)
def test_gain_takes_numbers_and_clamps(client, separator, value, kind, expected):
    assert client.ask("/streamsep/source/accompaniment/gain", value, types=[kind]) == [expected]
    assert separator.gain("accompaniment") == pytest.approx(expected)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), "f"),
        (float("nan"), "d"),
        ("nan", "s"),
        ("loud", "s"),
        ("", "s"),
        (True, "T"),
        (False, "F"),
        (None, "N"),
        (b"1234", "b"),
        ([1.0], ["f"]),
    ],
)
def test_gain_refuses_what_is_no_number(client, separator, value, kind):
    assert "gain=" in client.refused("/streamsep/source/vocals/gain", value, types=[kind])
    assert separator.gain("vocals") == 0


@pytest.mark.parametrize("address", ["/streamsep/source/vocals/mute", "/streamsep/bypass"])
def test_switches(client, separator, address):
    def state():
        return separator.mute("vocals") if "mute" in address else separator.bypass

    assert client.ask(address) == [0]
    for value, kind in ((1, "i"), (True, "T"), (1.0, "f"), (2, "i"), (0.5, "f"), (1, "h")):
        assert client.ask(address, value, types=[kind]) == [1]
        assert state() is True
        assert client.ask(address) == [1]
        off = {"T": (False, "F"), "f": (0.0, "f")}.get(kind, (0, "i"))
        assert client.ask(address, off[0], types=[off[1]]) == [0]
        assert state() is False
    for value, kind in (("1", "s"), (float("nan"), "f"), (None, "N"), (b"\1", "b")):
        client.refused(address, value, types=[kind])
    assert state() is False


def test_wrong_number_of_arguments(client):
    assert "arguments=2: expected [gain]" in client.refused("/streamsep/source/vocals/gain", 1.0, 2.0)
    assert "arguments=1: expected no arguments" in client.refused("/streamsep/version", 1)
    assert "arguments=0: expected source [port]" in client.refused("/streamsep/audio/subscribe")


def test_unknown_addresses_and_sources(client):
    assert "<name> one of vocals, accompaniment" in client.refused("/streamsep/source/drums/gain", 1.0)
    assert "/streamsep/bypass" in client.refused("/streamsep/bypas", 1)
    assert "/streamsep/bypass" in client.refused("/")
    assert "vocals, accompaniment, mix" in client.refused("/streamsep/audio/subscribe", "drums")
    assert "vocals, accompaniment, mix" in client.refused("/streamsep/audio/unsubscribe", "drums")
    for port, kind in ((0, "i"), (65536, "i"), (-1, "i"), (9000.0, "f"), ("9000", "s"), (True, "T")):
        assert "port=" in client.refused("/streamsep/audio/subscribe", "mix", port, types=["s", kind])


def test_status_and_version(server, client, status):
    client.send("/streamsep/status")
    assert client.receive() == ("/streamsep/status.reply", ["hops", 3, "latency_ms", 16.5, "model", "test"])
    assert client.ask("/streamsep/version") == [__version__]
    status["hops"] = 2**40
    client.send("/streamsep/status")
    assert client.receive()[1][:2] == ["hops", 2**40]


def test_a_failing_status_is_an_error_reply_and_no_more(server, client):
    server.status = lambda: {"ratio": 1 / 0}
    client.send("/streamsep/status")
    assert client.receive() == ("/streamsep/error", ["/streamsep/status", "failed: ZeroDivisionError: division by zero"])
    assert client.silent()


def test_patterns_reach_every_match(client, separator):
    client.send("/streamsep/source/*/mute", 1)
    assert sorted(client.receive() for _ in "12") == [
        ("/streamsep/source/accompaniment/mute", [1]),
        ("/streamsep/source/vocals/mute", [1]),
    ]
    client.send("/streamsep/source/{vocals,drums}/{gain,mute}")
    assert sorted(client.receive()[0][18:] for _ in "12") == ["vocals/gain", "vocals/mute"]
    client.refused("/streamsep/*/gain")  # a star stays between two slashes


@pytest.mark.parametrize(
    ("pattern", "hit"),
    [
        ("/a/bc", True),
        ("/a/b", False),
        ("/?/??", True),
        ("/*", False),
        ("/*/*", True),
        ("/a/b*c", True),
        ("/a/***", True),
        ("/a?bc", False),
        ("/[a-c]/[!a]c", True),
        ("/[!a]/bc", False),
        ("/a[!x]bc", False),
        ("/{x,a,}/{b,bc}", True),
        ("/{x,y}/bc", False),
        ("/[/bc", False),
        ("/{a/bc", False),
        ("/a/bc{", False),
        ("", False),
    ],
)
def test_pattern_rules(pattern, hit):
    assert matches(pattern, "/a/bc") is hit


def test_bundles_act_at_once_and_answer_each_message(client, separator):
    inner = OscBundleBuilder(IMMEDIATELY)
    inner.add_content(build_msg("/streamsep/source/accompaniment/mute", [1]))
    outer = OscBundleBuilder(time.time() + 3600)  # an hour ahead: not waited for
    outer.add_content(build_msg("/streamsep/source/vocals/gain", [-3.0]))
    outer.add_content(build_msg("/streamsep/nothing"))
    outer.add_content(inner.build())
    outer.add_content(build_msg("/streamsep/bypass", [1]))
    client.send_raw(outer.build().dgram)
    addresses = [client.receive()[0] for _ in range(4)]
    assert addresses[0] == "/streamsep/source/vocals/gain"
    assert addresses[1] == "/streamsep/error"
    assert addresses[2:] == ["/streamsep/source/accompaniment/mute", "/streamsep/bypass"]
    assert separator.gain("vocals") == pytest.approx(-3)
    assert separator.mute("accompaniment")
    assert separator.bypass


# ---------------------------------------------------------------------------------------------------------------- garbage

BUNDLE = b"#bundle\0" + bytes(7) + b"\1"


def nested(depth):
    packet = BUNDLE
    for _ in range(depth):
        packet = BUNDLE + struct.pack(">i", len(packet)) + packet
    return packet


MALFORMED = {
    "no OSC": b"hello",
    "empty": b"",
    "no end of string": b"/abc",
    "not UTF-8": b"/\xff\xfe\xfd\0\0\0\0",
    "tags without comma": b"/a\0\0i\0\0\0\0\0\0\0",
    "argument missing": b"/a\0\0,i\0\0",
    "blob too long": b"/a\0\0,b\0\0\x7f\xff\xff\xff",
    "bracket open": b"/a\0\0,[i\0\0\0\0\1",
    "bundle cut off": BUNDLE[:12],
    "element of negative size": BUNDLE + b"\xff\xff\xff\xfc" + b"/a\0\0",  # python-osc's own parser loops for ever
    "element of size 0": BUNDLE + bytes(4),
    "element too long": BUNDLE + b"\0\0\1\0/a\0\0",
    "size cut off": BUNDLE + b"\0",
    "element is no OSC": BUNDLE + b"\0\0\0\4abcd",
    "longer than we take": b"/" + b"a" * 9000 + bytes(3),
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED)
def test_malformed_packets_are_counted_and_forgotten(server, client, packet):
    client.send_raw(packet)
    assert client.silent()
    assert server.counts["malformed"] == 1


def test_odd_but_whole_packets(server, client):
    client.send_raw(nested(300))  # bundles in bundles, and no message
    assert client.silent()
    client.send_raw(b"/streamsep/source/vocals/gain\0\0\0,I\0\0")  # not "no argument"
    assert "type tags ',I' are unknown: expected [gain]" in client.receive()[1][1]
    client.send_raw(b"/" + b"*a" * 2000 + bytes(3))  # too long for a pattern
    assert client.receive()[0] == "/streamsep/error"
    for address in ("/streamsep/error", "/streamsep/audio", "/streamsep/status.reply"):
        client.send(address, "/streamsep/error", "no answer to an answer")
    assert client.silent()
    assert server.counts["malformed"] == 0


def test_noise_does_no_harm(server, separator, client, capfd):
    """Damaged copies of good packets: whatever they mean, the server answers afterwards."""
    rng = np.random.default_rng(0)
    good = [
        build_msg("/streamsep/source/vocals/gain", [1.0]).dgram,
        build_msg("/streamsep/audio/unsubscribe", ["vocals", 9]).dgram,
        BUNDLE + struct.pack(">i", 28) + build_msg("/streamsep/bypass", [1]).dgram,
    ]
    for n in range(600):
        packet = bytearray(good[n % 3])
        for place in rng.integers(0, len(packet), rng.integers(1, 4)):
            packet[place] = rng.integers(0, 256)
        server.handle(bytes(packet[: rng.integers(0, len(packet) + 1)]), client.address)
    end = build_msg("/streamsep/end").dgram
    server.handle(end, client.address)
    while client.receive()[1][:1] != ["/streamsep/end"]:  # its own socket keeps what fits: the end may be lost
        server.handle(end, client.address)
    assert capfd.readouterr() == ("", "")
    assert np.isfinite(separator.gain("vocals"))


def test_nothing_is_printed_or_logged(server, client, capfd, caplog):
    client.send_raw(b"/streamsep/version\0\0,Z\0\0")
    client.receive()
    client.send_raw(BUNDLE + b"\0\0\0\4abcd")
    server.handle(build_msg("/streamsep/version").dgram, (HERE, 0))  # a reply that no socket can send
    assert client.silent()
    assert server.counts["socket_errors"] == 1
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# ----------------------------------------------------------------------------------------------------------- life and port


def test_start_and_stop_leave_nothing_behind(separator, tap, connect):
    before = threading.enumerate()
    server = OscServer(separator, tap, HERE, 0)
    assert server.port == 0
    server.stop()  # harmless
    for _ in range(2):
        server.start()
        assert connect(server).ask("/streamsep/version") == [__version__]
        port = server.port
        assert port > 0
        with pytest.raises(RuntimeError, match=f"port {port} runs already"):
            server.start()
        server.stop()
        server.stop()
        assert threading.enumerate() == before
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind((HERE, port))  # it was really given back


def test_a_port_in_use_is_told_with_its_cure(server, separator, tap):
    other = OscServer(separator, tap, HERE, server.port)
    with pytest.raises(OscError, match=rf"^OSC port {server.port} on 127.0.0.1 is in use: choose another with --osc-port$"):
        other.start()
    other.stop()


@pytest.mark.parametrize("host", ["203.0.113.7", "a" * 70 + ".example"])  # an address for documents; too long for a name
def test_a_host_that_is_not_ours(separator, tap, host):
    with pytest.raises(OscError, match=r"^OSC host .* choose another with --osc-host$"):
        OscServer(separator, tap, host, 0).start()


def test_what_does_not_fit_is_refused_at_once(separator):
    with pytest.raises(ValueError, match="tap_channels=3: expected 4"):
        OscServer(separator, rings.make_rings(1024, 2, 2, 3))
    with pytest.raises(ValueError, match="port=70000"):
        OscServer(separator, rings.make_rings(1024, 2, 2, 4), port=70000)


def test_localhost_is_ipv4(separator, tap, connect):
    with OscServer(separator, tap, "localhost", 0) as server:
        assert connect(server).ask("/streamsep/version") == [__version__]


def test_the_table_is_the_surface(client):
    addresses = [row.address for row in ROWS]
    assert len(set(addresses)) == len(addresses)
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert all(line.count("|") == 5 for line in lines)
    for row in ROWS:
        if row.handler and not any(not a.optional for a in row.arguments):
            client.send(row.address.replace("<name>", "vocals"))
            assert client.receive()[0] in (row.address.replace("<name>", "vocals"), row.reply_address)


# ------------------------------------------------------------------------------------------------------------------ sound


def recording(samples):
    """`[shape=(channels, samples)]`: a real song where there is one, else noise."""
    if CLIP.is_file():
        sound, rate = soundfile.read(CLIP, samples, dtype="float32", always_2d=True)
        assert rate == RATE
        return np.ascontiguousarray(sound.T)
    return np.random.default_rng(1).normal(0, 0.1, (CHANNELS, samples)).astype(np.float32)


def blob(message):
    """(stream id, sequence, sample index, frames `[shape=(frames, channels)]`) of a sound packet."""
    stream_id, sequence, index, rate, channels, data = message
    assert rate == RATE
    assert channels == CHANNELS
    return stream_id, sequence, index, np.frombuffer(data, "<f4").reshape(-1, channels)


def collect(client, stream_id, end):
    """Sound packets up to the tap's position `end`, joined: first sample index, frames. They must follow each other."""
    parts, first = [], None
    while first is None or first + sum(map(len, parts)) < end:
        data = client.socket.recv(65536)
        assert len(data) <= 1432
        address, message = OscMessage(data).address, OscMessage(data).params
        assert address == "/streamsep/audio"
        number, sequence, index, frames = blob(message)
        first = index if first is None else first
        assert (number, sequence) == (stream_id, len(parts))
        assert index == first + sum(map(len, parts))
        parts.append(frames)
    return first, np.concatenate(parts)


def test_sound_arrives_sample_by_sample(server, separator, tap, connect):
    """Two sources and the mix, to three clients, while hops come at the pace of real time."""
    hops = 100
    sound = recording(hops * HOP)
    heard = np.zeros((2, CHANNELS, hops * HOP), np.float32)
    vocals, music, mix, remote = (connect(server) for _ in range(4))
    separator.hop()  # compiled before anybody waits for it
    separator.reset()
    closed = connect(server)  # subscribes and goes away
    deaf = connect(server)  # subscribes and never reads
    replies = {
        vocals: vocals.ask("/streamsep/audio/subscribe", "vocals"),
        music: music.ask("/streamsep/audio/subscribe", "accompaniment"),
        mix: remote.ask("/streamsep/audio/subscribe", "mix", mix.address[1]),  # for another port of the same host
    }
    assert [r[0] for r in replies.values()] == ["vocals", "accompaniment", "mix"]
    assert len({r[1] for r in replies.values()}) == 3
    assert all(r[2:] == [RATE, CHANNELS, HOP] for r in replies.values())
    closed.ask("/streamsep/audio/subscribe", "vocals")
    closed.socket.close()
    deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.ask("/streamsep/audio/subscribe", "vocals")

    def play():
        for n in range(hops):
            span = slice(n * HOP, (n + 1) * HOP)
            separator.state.x[:] = sound[:, span]
            separator.hop()
            heard[:, :, span] = separator.state.y
            rings.put(tap, separator.state.y)
            time.sleep(HOP / RATE / 2)

    player = threading.Thread(target=play)
    player.start()
    got = {}
    threads = [
        threading.Thread(target=lambda c=c, r=r: got.update({c: collect(c, r[1], hops * HOP)})) for c, r in replies.items()
    ]
    for thread in threads:
        thread.start()
    for thread in [player, *threads]:
        thread.join(2 * WAIT)
    for client, source in ((vocals, 0), (music, 1)):
        first, frames = got[client]
        assert first == 0
        np.testing.assert_array_equal(frames, heard[source].T)
    first, frames = got[mix]
    np.testing.assert_array_equal(frames, heard.sum(axis=0).T)
    # All sources at 0 dB are the input, late as the module says; float32 sums differ in the last bit.
    late = separator.latency - HOP
    np.testing.assert_allclose(frames[late:], sound.T[: hops * HOP - late], rtol=0, atol=1e-6)
    assert np.abs(heard).max() > 0.01
    counts = server.counts
    assert (counts["streams"], counts["packets"], counts["lost_frames"]) == (5, 5 * hops, 0)


def test_unsubscribed_clients_get_no_more(server, tap, connect):
    client, other = connect(server), connect(server)
    ids = {s: client.ask("/streamsep/audio/subscribe", s)[1] for s in ("vocals", "accompaniment", "mix")}
    other_id = other.ask("/streamsep/audio/subscribe", "vocals")[1]
    assert client.ask("/streamsep/audio/unsubscribe", "vocals") == ["vocals", ids["vocals"]]
    assert client.ask("/streamsep/audio/unsubscribe", "vocals") == []
    assert client.ask("/streamsep/audio/unsubscribe") == ["accompaniment", ids["accompaniment"], "mix", ids["mix"]]
    rings.put(tap, np.ones((2, CHANNELS, HOP), np.float32))
    assert other.receive()[1][0] == other_id  # the hop is out ...
    assert client.silent()  # ... and did not come here
    # Who has no port of its own that lasts (oscsend) names the destination.
    assert connect(server).ask("/streamsep/audio/unsubscribe", "vocals", other.address[1]) == ["vocals", other_id]


def test_lease_ends_by_the_servers_clock(separator, tap, connect):
    now = [0.0]
    with OscServer(separator, tap, HERE, 0, clock=lambda: now[0]) as server:
        client, other = connect(server), connect(server)
        client.ask("/streamsep/audio/subscribe", "vocals")
        other.ask("/streamsep/audio/subscribe", "vocals")
        now[0] = LEASE - 1
        client.refused("/streamsep/nonsense")  # any message is a sign of life
        now[0] = LEASE + 1
        until(lambda: server.counts["streams"] == 1)
        assert server.streams.running[0].client == client.address
        now[0] = 2 * LEASE
        until(lambda: server.counts["streams"] == 0)


# ----------------------------------------------------------------------------------- streams without a thread or a socket

ALICE, BOB = (HERE, 1001), (HERE, 1002)


class Post:
    """Takes packets in place of a socket; an address in `broken` raises what a socket may raise."""

    def __init__(self):
        self.sent = []
        self.broken = {}

    def __call__(self, data, destination):
        if destination in self.broken:
            raise self.broken[destination]
        self.sent.append((destination, blob(OscMessage(data).params)))

    def frames(self, destination=ALICE):
        """(sequence, sample index) of what was sent there."""
        return [packet[1:3] for where, packet in self.sent if where == destination]


@pytest.fixture
def post():
    return Post()


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def small(separator, post, now):
    """Streams on a tap of 1024 frames (8 hops), and a function that puts hops whose samples are their positions."""
    ring = rings.make_rings(1024, CHANNELS, CHANNELS, 2 * CHANNELS)

    def play(hops):
        for _ in range(hops):
            start = int(ring.header[rings.TAP_WRITE])
            y = np.empty((2, CHANNELS, HOP), np.float32)
            y[:] = np.arange(start, start + HOP)
            rings.put(ring, y)

    return Streams(separator, ring, post, lambda: now[0]), play, ring


def test_a_lapped_tap_is_counted_and_skipped(small, post):
    streams, play, _ = small
    stream = streams.subscribe("vocals", ALICE, ALICE)
    play(2)
    streams.pump()
    play(20)  # more than the tap holds, unseen
    streams.pump()
    play(1)
    streams.pump()
    assert post.frames() == [(0, 0), (1, HOP), (2, 22 * HOP)]  # the index jumps, the sequence does not
    assert streams.counts == {"packets": 3, "lost_frames": 20 * HOP, "failed_packets": 0}
    for _, (_, _, index, frames) in post.sent:
        np.testing.assert_array_equal(frames, np.arange(index, index + HOP)[:, None].repeat(CHANNELS, 1))
    assert stream.position == 23 * HOP


@pytest.mark.parametrize("error", [BlockingIOError(11, "EAGAIN"), ConnectionRefusedError(111, "gone"), OSError(101, "net")])
def test_a_listener_that_fails_hurts_nobody_else(small, post, error):
    streams, play, _ = small
    for who in (ALICE, BOB):
        streams.subscribe("vocals", who, who)
    post.broken[ALICE] = error
    play(2)
    streams.pump()
    del post.broken[ALICE]
    play(1)
    streams.pump()
    assert post.frames(BOB) == [(0, 0), (1, HOP), (2, 2 * HOP)]
    assert post.frames(ALICE) == [(0, 2 * HOP)]  # our loss: a jump of the index alone
    assert streams.counts == {"packets": 4, "lost_frames": 2 * HOP, "failed_packets": 2}


def test_a_cleared_ring_starts_again_at_zero(small, post):
    streams, play, ring = small
    streams.subscribe("mix", ALICE, ALICE)
    play(3)
    streams.pump()
    rings.clear(ring)
    streams.pump()
    play(1)
    streams.pump()
    assert post.frames()[2:] == [(2, 2 * HOP), (3, 0)]
    assert streams.counts["lost_frames"] == 0


def test_sound_begins_where_one_comes_in(small, post):
    streams, play, _ = small
    play(3)
    streams.subscribe("vocals", ALICE, ALICE)
    play(1)
    streams.pump()
    assert post.frames() == [(0, 3 * HOP)]


def test_sequence_wraps(small, post):
    streams, play, _ = small
    streams.subscribe("vocals", ALICE, ALICE).sequence = 2**31 - 1
    play(2)
    streams.pump()
    assert [sequence for sequence, _ in post.frames()] == [2**31 - 1, 0]


def test_subscribing_again_renews_and_keeps_the_id(small, now):
    streams, _, _ = small
    first = streams.subscribe("vocals", ALICE, BOB)
    now[0] = LEASE - 1
    assert streams.subscribe("vocals", (HERE, 3), BOB) is first  # oscsend has another port each time
    assert streams.subscribe("vocals", ALICE, ALICE) is not first
    now[0] = 2 * LEASE - 2
    streams.pump()
    assert first in streams.running
    streams.renew(BOB)  # the destination may speak for itself
    now[0] = 2 * LEASE - 1
    streams.pump()
    assert streams.running == [first]
    now[0] = 3 * LEASE
    streams.pump()
    assert streams.running == []


def test_the_number_of_streams_is_bounded(small):
    streams, _, _ = small
    for port in range(MAX_STREAMS):
        streams.subscribe("vocals", ALICE, (HERE, 2000 + port))
    with pytest.raises(ValueError, match="expected fewer than 16"):
        streams.subscribe("vocals", ALICE, ALICE)
    streams.subscribe("vocals", ALICE, (HERE, 2000))  # renewing is no new one


@pytest.mark.parametrize("rate", [8000, 16000, 44100, 48000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_packets_fit_the_network_and_cut_hops_evenly(lstm, rate, channels):
    separator = Separator(lstm, rate, channels, "cpu")
    sizes = []
    ring = rings.make_rings(8192, channels, 2, 2 * channels)
    streams = Streams(separator, ring, lambda data, _: sizes.append(len(data)), lambda: 0.0)
    streams.subscribe("mix", ALICE, ALICE)
    hop, frames = separator.geometry.hop_length, streams.frames_per_packet
    rings.put(ring, np.zeros((2, channels, hop), np.float32))
    while streams.pump() or streams.running[0].position + frames <= hop:
        pass
    assert max(sizes) <= 1432
    assert len(sizes) == hop // frames
    assert hop - len(sizes) * frames < frames
    if rate != 44100:  # 353 is a prime number
        assert hop % frames == 0


# ------------------------------------------------------------------------------------------------------------------ liblo


def test_oscsend_steers_and_a_listener_sees_it(server, separator, connect):
    program = need_program("oscsend")

    def oscsend(*words):
        subprocess.run([program, HERE, str(server.port), *words], check=True, timeout=WAIT)

    oscsend("/streamsep/source/vocals/gain", "f", "-20")
    until(lambda: separator.state.controls.gain[0] == pytest.approx(0.1))
    oscsend("/streamsep/source/accompaniment/mute", "T")
    until(lambda: separator.mute("accompaniment"))
    oscsend("/streamsep/bypass", "i", "1")
    until(lambda: separator.bypass)
    assert connect(server).ask("/streamsep/source/vocals/gain") == pytest.approx([-20])


def test_oscdump_reads_the_sound_packets(server, tap, connect):
    """liblo takes our hand-made packets for what they are."""
    program = need_program("oscdump")
    probe = connect()
    port = probe.address[1]
    probe.socket.close()
    with subprocess.Popen([program, "-L", str(port)], stdout=subprocess.PIPE, text=True) as dump:
        try:
            stop = threading.Event()
            feeder = threading.Thread(target=_feed, args=(tap, stop))  # until oscdump has opened its socket and printed
            feeder.start()
            connect(server).ask("/streamsep/audio/subscribe", "accompaniment", port)
            line = dump.stdout.readline()
        finally:
            stop.set()
            dump.kill()
    feeder.join(WAIT)
    _, address, types, stream_id, _, index, rate, channels, *_ = line.split()
    assert (address, types, stream_id, channels) == ("/streamsep/audio", "iihdib", "1", "2")
    assert int(index) % HOP == 0
    assert float(rate) == RATE


def _feed(tap, stop):
    y = np.zeros((2, CHANNELS, HOP), np.float32)
    while not stop.wait(0.02):
        rings.put(tap, y)
