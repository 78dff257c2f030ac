"""Filters: a network that sees phase, from training through export to the engine. The whole is one estimate, bit by bit."""

import numpy as np
import pytest
import torch

from bench.ruler.estimates import Case, estimates
from export import reader
from export.exporter import export
from streamsep import engine, model, ort, rows
from streamsep.batch import Batch
from streamsep.engine import Separator
from streamsep.frames import FRAMES, Frames
from tests.training import RATE, music, voice
from tests.untrained import write_checkpoint
from train import checkpoint, config, mean
from train.deepfilter import DeepFilter
from train.growth import first_weights
from train.optimizer import Optimizer
from train.stft import Transform

FILTER = {"taps": 3, "near": 1, "group": 4, "groups": 20, "context": 4, "width": 16}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def settings() -> config.Config:
    return config.load("tiny", ['network="filter"', *(f"filter.{key}={value}" for key, value in FILTER.items())])


@pytest.fixture(scope="module")
def source(tmp_path_factory, settings):
    return write_checkpoint(tmp_path_factory.mktemp("filters") / "best.pt", settings)


@pytest.fixture(scope="module")
def network(source) -> DeepFilter:
    found = checkpoint.trained(checkpoint.load(source))
    assert isinstance(found, DeepFilter)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory, source):
    folder = tmp_path_factory.mktemp("files")
    for precision in ("fp32", "fp16", "int8"):
        export(source, folder / f"{precision}.onnx", precision)
    return {precision: folder / f"{precision}.onnx" for precision in ("fp32", "fp16", "int8")}


@pytest.fixture(scope="module")
def loaded(files):
    return model.load(files["int8"])


@pytest.fixture(scope="module")
def transform(settings) -> Transform:
    return Transform(settings.n_fft, settings.synthesis_length, settings.hop_length)


@pytest.fixture(scope="module")
def stems() -> np.ndarray:
    """[shape=(2, samples)], two seconds."""
    return np.stack([voice(2), music(2)]).astype(np.float32)


def separated(network, mixture, transform):
    """Spectra of the sources of `mixture` `[shape=(streams, frames, n_bins)]`."""
    with torch.no_grad():
        output, _ = network(network.sees(mixture, transform.mag_scale), network.initial(len(mixture)))
        return network.estimates(output, mixture)


def snr(truth, got):
    truth, got = np.asarray(truth, float), np.asarray(got, float)
    return 10 * np.log10(np.square(truth).sum() / np.square(got - truth).sum())


# --- network ----------------------------------------------------------------------------------------------------------


def test_phase_and_level_of_the_mixture_are_those_of_the_estimates(network, transform, stems):
    mixture = transform.analyse(torch.from_numpy(stems.sum(0, keepdims=True)))
    found = separated(network, mixture, transform)
    turn = 0.01 * torch.exp(torch.tensor(1.234j))
    # Bins far below the frame's RMS meet the floors of features and directions.
    again = separated(network, mixture * turn, transform) / turn
    torch.testing.assert_close(again, found, atol=2e-3 * float(found.abs().max()), rtol=0)


def test_estimates_add_up_and_filters_do_something(network, transform, stems):
    mixture = transform.analyse(torch.from_numpy(stems.sum(0, keepdims=True)))
    found = separated(network, mixture, transform)
    torch.testing.assert_close(found.sum(1), mixture)
    with torch.no_grad():
        masks, _ = network.full(transform.magnitude(mixture), network.full.initial(1))
    masked, reach = masks.transpose(1, 2) * mixture.unsqueeze(1), network.shape.reach
    assert snr(masked[..., :reach].abs(), found[..., :reach].abs()) < 20
    torch.testing.assert_close(found[..., reach:], masked[..., reach:])


