"""The longest affordable prefix of some coordinates in the order of their scores, exactly.

Sorting all of them would take longer than reading the gradient, so bins of the score narrow them down first:
whole bins are kept or left out, and only the bin in which the budget ends is looked at more closely. Sums of
floats only propose that bin; exact sums decide.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled
from cwmp.selection.exact import Bins, add_cost, bins_to_units, from_units, new_bins, sum_units
from cwmp.selection.lanes import as_bits
from cwmp.selection.limits import Limits

FEW = 1024
"""Coordinates that are sorted."""
BINS = 1024

BEYOND = 0x7FF0000000000001
"""A key above that of every score, infinity included."""

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """What is kept.

    Attributes:
        from_key: everything whose score has at least this key,
        also: and these of the others, ascending.
        units: exact cost of it and of what was kept before.
        threshold: the score of the first that is not kept, None if all are.
    """

    from_key: int
    also: Indices
    units: int
    threshold: float | None


@compiled
def key_range(scores: Reals, lower: int, upper: int) -> tuple[int, int, int]:
    """Lowest and highest key in [lower, upper), and how many there are; keys are in the order of scores."""
    lowest, highest, number = BEYOND, -1, 0
    for index in range(scores.size):
        key = as_bits(scores[index])
        inside = (key >= lower) & (key < upper)
        lowest = min(lowest, key if inside else BEYOND)
        highest = max(highest, key if inside else -1)
        number += inside
    return lowest, highest, number


@compiled
def fill_bins(
    scores: Reals, weights: Reals, lowest: int, highest: int, shift: int, sums: Reals, numbers: Indices
) -> None:
    """Add weights and numbers of keys in [lowest, highest] to bins of 2^shift keys each."""
    for index in range(scores.size):
        key = as_bits(scores[index])
        if lowest <= key <= highest:
            place = (key - lowest) >> shift
            sums[place] += weights[index]
            numbers[place] += 1


def bin_shift(lowest: int, highest: int) -> int:
    """How far keys are shifted so that at most ``BINS`` bins hold them."""
    return max((highest - lowest).bit_length() - (BINS - 1).bit_length(), 0)


def key_of(score: float) -> int:
    """An integer in the order of scores that are not negative."""
    return int(np.float64(score).view(np.int64))


def score_at(key: int) -> float:
    """The score that has a key."""
    return float(np.int64(key).view(np.float64))


def affordable(scores: Reals, costs: Reals, units: int, count: int, limits: Limits) -> Prefix:
    """Keep as many as are affordable by (score descending, index ascending).

    Args:
        scores: shape (n,), not negative.
        costs: joules of each, shape (n,).
        units: exact cost of what is kept already.
        count: its number.
        limits: of all together.
    """
    lower, upper = 0, BEYOND
    while True:
        lowest, highest, active = key_range(scores, lower, upper)
        if active <= FEW or lowest == highest:
            break
        lower, upper, units, count = _narrowed(scores, costs, lowest, highest, upper, units, count, limits)
    few = _between(scores, lower, upper, active)
    ranked = few[np.argsort(-scores[few], kind="stable")]
    length = _longest(costs[ranked], units, count, limits)
    if length < ranked.size:
        threshold: float | None = float(scores[ranked[length]])
    else:
        _, below, number = key_range(scores, 0, lower)
        threshold = score_at(below) if number else None
    return Prefix(
        from_key=upper,
        also=np.sort(ranked[:length]),
        units=units + sum_units(costs[ranked[:length]]),
        threshold=threshold,
    )


def _narrowed(
    scores: Reals,
    costs: Reals,
    lowest: int,
    highest: int,
    upper: int,
    units: int,
    count: int,
    limits: Limits,
) -> tuple[int, int, int, int]:
    """Keys of the bin in which the budget ends (or the lowest bin), and cost and number with all above it."""
    shift = bin_shift(lowest, highest)
    size = ((highest - lowest) >> shift) + 1
    joules, numbers = np.zeros(size), np.zeros(size, dtype=np.int64)
    fill_bins(scores, costs, lowest, highest, shift, joules, numbers)
    room_j = np.inf if limits.units is None else limits.budget_j - from_units(units)
    spent, taken = joules[::-1].cumsum()[::-1], numbers[::-1].cumsum()[::-1]
    fits = (spent <= room_j) & (taken + count <= limits.most_coordinates)
    edge = max(int(np.count_nonzero(~fits)) - 1, 0)

    def key(bin_: int) -> int:
        return lowest + (bin_ << shift) if bin_ < size else upper

    above, number = _cost_between(scores, costs, key(edge + 1), upper)
    while edge + 1 < size and not limits.allow(units + above, count + number):
        edge += 1
        above, number = _cost_between(scores, costs, key(edge + 1), upper)
    while edge > 0:
        more, more_number = _cost_between(scores, costs, key(edge), key(edge + 1))
        if not limits.allow(units + above + more, count + number + more_number):
            break
        above, number, edge = above + more, number + more_number, edge - 1
    return key(edge), key(edge + 1), units + above, count + number


def _cost_between(scores: Reals, costs: Reals, lower: int, upper: int) -> tuple[int, int]:
    """Exact cost of everything with a key in [lower, upper), and its number."""
    bins = new_bins()
    number = _add_costs_between(scores, costs, lower, upper, bins)
    return bins_to_units(bins), number


@compiled
def _add_costs_between(scores: Reals, costs: Reals, lower: int, upper: int, bins: Bins) -> int:
    number, run, cost = 0, 0, 0.0
    for index in range(scores.size):
        key = as_bits(scores[index])
        if costs[index] != cost:
            if run:
                add_cost(bins, cost, run)
            number, run, cost = number + run, 0, costs[index]
        run += (key >= lower) & (key < upper)
    if run:
        add_cost(bins, cost, run)
    return number + run


@compiled
def _between(scores: Reals, lower: int, upper: int, number: int) -> Indices:
    """Indices of what has a key in [lower, upper)."""
    found, place = np.empty(number, np.int64), 0
    for index in range(scores.size):
        if lower <= as_bits(scores[index]) < upper:
            found[place] = index
            place += 1
    return found


def _longest(costs: Reals, units: int, count: int, limits: Limits) -> int:
    """How many of them are affordable in this order; sums of floats propose, exact sums decide."""

    def allowed(length: int) -> bool:
        return limits.allow(units + sum_units(costs[:length]), count + length)

    room_j = np.inf if limits.units is None else limits.budget_j - from_units(units)
    with np.errstate(over="ignore"):
        length = int(np.searchsorted(costs.cumsum(), room_j, side="right"))
    length = int(max(min(length, limits.most_coordinates - count), 0))
    while length < costs.size and allowed(length + 1):
        length += 1
    while length > 0 and not allowed(length):
        length -= 1
    return length
