"""Speech made to sing: syllables found, notes held and hit, the same seed the same song."""

import importlib.util

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from tests.conftest import DATA, need, need_data
from train import sing

SPEECH = DATA / "speech"
MANNER = sing.Manner(
    beat=0.4, middle=57.0, scale=(0, 2, 4, 5, 7, 9, 11), vibrato_hz=5.5, vibrato=0.4, scoop=1.0, damping=0.6,
    formant_db=0.0, formant_hz=3000.0, evenness=1.0, ornament=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def world():
    """pyworld's extension, which `make test` builds."""
    need(importlib.util.find_spec("pyworld"), "pyworld (pip install -e '.[song]'; it needs g++ and Python's headers)")
    return sing.load_world()


def spoken(levels: list[float], frames: int = 30, gap: int = 8) -> sing.Frames:
    """An utterance of one voiced bump for each of `levels` in dB, a dip of 10 dB and then hiss between them."""
    bump = 10 * np.sin(np.linspace(0, np.pi, frames)) - 10
    power = np.concatenate([part for level in levels for part in (level + bump, np.full(gap, -30.0))])
    f0 = np.concatenate([part for _ in levels for part in (np.full(frames, 110.0), np.zeros(gap))])
    envelope = np.repeat(10 ** (power[:, None] / 10) / 65, 65, axis=1)
    return sing.Frames(f0, envelope, np.where(f0[:, None] > 0, 0.1, 1.0) * np.ones((1, 65)))


def test_each_bump_is_a_syllable_and_a_dip_within_a_voiced_stretch_parts_two():
    assert len(sing.nuclei(spoken([0, -3, 2]))) == 3
    two = spoken([0, 0], gap=0)
    assert len(sing.nuclei(two)) == 2
    (a, b), (c, d) = sing.nuclei(two)
    assert a < 15 < b < c < 45 < d  # around the tops
    assert len(sing.nuclei(spoken([0, -40]))) == 1  # a breath is no syllable


def test_a_phrase_holds_its_notes_and_hits_them():
    steady = sing.Manner(**(vars(MANNER) | {"vibrato": 0.0, "scoop": 0.0, "damping": 1.0}))
    frames = spoken([0, -6, 0, 0])
    sung = sing.phrase(np.random.default_rng(3), steady, frames)
    assert len(sung.f0) == len(sung.envelope) == len(sung.aperiodicity)
    assert (sung.f0 > 0).sum() > 1.3 * (frames.f0 > 0).sum()  # vowels are drawn out,
    assert (sung.f0 == 0).sum() <= (frames.f0 == 0).sum()  # what lies between them is not
    held = np.split(np.flatnonzero(sung.f0), np.flatnonzero(np.diff(np.flatnonzero(sung.f0)) > 1) + 1)
    assert len(held) == 4
    for note in held:
        number = np.median(69 + 12 * np.log2(sung.f0[note[len(note) // 2 :]] / 440))
        assert min(abs(number - 57 - 12 * octave - step) for octave in (-2, -1, 0, 1) for step in steady.scale) < 0.2


def test_the_pitch_overshoots_and_sways():
    rng = np.random.default_rng(0)
    notes = sing.melody(np.random.default_rng(0), MANNER, 3)
    pitch, sway = sing.intone(rng, MANNER, [0.0, 1.0, 2.0], 3.0)
    assert pitch.shape == sway.shape == (600,)
    assert notes[1] != notes[0]
    plain = pitch - sway
    step, after = notes[1] - notes[0], plain[200:250] - notes[0]
    assert (after / step).max() > 1.03  # Saitou: past the note, then back to it
    assert abs(np.median(plain[300:390]) - notes[1]) < 0.25
    crossings = np.flatnonzero(np.diff(np.signbit(sway[300:380])))
    assert 0.5 / np.mean(np.diff(crossings) * sing.FRAME) == pytest.approx(5.5, rel=0.08)


def test_uneven_syllables_come_out_more_even():
    frames = spoken([0, -8, 0, -8])
    sung = sing.phrase(np.random.default_rng(1), MANNER, frames)

    def spread(f: sing.Frames) -> float:
        power = 10 * np.log10(f.envelope.sum(1))
        return float(np.std([power[a : b + 1].max() for a, b in sing.nuclei(f)]))

    assert spread(sung) < spread(frames)


def test_speakers_are_told_apart_by_folders_and_by_coded_names(tmp_path):
    for name in (
        "words/de/apfel.ogg",
        "words/de/birne.ogg",
        "words/fr/pomme.ogg",
        "speech/FA01_01.opus",
        "speech/MC13_02.opus",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert {k: len(v) for k, v in sing.speakers(tmp_path / "words").items()} == {"words-de": 2, "words-fr": 1}
    assert set(sing.speakers(tmp_path / "speech")) == {"speech-FA", "speech-MC"}


def test_a_speaker_sings(world, tmp_path):
    """Real speech through WORLD: the length that was asked for, long notes, a range of pitches; and the same again."""
    need_data()
    (tmp_path / "a").mkdir()
    for path in sorted(SPEECH.glob("FA01_*.opus")):
        (tmp_path / "a" / path.name).symlink_to(path)
    run = ["--songs", "1", "--seconds", "8"]
    songs = []
    for place in ("one", "two"):
        result = CliRunner().invoke(sing.main, [str(tmp_path / "a"), "-o", str(tmp_path / place), *run])
        assert result.exit_code == 0, result.output
        song, rate = soundfile.read(tmp_path / place / "a-FA-0.flac")
        assert rate == sing.RATE
        songs.append(song)
    assert len(songs[0]) == pytest.approx(8 * sing.RATE, abs=0.02 * sing.RATE)
    assert np.array_equal(*songs)
    frames = sing.analyse(world, songs[0])
    speech = sing.utterances(world, sorted(SPEECH.glob("FA01_*.opus")))
    lengths = [b - a for a, b in sing.nuclei(frames)]
    assert np.median(lengths) > 1.3 * np.median([b - a for s in speech for a, b in sing.nuclei(s)])
    pitches = frames.f0[frames.f0 > 0]
    assert np.quantile(pitches, 0.9) / np.quantile(pitches, 0.1) > 1.25


def test_no_speech_is_said_and_nothing_written(world, tmp_path):
    (tmp_path / "in").mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(tmp_path / "in" / "noise.wav", noise, 16_000)
    result = CliRunner().invoke(sing.main, [str(tmp_path / "in"), "-o", str(tmp_path / "out")])
    assert result.exit_code == 1
    assert "no speech" in result.output
    assert not list((tmp_path / "out").glob("*"))
