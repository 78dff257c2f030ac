"""Hosts of the plugin for the tests: one in Python, for an engine turned by hand, and the C one (lv2_host.c) in real time."""

from __future__ import annotations

import ctypes as C
import json
import subprocess
import time
from pathlib import Path

import numpy as np
from numba import njit

from streamsep import model as models
from streamsep import native, rings
from streamsep.batch import Batch
from streamsep.plugin import CHANNELS, MEMORY, install, segments, serving
from tests.conftest import ROOT

IN, OUT = range(2), range(2, 6)
VOCALS_GAIN, VOCALS_MUTE, ACCOMPANIMENT_GAIN, ACCOMPANIMENT_MUTE = range(6, 10)
ENABLED, FREE_WHEELING, LATENCY, CONNECTED, LATE = range(10, 15)
PORTS = 15


class Descriptor(C.Structure):
    _fields_ = [
        ("uri", C.c_char_p),
        ("instantiate", C.CFUNCTYPE(C.c_void_p, C.c_void_p, C.c_double, C.c_char_p, C.c_void_p)),
        ("connect_port", C.CFUNCTYPE(None, C.c_void_p, C.c_uint32, C.c_void_p)),
        ("activate", C.CFUNCTYPE(None, C.c_void_p)),
        ("run", C.CFUNCTYPE(None, C.c_void_p, C.c_uint32)),
        ("deactivate", C.c_void_p),
        ("cleanup", C.CFUNCTYPE(None, C.c_void_p)),
        ("extension_data", C.c_void_p),
    ]


class Host:
    """One instance, run by hand; no features, so that its first block tells the length of blocks."""

    def __init__(self, shared_object: Path, rate: int = 48_000) -> None:
        self.library = C.CDLL(str(shared_object))
        self.library.lv2_descriptor.restype = C.POINTER(Descriptor)
        self.plugin = self.library.lv2_descriptor(0).contents
        before = segments.names()
        self.handle = self.plugin.instantiate(C.addressof(self.plugin), rate, b"", None)
        (self.segment,) = segments.names() - before
        self.control = np.zeros(PORTS, np.float32)
        self.control[ENABLED] = 1
        self.plugin.activate(self.handle)

    def run(self, x: np.ndarray) -> np.ndarray:
        """One block `[shape=(channels, frames)]` to `[shape=(sources, channels, frames)]`."""
        block = np.ascontiguousarray(x, np.float32)
        out = np.full((len(OUT), x.shape[1]), np.nan, np.float32)
        audio = [*block, *out]
        for port in range(PORTS):
            place = audio[port].ctypes.data if port < len(audio) else self.control[port:].ctypes.data
            self.plugin.connect_port(self.handle, port, place)
        self.plugin.run(self.handle, x.shape[1])
        return out.reshape(2, CHANNELS, -1)

    @property
    def latency(self) -> int:
        return int(self.control[LATENCY])

    def close(self) -> None:
        if self.handle:
            self.plugin.cleanup(self.handle)
        self.handle = None


class Crank:
    """The engine's loop, turned by hand: nothing happens between two turns, whatever the machine does."""

    def __init__(self, model: models.Model, rate: int = 48_000, slots: int = 2) -> None:
        self.model = model
        self.batch = Batch(model, [(rate, CHANNELS)] * slots)
        self.addresses, self.last = np.zeros(slots, np.int64), np.zeros(slots, np.int64)
        self.members: list[segments.Segment] = []

    def join(self, host: Host, engine: int = 1) -> None:
        segment = segments.Segment.open(host.segment, self.model.contract)
        header = segment.rings.header
        header[[rings.BEGUN, rings.ENGINE]] = 0, engine
        self.addresses[self.batch.join()] = segment.address
        self.members.append(segment)

    def turn(self) -> None:
        """Serve all that is there."""
        serve_all(self.batch.compiled, self.addresses, self.last, time.monotonic_ns())


@njit(nogil=True, cache=True)
def serve_all(b, addresses, last, now):
    mode = native.flush_denormals()
    while True:
        count, _, _ = serving.look(b, addresses, last, now)
        if count == 0:
            break
        serving.work(b, addresses, count)
    native.restore_denormals(mode)


def compile_host(folder: Path) -> Path:
    """The C host."""
    program = folder / "lv2_host"
    source = ROOT / "tests" / "lv2_host.c"
    flags = ["-std=gnu11", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter"]
    command = [*install.compiler(), *flags, "-I", str(install.SOURCE), "-o", str(program), str(source), "-ldl", "-lpthread"]
    subprocess.run(command, check=True)
    return program


def save(path: Path, x: np.ndarray) -> Path:
    """`x` `[shape=(channels, samples)]` as the C host reads it."""
    np.ascontiguousarray(x.T, np.float32).tofile(path)
    return path


def read(path: Path) -> np.ndarray:
    """What the C host wrote, `[shape=(sources, channels, samples)]`."""
    return np.fromfile(path, np.float32).reshape(-1, 2, CHANNELS).transpose(1, 2, 0)


def play(program: Path, bundle: Path, folder: Path, x: np.ndarray, *options: object, before=()):
    """(output, report) of the C host with `x` `[shape=(channels, samples)]`."""
    command = [*before, program, bundle / install.OBJECT, "play", save(folder / "in.f32", x), folder / "out.f32", *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
    return read(folder / "out.f32"), json.loads(done.stdout)


def left_overs() -> set[str]:
    """What of this user's lies in shared memory, the engine's lock aside."""
    return {p.name for p in MEMORY.iterdir()} & segments.names()
