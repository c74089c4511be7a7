"""Where λ must lie, from a stratified sample of whole cache lines.

Every tensor is cut into strata of equal size, and one line of 16 neighbours is read at a random place of
each. The cost of what scores above λ is estimated from the sample; where the budget lies within some standard
deviations of that estimate, λ may lie. Neighbours tend to be alike, so the deviation is that of lines, not of
coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled
from cwmp.selection.formats import decode, position_of, readable, without_sign
from cwmp.selection.kernels import random_score, score_of
from cwmp.selection.lanes import as_bits, as_real, prefetch
from cwmp.selection.limits import Limits
from cwmp.selection.prefix import bin_shift, fill_bins, key_of, key_range, score_at
from cwmp.selection.update import Part

LINE = 16
LEAST_LINES = 4
"""Lines that are read of each tensor at least."""
AHEAD = 16
"""Lines that are asked for ahead of being read."""
FEW_LINES = 16
"""With fewer lines above λ the estimate says nothing about the upper end."""

Reals = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Scores between which the threshold is expected, ends included."""

    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Lines of coordinates; what is zero or not finite has the score -1.

    Attributes:
        scores: shape (lines, LINE).
        joules: cost of each times the number of coordinates that it stands for, same shape.
        numbers: the number of coordinates that it stands for, same shape.
        unread: share of all coordinates that were not read.
    """

    scores: Reals
    joules: Reals
    numbers: Reals
    unread: float


@compiled
def _line(line: int, lines: int, numel: int, draw: int, offset: int) -> tuple[int, int]:
    """A random line in a stratum; where it fits, a whole cache line of the tensor."""
    begin = line * numel // lines
    width = (line + 1) * numel // lines - begin
    start = begin + int(random_score(draw, offset + line) * max(width - LINE, 0))
    if width > 2 * LINE:
        start = max(start - start % LINE, begin)
    return start, start + min(width, LINE)


@compiled
def _read_lines(
    bits: Any,
    lines: int,
    kind: int,
    prices: Any,
    row: int,
    seed: int,
    draw: int,
    offset: int,
    largest: float,
    scores: Reals,
    joules: Reals,
    wide: Any,
) -> int:
    """Scores and costs of one line in each stratum of a tensor; the number of coordinates read."""
    source = readable(bits, wide)
    read = 0
    for line in range(lines):
        prefetch(bits, _line(min(line + AHEAD, lines - 1), lines, bits.size, draw, offset)[0])
        start, stop = _line(line, lines, bits.size, draw, offset)
        decode(bits, start, stop, wide)
        position = position_of(bits, start)
        for index in range(LINE):
            scores[line, index] = -1.0
            joules[line, index] = 0.0
            if start + index < stop:
                read += 1
                magnitude = np.float64(as_real(without_sign(source[position + index])))
                price = np.float64(prices[(start + index) // row if prices.size > 1 else 0])
                if 0.0 < magnitude <= largest:
                    scores[line, index] = score_of(kind, magnitude, price, seed, offset + start + index)
                    joules[line, index] = price
    return read


def sample(parts: Sequence[Part], *, kind: int, seed: int, draw: int, size: int) -> Sample:
    """Read about ``size`` coordinates of all tensors in proportion to their sizes.

    Args:
        parts: the tensors.
        kind: the score.
        seed: of random scores.
        draw: of the places that are read.
        size: coordinates to read.
    """
    numel = sum(part.numel for part in parts)
    lines = [
        min(max(math.ceil(size * part.numel / numel / LINE), LEAST_LINES), math.ceil(part.numel / LINE))
        for part in parts
    ]
    scores, joules = np.empty((sum(lines), LINE)), np.empty((sum(lines), LINE))
    numbers = np.empty((sum(lines), LINE))
    wide, begin, unread = np.empty(LINE, dtype=np.int32), 0, 0
    for part, count in zip(parts, lines, strict=True):
        rows = slice(begin, begin + count)
        read = _read_lines(
            part.bits,
            count,
            kind,
            part.prices,
            part.row,
            seed,
            draw,
            part.offset,
            part.largest,
            scores[rows],
            joules[rows],
            wide,
        )
        weight = part.numel / read
        joules[rows] *= weight
        numbers[rows] = weight
        begin += count
        unread += part.numel - read
    return Sample(scores=scores, joules=joules, numbers=numbers, unread=unread / numel)


def bracket(sampled: Sample, limits: Limits, known: Bracket, deviations: float) -> Bracket:
    """Scores between which the threshold lies, as far as the sample tells.

    Args:
        sampled: the sample.
        limits: of joules and of coordinates; the one that ends the prefix first has the higher scores.
        known: the threshold is known to lie in.
        deviations: standard deviations of the estimate on both sides.
    """
    if limits.units is None and limits.count is None:
        return Bracket(least=known.least, most=known.least)
    found = []
    if limits.units is not None:
        found.append(_bracket(sampled, sampled.joules, limits.budget_j, known, deviations))
    if limits.count is not None:
        found.append(_bracket(sampled, sampled.numbers, float(limits.count), known, deviations))
    return Bracket(
        least=max(part.least for part in found), most=max(max(part.most, part.least) for part in found)
    )


@compiled
def _lines_from(scores: Reals, weights: Reals, key: int) -> tuple[int, float]:
    """Lines with anything from a key on, and the variance of the sum of their weights."""
    lines, total, squares = 0, 0.0, 0.0
    for line in range(scores.shape[0]):
        of_line = 0.0
        for index in range(scores.shape[1]):
            if as_bits(scores[line, index]) >= key:
                of_line += weights[line, index]
        lines += of_line > 0
        total += of_line
        squares += of_line * of_line
    return lines, max(squares - total * total / scores.shape[0], 0.0)


def _bracket(sampled: Sample, weights: Reals, limit: float, known: Bracket, deviations: float) -> Bracket:
    scores = sampled.scores.reshape(-1)
    lowest, highest, number = key_range(scores, key_of(known.least), key_of(known.most) + 1)
    if not number:
        return known
    shift = bin_shift(lowest, highest)
    bins = np.zeros(((highest - lowest) >> shift) + 1)
    numbers = np.zeros(bins.size, dtype=np.int64)
    beyond = fill_bins(scores, weights.reshape(-1), lowest, highest, shift, bins, numbers)
    # Cost of everything from a bin upwards, the lowest bin last.
    spent = beyond + bins[::-1].cumsum()
    top = bins.size - 1

    def lower_key(bin_: int) -> int:
        return min(lowest + (bin_ << shift), highest)

    crossing = top - min(int(np.searchsorted(spent, limit, side="right")), top)
    lines, variance = _lines_from(sampled.scores, weights, lower_key(crossing))
    margin = deviations * math.sqrt(variance * sampled.unread) + 1e-9 * limit
    first = top - int(np.searchsorted(spent, limit - margin, side="left"))
    last = top - int(np.searchsorted(spent, limit + margin, side="right"))
    most, least = known.most, known.least
    if limit > margin and (lines >= FEW_LINES or sampled.unread == 0):
        most = min(score_at(lower_key(first + 1)), known.most)
    if last >= 0:
        least = max(score_at(lower_key(last)), known.least)
    return Bracket(least=least, most=max(most, least))
