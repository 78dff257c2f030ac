"""OSC: who listens is told everything, in step, for as long as it wants to and no longer; what the house as a whole answers."""

import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from streamsep import __version__, meters, rings
from streamsep.engine import Separator
from streamsep.osc import OscServer, UdpClient
from streamsep.osc.dumping import PER_SECOND
from streamsep.osc.leases import LEASE, Lease, Leases
from streamsep.osc.metering import FLOOR, METER, decibels
from streamsep.osc.notify import HEARTBEAT, MOST
from tests.conftest import need_program
from tests.osc_client import HERE, HOP, WAIT, bundle, until


@pytest.fixture
def now():
    """A clock that the test turns: s."""
    return [0.0]


@pytest.fixture
def timed(daemon, now):
    with OscServer(daemon, HERE, 0, clock=lambda: now[0]) as server:
        yield server
    assert server.counts["faults"] == 0


def told(client, until_address):
    """What comes up to the first message on an address, that one included; heartbeats and figures that move left out."""
    got = []
    while not got or got[-1][0] != until_address:
        message = client.receive()
        if message[0] != HEARTBEAT and "/stats/" not in message[0]:
            got.append(message)
    return got


def join(client, *arguments):
    """Listen; the full state."""
    client.send("/streamsep/notify", *arguments)
    return dict(told(client, "/streamsep/notify"))


# --------------------------------------------------------------------------------------------------------------- feedback


def test_who_listens_hears_all_first_and_then_each_change_whoever_made_it(server, client, connect, separator, daemon):
    other = connect(server)
    client.ask("/streamsep/source/vocals/gain", -6.0)
    state = join(client, 1)
    assert state["/streamsep/source/vocals/gain"] == pytest.approx([-6.0], abs=1e-5)
    assert state["/streamsep/latency/total"] == [16]
    assert state["/streamsep/model"] == ["live"]
    readable = {address for address, target in server.targets.items() if target.row.get and "/stats/" not in address}
    assert set(state) == readable | {"/streamsep/notify"}
    other.ask("/streamsep/source/accompaniment/solo", 1)  # another client
    assert told(client, "/streamsep/source/accompaniment/solo")[-1][1] == [1]
    separator.bypass = True  # the program itself
    assert told(client, "/streamsep/bypass") == [("/streamsep/bypass", [1])]
    daemon.model = "studio"  # the daemon, when it has done what it was asked
    assert told(client, "/streamsep/model") == [("/streamsep/model", ["studio"])]
    with separator.at(separator.clock):  # a change whose time came
        separator.wet = 0.5
    separator.hop()
    assert told(client, "/streamsep/wet") == [("/streamsep/wet", [0.5])]


