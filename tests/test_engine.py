"""Tests that hear: what goes in comes out, late by exactly the latency, however it is cut."""

import numpy as np
import pytest

from streamsep import model
from streamsep.controls import ScheduleFullError
from streamsep.engine import GAIN_DB, Separator
from streamsep.schedule import MOST
from tests import graphs
from tests.conftest import DATA, need_data

RATES = (16000, 44100, 48000, 96000)


def noise(channels, samples, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (channels, samples)).astype(np.float32)


def whole(separator, x):
    """Everything, with the tail; [shape=(sources, channels, samples + latency)]."""
    return np.concatenate([separator.process(x), separator.flush()], axis=-1)


# ------------------------------------------------------------------------------------------------- what goes in comes out


@pytest.mark.parametrize("lengths", [graphs.LIVE, graphs.ULTRA, graphs.STUDIO], ids=["live", "ultra", "studio"])
@pytest.mark.parametrize("rate", [8000, *RATES, 192000])
@pytest.mark.parametrize("channels", [1, 2])
def test_identity_mask_returns_the_input_late_by_latency(tmp_path, lengths, rate, channels):
    separator = Separator(model.load(graphs.constant(tmp_path / "m.onnx", (1, 0), **lengths)), rate, channels)
    x = noise(channels, 20_011)
    vocals, accompaniment = whole(separator, x)
    # A hop is a whole number of samples: half a sample in the shortest one is 0.3 %.
    assert separator.latency == pytest.approx(rate * lengths["synthesis_length"] / 16000, rel=3e-3)
    np.testing.assert_allclose(vocals[:, separator.latency :], x, atol=1e-6)
    np.testing.assert_allclose(vocals[:, : separator.latency], 0, atol=1e-6)
    np.testing.assert_allclose(accompaniment, 0, atol=1e-6)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("channels", [1, 2, 8])
def test_sources_add_up_to_the_delayed_input(lstm, rate, channels):
    separator = Separator(lstm, rate, channels)
    x = noise(channels, 30_000)
    y = whole(separator, x)
    np.testing.assert_allclose(y.sum(0)[:, separator.latency :], x, atol=1e-6)
    assert np.abs(y[0]).max() > 0.01


def test_half_masks_halve_above_the_networks_band_too(folder):
    """A tone at 15 kHz lies above all the network knows; its mask is that of the top of the band."""
    separator = Separator(model.load(graphs.constant(folder / "part.onnx", (0.25, 0.75))), 48000, 1)
    x = np.sin(2 * np.pi * 15_000 / 48000 * np.arange(20_000)).astype(np.float32)[None]
    y = whole(separator, x)[..., separator.latency :]
    np.testing.assert_allclose(y[0], 0.25 * x, atol=1e-5)


def test_tail_survives_flush_and_flush_resets(lstm, song):
    x, rate = song
    separator = Separator(lstm, rate, 2)
    first = whole(separator, x[:, :50_000])
    padded = Separator(lstm, rate, 2).process(np.pad(x[:, :50_000], ((0, 0), (0, separator.latency))))
    np.testing.assert_array_equal(first, padded)
    np.testing.assert_array_equal(whole(separator, x[:, :50_000]), first)


# --------------------------------------------------------------------------------------------------- blocks do not matter


