"""Checkpoint -> one `.onnx` file with its contract, checked against PyTorch.

Run from a checkout: `python -m export CHECKPOINT -o FILE.onnx`.
"""

import streamsep  # noqa: F401 - before ONNX Runtime, which then reports to nobody
