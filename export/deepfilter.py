"""`train.deepfilter` as a graph: the full band as `graph` or `int8` has it, then the sub-bands.

    mag_phase, h, c  ->  filter, h_out, c_out        as `streamsep.model` describes them

Groups are rows of one matrix product. They keep the order in which their states lie, (layers, streams, groups of a layer): so a
state is cut and joined without a copy in another order, and only what groups see and give changes its order, once.

int8: weights and activations of the sub-bands' LSTM and of what follows it are 8 bits, as those of the full band, with ranges
known beforehand: z lies in [0, `CEILING`], h in (-1, 1). What groups see stays float32, a convolution of few weights. Streams
do not touch each other by a bit: the functions that are not exact (root, logarithm) see whole vectors of bins, the convolution
is one product a frame, and the rest are exact sums and single elements. fp16: halves in the file, as in `graph`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray

from train.deepfilter import CEILING, SHARE_FLOOR, STEP, DeepFilter

from . import graph, int8
from .nodes import FullBand, Nodes, Precision, lstm_weights, padded, stored, tensor, weights

Z_STEP = CEILING / 255  # of z in 8 bits

Floats = NDArray[np.float32]
States = tuple[str, str]  # h and c


def build(model: DeepFilter, precision: Literal["fp32", "fp16", "int8"]) -> onnx.ModelProto:
    """The graph of `model`, float32 at its edges, axes `streams` and `frames` free."""
    g = Nodes()
    bins, top, f = model.n_bins, model.top, model.shape
    mag = g.first("mag_phase", bins, 2)
    state = g.first("h", model.hidden, 2), g.first("c", model.hidden, 2)
    names = ("masks", "h_full", "c_full")
    if precision == "int8":
        band = int8.full_band(g, model.full, g.pad(mag, 3, after=padded(bins) - bins), state, names)
    else:
        band = graph.full_band(g, model.full, mag, state, precision, names)
    before = _sub(g, model, "h"), _sub(g, model, "c")
    z = _gathered(g, model, band, precision)
    w, after = _int8(g, model, z, before) if precision == "int8" else _float(g, model, z, before, precision)
    per_layer = f.groups // model.layers
    for name, full, end in zip(("h", "c"), (band.h, band.c), after, strict=True):
        g.add("Concat", full, g.add("Reshape", end, g.shape(model.layers, -1, per_layer * f.width)), axis=2, out=f"{name}_out")
    w = g.add("Reshape", w, g.shape(0, model.layers, -1, per_layer * model.say.out_features))
    w = g.add("Reshape", g.add("Transpose", w, perm=[2, 0, 1, 3]), g.shape(0, 0, -1))  # (streams, frames, all of them)
    g.add("Concat", g.add("Reshape", band.masks, g.shape(0, 0, -1)), w, axis=2, out="filter")
    given = model.sources * bins + f.groups * model.say.out_features
    return g.between(
        model, tensor("mag_phase", "streams", "frames", bins + 4 * top), tensor("filter", "streams", "frames", given)
    )


def _seen(g: Nodes, model: DeepFilter, band: FullBand) -> str:
    """What groups see, `[shape=(streams * frames, channels, top)]`: features, log masks, directions."""
    bins, top = model.n_bins, model.top
    whole = padded(top)
    # Whole, though only these bins are used: what an int8 full band keeps of them has no way back (see `reader`).
    mean, std = (g.first(g.constant(name, _array(getattr(model.full, name))), top, 0) for name in ("mean", "std"))
    x = g.add("Div", g.add("Sub", g.first(band.log, top, 2), mean), std)
    shares = g.add("Add", g.first(band.masks, whole, 3), g.scalar("share_floor", SHARE_FLOOR))
    shares = g.first(g.add("Log", shares), top, 3) if whole != top else g.add("Log", shares)
    directions = g.add("Reshape", g.first("mag_phase", 4 * top, 2, bins), g.shape(0, 0, 4, top))
    channels = g.add("Concat", g.add("Unsqueeze", x, g.axis(2)), shares, directions, axis=2)
    return g.add("Reshape", channels, g.shape(-1, 1 + model.sources + 4, top))


def _gathered(g: Nodes, model: DeepFilter, band: FullBand, precision: Literal["fp32", "fp16", "int8"]) -> str:
    """z of all groups, `[shape=(frames, layers * streams * groups of a layer, width)]`: uint8 in steps of `CEILING` / 255 where
    the graph is int8."""
    f = model.shape
    stored_as: Precision = "fp16" if precision == "fp16" else "fp32"
    weight = _array(model.see.weight).reshape(f.width, -1, f.span)
    near = g.add("Conv", _seen(g, model, band), stored(g, "see", weight, stored_as), strides=[f.group], pads=[f.context, 0])
    heard = g.add("Reshape", band.heard("hear", _array(model.hear.weight).T), g.shape(-1, f.width, 1))
    z = g.add("Add", g.add("Add", near, heard), stored(g, "place", _array(model.place).T, stored_as))
    if precision == "int8":
        z = g.add("QuantizeLinear", z, g.scalar("z_zero_step", Z_STEP), _z_zero(g))
    else:
        z = g.add("Clip", z, g.scalar("floor", 0.0), g.scalar("ceiling", CEILING))
    z = g.add("Transpose", z, perm=[0, 2, 1])  # (streams * frames, groups, width)
    # The convolution joined streams and frames; the masks still tell them apart.
    apart = g.add("Concat", g.first(g.add("Shape", band.masks), 2, 0), g.shape(model.layers, -1), axis=0)
    z = g.add("Transpose", g.add("Reshape", z, apart), perm=[1, 2, 0, 3])  # (frames, layers, streams, groups of one * width)
    return g.add("Reshape", z, g.shape(0, -1, f.width))


def _z_zero(g: Nodes) -> str:
    return g.constant("z_zero", np.asarray(0, np.uint8))


def _int8(g: Nodes, model: DeepFilter, z: str, state: States) -> tuple[str, States]:
    """Filters `[shape=(frames, rows, those of a group)]` of z, and the sub-bands' states after."""
    lstm, width = model.lstm, model.shape.width
    of_z, of_h = (_z_zero(g), Z_STEP), int8.of_state(g)
    gates = int8.Matrix("W_sub", weights(lstm, "weight_ih", 0).T).times(g, z, *of_z, int8.lstm_bias(lstm, 0))
    own = int8.Matrix("R_sub", weights(lstm, "weight_hh", 0).T)
    h, c, out = int8.recurrent(g, "sub", own, gates, *state)
    say, bias = STEP * _array(model.say.weight).T, STEP * _array(model.say.bias)
    from_h = int8.Matrix("say_h", say[:width]).times(g, out, *of_h, bias)
    return g.add("Add", from_h, int8.Matrix("say_z", say[width:]).times(g, z, *of_z)), (h, c)


