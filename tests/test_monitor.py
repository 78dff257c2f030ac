"""The monitor page's server side: who gets it, what it is told, and that nothing is done while nobody looks."""

import asyncio
import contextlib
import http.client
import json
import re
import socket
import threading
import time

import aiohttp
import numpy as np
import pytest
from pythonosc.osc_bundle import OscBundle
from pythonosc.osc_bundle_builder import IMMEDIATELY
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import build_msg

from streamsep import meters, rings
from streamsep.bands import LOWEST, WINDOW
from streamsep.config import Config, ConfigError, load
from streamsep.monitor import facts, hops, spectra
from streamsep.monitor.hops import BINS, Hops
from streamsep.monitor.page import FLEETING, Page
from streamsep.monitor.part import MAX_PAGES, STATIC, Monitor
from streamsep.osc import OscServer
from streamsep.osc.query import OscQuery
from streamsep.osc.services import places, services
from streamsep.osc.web import HttpServer, reachable
from tests.osc_client import CHANNELS, HERE, HOP, LEFT, RATE, RIGHT, TONE, WAIT, bundle, playing, until

GAIN = "/streamsep/source/vocals/gain"
TOKEN = "a-token-of-some-length"


@contextlib.contextmanager
def serving(daemon, **settings):
    """(OSC server, HTTP server, the monitor's part) of a daemon with these settings, on the loopback."""
    config = Config(http=0, **settings)
    monitor = Monitor(config)
    http_server = HttpServer(HERE, 0, [monitor, OscQuery()])
    before = threading.enumerate()
    with OscServer(daemon, HERE, 0, read_only=config.osc_read_only, services=[http_server]) as server:
        yield server, http_server, monitor
    assert threading.enumerate() == before
    assert server.counts["faults"] == 0
    assert http_server.counts["http_faults"] == 0


@pytest.fixture
def house(daemon, status):
    status |= {"input_xruns": 0, "output_xruns": 0}
    with serving(daemon) as found:
        yield found


def get(http_server, path, **headers):
    """(status, headers, body)."""
    connection = http.client.HTTPConnection(HERE, http_server.port, timeout=WAIT)
    with contextlib.closing(connection):
        connection.request("GET", path, headers={name.replace("_", "-"): text for name, text in headers.items()})
        response = connection.getresponse()
        return response.status, response.headers, response.read()


class Browser:
    """What a page's scripts do: one WebSocket, on which it sends OSC and JSON and gathers what comes."""

    def __init__(self, socket):
        self._socket = socket
        self.facts, self.messages, self.columns = [], [], []

    async def send(self, address, *arguments):
        await self._socket.send_bytes(build_msg(address, list(arguments)).dgram)

    async def tell(self, **said):
        await self._socket.send_str(json.dumps(said))

    async def hear(self, condition):
        """Until `condition()`."""
        end = time.monotonic() + WAIT
        while not condition():
            left = end - time.monotonic()
            assert left > 0, "waited in vain"
            message = await self._socket.receive(left)
            if message.type == aiohttp.WSMsgType.TEXT:
                self.facts.append(json.loads(message.data))
            elif message.data.startswith(b"#bundle"):
                self.messages += [(m.address, m.params) for m in OscBundle(message.data)]
            elif message.data.startswith(b"/"):
                heard = OscMessage(message.data)
                self.messages.append((heard.address, heard.params))
            else:
                self.columns.append(message.data)

    def fact(self, kind):
        """All facts of a kind."""
        return [said[kind] for said in self.facts if kind in said]


def browse(http_server, visit, count=1, query="", **headers):
    """Run `visit(*browsers)` with so many pages open."""

    async def run():
        url = f"http://{HERE}:{http_server.port}/monitor/socket{query}"
        async with aiohttp.ClientSession() as session, contextlib.AsyncExitStack() as stack:
            sockets = [await stack.enter_async_context(session.ws_connect(url, headers=headers)) for _ in range(count)]
            return await visit(*(Browser(socket) for socket in sockets))

    return asyncio.run(run())


def analysts():
    return [thread for thread in threading.enumerate() if thread.name == "streamsep-monitor"]


# ------------------------------------------------------------------------------------------------------------------ files


