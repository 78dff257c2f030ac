"""Sound over OSC: off the wire as it went on it, gaps where the counters say, nothing to who did not ask for it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import soundfile
from pythonosc.osc_message import OscMessage

from streamsep import listen as listening
from streamsep import rings
from streamsep.engine import Separator
from streamsep.osc import OscServer
from streamsep.osc.leases import LEASE
from streamsep.osc.packet import AUDIO, PAYLOAD, Packet, pack, unpack
from streamsep.osc.ratemeter import MEMORY, RateMeter
from streamsep.osc.reception import Assembly
from streamsep.osc.streams import CHALLENGE_EVERY, FORMAT_EVERY, MAX_HEARD, MAX_STREAMS, Streams
from tests.conftest import ROOT, need_program
from tests.osc_client import CHANNELS, HERE, HOP, LEFT, RATE, RIGHT, TONE, WAIT, Client, patiently, playing, until
from tests.servers import REAL_TIME
from tests.test_jack import connect as connect_ports
from tests.test_jack import go, start_client

INT16 = 1 / 32768  # a step
START = 60.0  # s for a process to start and end, on a busy machine


@pytest.fixture(scope="module", autouse=True)
def compiled(lstm):
    """All that runs beside a lease, so that none runs out while Numba compiles."""
    separator = Separator(lstm, RATE, CHANNELS, "cpu")
    separator.hop()
    ring = rings.make_rings(1024, CHANNELS, CHANNELS, 2 * CHANNELS)
    rings.put(ring, separator.state.y)
    client = Post()
    streams = Streams(separator, ring)
    for source in ("mix", "input"):
        streams.subscribe(source, client, client)
    streams.pump()


class Ear(Client):
    """A client that keeps sound and formats apart from all else."""

    def __init__(self, port):
        super().__init__(port)
        self.packets, self.formats = [], []

    def receive(self):
        """The next message that is neither sound nor a format."""
        while True:
            message = self.take()
            if message:
                return message

    def take(self):
        data = self.socket.recv(65536)
        if data.startswith(AUDIO.encode() + b"\0"):
            assert len(data) <= PAYLOAD
            self.packets.append(unpack(data))
            return None
        message = OscMessage(data)
        if message.address == f"{AUDIO}/format":
            self.formats.append(message.params)
            return None
        return message.address, message.params

    def sound(self, stream_id, end):
        """All frames of a stream up to sample index `end`, which must follow each other."""
        while not any(p.stream_id == stream_id and p.sample_index + len(p.frames) >= end for p in self.packets):
            self.take()
        mine = [p for p in self.packets if p.stream_id == stream_id]
        assert [p.sequence for p in mine] == list(range(len(mine)))
        ends = np.cumsum([len(p.frames) for p in mine])
        assert [p.sample_index - mine[0].sample_index for p in mine] == [0, *ends[:-1]]
        return mine[0].sample_index, np.concatenate([p.frames for p in mine])


@pytest.fixture
def ear(server):
    with contextlib.ExitStack() as stack:

        def make():
            client = Ear(server.port)
            stack.callback(client.socket.close)
            return client

        yield make


def recording(samples):
    return np.random.default_rng(1).normal(0, 0.1, (CHANNELS, samples)).astype(np.float32)


def play(separator, tap, sound, pace=0.25):
    """Hops through the engine into the rings, input too; what came out, `[shape=(sources, channels, samples)]`."""
    separator.reset()
    out = np.zeros((2, *sound.shape), np.float32)
    for start in range(0, sound.shape[1], HOP):
        span = slice(start, start + HOP)
        position = int(tap.header[rings.IN_WRITE])
        tap.inward[np.arange(position, position + HOP) % len(tap.inward)] = sound[:, span].T
        tap.header[rings.IN_WRITE] += HOP
        separator.state.x[:] = sound[:, span]
        separator.hop()
        out[:, :, span] = separator.state.y
        rings.put(tap, separator.state.y)
        time.sleep(pace * HOP / RATE)
    return out


# -------------------------------------------------------------------------------------------------------------- packets


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("frames", [1, 7, 128])
def test_packets_come_back_as_they_went(channels, frames):
    x = np.random.default_rng(0).normal(0, 0.3, (frames, channels)).astype(np.float32)
    sent = Packet(7, 2**31 - 1, 2**40 + 1, 47999.25, "f32", x)
    got = unpack(pack(sent))
    assert got[:5] == sent[:5]
    np.testing.assert_array_equal(got.frames, x)
    message = OscMessage(pack(sent))  # and another parser sees the same
    assert message.address == AUDIO
    assert message.params[:4] == [7, 2**31 - 1, channels, "f32"]
    assert message.params[5:] == [2**40 + 1, 47999.25]
    assert message.params[4] == x.astype("<f4").tobytes()


def test_16_bits_are_within_half_a_step_and_clip_at_full_scale():
    x = np.linspace(-1.5, 1.5, 1001, dtype=np.float32)[:, None]
    got = unpack(pack(Packet(1, 0, 0, 48000.0, "s16", x))).frames
    np.testing.assert_allclose(got, np.clip(x, -1, 1 - INT16), rtol=0, atol=INT16 / 2)
    assert (got * 32768 == np.rint(got * 32768)).all()


def test_damaged_packets_are_refused_by_name():
    good = pack(Packet(1, 0, 0, 48000.0, "f32", np.zeros((4, 2), np.float32)))
    rng = np.random.default_rng(0)
    for damaged, reason in (
        (good[:-1], "bytes"),
        (good[:20], "expected 68 or more"),
        (b"/streamsep/audi0" + good[16:], "expected a message to"),
        (good.replace(b"f32", b"f64"), "encoding='f64'"),
        (good[:40] + bytes(4) + good[44:], "channels=0"),
        (good[:-8] + b"\x7f\xf8" + bytes(6), "sample_rate=nan"),
    ):
        with pytest.raises(ValueError, match=re.escape(reason)):
            unpack(damaged)
    for _ in range(2000):  # whatever it is, it is a packet or a ValueError
        noise = bytearray(good)
        for place in rng.integers(0, len(noise), 3):
            noise[place] = rng.integers(0, 256)
        with contextlib.suppress(ValueError):
            assert unpack(bytes(noise)).frames.shape[1] >= 1


# ------------------------------------------------------------------------------------------------------- over the socket


def test_what_comes_off_the_wire_is_what_the_engine_made(server, separator, tap, ear):
    """Sources, mix and input, floats and integers, at their own packet sizes, while another client never reads."""
    hops = 60
    sound = recording(hops * HOP)
    client, deaf = ear(), ear()
    wanted = {"vocals": (), "accompaniment": (0, "s16", 32), "mix": (0, "f32", 0, 1), "input": (0, "f32", 50)}
    replies = {source: client.ask(f"{AUDIO}/subscribe", source, *more) for source, more in wanted.items()}
    late = separator.latency - HOP
    ids = {source: reply.pop(1) for source, reply in replies.items()}
    assert len(set(ids.values())) == 4
    assert replies["vocals"] == ["vocals", RATE, CHANNELS, HOP, "f32", late, 1]
    assert replies["accompaniment"] == ["accompaniment", RATE, CHANNELS, 32, "s16", late, 1]
    assert replies["mix"] == ["mix", RATE, 1, HOP, "f32", late, 1]
    assert replies["input"] == ["input", RATE, CHANNELS, 50, "f32", 0, 1]
    deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.ask(f"{AUDIO}/subscribe", "vocals")
    end, made = hops * HOP, []
    player = threading.Thread(target=lambda: made.append(play(separator, tap, sound)))
    player.start()  # the client reads meanwhile: its socket does not hold it all
    first, vocals = client.sound(ids["vocals"], end)
    player.join(WAIT)
    (out,) = made
    assert first == 0
    np.testing.assert_array_equal(vocals, out[0].T)
    _, music = client.sound(ids["accompaniment"], end)
    np.testing.assert_allclose(music, out[1].T, rtol=0, atol=INT16 / 2)
    _, mix = client.sound(ids["mix"], end)
    np.testing.assert_array_equal(mix[:, 0], out.sum(axis=0).mean(axis=0))
    _, heard = client.sound(ids["input"], end - end % 50)
    np.testing.assert_array_equal(heard, sound.T[: len(heard)])
    # One index is one moment: the mix is the input, `delay` frames later.
    np.testing.assert_allclose(mix[late:, 0], heard.mean(axis=1)[: len(mix) - late], rtol=0, atol=1e-6)
    assert np.abs(out).max() > 0.01
    assert server.streams.counts["lost_frames"] == 0
    assert {f[0]: f[1:] for f in client.formats}[ids["accompaniment"]] == ["accompaniment", RATE, CHANNELS, 32, "s16", late, 0]


def test_a_stream_that_ends_is_silent(server, tap, ear):
    client, other = ear(), ear()
    ids = {source: client.ask(f"{AUDIO}/subscribe", source)[1] for source in ("vocals", "accompaniment", "mix")}
    theirs = other.ask(f"{AUDIO}/subscribe", "vocals")[1]
    assert client.ask(f"{AUDIO}/unsubscribe", "vocals") == ["vocals", ids["vocals"]]
    assert client.ask(f"{AUDIO}/unsubscribe", "vocals") == []
    assert client.ask(f"{AUDIO}/unsubscribe") == ["accompaniment", ids["accompaniment"], "mix", ids["mix"]]
    rings.put(tap, np.ones((2, CHANNELS, HOP), np.float32))
    other.sound(theirs, HOP)  # the hop is out ...
    assert client.silent()
    assert client.packets == []  # ... and did not come here
    # Who has no port of its own that lasts (oscsend) names the destination.
    assert ear().ask(f"{AUDIO}/unsubscribe", "vocals", other.address[1]) == ["vocals", theirs]


def test_bad_subscriptions_are_refused_by_name(ear):
    client = ear()
    assert "vocals, accompaniment, mix, input" in client.refused(f"{AUDIO}/subscribe", "drums")
    assert "vocals, accompaniment, mix, input" in client.refused(f"{AUDIO}/unsubscribe", "drums")
    assert "encoding=" in client.refused(f"{AUDIO}/subscribe", "mix", 0, "mp3")
    assert "channels=3" in client.refused(f"{AUDIO}/subscribe", "mix", 0, "f32", 0, 3)
    assert "port=" in client.refused(f"{AUDIO}/subscribe", "mix", 65536)
    assert "token=" in client.refused(f"{AUDIO}/confirm", "t0123456789ab")
    assert "arguments=0: expected source [port]" in client.refused(f"{AUDIO}/subscribe")


def test_ten_thousand_subscriptions_are_bounded(server, ear):
    """As many as there is room for; all others are told that there is none, and those that run go on."""
    clients = [ear() for _ in range(MAX_STREAMS // 4)]
    for client in clients:
        for source in ("vocals", "accompaniment", "mix", "input"):
            client.ask(f"{AUDIO}/subscribe", source)
    client = ear()
    for n in range(10_000):
        reason = client.refused(f"{AUDIO}/subscribe", "vocals", 1 + n % 9000)
        assert "expected fewer than 16; unsubscribe one" in reason
    assert {s.destination.port for s in server.streams.running} == {c.address[1] for c in clients}


def test_oscdump_reads_the_packets(server, tap, ear):
    """liblo takes our hand-made packets for what they are, once the port has said that it wants them."""
    program = need_program("oscdump")
    probe = ear()
    port = probe.address[1]
    probe.silent()  # this port has spoken: no confirmation is asked of it
    probe.socket.close()
    with subprocess.Popen([program, "-L", str(port)], stdout=subprocess.PIPE, text=True) as dump:
        try:
            stop = threading.Event()
            feeder = threading.Thread(target=_feed, args=(tap, stop))  # until oscdump has opened its socket and printed
            feeder.start()
            number = ear().ask(f"{AUDIO}/subscribe", "accompaniment", port)[1]
            lines = [dump.stdout.readline() for _ in range(20)]
        finally:
            stop.set()
            dump.kill()
    feeder.join(WAIT)
    _, _, types, stream_id, _, channels, encoding, *_, index, rate = next(x for x in lines if " /streamsep/audio " in x).split()
    assert (types, stream_id, channels, encoding) == ("iiisbhd", str(number), "2", '"f32"')
    assert int(index) % HOP == 0
    assert float(rate) == RATE


def _feed(tap, stop):
    y = np.zeros((2, CHANNELS, HOP), np.float32)
    while not stop.wait(0.02):
        rings.put(tap, y)


# --------------------------------------------------------------------------------- who gets sound: without thread or socket


@dataclass(eq=False)
class Post:
    """A client that keeps what it is sent."""

    port: int = 1001
    host: str = HERE
    kind: str = "udp"
    sent: list = field(default_factory=list)
    broken: Exception | None = None

    def send(self, data):
        if self.broken:
            raise self.broken
        self.sent.append(data)

    @property
    def frames(self):
        """(sequence, sample index, first sample) of the sound."""
        packets = [unpack(d) for d in self.sent if d.startswith(AUDIO.encode() + b"\0")]
        return [(p.sequence, p.sample_index, int(p.frames[0, 0])) for p in packets]

    @property
    def messages(self):
        """(address, arguments) of all else."""
        return [(m.address, m.params) for m in (OscMessage(d) for d in self.sent if not d.startswith(AUDIO.encode() + b"\0"))]

    @property
    def bytes(self):
        return sum(map(len, self.sent))


@pytest.fixture
def now():
    return [0.0]


@pytest.fixture
def small(separator, now):
    """Streams on rings of 1024 frames (8 hops), and a function that puts hops whose samples are their positions."""
    ring = rings.make_rings(1024, CHANNELS, CHANNELS, 2 * CHANNELS)

    def play(hops):
        for _ in range(hops):
            start = int(ring.header[rings.TAP_WRITE])
            y = np.empty((2, CHANNELS, HOP), np.float32)
            y[:] = np.arange(start, start + HOP)
            rings.put(ring, y)

    return Streams(separator, ring, lambda: now[0]), play, ring


def test_a_forged_sender_turns_no_stream_on(small, now):
    """Whoever a packet says it is from, an address that has not answered gets a challenge a second and no sound."""
    streams, play, _ = small
    victim = Post(9, "198.51.100.7")
    asked = len(b"/streamsep/audio/subscribe\0\0,s\0\0mix\0")
    for second in range(100):
        now[0] = second / 10
        streams.renew(victim)  # forged
        assert not streams.subscribe("mix", victim, victim).confirmed
        play(1)
        streams.pump()
    assert {address for address, _ in victim.messages} == {f"{AUDIO}/challenge"}
    assert len(victim.sent) <= 10 / CHALLENGE_EVERY + 1
    assert len(victim.sent[0]) <= 1.5 * asked
    assert victim.bytes < 100 * asked / 5
    assert len(streams.running) == 1


def test_sound_flows_when_the_destination_says_so(small):
    streams, play, _ = small
    alice, other = Post(1001), Post(1002)
    stream = streams.subscribe("vocals", alice, other)  # another port of the same machine, never heard of
    play(2)
    streams.pump()
    assert not stream.confirmed
    assert other.frames == []
    address, (token, number) = other.messages[0]
    assert (address, number) == (f"{AUDIO}/challenge", stream.id)
    for who, what in ((Post(1002, "192.0.2.1"), token), (other, "t000000000000"), (other, "\u00fc")):
        with pytest.raises(ValueError, match="expected one that was sent to this host"):
            streams.confirm(who, what)
    assert streams.confirm(alice, token) == [stream]  # many programs send from one port and listen on another
    play(1)
    streams.pump()
    assert other.frames == [(0, 2 * HOP, 2 * HOP)]
    with pytest.raises(ValueError, match="token="):
        streams.confirm(other, token)  # it is used up


def test_who_needs_no_proof(small):
    streams, _, _ = small
    local, spoke = Post(1001), Post(1002)
    remote = Post(1003, "192.0.2.1")
    assert streams.subscribe("vocals", local, local).confirmed
    streams.renew(spoke)
    assert streams.subscribe("vocals", local, spoke).confirmed
    assert streams.subscribe("vocals", Post(1, "192.0.2.1", "tcp"), tcp := Post(1, "192.0.2.1", "tcp")).destination is tcp
    assert streams.subscribe("mix", tcp, tcp).confirmed
    first = streams.subscribe("vocals", remote, remote)
    streams.confirm(remote, first.token)
    assert streams.subscribe("mix", remote, remote).confirmed  # one proof holds while its stream runs
    for port in range(MAX_HEARD):
        streams.renew(Post(port))
    assert not streams.subscribe("mix", local, spoke).confirmed  # memory is bounded: it must answer now


def test_what_is_never_confirmed_makes_room_and_ends(small, now):
    streams, _, _ = small
    for port in range(MAX_STREAMS):
        streams.subscribe("vocals", Post(1, "192.0.2.1"), Post(port, "192.0.2.1"))
    local = Post()
    kept = streams.subscribe("vocals", local, local)
    assert kept.confirmed
    assert len(streams.running) == MAX_STREAMS
    now[0] = LEASE - 1
    streams.renew(local)
    now[0] = LEASE + 1
    streams.pump()
    assert streams.running == [kept]


def test_the_number_of_streams_is_bounded(small):
    streams, _, _ = small
    clients = [Post(2000 + n) for n in range(MAX_STREAMS)]
    for client in clients:
        streams.subscribe("vocals", client, client)
    with pytest.raises(ValueError, match="expected fewer than 16"):
        streams.subscribe("vocals", one := Post(), one)
    streams.subscribe("vocals", clients[0], clients[0])  # renewing is no new one


def test_ids_fit_two_bytes_and_differ_from_start_to_start(small, separator):
    streams, _, ring = small
    alice = Post()
    streams._last_id = 65_534
    assert [streams.subscribe(source, alice, alice).id for source in ("vocals", "mix", "input")] == [65_535, 1, 2]
    assert len({Streams(separator, ring).subscribe("mix", alice, alice).id for _ in range(20)}) > 10


def test_subscribing_again_renews_or_changes(small, now):
    streams, _, _ = small
    alice, bob = Post(1001), Post(1002)
    streams.renew(bob)
    first = streams.subscribe("vocals", alice, bob)
    now[0] = LEASE - 1
    assert streams.subscribe("vocals", Post(3), bob) is first  # oscsend has another port each time
    now[0] = 2 * LEASE - 2
    streams.pump()
    assert streams.running == [first]
    streams.renew(bob)  # the destination may speak for itself
    now[0] = 3 * LEASE - 3
    streams.pump()
    assert streams.running == [first]
    other = streams.subscribe("vocals", bob, bob, "s16")  # not two streams of one source to one place
    assert streams.running == [other]
    assert other.id != first.id
    now[0] = 4 * LEASE
    streams.pump()
    assert streams.running == []


def test_a_lapped_ring_is_counted_and_skipped(small):
    streams, play, _ = small
    alice = Post()
    stream = streams.subscribe("vocals", alice, alice)
    play(2)
    streams.pump()
    play(20)  # more than the ring holds, unseen
    streams.pump()
    play(1)
    streams.pump()
    assert alice.frames == [(0, 0, 0), (1, HOP, HOP), (2, 22 * HOP, 22 * HOP)]  # the index jumps, the sequence does not
    assert stream.counts == {"packets": 3, "lost_frames": 20 * HOP, "failed_packets": 0}


@pytest.mark.parametrize("error", [BlockingIOError(11, "EAGAIN"), ConnectionRefusedError(111, "gone"), OSError(101, "net")])
def test_a_listener_that_fails_hurts_nobody_else(small, now, error):
    streams, play, _ = small
    alice, bob = Post(1001), Post(1002)
    streams.subscribe("vocals", alice, alice)
    streams.subscribe("vocals", bob, bob)
    alice.broken = error
    play(2)
    streams.pump()
    alice.broken = None
    play(1)
    now[0] = FORMAT_EVERY
    streams.pump()
    assert [f[:2] for f in bob.frames] == [(0, 0), (1, HOP), (2, 2 * HOP)]
    assert [f[:2] for f in alice.frames] == [(0, 2 * HOP)]  # our loss: a jump of the index alone
    assert alice.messages[-1][1][-1] == 2 * HOP  # and told
    assert bob.messages[-1][1][-1] == 0
    assert streams.counts == {"packets": 4, "lost_frames": 2 * HOP, "failed_packets": 2}
    streams.unsubscribe(alice)
    assert streams.counts == {"packets": 4, "lost_frames": 2 * HOP, "failed_packets": 2}


def test_who_comes_late_learns_the_format_within_a_second(small, now):
    streams, play, _ = small
    alice = Post()
    streams.subscribe("mix", alice, alice)
    for now[0] in np.arange(0, 5, 0.1):
        play(1)
        streams.pump()
    assert [address for address, _ in alice.messages] == [f"{AUDIO}/format"] * 5


def test_cleared_rings_begin_anew_with_another_id(small):
    streams, play, ring = small
    alice = Post()
    stream = streams.subscribe("mix", alice, alice)
    play(3)
    streams.pump()
    before = stream.id
    rings.clear(ring)
    streams.pump()
    play(1)
    streams.pump()
    assert [f[:2] for f in alice.frames[2:]] == [(2, 2 * HOP), (0, 0)]
    assert stream.id != before
    assert alice.messages[-1] == (f"{AUDIO}/format", [stream.id, "mix", RATE, CHANNELS, HOP, "f32", HOP, 0])
    assert streams.counts["lost_frames"] == 0


def test_another_engine_goes_on(small, lstm):
    streams, play, _ = small
    alice = Post()
    stream = streams.subscribe("vocals", alice, alice, "s16", 64, 2)
    play(3)
    streams.pump()
    other = Separator(lstm, 48000, 1, "cpu")
    ring = rings.make_rings(1 << 15, 1, 2, 2)
    streams.attach(other, ring)
    rings.put(ring, np.full((2, 1, 384), 0.5, np.float32))
    streams.pump()
    packets = [unpack(d) for d in alice.sent if d.startswith(AUDIO.encode() + b"\0")][6:]
    assert [p.stream_id for p in packets] == [stream.id] * 6
    assert [p.sample_index for p in packets] == list(range(0, 384, 64))
    assert stream.sample_rate == 48000
    assert all((p.frames == 0.5).all() and p.frames.shape == (64, 2) for p in packets)  # of mono, twice the same


def test_sound_begins_where_one_comes_in_and_sequences_wrap(small):
    streams, play, _ = small
    play(3)
    alice = Post()
    streams.subscribe("vocals", alice, alice).sequence = 2**31 - 1
    play(2)
    streams.pump()
    assert [f[:2] for f in alice.frames] == [(2**31 - 1, 3 * HOP), (0, 4 * HOP)]


@pytest.mark.parametrize("encoding", ["f32", "s16"])
@pytest.mark.parametrize("rate", [8000, 44100, 48000, 192000])
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_packets_fit_the_network_and_cut_hops_evenly(lstm, rate, channels, encoding):
    separator = Separator(lstm, rate, channels, "cpu")
    ring = rings.make_rings(8192, channels, 2, 2 * channels)
    streams = Streams(separator, ring)
    alice = Post()
    frames = len(streams.subscribe("mix", alice, alice, encoding).frames)
    hop = separator.geometry.hop_length
    rings.put(ring, np.zeros((2, channels, hop), np.float32))
    while len(alice.frames) < hop // frames:
        streams.pump()
    assert max(map(len, alice.sent)) <= PAYLOAD
    assert hop - len(alice.frames) * frames < frames
    if rate != 44100:  # 353 is a prime number
        assert hop % frames == 0
    most, least = streams.frames_per_packet(channels, encoding, 10**6), streams.frames_per_packet(channels, encoding, 1)
    assert len(pack(Packet(1, 0, 0, rate, encoding, np.zeros((most, channels), np.float32)))) <= PAYLOAD
    assert least == min(most, rate // 1000)


# ------------------------------------------------------------------------------------------------------- the measured rate


@pytest.mark.parametrize("ppm", [-300, 0, 45])
def test_the_rate_is_the_clocks(ppm):
    """Hops of 8 ms, looked at up to 3 ms late, now and then 20 ms late: right within 10 ppm after half a minute."""
    rng = np.random.default_rng(0)
    meter = RateMeter(48000)
    rate = 48000 * (1 + ppm * 1e-6)
    for n in range(1, int(MEMORY * rate / 384)):
        late = rng.uniform(0, 0.003) + 0.02 * (rng.random() < 0.01)
        meter.observe(n * 384 / rate + late, n * 384)
        if n * 384 / rate < 2:
            assert meter.rate == 48000
    assert meter.rate == pytest.approx(rate, rel=10e-6)


def test_a_stall_is_no_slow_clock():
    meter = RateMeter(48000)
    for n in range(5000):
        meter.observe(n * 0.008, n * 384)
    for n in range(5000, 5500):
        meter.observe(n * 0.008 + 60, n * 384)
    assert meter.rate == pytest.approx(48000, rel=1e-9)
    meter.observe(1e3, 0)  # begun anew
    assert meter.rate == 48000


# ----------------------------------------------------------------------------------------------------------------- listen


def packet(n, frames=10, stream=1, sequence=None):
    x = np.arange(n * frames, (n + 1) * frames, dtype=np.float32)[:, None] + 1
    return Packet(stream, n if sequence is None else sequence, n * frames, 1000.0, "f32", x)


def assemble(packets):
    assembly = Assembly()
    parts = [part for p in packets for part in assembly.feed(p)] + list(assembly.flush())
    return assembly, np.concatenate(parts)[:, 0]


def test_overtaken_packets_find_their_place():
    order = [0, 1, 3, 2, 2, 5, 4, 6]
    assembly, sound = assemble(packet(n) for n in order)
    np.testing.assert_array_equal(sound, np.arange(1, 71))
    counts = assembly.counts
    assert (counts["reordered"], counts["late"] + counts["duplicate"], counts["gaps"]) == (2, 1, 0)


def test_holes_are_silence_of_their_length_and_of_their_cause():
    network = [packet(n) for n in range(40) if n not in (7, 8, 20)]
    assembly, sound = assemble(network)
    truth = np.arange(1, 401, dtype=np.float32)
    truth[70:90] = truth[200:210] = 0
    np.testing.assert_array_equal(sound, truth)
    assert assembly.gaps == [(70, 20), (200, 10)]
    assert (assembly.counts["lost_frames"], assembly.counts["sender_lost_frames"]) == (30, 0)
    sender = [packet(0), packet(5, sequence=1)]
    assembly, sound = assemble(sender)
    assert len(sound) == 60
    assert (assembly.counts["lost_frames"], assembly.counts["sender_lost_frames"]) == (0, 40)


def test_another_stream_joins_without_a_hole():
    assembly, sound = assemble([packet(0), packet(1), packet(0, stream=2), packet(1, stream=2), packet(10**6, stream=2)])
    assert len(sound) == 50
    assert assembly.counts["restarts"] == 2
    assert assembly.gaps == []


class Relay:
    """Hands packets on between a listener and the server, and loses some of the sound."""

    def __init__(self, server, share, seed):
        self.lost, self.dropped = share, []
        self._rng = np.random.default_rng(seed)
        self._front, self._back = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in "12")
        for s in (self._front, self._back):
            s.bind((HERE, 0))
            s.settimeout(0.05)
        self.port = self._front.getsockname()[1]
        self._server, self._client = (HERE, server.port), None
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._forth), threading.Thread(target=self._back_again)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._front.close()
        self._back.close()

    def _forth(self):
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, self._client = self._front.recvfrom(65536)
                self._back.sendto(data, self._server)

    def _back_again(self):
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                data = self._back.recv(65536)
                if data.startswith(AUDIO.encode() + b"\0") and self._rng.random() < self.lost:
                    self.dropped.append(unpack(data))
                else:
                    self._front.sendto(data, self._client)


def test_under_loss_the_gaps_are_where_the_counters_say(server, separator, tap):
    """1 % of the packets vanish on the way: all else is bit for bit what the engine made, at its place."""
    hops = 800
    sound = recording(hops * HOP)
    kept, stop = [], threading.Event()

    class Keep:
        def write(self, frames):
            kept.append(frames)

    with Relay(server, 0.01, seed=3) as relay, listening.Listener("vocals", HERE, relay.port) as listener:
        done = threading.Thread(target=lambda: listening.listen(listener, Keep(), stop, None, lambda _: None))
        done.start()
        out = play(separator, tap, sound, pace=0.1)
        until(lambda: sum(map(len, kept)) >= (hops - 20) * HOP)
        stop.set()
        done.join(WAIT)
    frames, truth = np.concatenate(kept), out[0].T.copy()
    inner = [p for p in relay.dropped if p.sample_index + HOP < len(frames)]
    assert len(inner) >= 3
    for lost in inner:
        truth[lost.sample_index : lost.sample_index + HOP] = 0
    np.testing.assert_array_equal(frames, truth[: len(frames)])
    places = [(first, first + length) for first, length in listener.assembly.gaps]
    assert sum(end - first for first, end in places) == len(inner) * HOP == listener.assembly.counts["lost_frames"]
    for lost in inner:
        assert any(first <= lost.sample_index < end for first, end in places)
    assert listener.assembly.counts["sender_lost_frames"] == 0


@contextlib.contextmanager
def run_listen(*words, **more):
    """The command as a process of its own; ended here if the test does not come to it."""
    command = [sys.executable, "-m", "streamsep", "listen", *map(str, words)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more) as process:
        try:
            yield process
        finally:
            process.kill()


def test_listen_writes_what_was_played(server, separator, tap, tmp_path):
    """The command as a process of its own, ended by its duration; and one more by a signal."""
    file, other = tmp_path / "vocals.wav", tmp_path / "mix.wav"
    sound = recording(300 * HOP)
    with (
        run_listen("vocals", "--port", server.port, "-o", file, "--duration", 1, "--json") as process,
        run_listen("mix", "--port", server.port, "-o", other, "--encoding", "s16") as signalled,
    ):
        patiently(lambda: len(server.streams.running) == 2)
        out = play(separator, tap, sound)
        text, errors = process.communicate(timeout=START)
        assert (process.returncode, errors) == (0, "")
        signalled.send_signal(signal.SIGINT)
        words, errors = signalled.communicate(timeout=START)
        assert (signalled.returncode, errors) == (0, "")
    assert "0 frames lost in 0 gaps" in words
    report = json.loads(text)
    got, rate = soundfile.read(file, dtype="float32", always_2d=True)
    assert (rate, len(got), report["seconds"], report["lost_frames"], report["file"]) == (RATE, RATE, 1.0, 0, str(file))
    np.testing.assert_array_equal(got, out[0].T[:RATE])
    got, _ = soundfile.read(other, dtype="float32", always_2d=True)
    np.testing.assert_allclose(got, out.sum(axis=0).T[: len(got)], rtol=0, atol=INT16 / 2)
    assert len(got) >= 290 * HOP
    patiently(lambda: not server.streams.running)  # both took their leave


@REAL_TIME
def test_listen_plays(server, tap, jack, tmp_path):
    """Through a real JACK server at another rate than the daemon's; the command says what it heard."""
    recording = tmp_path / "played.npy"
    recorder = start_client("recorder", 2, 2, recording)

    def player():
        ports = subprocess.run(["jack_lsp"], capture_output=True, text=True, check=True).stdout.split()
        return [p for p in ports if p.split(":")[0] not in ("system", "recorder") and ":out_" in p]

    with playing(tap), run_listen("vocals", "--port", server.port, "--play", "--json") as process:
        patiently(player)
        patiently(lambda: server.streams.running)
        connect_ports(*((port, f"recorder:in_{c}") for c, port in enumerate(player())))
        time.sleep(0.5)  # until enough waits to be played
        go(recorder)
        recorder.communicate(timeout=START)
        process.send_signal(signal.SIGTERM)
        text, errors = process.communicate(timeout=START)
    assert (process.returncode, errors) == (0, "")
    report = json.loads(text)
    assert report["lost_frames"] == 0
    assert {"underruns", "skipped_frames"} <= set(report)
    heard = np.load(recording)
    loud = np.abs(heard).max(axis=0)
    np.testing.assert_allclose(loud, [LEFT, RIGHT], rtol=0.02)
    power = np.abs(np.fft.rfft(heard[:, 0] * np.blackman(len(heard)))) ** 2
    assert power.argmax() * 48000 / len(heard) == pytest.approx(TONE, abs=1)


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        (["drums"], 1, "refuses: source 'drums' is unknown: expected one of vocals"),
        (["vocals", "--play", "-o", "x.wav"], 2, "--play and --output exclude each other"),
        (["vocals", "-o", "/proc/x.wav"], 1, "cannot be written"),
        (["vocals", "--host", "nowhere.invalid"], 1, "host 'nowhere.invalid' is unknown"),
    ],
)
def test_listen_says_why_not(server, words, code, reason, tmp_path):
    with run_listen(*words, "--port", server.port, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}) as process:
        _, errors = process.communicate(timeout=START)
    assert process.returncode == code
    assert reason in errors
    assert errors.count("\n") == 1


