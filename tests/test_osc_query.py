"""OSCQuery and zeroconf: described, asked, set and listened to by clients written here and elsewhere; browsers kept out."""

import asyncio
import contextlib
import http.client
import importlib.util
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading

import aiohttp
import pytest
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg
from pythonosc.udp_client import SimpleUDPClient
from zeroconf import ServiceBrowser, ServiceListener, Zeroconf

from streamsep import __version__, rings
from streamsep import model as models
from streamsep.config import Config
from streamsep.engine import GAIN_DB, Separator
from streamsep.osc import OscError, OscServer, web
from streamsep.osc.discovery import OSC_TCP, OSC_UDP, OSCQUERY, Discovery
from streamsep.osc.framing import Slip
from streamsep.osc.query import MAX_WEBSOCKETS, OscQuery
from streamsep.osc.services import services
from streamsep.osc.sockets import OUTBOX, ListenError, instance_name, local_name
from streamsep.osc.surface import ROWS
from streamsep.osc.tcp import TcpServer
from streamsep.osc.tree import difference, methods
from streamsep.osc.web import HttpServer
from tests import graphs
from tests.conftest import ROOT, need, need_program
from tests.osc_client import CHANNELS, HERE, RATE, WAIT, Daemon, until

GAIN, MUTE, BYPASS = "/streamsep/source/vocals/gain", "/streamsep/source/vocals/mute", "/streamsep/bypass"
FIGURES = {f"latency_ms.{part}": 16.0 for part in ("algorithmic", "buffering", "device", "total")}
FIGURES |= {f"step_ms.{q}": 0.5 for q in ("p50", "p99", "max")} | {"late": 1, "provider": "cpu"}
FIGURES |= {"bridged": 1, "missed_blocks": 0}


def make_daemon(model):
    separator = Separator(model, RATE, CHANNELS, "cpu")
    return Daemon(separator, rings.make_rings(1 << 14, CHANNELS, CHANNELS, 2 * CHANNELS), dict(FIGURES))


@pytest.fixture
def daemon(lstm):
    return make_daemon(lstm)


@pytest.fixture
def query():
    return OscQuery()


@pytest.fixture
def page(query):
    return HttpServer(HERE, 0, [query])


@pytest.fixture
def parts(page):
    return [page]


@pytest.fixture
def udp(server, connect):
    return connect(server)


class Reply:
    def __init__(self, response):
        self.status, self.headers, self.body = response.status, response.headers, response.read()

    @property
    def json(self):
        assert self.headers["Content-Type"].startswith("application/json")
        return json.loads(self.body, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


@pytest.fixture
def get(server, page):
    """GET a path, byte for byte as written, over a connection of its own."""

    def get(path, method="GET", body=None, **headers):
        connection = http.client.HTTPConnection(HERE, page.port, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request(method, path, body, {name.replace("_", "-"): text for name, text in headers.items()})
            return Reply(connection.getresponse())

    return get


def send_raw(port, data, wait=WAIT):
    """What comes back until the other end closes."""
    got = b""
    with contextlib.suppress(ConnectionError), socket.create_connection((HERE, port), wait) as client:
        client.sendall(data)
        while part := client.recv(65536):
            got += part
    return got


def raw_get(path):
    return f"GET {path} HTTP/1.1\r\nHost: {HERE}\r\nConnection: close\r\n\r\n".encode()


# ------------------------------------------------------------------------------------------------------------------- HTTP


def test_the_whole_tree_is_the_surface(server, get):
    reply = get("/")
    assert reply.status == 200
    root = reply.json
    assert (root["FULL_PATH"], root["ACCESS"]) == ("/", 0)
    assert __version__ in root["DESCRIPTION"]
    found = methods(root)
    assert set(found) == set(server.targets)
    for address, node in found.items():
        row = server.targets[address].row
        assert node["FULL_PATH"] == address
        assert node["DESCRIPTION"] == row.help
        assert node["ACCESS"] == row.access != 0
        assert ("VALUE" in node) == bool(row.access & 1)
        for attribute in ("RANGE", "UNIT", "CLIPMODE", "VALUE"):
            assert attribute not in node or len(node[attribute]) == len(node["TYPE"])
    assert {row.address for row in ROWS if row.handler and "<" not in row.address} < set(found)


def test_one_node_with_all_that_is_known_of_it(server, get):
    assert get(GAIN).json == {
        "FULL_PATH": GAIN,
        "DESCRIPTION": server.targets[GAIN].row.help,
        "ACCESS": 3,
        "TYPE": "f",
        "VALUE": [0.0],
        "RANGE": [{"MIN": GAIN_DB[0], "MAX": GAIN_DB[1]}],
        "CLIPMODE": ["both"],
        "UNIT": ["gain.db"],
    }


def test_a_switch_is_an_integer_with_whole_limits(get):
    node = get(MUTE).json
    assert (node["TYPE"], node["RANGE"], node["CLIPMODE"]) == ("i", [{"MIN": 0, "MAX": 1}], ["none"])
    assert "1.0" not in get(f"{MUTE}?RANGE").body.decode()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("FULL_PATH", BYPASS),
        ("TYPE", "i"),
        ("ACCESS", 3),
        ("VALUE", [0]),
        ("RANGE", [{"MIN": 0, "MAX": 1}]),
        ("CLIPMODE", ["none"]),
    ],
)
def test_one_attribute(get, attribute, value):
    reply = get(f"{BYPASS}?{attribute}")
    assert (reply.status, reply.json) == (200, {attribute: value})