def test_listeners_stay_in_step(server, connect, separator):
    """Three join at different times, while a fader moves; all end with the same values, and hear the same from then on."""
    listeners = [connect(server) for _ in range(3)]
    fader = connect(server)
    states = [{} for _ in listeners]
    for n in range(30):
        if n % 10 == 0:
            states[n // 10] |= join(listeners[n // 10], 1)
        fader.ask("/streamsep/output/gain", -float(n))
        time.sleep(0.01)
    fader.ask("/streamsep/panic", 1)
    heard = [told(listener, "/streamsep/panic") for listener in listeners]
    for state, messages in zip(states, heard, strict=True):
        state |= dict(messages)
        assert state["/streamsep/output/gain"] == pytest.approx([-29.0], abs=1e-4)
        assert state["/streamsep/panic"] == [1]
    assert heard[2] == heard[0][-len(heard[2]) :] == heard[1][-len(heard[2]) :]


def test_a_lease_ends_unless_renewed_and_a_kept_one_does_not(timed, now, connect):
    leased, kept, ended = (connect(timed) for _ in range(3))
    join(leased, 1)
    join(kept, 2)
    join(ended, 2)
    ended.send("/streamsep/notify", 0)
    told(ended, "/streamsep/notify")
    assert len(timed.notify.listeners) == 2
    now[0] = LEASE - 1
    leased.send("/streamsep/ping")  # any message renews
    told(leased, "/streamsep/pong")
    now[0] = 2 * LEASE - 2
    until(lambda: timed.call(lambda: timed.notify.tick()) is None and len(timed.notify.listeners) == 2)
    now[0] = 2 * LEASE
    until(lambda: len(timed.notify.listeners) == 1)
    now[0] = 1e6
    timed.separator.panic = True
    assert told(kept, "/streamsep/panic")[-1] == ("/streamsep/panic", [1])


def test_heartbeats_and_moving_figures_come_each_second(server, client, status):
    join(client, 1)
    begin = time.monotonic()
    status["late"] = 7
    got = []
    while [address for address, _ in got].count(HEARTBEAT) < 2 or ("/streamsep/stats/late", [7]) not in got:
        got.append(client.receive())
    assert time.monotonic() - begin < 5


def test_another_port_of_the_same_host_can_be_told(server, client, connect):
    screen = connect(server)
    client.send("/streamsep/notify", 1, screen.address[1])
    assert client.receive() == ("/streamsep/notify", [1])
    told(screen, "/streamsep/panic")  # of the full state
    server.separator.panic = True
    while told(screen, "/streamsep/panic")[-1][1] != [1]:
        pass
    client.ask("/streamsep/notify", 0, screen.address[1])
    assert client.silent()


def test_ten_thousand_listeners_are_refused_with_an_error(timed, client):
    """Subscriptions of all kinds are bounded, and so is what they cost."""
    sent = []

    class Somebody(UdpClient):
        def send(self, data):
            sent.append((self.port, bytes(data)))

    def ask():
        for address, more in (
            ("/streamsep/notify", [2]),
            ("/streamsep/meters/subscribe", [60.0]),
            ("/streamsep/dumpOSC", [1]),
            ("/streamsep/audio/subscribe", ["mix"]),
        ):
            data = build_msg(address, more).dgram
            for port in range(1024, 1024 + 2500):
                timed.handle(data, Somebody((HERE, port), timed._udp.socket))

    timed.call(ask)
    assert len(timed.notify.listeners) == MOST
    assert len(timed.metering.watchers) == 32
    assert len(timed.dumping.listeners) == 4
    assert timed.counts["streams"] == 16
    assert timed.counts["refused"] == 10_000 - MOST - 32 - 4 - 16
    refusals = [data for _, data in sent if data.startswith(b"/streamsep/error\0")]
    assert all(b"expected fewer than" in data for data in refusals)
    assert max(map(len, refusals)) < 200


def test_listening_to_some_addresses_and_to_all(server, client, separator):
    """As an OSCQuery client does; who hears everything goes on hearing everything."""
    me = UdpClient(client.address, server._udp.socket)
    server.call(lambda: server.notify.listen(me, "/streamsep/bypass"))
    server.call(lambda: server.notify.listen(me, "/streamsep/wet"))
    server.call(lambda: server.notify.ignore(me, "/streamsep/bypass"))
    separator.bypass, separator.wet = True, 0.25
    assert told(client, "/streamsep/wet") == [("/streamsep/wet", [0.25])]
    join(client, 1)
    server.call(lambda: server.notify.listen(me, "/streamsep/wet"))
    separator.panic = True
    assert told(client, "/streamsep/panic") == [("/streamsep/panic", [1])]


def test_a_client_that_vanishes_hurts_nobody(server, client, connect, separator):
    for _ in range(10):
        gone = connect(server)
        join(gone, 2)
        gone.ask("/streamsep/meters/subscribe", 60.0)
        gone.socket.close()
    join(client, 1)
    separator.panic = True
    assert told(client, "/streamsep/panic")[-1] == ("/streamsep/panic", [1])


def test_another_engine_brings_its_addresses_and_everything_is_told_again(server, client, identity):
    join(client, 1)
    other = Separator(identity, 48000, 1, "cpu")
    other.set_gain("vocals", -30)
    calls = []
    server.call(lambda: server.changed.append(lambda: calls.append(list(server.targets))))
    server.attach(other, rings.make_rings(1 << 12, 1, 2, 2), meters.make_meters(2))
    client.send("/streamsep/sync", 1)
    got = dict(told(client, "/streamsep/synced"))
    assert got["/streamsep/source/vocals/gain"] == pytest.approx([-30], abs=1e-4)
    assert len(calls) == 1
    client.send("/streamsep/bypass", 1)
    assert told(client, "/streamsep/bypass") == [("/streamsep/bypass", [1])]
    assert other.bypass


def test_meters_go_on_with_another_engine(timed, now, connect, identity):
    client = connect(timed)
    client.ask("/streamsep/meters/subscribe", 60)
    other = Separator(identity, 48000, 1, "cpu")
    history = meters.make_meters(2)
    timed.attach(other, rings.make_rings(1 << 12, 1, 2, 2), history)
    other.state.x[:] = 0.1
    other.hop()
    meters.record(history, other.state, 0, 1_000_000, 5)
    now[0] = 1.0
    assert meter(client)["step"] == [pytest.approx(1), 5, 1]


def test_oscdump_hears_what_oscsend_does(server, connect):
    """Two programs that were not written here: one moves the fader, the other is told."""
    send, dump = need_program("oscsend"), need_program("oscdump")
    probe = connect()
    port = probe.address[1]
    probe.socket.close()
    with subprocess.Popen([dump, "-L", str(port)], stdout=subprocess.PIPE, text=True) as screen:
        try:
            ended = threading.Event()

            def move():
                n = 0
                while not ended.wait(0.05):  # until oscdump has opened its socket
                    n += 1
                    words = ["/streamsep/source/vocals/gain", "f", str(-n % 50)]
                    subprocess.run([send, HERE, str(server.port), *words], check=True, timeout=WAIT)
                    subprocess.run([send, HERE, str(server.port), "/streamsep/notify", "ii", "2", str(port)], check=True)

            mover = threading.Thread(target=move)
            mover.start()
            lines = []
            while not any("/source/vocals/gain" in line for line in lines) or not any(
                "/device/input" in line for line in lines
            ):
                lines.append(screen.stdout.readline())
        finally:
            ended.set()
            mover.join(WAIT)
            screen.kill()


# ----------------------------------------------------------------------------------------------------------------- meters


def hear(daemon, hops, level=0.5, late=0):
    """Hops of a square wave through the engine, as the worker writes them down."""
    state = daemon.separator.state
    for _ in range(hops):
        state.x[:] = np.where(np.arange(HOP) // 8 % 2, level, -level)
        daemon.separator.hop()
        meters.record(daemon.meters, state, time.monotonic_ns(), time.monotonic_ns() + 2_000_000, late)


def meter(client):
    """One packet of meters: {what: values}."""
    return {m.address.removeprefix(f"{METER}/"): m.params for m in OscBundle(client.socket.recv(65536))}


def test_meters_tell_levels_clips_and_times(server, client, daemon):
    hear(daemon, 8)  # before: nobody hears of it
    assert client.ask("/streamsep/meters/subscribe", 30) == [30]
    server.call(lambda: hear(daemon, 8, 0.5, late=3))
    got = meter(client)
    assert list(got) == ["source/vocals", "source/accompaniment", "input", "output", "step"]
    assert got["input"] == pytest.approx([-6.02, -6.02, 0], abs=0.01)
    assert got["output"][0] == pytest.approx(-6.02, abs=0.01)
    assert got["step"] == [pytest.approx(2, abs=0.1), 3, 8]
    server.call(lambda: hear(daemon, 8, 1.0))
    got = meter(client)
    assert got["input"] == pytest.approx([0, 0, 1], abs=0.01)
    server.call(lambda: hear(daemon, 8, 0.25))
    assert meter(client)["input"][2] == 1  # held
    client.send("/streamsep/meters/reset")
    while True:
        data = client.socket.recv(65536)
        if data.startswith(b"/streamsep/meters/reset"):
            break
    server.call(lambda: hear(daemon, 8, 0.25))
    assert meter(client)["input"] == pytest.approx([-12.04, -12.04, 0], abs=0.01)


def test_meters_come_at_the_rate_that_was_asked_for_and_fall_to_silence(timed, now, connect):
    slow, fast = connect(timed), connect(timed)
    assert slow.ask("/streamsep/meters/subscribe", 0.1) == [1]
    assert fast.ask("/streamsep/meters/subscribe", 1000) == [60]
    sent = {slow.address[1]: 0, fast.address[1]: 0}
    post = timed.post

    def count(data, client):
        sent[client.port] += 1
        post(data, client)

    timed.post = count
    for n in range(1000):  # five seconds, looked at every 5 ms
        now[0] = n / 200

        def step():
            hear(timed.host, 1)
            timed.metering.tick()

        timed.call(step)
    assert sent[slow.address[1]] == pytest.approx(5, abs=1)
    assert sent[fast.address[1]] == pytest.approx(300, abs=30)
    fast.send("/streamsep/sync", 1)
    while not fast.socket.recv(65536).startswith(b"/streamsep/synced"):
        pass
    now[0] += 1  # no hop for a second, after the last: the device has gone
    assert meter(fast)["input"][0] > FLOOR
    now[0] += 1
    assert meter(fast)["input"] == [FLOOR, FLOOR, 0]


def test_meters_end_with_their_lease_or_at_once(timed, now, connect):
    client = connect(timed)
    client.ask("/streamsep/meters/subscribe", 10)
    client.send("/streamsep/meters/unsubscribe")
    while not (data := client.socket.recv(65536)).startswith(b"/streamsep/meters/unsubscribe"):
        pass
    assert OscMessage(data).params == [1]
    assert client.ask("/streamsep/meters/unsubscribe") == [0]
    client.ask("/streamsep/meters/subscribe", 10)
    now[0] = LEASE + 1
    until(lambda: timed.call(timed.metering.tick) is None and not len(timed.metering.watchers))


def test_decibels():
    assert decibels(1.0) == 0
    assert decibels(0.0) == decibels(1e-30) == FLOOR


# -------------------------------------------------------------------------------------------------------------- the house


def test_ping_sync_and_what_they_bring_back(client, connect, server):
    client.send("/streamsep/ping")
    assert client.receive() == ("/streamsep/pong", [])
    for value, kind in ((7, "i"), ("x", "s"), (0.5, "f"), (b"1234", "b"), (2**40, "h")):
        client.send("/streamsep/ping", value, types=[kind])
        assert client.receive() == ("/streamsep/pong", [value])
    client.send("/streamsep/sync", 3)
    assert client.receive() == ("/streamsep/synced", [3])


def test_model_and_devices_are_the_daemons_to_change(client, daemon):
    assert client.ask("/streamsep/model") == ["live"]
    assert client.ask("/streamsep/model", "studio") == ["live"]  # not yet: feedback tells when
    assert client.ask("/streamsep/device/input", "USB") == ["in"]
    assert client.ask("/streamsep/device/output", "USB") == ["out"]
    assert daemon.chosen == [{"model": "studio"}, {"input": "USB"}, {"output": "USB"}]
    assert "expected one of in, out" in client.refused("/streamsep/device/input", "nowhere")


def test_recording(client, daemon):
    assert client.ask("/streamsep/record") == [0]
    assert client.ask("/streamsep/record", 1) == [1]
    assert client.ask("/streamsep/recording") == ["take.wav"]
    assert client.ask("/streamsep/record", False) == [0]
    assert client.ask("/streamsep/recording") == [""]


def test_figures_that_are_not_known_are_refused_and_left_out(server, client, status):
    assert client.ask("/streamsep/stats/xruns") == [0]
    status.clear()
    server._figures = -1.0, {}
    assert "expected a device that runs" in client.refused("/streamsep/latency/total")
    assert "/streamsep/latency/total" not in join(client, 1)


def test_quit_only_where_the_configuration_allows_it(client, daemon, connect):
    assert "expected osc_quit = true" in client.refused("/streamsep/quit")
    assert not daemon.ended
    with OscServer(daemon, HERE, 0, may_quit=True) as server:
        connect(server).ask("/streamsep/quit")
    assert daemon.ended


def test_a_read_only_server_answers_and_tells_but_obeys_nothing(daemon, connect):
    with OscServer(daemon, HERE, 0, read_only=True, may_quit=True) as server:
        client = connect(server)
        assert client.ask("/streamsep/source/vocals/gain") == [0]
        for address, *arguments in (
            ("/streamsep/source/vocals/gain", -3.0),
            ("/streamsep/panic", 1),
            ("/streamsep/reset",),
            ("/streamsep/record", 1),
            ("/streamsep/model", "studio"),
            ("/streamsep/quit",),
        ):
            assert "expected osc_read_only = false" in client.refused(address, *arguments)
        client.send_raw(bundle(time.time() + 1, build_msg("/streamsep/panic", [1])).dgram)
        assert client.receive()[0] == "/streamsep/error"
        assert "/streamsep/panic" in join(client, 1)
        client.ask("/streamsep/meters/subscribe", 1)
    assert not daemon.separator.panic
    assert not daemon.ended


def test_what_others_send_can_be_seen_and_floods_are_thinned(timed, connect):
    watcher, other = connect(timed), connect(timed)
    assert watcher.ask("/streamsep/dumpOSC", 1) == [1]
    other.ask("/streamsep/source/vocals/gain", -3.0)
    assert watcher.receive() == ("/streamsep/dump", [f"udp {HERE}:{other.address[1]}", "/streamsep/source/vocals/gain", "-3.0"])
    assert watcher.silent()  # its own are not told
    for _ in range(2 * PER_SECOND):
        other.send("/streamsep/ping")
        other.receive()
    until(lambda: timed.counts["messages"] >= 2 * PER_SECOND + 3)
    watcher.send("/streamsep/version")
    seen = 0
    while watcher.receive()[0] != "/streamsep/version":
        seen += 1
    assert seen < PER_SECOND
    watcher.ask("/streamsep/dumpOSC", 0)
    other.ask("/streamsep/version")
    assert watcher.silent()


# -------------------------------------------------------------------------------------------------------- who may come in


def test_ipv6_loopback(daemon):
    with OscServer(daemon, "::1", 0) as server, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as mine:
        mine.settimeout(WAIT)
        mine.sendto(build_msg("/streamsep/version").dgram, ("::1", server.port))
        assert __version__.encode() in mine.recv(4096)
        assert server.bound == ("::1", server.port)
        assert server.reach(("::1", 1, 0, 0), 9).address == ("::1", 9, 0, 0)


def test_all_addresses_of_both_families(daemon, connect):
    with OscServer(daemon, "::", 0, allow=["192.0.2.0/24"]) as server:
        client = connect(server)  # over IPv4
        assert client.ask("/streamsep/version") == [__version__]
        join(client, 1, client.address[1])
        assert server.reach((HERE, 1), 9).address == (f"::ffff:{HERE}", 9, 0, 0)


def test_only_who_is_allowed_is_listened_to(daemon):
    server = OscServer(daemon, allow=["192.0.2.0/24", "2001:db8::/32"])
    hosts = {HERE: 1, "::1": 1, "192.0.2.9": 1, "192.0.3.9": 0, "2001:db8::7": 1, "fe80::1%eth0": 0, "10.0.0.1": 0}
    assert {host: int(server.admits(host)) for host in hosts} == hosts
    assert server.counts["denied"] == 3


def test_nobody_but_the_senders_host_is_ever_sent_to():
    """Whatever a message says, a client leads to its own host only: there is no argument for another."""
    with socket.socket() as nothing:
        one = UdpClient(("192.0.2.1", 5000, 0, 3), nothing)
        assert one.at(9).address == ("192.0.2.1", 9, 0, 3)
        assert one.at(5000) == one
        assert hash(one.at(5000)) == hash(one)
        assert UdpClient(("::ffff:192.0.2.1", 1, 0, 0), nothing).host == "192.0.2.1"


# ----------------------------------------------------------------------------------------------------------------- leases


def test_leases():
    now = [0.0]
    leases = Leases("test", 2, lambda: now[0])
    a, b, c = "abc"
    first = leases.add(Lease(a, a))
    leases.add(Lease(b, b, kept=True))
    with pytest.raises(ValueError, match="test listeners=2: expected fewer than 2"):
        leases.add(Lease(c, c))
    again = leases.add(Lease(c, a))  # the same destination: no other one
    assert first not in leases
    now[0] = LEASE - 1
    leases.renew(c)
    now[0] = LEASE + 1
    assert again in list(leases)
    now[0] = 2 * LEASE
    assert [lease.owner for lease in leases] == [b]
    assert leases.end(b)
    assert not leases.end(b)