@pytest.mark.parametrize("block", [1, 7, 64, 129, 4096, "random"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_any_cutting_gives_the_same_samples(lstm, song, block, rate):
    x = song[0][:, : 3000 if block == 1 else 40_000]
    separator = Separator(lstm, rate, 2)
    expected = separator.process(x)
    separator.reset()
    rng = np.random.default_rng(0)
    parts, start = [], 0
    while start < x.shape[1]:
        size = int(rng.integers(0, 1000)) if block == "random" else block
        parts.append(separator.process(x[:, start : start + size]))
        start += size
    np.testing.assert_array_equal(np.concatenate(parts, -1), expected)


def test_empty_block(lstm):
    separator = Separator(lstm, 48000, 2)
    assert separator.process(np.zeros((2, 0))).shape == (2, 2, 0)


def test_out_is_filled_in_place(lstm):
    separator = Separator(lstm, 48000, 2)
    out = np.full((2, 2, 1000), np.nan, np.float32)
    assert separator.process(noise(2, 1000), out) is out
    assert np.isfinite(out).all()


def test_a_prefix_of_the_input_gives_a_prefix_of_the_output(lstm, song):
    x, rate = song
    changed = x[:, :60_000].copy()
    changed[:, 30_000:] = noise(2, 30_000)
    a = Separator(lstm, rate, 2).process(x[:, :60_000])
    b = Separator(lstm, rate, 2).process(changed)
    np.testing.assert_array_equal(a[..., :30_000], b[..., :30_000])
    assert np.abs(a[..., 30_000:] - b[..., 30_000:]).max() > 0.01


@pytest.mark.parametrize("which", ["lstm", "live"])
def test_native_hop_equals_the_python_path(which, request, song):
    chosen = request.getfixturevalue(which)
    x = song[0][:, 48000:96000]
    native, reference = (Separator(chosen, 48000, 2, use_c_api=c) for c in (True, False))
    assert native.native
    assert not reference.native
    np.testing.assert_array_equal(whole(native, x), whole(reference, x))


# ---------------------------------------------------------------------------------------------------------------- faults


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_bad_samples_are_silence_and_counted(lstm, bad):
    x = 0.5 * noise(2, 20_000)
    x[0, 5000:5003] = bad
    clean = x.copy()
    clean[0, 5000:5003] = 0
    separator = Separator(lstm, 48000, 2)
    y = separator.process(x)
    assert separator.counts["bad_samples"] == 3
    np.testing.assert_array_equal(y, Separator(lstm, 48000, 2).process(clean))


@pytest.mark.parametrize("rate", [16000, 48000])
def test_silence_and_full_scale_square_waves_leave_the_engine_well(live, song, rate):
    separator = Separator(live, rate, 1)
    square = np.where(np.arange(rate) // 40 % 2, 1, -1).astype(np.float32)[None]
    for stretch in (np.zeros((1, rate)), square, np.full((1, rate), 1e-38), np.zeros((1, rate))):
        y = separator.process(stretch)
        assert np.isfinite(y).all()
    assert np.abs(separator.process(np.zeros((1, rate)))).max() == 0
    assert separator.counts["failed_steps"] == separator.counts["bad_masks"] == separator.counts["bad_samples"] == 0
    sung = np.ascontiguousarray(song[0][:1, 4 * 48000 : 6 * 48000 : 48000 // rate])
    y = separator.process(sung)
    assert np.isfinite(y).all()
    assert np.abs(y[0]).max() > 0.01


def test_a_failed_step_holds_the_last_mask_and_is_reported(folder):
    """Without a network the sources still add up to the delayed input, and the error is there to be told."""
    separator = Separator(model.load(graphs.lstm(folder / "fail.onnx")), 16000, 1)
    x = noise(1, 16_000)
    separator.process(x)
    held = separator.state.held.copy()
    network = separator.network
    network.compiled = network.compiled._replace(names_in=network.compiled.names_out)
    y = separator.process(x)
    assert separator.counts["failed_steps"] == 125
    assert separator.error
    np.testing.assert_array_equal(separator.state.held, held)
    np.testing.assert_allclose(y.sum(0)[:, 256:], x[:, :-256], atol=1e-6)


def test_a_network_that_gives_nan_never_reaches_the_output(folder):
    separator = Separator(model.load(graphs.constant(folder / "nan.onnx", (np.nan, 1))), 16000, 1)
    x = noise(1, 16_000)
    y = separator.process(x)
    assert separator.counts["bad_masks"] == 125
    np.testing.assert_allclose(y[0, :, 256:], x[:, :-256] / 2, atol=1e-6)


# -------------------------------------------------------------------------------------------------------------- controls


def tone(samples, rate=48000, frequency=1000):
    return np.sin(2 * np.pi * frequency / rate * np.arange(samples)).astype(np.float32)[None]


def test_gains_ramp_over_a_hop(identity):
    separator = Separator(identity, 48000, 1)
    x = np.ones((1, 48_000), np.float32)
    separator.process(x)
    separator.set_gain("vocals", -20)
    y = separator.process(x)[0, 0]
    hop = separator.geometry.hop_length
    steps = np.diff(y)
    assert y[0] == pytest.approx(1, abs=1e-6)
    assert y[-1] == pytest.approx(0.1, abs=1e-6)
    assert np.abs(steps).max() == pytest.approx(0.9 / hop, rel=0.01)
    assert np.count_nonzero(np.abs(steps) > 1e-5) == hop


def test_mute_solo_and_gain_reach_their_source_only(lstm, song):
    x, rate = song
    plain = Separator(lstm, rate, 2)
    separator = Separator(lstm, rate, 2)
    separator.set_mute("vocals", True)
    separator.set_gain("accompaniment", 6)
    separator.reset()
    a, b = plain.process(x[:, :48000]), separator.process(x[:, :48000])
    assert np.abs(b[0]).max() == 0
    np.testing.assert_allclose(b[1], a[1] * 10 ** (6 / 20), rtol=1e-5, atol=1e-7)


def test_bypass_is_the_delayed_input_without_a_click(lstm):
    separator = Separator(lstm, 48000, 1)
    x = tone(96_000)
    separator.set_gain("vocals", -90)
    y = [separator.process(x[:, :48_000])]
    separator.bypass = True
    y.append(separator.process(x[:, 48_000:72_000]))
    np.testing.assert_allclose(y[1].sum(0)[0, 3000:], x[0, 48_000 + 3000 - 768 : 72_000 - 768], atol=1e-6)
    assert np.abs(y[1][1, 0, 3000:]).max() == 0
    separator.bypass = False
    y.append(separator.process(x[:, 72_000:]))
    joined = np.concatenate(y, -1).sum(0)[0]
    steepest = 2 * np.pi * 1000 / 48000  # of the tone itself, per sample
    assert np.abs(np.diff(joined[2000:])).max() < steepest * 1.1


def test_controls_answer_with_what_was_really_set(lstm):
    separator = Separator(lstm, 48000, 1)
    assert separator.set_gain("vocals", 99) == GAIN_DB[1]
    assert separator.set_gain("vocals", -np.inf) == GAIN_DB[0]
    assert separator.gain("vocals") == GAIN_DB[0]
    assert separator.set_gain("vocals", -6.5) == -6.5
    assert separator.gain("vocals") == pytest.approx(-6.5)
    separator.set_mute("accompaniment", True)
    assert separator.mute("accompaniment")
    with pytest.raises(ValueError, match="'drums' is unknown: expected one of vocals, accompaniment"):
        separator.set_gain("drums", 0)
    with pytest.raises(ValueError, match="nan"):
        separator.set_gain("vocals", np.nan)
    separator.output_gain = 99
    assert separator.output_gain == pytest.approx(GAIN_DB[1])
    with pytest.raises(ValueError, match=r"wet=1.5 is out of range: expected 0 to 1"):
        separator.wet = 1.5


def played(separator, x, act):
    """A second of `x`, then `act`, then the rest; all sources, [shape=(sources, samples)] of one channel."""
    first = separator.process(x[:, :48_000])
    act()
    return np.concatenate([first, separator.process(x[:, 48_000:])], -1)[:, 0]


def clickless(y, steepest=2 * np.pi * 1000 / 48000):
    """No step of the sources' sum is steeper than the tone's own and its fade over one hop; after the first fill."""
    return np.abs(np.diff(y.sum(0)[2000:])).max() < steepest + 1.1 / 384


def test_solo_silences_the_others_and_mute_wins_over_it(lstm):
    separator = Separator(lstm, 48000, 1)
    y = played(separator, tone(96_000), lambda: separator.set_solo("vocals", True))
    assert clickless(y)
    assert np.abs(y[1, 48_768:]).max() == 0
    plain = played(Separator(lstm, 48000, 1), tone(96_000), lambda: None)
    np.testing.assert_array_equal(y[0], plain[0])
    separator.set_mute("vocals", True)
    assert np.abs(separator.process(tone(9600))[..., 768:]).max() == 0
    separator.set_solo("vocals", False)
    separator.process(tone(768))
    assert np.abs(separator.process(tone(9600))[1]).max() > 0.1


def test_output_gain_reaches_all_and_bypass_too(lstm):
    separator = Separator(lstm, 48000, 1)
    x = tone(96_000)
    plain = played(Separator(lstm, 48000, 1), x, lambda: None)

    def act():
        separator.output_gain = -20

    y = played(separator, x, act)
    assert clickless(y)
    np.testing.assert_allclose(y[:, 48_768:], 0.1 * plain[:, 48_768:], atol=1e-6)
    separator.bypass = True
    y = separator.process(x)[:, 0]
    np.testing.assert_allclose(y[0, 2000:], 0.1 * x[0, 2000 - 768 : -768], atol=1e-6)


@pytest.mark.parametrize("wet", [0.0, 0.25])
def test_dry_is_the_input_as_late_as_the_sources(lstm, wet):
    separator = Separator(lstm, 48000, 1)
    x = tone(96_000)
    separator.set_mute("accompaniment", True)
    plain = played(Separator(lstm, 48000, 1), x, lambda: None)

    def act():
        separator.wet = wet

    y = played(separator, x, act)
    assert clickless(y)
    expected = wet * plain[0, 48_768:] + (1 - wet) * x[0, 48_768 - 768 : -768]
    np.testing.assert_allclose(y.sum(0)[48_768:], expected, atol=1e-6)


def test_panic_is_silence_within_a_hop_and_ends_without_a_click(lstm):
    separator = Separator(lstm, 48000, 1)
    hop = separator.geometry.hop_length

    def act():
        separator.panic = True

    y = played(separator, tone(96_000), act)
    assert clickless(y)
    assert np.abs(y[:, 48_000 + 2 * hop :]).max() == 0  # what was already made of this hop, and one to fade
    separator.panic = False
    assert np.abs(separator.process(tone(9600))).max() > 0.1


@pytest.mark.parametrize("use_c_api", [True, False])
@pytest.mark.parametrize("lengths", [graphs.LIVE, graphs.STUDIO], ids=["live", "studio"])
def test_a_reset_forgets_what_was_heard_and_does_not_click(tmp_path, lengths, use_c_api):
    chosen = model.load(graphs.lstm(tmp_path / "m.onnx", **lengths))
    separator = Separator(chosen, 48000, 1, use_c_api=use_c_api)
    hop = separator.geometry.hop_length
    x = tone(200 * hop)
    before = separator.process(x[:, : 100 * hop])
    separator.forget()
    y = np.concatenate([before, separator.process(x[:, 100 * hop :])], -1)[:, 0]
    assert clickless(y)
    gap = 1 + 1 + separator.latency // hop  # the hop that waits to be handed out, the fade, the windows
    assert np.abs(y[:, 102 * hop : (100 + gap) * hop]).max() == 0
    assert np.abs(y.sum(0)[(101 + gap) * hop :]).max() == pytest.approx(1, abs=1e-3)
    # The engine is as a new one that heard nothing before the hop after the fade.
    new = Separator(chosen, 48000, 1).process(x[:, 101 * hop :])[:, 0]
    np.testing.assert_array_equal(y[:, (103 + gap) * hop :], new[:, (2 + gap) * hop :])


def test_what_belongs_together_takes_effect_in_one_hop(identity):
    """While it is being written, the engine goes on with the old values, all of them."""
    separator = Separator(identity, 48000, 1)
    x = np.ones((1, 4800), np.float32)
    separator.process(x)
    with separator.together():
        separator.set_gain("vocals", -20)
        with separator.together():
            separator.output_gain = -20
        np.testing.assert_allclose(separator.process(x)[0, 0], 1, atol=1e-6)
        assert separator.gain("vocals") == pytest.approx(-20)
    assert separator.process(x)[0, 0, -1] == pytest.approx(0.01, abs=1e-6)


# ------------------------------------------------------------------------------------------------------------ in good time


def test_a_change_lands_in_the_hop_of_its_position(identity):
    separator = Separator(identity, 48000, 1)
    hop = separator.geometry.hop_length
    separator.process(np.ones((1, 10 * hop), np.float32))
    assert separator.clock == 10 * hop
    with separator.at(20 * hop + 5):
        assert separator.set_gain("vocals", -200) == GAIN_DB[0]
        separator.set_mute("accompaniment", True)
    assert separator.gain("vocals") == 0  # not yet
    y = separator.process(np.ones((1, 20 * hop), np.float32))[0, 0]
    falling = np.flatnonzero(np.diff(y) < -1e-6)
    # y is handed out one hop after it was made: what hop 20 made, from here on the 11th.
    assert (falling[0], falling[-1]) == (11 * hop - 1, 12 * hop - 2)
    assert separator.gain("vocals") == GAIN_DB[0]
    assert separator.mute("accompaniment")


def test_changes_act_in_the_order_of_their_time_and_then_of_their_coming(identity):
    separator = Separator(identity, 48000, 1)
    hop = separator.geometry.hop_length
    rng = np.random.default_rng(0)
    expected = {}
    for n, position in enumerate(rng.integers(0, 40 * hop, 300)):
        with separator.at(int(position)):
            separator.output_gain = -n / 10
        expected[int(position)] = -n / 10
    for k in range(40):
        separator.process(np.zeros((1, hop)))
        due = [p for p in expected if p < (k + 1) * hop]
        if due:
            assert separator.output_gain == pytest.approx(expected[max(due)])


def test_what_is_over_acts_with_the_next_hop_and_the_number_that_waits_is_bounded(identity):
    separator = Separator(identity, 48000, 1)
    separator.process(np.zeros((1, 48_000)))
    with separator.at(7):
        separator.bypass = True
    assert not separator.bypass
    separator.process(np.zeros((1, 384)))
    assert separator.bypass
    for n in range(MOST // 4):
        with separator.at(10**9 + n):
            for source in separator.sources:
                separator.set_gain(source, -1)
                separator.set_mute(source, True)
    with pytest.raises(ScheduleFullError, match=r"changes=1 with room for 0"), separator.at(0):
        separator.bypass = False
    separator.bypass = False  # at once is still to be had
    separator.process(np.zeros((1, 384)))
    assert not separator.bypass
    assert separator.gain("vocals") == 0


def test_the_schedule_outlives_a_reset(identity):
    separator = Separator(identity, 48000, 1)
    separator.process(np.zeros((1, 4800)))
    with separator.at(9600):
        separator.panic = True
    separator.reset()
    assert separator.clock == 12 * 384
    separator.process(np.zeros((1, 9600)))
    assert separator.panic


def test_another_engine_can_follow(lstm, identity):
    one, other = Separator(lstm, 48000, 1), Separator(identity, 16000, 2)
    one.set_gain("vocals", -3)
    one.set_solo("accompaniment", True)
    one.wet = 0.5
    other.follow(one)
    assert other.gain("vocals") == pytest.approx(-3)
    assert other.solo("accompaniment")
    assert other.wet == 0.5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((48000, 0), "channels=0"),
        ((48000, 9), "channels=9"),
        ((4000, 2), "sample_rate=4000"),
        ((400_000, 2), "sample_rate=400000"),
    ],
)
def test_bad_arguments(lstm, arguments, says):
    with pytest.raises(ValueError, match=says):
        Separator(lstm, *arguments)


def test_bad_blocks(lstm):
    separator = Separator(lstm, 48000, 2)
    with pytest.raises(ValueError, match="block has shape"):
        separator.process(np.zeros((3, 10)))
    with pytest.raises(ValueError, match="out has shape"):
        separator.process(np.zeros((2, 10)), np.zeros((2, 2, 10)))


# --------------------------------------------------------------------------------------------------------- the real model


def sdr(true, estimate):
    return 10 * np.log10(np.sum(true**2) / np.sum((true - estimate) ** 2))


def test_the_shipped_model_is_indifferent_to_level_and_rate(live):
    """Real voices over real accompaniments: the same NSDR (0.3 dB) from -40 to 0 dBFS, and at 16, 44.1, 48 and 96 kHz."""
    need_data()
    import soundfile
    import soxr

    def nsdr(names, level, rate):
        gains = []
        for name in names:
            clip, _ = soundfile.read(DATA / "mir1k" / "clips" / f"{name}.flac")
            clip /= np.linalg.norm(clip, axis=0)
            clip *= 10 ** (level / 20) / np.abs(clip.sum(1)).max()
            if rate != 16000:
                clip = soxr.resample(clip, 16000, rate, "VHQ")
            separator = Separator(live, rate, 1)
            estimate = whole(separator, clip.sum(1)[None])[0, 0, separator.latency :]
            gains.append(sdr(clip[:, 1], estimate) - sdr(clip[:, 1], clip.sum(1)))
        return float(np.mean(gains))

    names = (DATA / "mir1k" / "public.txt").read_text().split()[::49]
    base = nsdr(names, 0, 16000)
    assert base > 3
    for level in (-40, -20):
        assert nsdr(names, level, 16000) == pytest.approx(base, abs=0.3)
    for rate in RATES[1:]:
        assert nsdr(names[:4], 0, rate) == pytest.approx(nsdr(names[:4], 0, 16000), abs=0.5)


def test_the_voice_is_lifted_out_of_the_bundled_song(live, song):
    import soundfile

    from streamsep.demo import STEMS

    x, rate = song
    voice = soundfile.read(STEMS["vocals"], dtype="float32")[0].T
    separator = Separator(live, rate, 2)
    estimate = whole(separator, x)[0][:, separator.latency :]
    assert sdr(voice, estimate) - sdr(voice, x) > 2
    # The band plays alone for the first second: what of it gets into the voice is 20 dB down.
    intro = slice(0, rate)
    assert not np.any(np.abs(voice[:, intro]) > 1e-3)
    assert 10 * np.log10(np.sum(x[:, intro] ** 2) / np.sum(estimate[:, intro] ** 2)) > 20