def test_contents_description_and_several_at_once(get):
    assert set(get("/streamsep/source?CONTENTS").json["CONTENTS"]) == {"vocals", "accompaniment"}
    assert get("/?DESCRIPTION").json["DESCRIPTION"].startswith("streamsep")
    assert get(f"{GAIN}?VALUE&UNIT").json == {"VALUE": [0.0], "UNIT": ["gain.db"]}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nowhere", 404),
        ("/streamsep/source/drums/gain", 404),
        ("/nowhere?TYPE", 404),
        (f"{BYPASS}?NONSENSE", 400),
        (f"{BYPASS}?VALUE&NONSENSE", 400),
        (f"{BYPASS}?value", 400),
        ("/streamsep/sync?VALUE", 204),  # can only be sent
        ("/streamsep/source?VALUE", 204),  # has none
        (f"{BYPASS}?HTML", 204),  # the proposal's, not kept here
        (f"{BYPASS}?OVERLOADS", 204),
        ("/streamsep/source?TYPE", 200),
        (f"{BYPASS}/", 200),
        ("/streamsep/%73ource", 200),
    ],
)
def test_errors_are_the_proposals(get, path, status):
    reply = get(path)
    assert reply.status == status
    assert status != 204 or reply.body == b""
    assert status != 200 or isinstance(reply.json, dict)


def test_what_says_nothing_is_an_empty_object(get):
    assert get("/streamsep/source?TYPE").json == {}
    assert get("/streamsep/version?RANGE").json == {}


def test_a_value_that_cannot_be_told_now_is_left_out(get, daemon):
    daemon.figures.clear()
    until(lambda: get("/streamsep/stats/late?VALUE").json == {})
    assert "VALUE" not in get("/streamsep/stats/late").json


def test_infinity_is_null_in_json(get, daemon, server):
    daemon.figures["latency_ms.device"] = float("inf")
    until(lambda: get("/streamsep/latency/device?VALUE").json == {"VALUE": [None]})


def test_host_info_on_any_path(server, page, get):
    for path in ("/?HOST_INFO", "/nowhere/at/all?HOST_INFO"):
        info = get(path).json
        assert info["NAME"] == instance_name(server.port)
        assert (info["OSC_IP"], info["OSC_PORT"], info["OSC_TRANSPORT"]) == (HERE, server.port, "UDP")
        assert (info["WS_IP"], info["WS_PORT"]) == (HERE, page.port)
        for extension in ("ACCESS", "VALUE", "RANGE", "DESCRIPTION", "UNIT", "CLIPMODE", "LISTEN", "PATH_CHANGED"):
            assert info["EXTENSIONS"][extension] is True
        assert set(info["EXTENSIONS"]) & {"TAGS", "HTML", "OVERLOADS"} == set()


def test_host_info_of_a_server_on_all_addresses_names_the_one_that_was_asked(daemon):
    page = HttpServer("0.0.0.0", 0, [OscQuery()])
    with OscServer(daemon, "0.0.0.0", 0, services=[page]):  # nobody but this machine is let in
        info = json.loads(send_raw(page.port, raw_get("/?HOST_INFO")).partition(b"\r\n\r\n")[2])
    assert (info["OSC_IP"], info["WS_IP"]) == (HERE, HERE)


def test_ipv6(daemon):
    page = HttpServer("::1", 0, [OscQuery()])
    try:
        with (
            OscServer(daemon, "::1", 0, services=[page]),
            contextlib.closing(http.client.HTTPConnection("::1", page.port, timeout=WAIT)) as connection,
        ):
            connection.request("GET", "/?HOST_INFO")
            info = json.loads(connection.getresponse().read())
            assert (info["OSC_IP"], info["WS_IP"]) == ("::1", "::1")
            assert page.place == {"http": f"http://[::1]:{page.port}/"}
    except (OscError, ListenError) as error:
        pytest.skip(f"no IPv6 here: {error}")


