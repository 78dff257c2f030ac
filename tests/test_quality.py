"""The ruler measures what it says: it reproduces published outputs' figures, and shows it when it is held wrongly."""

import json
import random
import warnings

import numpy as np
import pytest
import soundfile

from bench import quality
from streamsep import model
from streamsep.engine import Separator
from tests import graphs
from tests.conftest import DATA, need_data
from train import config, datasets

CLIPS = DATA / "mir1k" / "clips"
REFERENCE = DATA / "reference"
DEV = ("abjones_5_08", "abjones_5_09", "amy_9_08", "amy_9_09")
ANI = ("Ani_1_01", "Ani_1_02")


def noise(channels, samples, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (channels, samples))


def authors_row(name, swapped=False):
    """The paper's authors' own outputs for a clip; they are a sample shorter than some clips."""
    need_data()
    clip, _ = quality.read(CLIPS / f"{name}.flac")
    if swapped:
        clip = clip[::-1]
    stems = [soundfile.read(REFERENCE / f"{name}_iter400_softmask_{s}.wav")[0] for s in ("noise", "signal")]
    frames = min(clip.shape[1], len(stems[0]))
    references = quality.normalised(clip)
    return quality.measure(name, references[:, :frames], np.stack(stems)[:, :frames])


# -------------------------------------------------------------------------------------------------------------- the figures


@pytest.mark.parametrize(("names", "figures"), [(DEV, (9.71, 15.76, 11.52)), (ANI, (11.09, 18.41, 12.00))], ids=["dev", "Ani"])
def test_authors_outputs_have_the_authors_figures(names, figures):
    assert quality.weighted(map(authors_row, names)) == pytest.approx(figures, abs=0.0051)


def test_swapped_channels_show():
    right, wrong = authors_row("amy_9_08"), authors_row("amy_9_08", swapped=True)
    assert right.vocals[0] - wrong.vocals[0] > 15
    assert right.vocals[1] - wrong.vocals[1] > 15


def test_an_unweighted_mean_shows():
    rows = list(map(authors_row, DEV))
    assert np.mean([r.vocals for r in rows], axis=0) != pytest.approx((9.71, 15.76, 11.52), abs=0.03)


def test_a_shorter_filter_shows():
    """Fewer taps forgive less: the figures would not be BSS Eval's."""
    references = quality.normalised(quality.read(CLIPS / "amy_9_08.flac")[0]) if CLIPS.is_dir() else noise(2, 16000)
    references[:, -100:] = 0  # or the delayed ones would be cut off
    late = np.roll(references, 100, axis=1)
    late[:, :100] = 0
    assert quality.bss_eval(references, late[None])[0, 1, 0] > 40
    assert quality.bss_eval(references, late[None], taps=64)[0, 1, 0] < 10


# ---------------------------------------------------------------------------------------------------------------- BSS Eval


@pytest.mark.parametrize("samples", [3000, 16_384])
def test_bss_eval_equals_mir_eval(samples):
    separation = pytest.importorskip("mir_eval.separation")
    if not hasattr(separation, "bss_eval_sources"):
        pytest.skip("this mir_eval has no bss_eval_sources any more")
    references, other = noise(2, samples), noise(2, samples, seed=1)
    estimates = references + 0.3 * references[::-1] + 0.1 * other
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated since mir_eval 0.8: the reason for one of our own
        expected = separation.bss_eval_sources(references, estimates, compute_permutation=False)[:3]
    both = quality.bss_eval(references, np.stack([other, estimates]))
    np.testing.assert_allclose(both[1], np.transpose(expected), atol=1e-6)


def test_bss_eval_forgives_filters_and_gain_and_finds_what_was_added():
    """Long white noises are orthogonal enough for the ratios to be known beforehand."""
    references, artefact = noise(2, 200_000), noise(2, 200_000, seed=1)
    estimates = 5 * (references + 0.1 * references[::-1] + 0.01 * artefact)
    sdr, sir, sar = quality.bss_eval(references, estimates[None])[0].T
    np.testing.assert_allclose(sir, 20, atol=0.2)
    np.testing.assert_allclose(sar, 40, atol=0.2)
    np.testing.assert_allclose(sdr, -10 * np.log10(0.01 + 0.0001), atol=0.2)


