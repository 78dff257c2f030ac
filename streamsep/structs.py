"""Named tuples of arrays as rows of a table, so that compiled code can take the n-th of many.

Numba's tuples are values of fixed length: a tuple of forty engine states would be compiled again for forty-one, and hundreds of
numbers would be handed from function to function. Here a named tuple is written into memory as compiled code holds it
(addresses, shapes, strides and scalars, no samples), and read back by its place. What is read back borrows: the arrays belong
to whoever wrote the row, and must outlive it.

This module knows no audio. All rows of a table are of one type: the same fields, arrays of the same type and dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, typeof, types
from numba.core import cgutils
from numba.core.datamodel import models
from numba.extending import NativeValue, intrinsic, register_model, typeof_impl, unbox
from numpy.typing import NDArray

_ALIGN = 64


class Kind:
    """The type of a table's rows. Compiled code gets it as a type and nothing else: it costs nothing to hand on."""

    def __init__(self, row: NamedTuple) -> None:
        self.type = KindType(typeof(row))


class KindType(types.Type):
    """`Kind` to Numba."""

    def __init__(self, row: types.Type) -> None:
        self.row = row
        super().__init__(name=f"Kind({row})")


class Table(NamedTuple):
    """Rows for `at`."""

    memory: NDArray[np.uint8]  # [shape=(rows, bytes of one)]
    kind: Kind


def table(rows: Sequence[Any]) -> Table:
    """`rows` in one block of memory; whoever holds it must hold them, too."""
    size = -(-size_of(rows[0]) // _ALIGN) * _ALIGN
    raw = np.zeros(len(rows) * size + _ALIGN, np.uint8)
    memory = raw[-raw.ctypes.data % _ALIGN :][: len(rows) * size].reshape(len(rows), size)
    for place, row in zip(memory, rows, strict=True):
        write(place.ctypes.data, row)
    return Table(memory, Kind(rows[0]))


@njit(nogil=True, cache=True)
def at(table, place):  # type: ignore[no-untyped-def]
    """The row at `place` of `table`."""
    return _load(table.memory.ctypes.data + place * table.memory.shape[1], table.kind)


@njit(cache=True)
def write(address, row):  # type: ignore[no-untyped-def]
    """Write `row` to `address`."""
    _store(address, row)


@njit(cache=True)
def size_of(row):  # type: ignore[no-untyped-def]
    """Bytes of `row` in compiled code's form."""
    return _size(row)


@typeof_impl.register(Kind)
def _typeof_kind(kind, context):
    return kind.type


register_model(KindType)(models.OpaqueModel)


@unbox(KindType)
def _unbox_kind(typ, obj, c):
    return NativeValue(c.context.get_constant_null(types.voidptr))


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
def _load(typingctx, address, kind):
    def codegen(context, builder, sig, args):
        form = context.get_value_type(sig.return_type)
        return builder.load(builder.inttoptr(args[0], ir.PointerType(form)))

    return kind.row(types.int64, kind), codegen


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
