"""Rings: what goes in comes out once and in order; nobody waits; delay never changes."""

import threading

import numpy as np
import pytest

from streamsep import native
from streamsep import rings as R
from streamsep.live import awaited, prefill


def frames(first, count, channels):
    """Samples that say where they belong."""
    return (np.arange(first, first + count)[:, None] + np.arange(channels) / 8).astype(np.float32)


def swap(rings, x, outputs):
    y = np.full((len(x), outputs), np.nan, np.float32)
    R.exchange(rings.header, rings.inward, rings.outward, x, y)
    return y


def arm(rings, prefill):
    """As the live path does, with the fade-in behind it."""
    R.arm(rings, prefill)
    rings.header[R.LEVEL] = R.FULL


def test_layout_is_what_it_says():
    rings = R.make_rings(1000, 2, 4, 6)
    assert rings.memory.ctypes.data % 64 == 0
    assert list(rings.header[:5]) == [R.LAYOUT, 1024, 2, 4, 6]
    assert [v.shape for v in (rings.inward, rings.outward, rings.tap)] == [(1024, 2), (1024, 4), (1024, 6)]
    assert rings.inward.ctypes.data == rings.memory.ctypes.data + 8 * R.HEADER
    assert rings.outward.ctypes.data == rings.inward.ctypes.data + 4 * 1024 * 2
    assert rings.tap.ctypes.data == rings.outward.ctypes.data + 4 * 1024 * 4
    assert rings.memory.nbytes == 8 * R.HEADER + 4 * 1024 * 12
    places = [R.IN_WRITE, R.IN_READ, R.OUT_WRITE, R.OUT_READ, R.TAP_WRITE, R.ARMED, R.CALLS, R.RUNNING, R.SINCE, R.TOKEN]
    assert np.diff(places).min() >= 8  # a cache line apart


def test_nothing_moves_until_armed():
    rings = R.make_rings(64, 1, 1, 2)
    assert not swap(rings, frames(0, 16, 1), 1).any()
    assert rings.header[R.IN_WRITE] == rings.header[R.OUT_READ] == 0
    assert rings.header[R.MAX_BLOCK] == 16


@pytest.mark.parametrize("block", [16, 48, 64, 100, 128, 384, 1000, 4096])
@pytest.mark.parametrize("hop", [64, 128, 353, 384])
def test_prefill_is_enough_and_not_more_than_promised(block, hop):
    """A worker that needs a whole hop's time (or a block's, if that is longer) is never late and the delay is `prefill`."""
    rings = R.make_rings(8 * (block + hop), 1, 1, 2)
    fill = prefill(block, hop)
    assert fill - hop <= hop or awaited(block, hop)
    arm(rings, fill)
    x = np.zeros((1, hop), np.float32)
    played, due = [], []
    for k in range(400):
        played.append(swap(rings, frames(1 + k * block, block, 1), 1))
        now = (k + 1) * block  # time in samples, just after this callback
        while R.take(rings, x):
            due.append((rings.header[R.IN_READ], x.copy()))
        # Hops complete at `done` may be put back as late as `done + hop`, and must be before the next callback at now + block.
        while due and due[0][0] + max(0, hop - block) <= now:
            R.put(rings, np.stack([due.pop(0)[1]] * 2) / 2)
    out = np.concatenate(played)[:, 0]
    np.testing.assert_array_equal(out[:fill], 0)
    np.testing.assert_array_equal(out[fill:], np.arange(1, len(out) - fill + 1, dtype=np.float32))
    assert rings.header[R.LATE] == rings.header[R.MISSED] == 0


