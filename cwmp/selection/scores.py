"""What coordinates are ranked by, in float64, and between which magnitudes of a price a score lies."""

from __future__ import annotations

from typing import Any

import numpy as np

from cwmp.selection.compiled import compiled
from cwmp.selection.rules import MAGNITUDE, MAGNITUDE_PER_JOULE, SQUARE_PER_JOULE

MARGIN = 1e-14
"""Of both limits, against rounding in them: a few roundings of 1e-16 each."""
SMALLEST_SOUND = 1e-290
"""Products below it, and squares of magnitudes below its root, may be rounded to few bits or to zero."""
LARGEST_SCORE = 1.7976931348623157e308


@compiled
def random_score(seed: int, index: int) -> Any:
    """A number in (0, 1] that depends on a seed and an index only: SplitMix64 (Steele et al., OOPSLA'14)."""
    x = np.uint64(seed) + np.uint64(index + 1) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x = x ^ (x >> np.uint64(31))
    return (np.float64(x >> np.uint64(11)) + 1.0) * 2.0**-53


@compiled
def price_at(prices: Any, row: int, coordinate: int) -> Any:
    """Joules of a coordinate, in float64."""
    if prices.size == 1:
        return np.float64(prices[0])
    return np.float64(prices[coordinate if row == 1 else coordinate // row])


@compiled
def score_of(kind: int, magnitude: float, price: float, seed: int, index: int) -> Any:
    """What a coordinate is ranked by, in float64."""
    if kind == SQUARE_PER_JOULE:
        return magnitude * magnitude / price
    if kind == MAGNITUDE_PER_JOULE:
        return magnitude / price
    if kind == MAGNITUDE:
        return magnitude
    return random_score(seed, index)


@compiled
def limit_magnitude(kind: int, score: float, price: float) -> Any:
    """The magnitude that has a score, up to rounding."""
    if kind == SQUARE_PER_JOULE:
        return np.sqrt(score) * np.sqrt(price)
    if kind == MAGNITUDE_PER_JOULE:
        return score * price
    return score


@compiled
def surely_above(kind: int, most: float, price: float) -> Any:
    """A magnitude beyond which every score is above ``most``."""
    limit = limit_magnitude(kind, max(most, SMALLEST_SOUND), price)
    return max(limit * (1 + MARGIN), np.sqrt(SMALLEST_SOUND))


@compiled
def surely_below(kind: int, least: float, price: float) -> Any:
    """A magnitude up to which every score is below ``least``; 0 where only zero is."""
    if least < SMALLEST_SOUND:
        return 0.0
    limit = limit_magnitude(kind, min(least, LARGEST_SCORE), price) * (1 - MARGIN)
    return limit if limit >= np.sqrt(SMALLEST_SOUND) else 0.0