def test_whole_sequence_equals_frame_by_frame_and_looks_at_nothing_to_come(network, transform, stems):
    seen = network.sees(transform.analyse(torch.from_numpy(stems)), transform.mag_scale)
    with torch.no_grad():
        whole, end = network(seen, network.initial(2))
        state, parts = network.initial(2), []
        for t in range(seen.shape[1]):
            part, state = network(seen[:, t : t + 1], state)
            parts.append(part)
        changed = seen.clone()
        changed[:, 100:] = 1
        other, _ = network(changed, network.initial(2))
    torch.testing.assert_close(torch.cat(parts, 1), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(state, end, atol=1e-4, rtol=0)
    torch.testing.assert_close(other[:, :100], whole[:, :100], atol=1e-5, rtol=0)


def test_a_filter_takes_from_the_frames_and_bins_that_it_says(network, transform, stems):
    """One tap, one neighbour: by hand."""
    f, mixture = network.shape, transform.analyse(torch.from_numpy(stems[:1]))
    filters = torch.zeros(1, mixture.shape[1], 1, f.taps, f.bins, 2, f.reach)
    filters[..., 2, 0, 1, 30] = 0.5  # bin 29, two frames ago, times 0.5 i
    by_group = filters.unflatten(-1, (f.groups, f.group)).movedim(-2, 2)
    output = torch.cat([torch.zeros(1, mixture.shape[1], 2 * network.n_bins), by_group.flatten(2)], -1)
    expected = torch.zeros_like(mixture)
    turned = torch.exp(torch.tensor(2j * np.pi * 29 * transform.hop_length / transform.n_fft * 2))
    expected[:, 2:, 30] = 0.5j * turned * mixture[:, :-2, 29]
    torch.testing.assert_close(network.estimates(output, mixture)[:, 0], expected)


def test_it_begins_as_the_full_band_that_it_is_given(settings, transform, stems):
    torch.manual_seed(3)
    plain = checkpoint.network(config.load("tiny")).eval()
    made = checkpoint.network(settings)
    made.load_state_dict(first_weights(plain.state_dict(), made))
    mixture = transform.analyse(torch.from_numpy(stems.sum(0, keepdims=True)))
    masks, _ = plain(transform.magnitude(mixture), plain.initial(1))
    torch.testing.assert_close(separated(made.eval(), mixture, transform), masks.transpose(1, 2) * mixture.unsqueeze(1))


def test_filters_may_come_from_another_run(settings, network):
    other = checkpoint.network(config.load("tiny")).state_dict()
    state = first_weights(other, network, network.state_dict())
    assert torch.equal(state["full.heads.weight"], other["heads.weight"])
    assert torch.equal(state["say.weight"], network.say.weight)
    with pytest.raises(ValueError, match="no filters in what they were to come from"):
        first_weights(other, network, other)
    with pytest.raises(ValueError, match="filters for a network that has none"):
        first_weights(other, checkpoint.network(config.load("tiny")), network.state_dict())


def test_a_mean_of_runs_is_of_both_their_parts(settings, source, network):
    content = checkpoint.load(source)
    torch.manual_seed(5)
    kept = {name: content["ema"][name] for name in ("full.mean", "full.std")}
    other = content | {"ema": {k: v + 0.01 * torch.randn_like(v) for k, v in content["ema"].items()} | kept}
    x = torch.rand(1, 20, network.n_bins + 4 * network.top)

    def given(content):
        made = checkpoint.network(settings).eval()
        made.load_state_dict(content["ema"])
        return made(x, made.initial(1))[0]

    for shares, same in (((1.0, 0.0), content), ((0.0, 1.0), other)):
        torch.testing.assert_close(given(mean.mean([content, other], shares)), given(same), atol=1e-4, rtol=0)
    half = mean.mean([content, other], (0.5, 0.5))["ema"]["say.weight"]
    torch.testing.assert_close(half, (content["ema"]["say.weight"] + other["ema"]["say.weight"]) / 2)
    with pytest.raises(checkpoint.CheckpointError, match="filters that see other features"):
        mean.mean([content, other | {"ema": other["ema"] | {"full.mean": 1 + kept["full.mean"]}}], (0.5, 0.5))


def test_frozen_the_full_band_stays_and_the_filters_learn(settings, stems, transform):
    made = checkpoint.network(settings.model_copy(update={"frozen": True})).train()
    mixture = transform.analyse(torch.from_numpy(stems.sum(0, keepdims=True)))
    output, _ = made(made.sees(mixture, transform.mag_scale), made.initial(1))
    made.estimates(output, mixture).abs().square()[:, 0].sum().backward()
    assert all(p.grad is None for p in made.full.parameters())
    assert float(made.say.weight.grad.abs().max()) > 0
    assert not made.full.training


def test_muon_takes_the_full_band_and_adamw_the_groups(settings):
    made = checkpoint.network(settings)
    muon, adamw = Optimizer(made, "muon", 1e-3, 0.01).parts
    full = {id(p) for p in made.full.parameters() if p.ndim == 2}
    assert {id(p) for g in muon.param_groups for p in g["params"]} == full
    assert {id(p) for g in adamw.param_groups for p in g["params"]} == {id(p) for p in made.parameters()} - full


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["filter.groups=66"], "reach beyond the 257 bins: expected fewer groups"),
        (["filter.groups=21"], "filter.groups=21 must be a multiple of layers=2"),
        (['network="lstm"', "frozen=true"], "frozen=true is for network='filter'"),
        (["frozen=true", 'optimizer="muon"'], "frozen=true leaves optimizer='muon' no matrices: expected 'adamw'"),
        (["filter.depth=2"], "filter.depth"),
        (["filter.context=3"], "context=3 must be a multiple of group=4"),
    ],
)
def test_what_cannot_be_is_refused(settings, change, message):
    with pytest.raises(config.ConfigError, match=message):
        config.load("tiny", ['network="filter"', "filter.groups=20", *change])


