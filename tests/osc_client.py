"""An OSC client for tests, a daemon without devices, and a server between them."""

import contextlib
import socket
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from pythonosc.osc_bundle_builder import OscBundleBuilder
from pythonosc.osc_message import OscMessage
from pythonosc.osc_message_builder import OscMessageBuilder

from streamsep import __version__, meters, rings
from streamsep.engine import Separator
from streamsep.osc import OscServer

RATE, CHANNELS, HOP = 16000, 2, 128
WAIT = 10.0  # s until a test gives up; none waits this long
HERE = "127.0.0.1"

LEFT, RIGHT, TONE = 0.5, 0.25, 440.0  # of `playing`: full scale, full scale, Hz


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


def until(condition, wait=WAIT):
    end = time.monotonic() + wait
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def patiently(condition):
    """`until`, for what another process does when it has started, on a busy machine."""
    until(condition, 6 * WAIT)


def bundle(when, *contents):
    builder = OscBundleBuilder(when)
    for content in contents:
        builder.add_content(content)
    return builder.build()


@contextlib.contextmanager
def playing(tap):
    """A tone as vocals, at the pace of real time."""
    stop = threading.Event()

    def play():
        begun, n = time.monotonic(), 0
        while not stop.wait(max(0, begun + n * HOP / RATE - time.monotonic())):
            t = (n * HOP + np.arange(HOP)) / RATE
            y = np.zeros((2, CHANNELS, HOP), np.float32)
            y[0] = np.array([[LEFT], [RIGHT]]) * np.sin(2 * np.pi * TONE * t)
            rings.put(tap, y)
            n += 1

    thread = threading.Thread(target=play)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def separator(lstm):
    return Separator(lstm, RATE, CHANNELS, "cpu")


@pytest.fixture
def tap():
    return rings.make_rings(1 << 16, CHANNELS, CHANNELS, 2 * CHANNELS)


@pytest.fixture
def status():
    parts = {f"latency_ms.{part}": 16.0 for part in ("algorithmic", "buffering", "device", "total")}
    steps = {f"step_ms.{q}": 0.5 for q in ("p50", "p99", "max")}
    return (
        {"hops": 3, "latency_ms": 16.5, "model": "test", "late": 1, "bridged": 0, "missed_blocks": 0, "provider": "cpu"}
        | parts
        | steps
    )


@dataclass
class Daemon:
    """The daemon as OSC sees it (`osc.Host`), without devices."""

    separator: Separator
    rings: rings.Rings
    figures: dict
    model: str = "live"
    devices: tuple[str, str] = ("in", "out")
    recording: str = ""
    state: str = "running"
    lines: tuple = ()

    def __post_init__(self):
        self.meters = meters.make_meters(len(self.separator.sources))
        self.chosen, self.ended = [], False

    def status(self):
        return self.figures

    def choose(self, **what):
        if "nowhere" in what.values():
            raise ValueError("device 'nowhere' is unknown: expected one of in, out")
        self.chosen.append(what)

    def record(self, on):
        self.recording = "take.wav" if on else ""
        return on

    def quit(self):
        self.ended = True


@pytest.fixture
def daemon(separator, tap, status):
    return Daemon(separator, tap, status)


@pytest.fixture
def parts():
    """What the server has besides UDP; tests of TCP and HTTP say."""
    return []


@pytest.fixture
def server(daemon, parts):
    before = threading.enumerate()
    server = OscServer(daemon, HERE, 0, services=parts)
    with server:
        yield server
    assert threading.enumerate() == before
    assert server.counts["faults"] == 0


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
