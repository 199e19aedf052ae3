"""bfloat16 in compiled loops: the upper half of a float32, which NumPy and numba do not know and hold as uint16."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload


@intrinsic
def _widened(_context, bits):  # type: ignore[no-untyped-def]
    """float32 from the 16 bits of a bfloat16."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        wide = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.Constant(ir.IntType(32), 16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), build


@intrinsic
def _narrowed(_context, value):  # type: ignore[no-untyped-def]
    """The 16 bits of the bfloat16 nearest to a finite float32, ties to even."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, ir.Constant(word, 16)), ir.Constant(word, 1))
        rounded = builder.add(bits, builder.add(odd, ir.Constant(word, 0x7FFF)))
        return builder.trunc(builder.lshr(rounded, ir.Constant(word, 16)), ir.IntType(16))

    return types.uint16(types.float32), build


def number(value: Any) -> Any:
    """In compiled code: a stored float32 or bfloat16 as float32."""
    raise TypeError("for compiled code")  # which takes one of the forms below


@overload(number, inline="always")
def _(value):  # type: ignore[no-untyped-def]
    if value == types.uint16:
        return lambda value: _widened(value)  # type: ignore[call-arg]
    return lambda value: value


def store(array: Any, index: Any, value: Any) -> None:
    """In compiled code: array[index] = value (float32) in an array of float32 or bfloat16."""
    raise TypeError("for compiled code")


@overload(store, inline="always")
def _store(array, index, value):  # type: ignore[no-untyped-def]
    if array.dtype == types.uint16:

        def narrow(array, index, value):  # type: ignore[no-untyped-def]
            array[index] = _narrowed(value)  # type: ignore[call-arg]

        return narrow

    def plain(array, index, value):  # type: ignore[no-untyped-def]
        array[index] = value

    return plain