def test_listen_to_nobody_says_so():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nobody:
        nobody.bind((HERE, 0))
        with pytest.raises(listening.ListenError, match=r"nobody answers at .*: is streamsep running there"):
            listening.Listener("vocals", HERE, nobody.getsockname()[1])


def test_a_listener_outlives_its_daemon(separator, tap, daemon, monkeypatch):
    """It goes on with the next one on the same port, without a hole; and ends with what it has when none comes."""
    monkeypatch.setattr(listening, "KEEP", 0.2)
    kept = []

    class Keep:
        def write(self, frames):
            kept.append(frames)

    with OscServer(daemon, HERE, 0) as server:
        port = server.port
        listener = listening.Listener("vocals", HERE, port)
        reports = []
        listen = lambda: reports.append(listening.listen(listener, Keep(), threading.Event(), None, lambda _: None))  # noqa: E731
        thread = threading.Thread(target=listen)
        thread.start()
        first = play(separator, tap, recording(20 * HOP))
        until(lambda: sum(map(len, kept)) == 20 * HOP)
    rings.clear(tap)
    with OscServer(daemon, HERE, port) as server:
        until(lambda: server.streams.running)
        second = play(separator, tap, recording(20 * HOP))
        until(lambda: sum(map(len, kept)) == 40 * HOP)
        monkeypatch.setattr(listening, "GONE", 1.0)
    thread.join(WAIT)
    listener.__exit__()
    (report,) = reports
    assert (report["gone"], report["gaps"], report["frames"]) == (True, 0, 40 * HOP)
    np.testing.assert_array_equal(np.concatenate(kept), np.concatenate([first[0].T, second[0].T]))


def test_a_listener_from_elsewhere_is_asked_and_answers(separator, tap, daemon, monkeypatch):
    """As if loopback were another machine: nothing flows before the listener has confirmed by itself."""
    monkeypatch.setattr(Streams, "_proven", lambda self, client, destination: False)
    with OscServer(daemon, HERE, 0) as server, listening.Listener("vocals", HERE, server.port) as listener:
        assert listener.format["source"] == "vocals"
        assert server.streams.running[0].confirmed
