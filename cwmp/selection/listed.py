"""Resolving what a pass has listed, piece by piece, without joining or sorting the lists.

Bins of the score tell in which narrow range of scores the budget ends. Above it everything is kept; the few
inside are joined and resolved exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled
from cwmp.selection.exact import Bins, add_cost, bins_to_units, from_units, new_bins
from cwmp.selection.kernels import Words
from cwmp.selection.lanes import WORD, as_bits
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import set_bits
from cwmp.selection.prefix import BEYOND, affordable, keys_of
from cwmp.selection.update import Part

SCORE_BINS = 4096

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Coordinates of one piece of a tensor whose scores lie inside a bracket.

    Attributes:
        part: the tensor.
        words: its mask.
        found: the coordinates, ascending, shape (inside,).
        scores: their scores, same shape.
        magnitudes: their |g|, same shape.
    """

    part: Part
    words: Words
    found: Indices
    scores: Reals
    magnitudes: Reals


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What was kept of the lists.

    Attributes:
        units: exact cost of it and of what was kept before.
        counts: kept by list.
        squared: Σ g² by list.
        threshold: the highest score that was left out, None if nothing was.
    """

    units: int
    counts: tuple[int, ...]
    squared: tuple[float, ...]
    threshold: float | None


@compiled
def _bin_costs(
    scores: Reals,
    found: Indices,
    prices: Any,
    row: int,
    lowest: int,
    shift: int,
    joules: Reals,
    numbers: Indices,
) -> None:
    for index in range(scores.size):
        place = (as_bits(scores[index]) - lowest) >> shift
        numbers[place] += 1
        joules[place] += np.float64(prices[found[index] // row if prices.size > 1 else 0])


@compiled
def _count_from(scores: Reals, key: int) -> int:
    count = 0
    for index in range(scores.size):
        count += as_bits(scores[index]) >= key
    return count


@compiled
def _add_costs_from(scores: Reals, found: Indices, prices: Any, row: int, key: int, bins: Bins) -> None:
    for index in range(scores.size):
        if as_bits(scores[index]) >= key:
            add_cost(bins, np.float64(prices[found[index] // row]), 1)


@compiled
def _keep_from(words: Words, scores: Reals, found: Indices, magnitudes: Reals, key: int) -> tuple[int, float]:
    """Set the bits of everything from a key on; its number and the sum of its squares."""
    kept, squared = 0, 0.0
    for index in range(scores.size):
        if as_bits(scores[index]) >= key:
            coordinate = found[index]
            words[coordinate // WORD] |= np.uint64(1) << np.uint64(coordinate % WORD)
            squared += magnitudes[index] * magnitudes[index]
            kept += 1
    return kept, squared


def keep_affordable(lists: Sequence[Listed], units: int, count: int, limits: Limits) -> Kept:
    """Keep as many of the listed coordinates as are affordable by (score descending, index ascending).

    Args:
        lists: in the order of the index.
        units: exact cost of what is kept already.
        count: its number.
        limits: of all together.
    """
    filled = [part for part in lists if part.scores.size]
    lower, upper = 0, BEYOND
    if filled:
        lower, upper = _edge(filled, units, count, limits)
    above = [_keep_from(part.words, part.scores, part.found, part.magnitudes, upper) for part in lists]
    units += _units_from(lists, upper)
    count += sum(kept for kept, _ in above)
    inside = [_between(part.scores, lower, upper) for part in lists]
    coordinates = [part.found[chosen] for part, chosen in zip(lists, inside, strict=True)]
    prefix = affordable(
        _joined([part.scores[chosen] for part, chosen in zip(lists, inside, strict=True)]),
        _joined([part.part.prices_at(found) for part, found in zip(lists, coordinates, strict=True)]),
        units,
        count,
        limits,
    )
    threshold = prefix.threshold
    if threshold is None:
        below = [part.scores[keys_of(part.scores) < lower] for part in filled]
        threshold = max((float(scores.max()) for scores in below if scores.size), default=None)
    counts, squared, begin = [], [], 0
    for part, places, (kept, squares) in zip(lists, inside, above, strict=True):
        chosen = places[prefix.keep[begin : begin + places.size]]
        begin += places.size
        set_bits(part.words, part.found[chosen])
        counts.append(kept + chosen.size)
        squared.append(squares + float(np.square(part.magnitudes[chosen]).sum()))
    return Kept(units=prefix.units, counts=tuple(counts), squared=tuple(squared), threshold=threshold)


def _edge(lists: Sequence[Listed], units: int, count: int, limits: Limits) -> tuple[int, int]:
    """Keys of scores between which the budget ends: everything from the upper one on is affordable.

    Everything from the lower one on is not, or the lower one is the lowest score there is.
    """
    lowest_score = min(float(part.scores.min()) for part in lists)
    highest_score = max(float(part.scores.max()) for part in lists)
    lowest, highest = _key(lowest_score), _key(highest_score)
    shift = max((highest - lowest).bit_length() - (SCORE_BINS - 1).bit_length(), 0)
    joules, numbers = np.zeros(SCORE_BINS), np.zeros(SCORE_BINS, dtype=np.int64)
    for part in lists:
        _bin_costs(part.scores, part.found, part.part.prices, part.part.row, lowest, shift, joules, numbers)

    def edge(bin_: int) -> int:
        key = lowest + (bin_ << shift)
        return key if key <= highest else BEYOND

    room_j = math.inf if limits.units is None else limits.budget_j - from_units(units)
    spent, taken = joules[::-1].cumsum()[::-1], numbers[::-1].cumsum()[::-1]
    fits = (spent <= room_j) & (taken + count <= limits.most_coordinates)
    allowed = _allowance(lists, units, count, limits)
    # Rounded sums may be off by a bin; exact sums correct it.
    last = max(int(np.count_nonzero(~fits)) - 1, 0)
    while edge(last + 1) < BEYOND and not allowed(edge(last + 1)):
        last += 1
    while last > 0 and allowed(edge(last)):
        last -= 1
    return edge(last), edge(last + 1)


def _allowance(lists: Sequence[Listed], units: int, count: int, limits: Limits) -> Callable[[int], bool]:
    def allowed(key: int) -> bool:
        number = sum(_count_from(part.scores, key) for part in lists)
        return limits.allow(units + _units_from(lists, key), count + number)

    return allowed


def _units_from(lists: Sequence[Listed], key: int) -> int:
    """Exact cost of everything from a key on."""
    units = 0
    for part in lists:
        price_units = part.part.price_units
        if price_units is None:
            bins = new_bins()
            _add_costs_from(part.scores, part.found, part.part.prices, part.part.row, key, bins)
            units += bins_to_units(bins)
        else:
            units += _count_from(part.scores, key) * price_units
    return units


def _between(scores: Reals, lower: int, upper: int) -> Indices:
    keys = keys_of(scores)
    return np.flatnonzero((keys >= lower) & (keys < upper))


def _joined(arrays: list[Reals]) -> Reals:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _key(score: float) -> int:
    return int(np.float64(score).view(np.int64))
