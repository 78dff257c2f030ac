"""Fixtures shared by the rooms' tests."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

from streamsep import jit_cache  # noqa: E402

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # started by a shell in the background: all children would ignore Ctrl-C
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.pop(jit_cache.VARIABLE, None)
jit_cache.use(ROOT / ".pytest_cache" / "numba")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # two threads on a busy pair of cores wait for each other

import numpy as np  # noqa: E402
import soundfile  # noqa: E402

from streamsep import model as models  # noqa: E402
from tests import graphs  # noqa: E402

pytest.register_assert_rewrite("tests.osc_client")
from tests.osc_client import client, connect, daemon, parts, separator, server, status, tap  # noqa: E402, F401
from tests.separable import clips, separable, separable_song, splitter  # noqa: E402, F401
from tests.training import short_songs  # noqa: E402, F401

DATA = ROOT.parent / "shared" / "data"

# Side by side with anything else, but never with each other: they play in real time, or own what a machine has one of.
ROOMS = (
    "cli_view|daemon|device|examples|jack|live|loopback|monitor|osc|pipewire|plugin|readme|recorder|rehearse|roundtrip|streams"
)
REAL_TIME = re.compile(ROOMS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """For `pytest -n 2`: a file's tests stay together, which share what its fixtures made, and so do all of real time.

    A scheduler of our own: `--dist loadgroup` writes groups into test names, of which pytest 9.2 takes no notice.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Rooms(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            room = Path(nodeid.split("::")[0]).stem.removeprefix("test_")
            return "real time" if REAL_TIME.match(room) else room

    return Rooms(config, log)


def need(condition: object, what: str) -> None:
    """Skip where `what` is missing; in CI nothing may be missing that can be installed there."""
    if condition:
        return
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing, and in CI nothing may be skipped for that")
    pytest.skip(f"{what} is missing")


def need_data() -> None:
    """Skip where there is no folder of real recordings: no clone has one, CI's neither. Where it lies, the test must run."""
    if not DATA.exists():
        pytest.skip(f"{DATA} is missing: real recordings are not part of the repository")


def need_program(name: str) -> str:
    path = shutil.which(name)
    need(path, f"the program {name}")
    return str(path)


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="session")
def lstm(folder) -> models.Model:
    """A small network with random weights and real state."""
    return models.load(graphs.lstm(folder / "lstm.onnx"))


@pytest.fixture(scope="session")
def coarse(folder) -> models.Model:
    """8 bits whose scale is taken from the whole call: what is in it touches each other."""
    return models.load(graphs.coarse(folder / "coarse.onnx", graphs.lstm(folder / "fine.onnx", gain=0.5, floor=1.0)))


@pytest.fixture(scope="session")
def identity(folder) -> models.Model:
    """Everything is vocals."""
    return models.load(graphs.constant(folder / "identity.onnx", (1, 0)))


@pytest.fixture(scope="session")
def live() -> models.Model:
    """The model that ships."""
    return models.load("live")


@pytest.fixture(scope="session")
def song() -> tuple[np.ndarray, int]:
    """The bundled song's mixture, float32 [shape=(channels, samples)], and its rate."""
    from streamsep.demo import STEMS

    stems = [soundfile.read(path, dtype="float32", always_2d=True) for path in STEMS.values()]
    return np.ascontiguousarray(sum(x for x, _ in stems).T), stems[0][1]


@pytest.fixture(scope="session")
def song_file(song, folder) -> Path:
    path = folder / "mixture.wav"
    soundfile.write(path, song[0].T, song[1], subtype="FLOAT")
    return path


@pytest.fixture
def jack(tmp_path, monkeypatch):
    """A JACK server of its own (`servers.JackServer`); what `running` started is ended after."""
    from tests import running, servers

    monkeypatch.setenv("JACK_DEFAULT_SERVER", os.environ.get("STREAMSEP_TEST_JACK", "streamsep-test"))
    monkeypatch.setenv("JACK_NO_AUDIO_RESERVATION", "1")
    jackd = servers.JackServer(tmp_path / "jackd.log")
    try:
        yield jackd.start()
    finally:
        running.end_all()
        jackd.end()


@pytest.fixture(scope="module")
def one_thread():
    """Small tensors gain nothing from a second thread and lose much where the machine is busy."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
