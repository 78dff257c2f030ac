"""Two clocks: the resampler's sound, and how playback follows capture, by true clocks that the code under test never sees."""

import numpy as np
import pytest

from bench.drift import CASES, Case, Clocks
from streamsep import rings as R
from streamsep.devices import drift

RATE = 48_000


def resample(x, nominal, speed, frames, start=200.3):
    """`frames` of output from the position `start` of `x` on, `speed` input frames each."""
    rings = R.make_rings(1 << (len(x) - 1).bit_length(), 1, 1, 1)
    rings.outward[: len(x), 0] = x
    rings.header[[R.OPEN, R.LEVEL, R.OUT_WRITE]] = 1, R.FULL, len(x)
    kernel = drift.kernel(nominal)
    scratch = np.zeros(kernel.shape[1] + 1)
    bridge = drift.make_bridge(rings, kernel, scratch, RATE, round(RATE / nominal))
    times = bridge.view(np.float64)
    times[drift.READ] = start
    y = np.zeros((frames, 1), np.float32)
    taps = kernel.shape[1]
    drift.sound(bridge, times, rings.header, rings.outward, kernel, scratch[:taps], scratch[taps:], y, speed, frames)
    return y[:, 0].astype(np.float64)


@pytest.mark.parametrize("hertz", [50, 997, 8_000, 15_000, 20_000])
@pytest.mark.parametrize("ppm", [0, 37, -200, 200])
def test_a_tone_comes_through_100_db_above_what_is_not_tone(hertz, ppm):
    speed, frames = 1 + 1e-6 * ppm, 20_000
    tone = 2 * np.pi * hertz / RATE
    y = resample(np.sin(tone * np.arange(frames + 600)), 1.0, speed, frames)
    ideal = np.sin(tone * (200.3 + speed * np.arange(frames)))
    assert 10 * np.log10(np.mean(ideal**2) / np.mean((y - ideal) ** 2)) > 100


def test_between_rates_the_band_is_kept_and_what_does_not_fit_is_killed():
    down = RATE / 32_000
    frames = 8_000
    for hertz, least, most in ((10_000, -0.01, 0.01), (13_000, -0.1, 0.1), (19_500, -400, -90), (23_000, -400, -90)):
        x = np.sin(2 * np.pi * hertz / RATE * np.arange(int(down * frames) + 600))
        level = 10 * np.log10(2 * np.mean(resample(x, down, down, frames) ** 2))
        assert least < level < most, (hertz, level)


@pytest.mark.parametrize("name", CASES)
def test_the_delay_wanders_less_than_a_millisecond_and_nothing_is_missed(name):
    """Some minutes; an hour is `python bench/drift.py`."""
    case = CASES[name]
    clocks = Clocks(case, keep_seconds=20.0)
    result = clocks.play(240.0)
    assert result["missed_blocks"] == result["jumps"] == 0
    assert result["wander_ms"] < 1
    # A tone of 997 Hz that is bent by 200 ppm and no more: no step, no gap.
    heard = clocks.heard[case.out_rate :]
    assert np.abs(heard).max() == pytest.approx(0.5, abs=1e-3)
    omega = 2 * np.pi * 997 / case.out_rate
    assert np.abs(np.diff(heard, 2)).max() < 0.5 * omega**2 * 1.01
    assert np.sqrt(np.mean(heard**2)) == pytest.approx(0.5 / np.sqrt(2), rel=1e-3)


LEAST, MOST = 7, 8  # of the simulation's state: how far the delay was from the promised one, s


@pytest.mark.parametrize("seconds", [0.01, 0.03, 0.3])
def test_nothing_of_the_delay_is_left_over_when_the_input_loses_sound(seconds):
    clocks = Clocks(Case())
    clocks.play(20.0)
    clocks.lose(seconds)
    gap = clocks.play(2.0)
    assert gap["missed_blocks"] <= seconds * 48_000 / 256 + 10
    assert gap["jumps"] == 1
    after = clocks.play(20.0)
    assert after["missed_blocks"] == after["jumps"] == 0
    assert -2e-4 < clocks.state[LEAST] <= clocks.state[MOST] < 2e-4


@pytest.mark.parametrize("seconds", [0.05, 1.0])
def test_a_process_that_was_stopped_finds_its_delay_again(seconds):
    clocks = Clocks(Case())
    clocks.play(10.0)
    clocks.pause(seconds)
    clocks.play(1.0)
    after = clocks.play(20.0)
    assert after["missed_blocks"] == after["jumps"] == 0
    assert -2e-4 < clocks.state[LEAST] <= clocks.state[MOST] < 2e-4


def test_what_lies_in_the_ring_from_before_a_pause_is_not_heard():
    clocks = Clocks(Case(), keep_seconds=1.0)
    clocks.rings.outward[:] = 1e9
    clocks.play(1.0)
    assert 0.4 < np.abs(clocks.heard).max() < 0.6


def test_an_input_that_never_comes_is_silence():
    clocks = Clocks(Case())
    R.arm(clocks.rings, 512)
    y = np.ones((256, 1), np.float32)
    kernel, taps = clocks.kernel, clocks.kernel.shape[1]
    arguments = clocks.bridge, clocks.times, clocks.rings.header, clocks.rings.outward, kernel
    drift.play_between(*arguments, clocks.scratch[:taps], clocks.scratch[taps:], y, 2.0, False)
    assert not y.any()
