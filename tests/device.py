"""A device in this machine's memory, and graphs as ONNX Runtime keeps them: the code for CUDA, run where there is none.

The functions have the parameters and the meaning of the CUDA runtime's, so that everything that is not CUDA runs as it is:
copies to fixed places and back, rows that are cleared and kept, turns, failures. `capturing` stands in for `OrtApi::Run` with
`enable_cuda_graph`, as its sources have it: the first run with a graph's number runs the network three times and remembers
the addresses; every later one replays those, whatever it is given. What it cannot show is a GPU.
"""

from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit, types

from streamsep import cuda, native
from streamsep.cuda import Runtime
from streamsep.devicerows import DeviceRowsNetwork

CAPTURE_RUNS = 3


@njit
def _bytes(address, size):
    return carray(native.pointer(address), (size,), np.uint8)


@cfunc(types.int32(*[types.int64] * 5))
def _copy(target, source, size, kind, stream):
    _bytes(target, size)[:] = _bytes(source, size)
    return 0


@cfunc(types.int32(*[types.int64] * 8))
def _copy_rows(target, target_pitch, source, source_pitch, width, rows, kind, stream):
    for r in range(rows):
        _bytes(target + r * target_pitch, width)[:] = _bytes(source + r * source_pitch, width)
    return 0


@cfunc(types.int32(*[types.int64] * 6))
def _clear_rows(target, pitch, value, width, rows, stream):
    for r in range(rows):
        _bytes(target + r * pitch, width)[:] = value
    return 0


@cfunc(types.int32(types.int64))
def _wait(stream):
    return 0


@cfunc(types.int32(*[types.int64] * 5))
def _broken_copy(target, source, size, kind, stream):
    return 700


@cfunc(types.int32(types.int64))
def _broken_wait(stream):
    return 700


class HostDevice(cuda.Device):
    """`cuda.Device`, all of it in numpy arrays; what a real one would not show (its own memory) is kept in `memory`."""

    memory_name = b"Cpu"

    def __init__(self) -> None:
        self.memory: list[np.ndarray] = []
        self.runtime = Runtime(1, *(f.address for f in (_copy, _copy_rows, _clear_rows, _wait)))

    def message(self, code: int) -> str:
        return f"CUDA error {code}"

    def on_host(self, shape):
        self.memory.append(np.zeros(shape, np.float32))
        return self.memory[-1]

    def on_device(self, shape):
        return self.on_host(shape).ctypes.data

    def close(self) -> None:
        pass


def refusing(runtime):
    """`runtime` on which nothing that was queued is ever done."""
    return runtime._replace(copy=_broken_copy.address, wait=_broken_wait.address)


def broken(compiled):
    """`compiled` with copies to the device that fail."""
    return compiled._replace(runtime=compiled.runtime._replace(copy=_broken_copy.address))


class Capturing:
    """`OrtApi::Run` with CUDA graphs, in place of what `network` calls from now on.

    Parameters
    ----------
    graph_of
        which graph each turn gets: one of its own, unless told otherwise.
    stale
        whether a graph goes on reading the input that it was captured with.

    Attributes
    ----------
    counts : int64 [shape=(3,)]
        runs of the network; replays; runs that carried no number.
    """

    def __init__(self, network, graph_of: list[int] | None = None, stale: bool = False) -> None:
        session, real, turns = network._session, network.compiled.run, len(network.compiled.options)
        session.graphs = True
        network._numbered = [session.options(1 + turn) for turn in range(turns)]
        crossing = network.compiled.mag_crossing
        shape = network.compiled.mag.shape if isinstance(network, DeviceRowsNetwork) else network.mag[:, 0].shape
        old = np.zeros((shape[0], 1, shape[1]), np.float32)
        self.counts = np.zeros(3, np.int64)
        seen = np.zeros((turns, 6), np.int64)  # of each graph: the OrtValues it was captured with
        numbers, graphs = np.array(network._numbered, np.int64), np.array(graph_of or range(turns), np.int64)
        at_counts, at_seen, at_numbers, at_graphs = (a.ctypes.data for a in (self.counts, seen, numbers, graphs))
        fresh, old_place, old_value = crossing.device, old.ctypes.data, session.tensor(old) if stale else 0

        @cfunc(types.int64(*[types.int64] * 8))
        def run(session, options, names_in, values_in, count_in, names_out, count_out, values_out):
            counts = carray(native.pointer(at_counts), (3,), np.int64)
            numbers = carray(native.pointer(at_numbers), (turns,), np.int64)
            for turn in range(turns):
                if numbers[turn] != options:
                    continue
                place = at_seen + 48 * carray(native.pointer(at_graphs), (turns,), np.int64)[turn]
                graph = carray(native.pointer(place), (6,), np.int64)
                again = 1
                if graph[0] == 0:
                    again = CAPTURE_RUNS
                    graph[:3] = carray(native.pointer(values_in), (3,), np.int64)
                    graph[3:] = carray(native.pointer(values_out), (3,), np.int64)
                    if old_value != 0:
                        graph[0] = old_value
                        _bytes(old_place, old.nbytes)[:] = _bytes(fresh, old.nbytes)
                else:
                    counts[1] += 1
                for _ in range(again):
                    counts[0] += 1
                    status = native.ort_run(real, session, 0, names_in, place, 3, names_out, 3, place + 24)
                    if status != 0:
                        return status
                return 0
            counts[0] += 1
            counts[2] += 1
            return native.ort_run(real, session, options, names_in, values_in, count_in, names_out, count_out, values_out)

        self._keep = old, seen, numbers, graphs, run, getattr(network, "capturing", None)
        network.compiled = network.compiled._replace(run=run.address)
        network.capturing = self
