"""Mixtures: what makes few voices many, and who makes them in time."""

import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training import RATE
from train import config, datasets, loss, mixing, production
from train.loader import Loader
from train.room import impulse_response
from train.stft import Transform
from train.voices import move_formants

PLAIN = {"stem_eq_db": 0, "mix_eq_db": 0, "low_pass": 0, "high_pass": 0, "noise": 0, "gain_db": (0, 0), "balance_db": (0, 0)}


def mixer(stems: Path, **changes) -> mixing.Mixer:
    training, _ = datasets.load((), [stems], RATE)
    return mixing.Mixer(training, config.Augment(**changes), RATE, RATE, seed=5)


def test_a_step_draws_the_same_mixtures_whenever_it_is_made(stems):
    one, other = mixer(stems), mixer(stems)
    other.batch(3, range(2))
    for a, b in zip(vars(one.batch(7, range(2))).values(), vars(other.batch(7, range(2))).values(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.batch(7, range(2)).stems, one.batch(8, range(2)).stems)


def test_balance_stays_in_its_range(stems):
    plain = {"stem_eq_db": 0, "mix_eq_db": 0, "low_pass": 0, "high_pass": 0, "noise": 0, "speeds": (1.0,)}
    batch = mixer(stems, silent_voice=0, silent_accompaniment=0, **plain).batch(0, range(200))
    rms = batch.stems.square().mean(-1).sqrt()
    balance = 20 * torch.log10(rms[:, 0] / rms[:, 1])
    assert float(balance.abs().max()) < 6 + 3  # a cut of one second may be louder or softer than its recording
    assert float(balance.max() - balance.min()) > 8
    torch.testing.assert_close(mixing.apply(batch), batch.stems, atol=1e-5, rtol=0)


def test_low_pass_empties_the_top_and_keeps_the_rest(stems):
    changes = {"low_pass": 1, "low_pass_hz": (4000, 4000), "noise": 1, "noise_db": (-20, -20), "stem_eq_db": 0, "mix_eq_db": 0}
    batch = mixer(stems, high_pass=0, **changes).batch(0, range(40))
    power = torch.fft.rfft(mixing.apply(batch)).abs().square()[:, 1]  # the noise is in the accompaniment
    before = torch.fft.rfft(batch.stems).abs().square()[:, 1]
    hertz = torch.linspace(0, RATE / 2, power.shape[-1])
    low, top = hertz < 3900, hertz > 7900
    heard = before.sum(-1) > 0
    torch.testing.assert_close(power[heard][:, low].sum(-1), before[heard][:, low].sum(-1), rtol=0.01, atol=0)
    loss_db = 10 * torch.log10(before[heard][:, top].sum(-1) / power[heard][:, top].sum(-1))
    assert float(loss_db.min()) > 11  # one octave of the gentlest slope, 12 dB
    assert float(loss_db.max()) > 90


def test_a_dull_voice_loses_its_top_and_the_accompaniment_does_not(stems):
    batch = mixer(stems, dark=1, dark_hz=(500, 500), dark_slope_db=(6, 6), **PLAIN).batch(0, range(8))
    hertz = np.linspace(0, RATE / 2, mixing.CURVE)
    gain = 20 * np.log10(batch.curves.numpy())
    assert np.ptp(gain[:, 1]) == 0
    dull = -6 * np.log2(np.maximum(hertz / 500, 1))
    np.testing.assert_allclose(gain[:, 0], np.broadcast_to(dull, gain[:, 0].shape), atol=1e-3)


def test_silent_stems_happen(stems):
    batch = mixer(stems, silent_voice=0.5, silent_accompaniment=0.5).batch(0, range(40))
    silent = batch.stems.square().sum(-1) == 0
    assert silent.any(0).all()
    assert not silent.all(1).any()


# --- other voices, other rooms -----------------------------------------------------------------------------------------


def vowel(pitch: float, formant: float) -> torch.Tensor:
    """A buzz of `pitch` Hz with a resonance at `formant` Hz, three seconds `[shape=(1, samples)]`."""
    t = np.arange(3 * RATE) / RATE
    hertz = pitch * np.arange(1, int(7900 / pitch))
    gains = 1 / (1 + ((hertz - formant) / 150) ** 2) + 0.03
    return torch.from_numpy((gains[:, None] * np.sin(2 * np.pi * hertz[:, None] * t)).sum(0).astype(np.float32))[None]


def partials(x: torch.Tensor, pitch: float) -> tuple[np.ndarray, np.ndarray]:
    """Frequencies of the partials up to 3 kHz, and their energies."""
    power = np.abs(np.fft.rfft(x[0].numpy()[:RATE] * np.hanning(RATE))) ** 2  # 1 Hz a bin
    hertz = pitch * np.arange(1, int(3000 / pitch))
    return hertz, np.array([power[round(f) - 2 : round(f) + 3].sum() for f in hertz])


@pytest.mark.parametrize("pitch", [110.0, 220.0, 330.0])
@pytest.mark.parametrize("ratio", [0.82, 1.22])
def test_formants_move_and_the_pitch_stays(pitch, ratio):
    x = vowel(pitch, 1300.0)
    y = move_formants(x, torch.tensor([ratio]))
    hertz, before = partials(x, pitch)
    _, after = partials(y, pitch)
    moved = np.log((hertz * after).sum() / after.sum()) - np.log((hertz * before).sum() / before.sum())
    assert 0.5 < moved / np.log(ratio) < 1.3  # a centre of gravity, which the floor beside the formant holds back
    power = np.abs(np.fft.rfft(y[0].numpy()[:RATE] * np.hanning(RATE))) ** 2
    assert after.sum() > 100 * (power[:3000].sum() - after.sum())  # what there is lies at the partials of the old pitch


def test_formants_left_alone_leave_the_voice_as_it_was():
    x = vowel(220.0, 1300.0)
    torch.testing.assert_close(move_formants(x, torch.ones(1)), x, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("rt60", "db"), [(0.3, -12.0), (1.0, -3.0)])
def test_a_room_rings_as_long_and_as_loud_as_it_was_asked_to(rt60, db):
    h = impulse_response(np.random.default_rng(0), round(1.5 * RATE), rt60, db, RATE).astype(np.float64)
    assert np.sum(h**2) == pytest.approx(1, abs=1e-5)
    assert 10 * np.log10(np.sum(h[1:] ** 2) / h[0] ** 2) == pytest.approx(db, abs=0.1)

    def seconds(x):
        """RT60 by Schroeder's backward integration, from the fall between -3 and -15 dB."""
        left = np.cumsum(x[::-1] ** 2)[::-1]
        level = 10 * np.log10(left / left[0])
        return 5 * (np.argmax(level < -15) - np.argmax(level < -3)) / RATE

    tail = np.fft.rfft(np.where(np.arange(len(h)) > 0, h, 0))
    hertz = np.fft.rfftfreq(len(h), 1 / RATE)
    low, high = np.exp(-((hertz / 400) ** 2)), 1 - np.exp(-((hertz / 6000) ** 8))  # smooth: a wall's ringing is no room's
    assert seconds(np.fft.irfft(tail * low)) == pytest.approx(rt60, rel=0.15)
    assert 0.4 < seconds(np.fft.irfft(tail * high)) / rt60 < 0.75


def test_rooms_are_heard_in_the_stems_they_were_drawn_for(stems):
    batch = mixer(stems, room=0.5, **PLAIN).batch(0, range(40))
    dry = batch.rooms[..., 1:].square().sum(-1) == 0
    assert 0.2 < dry.float().mean() < 0.8
    out = mixing.apply(batch)
    torch.testing.assert_close(out[dry], batch.stems[dry], atol=1e-5, rtol=0)
    one = int(torch.nonzero(~dry[:, 0])[0])
    full = torch.from_numpy(np.convolve(batch.stems[one, 0], batch.rooms[one, 0]))
    expected = full[:RATE].clone()
    expected[: len(full) - RATE] += full[RATE:]  # circular, as the cut
    error = (out[one, 0] - expected).square().sum() / expected.square().sum()
    assert float(error) < 1e-8


def test_more_voices_join_as_often_as_they_should_and_are_no_louder(stems):
    alone, joined = (mixer(stems, several=p, coherent=0, silent_voice=0, **PLAIN).batch(0, range(200)) for p in (0.0, 0.5))
    same = (alone.stems[:, 0] == joined.stems[:, 0]).all(-1)
    assert 0.4 < same.float().mean() < 0.6  # what is drawn after a "no" is drawn as if nobody could join
    levels = 10 * torch.log10(joined.stems[~same, 0].square().mean(-1) / alone.stems[~same, 0].square().mean(-1))
    assert float(levels.abs().mean()) < 2


def tone(amplitude):
    return (amplitude * np.sin(2 * np.pi * 440 * np.arange(4 * RATE) / RATE)).astype(np.float32)


def test_a_compressor_brings_loud_and_soft_nearer():
    loud = np.where(np.arange(4 * RATE) < 2 * RATE, 1.0, 0.1)
    y = production._levelled(np.random.default_rng(0), tone(loud), RATE)
    rms = [np.std(y[start : start + RATE]) for start in (RATE // 2, 5 * RATE // 2)]
    assert 20 * (1 - 0.7) - 0.5 < 20 * np.log10(rms[0] / rms[1]) < 20 * (1 - 0.2) + 0.5


def test_a_driven_voice_has_overtones_it_had_not():
    spectrum = np.abs(np.fft.rfft(production._driven(np.random.default_rng(0), tone(0.1), RATE)))
    assert 0.003 < spectrum[4 * 3 * 440] / spectrum[4 * 440] < 0.3


def test_a_doubled_voice_sways_around_its_pitch_and_comes_later():
    click = np.zeros(4 * RATE, np.float32)
    click[::RATE] = 1
    y = production._doubled(np.random.default_rng(0), click, RATE) - click
    late = [np.argmax(y[start : start + RATE]) / RATE for start in range(0, 4 * RATE, RATE)]
    assert all(0.002 < seconds < 0.042 for seconds in late)
    assert max(late) - min(late) > 1e-4
    y = production._doubled(np.random.default_rng(0), tone(1.0), RATE)
    power = np.abs(np.fft.rfft(y * np.hanning(len(y)))) ** 2
    near = power[int(4 * 440 * (1 - 2 * production.DETUNE)) : int(4 * 440 * (1 + 2 * production.DETUNE)) + 2].sum()
    assert near > 0.99 * power.sum()


def test_an_echo_comes_back_softer():
    click = np.zeros(4 * RATE, np.float32)
    click[0] = 1
    heard = np.flatnonzero(y := production._echoed(np.random.default_rng(0), click, RATE))
    assert len(heard) == 1 + production.REPEATS
    assert len(set(np.diff(heard))) == 1
    levels = 20 * np.log10(y[heard])
    assert -20 <= levels[1] <= -8
    np.testing.assert_allclose(np.diff(levels), levels[1], atol=1e-3)


def test_a_produced_voice_is_as_loud_as_before_and_silence_stays():
    voice = np.random.default_rng(0).standard_normal(RATE, np.float32)
    made = [production.produced(np.random.default_rng(n), voice, RATE) for n in range(20)]
    assert all(y.dtype == np.float32 for y in made)
    np.testing.assert_allclose([np.sum(y**2) for y in made], np.sum(voice**2), rtol=1e-4)
    assert sum(np.abs(y - voice).max() > 0.01 for y in made) > 10
    assert not production.produced(np.random.default_rng(0), np.zeros(RATE, np.float32), RATE).any()


def test_voices_are_produced_and_accompaniments_are_not(stems):
    plain, made = (mixer(stems, produced=p, silent_voice=0, silent_accompaniment=0, **PLAIN) for p in (1e-9, 1.0))
    before, after = (m.batch(0, range(12)).stems for m in (plain, made))
    changed = (before - after).abs().amax(-1) > 1e-4
    assert changed[:, 0].float().mean() > 0.5
    assert not changed[:, 1].any()
    torch.testing.assert_close(after[:, 0].square().mean(-1), before[:, 0].square().mean(-1), rtol=1e-4, atol=0)


def test_every_process_makes_its_rows_of_the_same_batch(stems):
    one = mixer(stems, several=0.3, formants=0.5, room=0.5, produced=0.5)
    whole, halves = one.batch(4, range(6)), [one.batch(4, range(3)), one.batch(4, range(3, 6))]
    for name, value in vars(whole).items():
        assert torch.equal(value, torch.cat([getattr(half, name) for half in halves])), name


def test_playing_faster_is_shorter_and_higher(stems):
    made = mixer(stems, speeds=(1.0, 1.25))
    recording = made.voices.recordings[0]
    slow, fast = (made._cut(recording, "voice", speed, 0.25) for speed in (0, 1))
    assert slow.shape == fast.shape == (RATE,)
    whole = mixing.soxr.resample(recording.voice, 1.25, 1.0)
    start = round(0.25 * len(whole))
    assert np.corrcoef(fast[500:-500], whole[start + 500 : start + RATE - 500])[0, 1] > 0.99
    assert np.corrcoef(slow, recording.voice[round(0.25 * len(recording.voice)) :][:RATE])[0, 1] > 0.9999


# --- losses -----------------------------------------------------------------------------------------------------------


def test_spectral_loss_is_none_for_the_truth_and_one_for_a_voice_in_silence():
    transform = Transform(512, 256, 128)
    x = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 8192), np.float32))
    for scale in (1.0, 0.01):
        sources = torch.stack([torch.zeros_like(x), x], 1) * scale
        mixture = transform.analyse(sources.sum(1))
        voice = torch.tensor([[1.0], [0.0]]).expand(1, mixture.shape[1], 2, mixture.shape[2])
        right, wrong = (loss.spectral(masked(m, mixture), sources, transform) for m in (1 - voice, voice))
        assert float(right) == pytest.approx(0, abs=1e-4)
        assert float(wrong) == pytest.approx(1, abs=1e-3)  # all of the mixture where nothing is, nothing where all is