def test_every_file_comes_with_a_policy_that_lets_nothing_foreign_in(house):
    _, http_server, _ = house
    for path in STATIC.iterdir():
        status, headers, body = get(http_server, f"/monitor/{path.name}")
        assert (status, body) == (200, path.read_bytes())
        policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["img-src"] == "'self'"
        assert policy["connect-src"] == f"'self' ws://{HERE}:{http_server.port}"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"


def test_a_strange_host_gets_into_no_policy(house):
    _, headers, _ = get(house[1], "/monitor/", Host="127.0.0.1:80; script-src *")
    assert "*" not in headers.get("Content-Security-Policy", "")


def test_the_page_loads_its_own_files_only_and_holds_no_script_of_its_own():
    page = (STATIC / "index.html").read_text()
    files = {path.name for path in STATIC.iterdir()}
    assert set(re.findall(r'(?:src|href)="([^"#]+)"', page)) <= files
    assert re.findall(r"<script[^>]*>([^<]*)</script>", page) == [""]
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:", page)
    for path in STATIC.glob("*.js"):
        text = path.read_text()
        assert set(re.findall(r'from "\./([^"]+)"', text)) <= files
        assert not re.search(r"eval\(|new Function|innerHTML|insertAdjacentHTML|document\.write|https?://", text), path.name
    assert not re.search(r"@import|url\(", (STATIC / "monitor.css").read_text())


def test_a_browser_is_sent_to_the_page_and_a_program_gets_oscquery(house):
    http_server = house[1]
    status, headers, _ = get(http_server, "/", Accept="text/html,application/xhtml+xml,*/*;q=0.8")
    assert (status, headers["Location"]) == (302, "/monitor/")
    assert get(http_server, "/monitor")[0] == 302
    for path, accept in (("/", "*/*"), ("/", "application/json"), ("/?HOST_INFO", "text/html"), ("/streamsep", "text/html")):
        status, headers, body = get(http_server, path, Accept=accept)
        assert (status, headers["Content-Type"].partition(";")[0]) == (200, "application/json"), path
        assert json.loads(body)


@pytest.mark.parametrize(
    "path", ["/monitor/nowhere.js", "/monitor/../part.py", "/monitor/%2e%2e/part.py", "/monitor//etc/passwd"]
)
def test_nothing_else_is_a_file(house, path):
    assert get(house[1], path)[0] == 404


# ------------------------------------------------------------------------------------------------------- who is let in


@pytest.mark.parametrize("query", ["", "?token=", "?token=wrong", f"?token={TOKEN}x", "?token=%C3%A4%FF"])
def test_without_the_token_there_is_no_page_and_no_socket(daemon, query):
    with serving(daemon, http_token=TOKEN) as (_, http_server, monitor):
        assert get(http_server, f"/monitor/{query}")[0] == 403
        assert get(http_server, f"/monitor/index.html{query}")[0] == 403
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            browse(http_server, lambda page: page.hear(lambda: True), query=query)
        assert refused.value.status == 403
        assert monitor.counts["monitor_refused"] == 3


def test_with_the_token_there_are_both(daemon):
    with serving(daemon, http_token=TOKEN) as (_, http_server, monitor):
        assert monitor.pages == {"monitor": f"/monitor/?token={TOKEN}"}
        assert get(http_server, f"/monitor/?token={TOKEN}")[0] == 200
        assert get(http_server, f"/?token={TOKEN}", Accept="text/html")[1]["Location"] == f"/monitor/?token={TOKEN}"

        async def visit(page):
            await page.hear(lambda: page.fact("setup"))

        browse(http_server, visit, query=f"?token={TOKEN}")
        assert get(http_server, "/streamsep/version?VALUE")[0] == 200  # OSCQuery goes by the list of machines, as before


def test_off_the_loopback_there_is_always_a_token_and_a_new_one_each_time():
    abroad = [Monitor(Config(http=0, http_host="0.0.0.0", osc_allow="192.168.1.0/24")).token for _ in range(2)]
    assert all(len(token) >= 16 for token in abroad)
    assert abroad[0] != abroad[1]
    assert Monitor(Config(http=0)).token == Monitor(Config(http=0, http_host="localhost")).token == ""
    with pytest.raises(ConfigError, match=r"http_token='short': expected"):
        load(None, {"http_token": "short"})


def test_the_page_off_the_loopback_still_needs_the_list_of_machines():
    with pytest.raises(ConfigError, match=r"expected who may speak to http_host='0\.0\.0\.0'"):
        load(None, {"http": 0, "http_host": "0.0.0.0", "http_token": TOKEN})


