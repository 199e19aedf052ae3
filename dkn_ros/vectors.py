"""Vectors in compiled loops: numbers worked on side by side where numba's loops do not become vector instructions.

LLVM makes of 16 numbers what the processor has for them: one register of AVX-512, two of AVX2, four of NEON.  In
compiled code vectors are added, subtracted, multiplied and divided with `+ - * /`, also with a float32.

numba knows no such type; it is told here, by what its documentation calls the low-level extension API.  The compiled
code that it keeps is that of the file a loop stands in: after a change here, touch those who use it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.extending import intrinsic, overload, register_model

COUNT = 16
_FLOAT, _WORD, _HALF = ir.FloatType(), ir.IntType(32), ir.IntType(16)
_FLOAT_BYTES, _HALF_BYTES = 4, 2
_in_compiled_code: Any = intrinsic
"""Untyped: there the functions take what comes after the first argument."""


class Vector(types.Type):
    """The type of `count` float32 that are worked on together."""

    def __init__(self, count: int) -> None:
        super().__init__(name=f"Vector({count})")
        self.count = count


@register_model(Vector)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Vector) -> None:
        super().__init__(manager, kind, ir.VectorType(_FLOAT, kind.count))


SIXTEEN, FOUR = Vector(COUNT), Vector(4)


@_in_compiled_code
def load(_context, array, start):  # type: ignore[no-untyped-def]
    """Sixteen numbers from array[start] on, of a contiguous array of float32 or of bfloat16, held as uint16."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        pointer = _pointer(context, builder, signature.args[0], *arguments)
        if signature.args[0].dtype == types.float32:
            return _loaded(builder, pointer, _FLOAT, COUNT, _FLOAT_BYTES)
        bits = builder.zext(_loaded(builder, pointer, _HALF, COUNT, _HALF_BYTES), ir.VectorType(_WORD, COUNT))
        return builder.bitcast(builder.shl(bits, _constant(_WORD, 16)), ir.VectorType(_FLOAT, COUNT))

    return SIXTEEN(array, types.intp), build


@_in_compiled_code
def keep(_context, array, start, vector):  # type: ignore[no-untyped-def]
    """array[start : start + 16] = vector, in an array of float32; in one of int32, without what is behind the point."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        kind, value = signature.args[0], arguments[2]
        if kind.dtype == types.int32:
            value = builder.fptosi(value, ir.VectorType(_WORD, COUNT))
        _stored(builder, _pointer(context, builder, kind, *arguments[:2]), value)
        return context.get_dummy_value()

    return types.void(array, types.intp, SIXTEEN), build


@_in_compiled_code
def keep_fours(_context, array, start, a, b, c, d):  # type: ignore[no-untyped-def]
    """array[start : start + 64] = a0 b0 c0 d0 a1 b1 c1 d1 and so on, float32."""

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        a, b, c, d = arguments[2:]
        pairs = [lane + other for lane in range(COUNT) for other in (0, COUNT)]
        ab, cd = _shuffled(builder, a, b, pairs), _shuffled(builder, c, d, pairs)
        fours = [2 * lane + other for lane in range(COUNT) for other in (0, 1, 2 * COUNT, 2 * COUNT + 1)]
        _stored(
            builder, _pointer(context, builder, signature.args[0], *arguments[:2]), _shuffled(builder, ab, cd, fours)
        )
        return context.get_dummy_value()

    return types.void(array, types.intp, *[SIXTEEN] * 4), build


@_in_compiled_code
def spread(_context, number):  # type: ignore[no-untyped-def]
    """Sixteen times the same float32."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        empty = ir.Constant(ir.VectorType(_FLOAT, COUNT), ir.Undefined)
        first = builder.insert_element(empty, arguments[0], ir.Constant(_WORD, 0))
        return builder.shuffle_vector(first, empty, _constant(_WORD, 0))

    return SIXTEEN(types.float32), build


@_in_compiled_code
def where_less(_context, a, b, then, otherwise):  # type: ignore[no-untyped-def]
    """Of `then` where a < b, of `otherwise` elsewhere, and so where either is NaN."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        return builder.select(builder.fcmp_ordered("<", *arguments[:2]), *arguments[2:])

    return SIXTEEN(*[SIXTEEN] * 4), build


@_in_compiled_code
def floor(_context, vector):  # type: ignore[no-untyped-def]
    """The largest whole numbers that are not above."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        kind = ir.VectorType(_FLOAT, COUNT)
        name = f"llvm.floor.v{COUNT}f32"
        return builder.call(
            cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind]), name), arguments
        )

    return SIXTEEN(SIXTEEN), build


