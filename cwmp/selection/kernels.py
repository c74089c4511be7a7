"""One streaming pass: which coordinates score above a bracket of λ, and which inside it.

    score > most            kept: a bit in the mask
    least ≤ score ≤ most    listed, to be resolved exactly afterwards
    score < least           left out

Where a price holds for a run of neighbours (a tensor, a row), both limits become magnitudes, computed once
per run and compared as integers. They are set a few units in the last place too wide, so that rounding can
only send a coordinate to the few whose score is then computed exactly, in float64.

Squares are summed on the way, in the precision of the gradient, 2048 coordinates at a time. Sums out of the
range in which that is sound (zeros, very large or very small numbers, NaN) are taken again with care.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.chunk import (
    Flags,
    classify_run,
    judge_by_chance,
    judge_by_price,
    pack,
    sums_with_care,
)
from cwmp.selection.compiled import compiled
from cwmp.selection.exact import Bins, add_cost
from cwmp.selection.formats import bits_like, decode, position_of, readable, without_sign
from cwmp.selection.lanes import WORD, as_real, lowest_bit, popcount, prefetch
from cwmp.selection.mask_bits import Words
from cwmp.selection.rules import MAGNITUDE, RANDOM, SQUARE_PER_JOULE
from cwmp.selection.scores import (
    LARGEST_SCORE,
    MARGIN,
    price_at,
    score_of,
    surely_above,
    surely_below,
)

CHUNK = 2048
CHUNK_WORDS = CHUNK // WORD

PAGE_BYTES = 4096
PAGES_AHEAD = 32
"""Processors fetch ahead inside a page, not into the next: finding that takes as long as reading a page.

