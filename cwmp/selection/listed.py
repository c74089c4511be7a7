"""Resolving what a pass has listed, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cwmp.selection.compiled import compiled
from cwmp.selection.kernels import Lists
from cwmp.selection.lanes import WORD, as_bits
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import Words, set_bits
from cwmp.selection.prefix import affordable
from cwmp.selection.threads import in_threads
from cwmp.selection.update import Part


@dataclass(frozen=True, kw_only=True)
class Listed:
    """Coordinates of one piece of a tensor whose scores lie inside a bracket.

    Attributes:
        part: the tensor.
        words: its mask.
        lists: the coordinates, ascending.
    """

    part: Part
    words: Words
    lists: Lists


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
def _keep_from(words: Words, lists: Lists, key: int) -> tuple[int, float]:
    """Set the bits of everything from a key on; its number and the sum of its squares."""
    found, scores, magnitudes = lists
    kept, squared = 0, 0.0
    for index in range(scores.size):
        above = as_bits(scores[index]) >= key  # every other one, so without a branch
        words[found[index] // WORD] |= np.uint64(above) << np.uint64(found[index] % WORD)
        squared += magnitudes[index] * magnitudes[index] * np.float64(above)
        kept += above
    return kept, squared


def keep_affordable(
    listed: Sequence[Listed], units: int, count: int, limits: Limits, *, threads: int
) -> Kept:
    """Keep as many of the listed coordinates as are affordable by (score descending, index ascending).

    Args:
        listed: in the order of the index.
        units: exact cost of what is kept already.
        count: its number.
        limits: of all together.
        threads: that share the work.
    """
    scores = np.concatenate([part.lists.scores for part in listed])
    sizes = [part.lists.found.size for part in listed]
    if all(part.part.price_units is not None for part in listed):
        costs = np.repeat([float(part.part.prices[0]) for part in listed], sizes)
    else:
        costs = np.concatenate([part.part.prices_at(part.lists.found) for part in listed])
    prefix = affordable(scores, costs, units, count, limits)
    ends = np.cumsum(sizes)
    also = np.split(prefix.also, np.searchsorted(prefix.also, ends[:-1]))
    counts, squared = [], []
    above = in_threads(lambda part: _keep_from(part.words, part.lists, prefix.from_key), listed, threads)
    for part, end, places, (kept, squares) in zip(listed, ends, also, above, strict=True):
        if places.size:
            chosen = places - (end - part.lists.found.size)
            set_bits(part.words, part.lists.found[chosen])
            squares += float(np.square(part.lists.magnitudes[chosen]).sum())
        counts.append(kept + places.size)
        squared.append(squares)
    return Kept(units=prefix.units, counts=tuple(counts), squared=tuple(squared), threshold=prefix.threshold)
