"""The network as a graph of 8-bit weights and activations in which every row and every frame is computed by itself.

    weights       int8, one scale an output
    activations   uint8 of scales that are fixed beforehand, by what is known without any recording:
                  h         in (-1, 1) by its definition, o tanh(c): steps of 1/127
                  features  log(mag / rms + e): from log(e) to log(sqrt(n_bins)), where all energy lies in one bin. Their mean
                            and deviation are part of the first layer's weights.
    products      summed in int32, hence exactly; what follows is float32, element by element

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

from train.model import LOG_FLOOR, MASK_FLOOR, RMS_FLOOR, MaskLSTM

from .nodes import Nodes, masking, padded, weights

PAIR = 127  # of the 2**15 / 255 = 128.5 that are safe: each of the two is rounded, by half a step at most

Floats = NDArray[np.float32]


def build(model: MaskLSTM) -> onnx.ModelProto:
    """The graph of `model`: mag, h, c -> mask, h_out, c_out, float32 at its edges, axes `streams` and `frames` free."""
    g = Nodes()
    layers = model.layers
    hs, cs = g.layers("h", layers), g.layers("c", layers)
    gates, out = _first_layer(g, model, _features(g, model)), ""  # (frames, streams, 4 hidden)
    h_ends, c_ends = [], []
    for layer in range(layers):
        below, own = _matrices(model, layer)
        if below:
            gates = below.sums(g, out, _of_state(g)[0])
        names = [f"h_end_{layer}", f"c_end_{layer}", f"out_{layer}"]
        body = _frame(g, model, layer, own)
        h, c, out = g.add_many("Scan", [hs[layer], cs[layer], gates], names, body=body, num_scan_inputs=1)
        h_ends.append(h)
        c_ends.append(c)
    g.add("Concat", *h_ends, axis=0, out="h_out")
    g.add("Concat", *c_ends, axis=0, out="c_out")
    x = g.add("Transpose", out, perm=[2, 0, 1, 3])  # (frames, 1, streams, hidden) -> (streams, frames, 1, hidden)
    heads = _Matrix("heads", model.heads.weight.detach().cpu().numpy().T)
    masking(g, model, heads.times(g, x, *_of_state(g), model.heads.bias.detach().cpu().numpy()), MASK_FLOOR)
    return g.model(model)


def _step(value: Floats) -> Floats:
    """The smallest scale of each output with which `value` `[shape=(inputs, outputs)]` fits, and pairs of it within `PAIR`."""
    pairs = value[: len(value) // 2 * 2].reshape(-1, 2, value.shape[1]).sum(1)
    largest = np.maximum(np.abs(value).max(0) / 127, np.abs(pairs).max(0) / PAIR)
    return np.maximum(largest, np.float32(1e-12))  # an output without weights is 0 by any scale


class _Matrix:
    """A weight matrix `[shape=(inputs, outputs)]` in 8 bits; `scale`: of each output, its own unless given."""

    def __init__(self, name: str, value: Floats, scale: Floats | None = None) -> None:
        self.name = name
        self.scale = _step(value) if scale is None else scale
        self.quantised = np.rint(value / self.scale).astype(np.int8)

    def sums(self, g: Nodes, x: str, zero: str) -> str:
        """x W in steps, int32, for x uint8 with this zero point."""
        return g.add("MatMulInteger", x, g.constant(f"{self.name}_int8", self.quantised), zero)

    def value(self, g: Nodes, sums: str, scale: float, bias: Floats | None = None) -> str:
        """`sums` (+ bias) in float32, where x is in steps of `scale`."""
        step = g.constant(f"{self.name}_scale", _float(self.scale * scale))
        y = g.add("Mul", g.add("Cast", sums, to=TensorProto.FLOAT), step)
        return y if bias is None else g.add("Add", y, g.constant(f"{self.name}_bias", _float(bias)))

    def times(self, g: Nodes, x: str, zero: str, scale: float, bias: Floats | None = None) -> str:
        """x W (+ bias) in float32, for x uint8 with this zero point and scale."""
        return self.value(g, self.sums(g, x, zero), scale, bias)


def _features(g: Nodes, model: MaskLSTM) -> str:
    """log(mag / (rms + floor) + floor) as uint8, `[shape=(frames, streams, padded bins)]`, bins in turn."""
    bins, width = model.n_bins, padded(model.n_bins)
    x = g.add("Pad", "mag", g.constant("pads", np.asarray([0, 0, 0, 0, 0, width - bins], np.int64)))
    square = g.add("ReduceSum", g.add("Mul", x, x), g.axis(2), keepdims=1)
    rms = g.add("Sqrt", g.add("Mul", square, g.scalar("one_over_bins", 1 / bins)))
    relative = g.add("Div", x, g.add("Add", rms, g.scalar("rms_floor", RMS_FLOOR)))
    log = g.add("Log", g.add("Add", relative, g.scalar("log_floor", LOG_FLOOR)))
    zero, scale = _of_features(g, bins)
    q = g.add("QuantizeLinear", log, g.scalar("feature_step", scale), zero)
    q = g.add("Reshape", q, g.constant("halves", np.asarray([0, 0, 2, width // 2], np.int64)))
    q = g.add("Transpose", q, perm=[1, 0, 3, 2])  # (streams, frames, 2, width / 2) -> (frames, streams, width / 2, 2)
    return g.add("Reshape", q, g.constant("bins_in_turn", np.asarray([0, 0, width], np.int64)))


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


def _of_state(g: Nodes) -> tuple[str, float]:
    """Zero point and step of h's uint8: -1 and 1 are 1 and 255."""
    return g.constant("state_zero", np.asarray(128, np.uint8)), 1 / 127


