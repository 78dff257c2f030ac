"""The training room: data sets, mixtures, network, losses, and a run that can be stopped anywhere."""

import csv
import signal
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from click.testing import CliRunner

from tests.training import RATE, ROOT, command, music, voice
from train import checkpoint, config, curve, datasets, loss, mean, provenance
from train.__main__ import main
from train.bands import BandLSTM, edges
from train.growth import bare, grown
from train.model import MaskLSTM, MaskNetwork
from train.parallel import Group
from train.stft import Transform
from train.trainer import Trainer

MIR1K = Path(__file__).parents[2] / "shared/data/mir1k"
ALONE = Group(torch.device("cpu"))

needs_mir1k = pytest.mark.skipif(not MIR1K.is_dir(), reason=f"{MIR1K} is missing: it is not part of the repository")


pytestmark = pytest.mark.usefixtures("one_thread")


def tiny(**changes) -> config.Config:
    small = {"hidden": 24, "epochs": 2, "steps_per_epoch": 6, "batch": 3, "seconds": 1.024, "dropout": 0.2}
    return config.load("tiny").model_copy(update=small | changes)


def trainer(folder: Path, out: Path, **changes) -> Trainer:
    settings = tiny(**changes)
    out.mkdir(parents=True, exist_ok=True)
    return Trainer(settings, *datasets.load((), [folder], RATE), out, ALONE)


def run(t: Trainer, steps: int | None = None) -> bool:
    """Run to the end, or stop as Ctrl-C does once `steps` steps are done."""
    return t.run(stop=lambda: steps is not None and t.step >= steps, tick=lambda: None, tell=lambda _: None)


# --- network ----------------------------------------------------------------------------------------------------------


def untrained(kind: str) -> MaskNetwork:
    torch.manual_seed(0)
    if kind == "bands":
        return BandLSTM(n_bins=65, bin_hz=125.0, width=16, hidden=12, layers=2, sources=2).eval()
    return MaskLSTM(n_bins=65, hidden=24, layers=2, sources=2).eval()


@pytest.fixture(scope="module", params=["lstm", "bands"])
def model(request) -> MaskNetwork:
    return untrained(request.param)


@pytest.fixture(scope="module")
def mag() -> torch.Tensor:
    return torch.rand(3, 40, 65, generator=torch.Generator().manual_seed(1)) ** 4


def test_masks_sum_to_one_even_where_all_heads_are_off(model, mag):
    mask, _ = model(mag, model.initial(3))
    assert mask.shape == (3, 40, 2, 65)
    assert (mask >= 0).all()
    torch.testing.assert_close(mask.sum(2), torch.ones(3, 40, 65))
    dead = untrained("lstm" if isinstance(model, MaskLSTM) else "bands")
    torch.nn.init.constant_(dead.heads.bias if isinstance(dead, MaskLSTM) else dead.heads_bias, -100.0)
    torch.testing.assert_close(dead(mag, dead.initial(3))[0], torch.full((3, 40, 2, 65), 0.5))


