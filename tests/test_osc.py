"""OSC: every value set, asked and refused over real sockets; everybody in step; nothing left behind."""

import socket
import struct
import subprocess
import threading
import time

import numpy as np
import pytest
from pythonosc.osc_bundle_builder import IMMEDIATELY
from pythonosc.osc_message_builder import build_msg

from streamsep import __version__, meters, rings
from streamsep.osc import OscError, OscServer, UdpClient, markdown
from streamsep.osc.surface import ROWS
from streamsep.osc.wire import matches, seconds
from tests.conftest import need_program
from tests.osc_client import HERE, HOP, RATE, WAIT, Daemon, bundle, until

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
    for value, kind in ((1, "i"), (True, "T"), (1.0, "f"), (2, "i"), (0.5, "f"), (1, "h"), ("1", "s"), ("On", "s")):
        assert client.ask(address, value, types=[kind]) == [1]
        assert state() is True
        assert client.ask(address) == [1]
        off = {"T": (False, "F"), "f": (0.0, "f"), "s": ("off", "s")}.get(kind, (0, "i"))
        assert client.ask(address, off[0], types=[off[1]]) == [0]
        assert state() is False
    for value, kind in (("yes", "s"), ("nan", "s"), (float("nan"), "f"), (None, "N"), (b"\1", "b")):
        client.refused(address, value, types=[kind])
    assert state() is False


def test_wrong_number_of_arguments(client):
    assert "arguments=2: expected [gain]" in client.refused("/streamsep/source/vocals/gain", 1.0, 2.0)
    assert "arguments=1: expected no arguments" in client.refused("/streamsep/version", 1)
    assert "arguments=0: expected mode [port]" in client.refused("/streamsep/notify")


def test_whole_numbers_may_come_as_floats(client):
    client.send("/streamsep/sync", 3.0)
    assert client.receive() == ("/streamsep/synced", [3])


def test_unknown_addresses_and_sources(client):
    assert "expected /streamsep/source/ with one of accompaniment, vocals" in client.refused(
        "/streamsep/source/drums/gain", 1.0
    )
    assert "expected /streamsep/ with one of audio, bypass," in client.refused("/streamsep/bypas", 1)
    assert "expected / with one of streamsep" in client.refused("/")
    for port, kind in ((0, "i"), (65536, "i"), (-1, "i"), (9000.5, "f"), ("9000", "s"), (True, "T")):
        assert "port=" in client.refused("/streamsep/notify", 1, port, types=["i", kind])


def test_status_and_version(server, client, status):
    client.send("/streamsep/status")
    where, values = client.receive()
    assert (where, values[:6]) == ("/streamsep/status.reply", ["hops", 3, "latency_ms", 16.5, "model", "test"])
    figures = dict(zip(values[::2], values[1::2], strict=True))
    assert status.items() <= figures.items()
    assert figures["osc.messages"] == 1
    assert client.ask("/streamsep/version") == [__version__]
    status["hops"] = 2**40
    client.send("/streamsep/status")
    assert client.receive()[1][:2] == ["hops", 2**40]


def test_a_failing_status_is_an_error_reply_and_no_more(server, client):
    server.host.status = lambda: {"ratio": 1 / 0}
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
    client.refused("/streamsep/*/mute")  # a star stays between two slashes


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
        ("/[c-a]/bc", False),
        ("/[xa-]/b[a-c]", True),
        ("/[-a]/[!a-bx]c", False),
        ("/[]/bc", False),
        ("/[!]/bc", True),
        ("/a/b]", False),
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


# --------------------------------------------------------------------------------------------------------------- bundles


@pytest.mark.parametrize("when", [IMMEDIATELY, 1000.0, "now"])
def test_bundles_without_a_time_to_come_act_at_once_and_answer_each_message(client, separator, when):
    when = time.time() if when == "now" else when
    inner = bundle(IMMEDIATELY, build_msg("/streamsep/source/accompaniment/mute", [1]))
    outer = bundle(
        when,
        build_msg("/streamsep/source/vocals/gain", [-3.0]),
        build_msg("/streamsep/nothing"),
        inner,
        build_msg("/streamsep/bypass", [1]),
    )
    client.send_raw(outer.dgram)
    addresses = [client.receive()[0] for _ in range(4)]
    assert addresses[0] == "/streamsep/source/vocals/gain"
    assert addresses[1] == "/streamsep/error"
    assert addresses[2:] == ["/streamsep/source/accompaniment/mute", "/streamsep/bypass"]
    assert separator.gain("vocals") == pytest.approx(-3)
    assert separator.mute("accompaniment")
    assert separator.bypass


