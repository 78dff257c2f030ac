"""What every graph of ours is written with: nodes, constants and the contract's edges.

Graphs are written by hand, node by node from the weights: they are short, and then say exactly what the runtime gets, with
named axes and no exporter's leftovers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from train.model import MaskNetwork

VECTOR = 16  # float32 in the widest register: what is padded to whole ones takes no other way through a rest
OPSET = 17  # layer by layer supported by ONNX Runtime 1.20 on every provider; nothing newer is needed
IR_VERSION = 8
RUNTIME_DOMAIN = "com.microsoft"  # of operators that ONNX Runtime has beside the standard's

Precision = Literal["fp32", "fp16"]


class Nodes:
    """A graph in the making; `outer`, for the body of a loop, is the graph that holds its constants.

    `prefix`: of its names; a body sees the outer ones, its own must differ.
    """

    def __init__(self, outer: Nodes | None = None, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = outer.constants if outer else []
        self.prefix = prefix

    def add(self, op: str, *inputs: str, out: str = "", **attributes: object) -> str:
        """A node with one output; its name."""
        return self.add_many(op, inputs, [out or f"{self.prefix}{op.lower()}_{len(self.nodes)}"], **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object) -> list[str]:
        """A node with these outputs; their names."""
        name = f"{self.prefix}{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, **attributes))
        return list(outputs)

    def constant(self, name: str, value: NDArray[np.generic]) -> str:
        """A constant tensor, as it is, stored once under its name; its name."""
        if name not in {tensor.name for tensor in self.constants}:
            self.constants.append(numpy_helper.from_array(np.asarray(value, order="C"), name))
        return name

    def scalar(self, name: str, value: float) -> str:
        """A float32 constant; its name."""
        return self.constant(name, np.asarray(value, np.float32))

    def axis(self, axis: int) -> str:
        """An axis as the operators that reduce and squeeze want it; its name."""
        return self.constant(f"axis_{axis}", np.asarray([axis], np.int64))

    def shape(self, *sizes: int) -> str:
        """A constant for Reshape: 0 as it comes, -1 what is left."""
        return self.constant("shape_" + "_".join(map(str, sizes)).replace("-", "m"), np.asarray(sizes, np.int64))

    def first(self, x: str, size: int, axis: int, start: int = 0) -> str:
        """`size` places of an axis, from `start` on."""
        bounds = [self.constant(f"place_{place}", np.asarray([place], np.int64)) for place in (start, start + size)]
        return self.add("Slice", x, *bounds, self.axis(axis))

    def pad(self, x: str, rank: int, before: int = 0, after: int = 0) -> str:
        """`x` of that rank with zeros before and behind its last axis."""
        pads = np.zeros((2, rank), np.int64)
        pads[:, -1] = before, after
        return self.add("Pad", x, self.constant(f"pads_{rank}_{before}_{after}", pads.ravel())) if before or after else x

    def layers(self, state: str, layers: int) -> list[str]:
        """The layers of a state, each `[shape=(1, streams, hidden)]`."""
        if layers == 1:
            return [state]
        return self.add_many("Split", [state], [f"{state}_{layer}" for layer in range(layers)], axis=0)

    def model(self, model: MaskNetwork) -> onnx.ModelProto:
        """The whole graph: mag, h, c -> mask, h_out, c_out, float32, the axes `streams` and `frames` free."""
        mask = tensor("mask", "streams", "frames", model.sources, model.n_bins)
        return self.between(model, tensor("mag", "streams", "frames", model.n_bins), mask)

    def between(self, model: MaskNetwork, seen: onnx.ValueInfoProto, given: onnx.ValueInfoProto) -> onnx.ModelProto:
        """The whole graph from `seen` and the state to `given` and the state."""
        state = (model.layers, "streams", model.state_size)
        inputs = [seen, tensor("h", *state), tensor("c", *state)]
        outputs = [given, tensor("h_out", *state), tensor("c_out", *state)]
        graph = helper.make_graph(self.nodes, "streamsep", inputs, outputs, self.constants)
        opset = [helper.make_opsetid("", OPSET), helper.make_opsetid(RUNTIME_DOMAIN, 1)]
        made = helper.make_model(graph, opset_imports=opset, producer_name="streamsep export", ir_version=IR_VERSION)
        onnx.checker.check_model(made)
        return made


class FullBand(NamedTuple):
    """What the nodes of a `MaskLSTM` are called, for what comes after it."""

    log: str  # [shape=(streams, frames, n_bins or more)]: level-free log magnitudes, before mean and deviation
    masks: str  # [shape=(streams, frames, sources, n_bins)]
    h: str  # [shape=(layers, streams, hidden)]: the state after
    c: str
    heard: Callable[[str, NDArray[np.float32]], str]  # name and weights [shape=(hidden, n)] of a layer that hears the last one:
    # what it gives, [shape=(streams, frames, 1, n)]


def tensor(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    """An input or output of a graph, float32."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def padded(bins: int) -> int:
    """So many places hold that many bins in whole vectors."""
    return -(-bins // VECTOR) * VECTOR


def weights(lstm: nn.LSTM, name: str, layer: int = 0) -> NDArray[np.float32]:
    """`name` of an LSTM's layer. Gates: PyTorch has input, forget, cell, output; ONNX input, output, forget, cell."""
    value: NDArray[np.float32] = getattr(lstm, f"{name}_l{layer}").detach().cpu().numpy()
    i, f, c, o = np.split(value, 4)
    return np.concatenate([i, o, f, c])


def lstm_weights(g: Nodes, lstm: nn.LSTM, name: str, precision: Precision, layer: int = 0) -> list[str]:
    """W, R and B of one layer, for an LSTM node."""
    biases = np.concatenate([weights(lstm, "bias_ih", layer), weights(lstm, "bias_hh", layer)])
    return [
        stored(g, f"W_{name}", weights(lstm, "weight_ih", layer)[None], precision),  # (directions=1, 4 hidden, inputs)
        stored(g, f"R_{name}", weights(lstm, "weight_hh", layer)[None], precision),
        stored(g, f"B_{name}", biases[None], precision),
    ]


def stored(g: Nodes, name: str, value: NDArray[np.float32], precision: Precision) -> str:
    """A trained tensor, float32 to the nodes whatever its precision in the file; its name."""
    if precision == "fp32":
        return g.constant(name, value)
    return g.add("Cast", g.constant(f"{name}_fp16", value.astype(np.float16)), to=TensorProto.FLOAT, out=name)


def masking(g: Nodes, model: MaskNetwork, y: str, floor: float, out: str = "mask") -> str:
    """The masking layer from the heads `[shape=(streams, frames, ..., sources * n_bins)]`: relu, (y + e) / sum(y + e)."""
    shape = g.constant("mask_shape", np.asarray([0, 0, model.sources, model.n_bins], np.int64))  # 0: as it comes
    raised = g.add("Add", g.add("Reshape", g.add("Relu", y), shape), g.scalar("mask_floor", floor))
    total = g.add("ReduceSum", raised, g.axis(2), keepdims=1)
    return g.add("Div", raised, total, out=out)
