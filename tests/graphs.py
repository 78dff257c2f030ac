"""Small ONNX models that keep the contract, for tests of the runtime that need no trained network."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from streamsep.model import METADATA_KEY, Contract

LIVE = dict(sample_rate=16000, n_fft=1024, synthesis_length=256, hop_length=128, n_bins=513)
ULTRA = LIVE | dict(synthesis_length=128, hop_length=64)
STUDIO = LIVE | dict(synthesis_length=1024, hop_length=256)


def contract(layers=1, hidden=16, sources=("vocals", "accompaniment"), **lengths) -> Contract:
    return Contract(
        name="test",
        sources=sources,
        layers=layers,
        hidden=hidden,
        precision="fp32",
        licence="MIT",
        training={"data": "none"},
        **(LIVE | lengths),
    )


def save(path: Path, contract: Contract, nodes, weights) -> Path:
    axes = {0: "streams", 1: "frames"}

    def tensor(name, shape, dynamic):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [dynamic.get(i, n) for i, n in enumerate(shape)])

    shapes = contract.shapes()
    tensors = {n: tensor(n, shapes[n], axes if n in ("mag", "mask") else {1: "streams"}) for n in shapes}
    graph = helper.make_graph(
        nodes,
        "test",
        [tensors[n] for n in ("mag", "h", "c")],
        [tensors[n] for n in ("mask", "h_out", "c_out")],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {METADATA_KEY: contract.model_dump_json()})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def constant(path: Path, levels, **kwargs) -> Path:
    """A network whose mask of source i is `levels[i]`, one for every bin or one each; (1, 0) is the identity."""
    spec = contract(**kwargs)
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["mag", "axis"], ["mag4"]),
        node("Mul", ["mag4", "zero"], ["zeros"]),
        node("Add", ["zeros", "levels"], ["mask"]),
        node("Identity", ["h"], ["h_out"]),
        node("Identity", ["c"], ["c_out"]),
    ]
    weights = {
        "axis": np.array([2], np.int64),
        "zero": np.float32(0),
        "levels": np.array(levels, np.float32).reshape(1, 1, len(levels), -1),
    }
    return save(path, spec, nodes, weights)


def coarse(path: Path, source: Path) -> Path:
    """`source` in 8 bits as ONNX Runtime's own tool makes it: the scale of the activations is taken from the whole call."""
    quantize_dynamic(source, path, weight_type=QuantType.QInt8, op_types_to_quantize=["LSTM"])
    model, metadata = onnx.load(path), {p.key: p.value for p in onnx.load(source).metadata_props}
    assert any(node.op_type == "DynamicQuantizeLSTM" for node in model.graph.node)
    helper.set_model_props(model, metadata)
    onnx.save(model, path)
    return path


def lstm(path: Path, seed=0, gain=0.05, floor=1e-5, **kwargs) -> Path:
    """One LSTM layer with random weights `gain` on log(mag + floor), then sigmoid masks that sum to one."""
    spec = contract(**kwargs)
    assert spec.layers == 1
    assert len(spec.sources) == 2
    rng = np.random.default_rng(seed)
    hidden, bins = spec.hidden, spec.n_bins
    node = helper.make_node
    nodes = [
        node("Add", ["mag", "floor"], ["above"]),
        node("Log", ["above"], ["log"]),
        node("Transpose", ["log"], ["x"], perm=[1, 0, 2]),
        node("LSTM", ["x", "W", "R", "", "", "h", "c"], ["y", "h_out", "c_out"], hidden_size=hidden),
        node("Squeeze", ["y", "axis1"], ["y3"]),
        node("Transpose", ["y3"], ["features"], perm=[1, 0, 2]),
        node("MatMul", ["features", "dense"], ["z"]),
        node("Sigmoid", ["z"], ["one"]),
        node("Sub", ["unit", "one"], ["other"]),
        node("Unsqueeze", ["one", "axis2"], ["one4"]),
        node("Unsqueeze", ["other", "axis2"], ["other4"]),
        node("Concat", ["one4", "other4"], ["mask"], axis=2),
    ]
    weights = {
        "floor": np.float32(floor),
        "unit": np.float32(1),
        "axis1": np.array([1], np.int64),
        "axis2": np.array([2], np.int64),
        "W": rng.normal(0, gain, (1, 4 * hidden, bins)).astype(np.float32),
        "R": rng.normal(0, 0.3, (1, 4 * hidden, hidden)).astype(np.float32),
        "dense": rng.normal(0, 1, (hidden, bins)).astype(np.float32),
    }
    return save(path, spec, nodes, weights)
