"""Named tuples of arrays as rows of a table, so that compiled code can take the n-th of many.

Numba's tuples are values of fixed length: a tuple of forty engine states would be compiled again for forty-one. Here a named
tuple is written into memory as compiled code holds it (addresses, shapes, strides and scalars, no samples), and read back by
its place. What is read back borrows: the arrays belong to whoever wrote the row, and must outlive it.

This module knows no audio. All rows of a table are of one type: the same fields, arrays of the same type and dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.typing import NDArray

Row = TypeVar("Row", bound=NamedTuple)
_ALIGN = 64


def table(rows: Sequence[Row]) -> NDArray[np.uint8]:
    """`rows` in one block of memory `[shape=(rows, bytes of one)]`, for `at`."""
    size = -(-size_of(rows[0]) // _ALIGN) * _ALIGN
    raw = np.zeros(len(rows) * size + _ALIGN, np.uint8)
    made = raw[-raw.ctypes.data % _ALIGN :][: len(rows) * size].reshape(len(rows), size)
    for place, row in zip(made, rows, strict=True):
        write(place.ctypes.data, row)
    return made


@njit(nogil=True, cache=True)
def at(table, place, like):  # type: ignore[no-untyped-def]
    """The row at `place` of `table`; `like` is any row of it, for its type."""
    return _load(table.ctypes.data + place * table.shape[1], like)


@njit(cache=True)
def write(address, row):  # type: ignore[no-untyped-def]
    """Write `row` to `address`."""
    _store(address, row)


@njit(cache=True)
def size_of(row):  # type: ignore[no-untyped-def]
    """Bytes of `row` in compiled code's form."""
    return _size(row)


@intrinsic
def _size(typingctx, value):
    def codegen(context, builder, sig, args):
        return context.get_constant(types.int64, context.get_abi_sizeof(context.get_value_type(sig.args[0])))

    return types.int64(value), codegen


@intrinsic
def _store(typingctx, address, value):
    def codegen(context, builder, sig, args):
        borrowed = _borrowed(context, builder, sig.args[1], args[1])
        builder.store(borrowed, builder.inttoptr(args[0], borrowed.type.as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64, value), codegen


@intrinsic
def _load(typingctx, address, like):
    def codegen(context, builder, sig, args):
        kind = context.get_value_type(sig.return_type)
        return builder.load(builder.inttoptr(args[0], kind.as_pointer()))

    return like(types.int64, like), codegen


def _borrowed(context, builder, kind, value):
    """`value` without its arrays' owners: Numba's count of references does not reach into a table."""
    if isinstance(kind, types.BaseTuple):
        for place, part in enumerate(kind.types):
            inner = _borrowed(context, builder, part, builder.extract_value(value, place))
            value = builder.insert_value(value, inner, place)
    elif isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        value = array._getvalue()
    return value
