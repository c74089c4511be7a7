"""Sums of joules without rounding: the budget is kept exactly, and no order of summation matters.

Every float64 is a whole number of units of 2⁻¹⁰⁷⁴, the smallest subnormal. Python's integers count units; a
kernel adds many costs by their exponents: a bin collects the mantissas of one exponent in two halves, which
64-bit integers hold for 2³⁶ costs.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled

UNIT_EXPONENT = 1074
EXPONENTS = 2048
HALF_BITS = 26

Bins = NDArray[np.int64]


def new_bins() -> Bins:
    """Empty bins, shape (2, 2048): lower and upper halves of mantissas by exponent field."""
    return np.zeros((2, EXPONENTS), dtype=np.int64)


@compiled
def add_cost(bins: Bins, cost: float, count: int) -> None:
    """Add ``count`` times a positive finite cost to the bins."""
    bits = np.int64(np.float64(cost).view(np.int64))
    exponent = bits >> 52
    mantissa = bits & ((1 << 52) - 1)
    if exponent:
        mantissa |= 1 << 52
    bins[0, exponent] += (mantissa & ((1 << HALF_BITS) - 1)) * count
    bins[1, exponent] += (mantissa >> HALF_BITS) * count


@compiled
def _add_costs(bins: Bins, costs: NDArray[np.float64]) -> None:
    for index in range(costs.size):
        add_cost(bins, costs[index], 1)


def sum_units(costs: NDArray[np.float64]) -> int:
    """Exact sum of positive costs, shape (n,), in units."""
    bins = new_bins()
    _add_costs(bins, costs)
    return bins_to_units(bins)


@compiled
def _filled(bins: Bins) -> list[int]:
    return [exponent for exponent in range(EXPONENTS) if bins[0, exponent] | bins[1, exponent]]


def bins_to_units(bins: Bins) -> int:
    """What the bins hold, in units."""
    total = 0
    for exponent in _filled(bins):
        mantissas = int(bins[0, exponent]) + (int(bins[1, exponent]) << HALF_BITS)
        # Subnormals have the exponent field 0 and the same unit as the field 1.
        total += mantissas << max(exponent - 1, 0)
    return total


def to_units(cost: float) -> int:
    """A finite cost in units."""
    numerator, denominator = cost.as_integer_ratio()
    return (numerator << UNIT_EXPONENT) // denominator


def from_units(units: int) -> float:
    """The nearest float64, infinite beyond the largest."""
    try:
        return units / (1 << UNIT_EXPONENT)
    except OverflowError:
        return math.inf


def units_within(budget_j: float) -> int | None:
    """The largest sum that, rounded to float64, does not exceed the budget; None if every sum is within.

    Sums up to half-way to the next float64 round down to the budget; half-way itself only if the budget's
    last bit is even.
    """
    if budget_j == math.inf:
        return None
    if budget_j < 0:
        return -1
    above = math.nextafter(budget_j, math.inf)
    if above == math.inf:
        return None
    twice_middle = to_units(budget_j) + to_units(above)
    return twice_middle // 2 if from_units(twice_middle // 2) <= budget_j else (twice_middle - 1) // 2