def test_whole_sequence_equals_frame_by_frame(model, mag):
    whole, end = model(mag, model.initial(3))
    state, masks = model.initial(3), []
    for t in range(mag.shape[1]):
        mask, state = model(mag[:, t : t + 1], state)
        masks.append(mask)
    # Single precision: the sums are the same, their order is not.
    torch.testing.assert_close(torch.cat(masks, 1), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(state, end, atol=1e-5, rtol=0)


def test_no_mask_looks_ahead(model, mag):
    changed = mag.clone()
    changed[:, 20:] = 1.0
    before, after = (model(m, model.initial(3))[0] for m in (mag, changed))
    torch.testing.assert_close(before[:, :20], after[:, :20], atol=1e-6, rtol=0)
    assert (before[:, 20:] - after[:, 20:]).abs().max() > 1e-4


@pytest.mark.parametrize("gain", [0.01, 30.0])
def test_level_changes_no_mask(model, mag, gain):
    # In double precision and far above RMS_FLOOR: where both heads are all but off, a mask is the ratio of two roundings.
    model, loud = deepcopy(model).double(), 1e3 * mag.double()
    one, other = (model(m, model.initial(3))[0] for m in (loud, loud * gain))
    torch.testing.assert_close(one, other, atol=1e-6, rtol=0)


def test_silence_gives_finite_masks(model):
    mask, (h, c) = model(torch.zeros(1, 10, 65), model.initial(1))
    assert torch.isfinite(mask).all()
    assert torch.isfinite(h).all()
    assert torch.isfinite(c).all()


@pytest.mark.parametrize(("n_bins", "bin_hz"), [(513, 15.625), (257, 31.25), (65, 125.0), (2049, 10.77), (5, 2_000.0)])
def test_bands_hold_every_bin_once_and_grow_wider(n_bins, bin_hz):
    found = edges(n_bins, bin_hz)
    widths = np.diff(found)
    assert found[0] == 0
    assert found[-1] == n_bins
    assert (widths > 0).all()
    assert (np.diff(widths[:-1]) >= 0).all()


def test_bands_know_of_each_other_only_across_the_frame():
    """A change in one bin reaches the masks of all bands in that frame and later ones."""
    network = untrained("bands")
    mag = torch.rand(1, 20, 65, generator=torch.Generator().manual_seed(1)) ** 4
    changed = mag.clone()
    changed[0, 10, 30] *= 50
    before, after = (network(m, network.initial(1))[0] for m in (mag, changed))
    moved = (before - after).abs().amax((0, 2))
    assert (moved[:10] == 0).all()
    assert (moved[10] > 0).float().mean() > 0.9
    assert (moved[11:] > 0).any()


# --- transform and losses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [(1024, 256, 128), (1024, 1024, 256), (512, 256, 64)])
def test_synthesis_undoes_analysis(lengths):
    transform = Transform(*lengths)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 8192), np.float32))
    y = transform.synthesise(transform.analyse(x))
    assert y.shape[-1] == 8192 - (lengths[1] - lengths[2])  # the last, incomplete hops are left out
    torch.testing.assert_close(y, x[:, : y.shape[-1]], atol=1e-5, rtol=0)


def test_frame_ends_with_its_hop_and_a_full_scale_sine_reads_one():
    transform = Transform(1024, 256, 128)
    x = np.zeros(4096, np.float32)
    x[2048:] = np.sin(2 * np.pi * 64 / 1024 * np.arange(2048))
    mag = transform.magnitude(transform.analyse(torch.from_numpy(x)))
    assert float(mag[15].abs().max()) < 1e-6  # hop 15 ends at sample 2048
    assert float(mag[16].max()) > 1e-3
    assert float(mag[-1, 64]) == pytest.approx(1.0, abs=1e-3)


def spectra(seed: int, *shape: int) -> torch.Tensor:
    return torch.view_as_complex(torch.randn(*shape, 2, generator=torch.Generator().manual_seed(seed)))


def test_discriminative_loss_is_the_formula():
    s = spectra(0, 2, 2, 7, 9)
    mask = torch.rand(2, 7, 2, 9, generator=torch.Generator().manual_seed(2))
    mixture = s.sum(1)
    e1, e2 = (mask[:, :, i] * mixture.abs() for i in (0, 1))
    s1, s2 = s[:, 0].abs(), s[:, 1].abs()

    def square(a, b):
        return (a - b).square().sum((1, 2))

    value = square(e1, s1) - 0.3 * square(e1, s2) + square(e2, s2) - 0.3 * square(e2, s1)
    expected = (value / mixture.abs().square().sum((1, 2))).mean()
    estimates = mask.transpose(1, 2) * mixture.unsqueeze(1)
    torch.testing.assert_close(loss.discriminative(estimates, mixture, s, 0.3), expected)
    torch.testing.assert_close(  # no clip counts more for being loud
        loss.discriminative(estimates * 100, mixture * 100, s * 100, 0.3), expected
    )


def test_sdr_loss_is_the_mean_sdr_of_both_sources():
    transform = Transform(512, 256, 128)
    stems = torch.from_numpy(np.stack([voice(1.0), music(1.0)]).astype(np.float32))[None]
    mixture = transform.analyse(stems.sum(1))
    first = torch.rand(mixture.shape, generator=torch.Generator().manual_seed(3))
    mask = torch.stack([first, 1 - first], 2)
    sdrs = []
    for i in (0, 1):
        estimate = transform.synthesise(mask[:, :, i] * mixture)
        truth = stems[:, i, : estimate.shape[-1]]
        sdrs.append(10 * torch.log10(truth.square().sum() / (estimate - truth).square().sum()))
    expected = -(sdrs[0] + sdrs[1]) / 2
    # The soft floor, -30 dB of the mixture, moves SDRs of a few dB by hundredths.
    estimates = mask.transpose(1, 2) * mixture.unsqueeze(1)
    torch.testing.assert_close(loss.negative_sdr(estimates, stems, transform), expected, atol=0.05, rtol=0)


