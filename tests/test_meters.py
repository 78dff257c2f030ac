"""Meters: what each hop was, read beside its writer; nothing between two looks is missed, and time can be told from it."""

import threading

import numpy as np
import pytest

from streamsep import meters
from streamsep.engine import Separator
from streamsep.meters import HOPS, LATE, POSITION, START, STEP, Reader, clock_of, make_meters, record

RATE, HOP = 48000, 384


@pytest.fixture
def separator(identity):
    return Separator(identity, RATE, 2, "cpu")


def play(separator, history, x, start=0, step=1000, late=0):
    """Hops of `x` [shape=(channels, samples)], written down as begun one after the other by the sample clock."""
    for n in range(x.shape[1] // HOP):
        separator.state.x[:] = x[:, n * HOP : (n + 1) * HOP]
        separator.hop()
        begin = start + n * HOP * 10**9 // RATE
        record(history, separator.state, begin, begin + step, late)


def test_levels_are_those_of_the_hop(separator):
    history = make_meters(2)
    reader = Reader(history)
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.9, 0.9, (2, 10 * HOP)).astype(np.float32)
    separator.set_gain("accompaniment", 6)  # the identity's accompaniment is silent
    separator.output_gain = -20
    out = []
    for n in range(10):
        play(separator, history, x[:, n * HOP : (n + 1) * HOP])
        out.append(separator.state.y.copy())
    span = reader.read()
    assert (span.first, len(span.peak)) == (0, 10)
    for n, y in enumerate(out):
        hop = x[:, n * HOP : (n + 1) * HOP]
        levels = [y[0], y[1], hop, y.sum(0)]
        np.testing.assert_allclose(span.peak[n], [np.abs(v).max() for v in levels], rtol=1e-6)
        np.testing.assert_allclose(span.square[n], [np.mean(v.astype(float) ** 2) for v in levels], rtol=1e-4, atol=1e-12)
    assert not history.clipped.any()


def test_clips_are_counted_where_they_are(separator):
    history = make_meters(2)
    x = np.zeros((2, 4 * HOP), np.float32)
    x[0, 100:103] = 1.0
    x[1, 101] = -1.5
    play(separator, history, x)
    assert history.clipped[2] == 4  # in, and late by the latency out again
    assert history.clipped[0] == pytest.approx(4, abs=1)  # the transform's rounding may keep 1.0 just below
    assert history.clipped[1] == 0


def test_a_reader_gets_each_hop_once_and_the_newest_when_it_was_away(separator):
    history = make_meters(2)
    reader, late_comer = Reader(history), Reader(history)
    play(separator, history, np.zeros((2, 3 * HOP), np.float32), start=5, step=77, late=2)
    span = reader.read()
    assert (span.first, len(span.times)) == (0, 3)
    assert set(span.times[:, STEP]) == {77}
    assert set(span.times[:, LATE]) == {2}
    assert list(np.diff(span.times[:, POSITION])) == [HOP, HOP]
    assert len(reader.read().times) == 0
    for _ in range(HOPS):
        record(history, separator.state, 9, 9, 0)
    span = late_comer.read()
    assert (span.first, len(span.times)) == (HOPS + 3 - HOPS // 2, HOPS // 2)
    assert set(span.times[:, START]) == {9}
    assert Reader(history).read().first == HOPS + 3


def test_a_reader_beside_the_writer_sees_whole_lines(separator):
    """Every line's peak, time and late count belong together, while they are written as fast as can be."""
    history = make_meters(2)
    reader, seen, stop = Reader(history), [], threading.Event()

    def write():
        n = 0
        while not stop.is_set():
            n += 1
            separator.state.x[:] = n
            record(history, separator.state, n, 2 * n, n)

    writer = threading.Thread(target=write)
    writer.start()
    while len(seen) < 3000:
        span = reader.read()
        seen += list(zip(span.peak[:, 2], *span.times[:, [START, STEP, LATE]].T, strict=True))
    stop.set()
    writer.join(10)
    assert all(len(set(map(int, line))) == 1 for line in seen)
    numbers = [int(line[0]) for line in seen]
    assert numbers == sorted(set(numbers))


def test_the_engines_clock_is_told_by_the_least_delayed_hop(separator):
    history = make_meters(2)
    assert clock_of(history, RATE, 0) is None
    play(separator, history, np.zeros((2, 50 * HOP), np.float32), start=10**12)
    period = HOP * 10**9 // RATE
    assert clock_of(history, RATE, 10**12 + 50 * period) == pytest.approx(50 * HOP, abs=1)
    # A burst: hops that were taken late do not set the clock back.
    for n in (50, 51, 52):
        separator.hop()
        record(history, separator.state, 10**12 + 53 * period, 10**12 + 53 * period, 0)
        assert clock_of(history, RATE, 10**12 + 53 * period) == pytest.approx(53 * HOP, abs=1), n
    assert clock_of(history, RATE, 10**12 + 53 * period + 2 * 10**9) is None  # no sound: no clock


def test_clear(separator):
    history = make_meters(2)
    play(separator, history, np.ones((2, HOP), np.float32))
    meters.clear(history)
    assert not any(array.any() for array in history)