def test_a_bundle_reaches_the_engine_in_one_hop(server, client, separator):
    """While a worker runs beside, both sources' gains are always those of the same bundle."""
    stop, seen = threading.Event(), []

    def work():
        while not stop.is_set():
            separator.hop()
            seen.append(tuple(separator.controls.current[:2]))
            time.sleep(0.0002)  # the server needs the interpreter, too

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for n in range(200):
            both = [build_msg(f"/streamsep/source/{s}/gain", [-n / 10]) for s in ("vocals", "accompaniment")]
            client.send_raw(bundle(IMMEDIATELY, *both).dgram)
            client.receive()
            client.receive()
            time.sleep(0.001)
    finally:
        stop.set()
        worker.join(WAIT)
    assert len(set(seen)) > 10
    assert all(a == b for a, b in seen)


def test_a_bundle_waits_for_its_time_on_the_engines_clock(daemon, server, client, separator):
    """The engine runs as the live path has it; what comes at a time acts in the hop that is worked on then."""
    acted = {}

    def hop():
        start = time.monotonic_ns()
        separator.hop()
        meters.record(daemon.meters, separator.state, start, start + 1, 0)
        for key, done in (("gain", separator.gain("vocals") < -5), ("solo", separator.solo("vocals"))):
            if done:
                acted.setdefault(key, (n, time.time()))

    period, n = HOP / RATE, 0
    begin = time.monotonic()
    hop()
    when = time.time() + 0.25
    client.send_raw(
        bundle(
            when,
            build_msg("/streamsep/source/vocals/gain", [-200.0]),
            build_msg("/streamsep/source/vocals/solo", [1]),
            build_msg("/streamsep/source/vocals/mute"),
            build_msg("/streamsep/model", ["other"]),
        ).dgram
    )
    assert client.receive() == ("/streamsep/source/vocals/gain", [-90])  # what will be set
    assert client.receive() == ("/streamsep/source/vocals/solo", [1])
    assert client.receive() == ("/streamsep/source/vocals/mute", [0])  # a question is answered at once
    where, (address, reason) = client.receive()
    assert (where, address) == ("/streamsep/error", "/streamsep/model")
    assert "cannot wait for its time: expected" in reason
    assert client.ask("/streamsep/source/vocals/gain") == [0]  # not yet
    n = 1
    while n * period < 0.5:
        while time.monotonic() < begin + n * period:
            time.sleep(0.0005)
        hop()
        n += 1
    assert acted["gain"][0] == acted["solo"][0]
    assert -2 * period < acted["gain"][1] - when < 0.1  # a loaded machine may be late; the test of the engine is exact
    assert separator.gain("vocals") == -90
    assert daemon.chosen == []


