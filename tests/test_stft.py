"""Window pairs, geometry, and one hop of analysis and synthesis against NumPy's FFT."""

import numpy as np
import pytest

from streamsep import stft
from streamsep.stft import Geometry, window_pair
from tests import graphs

PRESETS = {
    "studio": (1024, 1024, 256),
    "studio, hop 512": (1024, 1024, 512),
    "live": (1024, 256, 128),
    "ultra": (1024, 128, 64),
}


@pytest.mark.parametrize("lengths", [*PRESETS.values(), (2822, 706, 353), (3072, 768, 384)])
def test_windows_reconstruct_perfectly(lengths):
    n_fft, length, hop = lengths
    analysis, synthesis = window_pair(n_fft, length, hop)
    product = analysis[-length:].astype(float) * synthesis
    np.testing.assert_allclose(product.reshape(-1, hop).sum(0), 1, atol=1e-6)


def test_analysis_window_is_long_and_falls_off_late():
    analysis, _ = window_pair(1024, 256, 128)
    assert analysis.argmax() == 1024 - 128
    assert np.all(np.diff(analysis[: 1024 - 128]) > 0)
    assert np.all(np.diff(analysis[1024 - 128 :]) < 0)


@pytest.mark.parametrize("lengths", [(1024, 2048, 512), (1024, 256, 100)])
def test_impossible_windows_are_refused(lengths):
    with pytest.raises(ValueError, match="synthesis_length"):
        window_pair(*lengths)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [
        (8000, (512, 128, 64)),
        (16000, (1024, 256, 128)),
        (44100, (2822, 706, 353)),
        (48000, (3072, 768, 384)),
        (192000, (12288, 3072, 1536)),
    ],
)
def test_geometry_keeps_durations(rate, expected):
    g = Geometry.at(graphs.contract(), rate)
    assert (g.n_fft, g.synthesis_length, g.hop_length) == expected


@pytest.mark.parametrize("rate", [0, 7999, 192001])
def test_geometry_refuses_rates(rate):
    with pytest.raises(ValueError, match=f"sample_rate={rate}"):
        Geometry.at(graphs.contract(), rate)


def test_symmetric_window_fits_at_every_rate():
    contract = graphs.contract(**graphs.STUDIO)
    for rate in (8000, 11025, 22050, 44100, 88200, 96000, 176400, 192000):
        g = Geometry.at(contract, rate)
        window_pair(g.n_fft, g.synthesis_length, g.hop_length)


def test_one_hop_matches_numpy_and_a_full_scale_sine_reads_one():
    geometry = Geometry.at(graphs.contract(), 48000)
    t = stft.make_transform(geometry, channels=2, sources=2)
    frequency = 64 * 48000 / geometry.n_fft
    x = np.sin(2 * np.pi * frequency * np.arange(geometry.n_fft) / 48000).astype(np.float32)
    for start in range(0, geometry.n_fft, geometry.hop_length):
        stft.analyse(t, np.stack([x, -0.5 * x])[:, start : start + geometry.hop_length].copy())
    np.testing.assert_allclose(t.spectrum[0], np.fft.rfft(x * t.analysis), atol=2e-3)
    mag = np.zeros(513, np.float32)
    stft.downmix_magnitude(t.spectrum, stft.mag_scale(t.analysis), mag)
    assert mag.argmax() == 64
    assert mag[64] == pytest.approx(0.25, abs=1e-3)  # the mean of 1 and -0.5
