"""A JACK client of compiled code that plays the bundled song round and round until its stdin closes: a light source of sound.

python bench/player.py CLIENT_NAME
"""

import ctypes
import ctypes.util
import sys

import numpy as np
import soundfile
from numba import carray, cfunc, int64, types

from streamsep.demo import STEMS

_AT, _FRAMES, _HEADER = 0, 1, 2  # int64 places before the song


@cfunc(types.int32(types.voidptr, types.voidptr, types.uint64, types.voidptr, types.uint64, types.voidptr))
def _play(source, sink, frame_count, when, status, memory):
    """PaStreamCallback."""
    state = carray(memory, _HEADER, np.int64)
    frames = state[_FRAMES]
    song = carray(memory, 2 * _HEADER + 2 * frames, np.float32)[2 * _HEADER :].reshape(frames, 2)
    y = carray(sink, (int64(frame_count), 2), np.float32)
    for n in range(len(y)):
        y[n] = song[state[_AT]]
        state[_AT] = (state[_AT] + 1) % frames
    return 0


def main() -> None:
    """Play."""
    name = sys.argv[1].encode()  # PortAudio keeps the pointer
    ctypes.CDLL(ctypes.util.find_library("portaudio")).PaJack_SetClientName(name)
    import sounddevice as sd

    stems = [soundfile.read(path, dtype="float32") for path in STEMS.values()]
    song, rate = sum(x for x, _ in stems), stems[0][1]
    memory = np.zeros(2 * _HEADER + song.size, np.float32)
    memory.view(np.int64)[_FRAMES] = len(song)
    memory[2 * _HEADER :] = song.reshape(-1)
    api = next(api for api in sd.query_hostapis() if api["name"].startswith("JACK"))
    stream = sd._StreamBase(
        "output",
        samplerate=rate,
        blocksize=0,
        device=api["default_output_device"],
        channels=2,
        dtype="float32",
        latency="low",
        callback=sd._ffi.cast("PaStreamCallback*", _play.address),
        userdata=sd._ffi.cast("void*", memory.ctypes.data),
    )
    with stream:
        print("ready", file=sys.stderr, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