def test_what_lies_too_far_ahead_or_is_too_much_is_refused(server, client, separator):
    year = bundle(time.time() + 365 * 86400, build_msg("/streamsep/panic", [1]), build_msg("/streamsep/bypass", [1]))
    client.send_raw(year.dgram)
    assert client.receive()[1][0] == "/streamsep/panic"
    inner = bundle(time.time() + 70, build_msg("/streamsep/bypass", [1]))
    client.send_raw(bundle(IMMEDIATELY, inner).dgram)
    where, (address, reason) = client.receive()
    assert (where, address) == ("/streamsep/error", "/streamsep/bypass")
    assert reason.endswith("s ahead: expected at most 60 s")
    waiting = 0
    while True:
        client.send_raw(bundle(time.time() + 50, build_msg("/streamsep/source/*/*", [1])).dgram)
        if client.receive()[0] == "/streamsep/error":
            break
        waiting += 6
        for _ in range(5):
            client.receive()
    assert waiting == 6 * (1024 // 6)
    assert client.silent()
    assert not separator.panic


def test_time_tags():
    assert seconds(1) == -np.inf
    assert seconds(0x83AA7E80 << 32) == 0  # RFC 868: 1970
    assert seconds((0x83AA7E80 << 32) + 2**31) == 0.5
    assert seconds(1 << 32) == pytest.approx(2**32 + 1 - 2_208_988_800)  # a second after the tags' first end, in 2036


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
    me = UdpClient(client.address, server._udp.socket)
    good = [
        build_msg("/streamsep/source/vocals/gain", [1.0]).dgram,
        build_msg("/streamsep/audio/unsubscribe", ["vocals", 9]).dgram,
        BUNDLE + struct.pack(">i", 28) + build_msg("/streamsep/bypass", [1]).dgram,
    ]
    for n in range(600):
        packet = bytearray(good[n % 3])
        for place in rng.integers(0, len(packet), rng.integers(1, 4)):
            packet[place] = rng.integers(0, 256)
        data = bytes(packet[: rng.integers(0, len(packet) + 1)])
        server.call(lambda data=data: server.handle(data, me))
    end = build_msg("/streamsep/end").dgram
    server.call(lambda: server.handle(end, me))
    while client.receive()[1][:1] != ["/streamsep/end"]:  # its own socket keeps what fits: the end may be lost
        server.call(lambda: server.handle(end, me))
    assert capfd.readouterr() == ("", "")
    assert np.isfinite(separator.gain("vocals"))


def test_nothing_is_printed_or_logged(server, client, capfd, caplog):
    client.send_raw(b"/streamsep/version\0\0,Z\0\0")
    client.receive()
    client.send_raw(BUNDLE + b"\0\0\0\4abcd")
    nobody = UdpClient((HERE, 0), server._udp.socket)  # a reply that no socket can send
    server.call(lambda: server.handle(build_msg("/streamsep/version").dgram, nobody))
    assert client.silent()
    assert server.counts["socket_errors"] == 1
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


# ----------------------------------------------------------------------------------------------------------- life and port


def test_start_and_stop_leave_nothing_behind(daemon, connect):
    before = threading.enumerate()
    server = OscServer(daemon, HERE, 0)
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


def test_a_port_in_use_is_told_with_its_cure(server, daemon):
    other = OscServer(daemon, HERE, server.port)
    with pytest.raises(OscError, match=rf"^OSC port {server.port} on 127.0.0.1 is in use: choose another with --osc-port$"):
        other.start()
    other.stop()


@pytest.mark.parametrize("host", ["203.0.113.7", "a" * 70 + ".example"])  # an address for documents; too long for a name
def test_a_host_that_is_not_ours(daemon, host):
    with pytest.raises(OscError, match=r"^OSC host .* choose another with --osc-host$"):
        OscServer(daemon, host, 0).start()


def test_what_does_not_fit_is_refused_at_once(daemon, status):
    with pytest.raises(ValueError, match="port=70000"):
        OscServer(daemon, port=70000)
    with pytest.raises(ValueError, match=r"10\.0\.0\.0/99"):
        OscServer(daemon, allow=["10.0.0.0/99"])
    with pytest.raises(ValueError, match="tap_channels=3: expected 4"):
        OscServer(Daemon(daemon.separator, rings.make_rings(1024, 2, 2, 3), status))


def test_localhost_is_ipv4(daemon, connect):
    with OscServer(daemon, "localhost", 0) as server:
        assert connect(server).ask("/streamsep/version") == [__version__]


def test_the_table_is_the_surface(client):
    addresses = [row.address for row in ROWS]
    assert len(set(addresses)) == len(addresses)
    lines = markdown().splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert all(line.count("|") == 5 for line in lines)
    for row in ROWS:
        if "<n>" in row.address:  # there is one stream here; test_streams.py has several
            continue
        if row.handler and row.address != "/streamsep/quit" and all(a.optional for a in row.arguments):
            client.send(row.address.replace("<name>", "vocals"))
            assert client.receive()[0] in (row.address.replace("<name>", "vocals"), row.reply_address)


# ------------------------------------------------------------------------------------------------------------------ liblo


def test_oscsend_steers_and_a_listener_sees_it(server, separator, connect):
    program = need_program("oscsend")

    def oscsend(*words):
        subprocess.run([program, HERE, str(server.port), *words], check=True, timeout=WAIT)

    oscsend("/streamsep/source/vocals/gain", "f", "-20")
    until(lambda: separator.gain("vocals") == pytest.approx(-20))
    oscsend("/streamsep/source/accompaniment/mute", "T")
    until(lambda: separator.mute("accompaniment"))
    oscsend("/streamsep/bypass", "i", "1")
    until(lambda: separator.bypass)
    assert connect(server).ask("/streamsep/source/vocals/gain") == pytest.approx([-20])
