"""The ruler through the engine: rates, levels, cold and warm, the whole clip at once, an oracle, band limits and codecs.

What is wrong by construction (a latency left in, a source a hop late) is refused.
"""

import numpy as np
import pytest
import soundfile

from bench.ruler import behaviour, estimates, ratios, recordings, report, rows, song, through
from bench.ruler.estimates import Case
from bench.ruler.recordings import QualityError
from streamsep import model
from streamsep.engine import Separator
from tests import graphs
from tests.conftest import DATA, need_data
from tests.separable import RATE, noise

ALIKE = 0.01  # dB: what two ways to the same figure may differ by


def case(of, **conditions):
    return Case(str(of.path), **conditions)


@pytest.fixture
def engine(monkeypatch):
    """Calls put in place of the ruler's engine one that was spoilt."""

    def put(kind, of, rate=RATE):
        separator = kind(of, rate, 1)
        monkeypatch.setattr(estimates, "open_separator", lambda *_: separator)
        monkeypatch.setattr(behaviour, "open_separator", lambda *_: separator)
        return separator

    return put


# --------------------------------------------------------------------------------------------------- rates, levels, state


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("way", ["runtime", "whole", "oracle"])
def test_what_separates_gains_at_every_rate(separable, splitter, way, rate):
    row = rows.clip_row(case(splitter, rate=rate, way=way), separable)
    assert row.vocals.nsdr > 15
    assert row.accompaniment.nsdr > 15
    assert row.vocals.si_sdri > 15
    assert row.failed == 0


def test_level_is_the_mixtures_peak_and_costs_nothing(separable, splitter, engine):
    class Listening(Separator):
        def process(self, block, out=None):
            peaks.append(np.abs(block).max())
            return super().process(block, out)

    peaks: list[float] = []
    engine(Listening, splitter)
    found = []
    for level in (-40, -20, 0):
        peaks.clear()
        found.append(rows.clip_row(case(splitter, level=level), separable))
        assert 20 * np.log10(max(peaks)) == pytest.approx(level, abs=1e-3)
    np.testing.assert_allclose([r.vocals for r in found], [found[0].vocals] * 3, atol=ALIKE)


def test_every_clip_starts_cold(separable, lstm):
    first = rows.clip_row(case(lstm), separable)
    estimates.open_separator(str(lstm.path), RATE, 1, "auto").process(noise(1, 5000))
    assert rows.clip_row(case(lstm), separable) == first


def test_warm_is_the_clip_after_the_one_before_it(clips, lstm):
    """By hand: both in one stream, the second's part of what comes out."""
    before, path = clips / "clips" / "singer_1_01.flac", clips / "clips" / "singer_1_02.flac"
    row = rows.clip_row(case(lstm), path, before)
    references, _ = recordings.clip(path)
    first, second = (recordings.clip(p)[0].sum(axis=0) for p in (before, path))
    first, second = (0.5012 * x / np.abs(x).max() for x in (first, second))  # -6 dBFS
    separator = Separator(lstm, RATE, 1)
    silence = np.zeros((1, separator.latency))
    stems = separator.process(np.concatenate([first, second, silence], axis=1))[:, :, first.shape[1] + separator.latency :]
    by_hand = rows.measure(references, references.sum(axis=0), [stems[::-1].astype(float)])[0]
    assert row.warm["vocals"] == pytest.approx(by_hand["vocals"], abs=1e-3)
    assert row.warm["accompaniment"] == pytest.approx(by_hand["accompaniment"], abs=1e-3)
    assert row.warm["vocals"] != pytest.approx(row.vocals, abs=1e-3)


def test_a_clip_is_warmed_by_the_one_before_it_in_the_list_and_the_first_by_the_last(clips):
    names = recordings.clip_names("three", clips)
    assert names == ["singer_1_01", "singer_1_02", "singer_1_03"]
    pairs = recordings.clip_pairs(names, clips)
    assert [(a.stem[-1], b.stem[-1]) for a, b in pairs] == [("1", "3"), ("2", "1"), ("3", "2")]
    assert recordings.clip_pairs(names, clips, 2) == [pairs[0], pairs[2]]


