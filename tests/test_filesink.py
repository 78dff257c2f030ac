"""A file that is written while sound runs: all of it, or silence and a count, or a reason."""

import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from streamsep.devices import filesink
from streamsep.devices.filesink import FileSink, keep
from streamsep.soundfiles import AudioFileError
from tests.osc_client import until


def blocks(frames, size=100):
    x = np.random.default_rng(0).normal(0, 0.1, (frames, 2)).astype(np.float32)
    return x, [np.ascontiguousarray(x[n : n + size]) for n in range(0, frames, size)]


def test_what_is_kept_is_in_the_file_when_it_is_closed(tmp_path, monkeypatch):
    monkeypatch.setattr(filesink, "EVERY", 0.01)
    before = threading.enumerate()
    sink = FileSink(tmp_path / "x.wav", 8000, 2)
    x, parts = blocks(3 * len(sink.ring))  # round and round
    sink.start()
    for n, part in enumerate(parts):
        keep(sink.ring, sink.written, part)
        if n % 100 == 99:
            done = int(sink.written[0])
            until(lambda done=done: sink.done == done)
    assert not (tmp_path / "x.wav").exists()
    sink.stop()
    got, rate = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert (rate, sink.lost) == (8000, 0)
    np.testing.assert_array_equal(got, x)
    assert threading.enumerate() == before


def test_what_the_disk_was_too_slow_for_is_silence_and_counted(tmp_path):
    sink = FileSink(tmp_path / "x.wav", 8000, 2)
    half = len(sink.ring) // 2
    x, parts = blocks(half + 1000)
    for part in parts:
        keep(sink.ring, sink.written, part)
    sink.start()
    sink.stop()
    got, _ = soundfile.read(tmp_path / "x.wav", dtype="float32")
    assert sink.lost == 1000
    assert not got[:1000].any()
    np.testing.assert_array_equal(got[1000:], x[1000:])


def test_a_file_that_cannot_be_says_why(tmp_path):
    with pytest.raises(AudioFileError, match="its folder does not exist; make it or choose another"):
        FileSink(tmp_path / "nowhere" / "x.wav", 8000, 2)
    sink = FileSink(Path("/proc/x.wav"), 8000, 2)
    sink.start()
    keep(sink.ring, sink.written, np.zeros((10, 2), np.float32))  # sound goes on
    with pytest.raises(AudioFileError, match="cannot be written"):
        sink.stop()