@_in_compiled_code
def power_of_two(_context, exponent):  # type: ignore[no-untyped-def]
    """2 to the power of whole numbers from -126 to 127."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        whole = builder.fptosi(arguments[0], ir.VectorType(_WORD, COUNT))
        biased = builder.add(whole, _constant(_WORD, 127))
        return builder.bitcast(builder.shl(biased, _constant(_WORD, 23)), ir.VectorType(_FLOAT, COUNT))

    return SIXTEEN(SIXTEEN), build


@_in_compiled_code
def no_square(_context):  # type: ignore[no-untyped-def]
    """Nothing yet, for `add_square`."""

    def build(_context, _builder, _signature, _arguments):  # type: ignore[no-untyped-def]
        return _constant(_FLOAT, 0.0, FOUR.count)

    return FOUR(), build


@_in_compiled_code
def add_square(_context, total, share, c, image, upper, lower):  # type: ignore[no-untyped-def]
    """Add a square of 2 x 2 pixels, each times its share, to four sums.

    share[c : c + 4] is of image[upper], image[upper + 1], image[lower] and image[lower + 1], all float32.
    """

    def build(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        total, share, c, image, upper, lower = arguments
        shares = _loaded(builder, _pointer(context, builder, signature.args[1], share, c), _FLOAT, 4, _FLOAT_BYTES)
        above, below = (
            _loaded(builder, _pointer(context, builder, signature.args[3], image, at), _FLOAT, 2, _FLOAT_BYTES)
            for at in (upper, lower)
        )
        return builder.fadd(total, builder.fmul(shares, _shuffled(builder, above, below, [0, 1, 2, 3])))

    return FOUR(FOUR, share, types.intp, image, types.intp, types.intp), build


@_in_compiled_code
def sum_of_square(_context, total):  # type: ignore[no-untyped-def]
    """The sum of the four sums."""

    def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
        a, b, c, d = (builder.extract_element(arguments[0], ir.Constant(_WORD, i)) for i in range(FOUR.count))
        return builder.fadd(builder.fadd(a, b), builder.fadd(c, d))

    return types.float32(FOUR), build


def _operator(instruction: str) -> Any:
    @_in_compiled_code
    def apply(_context, a, b):  # type: ignore[no-untyped-def]
        def build(_context, builder, _signature, arguments):  # type: ignore[no-untyped-def]
            return getattr(builder, instruction)(*arguments)

        return SIXTEEN(SIXTEEN, SIXTEEN), build

    return apply


def _forms(apply: Any) -> Callable[[Any, Any], Any]:
    """What numba asks for the form of an operator that takes these two types."""

    def form(a, b):  # type: ignore[no-untyped-def]
        if (a, b) == (SIXTEEN, SIXTEEN):
            return lambda a, b: apply(a, b)
        if (a, b) == (SIXTEEN, types.float32):
            return lambda a, b: apply(a, spread(b))
        if (a, b) == (types.float32, SIXTEEN):
            return lambda a, b: apply(spread(a), b)
        return None

    return form


for _sign, _instruction in (
    (operator.add, "fadd"), (operator.sub, "fsub"), (operator.mul, "fmul"), (operator.truediv, "fdiv"),
):  # fmt: skip
    overload(_sign, inline="always")(_forms(_operator(_instruction)))


def _constant(kind: ir.Type, value: float, count: int = COUNT) -> ir.Constant:
    return ir.Constant(ir.VectorType(kind, count), [value] * count)


def _pointer(context: Any, builder: Any, kind: types.Array, array: Any, index: Any) -> Any:
    """To an element of a contiguous array of one dimension."""
    return builder.gep(context.make_array(kind)(context, builder, array).data, [index])


def _loaded(builder: Any, pointer: Any, kind: ir.Type, count: int, align: int) -> Any:
    return builder.load(builder.bitcast(pointer, ir.VectorType(kind, count).as_pointer()), align=align)


def _stored(builder: Any, pointer: Any, value: Any) -> None:
    builder.store(value, builder.bitcast(pointer, value.type.as_pointer()), align=_FLOAT_BYTES)


def _shuffled(builder: Any, a: Any, b: Any, order: Sequence[int]) -> Any:
    """The elements of two vectors, those of the second counted on, in this order."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_WORD, len(order)), list(order)))
