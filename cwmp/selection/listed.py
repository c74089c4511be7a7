"""Resolving what a pass has listed, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled
from cwmp.selection.kernels import Words
from cwmp.selection.lanes import WORD, as_bits
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import set_bits
from cwmp.selection.prefix import affordable
from cwmp.selection.update import Part

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
def _keep_from(words: Words, scores: Reals, found: Indices, magnitudes: Reals, key: int) -> tuple[int, float]:
    """Set the bits of everything from a key on; its number and the sum of its squares."""
    kept, squared = 0, 0.0
    for index in range(scores.size):
        above = as_bits(scores[index]) >= key
        coordinate = found[index]
        words[coordinate // WORD] |= np.uint64(above) << np.uint64(coordinate % WORD)
        squared += magnitudes[index] * magnitudes[index] if above else 0.0
        kept += above
    return kept, squared


def keep_affordable(lists: Sequence[Listed], units: int, count: int, limits: Limits) -> Kept:
    """Keep as many of the listed coordinates as are affordable by (score descending, index ascending).

    Args:
        lists: in the order of the index.
        units: exact cost of what is kept already.
        count: its number.
        limits: of all together.
    """
    scores = np.concatenate([part.scores for part in lists])
    costs = np.concatenate([part.part.prices_at(part.found) for part in lists])
    prefix = affordable(scores, costs, units, count, limits)
    ends = np.cumsum([part.scores.size for part in lists])
    also = np.split(prefix.also, np.searchsorted(prefix.also, ends[:-1]))
    counts, squared = [], []
    for part, end, places in zip(lists, ends, also, strict=True):
        kept, squares = _keep_from(part.words, part.scores, part.found, part.magnitudes, prefix.from_key)
        if places.size:
            chosen = places - (end - part.scores.size)
            set_bits(part.words, part.found[chosen])
            squares += float(np.square(part.magnitudes[chosen]).sum())
        counts.append(kept + places.size)
        squared.append(squares)
    return Kept(units=prefix.units, counts=tuple(counts), squared=tuple(squared), threshold=prefix.threshold)
