"""Sixty-four coordinates at a time, in the compiler's own vectors: the only place that writes code for lanes.

``scan_word`` compares the magnitudes of 64 neighbours with two thresholds and adds up their squares, all
from one load. Magnitudes are compared as integers: for IEEE 754 numbers of one sign, the order of the bits is
the order of the values, and NaN and infinity come last. The compiler cannot be trusted to find this form in a
loop: it would build the word bit by bit, or keep the sums in one lane.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

WORD = 64
"""Coordinates in one word of a bitmask."""

SUM_LANES = 8
"""Partial sums of float64 that ``scan_word`` keeps, four of each kind; of float32 it keeps twice as many."""

_REGISTER_BITS = 256
_INDEX = ir.IntType(32)


def _vector(scalar: Any, lanes: int) -> Any:
    return ir.VectorType(scalar, lanes)


def _splat(builder: ir.IRBuilder, scalar: Any, lanes: int) -> Any:
    undefined = ir.Constant(_vector(scalar.type, lanes), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.Constant(_INDEX, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_vector(_INDEX, lanes), [0] * lanes))


def _joined(builder: ir.IRBuilder, parts: list[Any]) -> Any:
    """Comparisons of neighbouring vectors as the bits of one word, the first in the lowest bit.

    Compilers pack eight lanes well as one long vector, four lanes only one by one.
    """
    word, lanes = ir.IntType(WORD), parts[0].type.count
    if lanes >= 8:
        while len(parts) > 1:
            count = 2 * parts[0].type.count
            order = ir.Constant(_vector(_INDEX, count), list(range(count)))
            parts = [
                builder.shuffle_vector(left, right, order)
                for left, right in zip(parts[::2], parts[1::2], strict=True)
            ]
        return builder.bitcast(parts[0], word)
    joined: Any = ir.Constant(word, 0)
    for number, part in enumerate(parts):
        bits = builder.zext(builder.bitcast(part, ir.IntType(lanes)), word)
        joined = builder.or_(joined, builder.shl(bits, ir.Constant(word, number * lanes)))
    return joined


def _plus_square(builder: ir.IRBuilder, x: Any, total: Any) -> Any:
    if total is None:
        return builder.fmul(x, x)
    name = f"llvm.fmuladd.v{x.type.count}{'f32' if isinstance(x.type.element, ir.FloatType) else 'f64'}"
    signature = ir.FunctionType(x.type, [x.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x, x, total])


def _type_scan_word(
    typingctx: Any, bits: Any, start: Any, above: Any, below: Any, sums: Any
) -> tuple[Any, Any]:
    """``(word, word)``: which of ``bits[start:start + 64]`` lie above, and which not below.

    Bit j of the first word: the magnitude of ``bits[start + j]`` exceeds ``above``; of the second: it exceeds
    ``below``. Adds the squares of all 64 to ``sums[:lanes]``, of those above to ``sums[lanes:]``.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        integer = context.get_value_type(signature.args[0].dtype)
        real = ir.FloatType() if integer.width == 32 else ir.DoubleType()
        lanes = _REGISTER_BITS // integer.width
        integers, reals = _vector(integer, lanes), _vector(real, lanes)
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        target = context.make_array(signature.args[4])(context, builder, arguments[4])
        memory = builder.bitcast(builder.gep(source.data, [arguments[1]]), integers.as_pointer())
        limits = [_splat(builder, arguments[place], lanes) for place in (2, 3)]
        magnitude_bits = ir.Constant(integers, [(1 << (integer.width - 1)) - 1] * lanes)
        compared: tuple[list[Any], list[Any]] = ([], [])
        totals: list[Any] = [None, None]
        for part in range(WORD // lanes):
            place = builder.gep(memory, [ir.Constant(_INDEX, part)])
            magnitude = builder.and_(builder.load(place, align=integer.width // 8), magnitude_bits)
            for found, limit in zip(compared, limits, strict=True):
                found.append(builder.icmp_signed(">", magnitude, limit))
            kept = builder.and_(magnitude, builder.sext(compared[0][-1], integers))
            totals = [
                _plus_square(builder, builder.bitcast(value, reals), total)
                for value, total in zip((magnitude, kept), totals, strict=True)
            ]
        memory = builder.bitcast(target.data, reals.as_pointer())
        for kind, total in enumerate(totals):
            place = builder.gep(memory, [ir.Constant(_INDEX, kind)])
            old = builder.load(place, align=integer.width // 8)
            builder.store(builder.fadd(old, total), place, align=integer.width // 8)
        words = [_joined(builder, found) for found in compared]
        return context.make_tuple(builder, signature.return_type, words)

    return types.UniTuple(types.uint64, 2)(bits, types.intp, bits.dtype, bits.dtype, sums), generate


def _type_prefetch(typingctx: Any, array: Any, index: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(builder.gep(source.data, [arguments[1]]), byte)
        flag = ir.IntType(32)
        signature_ = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, signature_, "llvm.prefetch.p0")
        # For reading, to stay in every cache, of data.
        builder.call(function, [place, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.intp), generate


def _type_popcount(typingctx: Any, word: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


def _type_lowest_bit(typingctx: Any, word: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.int64(types.uint64), generate


def _type_as_real(typingctx: Any, bits: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return (types.float32 if bits.bitwidth == 32 else types.float64)(bits), generate


def _type_as_bits(typingctx: Any, real: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return (types.int32 if real.bitwidth == 32 else types.int64)(real), generate


scan_word: Any = intrinsic(_type_scan_word)
prefetch: Any = intrinsic(_type_prefetch)
"""Ask for the cache line of an element that will be read soon; harmless beyond the end of an array."""
popcount: Any = intrinsic(_type_popcount)
"""Number of bits of a word that are set."""
lowest_bit: Any = intrinsic(_type_lowest_bit)
"""Position of the lowest bit that is set in a word that is not zero."""
as_real: Any = intrinsic(_type_as_real)
"""The number whose bits these are: float32 of int32, float64 of int64."""
as_bits: Any = intrinsic(_type_as_bits)
"""The bits of a number: int32 of float32, int64 of float64."""
