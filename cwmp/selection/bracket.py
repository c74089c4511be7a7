"""Where λ must lie, from a stratified sample of runs of neighbours.

Every tensor is cut into strata of equal size, and one run is read at a random place of each, by the kernel of
the pass itself: what scores above a bracket is counted, what lies inside is listed. The cost of what scores
above λ is estimated from both; where the budget lies within some standard deviations of that estimate, λ may
lie. Neighbours tend to be alike, so the deviation is that of runs, not of coordinates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled
from cwmp.selection.exact import Bins, new_bins
from cwmp.selection.kernels import Lists, Scratch, Source, scan_piece
from cwmp.selection.lanes import WORD, as_bits, lowest_bit, prefetch
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import Words
from cwmp.selection.prefix import bin_shift, fill_bins, key_of, key_range, score_at
from cwmp.selection.scan import ROOM, Scanner
from cwmp.selection.scores import price_at, random_score

LEAST_RUNS = 4
"""Runs that are read of each tensor at least."""
AHEAD = 4
"""Runs that are asked for ahead of being read."""
LINE = 16
FEW_RUNS = 16
"""With fewer runs above λ the estimate says nothing about the upper end."""

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Bracket:
    """Scores between which the threshold is expected, ends included."""

    least: float
    most: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Runs of coordinates, as seen with a bracket; valid until the scanner lists anything else.

    Attributes:
        scores: of the coordinates inside the bracket, shape (inside,).
        run: the run that each belongs to, same shape.
        joules: cost of each times the number of coordinates that it stands for, same shape.
        weight: number of coordinates that one of a run stands for, shape (runs,).
        joules_above: cost of all above the bracket by run, times that number.
        numbers_above: and how many they are, equally.
        unread: share of all coordinates that were not read.
    """

    scores: Reals
    run: Indices
    joules: Reals
    weight: Reals
    joules_above: Reals
    numbers_above: Reals
    unread: float


@compiled
def _start(run: int, runs: int, length: int, numel: int, draw: int, offset: int) -> int:
    """Where a run starts, a multiple of WORD: anywhere in its stratum, unless the runs cover everything."""
    if runs * length >= numel:
        return run * length
    begin = run * numel // runs
    width = (run + 1) * numel // runs - begin
    start = begin + int(random_score(draw, offset + run) * max(width - length, 0))
    return start - start % WORD


