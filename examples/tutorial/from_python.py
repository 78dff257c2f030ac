"""The engine from Python: a stream in blocks of any length, as a device hands them over."""

from streamsep import jit_cache

jit_cache.use()  # keeps what is compiled, for this program and the next start

from streamsep import model, soundfiles  # noqa: E402
from streamsep.demo import STEMS  # noqa: E402
from streamsep.engine import Separator  # noqa: E402

vocals, rate = soundfiles.read(STEMS["vocals"])  # float32 [shape=(channels, samples)], and Hz
band, _ = soundfiles.read(STEMS["accompaniment"])
song = vocals + band

separator = Separator(model.load("live"), rate, channels=len(song))
print(f"{separator.sources} at {rate} Hz, {1000 * separator.latency / rate:g} ms late")
separator.set_gain("vocals", -12)  # dB; may be called from any thread while sound runs
for start in range(0, song.shape[1], 128):
    sources = separator.process(song[:, start : start + 128])  # [shape=(sources, channels, 128)]
    heard = sources.sum(axis=0)  # what a player would get
print(separator.counts)
tail = separator.flush()  # what is still inside, [shape=(sources, channels, latency)]; then all is forgotten
