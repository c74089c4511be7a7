"""Data that kernels work on: aligned to cache lines, with operands as random as real ones.

Power depends on the bits that toggle: the same matrix product can draw 40 % less on constant data
(arXiv 2409.18324). Every operand here has a uniform 52-bit (23-bit) mantissa and a random sign. The
exponent is that of [1/2, 1), so that the maps of ``cpu_arithmetic`` neither overflow nor leave the
normal numbers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_CHUNK = 1 << 16

_SIGN_AND_MANTISSA = {4: 0x807F_FFFF, 8: 0x800F_FFFF_FFFF_FFFF}
_EXPONENT = {4: 0x3F00_0000, 8: 0x3FE0_0000_0000_0000}


def aligned_empty(count: int, dtype: type[np.generic], *, alignment: int) -> NDArray[Any]:
    """Uninitialised array of shape (count,) whose first byte is at a multiple of ``alignment``."""
    size = count * np.dtype(dtype).itemsize
    memory = np.empty(size + alignment, np.uint8)
    start = -memory.ctypes.data % alignment
    return memory[start : start + size].view(dtype)


def zeros(count: int, dtype: type[np.generic], *, alignment: int) -> NDArray[Any]:
    """Zeros that were written, so that each page has its own memory; arguments as for ``aligned_empty``."""
    array = aligned_empty(count, dtype, alignment=alignment)
    array.fill(0)
    return array


def random_operands(
    count: int, dtype: type[np.float32] | type[np.float64], *, seed: int, alignment: int
) -> NDArray[Any]:
    """Floating-point numbers with uniform mantissas and random signs, magnitudes in [1/2, 1).

    The calling thread touches the memory first, so that it lies at the thread's own memory node.

    Args:
        count: elements of the returned array of shape (count,).
        dtype: single or double precision.
        seed: of the random bits.
        alignment: of the first byte, in bytes.
    """
    operands = aligned_empty(count, dtype, alignment=alignment)
    width = operands.itemsize
    bits: NDArray[Any] = operands.view(np.uint32 if width == 4 else np.uint64)
    sign_and_mantissa = bits.dtype.type(_SIGN_AND_MANTISSA[width])
    exponent = bits.dtype.type(_EXPONENT[width])
    generator = np.random.default_rng(seed)
    for start in range(0, count, _CHUNK):
        part = bits[start : start + _CHUNK]
        random_bits: NDArray[Any] = generator.integers(0, 2 ** (8 * width), part.size, dtype=bits.dtype)
        np.bitwise_or(random_bits & sign_and_mantissa, exponent, out=part)
    return operands
