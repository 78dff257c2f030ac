"""The network as an ONNX graph, written node by node from the weights.

Written by hand, since it is short and then says exactly what the runtime gets: one `LSTM` node a layer (which
`quantize_dynamic` turns into `DynamicQuantizeLSTM`, and CUDA into cuDNN), named axes, no exporter's leftovers.

fp16 stores the weights of layers and heads in half precision, half the file, and computes in float32 (ONNX Runtime folds
the casts when it loads). LSTM nodes that compute in fp16 are refused here on purpose: the CPU has no such kernel, and the
optimizer that widens them crashes the process (onnxruntime 1.31, FuseFp16InitializerToFp32NodeTransformer, on the node's
empty `sequence_lens`). A GPU multiplies these float32 weights on its tensor cores as TF32.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from train.model import LOG_FLOOR, MASK_FLOOR, RMS_FLOOR, MaskLSTM

OPSET = 17  # layer by layer supported by ONNX Runtime 1.20 on every provider; nothing newer is needed
IR_VERSION = 8

Precision = Literal["fp32", "fp16"]


class _Graph:
    """Nodes and weights in the making."""

    def __init__(self, precision: Precision) -> None:
        self.half = precision == "fp16"
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, op: str, *inputs: str, out: str = "", **attributes: object) -> str:
        """A node with one output; its name."""
        out = out or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"{op}_{len(self.nodes)}", **attributes))
        return out

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """A constant tensor, as it is; its name."""
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """A float32 constant; its name."""
        return self.constant(name, np.asarray(value, np.float32))

    def weight(self, name: str, value: NDArray[np.generic]) -> str:
        """A trained tensor, float32 to the nodes whatever its precision in the file; its name."""
        if not self.half:
            return self.constant(name, value)
        stored = self.constant(f"{name}_fp16", value.astype(np.float16))
        return self.add("Cast", stored, to=TensorProto.FLOAT, out=name)


def build(model: MaskLSTM, precision: Precision = "fp32") -> onnx.ModelProto:
    """The graph of `model`: mag, h, c -> mask, h_out, c_out, float32 at its edges, axes `streams` and `frames` free."""
    g = _Graph(precision)
    layers = model.lstm.num_layers
    x = g.add("Transpose", _features(g, model), perm=[1, 0, 2])  # (frames, streams, n_bins): the LSTM's order
    states = {s: _split(g, s, layers) for s in "hc"}
    ends: dict[str, list[str]] = {"h": [], "c": []}
    axis = g.constant("axis_1", np.asarray([1], np.int64))
    for layer in range(layers):
        inputs = [x, *_lstm_weights(g, model, layer), "", states["h"][layer], states["c"][layer]]
        outputs = [f"y_{layer}", f"h_end_{layer}", f"c_end_{layer}"]
        g.nodes.append(helper.make_node("LSTM", inputs, outputs, name=f"LSTM_{layer}", hidden_size=model.lstm.hidden_size))
        x = g.add("Squeeze", outputs[0], axis)  # (frames, directions=1, streams, hidden) -> (frames, streams, hidden)
        ends["h"].append(outputs[1])
        ends["c"].append(outputs[2])
    for s in "hc":
        g.add("Concat", *ends[s], axis=0, out=f"{s}_out")
    _mask(g, model, g.add("Transpose", x, perm=[1, 0, 2]))
    return _model(g, model)


def _features(g: _Graph, model: MaskLSTM) -> str:
    """(log(mag / (rms + floor) + floor) - mean) / std, in float32; rms as sqrt of the mean square over the bins."""
    mean, std = model.mean.cpu().numpy(), model.std.cpu().numpy()
    square = g.add("Mul", "mag", "mag")
    rms = g.add("Sqrt", g.add("ReduceMean", square, axes=[2], keepdims=1))
    relative = g.add("Div", "mag", g.add("Add", rms, g.scalar("rms_floor", RMS_FLOOR)))
    log = g.add("Log", g.add("Add", relative, g.scalar("log_floor", LOG_FLOOR)))
    return g.add("Div", g.add("Sub", log, g.constant("mean", mean)), g.constant("std", std))


def _lstm_weights(g: _Graph, model: MaskLSTM, layer: int) -> list[str]:
    """W, R and B of one layer. Gates: PyTorch has input, forget, cell, output; ONNX input, output, forget, cell."""

    def gates(name: str) -> NDArray[np.generic]:
        value = getattr(model.lstm, f"{name}_l{layer}").detach().cpu().numpy()
        i, f, c, o = np.split(value, 4)
        return np.concatenate([i, o, f, c])

    return [
        g.weight(f"W_{layer}", gates("weight_ih")[None]),  # (directions=1, 4 hidden, inputs)
        g.weight(f"R_{layer}", gates("weight_hh")[None]),
        g.weight(f"B_{layer}", np.concatenate([gates("bias_ih"), gates("bias_hh")])[None]),
    ]


def _mask(g: _Graph, model: MaskLSTM, x: str) -> None:
    """Heads and masking layer: relu(x W + b) -> (y + e) / sum(y + e)."""
    weight = model.heads.weight.detach().cpu().numpy().T  # (hidden, sources * n_bins)
    bias = model.heads.bias.detach().cpu().numpy()
    y = g.add("Add", g.add("MatMul", x, g.weight("heads_weight", weight)), g.weight("heads_bias", bias))
    shape = g.constant("mask_shape", np.asarray([0, 0, model.sources, -1], np.int64))  # 0: as it comes
    y = g.add("Reshape", g.add("Relu", y), shape)
    raised = g.add("Add", y, g.scalar("mask_floor", MASK_FLOOR))
    total = g.add("ReduceSum", raised, g.constant("axis_2", np.asarray([2], np.int64)), keepdims=1)
    g.add("Div", raised, total, out="mask")


def _split(g: _Graph, state: str, layers: int) -> list[str]:
    """The state's layers, each (1, streams, hidden)."""
    if layers == 1:
        return [state]
    outputs = [f"{state}_{layer}" for layer in range(layers)]
    g.nodes.append(helper.make_node("Split", [state], outputs, name=f"Split_{state}", axis=0))
    return outputs


def _model(g: _Graph, model: MaskLSTM) -> onnx.ModelProto:
    def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    lstm = model.lstm
    state, bins = (lstm.num_layers, "streams", lstm.hidden_size), lstm.input_size
    inputs = [tensor("mag", "streams", "frames", bins), tensor("h", *state), tensor("c", *state)]
    outputs = [tensor("mask", "streams", "frames", model.sources, bins), tensor("h_out", *state), tensor("c_out", *state)]
    graph = helper.make_graph(g.nodes, "streamsep", inputs, outputs, g.constants)
    opset = [helper.make_opsetid("", OPSET)]
    made = helper.make_model(graph, opset_imports=opset, producer_name="streamsep export", ir_version=IR_VERSION)
    onnx.checker.check_model(made)
    return made
