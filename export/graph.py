"""The network as a graph of float32: one `LSTM` node a layer, which CUDA runs with cuDNN.

fp16 stores the weights of layers and heads in half precision, half the file, and computes in float32 (ONNX Runtime folds
the casts when it loads). LSTM nodes that compute in fp16 are refused here on purpose: the CPU has no such kernel, and the
optimizer that widens them crashes the process (onnxruntime 1.31, FuseFp16InitializerToFp32NodeTransformer, on the node's
empty `sequence_lens`). A GPU multiplies these float32 weights on its tensor cores as TF32.
"""

from __future__ import annotations

import onnx

from train.model import LOG_FLOOR, MASK_FLOOR, RMS_FLOOR, MaskLSTM

from .nodes import Nodes, Precision, lstm_weights, masking, stored


def build(model: MaskLSTM, precision: Precision = "fp32") -> onnx.ModelProto:
    """The graph of `model`: mag, h, c -> mask, h_out, c_out, float32 at its edges, axes `streams` and `frames` free."""
    g = Nodes()
    layers = model.layers
    x = g.add("Transpose", _features(g, model), perm=[1, 0, 2])  # (frames, streams, n_bins): the LSTM's order
    states = {s: g.layers(s, layers) for s in "hc"}
    ends: dict[str, list[str]] = {"h": [], "c": []}
    for layer in range(layers):
        inputs = [x, *lstm_weights(g, model.lstm, str(layer), precision, layer), "", states["h"][layer], states["c"][layer]]
        outputs = [f"y_{layer}", f"h_end_{layer}", f"c_end_{layer}"]
        y, h, c = g.add_many("LSTM", inputs, outputs, hidden_size=model.lstm.hidden_size)
        x = g.add("Squeeze", y, g.axis(1))  # (frames, directions=1, streams, hidden) -> (frames, streams, hidden)
        ends["h"].append(h)
        ends["c"].append(c)
    for s in "hc":
        g.add("Concat", *ends[s], axis=0, out=f"{s}_out")
    masking(g, model, _heads(g, model, g.add("Transpose", x, perm=[1, 0, 2]), precision), MASK_FLOOR)
    return g.model(model)


def _features(g: Nodes, model: MaskLSTM) -> str:
    """(log(mag / (rms + floor) + floor) - mean) / std, in float32; rms as sqrt of the mean square over the bins."""
    mean, std = model.mean.cpu().numpy(), model.std.cpu().numpy()
    square = g.add("Mul", "mag", "mag")
    rms = g.add("Sqrt", g.add("ReduceMean", square, axes=[2], keepdims=1))
    relative = g.add("Div", "mag", g.add("Add", rms, g.scalar("rms_floor", RMS_FLOOR)))
    log = g.add("Log", g.add("Add", relative, g.scalar("log_floor", LOG_FLOOR)))
    return g.add("Div", g.add("Sub", log, g.constant("mean", mean)), g.constant("std", std))


def _heads(g: Nodes, model: MaskLSTM, x: str, precision: Precision) -> str:
    """x W + b of all sources, `[shape=(streams, frames, sources * n_bins)]`."""
    weight = model.heads.weight.detach().cpu().numpy().T  # (hidden, sources * n_bins)
    bias = model.heads.bias.detach().cpu().numpy()
    product = g.add("MatMul", x, stored(g, "heads_weight", weight, precision))
    return g.add("Add", product, stored(g, "heads_bias", bias, precision))