def test_the_values_are_those_of_now(get, udp):
    assert udp.ask(GAIN, -9.0) == [-9.0]
    assert get(f"{GAIN}?VALUE").json["VALUE"] == pytest.approx([-9.0], abs=1e-4)
    udp.ask("/streamsep/source/accompaniment/mute", 1)
    assert get("/streamsep/source/accompaniment").json["CONTENTS"]["mute"]["VALUE"] == [1]


def test_what_type_says_can_be_sent_and_comes_back(server, get, udp):
    """Every address that can be set takes its own VALUE under its own TYPE."""
    for address, node in methods(get("/").json).items():
        if node["ACCESS"] == 3:
            assert udp.ask(address, *node["VALUE"], types=node["TYPE"]) == pytest.approx(node["VALUE"], abs=1e-4)


@pytest.mark.parametrize("tags", [",N\0\0", ",I\0\0"])
def test_type_n_takes_nil_and_an_impulse(get, udp, tags):
    assert get("/streamsep/meters/reset").json["TYPE"] == "N"
    udp.send_raw(b"/streamsep/meters/reset\0" + tags.encode())
    assert udp.receive() == ("/streamsep/meters/reset", [])


# ----------------------------------------------------------------------------------------------------------- browsers


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.evil", "[::1", ""])
def test_a_name_that_somebody_pointed_at_us_gets_nothing(get, host):
    reply = get("/", Host=host)
    assert reply.status in (400, 403)
    assert b"CONTENTS" not in reply.body


@pytest.mark.parametrize(
    "host",
    ["localhost:1", "LocalHost", "127.0.0.1", "[::1]:80", "192.168.1.9:9000", socket.gethostname(), local_name() + ".:80"],
)
def test_names_of_this_machine_are_answered(get, host):
    assert get("/", Host=host).status == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://evil.example:443", "file://", "http://192.168.1.9", "http://[", ""]
)
def test_a_page_of_elsewhere_may_not_steer(get, page, origin, daemon):
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    reply = get("/", Origin=origin, Sec_WebSocket_Key="AAAAAAAAAAAAAAAAAAAAAA==", **upgrade)
    assert reply.status == 403


@pytest.mark.parametrize("origin", ["http://192.168.1.9:8080", "http://localhost:5173", "http://[::1]:80", "https://127.0.0.1"])
def test_a_page_of_this_machine_may(get, origin):
    assert get("/", Host="192.168.1.9:8080", Origin=origin).status == 200


def test_nothing_of_another_origin_may_be_read_and_nothing_is_a_file(get):
    reply = get("/", Origin="http://localhost:5173")  # a page under development on this machine
    assert reply.status == 200
    assert "Access-Control-Allow-Origin" not in reply.headers
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/..", "/../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/pyproject.toml", "//etc/passwd"):
        assert get(path).status in (400, 404)


def test_who_is_not_allowed_gets_nothing(get, server, page, monkeypatch):
    monkeypatch.setattr(page, "_admits", lambda host: False)
    assert get("/").status == 403
    assert page.counts["http_refused"] == 1


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_only_get(get, method):
    assert get("/", method, b"x" * 100).status == 405


def test_large_requests_are_refused(get, page):
    assert get("/" + "a" * 10_000).status in (400, 414)
    assert get("/", X=" y" * 10_000).status in (400, 431)
    with contextlib.suppress(ConnectionError):
        assert get("/", "POST", b"x" * 10_000_000).status in (405, 413)
    assert get(f"{BYPASS}?VALUE").json == {"VALUE": [0]}


def test_a_part_that_fails_ends_its_request_only(daemon, capfd):
    def broken(application, server):
        async def fail(request):
            raise RuntimeError("out of paper")

        application.router.add_get("/print", fail)

    page = HttpServer(HERE, 0, [broken, OscQuery()])
    with OscServer(daemon, HERE, 0, services=[page]):
        connection = http.client.HTTPConnection(HERE, page.port, timeout=WAIT)
        with contextlib.closing(connection):
            connection.request("GET", "/print")
            reply = connection.getresponse()
            assert (reply.status, reply.read()) == (500, b"failed: RuntimeError: out of paper")
            connection.request("GET", f"{BYPASS}?VALUE")  # on the same connection
            assert connection.getresponse().status == 200
        assert page.counts["http_faults"] == 1
    assert capfd.readouterr() == ("", "")


