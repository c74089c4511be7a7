"""The longest affordable prefix of some coordinates in the order of their scores, exactly.

Sorting all of them would take longer than reading the gradient, so bins of the score narrow them down first:
whole bins are kept or left out, and only the bin in which the budget ends is looked at more closely.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.exact import from_units, sum_units
from cwmp.selection.limits import Limits

FEW = 2048
BINS = 4096

BEYOND = 0x7FF0000000000001
"""A key above that of every score, infinity included."""

Reals = NDArray[np.float64]
Keys = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """Which coordinates are kept, shape (n,), and the score of the first that is not (None if all are)."""

    keep: NDArray[np.bool_]
    units: int
    threshold: float | None


def keys_of(scores: Reals) -> Keys:
    """Integers in the order of scores that are not negative."""
    return scores.view(np.int64)


def score_bins(keys: Keys, bins: int) -> tuple[NDArray[np.int64], int, int]:
    """Bins of equal width in the keys: ``(bin of each, lowest key, shift)``."""
    lowest, highest = int(keys.min()), int(keys.max())
    shift = max((highest - lowest).bit_length() - (bins - 1).bit_length(), 0)
    return (keys - lowest) >> shift, lowest, shift


def affordable(scores: Reals, costs: Reals, units: int, count: int, limits: Limits) -> Prefix:
    """Keep as many as are affordable by (score descending, index ascending).

    Args:
        scores: shape (n,), not negative.
        costs: joules of each, shape (n,).
        units: exact cost of what is kept already.
        count: its number.
        limits: of all together.
    """
    keep = np.zeros(scores.size, dtype=np.bool_)
    active = np.arange(scores.size)
    while active.size > FEW:
        bins, _, _ = score_bins(keys_of(scores[active]), BINS)
        if not bins.any():
            break
        edge, above_units = _edge_bin(bins, costs[active], units, count, limits)
        above = active[bins > edge]
        keep[above] = True
        units += above_units
        count += above.size
        active = active[bins == edge]
    ranked = active[np.argsort(-scores[active], kind="stable")]
    length = _longest(costs[ranked], units, count, limits)
    keep[ranked[:length]] = True
    units += sum_units(costs[ranked[:length]])
    left_out = np.flatnonzero(~keep)
    threshold = float(scores[left_out].max()) if left_out.size else None
    return Prefix(keep=keep, units=units, threshold=threshold)


def _edge_bin(
    bins: NDArray[np.int64], costs: Reals, units: int, count: int, limits: Limits
) -> tuple[int, int]:
    """The highest bin that is not affordable as a whole (or the lowest), and the exact cost above it."""
    joules = np.bincount(bins, weights=costs)[::-1].cumsum()[::-1]
    numbers = np.bincount(bins)[::-1].cumsum()[::-1]
    room_j = np.inf if limits.units is None else limits.budget_j - from_units(units)
    fits = (joules <= room_j) & (numbers + count <= limits.most_coordinates)
    # A rounded sum may be off by a bin; exact sums correct it.
    edge = int(np.count_nonzero(~fits)) - 1
    edge = min(max(edge, 0), joules.size - 1)
    while edge < joules.size - 1 and not _allowed(bins > edge, costs, units, count, limits):
        edge += 1
    while edge > 0 and _allowed(bins >= edge, costs, units, count, limits):
        edge -= 1
    return edge, sum_units(costs[bins > edge])


def _allowed(chosen: NDArray[np.bool_], costs: Reals, units: int, count: int, limits: Limits) -> bool:
    return limits.allow(units + sum_units(costs[chosen]), count + int(np.count_nonzero(chosen)))


def _longest(costs: Reals, units: int, count: int, limits: Limits) -> int:
    low, high = 0, costs.size
    while low < high:
        middle = (low + high + 1) // 2
        if limits.allow(units + sum_units(costs[:middle]), count + middle):
            low = middle
        else:
            high = middle - 1
    return low
