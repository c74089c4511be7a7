"""Sixty-four coordinates at a time, in the compiler's own vectors: the only place that writes code for lanes.

``scan_words`` compares the magnitudes of neighbours with two thresholds, 64 to a word, and adds up their
squares, all from one load. Magnitudes are compared as integers: for IEEE 754 numbers of one sign, the order
of the bits is the order of the values, and NaN and infinity come last. The compiler cannot be trusted to find
this form in a loop: it would build the word bit by bit, or keep the sums in one lane.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

WORD = 64
"""Coordinates in one word of a bitmask."""

_REGISTER_BITS = 512
"""Of the vectors that are asked for; where registers are narrower, the compiler takes two of them."""
_ACCUMULATORS = 2
"""Vectors of partial sums of each kind, so that one addition need not wait for the last."""
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
    name = f"llvm.fmuladd.v{x.type.count}{'f32' if isinstance(x.type.element, ir.FloatType) else 'f64'}"
    signature = ir.FunctionType(x.type, [x.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [x, x, total])


def _folded(builder: ir.IRBuilder, totals: list[Any]) -> Any:
    """All lanes of some vectors, added up in float64."""
    double = ir.DoubleType()
    wide = [
        builder.fpext(total, _vector(double, total.type.count)) if total.type.element != double else total
        for total in (builder.load(place) for place in totals)
    ]
    joined = functools.reduce(builder.fadd, wide)
    while joined.type.count > 1:
        half = joined.type.count // 2
        parts = [ir.Constant(_vector(_INDEX, half), list(range(at, at + half))) for at in (0, half)]
        joined = builder.fadd(*(builder.shuffle_vector(joined, joined, part) for part in parts))
    return builder.extract_element(joined, ir.Constant(_INDEX, 0))


def _type_scan_words(
    typingctx: Any,
    bits: Any,
    start: Any,
    words: Any,
    above: Any,
    below: Any,
    kept: Any,
    place: Any,
    open_: Any,
    places: Any,
) -> tuple[Any, Any]:
    """``(count, number, total, kept total)`` of ``words`` times 64 neighbours from ``bits[start]`` on.

    Bit j of ``kept[place + w]`` is set where the magnitude of ``bits[start + 64·w + j]`` exceeds ``above``;
    of ``open_[w]`` where it exceeds ``below`` and not ``above``. Counts the first kind, lists in ``places``
    which words of the second are not zero and tells their number, and sums the squares of all and of the
    first kind.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        integer, word = context.get_value_type(signature.args[0].dtype), ir.IntType(WORD)
        real = ir.FloatType() if integer.width == 32 else ir.DoubleType()
        lanes = _REGISTER_BITS // integer.width
        integers, reals = _vector(integer, lanes), _vector(real, lanes)
        source, kept_words, open_words, open_places = (
            context.make_array(signature.args[number])(context, builder, arguments[number]).data
            for number in (0, 5, 7, 8)
        )
        kept_words = builder.gep(kept_words, [arguments[6]])
        limits = [_splat(builder, arguments[number], lanes) for number in (3, 4)]
        magnitude_bits = ir.Constant(integers, [(1 << (integer.width - 1)) - 1] * lanes)
        zeros = ir.Constant(reals, [0.0] * lanes)
        sums = [[cgutils.alloca_once_value(builder, zeros) for _ in range(_ACCUMULATORS)] for _ in range(2)]
        count, number_open = (cgutils.alloca_once_value(builder, word(0)) for _ in range(2))
        with cgutils.for_range(builder, arguments[2]) as loop:
            begin = builder.add(arguments[1], builder.mul(loop.index, loop.index.type(WORD)))
            memory = builder.bitcast(builder.gep(source, [begin]), integers.as_pointer())
            compared: tuple[list[Any], list[Any]] = ([], [])
            for part in range(WORD // lanes):
                loaded = builder.load(builder.gep(memory, [_INDEX(part)]), align=integer.width // 8)
                magnitude = builder.and_(loaded, magnitude_bits)
                for found, limit in zip(compared, limits, strict=True):
                    found.append(builder.icmp_signed(">", magnitude, limit))
                x = builder.bitcast(magnitude, reals)
                total, kept_total = (of_kind[part % _ACCUMULATORS] for of_kind in sums)
                builder.store(_plus_square(builder, x, builder.load(total)), total)
                only = builder.bitcast(
                    builder.and_(magnitude, builder.sext(compared[0][-1], integers)), reals
                )
                builder.store(_plus_square(builder, only, builder.load(kept_total)), kept_total)
            over, not_under = (_joined(builder, found) for found in compared)
            between = builder.and_(not_under, builder.not_(over))
            builder.store(over, builder.gep(kept_words, [loop.index]))
            builder.store(between, builder.gep(open_words, [loop.index]))
            builder.store(builder.add(builder.load(count), builder.ctpop(over)), count)
            # Written in any case, and counted where it matters: a branch could not be foreseen.
            number = builder.load(number_open)
            builder.store(loop.index, builder.gep(open_places, [number]))
            some = builder.zext(builder.icmp_unsigned("!=", between, word(0)), word)
            builder.store(builder.add(number, some), number_open)
        results = [builder.load(count), builder.load(number_open), *(_folded(builder, part) for part in sums)]
        return context.make_tuple(builder, signature.return_type, results)

    result = types.Tuple((types.int64, types.int64, types.float64, types.float64))
    operands = (bits, types.intp, types.intp, bits.dtype, bits.dtype, kept, types.intp, open_, places)
    return result(*operands), generate


def _type_true_bits(typingctx: Any, flags: Any, start: Any) -> tuple[Any, Any]:
    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: Any) -> Any:
        source = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        flag_bytes = _vector(ir.IntType(8), WORD)
        memory = builder.bitcast(builder.gep(source, [arguments[1]]), flag_bytes.as_pointer())
        loaded = builder.load(memory, align=1)
        return builder.bitcast(
            builder.icmp_signed("!=", loaded, ir.Constant(flag_bytes, None)), ir.IntType(WORD)
        )

    return types.uint64(flags, types.intp), generate


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


scan_words: Any = intrinsic(_type_scan_words)
true_bits: Any = intrinsic(_type_true_bits)
"""``flags[start : start + 64]``, a byte each, as the bits of a word."""
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