# -------------------------------------------------------------------------------------------------------------- WebSocket


class Listener:
    """A WebSocket client by aiohttp."""

    def __init__(self, socket):
        self.socket = socket

    async def command(self, command, address):
        await self.socket.send_str(json.dumps({"COMMAND": command, "DATA": address}))

    async def send(self, address, *arguments):
        await self.socket.send_bytes(build_msg(address, arguments).dgram)

    async def receive(self):
        """(address, arguments) of an OSC packet, or the command that came."""
        message = await self.socket.receive(WAIT)
        if message.type == aiohttp.WSMsgType.TEXT:
            return json.loads(message.data)
        assert message.type == aiohttp.WSMsgType.BINARY, message
        packet = OscMessage(message.data)
        return packet.address, packet.params

    async def until(self, address, value):
        """Wait for a push; what comes before on the way."""
        while await self.receive() != (address, [value]):
            pass

    async def silent(self):
        """Nothing waits: the answer to a question is the next message."""
        await self.send("/streamsep/sync", 7)
        assert await self.receive() == ("/streamsep/synced", [7])


@pytest.fixture
def talk(server, page):
    """Run `conversation(*listeners)` with as many WebSockets as it has parameters."""

    def talk(conversation):
        async def main():
            async with contextlib.AsyncExitStack() as stack:
                session = await stack.enter_async_context(aiohttp.ClientSession())
                url = f"ws://{HERE}:{page.port}/"
                count = conversation.__code__.co_argcount
                sockets = [await stack.enter_async_context(session.ws_connect(url)) for _ in range(count)]
                await conversation(*map(Listener, sockets))

        asyncio.run(main())

    return talk


def test_listen_hears_the_value_and_every_change_whoever_made_it(talk, udp, daemon):
    async def conversation(one, two):
        await one.command("LISTEN", BYPASS)
        await two.command("LISTEN", BYPASS)
        for listener in (one, two):
            assert await listener.receive() == (BYPASS, [0])
        await asyncio.to_thread(udp.ask, BYPASS, 1)  # over UDP
        for listener in (one, two):
            assert await listener.receive() == (BYPASS, [1])
        daemon.separator.bypass = False  # by the daemon itself
        for listener in (one, two):
            assert await listener.receive() == (BYPASS, [0])
        await two.send(BYPASS, 1)  # over the other WebSocket
        await one.until(BYPASS, 1)
        await two.until(BYPASS, 1)

    talk(conversation)


def test_only_what_was_listened_to_comes_and_ignore_ends_it(talk, udp):
    async def conversation(one):
        await one.command("LISTEN", GAIN)
        await one.command("LISTEN", MUTE)
        assert [await one.receive(), await one.receive()] == [(GAIN, [0.0]), (MUTE, [0])]
        await asyncio.to_thread(udp.ask, BYPASS, 1)
        await asyncio.to_thread(udp.ask, MUTE, 1)
        assert await one.receive() == (MUTE, [1])
        await one.command("IGNORE", MUTE)
        await one.silent()
        await asyncio.to_thread(udp.ask, MUTE, 0)
        await asyncio.to_thread(udp.ask, GAIN, -12.0)
        address, values = await one.receive()
        assert (address, values) == (GAIN, pytest.approx([-12.0], abs=1e-4))
        await one.command("IGNORE", GAIN)
        await one.command("IGNORE", "/nowhere")
        await one.silent()

    talk(conversation)


def test_osc_in_a_binary_message_is_obeyed_and_answered(talk, daemon):
    async def conversation(one):
        await one.send(GAIN, -6.0)
        assert await one.receive() == (GAIN, [-6.0])
        assert daemon.separator.gain("vocals") == pytest.approx(-6)
        await one.send("/streamsep/source/*/mute", 1)
        assert sorted([await one.receive(), await one.receive()]) == [
            ("/streamsep/source/accompaniment/mute", [1]),
            (MUTE, [1]),
        ]
        await one.send("/streamsep/nonsense")
        address, (about, reason) = await one.receive()
        assert (address, about) == ("/streamsep/error", "/streamsep/nonsense")
        assert "expected" in reason

    talk(conversation)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "null",
        '{"COMMAND": "LISTEN"}',
        '{"COMMAND": "LISTEN", "DATA": 3}',
        '{"COMMAND": "FORGET", "DATA": "/streamsep/bypass"}',
        '{"COMMAND": ["LISTEN"], "DATA": "/streamsep/bypass"}',
        "[" * 4000,
    ],
)
def test_what_is_no_command_is_told(talk, query, text):
    async def conversation(one):
        await one.socket.send_str(text)
        address, (_, reason) = await one.receive()
        assert address == "/streamsep/error"
        assert "expected" in reason
        await one.silent()

    talk(conversation)
    assert query.counts["ws_malformed"] == 1