# --- data sets --------------------------------------------------------------------------------------------------------


def test_original_mir1k_is_music_left_voice_right_and_split_as_in_the_paper(tmp_path):
    (tmp_path / "Wavfile").mkdir()
    left, right = music(1.0), voice(1.0)
    for name in ("abjones_1_01", "amy_9_08", "amy_9_09", "annar_1_01"):
        soundfile.write(tmp_path / "Wavfile" / f"{name}.wav", np.stack([left, right], 1), RATE)
    training, held = datasets.load((), [tmp_path], RATE)
    assert [r.name for r in training[0].recordings] == ["abjones_1_01"]
    assert [r.name for r in held] == ["amy_9_08", "amy_9_09"]
    assert likeness(training[0].recordings[0].voice, right) > 0.999
    assert likeness(training[0].recordings[0].accompaniment, left) > 0.999


def test_musdb_at_another_rate_in_stereo_adds_up_all_but_the_voice(tmp_path):
    parts = {
        "vocals": voice(2.0, 44_100),
        "drums": music(2.0, 44_100, 1),
        "bass": music(2.0, 44_100, 2),
        "other": music(2.0, 44_100, 3),
    }
    for song in ("train/one", "train/two", "test/three"):
        (tmp_path / song).mkdir(parents=True)
        for part, x in (parts | {"mixture": sum(parts.values())}).items():
            soundfile.write(tmp_path / song / f"{part}.wav", np.stack([1.5 * x, 0.5 * x], 1), 44_100)
    training, held = datasets.load((), [tmp_path], RATE)
    assert [r.name for r in training[0].recordings] == ["one"]
    assert [r.name for r in held] == ["two"]
    recording = training[0].recordings[0]
    assert len(recording.voice) == len(recording.accompaniment) == 2 * RATE
    assert np.sqrt(np.mean(recording.voice**2)) == pytest.approx(1, abs=1e-5)
    assert likeness(recording.voice, datasets.soxr.resample(parts["vocals"], 44_100, RATE)) > 0.999
    rest = sum(datasets.soxr.resample(x, 44_100, RATE) for part, x in parts.items() if part != "vocals")
    assert likeness(recording.accompaniment, rest) > 0.999


def test_song_folders_with_an_accompaniment(tmp_path):
    for song in ("a", "b"):
        (tmp_path / song).mkdir()
        soundfile.write(tmp_path / song / "vocals.flac", voice(1.0), RATE)
        soundfile.write(tmp_path / song / "accompaniment.flac", music(1.0), RATE)
    training, _ = datasets.load((), [tmp_path], RATE)
    assert likeness(training[0].recordings[0].voice, voice(1.0)) > 0.999
    assert likeness(training[0].recordings[0].accompaniment, music(1.0)) > 0.999


def test_tables_choose_role_list_part_and_exceptions(tmp_path, stems):
    (tmp_path / "speech").mkdir()
    for name in ("one", "two", "three"):
        soundfile.write(tmp_path / "speech" / f"{name}.wav", voice(1.0), RATE)
    (tmp_path / "speech" / "some.txt").write_text("one\ntwo\n")
    tables = (
        config.Data(path="speech", role="voice", list="some.txt"),
        config.Data(path=stems.name, exclude=("song3",), split="train", start=1.0, stop=3.0),
        config.Data(path=stems.name, only=("song[03]",), exclude=("song0",), split="validation"),
    )
    training, held = datasets.load(tables, [tmp_path, stems.parent], RATE)
    assert [r.name for r in training[0].recordings] == ["one", "two"]
    assert all(r.accompaniment is None for r in training[0].recordings)
    assert [(r.name, r.samples) for r in training[1].recordings] == [(f"song{i}", 2 * RATE) for i in range(3)]
    assert [r.name for r in held] == ["song3"]


def test_a_long_song_is_scored_where_it_is_sung(tmp_path):
    for song in ("a", "b"):
        singing = np.concatenate([np.zeros(30 * 8000), voice(25, 8000), np.zeros(20 * 8000)])
        soundfile.write(tmp_path / f"{song}.vocals.wav", singing, 8000)
        soundfile.write(tmp_path / f"{song}.accompaniment.wav", music(75, 8000), 8000)
    _, held = datasets.load((), [tmp_path], 8000)
    assert held[0].samples == 30 * 8000
    assert np.count_nonzero(np.abs(held[0].voice) > 1e-3) > 24 * 8000