def _first_layer(g: Nodes, model: MaskLSTM, features: str) -> str:
    """What the frame itself gives to the first layer's gates, all frames at once.

    W (f - mean) / std + b = V f + (b - V mean) with V = W / std, the V that was rounded: what rounding takes away is then
    multiplied by the features' deviation and not by their mean, which is three times as large.
    """
    weight = (weights(model.lstm, "weight_ih", 0) / model.std.cpu().numpy()).T
    matrix = _Matrix("W_0", _take_turns(weight))
    bias = _bias(model, 0) - _take_turns(model.mean.cpu().numpy()) @ (matrix.quantised * matrix.scale)
    return matrix.times(g, features, *_of_features(g, len(weight)), bias)


def _bias(model: MaskLSTM, layer: int) -> Floats:
    return weights(model.lstm, "bias_ih", layer) + weights(model.lstm, "bias_hh", layer)


def _matrices(model: MaskLSTM, layer: int) -> tuple[_Matrix | None, _Matrix]:
    """A layer's weights of h of the layer below, if there is one, and of its own h: of one scale, so that the sums add up."""
    own = weights(model.lstm, "weight_hh", layer).T
    if layer == 0:
        return None, _Matrix("R_0", own)
    below = weights(model.lstm, "weight_ih", layer).T
    scale = np.maximum(_step(below), _step(own))
    return _Matrix(f"W_{layer}", below, scale), _Matrix(f"R_{layer}", own, scale)


def _frame(outer: Nodes, model: MaskLSTM, layer: int, recurrent: _Matrix) -> onnx.GraphProto:
    """A layer for one frame, a loop's body: h, c and what the frame gives to the gates in; h, c, and h in 8 bits out.

    What the frame gives is float32 in the first layer, bias included; above it is int32, and its own sums are added to it.
    """
    g = Nodes(outer, f"layer_{layer}_")
    zero, scale = _of_state(g)
    step = g.scalar("state_step", scale)
    h, c, given = (f"layer_{layer}_{name}_in" for name in ("h", "c", "gates"))
    own = g.add("QuantizeLinear", h, step, zero)
    if layer == 0:
        gates = g.add("Add", given, recurrent.times(g, own, zero, scale))
    else:
        gates = recurrent.value(g, g.add("Add", given, recurrent.sums(g, own, zero)), scale, _bias(model, layer))
    h_out, c_out = _cell(g, gates, c, model.lstm.hidden_size)
    out = g.add("QuantizeLinear", h_out, step, zero)

    def value(name: str, kind: int = TensorProto.FLOAT, rank: int = 3) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, [None] * rank)

    # The loop takes the axis of frames away; sums of 8 bits still have that of h's one layer.
    frame = value(given, rank=2) if layer == 0 else value(given, TensorProto.INT32)
    outputs = [value(h_out), value(c_out), value(out, TensorProto.UINT8)]
    return helper.make_graph(g.nodes, f"layer_{layer}", [value(h), value(c), frame], outputs)


def _cell(g: Nodes, gates: str, c: str, hidden: int) -> tuple[str, str]:
    """h and c after a frame, from the gates before their functions: input, output, forget, candidate."""
    sizes = g.constant("gate_sizes", np.asarray([3 * hidden, hidden], np.int64))
    open_, candidate = g.add_many("Split", [gates, sizes], [g.prefix + "open", g.prefix + "candidate"], axis=2)
    names = [g.prefix + gate for gate in ("input", "output", "forget")]
    i, o, f = g.add_many("Split", [g.add("Sigmoid", open_)], names, axis=2)
    c = g.add("Add", g.add("Mul", f, c), g.add("Mul", i, g.add("Tanh", candidate)))
    return g.add("Mul", o, g.add("Tanh", c)), c


def _float(value: NDArray[np.generic]) -> Floats:
    return value.astype(np.float32)