@pytest.mark.parametrize("path", ["/nowhere", "/streamsep", "/streamsep/sync", "", "/streamsep/*"])
def test_what_has_no_value_cannot_be_listened_to(talk, path):
    async def conversation(one):
        await one.command("LISTEN", path)
        address, (_, reason) = await one.receive()
        assert address == "/streamsep/error"
        assert "expected an address that has a value" in reason

    talk(conversation)


def test_a_websocket_that_goes_takes_all_it_had_with_it(talk, server, query):
    async def conversation(one):
        await one.command("LISTEN", BYPASS)
        await one.send("/streamsep/audio/subscribe", "vocals")
        await one.send("/streamsep/meters/subscribe", 10)
        await one.send("/streamsep/sync", 1)
        while await one.receive() != ("/streamsep/synced", [1]):
            pass
        assert (len(server.notify.listeners), server.counts["streams"], len(server.metering.watchers)) == (1, 1, 1)
        one.socket._response.connection.transport.abort()  # no good-bye: the cable

    talk(conversation)
    until(lambda: query.counts["ws_connections"] == 0)
    until(lambda: (len(server.notify.listeners), server.counts["streams"], len(server.metering.watchers)) == (0, 0, 0))


def test_websockets_are_bounded(server, page, query):
    async def main():
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            url = f"ws://{HERE}:{page.port}/"
            for _ in range(MAX_WEBSOCKETS):
                last = await stack.enter_async_context(session.ws_connect(url))
            with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
                await session.ws_connect(url)
            await Listener(last).silent()

    asyncio.run(main())
    assert query.counts["ws_refused"] == 1
    until(lambda: query.counts["ws_connections"] == 0)


def test_a_websocket_that_is_not_read_loses_its_own_messages(server, page, query, daemon, udp):
    daemon.figures["text"] = "x" * 1000

    async def main():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"ws://{HERE}:{page.port}/") as socket:
            socket._response.connection.transport.pause_reading()
            question = build_msg("/streamsep/status").dgram
            for _ in range(20_000):
                await socket.send_bytes(question)
            while query.counts["ws_lost"] < 100:
                await asyncio.sleep(0.01)
            assert await asyncio.to_thread(udp.ask, "/streamsep/version") == [__version__]
            assert all(client.outbox._bytes <= OUTBOX for client in query._clients)
            socket._response.connection.transport.abort()

    asyncio.run(asyncio.wait_for(main(), 6 * WAIT))
    assert query.counts["ws_lost"] >= 100


def test_a_message_that_is_too_long_ends_the_connection(talk, server):
    async def conversation(one):
        await one.socket.send_bytes(b"/" * 10_000)
        assert (await one.socket.receive(WAIT)).type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)
        assert one.socket.close_code == 1009

    talk(conversation)


def test_the_server_says_good_bye(daemon):
    page = HttpServer(HERE, 0, [OscQuery()])
    server = OscServer(daemon, HERE, 0, services=[page])

    async def main():
        async with aiohttp.ClientSession() as session, session.ws_connect(f"ws://{HERE}:{page.port}/") as socket:
            stopping = asyncio.create_task(asyncio.to_thread(server.stop))
            message = await socket.receive(WAIT)
            assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1001)
            await stopping

    server.start()
    asyncio.run(main())
    assert page.connections == 0


# ----------------------------------------------------------------------------------------------------- another model


def node(*paths, **more):
    return {"FULL_PATH": "/", "CONTENTS": {p: {"FULL_PATH": f"/{p}", "TYPE": "f"} | more for p in paths}}


def test_differences_are_told_in_commands():
    assert difference(node("a", "b"), node("a", "b")) == []
    assert difference(node("a", "b"), node("b", "c")) == [("PATH_REMOVED", "/a"), ("PATH_ADDED", "/c"), ("PATH_CHANGED", "/")]
    assert difference(node("a"), node("a", TYPE="i")) == [("PATH_CHANGED", "/a")]
    assert difference(node("a"), node("a", "b", TYPE="i"))[-1] == ("PATH_CHANGED", "/")