# ------------------------------------------------------------------------------------------------ wrong by construction


class LatencyLeftIn(Separator):
    latency = 0


class AHopLate(Separator):
    @property
    def latency(self):
        return super().latency - self.geometry.hop_length


class VoiceAHopLate(Separator):
    def process(self, block, out=None):
        y = super().process(block, out)
        y[0] = np.roll(y[0], self.geometry.hop_length, axis=1)
        return y


@pytest.mark.parametrize("spoilt", [LatencyLeftIn, AHopLate, VoiceAHopLate])
@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_what_lies_wrong_in_time_is_refused(separable, splitter, engine, spoilt, rate):
    engine(spoilt, splitter, rate)
    with pytest.raises(QualityError, match=r"add up to the mixture to -?\d+\.\d dB: expected 60 or more"):
        rows.clip_row(case(splitter, rate=rate), separable)


def test_swapped_sources_show(separable, splitter, tmp_path):
    swapped = tmp_path / "swapped.flac"
    soundfile.write(swapped, soundfile.read(separable)[0][:, ::-1], RATE)
    assert rows.clip_row(case(splitter), swapped).vocals.nsdr < -5


# ---------------------------------------------------------------------------------- the whole clip at once, and the oracle


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("lengths", [graphs.LIVE, graphs.ULTRA, graphs.STUDIO], ids=["live", "ultra", "studio"])
def test_hop_by_hop_is_the_whole_clip_at_once(separable, folder, lengths, rate):
    """The engine and numpy, which share nothing but windows: one network, one result."""
    network = graphs.lstm(folder / f"{lengths['synthesis_length']}.onnx", **lengths)
    streamed, whole = (rows.clip_row(Case(str(network), way=way, rate=rate), separable) for way in ("runtime", "whole"))
    assert streamed.vocals == pytest.approx(whole.vocals, abs=ALIKE)
    assert streamed.accompaniment == pytest.approx(whole.accompaniment, abs=ALIKE)


def test_only_the_runtime_can_be_warm(clips, splitter):
    first, second = sorted((clips / "clips").iterdir())[:2]
    with pytest.raises(QualityError, match="way='whole' keeps no state"):
        rows.clip_row(case(splitter, way="whole"), first, second)


def test_the_oracle_of_the_shipped_windows_reads_what_it_is_known_to():
    """12.0 dB for 64 ms windows with 16 ms of synthesis, on 60 clips of the same recordings; ten others here."""
    need_data()
    names = recordings.clip_names("public100", DATA / "mir1k")[::10]
    paths = [DATA / "mir1k" / "clips" / f"{name}.flac" for name in names]
    oracle = report.weighted(rows.clip_row(Case("live", way="oracle"), p) for p in paths)
    assert oracle["gnsdr"] == pytest.approx(12.0, abs=0.5)


# ----------------------------------------------------------------------------------------------- band limits and codecs


def spectrum(x, low, high):
    f = np.fft.rfftfreq(x.shape[-1], 1 / RATE)
    return np.sum(np.abs(np.fft.rfft(x))[..., (f >= low) & (f < high)] ** 2)


@pytest.mark.parametrize(("name", "kept", "gone"), [("3500hz", 3300, 3700), ("5000hz", 4700, 5300), ("7000hz", 6600, 7400)])
def test_a_cut_takes_what_is_above_and_nothing_else(name, kept, gone):
    x = noise(2, 20_000)[:, None]
    references, mixture = through.through(name, x, RATE)
    np.testing.assert_allclose(references.sum(axis=0), mixture)
    assert spectrum(references, gone, 8000) < 1e-12 * spectrum(x, gone, 8000)
    assert spectrum(references, 0, kept) == pytest.approx(spectrum(x, 0, kept), rel=1e-6)
    assert through.delay(x[0, 0], references[0, 0]) == 0


