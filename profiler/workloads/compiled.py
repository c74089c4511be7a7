"""How kernels are compiled: without the interpreter lock, so that threads run them at the same time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """Compile a function when it is first called with new types."""
    return cast(F, numba.njit(nogil=True)(function))


def compiled_reordering_sums(function: F) -> F:
    """The same, and a floating-point sum may be taken in any order, so that it can use several lanes."""
    return cast(F, numba.njit(nogil=True, fastmath={"reassoc", "nsz"})(function))


def compiled_fused(function: F) -> F:
    """The same, and a product that is added to something is one fused operation where the CPU has it.

    Comparisons need not care for numbers that are none, so that the largest of a row is found in lanes, and
    a division by zero is infinite instead of an error, so that no loop has a branch for it.
    """
    flags = {"reassoc", "nsz", "contract", "nnan"}
    return cast(F, numba.njit(nogil=True, error_model="numpy", fastmath=flags)(function))