@needs_mir1k
def test_mir1k_lists_and_channels():
    parts = datasets.split(config.Data(path="mir1k"), MIR1K)
    assert (len(parts["train"]), len(parts["validation"])) == (171, 4)
    clip = datasets.read(parts["train"][0], RATE)
    raw, _ = soundfile.read(MIR1K / "clips" / f"{clip.name}.flac")
    assert likeness(clip.accompaniment, raw[:, 0]) > 0.999
    assert likeness(clip.voice, raw[:, 1]) > 0.999


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "does not exist"),
        (lambda p: p, "holds nothing usable"),
    ],
)
def test_useless_folders_are_named(tmp_path, make, message):
    (tmp_path / "notes.txt").write_text("no sound here")
    with pytest.raises(datasets.DataError, match=message):
        datasets.load((), [make(tmp_path)], RATE)


def test_damaged_files_are_named(tmp_path):
    for part in ("vocals", "accompaniment"):
        (tmp_path / f"x.{part}.wav").write_bytes(b"not a wav file")
    with pytest.raises(datasets.DataError, match=r"cannot read .*x\.vocals\.wav"):
        datasets.load((), [tmp_path], RATE)


def likeness(a: np.ndarray, b: np.ndarray) -> float:
    """Correlation of two signals, 1 for copies up to a gain."""
    n = min(len(a), len(b))
    return float(np.corrcoef(a[:n], b[:n])[0, 1])


# --- configuration ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config.shipped())
def test_shipped_configurations_load(name):
    assert config.load(name).n_bins > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('name = "x"\nhiden = 3', "hiden=3: Extra inputs"),
        ('name = "x"\n[augment]\nspeed = [1.0]', "augment.speed"),
        ('name = "x"\nsynthesis_length = 300', "synthesis_length=300 must be an even multiple"),
        ('name = "x', "is not TOML"),
        ('extends = "nothing"', "cannot be read: expected one of"),
    ],
)
def test_wrong_configurations_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(config.ConfigError, match=message):
        config.load(str(path))


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "optimizer"), [("discriminative", "adamw"), ("sdr", "adamw"), ("sdr", "muon")])
def test_loss_falls_and_the_voice_comes_out(stems, tmp_path, kind, optimizer):
    t = trainer(stems, tmp_path, loss=kind, optimizer=optimizer, epochs=3, steps_per_epoch=20, learning_rate=1e-2, dropout=0.0)
    before = t.validate()["nsdr_vocals"]
    assert run(t)
    first, *_, last = t.report.rows
    assert last["loss"] < first["loss"]
    assert last["nsdr_vocals"] > before + 3  # a tone against noise: easy
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [int(r["step"]) for r in rows] == [20, 40, 60]
    assert {p.name for p in tmp_path.iterdir()} == {"best.pt", "last.pt", "metrics.csv", "curve.png"}
    assert t.learning_rate() == pytest.approx(0, abs=1e-12)


@needs_mir1k
def test_real_voices_come_out(tmp_path):
    table = {"path": "mir1k", "split": "train", "list": "dev.txt"}  # four clips: what counts is that it runs on real ones
    held = table | {"split": "validation"}
    settings = tiny(steps_per_epoch=25, epochs=2, dropout=0.0)
    data = datasets.load([config.Data(**table), config.Data(**held)], [MIR1K.parent], RATE)
    t = Trainer(settings, *data, tmp_path, ALONE)
    run(t)
    assert t.report.rows[-1]["loss"] < t.report.rows[0]["loss"]
    assert t.report.rows[-1]["nsdr_vocals"] > 1