@pytest.mark.parametrize(("name", "low", "high"), [("microphone", 300, 4000), ("telephone", 500, 2500)])
def test_a_band_leaves_its_middle(name, low, high):
    x = noise(2, 20_000)[:, None]
    y, _ = through.through(name, x, RATE)
    assert 10 * np.log10(spectrum(y, low, high) / spectrum(x, low, high)) > -1
    assert 10 * np.log10(spectrum(y, 7800, 8000) / spectrum(x, 7800, 8000)) < -5
    assert 10 * np.log10(spectrum(y, 0, 60) / spectrum(x, 0, 60)) < -15


@pytest.mark.parametrize("rate", [16_000, 44_100, 48_000])
@pytest.mark.parametrize("codec", through.CODECS)
def test_codecs_change_the_sound_and_not_its_place(codec, rate):
    t = np.arange(2 * rate) / rate
    x = sum(30 * np.sin(2 * np.pi * f * t + 8 * np.sin(2 * np.pi * t)) for f in (300, 523, 1370, 2900))[None]  # +40 dBFS
    y = through.coded(x, rate, codec)
    assert y.shape == x.shape
    assert through.delay(x[0], y[0]) == 0
    assert 8 < ratios.sdr(x, y) < 60


def test_a_coded_mixture_still_has_its_true_sources(separable):
    references, rate = recordings.clip(separable)
    same, mixture = through.through("mp3", references, rate)
    np.testing.assert_array_equal(same, references)
    assert ratios.sdr(references.sum(axis=0), mixture) < 60


def test_unknown_ways_of_sound_are_refused():
    with pytest.raises(QualityError, match="through='tape' is unknown: expected one of wire, 3500hz"):
        through.through("tape", noise(2, 100)[:, None], RATE)


# ------------------------------------------------------------------------------------------------ silence, sources alone


def test_silence_in_is_silence_out_and_a_hum_is_heard(lstm, engine):
    class Humming(Separator):
        def process(self, block, out=None):
            return super().process(block, out) + np.float32(1e-6)

    assert behaviour.silence(case(lstm), RATE) == {"cold": 0, "after_sound": 0}
    engine(Humming, lstm)
    assert behaviour.silence(case(lstm), RATE) == pytest.approx({"cold": 1e-6, "after_sound": 1e-6})


@pytest.mark.parametrize(
    ("levels", "instrumental", "solo"), [((0.5, 0.5), 6.02, 6.02), ((0.1, 0.9), 20, 0.92), ((1, 0), 0, 120)]
)
def test_sources_alone_leave_what_the_masks_let_through(folder, separable, levels, instrumental, solo):
    network = case(model.load(graphs.constant(folder / f"leak{levels[0]}.onnx", levels)))
    (band, frames), (voice, _) = (behaviour.clip_alone(network, separable, s) for s in ("accompaniment", "vocals"))
    assert band == pytest.approx(instrumental, abs=0.1)
    assert voice == pytest.approx(solo, abs=0.1)
    assert behaviour.summary([(band, frames), (band + 3, 2 * frames)]) == pytest.approx(
        {"mean": band + 2, "worst": band}, abs=0.01
    )


# --------------------------------------------------------------------------------------------------------------- songs


def test_a_song_is_measured_in_full_band_where_both_sound(separable_song, splitter):
    found = song.song_report(case(splitter, protocol="own"), separable_song)
    assert found["seconds"] == 30
    assert found["excerpts"] == 2  # of three, the voice rests in one
    for source in ("vocals", "accompaniment"):
        assert found[source]["nsdr"] > 15
        assert found[source]["sdr_gain"] > 10
    by_hand = recordings.song(separable_song)[0]
    before = ratios.sdr(by_hand[1], by_hand.sum(axis=0))
    assert found["vocals"]["sdr"] - found["vocals"]["sdr_gain"] == pytest.approx(before)


def test_the_part_of_a_song_is_where_the_voice_is(separable_song):
    part, rate = recordings.song(separable_song, seconds=8)
    assert part.shape == (2, 2, 8 * rate)
    assert np.mean(part[1] ** 2) > 0.9 * np.mean(recordings.song(separable_song)[0][1, :, : 10 * rate] ** 2)


def test_at_0_db_both_are_as_loud(separable_song):
    whole, _ = recordings.song(separable_song, "paper")
    np.testing.assert_allclose(np.linalg.norm(whole.reshape(2, -1), axis=1), 1)