def test_another_models_sources_are_told(server, talk, get, folder, daemon):
    other = make_daemon(models.load(graphs.constant(folder / "drums.onnx", (1, 0), sources=("vocals", "drums"))))
    drums = "/streamsep/source/drums/gain"

    async def conversation(one):
        await one.command("LISTEN", GAIN)
        await one.receive()
        daemon.separator, daemon.rings, daemon.meters = other.separator, other.rings, other.meters
        await asyncio.to_thread(server.attach, other.separator, other.rings, other.meters)
        told = []
        while {"COMMAND": "PATH_CHANGED", "DATA": "/streamsep/source"} not in told:
            told.append(await one.receive())
        assert {"COMMAND": "PATH_ADDED", "DATA": drums} in told
        assert {"COMMAND": "PATH_REMOVED", "DATA": "/streamsep/source/accompaniment/gain"} in told
        await one.command("LISTEN", drums)
        await one.until(drums, 0.0)
        await one.send(drums, -6.0)
        await one.until(drums, -6.0)

    talk(conversation)
    assert set(get("/streamsep/source").json["CONTENTS"]) == {"vocals", "drums"}
    assert get("/streamsep/source/accompaniment").status == 404


# -------------------------------------------------------------------------------------------------------- hostile weather


def test_seeded_garbage_over_http_and_websocket(page, get, talk, query):
    rng = random.Random(9)
    request = raw_get(f"{BYPASS}?VALUE")
    assert b'{"VALUE": [0]}' in send_raw(page.port, request)
    for n in range(300):
        data = bytearray(request)
        for _ in range(rng.randint(1, 6)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if n % 3 == 0:
            data = rng.randbytes(rng.randint(1, 2000)) + b"\r\n\r\n"
        with socket.create_connection((HERE, page.port), WAIT) as client:
            client.sendall(data)  # and away, whatever the answer is
    assert get(f"{BYPASS}?VALUE").json == {"VALUE": [0]}

    async def conversation(one, two):
        for _ in range(500):
            text = rng.random() < 0.5
            if text:
                await one.socket.send_str("".join(rng.choices('{}[]":,COMMANDLISTEN/ab\u20ac', k=rng.randint(0, 60))))
            else:
                await one.socket.send_bytes(rng.randbytes(rng.randint(0, 200)))
        await two.silent()
        while await one.receive() != ("/streamsep/synced", [1]):
            await one.send("/streamsep/sync", 1)

    talk(conversation)
    assert query.counts["ws_malformed"] > 100
    assert page.counts["http_faults"] == 0


def test_a_thousand_connections_are_bounded_and_the_last_is_served(page, get):
    silent = []
    try:
        for _ in range(1000):
            silent.append(socket.create_connection((HERE, page.port), WAIT))
        until(lambda: page.counts["http_refused"] >= 1000 - web.MAX_CONNECTIONS)
        assert page.connections <= web.MAX_CONNECTIONS
        assert get(f"{BYPASS}?VALUE").json == {"VALUE": [0]}
    finally:
        for connection in silent:
            connection.close()
    until(lambda: page.connections == 0)


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n"])
def test_who_says_nothing_or_half_of_it_is_let_go(daemon, monkeypatch, begun):
    monkeypatch.setattr(web, "IDLE", 0.2)
    page = HttpServer(HERE, 0, [OscQuery()])
    with OscServer(daemon, HERE, 0, services=[page]):
        assert send_raw(page.port, begun) == b""
        until(lambda: page.connections == 0)


def test_a_port_in_use_is_told_with_its_cure_and_nothing_is_left(daemon, server, page):
    before = threading.enumerate()
    with pytest.raises(ListenError, match=rf"^HTTP port {page.port} on {HERE} is in use: choose another with --http$"):
        OscServer(daemon, HERE, 0, services=[HttpServer(HERE, page.port, [OscQuery()])]).start()
    with pytest.raises(ListenError, match=r"^HTTP host '203\.0\.113\.7'|^HTTP host 203\.0\.113\.7 is not an address"):
        OscServer(daemon, HERE, 0, services=[HttpServer("203.0.113.7", 0, [OscQuery()])]).start()
    assert threading.enumerate() == before


# --------------------------------------------------------------------------------------------------------------- zeroconf


class Browser(ServiceListener):
    """What a zeroconf browser on this machine sees: {(type, port): service}."""

    def __init__(self):
        self.seen = {}

    def add_service(self, zc, type_, name):
        info = zc.get_service_info(type_, name)
        if info:
            self.seen[type_, info.port] = info

    update_service = add_service

    def remove_service(self, zc, type_, name):
        self.seen = {key: info for key, info in self.seen.items() if info.name != name}


@pytest.fixture
def browse():
    with contextlib.closing(Zeroconf()) as zeroconf:  # as any program has it: on all interfaces
        browser = Browser()
        ServiceBrowser(zeroconf, [OSC_UDP, OSC_TCP, OSCQUERY], browser)
        yield browser


@pytest.fixture
def configured(daemon):
    """A server with all that the settings can ask for, on the loopback."""
    server = OscServer(daemon, HERE, 0, services=services(Config(osc_port=0, osc_tcp_port=0, http=0)))
    with server:
        yield server


def ports(server):
    tcp, http = server.services[:2]
    return {(OSC_UDP, server.port), (OSC_TCP, tcp.port), (OSCQUERY, http.port)}


def test_a_browser_finds_all_ports_and_sees_them_go(daemon, browse):
    server = OscServer(daemon, HERE, 0, services=services(Config(osc_port=0, osc_tcp_port=0, http=0)))
    with server:
        until(lambda: ports(server) <= set(browse.seen))
        for key in ports(server):
            info = browse.seen[key]
            assert info.parsed_addresses() == [HERE]  # nobody else can reach it, so nobody else is told
            assert info.name == f"{instance_name(server.port)}.{key[0]}"
        assert server.services[-1].problem == ""
    until(lambda: not ports(server) & set(browse.seen))


def test_two_daemons_are_two(lstm, browse):
    with contextlib.ExitStack() as stack:
        servers = [
            stack.enter_context(OscServer(make_daemon(lstm), HERE, 0, services=services(Config(osc_port=0, http=0))))
            for _ in range(2)
        ]
        until(lambda: {(OSC_UDP, server.port) for server in servers} <= set(browse.seen))
        assert len({browse.seen[OSC_UDP, server.port].name for server in servers}) == 2


def test_stopping_at_once_takes_back_what_was_begun(daemon):
    with OscServer(daemon, HERE, 0, services=services(Config(osc_port=0, http=0))):
        pass  # the name is still being tried


def test_nothing_is_told_unless_asked_and_off_the_loopback_only_when_configured():
    assert services(Config()) == []
    assert [type(s).__name__ for s in services(Config(osc_tcp_port=0))] == ["TcpServer"]

    tcp, http = TcpServer("192.0.2.1", 0), HttpServer(HERE, 0, [])
    tcp.address, http.address = tcp.host, http.host
    local, remote = (OSCQUERY, HERE, 0), [(OSC_UDP, "192.0.2.1", 9000), (OSC_TCP, "192.0.2.1", 0)]
    assert Discovery(tcp, http, everywhere=False).places(("192.0.2.1", 9000)) == [local]
    assert Discovery(tcp, http, everywhere=True).places(("192.0.2.1", 9000)) == [*remote, local]


def test_a_daemon_without_multicast_still_plays(daemon, monkeypatch, connect):
    from streamsep.osc import discovery

    def refuse(host):
        raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "_zeroconf", refuse)
    with OscServer(daemon, HERE, 0, services=services(Config(osc_port=0, http=0))) as server:
        until(lambda: "No such device" in server.services[-1].problem)
        assert connect(server).ask("/streamsep/version") == [__version__]
        assert server.counts["zeroconf_failed"] == 1


