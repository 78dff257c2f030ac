"""OSC in hostile weather: whatever comes, the server answers afterwards, keeps nothing, and no control leaves its range."""

import gc
import math
import random
import struct
import time
import tracemalloc

import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder, build_msg

from bench.osc import hostile
from streamsep import __version__
from streamsep.controls import GAIN_DB
from streamsep.osc import OscServer
from streamsep.osc.dispatch import MOST
from streamsep.osc.wire import build, bundle, parse, search, split, tree
from tests.osc_client import HERE, Daemon

PACKETS = 20_000  # in this process; bench/osc.py sends a million to a daemon


class Nobody:
    """Counts what it is sent."""

    kind, host, port = "udp", HERE, 9

    def __init__(self):
        self.packets = self.bytes = 0

    def send(self, data):
        self.packets += 1
        self.bytes += len(data)

    def at(self, port):
        return self


@pytest.fixture
def server(separator, tap):
    """One without a thread: it is handed packets."""
    return OscServer(Daemon(separator, tap, {"late": 0}), HERE, 0)


# ----------------------------------------------------------------------------------------------------- against python-osc


def whatever(rng):
    """A message of any types that we take, as python-osc writes it, and as we would."""
    address = "/" + "".join(rng.choices("abcé/_*", k=rng.randrange(12)))
    builder = OscMessageBuilder(address)
    for _ in range(rng.randrange(5)):
        kind = rng.choice("ihfdsbTFN")
        values = {"i": rng.randrange(-(2**31), 2**31), "h": rng.randrange(-(2**63), 2**63), "s": "ö" * rng.randrange(6)}
        values |= {"f": 0.5 * rng.randrange(100), "d": rng.random(), "b": rng.randbytes(rng.randrange(1, 9))}
        builder.add_arg(values.get(kind), kind)
    return builder.build().dgram


def test_messages_are_read_as_python_osc_reads_them():
    rng = random.Random(0)
    for _ in range(3000):
        data = whatever(rng)
        mine, theirs = parse(data), OscMessage(data)
        assert (mine.address, mine.arguments) == (theirs.address, theirs.params)


def test_damaged_messages_are_refused_or_read_as_python_osc_reads_them():
    """Whoever reads what the other refuses reads beyond the end, or not as far as it."""
    rng = random.Random(1)
    refused = 0
    for _ in range(6000):
        data = bytearray(whatever(rng))
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        data = bytes(data[: rng.randrange(4, len(data) + 1)])
        try:
            mine = parse(data)
        except Exception:
            refused += 1
            continue
        if mine.arguments is not None:
            theirs = OscMessage(data)
            assert mine.address == theirs.address
            assert repr(mine.arguments) == repr(theirs.params)  # NaN, too
    assert refused > 1000


def test_messages_are_written_as_python_osc_writes_them():
    for values in (
        [],
        [1, -(2**31), 2**40],
        [0.5, -(2.0**90), math.inf],
        ["", "a", "abc", "abcd", "ü"],
        [b"", b"12345"],
        [True],
    ):
        assert parse(build("/a/b", values)).arguments == [int(v) if v is True else v for v in values]
        if not values or not isinstance(values[0], bool):
            theirs = OscMessageBuilder("/a/b")
            for v in values:
                kind = {float: "f", str: "s", bytes: "b"}.get(type(v)) or ("i" if -(2**31) <= v < 2**31 else "h")
                if v != b"":  # python-osc does not write an empty blob
                    theirs.add_arg(v, kind)
            assert build("/a/b", [v for v in values if v != b""]) == theirs.build().dgram
    parts = [build("/a", [1]), build("/b")]
    assert [data for _, data in split(bundle(parts))] == parts


# ----------------------------------------------------------------------------------------------------------------- storms