def test_a_late_hop_is_counted_and_leaves_no_delay_behind():
    rings = R.make_rings(1024, 1, 1, 2)
    arm(rings, 64)
    x = np.zeros((1, 64), np.float32)
    played = []
    for k in range(20):
        played.append(swap(rings, frames(1 + 64 * k, 64, 1), 1))
        if k not in (8, 9):  # the worker sleeps for two hops
            while R.take(rings, x):
                R.put(rings, np.stack([x, 0 * x]))
    out = np.concatenate(played)[:, 0]
    assert rings.header[R.LATE] == 2
    assert rings.header[R.MISSED] == 2
    expected = np.concatenate([np.zeros(64), np.arange(1, 64 * 19 + 1)])
    gap, back, risen = 64 * 9, 64 * 11, 64 * 11 + round(R.OPEN_SECONDS * 48_000)
    expected[gap : gap + R.GAP_FRAMES] = expected[gap - 1] * np.linspace(1, 0, R.GAP_FRAMES + 1)[1:]
    expected[gap + R.GAP_FRAMES : back] = 0  # what was missed is gone
    expected[back:risen] *= np.linspace(0, 1, risen - back + 1)[1:]
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=0.5)
    np.testing.assert_array_equal(out[risen:], expected[risen:])


def test_a_call_waits_for_the_worker_as_long_as_it_may():
    clock = native.clock()
    rings = R.make_rings(4096, 1, 1, 2)
    rings.header[[R.SAMPLE_RATE, R.GETTIME, R.NANOSLEEP, R.PATIENCE]] = 48_000, clock.gettime, clock.nanosleep, 200_000_000
    arm(rings, 64)
    x = np.zeros((1, 64), np.float32)

    def work():
        for _ in range(16):
            while not R.take(rings, x):
                pass
            R.put(rings, np.stack([x, 0 * x]))

    thread = threading.Thread(target=work)
    thread.start()
    out = np.concatenate([swap(rings, frames(1 + 1024 * k, 1024, 1), 1) for k in range(2)])[:, 0]
    thread.join()
    # The hops of the first block came in time for its own call; those of the second never came.
    np.testing.assert_array_equal(out[64:1088], np.arange(1, 1025))
    assert rings.header[R.MISSED] == 1


def test_it_fades_in_and_out():
    rings = R.make_rings(8192, 1, 2, 2)
    R.arm(rings, 4000)
    rings.outward[:] = 1
    rise, fall = round(R.OPEN_SECONDS * 48_000), round(R.CLOSE_SECONDS * 48_000)
    out = np.concatenate([swap(rings, frames(0, 100, 1), 2) for _ in range(10)])
    np.testing.assert_allclose(out[:rise].T, [np.arange(1, rise + 1) / rise] * 2, atol=2e-3)
    np.testing.assert_array_equal(out[rise + 1 :], 1)
    R.publish(rings.header, R.OPEN, 0)
    out = np.concatenate([swap(rings, frames(0, 100, 1), 2) for _ in range(10)])
    np.testing.assert_allclose(out[:fall].T, [np.arange(fall - 1, -1, -1) / fall] * 2, atol=2e-3)
    assert rings.header[R.LEVEL] == 0
    assert rings.header[R.MISSED] == 0


def test_armed_again_it_goes_on_where_it_was():
    """Positions only grow, the delay is as before, and nothing of the time before is heard."""
    rings = R.make_rings(256, 1, 1, 2)
    x = np.zeros((1, 64), np.float32)
    for lap in range(3):
        arm(rings, 96)
        read, tap = rings.header[R.OUT_READ], rings.header[R.TAP_WRITE]
        out = []
        for k in range(8):
            out.append(swap(rings, frames(1 + 32 * k, 32, 1), 1))
            while R.take(rings, x):
                R.put(rings, np.stack([x, 0 * x]))
        out = np.concatenate(out)[:, 0]
        np.testing.assert_array_equal(out, np.maximum(np.arange(1, 257) - 96, 0))
        assert rings.header[R.OUT_READ] == read + 256 == 256 + lap * 296
        assert rings.header[R.TAP_WRITE] == tap + 256
        swap(rings, frames(1e6, 40, 1), 1)  # the beginning of a hop that nobody will hear
        R.disarm(rings)
        swap(rings, frames(1e6, 40, 1), 1)


