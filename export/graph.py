"""The network as a graph of float32: one `LSTM` node a layer, which CUDA runs with cuDNN.

fp16 stores the weights of layers and heads in half precision, half the file, and computes in float32 (ONNX Runtime folds
the casts when it loads). LSTM nodes that compute in fp16 are refused here on purpose: the CPU has no such kernel, and the
optimizer that widens them crashes the process (onnxruntime 1.31, FuseFp16InitializerToFp32NodeTransformer, on the node's
empty `sequence_lens`). A GPU multiplies these float32 weights on its tensor cores as TF32.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from train.model import LOG_FLOOR, MASK_FLOOR, RMS_FLOOR, MaskLSTM

from .nodes import FullBand, Nodes, Precision, lstm_weights, masking, stored


def build(model: MaskLSTM, precision: Precision = "fp32") -> onnx.ModelProto:
    """The graph of `model`: mag, h, c -> mask, h_out, c_out, float32 at its edges, axes `streams` and `frames` free."""
    g = Nodes()
    full_band(g, model, "mag", ("h", "c"), precision, ("mask", "h_out", "c_out"))
    return g.model(model)


def full_band(
    g: Nodes, model: MaskLSTM, mag: str, state: tuple[str, str], precision: Precision, names: tuple[str, str, str]
) -> FullBand:
    """The nodes of `model`, from magnitudes and a state; what masks and the new state are to be called."""
    log = _log(g, mag)
    mean, std = g.constant("mean", model.mean.cpu().numpy()), g.constant("std", model.std.cpu().numpy())
    x = g.add("Transpose", g.add("Div", g.add("Sub", log, mean), std), perm=[1, 0, 2])  # (frames, streams, n_bins)
    states = [g.layers(s, model.layers) for s in state]
    ends: list[list[str]] = [[], []]
    for layer in range(model.layers):
        inputs = [x, *lstm_weights(g, model.lstm, str(layer), precision, layer), "", states[0][layer], states[1][layer]]
        outputs = [f"y_{layer}", f"h_end_{layer}", f"c_end_{layer}"]
        y, h, c = g.add_many("LSTM", inputs, outputs, hidden_size=model.lstm.hidden_size)
        x = g.add("Squeeze", y, g.axis(1))  # (frames, directions=1, streams, hidden) -> (frames, streams, hidden)
        ends[0].append(h)
        ends[1].append(c)
    h, c = (g.add("Concat", *end, axis=0, out=name) for end, name in zip(ends, names[1:], strict=True))
    x = g.add("Transpose", x, perm=[1, 0, 2])
    masks = masking(g, model, _heads(g, model, x, precision), MASK_FLOOR, names[0])

    def heard(name: str, weight: NDArray[np.float32]) -> str:
        return g.add("Unsqueeze", g.add("MatMul", x, stored(g, name, weight, precision)), g.axis(2))

    return FullBand(log, masks, h, c, heard)


def _log(g: Nodes, mag: str) -> str:
    """log(mag / (rms + floor) + floor), in float32; rms as sqrt of the mean square over the bins."""
    square = g.add("Mul", mag, mag)
    rms = g.add("Sqrt", g.add("ReduceMean", square, axes=[2], keepdims=1))
    relative = g.add("Div", mag, g.add("Add", rms, g.scalar("rms_floor", RMS_FLOOR)))
    return g.add("Log", g.add("Add", relative, g.scalar("log_floor", LOG_FLOOR)))


def _heads(g: Nodes, model: MaskLSTM, x: str, precision: Precision) -> str:
    """x W + b of all sources, `[shape=(streams, frames, sources * n_bins)]`."""
    weight = model.heads.weight.detach().cpu().numpy().T  # (hidden, sources * n_bins)
    bias = model.heads.bias.detach().cpu().numpy()
    product = g.add("MatMul", x, stored(g, "heads_weight", weight, precision))
    return g.add("Add", product, stored(g, "heads_bias", bias, precision))