@pytest.mark.parametrize(
    ("stop", "optimizer"),
    [(3, "adamw"), (6, "adamw"), (8, "adamw"), (8, "muon")],  # within the first epoch, at its end, within the second
)
def test_a_stopped_and_resumed_run_ends_with_the_same_bits(stems, tmp_path, stop, optimizer):
    straight = trainer(stems, tmp_path / "straight", optimizer=optimizer)
    assert run(straight)
    assert not run(trainer(stems, tmp_path / "parts", optimizer=optimizer), stop)
    resumed = trainer(stems, tmp_path / "parts", optimizer=optimizer)
    resumed.restore(checkpoint.load(tmp_path / "parts/last.pt"))
    assert resumed.step == stop
    assert run(resumed)
    ends = [checkpoint.load(tmp_path / name / "last.pt") for name in ("straight", "parts")]
    for part in ("model", "ema"):
        for name, weight in ends[0][part].items():
            assert torch.equal(weight, ends[1][part][name]), f"{part}: {name}"
    keys = ("loss", "nsdr_vocals", "step")
    assert [[row[k] for k in keys] for row in ends[0]["history"]] == [[row[k] for k in keys] for row in ends[1]["history"]]


def test_muon_moves_matrices_and_adamw_the_rest(tmp_path, stems):
    t = trainer(stems, tmp_path, optimizer="muon")
    muon, adamw = t.optimizer.parts
    shapes = [[p.ndim for group in part.param_groups for p in group["params"]] for part in (muon, adamw)]
    assert set(shapes[0]) == {2}
    assert set(shapes[1]) == {1}
    assert sum(map(len, shapes)) == len(list(t.model.parameters()))
    before = t.model.lstm.weight_hh_l0.detach().clone()
    rate = t.learning_rate()
    run(t, 1)
    step = (t.model.lstm.weight_hh_l0.detach() - before) / rate
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2, rel=0.3)  # as large as AdamW's are known to be
    assert torch.linalg.cond(step) < 5  # all directions alike


def test_a_run_of_a_version_that_knew_one_optimiser_goes_on(tmp_path, stems):
    first, second = trainer(stems, tmp_path / "a"), trainer(stems, tmp_path / "b")
    run(first, 2)
    first.save("last.pt")
    content = checkpoint.load(tmp_path / "a" / "last.pt")
    second.restore(content | {"optimizer": content["optimizer"][0]})
    assert not run(first, 3)
    assert not run(second, 3)
    for name, weight in first.model.state_dict().items():
        assert torch.equal(weight, second.model.state_dict()[name]), name


def test_a_run_can_begin_with_anothers_weights(stems, tmp_path):
    first = trainer(stems, tmp_path / "a")
    run(first, 3)
    first.save("last.pt")
    second = trainer(stems, tmp_path / "b", seed=1)
    second.begin_with(checkpoint.load(tmp_path / "a" / "last.pt"))
    for name, weight in second.model.state_dict().items():
        assert torch.equal(weight, first.ema.state_dict()[name]), name
    run(second, 1)
    second.save("last.pt")
    third = trainer(stems, tmp_path / "d", seed=2)
    third.begin_with(checkpoint.load(tmp_path / "b" / "last.pt"))
    made_of = third.content()["init"]  # all that came before, for the model's card
    assert (made_of["steps"], made_of["init"]["steps"], made_of["init"]["init"]) == (1, 3, None)
    assert "core" in made_of["machine"]


def test_mixtures_go_on_where_those_of_the_runs_behind_ended(stems, tmp_path):
    def steps(of, stop):
        made, make = [], of.mixer.batch
        of.mixer.batch = lambda step, rows: (made.append(step), make(step, rows))[1]
        run(of, stop)
        return made[:stop]

    first = trainer(stems, tmp_path / "a")
    assert steps(first, 3) == [0, 1, 2]
    second = trainer(stems, tmp_path / "b")
    second.begin_with(first.content())
    assert steps(second, 2) == [3, 4]
    third = trainer(stems, tmp_path / "c")
    third.begin_with(second.content())
    assert steps(third, 1) == [5]
    again = trainer(stems, tmp_path / "d")
    again.restore(third.content())
    assert steps(again, 1) == [6]


@pytest.mark.parametrize("changes", [{"hidden": 8}, {"layers": 1}, {"layers": 3}, {"n_fft": 1024}, {"network": "bands"}])
def test_weights_of_another_shape_are_refused(stems, tmp_path, changes):
    trainer(stems, tmp_path / "a").save("last.pt")
    expected = tiny(**changes)
    other = trainer(stems, tmp_path / "b", **changes)
    message = f"does not fit: expected layers={expected.layers}, hidden={expected.hidden} or less, n_fft={expected.n_fft}"
    with pytest.raises(checkpoint.CheckpointError, match=message):
        other.begin_with(checkpoint.load(tmp_path / "a" / "last.pt"))