@pytest.mark.parametrize(("block", "hop"), [(64, 64), (128, 384), (1024, 384), (100, 384)])
def test_a_worker_held_up_longer_than_the_ring_skips_what_is_gone(block, hop):
    """What was skipped is silent for device and listeners, not an old lap; what follows stands at its own place."""
    rings = R.make_rings(4096, 1, 1, 2)
    fill = prefill(block, hop)
    arm(rings, fill)
    rings.tap[:] = rings.outward[:] = 1e9
    rings.outward[:fill] = 0
    x = np.zeros((1, hop), np.float32)
    played = []
    for k in range(30_000 // block):
        played.append(swap(rings, frames(1 + block * k, block, 1), 1))
        if k * block > 20_000:
            while R.take(rings, x):
                R.put(rings, np.stack([x, 0 * x]))
    out = np.concatenate(played)[:, 0]
    lost = rings.header[R.LOST]
    assert (lost + 1) * hop > 20_000 - hop
    assert rings.header[R.TAP_WRITE] == rings.header[R.IN_READ]
    assert rings.tap.max() < 1e9
    first = np.flatnonzero(out)[0]
    assert first >= lost * hop
    risen = first + round(R.OPEN_SECONDS * 48_000) + 1
    assert (np.diff(out[first:risen]) > 0).all()
    np.testing.assert_array_equal(out[risen:], np.arange(risen - fill + 1, len(out) - fill + 1, dtype=np.float32))


def test_samples_survive_two_real_threads():
    rings = R.make_rings(4096 + 64, 2, 2, 4)  # a block is recorded before one is played: the prefill and a block are under way
    arm(rings, 4096)
    done = threading.Event()

    def worker():
        x = np.zeros((2, 96), np.float32)
        while not done.is_set():
            while R.take(rings, x):
                R.put(rings, np.stack([x, 0 * x]))

    thread = threading.Thread(target=worker)
    thread.start()
    played = []
    for k in range(3000):
        while rings.header[R.IN_WRITE] - rings.header[R.IN_READ] > 2000:  # no clock here: wait for the worker
            pass
        played.append(swap(rings, frames(64 * k, 64, 2), 2))
    done.set()
    thread.join()
    out = np.concatenate(played)
    np.testing.assert_array_equal(out[4096:], frames(0, len(out) - 4096, 2))


@pytest.mark.parametrize(("channels", "outputs"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 4), (1, 4), (2, 6), (3, 2)])
def test_routing(channels, outputs):
    """A pair of channels a source where there are enough; else the mix."""
    rings = R.make_rings(64, channels, outputs, 2 * channels)
    arm(rings, 0)
    y = np.random.default_rng(0).random((2, channels, 8), np.float32)
    R.put(rings, y)
    out = swap(rings, np.zeros((8, channels), np.float32), outputs).T
    second = min(1, channels - 1)
    if outputs >= 4:
        expected = [y[0, 0], y[0, second], y[1, 0], y[1, second]] + [0 * y[0, 0]] * (outputs - 4)
    elif outputs == 1:
        expected = [y.sum(0).mean(0)]
    else:
        expected = [y[:, 0].sum(0), y[:, second].sum(0)]
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_tap_gives_every_source_and_says_when_it_was_too_slow():
    rings = R.make_rings(256, 2, 2, 4)
    y = np.random.default_rng(0).random((2, 2, 64), np.float32)
    out = np.zeros((64, 2), np.float32)
    assert R.read_tap(rings, 0, 2, out) == 0
    R.put(rings, y)
    assert R.read_tap(rings, 0, 2, out) == 1
    np.testing.assert_array_equal(out, y[1].T)
    for _ in range(4):
        R.put(rings, y)
    assert R.read_tap(rings, 0, 2, out) == -1
