"""Recordings kept decoded: quick the second time, never stale."""

import os

import numpy as np
import pytest
import soundfile

from tests.training import RATE, music, voice
from train import datasets
from train.cache import Cache


def signals(loaded):
    training, held = loaded
    recordings = [r for d in training for r in d.recordings] + held
    return [np.array(x) for r in recordings for x in (r.voice, r.accompaniment)]


def test_a_second_start_decodes_nothing_and_hears_the_same(stems, tmp_path, monkeypatch):
    plain = signals(datasets.load((), [stems], RATE))
    first = signals(datasets.load((), [stems], RATE, Cache(tmp_path)))

    def refuse(*_):
        raise AssertionError("decoded again")

    monkeypatch.setattr(datasets, "_read", refuse)
    cache = Cache(tmp_path)
    second = signals(datasets.load((), [stems], RATE, cache))
    assert (cache.hits, cache.misses) == (4, 0)
    for a, b, c in zip(plain, first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)
    with pytest.raises(AssertionError, match="decoded again"):
        datasets.load((), [stems], RATE // 2, Cache(tmp_path))  # another rate is another recording


def test_a_file_that_changed_is_read_again(tmp_path):
    path = tmp_path / "speech" / "a.wav"
    path.parent.mkdir()
    soundfile.write(path, voice(1.0), RATE)
    files = datasets.Files("a", voice=(path,))
    cache = Cache(tmp_path / "cache")
    before = np.array(datasets.read(files, RATE, cache=cache).voice)
    state = path.stat()
    soundfile.write(path, music(1.0), RATE)  # as long as before
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1))
    after = datasets.read(files, RATE, cache=cache).voice
    assert abs(np.corrcoef(before, after)[0, 1]) < 0.5
    assert cache.misses == 2


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY\x01\x00 cut"])
def test_damaged_entries_are_made_again(stems, tmp_path, damage):
    first = signals(datasets.load((), [stems], RATE, Cache(tmp_path)))
    for path in tmp_path.glob("*.npy"):
        path.write_bytes(damage)
    cache = Cache(tmp_path)
    for a, b in zip(first, signals(datasets.load((), [stems], RATE, cache)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (cache.hits, cache.misses) == (0, 4)


def test_a_voice_alone_stays_a_voice_alone(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(1.0), RATE)
    for _ in range(2):
        recording = datasets.read(datasets.Files("a", voice=(tmp_path / "a.wav",)), RATE, cache=Cache(tmp_path / "cache"))
        assert recording.accompaniment is None
        assert len(recording.voice) == RATE
