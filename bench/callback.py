"""The usual way to do it in Python, for comparison: a sounddevice callback that runs `InferenceSession.run` inside.

    python bench/callback.py [--model live] [--hog]     prints "ready"; a line on stdin wakes the hog, the
                                                        next begins the count; at SIGTERM it prints JSON

After the real-time scripts of DTLN and denoiser (a callback, numpy's FFT, a session, overlap-add), with this project's model,
windows and rate, so that the work of a hop is the same. OSC is python-osc's server in a thread. bench/soak.py runs it.

A callback's time counts from PortAudio's call, before Python has the GIL, to its end. `late` are those longer than a hop,
which is all that streamsep asks of itself, and hops that never came; the sound server wants it within one of its blocks.
"""

import argparse
import json
import signal
import sys
import threading
import time

import numpy as np

import streamsep  # isort: skip # noqa: F401 - first: ONNX Runtime then reports to nobody
import onnxruntime
import sounddevice as sd
from pythonosc.dispatcher import Dispatcher
from pythonosc.osc_server import BlockingOSCUDPServer

from streamsep import stats, stft
from streamsep.benchmark.loads import hog
from streamsep.model import load

p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
p.add_argument("--model", default="live", help="shipped name or .onnx file (%(default)s)")
p.add_argument("--hog", action="store_true", help="beside a Python thread that never lets go of the GIL by itself")
arguments = p.parse_args()

RATE, CHANNELS = 48_000, 2
model = load(arguments.model)
contract, geometry = model.contract, stft.Geometry.at(model.contract, RATE)
hop, length, sources = geometry.hop_length, geometry.synthesis_length, len(contract.sources)
analysis, synthesis = stft.window_pair(geometry.n_fft, length, hop)
scale = stft.mag_scale(analysis)
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
session = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
shapes = contract.shapes()
h, c = np.zeros(shapes["h"], np.float32), np.zeros(shapes["c"], np.float32)
history = np.zeros((geometry.n_fft, CHANNELS), np.float32)
overlap = np.zeros((sources, length, CHANNELS), np.float32)
filters = contract.filters
turn = np.exp(2j * np.pi * geometry.hop_length / geometry.n_fft * np.arange(geometry.n_bins))[:, None]
past = np.zeros((filters.taps if filters else 0, geometry.n_bins, CHANNELS), np.complex64)  # newest first, turned
gain = dict.fromkeys(contract.sources, 1.0)
counts = {"hops": 0, "long": 0, "flagged": 0}
times = stats.histogram()


def network(spectrum):
    """Masks `[shape=(sources, n_bins)]` of a frame, and its filters, if there are any."""
    global h, c
    mono = scale * np.stack([spectrum.mean(axis=1), *(frame.mean(axis=1) for frame in past[:1])])[:, : contract.n_bins]
    if not filters:
        mask, h, c = session.run(None, {"mag": np.abs(mono).astype(np.float32)[None], "h": h, "c": c})
        return mask[0, 0], None
    products = mono[0] * np.stack([mono[1], np.pad(mono[0], (1, 0))[:-1]]).conj()
    directions = (products / (np.abs(products) + stft.DIRECTION_FLOOR))[:, : filters.seen]
    seen = [np.abs(mono[0]), *(part for d in directions for part in (d.real, d.imag))]
    given, h, c = session.run(None, {"mag_phase": np.concatenate(seen).astype(np.float32)[None, None], "h": h, "c": c})
    mask, w = np.split(given[0, 0], [sources * contract.n_bins])
    w = w.reshape(filters.groups, sources - 1, filters.taps, filters.bins, 2, filters.group)
    w = np.moveaxis(w[..., 0, :] + 1j * w[..., 1, :], 0, -2)
    return mask.reshape(sources, -1), w.reshape(*w.shape[:-2], filters.reach)


def filtered(w, frames):
    """What filters `[shape=(taps, bins, reach)]` take from `frames`, newest first."""
    taps, bins, reach = w.shape
    padded = np.pad(frames, ((0, 0), (bins // 2, bins // 2), (0, 0)))
    return sum(w[t, n][:, None] * padded[t, n : n + reach] for t in range(taps) for n in range(bins))


def callback(indata, outdata, frames, when, status):
    """One hop."""
    global past
    counts["flagged"] += bool(status)
    history[:-hop] = history[hop:]
    history[-hop:] = indata
    spectrum = np.fft.rfft(history * analysis[:, None], axis=0)
    mask, w = network(spectrum)
    left = spectrum
    for i, name in enumerate(contract.sources):
        top = mask[i, -(contract.n_bins // 8) :].mean()
        full = np.concatenate([mask[i], np.full(geometry.n_bins - contract.n_bins, top, np.float32)])
        masked = spectrum * full[:, None]
        if w is not None:
            if i < sources - 1:
                masked[: w.shape[-1]] += filtered(w[i], [spectrum, *past[:-1]])
                left = left - masked
            else:
                masked = left
        overlap[i] += np.fft.irfft(masked, axis=0)[-length:] * synthesis[:, None]
        outdata[:, CHANNELS * i : CHANNELS * (i + 1)] = overlap[i, :hop] * gain[name]
        overlap[i, :-hop] = overlap[i, hop:]
        overlap[i, -hop:] = 0
    past = np.stack([spectrum, *past[:-1]])[: len(past)] * turn
    spent = stream.time - when.currentTime
    counts["hops"] += 1
    counts["long"] += spent > hop / RATE
    stats.record(times, int(1e9 * spent))


def main() -> None:
    """Run until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    dispatcher = Dispatcher()
    for name in contract.sources:
        dispatcher.map(f"/streamsep/source/{name}/gain", lambda _, db, name=name: gain.update({name: 10 ** (db / 20)}))
    server = BlockingOSCUDPServer(("127.0.0.1", 0), dispatcher)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stats.record(times, 1)
    with stream:
        print(f"ready, OSC on 127.0.0.1:{server.server_address[1]}", file=sys.stderr, flush=True)
        sys.stdin.readline()
        if arguments.hog:
            threading.Thread(target=hog, daemon=True).start()
        sys.stdin.readline()
        counts.update(dict.fromkeys(counts, 0))
        times[:] = 0
        start = time.monotonic()
        while not ended.wait(0.1):
            pass
        due = int((time.monotonic() - start) * RATE / hop)
    server.shutdown()
    missing = max(0, due - counts["hops"] - 2)
    report = {
        "hops": due,
        "late": counts["long"] + missing,
        "xruns_flagged": counts["flagged"],
        "step_ms": stats.summary(times),
    }
    print(json.dumps(report | {"deadline_ms": 1e3 * hop / RATE}))


api = next((api for api in sd.query_hostapis() if api["name"].startswith("JACK")), None)
device = (api["default_input_device"], api["default_output_device"]) if api else None
stream = sd.Stream(
    samplerate=RATE, blocksize=hop, device=device, channels=(CHANNELS, CHANNELS * sources), dtype="float32", callback=callback
)

if __name__ == "__main__":
    main()