def test_spectral_loss_hears_a_burst_that_sdr_forgives():
    """A loud second and a quiet one: an error in the quiet one hardly moves the SDR of both."""
    transform = Transform(512, 256, 128)
    x = torch.from_numpy(np.random.default_rng(1).standard_normal((1, 2 * RATE), np.float32))
    x[:, RATE:] *= 0.1
    sources = torch.stack([x, torch.zeros_like(x)], 1)
    mixture = transform.analyse(x)
    mask = torch.stack([torch.ones(mixture.shape), torch.zeros(mixture.shape)], 2)
    late = mask.clone()
    late[:, mask.shape[1] // 2 + 4 :] = 0.5
    early = mask.clone()
    early[:, : mask.shape[1] // 2] = 0.5

    def rise(kind, worse):
        return float(kind(masked(worse, mixture), sources, transform) - kind(masked(mask, mixture), sources, transform))

    shares = {kind: rise(kind, late) / rise(kind, early) for kind in (loss.spectral, energy)}
    assert shares[loss.spectral] > 3 * shares[energy]


def masked(mask, mixture):
    return mask.transpose(1, 2) * mixture.unsqueeze(1)


def energy(estimates, sources, transform):
    """Squared error in time, which is what SDR looks at."""
    estimate = transform.synthesise(estimates)
    return (estimate - sources[..., : estimate.shape[-1]]).square().sum()


# --- loader -----------------------------------------------------------------------------------------------------------


def test_batches_come_in_order_and_are_made_side_by_side(stems):
    made, pair = mixer(stems), threading.Barrier(2)

    def make(step):
        pair.wait(timeout=20)  # broken unless two threads are here at once
        return made.batch(step, range(1))

    with Loader(make, first=3, threads=2) as loader:
        for step in range(3, 9):
            assert torch.equal(loader.batch().stems, made.batch(step, range(1)).stems)
        shares = loader.shares()
        pair.abort()
    assert 0 < shares["waiting"] <= 1
    assert shares["loading"] > 0


def test_what_goes_wrong_in_a_loader_is_heard(stems):
    def make(step):
        raise ValueError("no such recording")

    with Loader(make, first=0, threads=1) as loader, pytest.raises(ValueError, match="no such recording"):
        loader.batch()
