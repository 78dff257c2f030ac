"""OSC over TCP: both framings, clients not written here, clients that do not read, and streams of anything but OSC."""

import contextlib
import random
import socket
import struct
import subprocess
import threading

import numpy as np
import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg
from pythonosc.tcp_client import SimpleTCPClient

from streamsep import __version__, rings
from streamsep.engine import Separator
from streamsep.osc import OscServer, framing
from streamsep.osc.framing import MAX_PACKET, FramingError, Sized, Slip
from streamsep.osc.packet import AUDIO
from streamsep.osc.sockets import OUTBOX, ListenError, Outbox
from streamsep.osc.tcp import MAX_CONNECTIONS, TcpServer
from tests.conftest import need_program
from tests.osc_client import CHANNELS, HERE, HOP, RATE, WAIT, Client, Daemon, until

FUZZ = 2000  # streams of garbage


@pytest.fixture
def daemon(lstm):
    separator = Separator(lstm, RATE, CHANNELS, "cpu")
    return Daemon(separator, rings.make_rings(1 << 16, CHANNELS, CHANNELS, 2 * CHANNELS), {"late": 0, "text": "x" * 1000})


@pytest.fixture
def port():
    return TcpServer(HERE, 0)


@pytest.fixture
def parts(port):
    return [port]


class Connection:
    """A TCP client in a few lines: packets in either framing."""

    def __init__(self, port, framing=Slip):
        self.socket = socket.create_connection((HERE, port), WAIT)
        self.framing = framing()
        self.got = []

    def send(self, address, *arguments):
        self.socket.sendall(self.framing.encode(build_msg(address, arguments).dgram))

    def receive(self):
        """The next message."""
        while not self.got:
            data = self.socket.recv(4096)
            assert data, "the connection was closed"
            self.got += self.framing.feed(data)
        message = OscMessage(self.got.pop(0))
        return message.address, message.params

    def ask(self, address, *arguments):
        self.send(address, *arguments)
        where, values = self.receive()
        assert where == address, values
        return values

    def closed(self):
        """Whether the other end has closed it, when all that came before is read."""
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass
        return True


@pytest.fixture
def connect(server, port):
    with contextlib.ExitStack() as stack:

        def make(framing=Slip):
            connection = Connection(port.port, framing)
            stack.callback(connection.socket.close)
            return connection

        yield make


# ---------------------------------------------------------------------------------------------------------------- framing


def in_pieces(data, rng):
    while data:
        length = rng.randint(1, 9)
        yield data[:length]
        data = data[length:]


@pytest.mark.parametrize("framing", [Slip, Sized])
def test_any_cutting_gives_the_same_packets(framing):
    rng = random.Random(4)
    packets = [bytes(rng.choices(b"/a\xc0\xdb\xdc\xdd\0", k=rng.randint(1, 60))) for _ in range(200)]
    stream = b"".join(map(framing.encode, packets))
    for _ in range(20):
        reader = framing()
        assert [p for piece in in_pieces(stream, rng) for p in reader.feed(piece)] == packets
        assert reader.malformed == 0


def test_slip_agrees_with_python_osc():
    from pythonosc import slip

    packet = b"/x\0\0,b\0\0\0\0\0\6\xc0\xdb\xdc\xdd\xc0\0\0\0"
    assert Slip.encode(packet) == slip.encode(packet)
    assert list(Slip().feed(slip.encode(packet))) == [packet]


@pytest.mark.parametrize(
    ("bad", "count"),
    [
        (b"\xdb\xde", 1),  # an escape of nothing
        (b"/ab\xdb", 1),  # an escape cut off
        (b"/" * (MAX_PACKET + 1), 1),
        (b"/" * (50 * MAX_PACKET), 1),
        (b"", 0),
        (b"\xc0\xc0\xc0", 0),
    ],
)
def test_slip_begins_anew_after_what_is_none(bad, count):
    reader = Slip()
    assert list(reader.feed(b"\xc0" + bad + b"\xc0" + Slip.encode(b"/good"))) == [b"/good"]
    assert reader.malformed == count


def test_slip_holds_no_more_than_one_packet():
    reader = Slip()
    for _ in range(1000):
        assert list(reader.feed(b"x" * 1000)) == []
    assert len(reader._part) <= 2 * MAX_PACKET
    assert list(reader.feed(b"\xc0/ok\xc0")) == [b"/ok"]


@pytest.mark.parametrize("size", [0, -1, MAX_PACKET + 1, 2**31 - 1])
def test_an_impossible_size_ends_the_stream(size):
    with pytest.raises(FramingError, match="expected 1 to 8192"):
        list(Sized().feed(struct.pack(">i", size) + b"/x"))


def test_the_largest_packet_passes():
    packet = b"/" + b"\xc0" * (MAX_PACKET - 1)
    for framing_ in (Slip, Sized):
        assert list(framing_().feed(framing_.encode(packet))) == [packet]