def _float(g: Nodes, model: DeepFilter, z: str, state: States, precision: Precision) -> tuple[str, States]:
    """As `_int8`."""
    one = [g.add("Unsqueeze", s, g.axis(0)) for s in state]  # an LSTM node's axis of directions
    inputs = [z, *lstm_weights(g, model.lstm, "sub", precision), "", *one]
    y, h, c = g.add_many("LSTM", inputs, ["y_sub", "h_end_sub", "c_end_sub"], hidden_size=model.shape.width)
    both = g.add("Concat", g.add("Squeeze", y, g.axis(1)), z, axis=2)
    w = g.add("MatMul", both, stored(g, "say", STEP * _array(model.say.weight).T, precision))
    return g.add("Add", w, stored(g, "say_bias", STEP * _array(model.say.bias), precision)), (h, c)


def _sub(g: Nodes, model: DeepFilter, name: str) -> str:
    """The sub-bands' part of a state, `[shape=(layers * streams * groups of a layer, width)]`."""
    s = g.first(name, model.state_size - model.hidden, 2, model.hidden)
    return g.add("Reshape", s, g.shape(-1, model.shape.width))


def _array(value: object) -> Floats:
    array: Floats = value.detach().cpu().numpy().copy()  # type: ignore[attr-defined]
    return array