@compiled
def _read_runs(
    source: Source,
    first: int,
    runs: int,
    length: int,
    weight: float,
    draw: int,
    least: float,
    most: float,
    words: Words,
    bins: Bins,
    lists: Lists,
    scratch: Scratch,
    joules_above: Reals,
    numbers_above: Reals,
) -> int:
    """Runs of one tensor, the first with the number ``first``; how many coordinates are inside.

    In ``lists``, numbers of runs take the place of coordinates, and weighted costs that of magnitudes.
    """
    bits, prices, row, offset = source[:4]
    run_of, scores, joules = lists
    listed = 0
    for run in range(runs):
        ahead = _start(min(run + AHEAD, runs - 1), runs, length, bits.size, draw, offset)
        for line in range(ahead, ahead + length, LINE):
            prefetch(bits, line)
        start = _start(run, runs, length, bits.size, draw, offset)
        stop = min(start + length, bits.size)
        free = Lists(run_of[listed:], scores[listed:], joules[listed:])
        number, inside, _, _, _ = scan_piece(source, start, stop, least, most, words, bins, free, scratch)
        if listed + inside > scores.size:
            return listed + inside
        for place in range(listed, listed + inside):
            joules[place] = weight * price_at(prices, row, run_of[place])
            run_of[place] = first + run
        cost = number * float(prices[0])
        if prices.size > 1 and number:
            cost = _cost_of(words[start // WORD : (stop + WORD - 1) // WORD], prices, start, row)
        joules_above[first + run], numbers_above[first + run] = weight * cost, weight * number
        listed += inside
    return listed


@compiled
def _cost_of(words: Words, prices: Any, start: int, row: int) -> float:
    cost = 0.0
    for place in range(words.size):
        word = words[place]
        while word:
            cost += price_at(prices, row, start + place * WORD + lowest_bit(word))
            word &= word - np.uint64(1)
    return cost


def sample(scanner: Scanner, within: Bracket, *, length: int, size: int, draw: int) -> Sample | None:
    """Read about ``size`` coordinates of all tensors in proportion to their sizes.

    Args:
        scanner: of the tensors and the score, that has listed nothing yet; its mask is overwritten.
        within: the bracket.
        length: coordinates in a run, a multiple of ``WORD``.
        size: coordinates to read.
        draw: of the places that are read.

    Returns:
        None if the bracket holds more than can be listed.
    """
    parts, room, bins = scanner.parts, scanner.room_of_thread(ROOM), new_bins()
    share = size / scanner.numel / length
    counts = [
        min(max(math.ceil(share * part.numel), LEAST_RUNS), math.ceil(part.numel / length)) for part in parts
    ]
    joules_above, numbers_above, weight = np.empty((3, sum(counts)))
    first = listed = read = 0
    for part, source, words, runs in zip(parts, scanner.sources, scanner.words, counts, strict=True):
        read_here = min(runs * length, part.numel)
        weight[first : first + runs] = part.numel / read_here
        lists = room.lists.between(listed, ROOM)
        listed += _read_runs(
            source,
            first,
            runs,
            length,
            part.numel / read_here,
            draw,
            within.least,
            within.most,
            words,
            bins,
            lists,
            room.scratch,
            joules_above,
            numbers_above,
        )
        if listed > ROOM:
            return None
        first, read = first + runs, read + read_here
    inside = room.lists.between(0, listed)
    return Sample(
        scores=inside.scores,
        run=inside.found,
        joules=inside.magnitudes,
        weight=weight,
        joules_above=joules_above,
        numbers_above=numbers_above,
        unread=1 - read / scanner.numel,
    )


def bracket(sampled: Sample, limits: Limits, known: Bracket, deviations: float) -> Bracket:
    """Scores between which the threshold lies, as far as the sample tells.

    Args:
        sampled: the sample.
        limits: of joules and of coordinates; the one that ends the prefix first has the higher scores.
        known: the bracket that the sample was seen with.
        deviations: standard deviations of the estimate on both sides.
    """
    if limits.units is None and limits.count is None:
        return Bracket(least=known.least, most=known.least)
    found = []
    if limits.units is not None:
        found.append(
            _bracket(sampled, sampled.joules, sampled.joules_above, limits.budget_j, known, deviations)
        )
    if limits.count is not None:
        numbers = sampled.weight[sampled.run]
        found.append(
            _bracket(sampled, numbers, sampled.numbers_above, float(limits.count), known, deviations)
        )
    return Bracket(
        least=max(part.least for part in found), most=max(max(part.most, part.least) for part in found)
    )


@compiled
def _runs_from(scores: Reals, run_of: Indices, inside: Reals, above: Reals, key: int) -> tuple[int, float]:
    """Runs with anything from a key on, and the variance of the sum of their weights.

    Strata next to each other are alike, so the variance inside a stratum is taken from their differences
    (Wolter, Introduction to Variance Estimation, 2007, section 8.2).
    """
    of_run = above.copy()
    for index in range(scores.size):
        if as_bits(scores[index]) >= key:
            of_run[run_of[index]] += inside[index]
    runs, squares = 0, 0.0
    for run in range(of_run.size):
        runs += of_run[run] > 0
        if run:
            squares += (of_run[run] - of_run[run - 1]) ** 2
    return runs, squares / 2 * of_run.size / max(of_run.size - 1, 1)


def _bracket(
    sampled: Sample, inside: Reals, above: Reals, limit: float, known: Bracket, deviations: float
) -> Bracket:
    lowest, highest, number = key_range(sampled.scores, key_of(known.least), key_of(known.most) + 1)
    if not number:
        return known
    shift = bin_shift(lowest, highest)
    bins = np.zeros(((highest - lowest) >> shift) + 1)
    fill_bins(sampled.scores, inside, lowest, highest, shift, bins, np.zeros(bins.size, dtype=np.int64))
    # Cost of everything from a bin upwards, the lowest bin last.
    spent = float(above.sum()) + bins[::-1].cumsum()
    top = bins.size - 1

    def lower_key(bin_: int) -> int:
        return min(lowest + (bin_ << shift), highest)

    crossing = top - min(int(np.searchsorted(spent, limit, side="right")), top)
    runs, variance = _runs_from(sampled.scores, sampled.run, inside, above, lower_key(crossing))
    margin = deviations * math.sqrt(variance * sampled.unread) + 1e-9 * limit
    first = top - int(np.searchsorted(spent, limit - margin, side="left"))
    last = top - int(np.searchsorted(spent, limit + margin, side="right"))
    most, least = known.most, known.least
    if limit > margin and (runs >= FEW_RUNS or sampled.unread == 0):
        most = min(score_at(lower_key(first + 1)), known.most)
    if last >= 0:
        least = max(score_at(lower_key(last)), known.least)
    return Bracket(least=least, most=max(most, least))