# ------------------------------------------------------------------------------------------------- clients not of ours


def test_python_oscquery_finds_reads_and_sets(configured, daemon):
    need(importlib.util.find_spec("pythonoscquery"), "the package python-oscquery")
    from pythonoscquery.osc_query_browser import OSCQueryBrowser
    from pythonoscquery.osc_query_client import OSCQueryClient

    browser = OSCQueryBrowser()
    with contextlib.closing(browser.zc):
        http_port = configured.services[1].port
        until(lambda: any(found and found.port == http_port for found in browser.get_discovered_oscquery()))
        found = next(f for f in browser.get_discovered_oscquery() if f.port == http_port)
        client = OSCQueryClient(found)
        info = client.get_host_info()
        assert (info.osc_ip, info.osc_port, info.osc_transport) == (HERE, configured.port, "UDP")
        sources = client.query_node("/streamsep/source")
        assert {n.full_path.rpartition("/")[2] for n in sources.contents} == {"vocals", "accompaniment"}
        gain = sources.find_subnode(GAIN)
        assert (gain.value, gain.type, int(gain.access)) == ([0.0], [float], 3)
        sender = SimpleUDPClient(info.osc_ip, info.osc_port)
        with contextlib.closing(sender._sock):
            sender.send_message(gain.full_path, -20.0)
        until(lambda: daemon.separator.gain("vocals") == pytest.approx(-20))
        assert client.query_node(GAIN).value == pytest.approx([-20.0], abs=1e-4)
        assert client.query_node("/nowhere") is None