@pytest.mark.parametrize(("first", "kind"), [(b"\xc0", Slip), (b"/", Slip), (b"#bundle", Slip), (b"\0\0\0\x10", Sized)])
def test_the_first_byte_tells_the_framing(first, kind):
    assert type(framing.framing(first)) is kind


def test_an_outbox_keeps_the_newest():
    box = Outbox(10)
    for letter in b"abcdef":
        box.put(bytes([letter]) * 3)
    assert (box.take(), box.take(), box.take(), box.lost) == (b"ddd", b"eee", b"fff", 3)
    assert not box


# ---------------------------------------------------------------------------------------------------------------- clients


@pytest.mark.parametrize("framing", [Slip, Sized])
def test_steered_and_answered_in_the_framing_that_was_spoken(daemon, connect, framing):
    client = connect(framing)
    assert client.ask("/streamsep/version") == [__version__]
    assert client.ask("/streamsep/source/vocals/gain", -6.0) == [-6.0]
    assert daemon.separator.gain("vocals") == pytest.approx(-6)
    client.send("/streamsep/nonsense")
    where, (address, reason) = client.receive()
    assert (where, address) == ("/streamsep/error", "/streamsep/nonsense")
    assert "expected" in reason


def test_many_messages_in_one_write_are_answered_in_order(connect):
    client = connect()
    frames = [Slip.encode(build_msg("/streamsep/sync", n).dgram) for n in range(300)]
    client.socket.sendall(b"".join(frames))
    assert [client.receive() for _ in frames] == [("/streamsep/synced", [n]) for n in range(300)]


def test_feedback_over_tcp_of_what_udp_set(server, connect):
    client = connect()
    client.send("/streamsep/notify", 2)
    seen = {}
    while "/streamsep/bypass" not in seen or "/streamsep/source/accompaniment/mute" not in seen:
        seen.update([client.receive()])
    assert seen["/streamsep/bypass"] == [0]
    udp = Client(server.port)
    udp.send("/streamsep/bypass", 1)
    while seen["/streamsep/bypass"] != [1]:
        seen.update([client.receive()])
    udp.socket.close()
    client.socket.close()
    until(lambda: len(server.notify.listeners) == 0)  # a kept lease ends with its connection


def test_steering_over_tcp_and_sound_over_udp(server, daemon, connect):
    client, ear = connect(), Client(server.port)
    ear.ask("/streamsep/version")  # a port of this machine has to have spoken before sound flows to it
    client.send("/streamsep/audio/subscribe", "vocals", ear.address[1])
    assert client.receive()[0] == "/streamsep/audio/subscribe"
    rings.put(daemon.rings, np.ones((2, CHANNELS, HOP), np.float32))
    heard = ""
    while heard != AUDIO:
        heard = ear.receive()[0]
    ear.socket.close()
    client.socket.close()
    until(lambda: server.counts["streams"] == 0)  # who subscribed has gone


def test_sound_over_tcp_itself(server, daemon, connect):
    client = connect()
    client.send("/streamsep/audio/subscribe", "vocals")
    sound = np.random.default_rng(2).normal(0, 0.1, (2, CHANNELS, HOP)).astype(np.float32)
    while client.receive()[0] != "/streamsep/audio/subscribe":
        pass
    rings.put(daemon.rings, sound)
    address = ""
    while address != AUDIO:
        address, values = client.receive()
    blob = next(v for v in values if isinstance(v, bytes))
    np.testing.assert_array_equal(np.frombuffer(blob, "<f4").reshape(-1, CHANNELS), sound[0].T)


def test_python_oscs_client(server, port, daemon):
    with SimpleTCPClient(HERE, port.port, timeout=WAIT) as client:
        client.send_message("/streamsep/source/vocals/mute", 1)
        reply = next(client.get_messages())
        assert (reply.address, reply.params) == ("/streamsep/source/vocals/mute", [1])
    assert daemon.separator.mute("vocals")


def test_liblos_oscsend(server, port, daemon):
    program = need_program("oscsend")
    words = ("/streamsep/source/vocals/gain", "f", "-20")
    subprocess.run([program, f"osc.tcp://{HERE}:{port.port}", *words], check=True, timeout=WAIT)
    until(lambda: daemon.separator.gain("vocals") == pytest.approx(-20))
    until(lambda: port.connections == 0)  # who closes without reading leaves nothing behind


def test_ipv6(daemon):
    try:
        port = TcpServer("::1", 0)
        with OscServer(daemon, "::1", 0, services=[port]), socket.create_connection(("::1", port.port), WAIT) as client:
            client.sendall(Slip.encode(build_msg("/streamsep/version").dgram))
            assert client.recv(4096) == Slip.encode(build_msg("/streamsep/version", __version__).dgram)
    except (ListenError, OSError) as error:
        pytest.skip(f"no IPv6 here: {error}")


# -------------------------------------------------------------------------------------------------------- hostile weather