def test_a_network_grows_without_a_change_of_its_masks_and_then_learns_with_all_of_it(stems, tmp_path, mag):
    small = trainer(stems, tmp_path / "a")
    run(small, 3)
    small.save("last.pt")
    large = trainer(stems, tmp_path / "b", hidden=40, dropout=0.0, seed=1)
    large.begin_with(checkpoint.load(tmp_path / "a" / "last.pt"))
    mag = torch.rand(2, 30, large.config.n_bins, generator=torch.Generator().manual_seed(1)) ** 4
    before, after = (m.eval()(mag, m.initial(2)) for m in (small.ema, large.model))
    assert (after[0] - before[0]).abs().max() < 1e-5
    h = after[1][0]
    assert (h[..., :24] - before[1][0]).abs().max() < 1e-5
    assert h[..., 24:].abs().mean() > 0.01  # new units hear something, and nobody listens yet
    assert large.model.heads.weight[:, 24:].abs().max() == 0
    run(large, 3)
    new = [large.model.heads.weight[:, 24:], large.model.lstm.weight_hh_l0[:24, 24:], large.model.lstm.weight_ih_l1[:24, 24:]]
    assert all(bool((weight != 0).all()) for weight in new)


def test_a_mean_of_runs_lies_between_them_and_remembers_both(stems, tmp_path):
    root = trainer(stems, tmp_path / "root")
    run(root, 2)
    root.save("last.pt")
    for name, seed in (("a", 1), ("b", 2)):
        branch = trainer(stems, tmp_path / name, seed=seed, learning_rate=1e-2)
        branch.begin_with(checkpoint.load(tmp_path / "root/last.pt"))
        run(branch, 4)
        branch.save("last.pt")
    files = [tmp_path / name / "last.pt" for name in "ab"]
    a, b = (checkpoint.load(file) for file in files)

    def masks(content):
        x = torch.rand(1, 20, root.config.n_bins, generator=torch.Generator().manual_seed(1)) ** 4
        model = checkpoint.network(root.config).eval()
        model.load_state_dict(grown(content["ema"], model))
        return model(x, model.initial(1))[0]

    assert (masks(a) - masks(b)).abs().max() > 1e-3
    of_a_file = b | {"ema": bare(b["ema"])}  # as 8 bits have it
    for shares, same in (((1.0, 0.0), a), ((0.0, 1.0), b)):
        assert (masks(mean.mean([a, of_a_file], shares)) - masks(same)).abs().max() < 1e-5

    done = CliRunner().invoke(mean.main, [*map(str, files), "--share", "0.7", "--share", "0.3", "-o", str(tmp_path / "m.pt")])
    assert done.exit_code == 0, done.output
    made = checkpoint.load(tmp_path / "m.pt")
    expected = 0.7 * a["ema"]["heads.weight"] + 0.3 * b["ema"]["heads.weight"]
    assert torch.allclose(made["ema"]["heads.weight"], expected, atol=1e-6)
    runs = provenance.lineage(provenance.record(made))
    assert [(r["steps"], "mean" in r) for r in runs] == [(2, False), (4, False), (4, False), (0, True)]


def test_means_that_make_no_sense_are_refused(stems, tmp_path):
    for name, changes in (("a", {}), ("b", {"hidden": 8})):
        trainer(stems, tmp_path / name, **changes).save("last.pt")
    files = [str(tmp_path / name / "last.pt") for name in "ab"]
    done = CliRunner().invoke(mean.main, [*files, "-o", str(tmp_path / "m.pt")])
    assert (done.exit_code, "networks of several shapes" in done.stderr) == (1, True)
    done = CliRunner().invoke(mean.main, [*files, "--share", "0.7", "--share", "0.7", "-o", str(tmp_path / "m.pt")])
    assert (done.exit_code, "expected one for each file, 1 in all" in done.stderr) == (2, True)
    assert not (tmp_path / "m.pt").exists()


def test_lists_come_before_exceptions(tmp_path, stems):
    names = sorted(f.name for f in datasets.scan(stems))
    (stems / "some.txt").write_text("\n".join(names))
    try:
        table = config.Data(path=stems.name, list="some.txt", exclude=(names[0],), split="train")
        assert [f.name for f in datasets.split(table, stems)["train"]] == names[1:]
    finally:
        (stems / "some.txt").unlink()