@pytest.mark.timeout(60)
def test_nodes_clients_find_read_listen_and_set(configured, daemon, connect, monkeypatch):
    """The npm packages `oscquery` and `osc`, as `make test` installs them."""
    node = need_program("node")
    monkeypatch.setenv("NODE_PATH", str(ROOT / ".venv" / "node" / "node_modules"))
    found = subprocess.run([node, "-e", "require('oscquery'); require('osc')"], capture_output=True, check=False)
    need(found.returncode == 0, "the npm packages oscquery and osc")
    http_port = configured.services[1].port
    script = ROOT / "tests" / "oscquery_client.js"
    with subprocess.Popen([node, script, str(http_port), GAIN, "-12"], stdout=subprocess.PIPE, text=True) as client:
        try:
            found = json.loads(client.stdout.readline())
            assert found["found"]["oscPort"] == configured.port
            assert found["methods"] == len(configured.targets)
            assert (found["range"], found["value"]) == ({"MIN": GAIN_DB[0], "MAX": GAIN_DB[1]}, 0)
            heard = []
            while -12 not in heard:
                message = json.loads(client.stdout.readline())
                assert message["address"] == GAIN
                heard.append(message["args"][0]["value"])
            assert daemon.separator.gain("vocals") == pytest.approx(-12)
            connect(configured).ask(GAIN, -30.0)  # somebody else
            while heard[-1] != pytest.approx(-30, abs=1e-4):
                heard.append(json.loads(client.stdout.readline())["args"][0]["value"])
        finally:
            client.kill()


# ------------------------------------------------------------------------------------------------------- the whole house


def test_the_daemon_tells_where_it_is_and_ends_cleanly(song_file):
    """`streamsep run --http` with ten WebSockets listening while it separates, until SIGTERM."""
    flags = ("--output", "none", "--osc-port", "0", "--osc-tcp-port", "0", "--http", "0", "--json")
    command = [sys.executable, "-m", "streamsep", "run", "--input", f"file:{song_file}", *flags]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    try:
        while "Ctrl-C ends" not in (line := process.stderr.readline()):
            assert line, process.communicate()[1]
        url = re.search(r"OSCQuery at (http://127\.0\.0\.1:\d+/)", line)[1]
        tcp = int(re.search(r"127\.0\.0\.1:(\d+) \(TCP\)", line)[1])
        with socket.create_connection((HERE, tcp), WAIT) as client:
            client.sendall(Slip.encode(build_msg("/streamsep/version").dgram))
            assert client.recv(4096) == Slip.encode(build_msg("/streamsep/version", __version__).dgram)

        async def main():
            async with contextlib.AsyncExitStack() as stack:
                session = await stack.enter_async_context(aiohttp.ClientSession())
                async with session.get(url) as reply:
                    found = methods(await reply.json())
                readable = [address for address, node in found.items() if node["ACCESS"] & 1]
                assert all("VALUE" in found[address] for address in readable), "a running daemon knows all its figures"
                listeners = [Listener(await stack.enter_async_context(session.ws_connect(url))) for _ in range(10)]
                for listener in listeners:
                    for address in readable:
                        await listener.command("LISTEN", address)
                    await listener.until(GAIN, 0.0)
                await listeners[0].send(GAIN, -6.0)
                for listener in listeners:
                    while (heard := await listener.receive()) != (GAIN, [pytest.approx(-6.0, abs=1e-4)]):
                        assert heard[0] != "/streamsep/error", heard
                process.send_signal(signal.SIGTERM)
                for listener in listeners:  # a good-bye for each
                    while (await listener.socket.receive(WAIT)).type != aiohttp.WSMsgType.CLOSE:
                        pass

        asyncio.run(main())
        text, errors = process.communicate(timeout=2 * WAIT)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()
    assert (process.returncode, errors) == (0, "")
    counts = json.loads(text)["osc"]
    assert (counts["faults"], counts["http_faults"], counts["ws_lost"], counts["tcp_lost"]) == (0, 0, 0, 0)
    assert counts["ws_connections"] == counts["tcp_connections"] == counts["http_connections"] == 0


# ----------------------------------------------------------------------------------------------------------------- costs


@pytest.mark.parametrize(
    "code", ["import streamsep", "import streamsep.cli, streamsep.daemon", "import streamsep.osc.services"]
)
def test_http_and_zeroconf_are_not_imported_unless_used(code):
    code += "; import sys; print({'aiohttp', 'zeroconf', 'asyncio.sslproto'} & set(sys.modules) - {'asyncio.sslproto'})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True, timeout=60)
    assert done.stdout == "set()\n"