# --- file -------------------------------------------------------------------------------------------------------------


def test_the_contract_says_what_filters_there_are(loaded):
    assert loaded.contract.filters == model.Filters(taps=3, near=1, group=4, groups=20, seen=84)
    assert loaded.contract.inputs == ("mag_phase", "h", "c")
    assert loaded.contract.network == "2 x 32 LSTM, filters"
    with pytest.raises(ValueError, match="filters reach bin 300: expected at most n_bins=257"):
        model.Contract(**loaded.contract.model_dump() | {"filters": loaded.contract.filters.model_dump() | {"seen": 300}})


@pytest.mark.parametrize(("precision", "least"), [("fp32", 100), ("fp16", 55), ("int8", 40)])
def test_a_files_weights_come_back(files, settings, network, transform, stems, precision, least):
    content = reader.read(files[precision])
    again = checkpoint.network(settings)
    again.load_state_dict(first_weights(content["ema"], again))
    seen = network.sees(transform.analyse(torch.from_numpy(stems)), transform.mag_scale)
    with torch.no_grad():
        one, other = (n(seen, n.initial(2))[0].numpy() for n in (network, again.eval()))
    assert snr(one, other) > least


def test_no_stream_hears_another_by_a_bit(loaded):
    assert rows.RowsNetwork(loaded, 9).together


# --- engine -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "least"), [("fp32", 90), ("fp16", 50), ("int8", 35)])
def test_the_engine_gives_what_pytorch_gives(files, network, transform, stems, precision, least):
    separator = Separator(model.load(files[precision]), RATE, 1)
    x = stems.sum(0, keepdims=True)
    y = np.concatenate([separator.process(x), separator.flush()], -1)[:, 0, separator.latency :]
    expected = transform.synthesise(separated(network, transform.analyse(torch.from_numpy(x)), transform))[0].numpy()
    assert snr(expected, y[:, : expected.shape[1]]) > least
    np.testing.assert_allclose(y.sum(0), x[0], atol=1e-6)


@pytest.mark.parametrize("rate", [8_000, RATE, 44_100, 48_000])
def test_engine_and_numpy_agree_at_every_rate(files, stems, rate):
    references = stems[:, None].astype(float)
    streamed, whole = (
        estimates(Case(str(files["fp32"]), way=way, rate=rate), references, references.sum(0), RATE).sources
        for way in ("runtime", "whole")
    )
    assert snr(whole, streamed) > 80


