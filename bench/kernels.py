"""Ways for ONNX Runtime to multiply a frame by a network's weights, measured against each other on one thread.

    python bench/kernels.py [--rounds 12] [--json]

Three products of the size of an LSTM layer's (its inputs and its own state to its gates), for networks of 3 x 400 and of
3 x 1000, and for one stream and forty, back to back; nothing else is in these graphs. What a whole step adds to them are some
fifty small operators (`streamsep bench`).

    fp32, MatMul                   weights packed when the session is made
    int8, MatMulInteger            what `python -m export --precision int8` writes: a scale an output
    int8, MatMulIntegerToFloat     the same with the scale inside the operator, ONNX Runtime's own fusion
    int8 and int4, MatMulNBits     blocks of weights with a scale each; activations in 8 bits, too ("accuracy_level" 4)

The weights are random: this is about time alone. What fewer bits cost in sound only training can say.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np

import streamsep  # isort: skip # noqa: F401 - first: ONNX Runtime then reports to nobody
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from streamsep.benchmark import machine

PRODUCTS = 3
HIDDEN = (400, 1000)
STREAMS = (1, 40)
KINDS: dict[str, tuple[str, int, int]] = {  # operator, bits, weights of a block
    "fp32, MatMul": ("MatMul", 32, 0),
    "int8, MatMulInteger": ("MatMulInteger", 8, 0),
    "int8, MatMulIntegerToFloat": ("MatMulIntegerToFloat", 8, 0),
    "int8, MatMulNBits, blocks of 32": ("MatMulNBits", 8, 32),
    "int8, MatMulNBits, blocks of 128": ("MatMulNBits", 8, 128),
    "int4, MatMulNBits, blocks of 32": ("MatMulNBits", 4, 32),
    "int4, MatMulNBits, blocks of 128": ("MatMulNBits", 4, 128),
}


def session(kind: str, hidden: int) -> onnxruntime.InferenceSession:
    """Products of `x` `[shape=(streams, 2 hidden)]` with `PRODUCTS` matrices of their own, `[shape=(2 hidden, 4 hidden)]`."""
    operator, bits, block = KINDS[kind]
    inputs, outputs, rng = 2 * hidden, 4 * hidden, np.random.default_rng(0)
    constants: dict[str, NDArray[np.generic]] = {}
    nodes = []
    if operator.startswith("MatMulInteger"):
        constants |= {"step": np.asarray(1 / 127, np.float32), "zero": np.asarray(128, np.uint8)}
        nodes.append(helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]))
    for n in range(PRODUCTS):
        weight, scale, y = f"weight_{n}", f"scale_{n}", f"y_{n}"
        value = rng.standard_normal((inputs, outputs)).astype(np.float32)
        if operator == "MatMul":
            constants[weight] = value
            nodes.append(helper.make_node(operator, ["x", weight], [y]))
        elif operator.startswith("MatMulInteger"):
            constants[weight] = np.clip(np.rint(20 * value), -63, 63).astype(np.int8)
            constants[scale] = np.full(outputs, 0.01, np.float32)
            if operator == "MatMulInteger":
                nodes.append(helper.make_node(operator, ["q", weight, "zero"], [f"sum_{n}"]))
                nodes.append(helper.make_node("Cast", [f"sum_{n}"], [f"product_{n}"], to=TensorProto.FLOAT))
                nodes.append(helper.make_node("Mul", [f"product_{n}", scale], [y]))
            else:
                nodes.append(helper.make_node(operator, ["q", weight, "step", scale, "zero"], [y], domain="com.microsoft"))
        else:
            blocks = -(-inputs // block)
            constants[weight] = rng.integers(0, 256, (outputs, blocks, block * bits // 8), np.uint8)
            constants[scale] = np.full(outputs * blocks, 0.01, np.float32)
            shape = {"K": inputs, "N": outputs, "bits": bits, "block_size": block, "accuracy_level": 4}
            nodes.append(helper.make_node(operator, ["x", weight, scale], [y], domain="com.microsoft", **shape))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["streams", inputs])
    ys = [helper.make_tensor_value_info(f"y_{n}", TensorProto.FLOAT, ["streams", outputs]) for n in range(PRODUCTS)]
    tensors = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "products", [x], ys, tensors)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])


def measure(hidden: int, streams: int, rounds: int) -> dict[str, float]:
    """ms of every kind, the median; the kinds take turns, some calls each."""
    x = np.tanh(np.random.default_rng(1).standard_normal((streams, 2 * hidden))).astype(np.float32)
    sessions = {kind: session(kind, hidden) for kind in KINDS}
    calls = max(4, 40 // streams)
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, made in sessions.items():
            for n in range(2 * calls):
                start = time.perf_counter()
                made.run(None, {"x": x})
                if n >= calls:  # those before bring its weights into the caches
                    times[kind].append(1e3 * (time.perf_counter() - start))
    return {kind: float(np.median(found)) for kind, found in times.items()}


def markdown(report: dict[str, Any]) -> str:
    """The table for people."""
    cases = [(hidden, streams) for hidden in HIDDEN for streams in STREAMS]
    lines = [
        f"`bench/kernels.py`: three products of a layer's size, ms, back to back on one thread; {report['machine']['cpu']},",
        f"onnxruntime {report['onnxruntime']}. In brackets the megabytes of the weights.",
        "",
        "| | " + " | ".join(f"3 x {h}, {s} stream{'s' * (s > 1)}" for h, s in cases) + " |",
        "|---|" + "---|" * len(cases),
    ]
    for kind, (_, bits, _) in KINDS.items():
        cells = []
        for hidden, streams in cases:
            size = PRODUCTS * 8 * hidden**2 * bits / 8e6
            cells.append(f"{report['ms'][f'{hidden}, {streams}'][kind]:.3f}" + (f" ({size:.1f})" if streams == 1 else ""))
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    summary, _, text = (__doc__ or "").partition("\n\n")
    p = argparse.ArgumentParser(description=summary, epilog=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=12, help="(%(default)s)")
    p.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = p.parse_args()
    ms = {f"{hidden}, {streams}": measure(hidden, streams, arguments.rounds) for hidden in HIDDEN for streams in STREAMS}
    report = {"ms": ms, "machine": machine.machine(), "onnxruntime": onnxruntime.__version__}
    print(json.dumps(report, indent=1) if arguments.json else markdown(report))


if __name__ == "__main__":
    main()
