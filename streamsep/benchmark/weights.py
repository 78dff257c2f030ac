"""What a model file holds: how many numbers, and how many bytes a step has to read.

Initializers and constants of an ONNX file are counted in its own encoding, protocol buffers, of which a walk over the fields
is all that is needed; the runtime does not depend on the `onnx` package. This module knows no network and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

# Field numbers in onnx.proto.
_GRAPH, _INITIALIZER, _DIMS, _DATA_TYPE = 7, 5, 1, 2
_NODE, _ATTRIBUTE, _TENSOR = 1, 5, 5
# Bytes of a number in memory, by TensorProto.DataType. Half precision is widened when a session is made for the CPU.
_BYTES = {1: 4, 2: 1, 3: 1, 4: 2, 5: 2, 6: 4, 7: 8, 9: 1, 10: 4, 11: 8, 12: 4, 13: 8, 16: 4}


class Weights(NamedTuple):
    """Numbers in all initializers and constants, and their bytes as the CPU reads them."""

    parameters: int
    bytes: int


def weights(path: Path) -> Weights:
    """What the `.onnx` file `path` holds, which `model.load` has checked."""
    return count(path.read_bytes())


def count(onnx: bytes) -> Weights:
    """What an ONNX file of this content holds."""
    numbers = size = 0
    message = memoryview(onnx)
    for tensor in chain(_inside(message, _GRAPH, _INITIALIZER), _inside(message, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR)):
        dims: list[int] = []
        kind = 0
        for field, value in _fields(tensor):
            if field == _DIMS:
                dims += [value] if isinstance(value, int) else list(_varints(value))
            elif field == _DATA_TYPE and isinstance(value, int):
                kind = value
        numbers += math.prod(dims)
        size += math.prod(dims) * _BYTES.get(kind, 4)
    return Weights(numbers, size)


def _inside(message: memoryview, *path: int) -> Iterator[memoryview]:
    """The messages at the field numbers `path`, one in the other."""
    if not path:
        yield message
        return
    for field, value in _fields(message):
        if field == path[0] and isinstance(value, memoryview):
            yield from _inside(value, *path[1:])


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field: an int, or the bytes of what has a length; fixed-width values are passed over."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
        elif wire == 2:
            length, at = _varint(message, at)
            yield key >> 3, message[at : at + length]
            at += length
        else:
            at += {1: 8, 5: 4}[wire]


def _varints(packed: memoryview) -> Iterator[int]:
    at = 0
    while at < len(packed):
        value, at = _varint(packed, at)
        yield value


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the value and what comes after it."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at
