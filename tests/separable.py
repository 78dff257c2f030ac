"""Fixtures for the ruler: a clip whose sources share no frequency, and a network that knows where the border is."""

import numpy as np
import pytest
import soundfile

from streamsep import model
from tests import graphs

RATE = 16_000
BORDER = 4000  # Hz: accompaniment below, voice from there to 7 kHz, clear of what resampling takes


def noise(channels, samples, seed=0):
    return np.random.default_rng(seed).normal(0, 1, (channels, samples))


def sources(samples, rate, seed=0):
    """Accompaniment and voice, `[shape=(2, samples)]`."""
    spectrum = np.fft.rfft(noise(2, samples, seed))
    f = np.fft.rfftfreq(samples, 1 / rate)
    spectrum[0, f >= BORDER] = 0
    spectrum[1, (f < BORDER) | (f >= 7000)] = 0
    x = np.fft.irfft(spectrum, samples) * [[0.01], [0.05]]
    return x / np.abs(x).max()


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """A folder like MIR-1K's, of three clips: `clips/singer_1_01.flac` and on, each quieter than the one before."""
    folder = tmp_path_factory.mktemp("mir1k")
    (folder / "clips").mkdir()
    for i in (1, 2, 3):
        soundfile.write(folder / "clips" / f"singer_1_0{i}.flac", sources(20_000 + 2000 * i, RATE, i).T / i, RATE)
    (folder / "three.txt").write_text("# a comment\nsinger_1_01\nsinger_1_02  # and one here\n\nsinger_1_03\n")
    (folder / "missing.txt").write_text("singer_1_01\nsinger_1_99\n")
    return folder


@pytest.fixture(scope="session")
def separable(clips):
    """The first of them."""
    return clips / "clips" / "singer_1_01.flac"


@pytest.fixture(scope="session")
def separable_song(tmp_path_factory):
    """A stereo song of 30 s at 48 kHz, without its suffix; the voice rests in the middle third."""
    path = tmp_path_factory.mktemp("songs") / "song"
    x = sources(30 * 48_000, 48_000)
    x[1, 10 * 48_000 : 20 * 48_000] = 0
    for i, source in enumerate(("accompaniment", "vocals")):
        soundfile.write(f"{path}.{source}.flac", np.stack([x[i], 0.5 * x[i]], 1), 48_000)
    return path


@pytest.fixture(scope="session")
def splitter(tmp_path_factory):
    """All above the border is voice."""
    high = np.arange(513) >= 256
    return model.load(graphs.constant(tmp_path_factory.mktemp("model") / "splitter.onnx", (high, ~high)))
