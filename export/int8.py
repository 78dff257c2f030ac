"""The network as a graph of 8-bit weights and activations in which every row and every frame is computed by itself.

    weights       int8, one scale an output
    activations   uint8 of scales that are fixed beforehand, by what is known without any recording:
                  h         in (-1, 1) by its definition, o tanh(c): steps of 1/127
                  features  log(mag / rms + e): from log(e) to log(sqrt(n_bins)), where all energy lies in one bin. Their mean
                            and deviation are part of the first layer's weights.
    products      summed in int32, hence exactly, and brought to float32 by ONNX Runtime's own `MatMulIntegerToFloat`, in one
                  pass; what follows is float32, element by element

So a stream's masks are the same bits alone or among forty, frame by frame or sixteen in a call. (`DynamicQuantizeLSTM`, which
`onnxruntime.quantization` makes of LSTM nodes, chooses one scale for all of a call: rows and frames coarsen each other.) Each
layer is a loop over frames; what needs no state, features, masks and what the layer below gives to the gates, is computed for
all frames at once, so that its weights are read once.

Two things look odd and are needed:

  - Bins are padded to a whole number of vectors: through a rest a logarithm takes another way, with other last bits.
  - The sum of two weights of neighbouring rows stays within `PAIR`. Processors without VNNI add such a pair's products in 16
    bits, with saturation (VPMADDUBSW), which weights that use their whole range drive far beyond it. Neighbouring bins have
    like weights, whose sums are large: bins of the lower and the upper half take turns instead, so that the limit costs
    nothing to speak of.

After Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference" (2018).
"""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from torch import nn

from train.model import LOG_FLOOR, MASK_FLOOR, RMS_FLOOR, MaskLSTM

from .nodes import RUNTIME_DOMAIN, FullBand, Nodes, masking, padded, weights

PAIR = 127  # of the 2**15 / 255 = 128.5 that are safe: each of the two is rounded, by half a step at most

Floats = NDArray[np.float32]


def build(model: MaskLSTM) -> onnx.ModelProto:
    """The graph of `model`: mag, h, c -> mask, h_out, c_out, float32 at its edges, axes `streams` and `frames` free."""
    g = Nodes()
    mag = g.pad("mag", 3, after=padded(model.n_bins) - model.n_bins)
    full_band(g, model, mag, ("h", "c"), ("mask", "h_out", "c_out"))
    return g.model(model)


def full_band(g: Nodes, model: MaskLSTM, mag: str, state: tuple[str, str], names: tuple[str, str, str]) -> FullBand:
    """The nodes of `model`, from magnitudes of the padded bins and a state; what masks and the new state are to be called."""
    layers = model.layers
    hs, cs = (g.layers(s, layers) for s in state)
    log = _log(g, model, mag)
    gates, out = _first_layer(g, model, _quantised(g, model, log)), ""  # (frames, streams, 4 hidden)
    h_ends, c_ends = [], []
    for layer in range(layers):
        if layer:
            weight = weights(model.lstm, "weight_ih", layer).T
            gates = Matrix(f"W_{layer}", weight).times(g, out, *of_state(g), lstm_bias(model.lstm, layer))
        own = Matrix(f"R_{layer}", weights(model.lstm, "weight_hh", layer).T)
        h, c, out = recurrent(g, str(layer), own, gates, hs[layer], cs[layer])
        h_ends.append(h)
        c_ends.append(c)
    h, c = (g.add("Concat", *ends, axis=0, out=name) for ends, name in zip((h_ends, c_ends), names[1:], strict=True))
    x = g.add("Transpose", out, perm=[2, 0, 1, 3])  # (frames, 1, streams, hidden) -> (streams, frames, 1, hidden)

    def heard(name: str, weight: Floats, bias: Floats | None = None) -> str:
        return Matrix(name, weight).times(g, x, *of_state(g), bias)

    heads = heard("heads", model.heads.weight.detach().cpu().numpy().T, model.heads.bias.detach().cpu().numpy())
    return FullBand(log, masking(g, model, heads, MASK_FLOOR, names[0]), h, c, heard)


