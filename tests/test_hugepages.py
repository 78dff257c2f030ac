"""Memory on large pages: what is new is found, and the system says itself how much of it was moved."""

import mmap
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from streamsep import hugepages, model
from streamsep.hugepages import PAGE, collapse, grown, huge_pages, places


def test_what_is_new_is_found():
    before = {0: 10, 100: 110, 200: 210, 300: 310}
    after = {0: 10, 100: 150, 190: 210, 400: 410}  # the same; longer; longer to the front; gone; new
    assert grown(before, after) == [(110, 150), (190, 210), (400, 410)]


def test_the_system_agrees_about_what_was_moved():
    size = 16 * PAGE
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    array = np.frombuffer(memory, np.uint8)
    array[::4096] = 7
    first = array.ctypes.data
    held, before = array.tobytes(), on_huge_pages(first)
    moved = collapse([(first + 1, first + size)])
    after = on_huge_pages(first)
    assert moved in (0, 15 * PAGE)  # 0: the system does not know how
    assert moved <= after <= before + moved
    assert array.tobytes() == held


def on_huge_pages(address):
    """Bytes of the piece of memory at `address` that lie on huge pages."""
    piece, wanted = r"^([0-9a-f]+)-([0-9a-f]+) ", False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(piece, line):
            wanted = int(found[1], 16) <= address < int(found[2], 16)
        elif wanted and line.startswith("AnonHugePages:"):
            return 1024 * int(line.split()[1])
    raise AssertionError(f"no memory at {address:#x}")


def test_a_networks_weights_are_among_it():
    """In a process of its own, whose allocator is told to take each matrix afresh: it may have memory free from what came
    before (room for two matrices has been seen), and what goes there is not new and stays on small pages."""
    script = (
        "import ctypes; assert ctypes.CDLL(None).mallopt(-3, 1 << 16)\n"  # M_MMAP_THRESHOLD
        "from streamsep import hugepages, model, ort; pieces = []; hugepages.collapse = pieces.extend\n"
        "network = ort.NativeNetwork(model.load('live')); print(sum(end - begin for begin, end in pieces))"
    )
    found = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True).stdout
    tensors = [numpy_helper.to_array(t) for t in onnx.load(model.load("live").path).graph.initializer]
    # Nearly all weights: smaller ones lie in the heap. The end of a matrix may share its small page with something else.
    matrices = [t.nbytes for t in tensors if t.dtype == np.int8 and t.nbytes >= PAGE // 8]
    assert int(found) >= sum(matrices) - len(matrices) * mmap.PAGESIZE


def test_where_nobody_tells_nothing_is_done(monkeypatch, tmp_path):
    monkeypatch.setattr(hugepages, "_MAPS", tmp_path / "none")
    assert places() == {}
    with huge_pages():
        pass
