"""A JACK client of compiled code for the tests: plays an array and records its inputs, exact to the sample.

use: python -m tests.jack_client NAME INPUTS SECONDS RECORDING.npy [SONG.npy]   (arrays are float32 [shape=(frames, channels)])
Prints "ready" when its ports are there, waits for a line on stdin, then plays and records for SECONDS and saves.
"""

import ctypes
import ctypes.util
import sys
import time

import numpy as np
from numba import carray, cfunc, int64, types

ARMED, INDEX, FRAMES, INS, OUTS, FLAGS = range(6)
HEADER = 8


@cfunc(types.int32(types.voidptr, types.voidptr, types.uint64, types.voidptr, types.uint64, types.voidptr))
def callback(source, sink, frame_count, time_info, status, memory):
    n = int64(frame_count)
    header = carray(memory, HEADER, np.int64)
    frames, ins, outs = header[FRAMES], header[INS], header[OUTS]
    samples = carray(memory, 2 * HEADER + frames * (ins + outs), np.float32)[2 * HEADER :]
    recorded = samples[: frames * ins].reshape(frames, ins)
    song = samples[frames * ins :].reshape(frames, outs)
    x, y = carray(source, (n, ins), np.float32), carray(sink, (n, outs), np.float32)
    y[:] = 0
    if header[ARMED]:
        header[FLAGS] += status & 15 != 0
        start = header[INDEX]
        for i in range(min(n, frames - start)):
            recorded[start + i] = x[i]
            y[i] = song[start + i]
        header[INDEX] = min(frames, start + n)
    return 0


def main(name, inputs, seconds, recording, song=None):
    ctypes.CDLL(ctypes.util.find_library("portaudio")).PaJack_SetClientName(client_name := name.encode())
    import sounddevice as sd

    rate = 48000
    frames, ins, outs = int(float(seconds) * rate), int(inputs), 2
    memory = np.zeros(8 * HEADER + 4 * frames * (ins + outs), np.uint8)
    header = memory[: 8 * HEADER].view(np.int64)
    header[[FRAMES, INS, OUTS]] = frames, ins, outs
    samples = memory[8 * HEADER :].view(np.float32)
    if song:
        x = np.load(song)[:frames]
        samples[frames * ins :].reshape(frames, outs)[: len(x)] = x
    stream = sd._StreamBase(
        "duplex",
        samplerate=rate,
        blocksize=0,
        channels=(ins, outs),
        dtype="float32",
        latency="low",
        callback=sd._ffi.cast("PaStreamCallback*", callback.address),
        userdata=sd._ffi.cast("void*", memory.ctypes.data),
    )
    with stream:
        print("ready", flush=True)
        sys.stdin.readline()
        header[ARMED] = 1
        while header[INDEX] < frames:
            time.sleep(0.05)
    np.save(recording, samples[: frames * ins].reshape(frames, ins))
    print("xruns", header[FLAGS], flush=True)
    del client_name


if __name__ == "__main__":
    main(*sys.argv[1:])