def _step(value: Floats) -> Floats:
    """The smallest scale of each output with which `value` `[shape=(inputs, outputs)]` fits, and pairs of it within `PAIR`."""
    pairs = value[: len(value) // 2 * 2].reshape(-1, 2, value.shape[1]).sum(1)
    largest = np.maximum(np.abs(value).max(0) / 127, np.abs(pairs).max(0) / PAIR)
    return np.maximum(largest, np.float32(1e-12))  # an output without weights is 0 by any scale


class Matrix:
    """A weight matrix `[shape=(inputs, outputs)]` in 8 bits, one scale an output."""

    def __init__(self, name: str, value: Floats) -> None:
        self.name = name
        self.scale = _step(value)
        self.quantised = np.rint(value / self.scale).astype(np.int8)

    def times(self, g: Nodes, x: str, zero: str, scale: float, bias: Floats | None = None) -> str:
        """x W (+ bias) in float32, for x uint8 with this zero point and scale."""
        matrix = g.constant(f"{self.name}_int8", self.quantised), g.constant(f"{self.name}_scale", _float(self.scale))
        inputs = [x, matrix[0], g.scalar(f"{zero}_step", scale), matrix[1], zero]
        if bias is not None:
            inputs += ["", g.constant(f"{self.name}_bias", _float(bias))]
        return g.add("MatMulIntegerToFloat", *inputs, domain=RUNTIME_DOMAIN)


def _log(g: Nodes, model: MaskLSTM, mag: str) -> str:
    """log(mag / (rms + floor) + floor) of the padded bins, `[shape=(streams, frames, padded bins)]`."""
    square = g.add("ReduceSum", g.add("Mul", mag, mag), g.axis(2), keepdims=1)
    rms = g.add("Sqrt", g.add("Mul", square, g.scalar("one_over_bins", 1 / model.n_bins)))
    relative = g.add("Div", mag, g.add("Add", rms, g.scalar("rms_floor", RMS_FLOOR)))
    return g.add("Log", g.add("Add", relative, g.scalar("log_floor", LOG_FLOOR)))


def _quantised(g: Nodes, model: MaskLSTM, log: str) -> str:
    """The features as uint8, `[shape=(frames, streams, padded bins)]`, bins in turn."""
    width = padded(model.n_bins)
    zero, scale = _of_features(g, model.n_bins)
    q = g.add("QuantizeLinear", log, g.scalar(f"{zero}_step", scale), zero)
    q = g.add("Reshape", q, g.constant("halves", np.asarray([0, 0, 2, width // 2], np.int64)))
    q = g.add("Transpose", q, perm=[0, 1, 3, 2])  # (streams, frames, width / 2, 2)
    q = g.add("Reshape", q, g.constant("bins_in_turn", np.asarray([0, 0, width], np.int64)))
    return g.add("Transpose", q, perm=[1, 0, 2])  # two, since each by itself has a quick way, and one of both has none


def _take_turns(value: Floats) -> Floats:
    """Rows of `value` `[shape=(bins, ...)]`, padded with zeros, the lower and the upper half taking turns."""
    width = padded(len(value))
    rows = np.pad(value, [(0, width - len(value)), *[(0, 0)] * (value.ndim - 1)])
    return rows[np.arange(width).reshape(2, -1).T.ravel()]


def _of_features(g: Nodes, bins: int) -> tuple[str, float]:
    """Zero point and step of the features' uint8."""
    lowest, highest = math.log(LOG_FLOOR), math.log(math.sqrt(bins) + LOG_FLOOR)
    step = (highest - lowest) / 255
    return g.constant("feature_zero", np.asarray(round(-lowest / step), np.uint8)), step


def of_state(g: Nodes) -> tuple[str, float]:
    """Zero point and step of h's uint8: -1 and 1 are 1 and 255."""
    return g.constant("state_zero", np.asarray(128, np.uint8)), 1 / 127


def _first_layer(g: Nodes, model: MaskLSTM, features: str) -> str:
    """What the frame itself gives to the first layer's gates, all frames at once.

    W (f - mean) / std + b = V f + (b - V mean) with V = W / std, the V that was rounded: what rounding takes away is then
    multiplied by the features' deviation and not by their mean, which is three times as large.
    """
    weight = (weights(model.lstm, "weight_ih", 0) / model.std.cpu().numpy()).T
    matrix = Matrix("W_0", _take_turns(weight))
    bias = lstm_bias(model.lstm, 0) - _take_turns(model.mean.cpu().numpy()) @ (matrix.quantised * matrix.scale)
    return matrix.times(g, features, *_of_features(g, len(weight)), bias)


def lstm_bias(lstm: nn.LSTM, layer: int) -> Floats:
    """Of the gates, `[shape=(4 hidden,)]`."""
    return weights(lstm, "bias_ih", layer) + weights(lstm, "bias_hh", layer)


def recurrent(g: Nodes, name: str, own: Matrix, gates: str, h: str, c: str) -> tuple[str, str, str]:
    """An LSTM along the first axis of what the frames give to its gates, bias included: h and c after, and h of each frame in 8
    bits. `h`, `c` and a frame of `gates` have the same axes."""
    ends = [f"h_end_{name}", f"c_end_{name}", f"out_{name}"]
    after = g.add_many("Scan", [h, c, gates], ends, body=_frame(g, name, own), num_scan_inputs=1)
    return after[0], after[1], after[2]


def _frame(outer: Nodes, name: str, own: Matrix) -> onnx.GraphProto:
    """An LSTM for one frame, a loop's body: h, c and what the frame gives to the gates in; h, c, and h in 8 bits out."""
    g = Nodes(outer, f"layer_{name}_")
    h, c, given = (f"layer_{name}_{part}_in" for part in ("h", "c", "gates"))
    zero, scale = of_state(g)
    step = g.scalar(f"{zero}_step", scale)
    gates = g.add("Add", given, own.times(g, g.add("QuantizeLinear", h, step, zero), zero, scale))
    h_out, c_out = _cell(g, gates, c, len(own.quantised))
    out = g.add("QuantizeLinear", h_out, step, zero)

    def value(name: str, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, None)

    outputs = [value(h_out), value(c_out), value(out, TensorProto.UINT8)]
    return helper.make_graph(g.nodes, f"layer_{name}", [value(h), value(c), value(given)], outputs)


def _cell(g: Nodes, gates: str, c: str, hidden: int) -> tuple[str, str]:
    """h and c after a frame, from the gates before their functions: input, output, forget, candidate."""
    sizes = g.constant(f"gate_sizes_{hidden}", np.asarray([3 * hidden, hidden], np.int64))
    open_, candidate = g.add_many("Split", [gates, sizes], [g.prefix + "open", g.prefix + "candidate"], axis=-1)
    names = [g.prefix + gate for gate in ("input", "output", "forget")]
    i, o, f = g.add_many("Split", [g.add("Sigmoid", open_)], names, axis=-1)
    c = g.add("Add", g.add("Mul", f, c), g.add("Mul", i, g.add("Tanh", candidate)))
    return g.add("Mul", o, g.add("Tanh", c)), c


def _float(value: NDArray[np.generic]) -> Floats:
    return value.astype(np.float32)
