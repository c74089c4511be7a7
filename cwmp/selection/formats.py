"""Floating-point formats as the kernels read them: integers whose order is that of the magnitudes.

float32 and float64 are compared as they are, as int32 and int64. bfloat16 arrives as int16 and float16 as
uint16; both are written out as float32, a chunk at a time, which is exact and keeps infinity and NaN.

The functions have no body of their own: the compiler picks one by the type of the array.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba.core import types
from numba.extending import overload

from cwmp.selection.lanes import as_bits


def decode(bits: Any, start: int, stop: int, wide: Any) -> None:
    """Write magnitudes of ``bits[start:stop]`` to ``wide`` as float32, if they have only two bytes.

    Args:
        bits: elements of a gradient as integers.
        start: first coordinate.
        stop: past the last one.
        wide: int32, room for them.
    """
    raise NotImplementedError("only inside kernels")


def readable(bits: Any, wide: Any) -> Any:
    """Where decoded magnitudes are: ``bits`` itself, or ``wide``."""
    raise NotImplementedError("only inside kernels")


def position_of(bits: Any, start: int) -> int:
    """Where the magnitude of coordinate ``start`` is there, after ``decode``."""
    raise NotImplementedError("only inside kernels")


def without_sign(bits: Any) -> Any:
    """Bits of the magnitude."""
    raise NotImplementedError("only inside kernels")


def bits_like(bits: Any, value: float) -> Any:
    """Bits of a number in the format of the array ``bits``, int32 or int64."""
    raise NotImplementedError("only inside kernels")


@overload(decode)
def _decode(bits: Any, start: Any, stop: Any, wide: Any) -> Any:
    def bfloat16(bits: Any, start: Any, stop: Any, wide: Any) -> Any:
        # Slices have no negative indices to think of, so that the compiler can use lanes.
        source, target = bits[start:stop], wide[: stop - start]
        for index in range(source.size):
            target[index] = np.int32(source[index] & 0x7FFF) << 16

    def float16(bits: Any, start: Any, stop: Any, wide: Any) -> Any:
        source, target = bits[start:stop], wide[: stop - start]
        for index in range(source.size):
            half = np.int32(source[index]) & np.int32(0x7FFF)
            subnormal = as_bits(np.float32(half) * np.float32(2.0**-24))
            normal = (half << 13) + np.int32(112 << 23)
            beyond = (half << 13) | np.int32(0x7F800000)
            target[index] = beyond if half >= 0x7C00 else (normal if half >= 0x0400 else subnormal)

    def as_it_is(bits: Any, start: Any, stop: Any, wide: Any) -> Any:
        pass

    if bits.dtype == types.int16:
        return bfloat16
    return float16 if bits.dtype == types.uint16 else as_it_is


@overload(readable)
def _readable(bits: Any, wide: Any) -> Any:
    def itself(bits: Any, wide: Any) -> Any:
        return bits

    def decoded(bits: Any, wide: Any) -> Any:
        return wide

    return decoded if bits.dtype.bitwidth == 16 else itself


@overload(position_of)
def _position_of(bits: Any, start: Any) -> Any:
    def itself(bits: Any, start: Any) -> Any:
        return start

    def decoded(bits: Any, start: Any) -> Any:
        return 0

    return decoded if bits.dtype.bitwidth == 16 else itself


@overload(without_sign)
def _without_sign(bits: Any) -> Any:
    def of_float32(bits: Any) -> Any:
        return np.int32(bits & np.int32(0x7FFFFFFF))  # integers of numba widen to 64 bits by themselves

    def of_float64(bits: Any) -> Any:
        return np.int64(bits & np.int64(0x7FFFFFFFFFFFFFFF))

    return of_float32 if bits.bitwidth == 32 else of_float64


@overload(bits_like)
def _bits_like(bits: Any, value: Any) -> Any:
    def float32(bits: Any, value: Any) -> Any:
        return as_bits(np.float32(value))

    def float64(bits: Any, value: Any) -> Any:
        return as_bits(np.float64(value))

    return float32 if bits.dtype.bitwidth == 32 else float64