def test_filters_may_reach_above_a_slow_devices_band(tmp_path, settings, stems):
    wide = settings.model_copy(update={"filter": settings.filter.model_copy(update={"groups": 62})})
    export(write_checkpoint(tmp_path / "best.pt", wide), tmp_path / "wide.onnx")
    assert model.load(tmp_path / "wide.onnx").contract.filters.reach > 1.9 * 128  # bins of the device
    references = stems[:, None].astype(float)
    streamed, whole = (
        estimates(Case(str(tmp_path / "wide.onnx"), way=way, rate=8_000), references, references.sum(0), RATE).sources
        for way in ("runtime", "whole")
    )
    assert snr(whole, streamed) > 80


@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_files_batches_and_the_reference_give_the_same_bits(loaded, rate, channels):
    x = np.random.default_rng(0).uniform(-0.3, 0.3, (channels, rate)).astype(np.float32)
    separator = Separator(loaded, rate, channels)
    y = separator.process(x)
    separator.reset()
    cut = [separator.process(x[:, start : start + 997]) for start in range(0, rate, 997)]
    np.testing.assert_array_equal(np.concatenate(cut, -1), y)
    np.testing.assert_array_equal(Separator(loaded, rate, channels, use_c_api=False).process(x), y)

    separator.reset()
    frames, hop = Frames(separator), separator.geometry.hop_length
    whole = rate // (FRAMES * hop) * FRAMES * hop
    parts = [frames.process(np.ascontiguousarray(x[:, n : n + frames.samples])) for n in range(0, whole, frames.samples)]
    np.testing.assert_array_equal(np.concatenate(parts, -1)[..., : whole - hop], y[..., hop:whole])

    batch = Batch(loaded, [(rate, channels)] * 3)
    mine, other = batch.join(), batch.join()
    loud = np.random.default_rng(1).uniform(-1, 1, x.shape).astype(np.float32)
    np.testing.assert_array_equal(batch.process({mine: x, other: loud})[mine], y)


def test_channels_keep_to_themselves(loaded, stems):
    """The filters come from the mean of all channels and go to each one's own sound."""
    x = np.stack([stems.sum(0), np.zeros_like(stems[0])])
    y = Separator(loaded, RATE, 2).process(x)
    assert np.abs(y[0, 0]).max() > 1e-3
    np.testing.assert_allclose(y[:, 1], 0, atol=1e-7)


def test_a_reset_forgets_the_frames_before(loaded, stems):
    x = stems.sum(0, keepdims=True)
    separator = Separator(loaded, RATE, 1)
    first = separator.process(x)
    separator.reset()
    assert not separator.state.transform.past.any()
    np.testing.assert_array_equal(separator.process(x), first)


def test_a_late_hop_goes_through_the_last_mask_without_filters(loaded, stems):
    """Filters follow phases: those of another hop would add noise. What the worker does while the network is late."""
    separator = Separator(loaded, RATE, 1)
    s, hop = separator.state, separator.geometry.hop_length
    x = stems.sum(0, keepdims=True)
    for n in range(40):
        s.x[:] = x[:, n * hop : (n + 1) * hop]
        separator.hop()
    held = s.held.copy()
    s.x[:] = x[:, 40 * hop : 41 * hop]
    engine.listen(s)
    assert not s.held_filters.any()
    engine.finish(s)
    np.testing.assert_array_equal(s.held, held)
    expected = s.transform.spectrum * held[0]
    np.testing.assert_array_equal(s.transform.masked, expected.astype(np.complex64))
    kept = s.transform.turn.size
    np.testing.assert_allclose(s.transform.past[0], s.transform.spectrum[:, :kept] * s.transform.turn, rtol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e4])
def test_what_is_no_filter_is_counted_and_not_heard(loaded, stems, value):
    separator = Separator(loaded, RATE, 1)
    s, hop = separator.state, separator.geometry.hop_length
    x = stems.sum(0, keepdims=True)
    for n in range(20):
        s.x[:] = x[:, n * hop : (n + 1) * hop]
        engine.before_network(s)
        assert ort.step(separator.network.compiled)
        if n == 10:
            s.filters[3, 0, 1, 2, 0, 1] = value
        good = engine.after_network(s, True)
        assert good == (n != 10)
        assert np.isfinite(s.y).all()
        assert np.abs(s.y).max() < 2
    assert separator.counts["bad_masks"] == 1
