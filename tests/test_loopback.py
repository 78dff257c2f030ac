"""The delay of a burst in a recording: right to a fraction of a sample where there is a loop, no figure where there is none."""

import numpy as np
import pytest
from scipy.signal import firwin, lfilter

from streamsep import loopback
from streamsep.engine import Separator

RATE = 48_000
LONGEST = int(1.5 * RATE)


def burst(seed=0, seconds=1.0):
    return loopback.burst(int(seconds * RATE), RATE, -20, np.random.default_rng(seed))


def delayed(x, delay, extra=LONGEST):
    """`x` late by any delay, whole or not, `[shape=(len(x) + extra,)]`: a phase ramp on its spectrum."""
    size = 1 << (len(x) + 2 * extra).bit_length()
    wave = np.exp(-2j * np.pi * np.arange(size // 2 + 1) / size * delay)
    return np.fft.irfft(np.fft.rfft(x, size) * wave, size)[: len(x) + extra]


def with_noise(y, x, snr_db, seed):
    return y + np.random.default_rng(seed).standard_normal(len(y)) * np.std(x) * 10 ** (-snr_db / 20)


@pytest.mark.parametrize("delay", [0, 0.3, 1, 127, 777.5, 1024.25, RATE + 4801.75, LONGEST])
@pytest.mark.parametrize("snr_db", [20, 100])
def test_known_delays(delay, snr_db):
    x = burst()
    loop = loopback.find(x, with_noise(delayed(x, delay), x, snr_db, 1), RATE)
    assert loop.delay == pytest.approx(delay, abs=0.01)
    assert all(part == pytest.approx(delay, abs=0.02) for part in loop.parts)
    assert len(loop.parts) == loopback.PARTS
    assert loop.steady
    assert loop.gain == pytest.approx(1, abs=0.01)
    assert loop.others == ()
    assert loop.confidence == 1
    if snr_db == 20:
        assert loop.snr_db == pytest.approx(20, abs=0.2)


@pytest.mark.parametrize(("snr_db", "within"), [(20, 0.01), (0, 0.05), (-20, 0.5)])
def test_every_one_of_many_random_loops_is_found_to_a_fraction_of_a_sample(snr_db, within):
    rng = np.random.default_rng(7)
    for seed in range(20):
        x, delay, gain = burst(seed), rng.uniform(0, LONGEST), rng.choice([-1, 1]) * 10 ** rng.uniform(-2, 0)
        loop = loopback.find(x, gain * with_noise(delayed(x, delay), x, snr_db, 100 + seed), RATE)
        assert loop.delay == pytest.approx(delay, abs=within), seed
        assert np.sign(loop.gain) == np.sign(gain)


def test_level_polarity_and_offset_do_not_matter():
    x = burst()
    y = 0.3 - 0.01 * with_noise(delayed(x, 500), x, 20, 2)  # -40 dB, turned over, on a converter's offset
    loop = loopback.find(x, y.astype(np.float32), RATE)
    assert loop.delay == pytest.approx(500, abs=0.01)
    assert loop.gain == pytest.approx(-0.01, rel=0.01)


@pytest.mark.parametrize(("low", "high"), [(300, 3400), (20, 8000), (1000, 4000)])
def test_a_band_limited_path(low, high):
    x = burst()
    band = firwin(1001, [low, high], pass_zero=False, fs=RATE)  # delays by 500
    y = lfilter(band, 1, delayed(x, 256))
    loop = loopback.find(x, with_noise(y, y[1000:RATE], 20, 3), RATE)
    assert loop.delay == pytest.approx(756, abs=0.15)  # a telephone's band: the error's deviation is 0.03


def test_an_echo_is_named_and_not_mistaken():
    x = burst()
    y = with_noise(delayed(x, 300) - 0.5 * delayed(x, 1700.5) + 0.02 * delayed(x, 40_000), x, 20, 4)
    loop = loopback.find(x, y, RATE)
    assert loop.delay == pytest.approx(300, abs=0.01)
    (echo,) = loop.others
    assert echo.delay == pytest.approx(1700.5, abs=0.02)
    assert echo.gain == pytest.approx(-0.5, abs=0.02)


def sounds(song):
    """Recordings that hold no signal of ours, by name; each takes a random generator."""
    n = RATE + LONGEST
    t = np.arange(n) / RATE

    def music(rng):
        start = rng.integers(0, song.shape[1] - n)
        return song[0, start : start + n]

    def click(rng):
        y = np.zeros(n)
        y[rng.integers(0, n)] = 1
        return y

    def bit(rng):
        return np.sign(rng.standard_normal(n)) * (rng.random(n) < 0.001) / 2**15

    return {
        "silence": lambda rng: np.zeros(n),
        "offset": lambda rng: np.full(n, 0.1),
        "last bit": bit,
        "noise": lambda rng: 0.1 * rng.standard_normal(n),
        "hum": lambda rng: 0.5 * np.sin(2 * np.pi * 50 * t + rng.uniform(0, 6)) + 1e-3 * rng.standard_normal(n),
        "square": lambda rng: np.sign(np.sin(2 * np.pi * rng.uniform(20, 2000) * t)),
        "music": music,
        "click": click,
        "another's burst": lambda rng: delayed(loopback.burst(RATE, RATE, -20, rng), 1000),
    }


KINDS = ["silence", "offset", "last bit", "noise", "hum", "square", "music", "click", "another's burst"]


@pytest.mark.parametrize("kind", KINDS)
def test_no_figure_without_a_loop(kind, song):
    make = sounds(song[0])[kind]
    for seed in range(12):
        y = make(np.random.default_rng(1000 + seed))
        assert loopback.find(burst(seed), y.astype(np.float32), RATE) is None, seed


@pytest.mark.parametrize("kind", ["noise", "hum", "square", "music", "another's burst"])
def test_chance_stays_below_its_bound(kind, song):
    """What the threshold rests on: correlations with what is no burst of ours exceed z no oftener than 2 exp(-z^2 / 2)."""
    y = sounds(song[0])[kind](np.random.default_rng(5))
    z = np.concatenate([np.abs(loopback._Match(burst(seed).astype(float), y - y.mean()).z[::97]) for seed in range(8)])
    for level in (2.5, 3, 3.5):
        assert np.mean(z > level) <= 2 * np.exp(-(level**2) / 2)
    assert np.mean(z > 1) > 0.1  # and the scale is not merely small


def test_a_threshold_is_a_chance():
    assert loopback._chance(0, 1000) == 1
    z = np.sqrt(2 * np.log(2 * 1000 / loopback.FALSE_ALARM))
    assert loopback._chance(z, 1000) == pytest.approx(loopback.FALSE_ALARM)
    assert loopback._chance(1e6, 1000) == 0


def test_a_delay_beyond_the_recording_is_none():
    x = burst()
    assert loopback.find(x, delayed(x, LONGEST)[: 2 * RATE], RATE) is None


def test_a_drifting_clock_is_noticed():
    x = burst(seconds=2)
    y = delayed(x, 1000)
    n = np.arange(len(y))
    drifting = np.interp(n * (1 + 200e-6), n, y)  # 200 ppm
    loop = loopback.find(x, drifting, RATE)
    assert not loop.steady
    assert 10 < loop.spread < 20  # 200 ppm from the middle of the first quarter to that of the last: 14 samples
    assert 970 < loop.delay < 1000


def through(separator, x):
    """What comes out of an engine `[shape=(sources, samples)]` from the burst on, with silence before and after."""
    lead = 12_345
    sent = np.pad(x, (lead, LONGEST))[None].astype(np.float32)
    return separator.process(sent)[:, 0, lead:]


def test_a_separator_in_the_loop_in_bypass_is_exact(lstm):
    separator = Separator(lstm, RATE, 1)
    separator.bypass = True
    x = burst()
    loop = loopback.find(x, through(separator, x)[0], RATE)
    assert loop.delay == pytest.approx(separator.latency, abs=1e-3)
    assert loop.gain == pytest.approx(1, abs=1e-4)


def test_a_separator_in_the_loop_while_separating(lstm, live):
    """Masks that change every hop lower the peak and do not move it: of single sources, and of their sum."""
    x = burst()
    for model in (lstm, live):
        separator = Separator(model, RATE, 1)
        stems = through(separator, x)
        assert loopback.find(x, stems.sum(0), RATE).delay == pytest.approx(separator.latency, abs=1e-3)
        assert loopback.find(x, stems[1], RATE).delay == pytest.approx(separator.latency, abs=0.01)
    assert loopback.find(x, through(Separator(lstm, RATE, 1), x)[0], RATE).delay == pytest.approx(768, abs=0.01)


def test_the_burst():
    x = burst()
    assert x.dtype == np.float32
    assert np.abs(x).max() == pytest.approx(0.1, rel=1e-6)
    assert np.abs(x[[0, -1]]).max() < 1e-3 * 0.1
    assert not np.array_equal(loopback.burst(RATE, RATE, -20), loopback.burst(RATE, RATE, -20))
    with pytest.raises(ValueError, match="samples=100"):
        loopback.burst(100, RATE, -20)


def test_what_is_refused():
    x = burst()
    with pytest.raises(ValueError, match="heard has 10"):
        loopback.find(x, x[:10], RATE)
    with pytest.raises(ValueError, match="NaN"):
        loopback.find(x, np.full(len(x), np.nan, np.float32), RATE)