def test_a_storm_of_hostile_packets_does_no_harm(server, separator, capfd):
    """Damaged, cut off, oversized, nested, wrongly typed: counted or refused, each answered with little, and forgotten."""
    nobody, largest = Nobody(), 0
    handle = server._dispatcher.handle
    packets = list(hostile(0, PACKETS))
    for packet in packets[: PACKETS // 2]:  # what is kept at most is kept after these
        handle(packet, nobody)
    gc.collect()
    tracemalloc.start()
    try:
        for packet in packets[PACKETS // 2 :]:
            before = nobody.bytes
            handle(packet, nobody)
            server.host.chosen.clear()  # the daemon's own, in these tests
            largest = max(largest, (nobody.bytes - before) / max(len(packet), 64))
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert grown < 200_000
    assert largest < 40  # a /notify is answered with the full state: the most that anything brings
    counts = server.counts
    assert counts["malformed"] > PACKETS / 10
    assert counts["refused"] > PACKETS / 10
    assert counts["faults"] == counts["socket_errors"] == 0
    assert len(server.notify.listeners) <= 1
    assert counts["streams"] <= 16
    for source in separator.sources:
        assert GAIN_DB[0] <= separator.gain(source) <= GAIN_DB[1]
    assert 0 <= separator.wet <= 1
    assert capfd.readouterr() == ("", "")


def test_a_storm_through_the_socket_and_then_an_answer(daemon, connect):
    with OscServer(daemon, HERE, 0) as server:
        client, enemy = connect(server), connect(server)
        for n, packet in enumerate(hostile(1, 2000)):
            enemy.send_raw(packet[:60_000])
            if n % 10 == 9:
                assert client.ask("/streamsep/version") == [__version__]
        assert server.counts["malformed"] > 200
        assert server.counts["faults"] == 0


def test_a_flood_does_not_keep_others_waiting(daemon, connect):
    """While one client sends all it can, another's listener and questions are served."""
    with OscServer(daemon, HERE, 0) as server:
        client, flood = connect(server), connect(server)
        data = build_msg("/streamsep/output/gain", [-1.0]).dgram
        flood.socket.setblocking(False)
        beats = 0
        client.send("/streamsep/notify", 1)
        end = time.monotonic() + 2.5
        while time.monotonic() < end:
            for _ in range(20):
                flood.send_raw(data)
            try:
                while True:
                    flood.socket.recv(4096)
            except BlockingIOError:
                pass
        taken = -1
        while taken < (taken := server.counts["messages"]):  # what waits in the socket would crowd out the question
            time.sleep(0.05)
        client.send("/streamsep/sync", 7)
        while (message := client.receive()) != ("/streamsep/synced", [7]):
            beats += message[0] == "/streamsep/heartbeat"
        assert beats >= 1
        assert server.counts["messages"] > 1000


def test_one_packet_reaches_so_many_addresses_and_no_more(server, separator):
    nobody = Nobody()
    server._dispatcher.handle(bundle([build("/streamsep/source/*/gain", [-1])] * 150), nobody)
    assert nobody.packets == MOST + 1
    assert server.counts["refused"] == 1
    server._dispatcher.handle(build("/streamsep/version"), nobody)
    assert nobody.packets == MOST + 2


def test_patterns_find_what_they_mean_part_by_part():
    root = tree(["/a/b/c", "/a/d/c", "/a/d/e", "/x"])
    for pattern, found in {
        "/a/*/c": ["/a/b/c", "/a/d/c"],
        "/*/d/[a-e]": ["/a/d/c", "/a/d/e"],
        "/{x,a}": ["/a", "/x"],
        "/*": ["/a", "/x"],
        "/a/*/": [],
        "a/b/c": [],
        "": [],
    }.items():
        assert search(pattern, root) == found, pattern


@pytest.mark.parametrize("depth", [1, 100, 380])
def test_nested_bundles_take_the_innermost_time(depth):
    packet = build_msg("/a").dgram
    for level in range(depth):
        packet = struct.pack(">8sQi", b"#bundle", level + 5, len(packet)) + packet
    assert split(packet) == [(5, build_msg("/a").dgram)]


def test_many_bundles_a_year_ahead_wait_nowhere(server, separator):
    """python-osc's server would sleep until then."""
    nobody = Nobody()
    year = int(time.time() + 365 * 86400 + 2_208_988_800) << 32
    inner = build_msg("/streamsep/panic", [1]).dgram
    packet = struct.pack(">8sQi", b"#bundle", year, len(inner)) + inner
    begin = time.monotonic()
    for _ in range(2000):
        server._dispatcher.handle(packet, nobody)
    assert time.monotonic() - begin < 60
    assert server.counts["refused"] == 2000
    separator.hop()
    assert not separator.panic