def test_a_client_that_does_not_read_loses_its_own_messages(server, connect, port):
    deaf, other = connect(), connect()
    deaf.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    question = Slip.encode(build_msg("/streamsep/status").dgram)
    deaf.socket.settimeout(1)
    with contextlib.suppress(TimeoutError):
        for _ in range(100):
            deaf.socket.sendall(question * 100)
    until(lambda: port.counts["tcp_lost"] > 100)
    assert other.ask("/streamsep/version") == [__version__]
    assert all(client._outbox._bytes <= OUTBOX for client in port._clients)


def test_a_deaf_listener_ends_with_the_state_that_holds(server, daemon, connect, port):
    """What is thrown away is the oldest: after all that was lost the last word is the right one."""
    deaf = connect()
    deaf.send("/streamsep/notify", 2)
    until(lambda: len(server.notify.listeners) == 1)
    client = next(iter(port._clients))

    def flood():
        client.pause_writing()  # as asyncio does when the kernel takes no more
        for n in range(20_000):
            client.send(build_msg("/streamsep/source/vocals/gain", float(-n)).dgram)
        client.resume_writing()

    server._loop.call_soon_threadsafe(flood)
    until(lambda: port.counts["tcp_lost"] > 1000)
    last = None
    while last != -19_999:
        address, values = deaf.receive()
        last = values[0] if address.endswith("vocals/gain") else last


def test_half_a_packet_holds_nobody_up(connect):
    half, other = connect(), connect()
    half.socket.sendall(Slip.encode(build_msg("/streamsep/version").dgram)[:7])
    assert other.ask("/streamsep/version") == [__version__]
    half.socket.sendall(Slip.encode(build_msg("/streamsep/version").dgram)[7:])
    assert half.receive() == ("/streamsep/version", [__version__])


def test_an_impossible_size_closes_the_connection_and_is_counted(connect, port):
    client = connect(Sized)
    client.socket.sendall(b"\0\xff\xff\xff/streamsep")
    assert client.closed()
    until(lambda: port.counts["tcp_malformed"] == 1)


def test_a_thousand_connections_are_bounded_and_the_last_is_served(server, connect, port):
    talker = connect()
    assert talker.ask("/streamsep/version") == [__version__]
    silent = [connect() for _ in range(1000)]
    until(lambda: port.connections <= MAX_CONNECTIONS and port.counts["tcp_refused"] >= 1001 - MAX_CONNECTIONS)
    assert silent[-1].ask("/streamsep/version") == [__version__]  # those that never said anything went first
    assert talker.ask("/streamsep/version") == [__version__]
    assert port.connections <= MAX_CONNECTIONS
    for connection in silent:
        connection.socket.close()
    until(lambda: port.connections == 1)


def test_when_all_talk_the_next_one_is_refused(connect, port):
    talkers = [connect() for _ in range(MAX_CONNECTIONS)]
    for talker in talkers:
        assert talker.ask("/streamsep/version") == [__version__]
    assert connect().closed()
    assert talkers[0].ask("/streamsep/version") == [__version__]


def test_hosts_that_are_not_allowed_are_cut_off(server, connect, port, monkeypatch):
    monkeypatch.setattr(server, "admits", lambda host: False)
    assert connect().closed()
    assert port.connections == 0


def test_seeded_garbage(server, connect, port):
    """Whatever comes, in whatever framing: the server answers the next sane client, and keeps nothing."""
    rng = random.Random(7)
    good = build_msg("/streamsep/source/vocals/gain", -3.0).dgram
    for n in range(FUZZ // 20):
        with contextlib.suppress(ConnectionError), socket.create_connection((HERE, port.port), WAIT) as client:
            for _ in range(20):
                kind = rng.randrange(6)
                data = rng.randbytes(rng.randint(1, 300))
                if kind == 1:
                    data = Slip.encode(data)
                elif kind == 2:
                    data = struct.pack(">i", rng.choice([-1, 0, 5, 300, 8192, 8193, 2**31 - 1])) + data
                elif kind == 3:
                    broken = bytearray(good)
                    broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
                    data = Slip.encode(bytes(broken))
                elif kind == 4:
                    data = b"/" * rng.randint(1, 40_000)
                elif kind == 5:
                    data = b"\xc0" * rng.randint(1, 2000)
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)  # closing at once may take back what has not been read yet
            while client.recv(65536):
                pass
        if n % 20 == 0:
            assert connect().ask("/streamsep/version") == [__version__]
    assert connect().ask("/streamsep/version") == [__version__]
    assert port.counts["tcp_malformed"] > 200
    assert server.counts["malformed"] > 50


def test_a_port_in_use_is_told_with_its_cure_and_nothing_is_left(daemon, server, port):
    before = threading.enumerate()
    with pytest.raises(
        ListenError, match=rf"^OSC TCP port {port.port} on {HERE} is in use: choose another with --osc-tcp-port$"
    ):
        OscServer(daemon, HERE, 0, services=[TcpServer(HERE, port.port)]).start()
    assert threading.enumerate() == before
