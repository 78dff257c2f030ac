"""`train.bands` as a graph of float32.

Streams share a call without touching each other by a bit where no sum and no function takes another way for another row: the
bins are padded to whole vectors before the logarithm and the mean square, each band's matrices are multiplied for one frame of
one stream at a time, and a layer has as many rows a stream as there are bands, never the single one that has a way of its own.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray

from train.bands import BandLSTM, Block
from train.model import LOG_FLOOR, MASK_FLOOR, RMS_FLOOR

from .nodes import Nodes, Precision, lstm_weights, masking, padded, stored

Floats = NDArray[np.float32]


def build(model: BandLSTM, precision: Precision = "fp32") -> onnx.ModelProto:
    """The graph of `model`: mag, h, c -> mask, h_out, c_out, float32 at its edges, axes `streams` and `frames` free."""
    g = Nodes()
    places = model.index.numpy()  # of each bin, in the bands
    widest, bands, width = model.split.shape[1], model.bands, model.split.shape[2]
    bins = np.full(bands * widest, padded(model.n_bins) - 1, np.int64)  # what no bin is, for places that hold none
    bins[places] = np.arange(model.n_bins)
    x = g.add("Gather", _features(g, model), g.constant("bins", bins), axis=2)
    x = g.add("Reshape", x, g.shape(0, 0, bands, 1, widest))
    split = _array(model.split)
    held = np.zeros(bands * widest, bool)
    held[places] = True
    split[~held.reshape(bands, widest)] = 0
    z = g.add("MatMul", x, stored(g, "split", split, precision))
    z = g.add("Add", g.add("Squeeze", z, g.axis(3)), stored(g, "split_bias", _array(model.split_bias), precision))
    z = g.add("Transpose", z, perm=[1, 0, 2, 3])  # (frames, streams, bands, width)
    states = {s: g.layers(s, model.layers) for s in "hc"}
    ends: dict[str, list[str]] = {"h": [], "c": []}
    for n, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        z, h, c = _block(g, block, str(n), z, states["h"][n], states["c"][n], precision)
        ends["h"].append(h)
        ends["c"].append(c)
    for s in "hc":
        g.add("Concat", *ends[s], axis=0, out=f"{s}_out")
    z = g.add("Reshape", _norm(g, model.norm, "norm", z), g.shape(0, 0, bands, 1, width))
    y = g.add("MatMul", z, stored(g, "heads", _array(model.heads), precision))
    y = g.add("Add", y, stored(g, "heads_bias", _array(model.heads_bias)[:, None], precision))
    y = g.add("Reshape", y, g.shape(0, 0, bands, model.sources, widest))
    y = g.add("Transpose", y, perm=[1, 0, 3, 2, 4])  # (streams, frames, sources, bands, widest)
    y = g.add("Reshape", y, g.shape(0, 0, model.sources, bands * widest))
    masking(g, model, g.add("Gather", y, g.constant("places", places), axis=3), MASK_FLOOR)
    return g.model(model)


def _features(g: Nodes, model: BandLSTM) -> str:
    """(log(mag / (rms + floor) + floor) - mean) / std of the padded bins."""
    bins, rest = model.n_bins, padded(model.n_bins) - model.n_bins
    x = g.add("Pad", "mag", g.constant("pads", np.asarray([0, 0, 0, 0, 0, rest], np.int64)))
    square = g.add("ReduceSum", g.add("Mul", x, x), g.axis(2), keepdims=1)
    rms = g.add("Sqrt", g.add("Mul", square, g.scalar("one_over_bins", 1 / bins)))
    relative = g.add("Div", x, g.add("Add", rms, g.scalar("rms_floor", RMS_FLOOR)))
    log = g.add("Log", g.add("Add", relative, g.scalar("log_floor", LOG_FLOOR)))
    mean, std = np.pad(_array(model.mean), (0, rest)), np.pad(_array(model.std), (0, rest), constant_values=1)
    return g.add("Div", g.add("Sub", log, g.constant("mean", mean)), g.constant("std", std))


def _block(g: Nodes, block: Block, name: str, z: str, h: str, c: str, precision: Precision) -> tuple[str, str, str]:
    """z `[shape=(frames, streams, bands, width)]` and the states after a block."""
    hidden, (width,) = block.lstm.hidden_size, block.norm_time.normalized_shape
    bands = block.up.in_features
    x = g.add("Reshape", _norm(g, block.norm_time, f"norm_time_{name}", z), g.shape(0, -1, width))
    h, c = (g.add("Reshape", s, g.shape(1, -1, hidden)) for s in (h, c))
    inputs = [x, *lstm_weights(g, block.lstm, name, precision), "", h, c]
    y, h, c = g.add_many("LSTM", inputs, [f"y_{name}", f"h_end_{name}", f"c_end_{name}"], hidden_size=hidden)
    y = g.add("MatMul", g.add("Squeeze", y, g.axis(1)), stored(g, f"project_{name}", _array(block.project.weight).T, precision))
    y = g.add("Add", y, stored(g, f"project_bias_{name}", _array(block.project.bias), precision))
    z = g.add("Add", z, g.add("Reshape", y, g.shape(0, -1, bands, width)))
    x = _norm(g, block.norm_bands, f"norm_bands_{name}", z)
    x = g.add("Relu", _across(g, block.up, f"up_{name}", x, precision))
    z = g.add("Add", z, _across(g, block.down, f"down_{name}", x, precision))
    h, c = (g.add("Reshape", s, g.shape(1, -1, bands * hidden)) for s in (h, c))
    return z, h, c


def _across(g: Nodes, linear: object, name: str, x: str, precision: Precision) -> str:
    """A linear layer over the last axis but one."""
    weight, bias = _array(linear.weight), _array(linear.bias)  # type: ignore[attr-defined]
    y = g.add("MatMul", stored(g, name, weight, precision), x)
    return g.add("Add", y, stored(g, f"{name}_bias", bias[:, None], precision))


def _norm(g: Nodes, norm: object, name: str, x: str) -> str:
    weight, bias = _array(norm.weight), _array(norm.bias)  # type: ignore[attr-defined]
    scale, shift = g.constant(f"{name}_scale", weight), g.constant(f"{name}_shift", bias)
    return g.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=norm.eps)  # type: ignore[attr-defined]


def _array(tensor: object) -> Floats:
    value: Floats = tensor.detach().cpu().numpy().copy()  # type: ignore[attr-defined]
    return value