def test_the_url_that_is_told_can_be_opened(daemon):
    config = Config(http=0, http_host="0.0.0.0", osc_allow="192.168.1.0/24")
    with OscServer(daemon, HERE, 0, services=services(config)[:1]) as server:
        url = places(server)["monitor"]
        assert re.fullmatch(r"http://(?!0\.0\.0\.0)[\w.\-]+:\d+/monitor/\?token=[\w\-]{16,}", url)
        path = url[url.index("/monitor") :]
        assert get(server.services[0], path)[0] == 200
    assert reachable("192.168.1.7") == "192.168.1.7"


def test_foreign_pages_and_names_are_kept_out(house):
    http_server = house[1]
    assert get(http_server, "/monitor/", Host="evil.example")[0] == 403
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        browse(http_server, lambda page: page.hear(lambda: True), Origin="http://evil.example")
    assert refused.value.status == 403


def test_so_many_pages_and_no_more(house):
    async def visit(*pages):
        await pages[-1].hear(lambda: pages[-1].fact("setup"))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await asyncio.to_thread(browse, house[1], lambda page: page.hear(lambda: True))
        return refused.value.status

    assert browse(house[1], visit, count=MAX_PAGES) == 503


# ------------------------------------------------------------------------------------------------------------------ feeds


def test_a_page_is_told_what_it_must_know(house, daemon):
    async def visit(page):
        await page.hear(lambda: page.fact("hops") and page.fact("figures"))
        return page

    page = browse(house[1], visit)
    setup = page.fact("setup")[0]
    assert setup["sources"] == ["vocals", "accompaniment"]
    assert setup["deadline_ms"] == pytest.approx(1e3 * HOP / RATE)
    assert setup["models"][0] == "live"
    assert setup["spectra"]["highest"] == RATE / 2
    assert page.fact("figures")[0]["late"] == daemon.figures["late"]
    assert len(page.fact("hops")[0]["histogram"]) == BINS


def test_pages_steer_and_stay_in_step(house, daemon):
    async def visit(first, second):
        for page in (first, second):
            await page.send("/streamsep/notify", 2)
            await page.hear(lambda page=page: (GAIN, [0.0]) in page.messages)
        await first.send(GAIN, -7.0)
        await second.hear(lambda: any(a == GAIN and v[0] < -6 for a, v in second.messages))
        await first.send("/streamsep/meters/subscribe", 60.0)
        await first.hear(lambda: any(address == "/streamsep/meter/output" for address, _ in first.messages))

    browse(house[1], visit, count=2)
    assert daemon.separator.gain("vocals") == pytest.approx(-7)


def test_devices_are_listed_by_what_they_can(tmp_path):
    found = asyncio.run(facts.devices())
    assert set(found) == {"input", "output"}
    assert all(isinstance(name, str) and ", " in name for names in found.values() for name in names)


def test_a_daemon_that_only_answers_says_so_and_obeys_nothing(daemon):
    with serving(daemon, osc_read_only=True) as (_, http_server, _):

        async def visit(page):
            await page.send(GAIN, -7.0)
            await page.hear(lambda: any(address == "/streamsep/error" for address, _ in page.messages))
            return page.fact("setup")[0]["read_only"]

        assert browse(http_server, visit) is True
    assert daemon.separator.gain("vocals") == 0


def test_what_is_no_json_is_counted_and_harmless(house):
    async def visit(page):
        for text in ("nonsense", "[]", '"x"', "[" * 5000):
            await page._socket.send_str(text)
        await page.send("/streamsep/ping", 1)
        await page.hear(lambda: ("/streamsep/pong", [1]) in page.messages)

    browse(house[1], visit)
    assert house[2].counts["monitor_malformed"] == 4


def test_nothing_is_done_while_nobody_looks(house):
    server, http_server, monitor = house
    assert not analysts()

    async def visit(first, second):
        await first.hear(lambda: first.columns)
        await second.hear(lambda: second.columns)
        assert len(analysts()) == 1  # for both
        for page in (first, second):
            await page.tell(looks=False)
        await asyncio.to_thread(until, lambda: not analysts())
        done, facts = monitor.counts["monitor_columns"], len(first.facts)
        await first.send("/streamsep/sync", 1)
        await first.hear(lambda: ("/streamsep/synced", [1]) in first.messages)
        facts = len(first.facts)
        await asyncio.sleep(0.6)
        await first.send("/streamsep/sync", 2)
        await first.hear(lambda: ("/streamsep/synced", [2]) in first.messages)
        assert len(first.facts) == facts  # a hidden page is told what it asks, and nothing else
        assert monitor.counts["monitor_columns"] == done
        await first.tell(looks=True)
        await first.hear(lambda: len(first.columns) > 20)

    with playing(server.rings):
        browse(http_server, visit, count=2)
        until(lambda: not analysts())
    assert monitor.counts["monitor_pages"] == 0


