"""What sound goes through before it is separated: a band limit, a microphone, a telephone, or a real codec.

Band limits are zero-phase gains over frequency, applied to the sources, so that what is asked for is what is there. Codecs
are FFmpeg's (LAME, AAC, libopus; by PyAV), encoded and decoded: the mixture is coded, and the sources are what they were.
Their delay is measured and taken away.
"""

import io
from collections.abc import Callable

import numpy as np
import soxr

from .ratios import Array
from .recordings import QualityError

WIRE = "wire"
# Container, encoder, bits a second of one channel, rates it takes (Hz, the last one for all others). At a clip's 16 kHz these
# are the bits a sample of a stereo file at 44.1 kHz and 128 kbit/s, and for Opus of one at 48 kHz and 96 kbit/s.
CODECS = {
    "mp3": ("mp3", "libmp3lame", 24_000, (16_000, 44_100, 48_000)),
    "aac": ("adts", "aac", 24_000, (16_000, 44_100, 48_000)),
    "opus": ("ogg", "libopus", 16_000, (16_000, 48_000)),
}


def _cut(hz: float) -> Callable[[Array], Array]:
    """Half the amplitude at `hz`; all of it gone 5 % above."""
    return lambda f: 0.5 + 0.5 * np.cos(np.pi * np.clip((f / hz - 0.95) / 0.1, 0, 1))


def _band(low: float, high: float, order: int) -> Callable[[Array], Array]:
    """Butterworth's magnitudes: 3 dB down at `low` and at `high` Hz, 6 dB an octave for each `order`."""
    return lambda f: 1 / np.sqrt((1 + (low / np.maximum(f, 1)) ** (2 * order)) * (1 + (f / high) ** (2 * order)))


BANDS = {
    "3500hz": _cut(3500),
    "5000hz": _cut(5000),
    "7000hz": _cut(7000),
    "microphone": _band(150, 6500, 2),  # a cheap electret: no bass, no top
    "telephone": _band(300, 3400, 4),
}
THROUGH = (WIRE, *BANDS, *CODECS)


def through(name: str, references: Array, rate: int) -> tuple[Array, Array]:
    """The sources to be found and the mixture to find them in, after `name` (one of `THROUGH`).

    Parameters
    ----------
    references : float64 [shape=(sources, channels, samples)]
        their sum is the mixture.
    rate
        Hz.
    """
    if name in CODECS:
        return references, coded(references.sum(axis=0), rate, name)
    if name in BANDS:
        frequencies: Array = np.fft.rfftfreq(references.shape[2], 1 / rate).astype(np.float64)
        references = np.fft.irfft(np.fft.rfft(references) * BANDS[name](frequencies), references.shape[2])
    elif name != WIRE:
        raise QualityError(f"through={name!r} is unknown: expected one of {', '.join(THROUGH)}")
    return references, references.sum(axis=0)


def coded(x: Array, rate: int, codec: str) -> Array:
    """`x` `[shape=(channels, samples)]`, of any loudness, encoded with its peak at -6 dBFS, decoded, and put back in place."""
    container, encoder, bits, rates = CODECS[codec]
    at = rate if rate in rates else rates[-1]
    gain = 0.5 / np.abs(x).max()
    decoded, out = _decode(_encode(_resampled(gain * x, rate, at), at, container, encoder, bits * len(x)))
    y = _resampled(decoded, out, rate) / gain
    late = delay(x.sum(axis=0), y.sum(axis=0))
    aligned = np.zeros_like(x)
    first, last = max(0, -late), min(x.shape[1], y.shape[1] - late)
    aligned[:, first:last] = y[:, first + late : last + late]
    return aligned


def delay(x: Array, y: Array) -> int:
    """Samples by which `y` `[shape=(samples,)]` is later than `x`: where their cross-correlation peaks."""
    size = 1 << (len(x) + len(y)).bit_length()
    correlation = np.fft.irfft(np.fft.rfft(y, size) * np.fft.rfft(x, size).conj(), size)
    peak = int(np.argmax(correlation))
    return peak - size if peak > size // 2 else peak


def _resampled(x: Array, rate: int, to: int) -> Array:
    return x if rate == to else soxr.resample(x.T, rate, to, quality="VHQ").T


def _encode(x: Array, rate: int, container: str, encoder: str, bits: int) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=container) as sink:
        stream = sink.add_stream(encoder, rate=rate, layout="mono" if len(x) == 1 else "stereo")
        stream.bit_rate = bits
        resampler = av.AudioResampler(stream.format.name, stream.layout, rate, stream.frame_size or 1024)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(x, np.float32), "fltp", stream.layout.name)
        frame.sample_rate = rate
        for part in (*resampler.resample(frame), *resampler.resample(None)):
            sink.mux(stream.encode(part))
        sink.mux(stream.encode(None))
    return file.getvalue()


def _decode(data: bytes) -> tuple[Array, int]:
    import av

    with av.open(io.BytesIO(data)) as source:
        rate, layout = source.streams.audio[0].codec_context.sample_rate, source.streams.audio[0].codec_context.layout
        resampler = av.AudioResampler("fltp", layout, rate)
        frames = [part for frame in source.decode(audio=0) for part in resampler.resample(frame)]
        frames += resampler.resample(None)
        return np.concatenate([frame.to_ndarray() for frame in frames], axis=1).astype(np.float64), rate