def test_resuming_another_run_is_refused(stems, tmp_path):
    run(trainer(stems, tmp_path), 1)
    with pytest.raises(checkpoint.CheckpointError, match=r"hidden=24, the configuration 25: resume with"):
        trainer(stems, tmp_path, hidden=25).restore(checkpoint.load(tmp_path / "last.pt"))


def test_a_run_from_before_a_key_existed_goes_on(stems, tmp_path):
    run(trainer(stems, tmp_path), 2)
    content = checkpoint.load(tmp_path / "last.pt")
    del content["config"]["spectral"], content["config"]["augment"]["room"]
    t = trainer(stems, tmp_path)
    t.restore(content)
    assert t.step == 2
    with pytest.raises(checkpoint.CheckpointError, match=r"spectral=0.0, the configuration 0.5"):
        trainer(stems, tmp_path, spectral=0.5).restore(content)


def test_the_log_says_what_the_loader_costs(stems, tmp_path):
    told: list[str] = []
    t = trainer(stems, tmp_path, spectral=0.5)
    t.run(stop=lambda: False, tick=lambda: None, tell=told.append)
    assert all("waiting" in line and "loading" in line for line in told)
    rows = curve.read(tmp_path / "metrics.csv")
    assert all(0 <= row["waiting"] <= 1 and row["loading"] > 0 for row in rows)


def test_a_checkpoint_is_whole_or_the_last_one(tmp_path):
    path = tmp_path / "last.pt"
    checkpoint.save(path, {"step": 1, "weights": torch.ones(5)})

    class Unsavable:
        def __reduce__(self):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"step": 2, "weights": Unsavable()})
    assert checkpoint.load(path)["step"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize("content", [b"", b"no checkpoint", b"PK\x03\x04 cut"])
def test_damaged_checkpoints_are_named(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(checkpoint.CheckpointError, match=r"bad\.pt' is damaged or foreign"):
        checkpoint.load(path)


def test_checkpoints_name_data_but_no_place(stems, tmp_path):
    run(trainer(stems, tmp_path), 1)
    content = checkpoint.load(tmp_path / "last.pt")
    assert content["data"][0]["name"] == stems.name
    assert content["data"][0]["recordings"] == 3
    assert str(tmp_path.parent).encode() not in (tmp_path / "last.pt").read_bytes()


# --- command line -----------------------------------------------------------------------------------------------------


def test_interrupt_saves_and_resume_goes_on(stems, tmp_path):
    small = tmp_path / "small.toml"
    small.write_text('extends = "tiny"\nhidden = 16\nbatch = 2\nsteps_per_epoch = 5\nepochs = 100000\n')
    process = command(small, "--data", stems, "--out", tmp_path / "run")
    lines = [process.stdout.readline() for _ in range(2)]
    assert "epoch    1" in lines[1]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert err == ""
    assert "saved: go on with --resume" in out.splitlines()[-1]
    step = checkpoint.load(tmp_path / "run/last.pt")["step"]
    # A budget that is spent already: the run is over at once, or after the step that finds out.
    more = command(small, "--data", stems, "--out", tmp_path / "run", "--resume", "--epochs", step // 5 + 1)
    out, err = more.communicate(timeout=60)
    assert more.returncode == 0, err
    assert "python -m export" in out
    assert checkpoint.load(tmp_path / "run/last.pt")["step"] == (step // 5 + 1) * 5


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nonsense", "--data", "."], 2, "configuration 'nonsense' cannot be read: expected one of"),
        (["tiny", "--data", "/nowhere/at/all"], 1, "data folder '/nowhere/at/all' does not exist"),
        (["tiny"], 2, "Missing option '--data'"),
    ],
)
def test_errors_are_one_line_and_a_code(arguments, code, message):
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == code
    assert message in done.stderr.splitlines()[-1]


def test_the_course_of_runs_that_follow_each_other_is_one_picture(tmp_path):
    metrics = [ROOT / "docs" / "training" / f"{stage}.csv" for stage in ("shipped", "shipped-wide")]
    assert [curve.read(path)[-1]["step"] for path in metrics] == [2100, 1457]
    done = CliRunner().invoke(curve.main, [*map(str, metrics), "-o", str(tmp_path / "x.png"), "--title", "both"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    one = CliRunner().invoke(curve.main, [str(metrics[0]), "-o", str(tmp_path / "one.png")])
    assert one.exit_code == 0
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "x.png").read_bytes()