def test_another_engine_brings_another_setup(house, daemon, identity):
    from streamsep.engine import Separator

    server, http_server, _ = house
    other = Separator(identity, RATE // 2, 1, "cpu")

    async def visit(page):
        await page.hear(lambda: page.fact("hops"))
        tap = rings.make_rings(1 << 14, 1, 1, 2)
        await asyncio.to_thread(server.attach, other, tap, meters.make_meters(2))
        await page.hear(lambda: len(page.fact("setup")) == 2)
        return page.fact("setup")[-1]

    assert browse(http_server, visit)["sample_rate"] == RATE // 2


class Stalled:
    """A WebSocket whose other end fetches nothing."""

    closed = False


class Request:
    remote, transport = HERE, None


def test_a_slow_page_loses_the_oldest_pictures(server):
    page = Page(server, Request(), Stalled())
    shown = 2 * FLEETING // 1000
    for n in range(shown):
        page.show(bytes([spectra.COLUMNS]) * 999 + bytes([n % 256]))
    waiting = [page.fleeting.take()[-1] for _ in range(shown - page.fleeting.lost)]
    assert len(waiting) == FLEETING // 1000
    assert waiting == [n % 256 for n in range(shown - len(waiting), shown)]
    assert not page.outbox


def test_a_page_that_fetches_nothing_is_sent_away_and_holds_up_nobody(house):
    server, http_server, monitor = house

    async def visit(slow, quick):
        await slow.hear(lambda: slow.columns)
        begun = len(quick.columns)
        slow._socket.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        questions = bundle(IMMEDIATELY, *[build_msg("/streamsep/status")] * 50).dgram
        with contextlib.suppress(ConnectionError):
            for _ in range(200):  # ten thousand answers of a kilobyte: more than any buffer on the way
                await slow._socket.send_bytes(questions)
        await quick.hear(lambda: monitor.counts["monitor_pages"] == 1)
        await quick.hear(lambda: len(quick.columns) > begun + 30)

    with playing(server.rings):
        browse(http_server, visit, count=2)


# ---------------------------------------------------------------------------------------------------------------- columns


def put(tap, n, frequency=TONE):
    """Hop `n` of a tone: vocals on two channels, and nothing else."""
    t = (n * HOP + np.arange(HOP)) / RATE
    y = np.zeros((2, CHANNELS, HOP), np.float32)
    y[0] = np.array([[LEFT], [RIGHT]]) * np.sin(2 * np.pi * frequency * t)
    rings.put(tap, y)


@pytest.mark.parametrize("frequency", [100.0, 440.0, 3000.0])
def test_a_tone_stands_in_its_row_at_its_level_in_its_source(separator, tap, frequency):
    analysis = spectra.Analysis(separator, tap)
    columns = []
    for n in range(RATE // HOP // 2):
        put(tap, n, frequency)
        columns += analysis.due()
    decibels = columns[-1] * spectra.STEP + spectra.BOTTOM
    level = 10 * np.log10((LEFT**2 + RIGHT**2) / 2)
    assert decibels.shape == (3, spectra.ROWS)
    spacing = (RATE / 2 / LOWEST) ** (1 / spectra.ROWS)
    found = LOWEST * spacing ** (decibels[1].argmax() + 0.5)
    bins = max(1.0, found * (spacing - 1) * WINDOW)  # in a row, which shows their mean
    assert decibels[1].max() == pytest.approx(level - 10 * np.log10(bins), abs=3)  # a tone between two bins shows less
    assert abs(found - frequency) <= max(1 / WINDOW, found * (spacing - 1))  # a bin, or a row
    assert decibels[1, abs(np.arange(spectra.ROWS) - decibels[1].argmax()) > 40].max() < level - 60
    assert (columns[-1][[0, 2]] == 0).all()


def test_columns_are_thirty_a_second_of_sound_whenever_one_looks(separator, tap):
    analysis = spectra.Analysis(separator, tap)
    count = 0
    for n in range(3 * RATE // HOP):
        put(tap, n)
        if n % 7 == 0:
            count += len(analysis.due())
    assert count + len(analysis.due()) == 3 * spectra.RATE
    assert analysis.due() == []  # and none while no sound comes


def test_who_was_held_up_goes_on_with_the_newest(separator, tap):
    analysis = spectra.Analysis(separator, tap)
    for n in range(10 * RATE // HOP):
        put(tap, n)
    assert analysis.due() == []
    for n in range(RATE // HOP // 5):
        put(tap, n)
    assert len(analysis.due()) == spectra.RATE // 5


def test_a_moment_is_in_one_column_of_input_and_source(separator, tap):
    """A click, as it went in and as it comes out: sources are late by the engine's delay, the picture is not."""
    analysis = spectra.Analysis(separator, tap)
    delay = separator.latency - separator.geometry.hop_length
    click = RATE // 2
    tap.inward[click] = 1
    tap.header[rings.IN_WRITE] = RATE
    columns = []
    for n in range(RATE // HOP):
        y = np.zeros((2, CHANNELS, HOP), np.float32)
        if 0 <= click + delay - n * HOP < HOP:
            y[0, :, click + delay - n * HOP] = 1
        rings.put(tap, y)
        columns += analysis.due()
    seen = np.array([column.max(axis=1) for column in columns]) > 0  # (columns, signals)
    assert seen[:, 0].any()
    assert (seen[:, 0] == seen[:, 1]).all()


def test_a_message_holds_its_columns():
    columns = [np.full((3, spectra.ROWS), n, np.uint8) for n in (1, 2)]
    data = spectra.message(2**32 + 5, columns)
    assert list(data[:4]) == [spectra.COLUMNS, 3, spectra.ROWS, 2]
    assert int.from_bytes(data[4:8], "little") == 5
    assert data[8:] == b"\1" * 3 * spectra.ROWS + b"\2" * 3 * spectra.ROWS


# ------------------------------------------------------------------------------------------------------------------- hops

DEADLINE = 8.0  # ms


def write(history, begun, step, late):
    """One hop, begun at `begun` s, of `step` ms, with so many late so far."""
    n = int(history.hops[0])
    history.times[n % meters.HOPS] = [int(begun * 1e9), int(step * 1e6), 0, late]
    history.hops[0] = n + 1


def test_late_hops_are_counted_once_in_their_second():
    history = meters.make_meters(2)
    for n in range(100):
        write(history, 10 + n * 0.02, 1.0, late=7)  # late before anyone looked
    seen = Hops(history, DEADLINE)
    assert [second.told[:4] for second in seen.look(12.0, {})] == [[10, 50, 0, 1.0], [11, 50, 0, 1.0]]
    write(history, 11.99, 9.0, late=8)
    write(history, 12.0, 1.0, late=10)
    assert [second.told[:4] for second in seen.look(12.1, {})] == [[11, 51, 1, 9.0], [12, 1, 2, DEADLINE]]
    assert seen.look(12.2, {}) == []
    assert sum(second.late for second in seen.seconds) == 3


def test_xruns_are_noted_from_the_first_look_on():
    seen = Hops(meters.make_meters(2), DEADLINE)
    figures = {"input_xruns": 5, "output_xruns": 1, "missed_blocks": 2}
    assert seen.look(20.0, figures) == []
    told = [second.told for second in seen.look(21.5, figures | {"output_xruns": 3, "missed_blocks": 3})]
    assert told == [[21, 0, 0, 0, 2, 1]]


def test_the_histogram_is_the_last_minutes_and_the_deadline_a_border():
    history = meters.make_meters(2)
    write(history, 1.0, 1.0, 0)
    for step in (0.001, 0.5, 7.999, 8.001, 500.0):
        write(history, 100.0, step, 0)
    write(history, 100.1, 0.2, 1)  # a bridge: quick, but late
    seen = Hops(history, DEADLINE)
    seen.look(100.5, {})
    counts = seen.histogram(100.5)
    border = hops.PER_OCTAVE * hops.OCTAVES_BELOW
    assert (sum(counts), sum(counts[border:])) == (6, 3)
    assert counts[0] == counts[border - 1] == counts[-1] == 1
    assert counts[border] == 2