So each is asked for this far ahead; where pages are larger, one line of many is asked for in vain.
"""

SMALLEST_SUM, LARGEST_SUM = 1e-30, 1e37
"""Between them no square that matters was lost, and none overflowed, in float32."""

Reals = NDArray[np.float64]


class Source(NamedTuple):
    """What a kernel reads.

    Attributes:
        bits: a tensor's elements as integers, shape (numel,): int32, int64, int16 or uint16, as in
            ``formats``.
        prices: joules per coordinate of each row, float32 or float64.
        row: coordinates per price.
        offset: of the tensor's first coordinate among all.
        largest: magnitude beyond which a gradient counts as not finite.
        kind: the score.
        seed: of random scores.
    """

    bits: Any
    prices: Any
    row: int
    offset: int
    largest: float
    kind: int
    seed: int


class Lists(NamedTuple):
    """Where a kernel lists coordinates, as many as fit: places, scores and magnitudes of each."""

    found: NDArray[np.int64]
    scores: Reals
    magnitudes: Reals

    def between(self, begin: int, end: int) -> Lists:
        """The same of a part of the room."""
        return Lists(self.found[begin:end], self.scores[begin:end], self.magnitudes[begin:end])


class Scratch(NamedTuple):
    """Room for what is known of one chunk: float32 of its magnitudes, words, numbers of words and flags."""

    wide: NDArray[np.int32]
    own: Words
    open_: Words
    places: NDArray[np.int64]
    over: Flags
    between: Flags

    @classmethod
    def new(cls) -> Scratch:
        """Scratch of one thread."""
        return cls(
            np.empty(CHUNK, dtype=np.int32),
            np.empty(CHUNK_WORDS, dtype=np.uint64),
            np.empty(CHUNK_WORDS, dtype=np.uint64),
            np.empty(CHUNK_WORDS + 1, dtype=np.int64),
            np.empty(CHUNK, dtype=np.uint8),
            np.empty(CHUNK, dtype=np.uint8),
        )


@compiled
def _list_open(
    run: Any,
    open_: Words,
    places: NDArray[np.int64],
    number: int,
    start: int,
    source: Source,
    least: float,
    most: float,
    kept: Words,
    place: int,
    lists: Lists,
    listed: int,
) -> tuple[int, int, float]:
    """Score what is open in a run that starts at ``start``: keep it, list it, or neither.

    Returns:
        Number of listed coordinates, also of those for which there was no room, number of the kept, and Σ g²
        of these.
    """
    _, prices, row, offset, _, kind, seed = source
    found, scores, magnitudes = lists
    same = prices.size == 1 or (row > 1 and kind != RANDOM)
    price = price_at(prices, row, start)
    count, squares = 0, 0.0
    for index in range(number):
        block = places[index]
        word = open_[block]
        while word:
            bit = lowest_bit(word)
            word &= word - np.uint64(1)
            local = block * WORD + bit
            magnitude = np.float64(as_real(without_sign(run[local])))
            if not same:
                price = price_at(prices, row, start + local)
            score = score_of(kind, magnitude, price, seed, offset + start + local)
            if score > most:
                kept[place + block] |= np.uint64(1) << np.uint64(bit)
                squares += magnitude * magnitude
                count += 1
            elif score >= least:
                if listed < found.size:
                    found[listed], scores[listed], magnitudes[listed] = start + local, score, magnitude
                listed += 1
    return listed, count, squares


@compiled
def _ask_for_pages(array: Any, start: int, end: int, stop: int) -> None:
    """Ask for the pages that follow those of ``start`` to ``end`` by ``PAGES_AHEAD``, up to ``stop``."""
    page = PAGE_BYTES // array.itemsize
    first = (start + page - 1) // page + PAGES_AHEAD
    for place in range(first * page, min(end + PAGES_AHEAD * page, stop), page):
        prefetch(array, place)


@compiled
def _put(words: Words, coordinate: int, chunk: Words, length: int) -> None:
    """Write the bits of a chunk that may start anywhere; words are shared, and begin as zero."""
    shift = np.uint64(coordinate % WORD)
    for block in range((length + WORD - 1) // WORD):
        place, word = coordinate // WORD + block, chunk[block]
        words[place] |= word << shift
        if shift:
            over = word >> (np.uint64(WORD) - shift)
            if over:
                words[place + 1] |= over


@compiled
def scan_piece(
    source: Source,
    begin: int,
    stop: int,
    least: float,
    most: float,
    words: Words,
    bins: Bins,
    lists: Lists,
    scratch: Scratch,
) -> tuple[int, int, int, float, float]:
    """Classify the coordinates ``begin`` to ``stop`` of a tensor; ``begin`` starts a word.

    Args:
        source: the tensor, its prices and the score.
        begin: first coordinate.
        stop: past the last one.
        least: smallest score inside the bracket.
        most: largest score inside.
        words: the tensor's mask; written.
        bins: where costs of kept coordinates are added if there is more than one price.
        lists: where those inside are listed, in their order.
        scratch: of the calling thread.

    Returns:
        (kept, inside, not finite, Σ g², Σ g² of the kept).
    """
    bits, prices, row, offset, largest, kind, seed = source
    wide, own, open_, places, over, between = scratch
    kept_count, inside_count, wrong_count, total, kept_total = 0, 0, 0, 0.0, 0.0
    several = prices.size > 1
    each = kind == RANDOM or (several and row == 1 and kind != MAGNITUDE)
    direct = each or not several or row % WORD == 0
    if not direct:
        words[begin // WORD : (stop + WORD - 1) // WORD] = 0
    kept = words if direct else own
    readable_bits = readable(bits, wide)
    tail = np.empty(WORD, readable_bits.dtype)
    high, low = most * (1 + MARGIN), min(least, LARGEST_SCORE) * (1 - MARGIN)
    above, below = bits_like(readable_bits, np.inf), bits_like(readable_bits, np.inf)
    known = -1
    start = begin
    while start < stop:
        end = min(start + CHUNK, stop)
        price_place = start // row if several else 0
        if several and row > 1 and kind != RANDOM:
            end = min(end, (price_place + 1) * row)
        length = end - start
        place = start // WORD if direct else 0
        _ask_for_pages(bits, start, end, stop)
        decode(bits, start, end, wide)
        position = position_of(bits, start)
        if each:
            run = readable_bits[position : position + length]
            over[length:], between[length:] = 0, 0
            if kind == RANDOM:
                part, part_kept = judge_by_chance(run, seed, offset + start, high, low, over, between)
            else:
                squared = kind == SQUARE_PER_JOULE
                _ask_for_pages(prices, start, end, stop)
                part, part_kept = judge_by_price(run, prices[start:end], squared, high, low, over, between)
            count, number = pack(over, between, length, kept, place, open_, places)
        else:
            if price_place != known:
                known = price_place
                price = np.float64(prices[price_place])
                above = bits_like(readable_bits, surely_above(kind, most, price)) + 1
                below = max(bits_like(readable_bits, surely_below(kind, least, price)) - 1, 0)
            count, number, part, part_kept = classify_run(
                readable_bits, position, length, above, below, kept, place, open_, places, tail
            )
        wrong = 0
        if not SMALLEST_SUM < part < LARGEST_SUM:
            part, part_kept, wrong = sums_with_care(
                readable_bits, position, length, largest, kept, place, open_
            )
            wrong_count += wrong
        blocks = (length + WORD - 1) // WORD
        if wrong:
            count = 0
            for block in range(blocks):
                count += popcount(kept[place + block])
        if number:
            inside_count, more, squares = _list_open(
                readable_bits[position : position + length],
                open_,
                places,
                number,
                start,
                source,
                least,
                most,
                kept,
                place,
                lists,
                inside_count,
            )
            count += more
            part_kept += squares
        if several and count:
            if row == 1 or kind == RANDOM:
                _add_costs_of(kept[place : place + blocks], prices, start, row, bins)
            else:
                add_cost(bins, np.float64(prices[price_place]), count)
        if not direct:
            _put(words, start, kept, length)
        kept_count += count
        total += part
        kept_total += part_kept
        start = end
    return kept_count, inside_count, wrong_count, total, kept_total


@compiled
def _add_costs_of(kept: Words, prices: Any, start: int, row: int, bins: Bins) -> None:
    """Add the costs of the coordinates of a mask that begins at ``start``."""
    for block in range(kept.size):
        word = kept[block]
        while word:
            add_cost(bins, price_at(prices, row, start + block * WORD + lowest_bit(word)), 1)
            word &= word - np.uint64(1)