def test_silence_and_wrong_shapes_are_refused():
    x = noise(2, 2000)
    with pytest.raises(ValueError, match="silent"):
        quality.bss_eval(x * [[1], [0]], x[None])
    with pytest.raises(ValueError, match="silent"):
        quality.normalised(np.zeros((2, 100), np.float32))
    with pytest.raises(ValueError, match=r"shape \(1, 1, 2000\): expected \(sets, \*\(2, 2000\)\)"):
        quality.bss_eval(x, x[None, :1])


def test_mixture_as_the_estimate_gains_nothing():
    references = noise(2, 20_000)
    row = quality.measure("x", references, np.stack([references.sum(0)] * 2))
    assert row.vocals[0] == pytest.approx(0)
    assert row.accompaniment[0] == pytest.approx(0)


def test_si_sdr_forgives_gain_and_sdr_does_not():
    x, e = noise(2, 10_000), noise(2, 10_000, seed=1)
    assert quality.sdr(x, 2 * x) == pytest.approx(0)
    assert quality.si_sdr(x, 2 * x + 0.02 * e) == pytest.approx(40, abs=0.2)
    assert quality.sdr(x, x + 0.1 * e) == pytest.approx(20, abs=0.2)


# ------------------------------------------------------------------------------------------------------- through the engine


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Accompaniment below 4 kHz, voice from there to 7 kHz, clear of what resampling takes; 16 kHz."""
    path = tmp_path_factory.mktemp("clip") / "singer_1_01.flac"
    spectrum = np.fft.rfft(noise(2, 24_000))
    spectrum[0, 6000:] = 0
    spectrum[1, :6000] = 0
    spectrum[1, 10_500:] = 0
    x = np.fft.irfft(spectrum) * [[0.01], [0.05]]
    soundfile.write(path, x.T / np.abs(x).max(), 16000)
    return path


@pytest.fixture(scope="module")
def splitter(tmp_path_factory):
    """All above 4 kHz is voice."""
    levels = np.zeros((1, 1, 2, 513), np.float32)
    levels[0, 0, 0, 256:] = levels[0, 0, 1, :256] = 1
    path = tmp_path_factory.mktemp("model") / "splitter.onnx"
    node = graphs.helper.make_node
    nodes = [
        node("Unsqueeze", ["mag", "axis"], ["mag4"]),
        node("Mul", ["mag4", "zero"], ["zeros"]),
        node("Add", ["zeros", "levels"], ["mask"]),
        node("Identity", ["h"], ["h_out"]),
        node("Identity", ["c"], ["c_out"]),
    ]
    weights = {"axis": np.array([2], np.int64), "zero": np.float32(0), "levels": levels}
    return model.load(graphs.save(path, graphs.contract(), nodes, weights))


@pytest.mark.parametrize("rate", [16000, 44100, 48000])
def test_a_model_that_separates_gains_at_every_rate(clip, splitter, rate):
    row = quality.clip_row(Separator(splitter, rate, 1), clip, -6)
    assert row.vocals[0] > 15
    assert row.accompaniment[0] > 15
    assert row.failed == 0


def test_level_is_the_mixtures_peak_and_costs_nothing(clip, splitter, monkeypatch):
    separator = Separator(splitter, 16000, 1)
    peaks = []
    process = quality.Frames.process
    monkeypatch.setattr(quality.Frames, "process", lambda self, x: (peaks.append(np.abs(x).max()), process(self, x))[1])
    rows = []
    for level in (-40, -20, 0):
        peaks.clear()
        rows.append(quality.clip_row(separator, clip, level))
        assert 20 * np.log10(max(peaks)) == pytest.approx(level, abs=1e-3)
    np.testing.assert_allclose([r.vocals for r in rows], [rows[0].vocals] * 3, atol=0.01)


def test_every_clip_starts_cold(clip, lstm):
    separator = Separator(lstm, 16000, 1)
    first = quality.clip_row(separator, clip, -6)
    separator.process(noise(1, 5000))
    assert quality.clip_row(separator, clip, -6) == first


# -------------------------------------------------------------------------------------------------------- the command line


def test_command_measures_a_set_as_json(clip, splitter, tmp_path, capsys, monkeypatch):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / clip.name).symlink_to(clip)
    (tmp_path / "set.txt").write_text("# a comment\nsinger_1_01\n")
    command = ["quality", "--model", str(splitter.path), "--data", str(tmp_path), "--set", str(tmp_path / "set.txt")]
    monkeypatch.setattr("sys.argv", [*command, "--json"])
    quality.main()
    report = json.loads(capsys.readouterr().out)
    row = quality.clip_row(Separator(splitter, 16000, 1), clip, -6)
    assert report["vocals"]["gnsdr"] == pytest.approx(row.vocals[0], abs=1e-3)
    assert report["rows"][0]["name"] == "singer_1_01"
    assert report["singers"]["singer"]["clips"] == 1
    assert report["rate"] == 16000
    assert report["peak_dbfs"] == -6


def test_command_measures_a_song(clip, splitter, tmp_path, capsys, monkeypatch):
    x, _ = soundfile.read(clip)
    for i, source in enumerate(("accompaniment", "vocals")):
        soundfile.write(tmp_path / f"song.{source}.wav", np.stack([x[:, i], 0.5 * x[:, i]], 1), 16000)
    monkeypatch.setattr("sys.argv", ["quality", "--model", str(splitter.path), "--song", str(tmp_path / "song")])
    quality.main()
    vocals = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("vocals"))
    assert all(float(v) > 10 for v in vocals.split()[1:])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--model", "none.onnx"], "quality: model file 'none.onnx' does not exist"),
        (["--set", "nowhere"], "quality: set 'nowhere' is unknown: expected a file or one of"),
        (["--rate", "5", "--set", "dev"], "quality: sample_rate=5 Hz is out of range: expected 8000 to 192000"),
        (["--song", "/nowhere/song"], "quality: stem /nowhere/song.accompaniment.* does not exist"),
        (["--data", "/nowhere", "--set", "public100"], "quality: /nowhere/clips/Ani_1_01.flac cannot be read"),
    ],
)
def test_command_fails_with_one_line(splitter, monkeypatch, arguments, says):
    if "dev" in arguments:
        need_data()
    monkeypatch.setattr("sys.argv", ["quality", "--model", str(splitter.path), *arguments])
    with pytest.raises(SystemExit) as caught:
        quality.main()
    assert str(caught.value).startswith(says)
    assert "\n" not in str(caught.value)


def test_public100_is_the_draw_it_says_it_is():
    """Three singers drawn by chance, and nothing of theirs, nor a backing track of theirs, in what the shipped model heard."""
    need_data()
    names = sorted((DATA / "mir1k" / "public.txt").read_text().split())
    singers = random.Random(0).sample(sorted({n.split("_")[0] for n in names}), 11)[:3]
    pool = [n for n in names if n.split("_")[0] in singers and not n.startswith("stool_4_")]
    sample = quality.clip_names("public100", DATA / "mir1k")
    assert sample == sorted(random.Random(0).sample(pool, 100))
    heard = [
        f.name
        for table in config.load("shipped-wide").data
        if table.path == "mir1k"
        for part in datasets.split(table, DATA / "mir1k").values()
        for f in part
    ]
    assert len(heard) == 171 + 318 + 4
    songs = {"_".join(n.split("_")[:2]) for n in heard}
    assert not {n.split("_")[0] for n in sample} & {s.split("_")[0] for s in songs}
    shared = (
        "davidson_3/fdps_3 Ani_2/fdps_2 davidson_2/fdps_5 annar_4/fdps_4 annar_2/heycat_1 ariel_1/stool_3 abjones_2/stool_4"
    )
    sung = {"_".join(n.split("_")[:2]) for n in sample}
    for first, second in (pair.split("/") for pair in shared.split()):
        assert not ({first, second} & sung and {first, second} & songs), (first, second)


def test_table_names_what_shares_its_backing_track():
    rows = [quality.Row(f"{song}_01", 10, (1, 2, 3), (4, 5, 6)) for song in ("Ani_1", "stool_4")]
    rows[1] = quality.Row("stool_4_01", 30, (5, 6, 7), (4, 5, 6))
    report = quality.clips_report(rows)
    assert report["vocals"]["gnsdr"] == 4
    assert report["clean"] == {"clips": 1, "gnsdr": 1, "gsir": 2, "gsar": 3}
    assert "no shared backing" in quality.clips_table(report)


def test_the_shipped_model_is_as_good_as_its_file_says():
    """Every fifth clip of the sample, measured anew; the figure in the file is that of all hundred."""
    need_data()
    promised = model.load("live").contract.quality["voice_gnsdr_db"]
    assert promised >= 5
    separator = Separator(model.load("live"), 16_000, 1)
    names = quality.clip_names("public100", quality.DATA)
    assert len(names) == 100
    rows = [quality.clip_row(separator, CLIPS / f"{name}.flac", -6) for name in names[::5]]
    assert quality.weighted(rows)[0] == pytest.approx(promised, abs=1)
