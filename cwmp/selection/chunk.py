"""What neighbours of one chunk are: surely above a bracket of λ, open, or below; and their sums of squares.

Where a price holds for all of them, limits are magnitudes and ``lanes`` compares them; where each has its
own, or chance decides, scores are judged one by one, a byte each, and then packed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled, summing
from cwmp.selection.formats import without_sign
from cwmp.selection.lanes import WORD, as_real, popcount, scan_words, true_bits
from cwmp.selection.mask_bits import Words
from cwmp.selection.scores import SMALLEST_SOUND, random_score

Flags = NDArray[np.uint8]


@compiled
def classify_run(
    source: Any,
    position: int,
    length: int,
    above: Any,
    below: Any,
    kept: Words,
    place: int,
    open_: Words,
    places: NDArray[np.int64],
    tail: Any,
) -> tuple[int, int, float, float]:
    """Words of up to CHUNK neighbours of one price: surely above, and neither above nor below.

    Returns:
        The number of the first kind, of words with any of the second, listed in ``places``, and Σ g² of all
        and of the first kind.
    """
    whole = length // WORD
    count, number, total, kept_total = scan_words(
        source, position, whole, above, below, kept, place, open_, places
    )
    rest = length - whole * WORD
    if rest:
        tail[:] = 0
        for index in range(rest):
            tail[index] = source[position + whole * WORD + index]
        last = scan_words(tail, 0, 1, above, below, kept, place + whole, open_[whole:], places[number:])
        places[number] = whole
        count, number = count + last[0], number + last[1]
        total, kept_total = total + last[2], kept_total + last[3]
    return count, number, total, kept_total


@summing
def judge_by_price(
    magnitudes: Any, prices: Any, squared: bool, high: float, low: float, over: Flags, open_: Flags
) -> tuple[float, float]:
    """What is surely above and what is open, each a byte, and Σ g² of all and of the first kind."""
    total, kept_total = 0.0, 0.0
    for index in range(magnitudes.size):
        magnitude = np.float64(as_real(without_sign(magnitudes[index])))
        price = np.float64(prices[index])
        square = magnitude * magnitude
        value = square if squared else magnitude
        limit = low * price
        above = value > max(high * price, SMALLEST_SOUND)
        below = (value < limit) & (limit >= SMALLEST_SOUND)
        over[index] = above
        open_[index] = (not above) & (not below) & (magnitude > 0.0)
        total += square
        kept_total += square if above else 0.0
    return total, kept_total


@summing
def judge_by_chance(
    magnitudes: Any, seed: int, coordinate: int, high: float, low: float, over: Flags, open_: Flags
) -> tuple[float, float]:
    """The same by random scores."""
    total, kept_total = 0.0, 0.0
    for index in range(magnitudes.size):
        magnitude = np.float64(as_real(without_sign(magnitudes[index])))
        value = random_score(seed, coordinate + index)
        above = (value > high) & (magnitude > 0.0)
        over[index] = above
        open_[index] = (not above) & (value >= low) & (magnitude > 0.0)
        square = magnitude * magnitude
        total += square
        kept_total += square if above else 0.0
    return total, kept_total


@compiled
def pack(
    over: Flags,
    between: Flags,
    length: int,
    kept: Words,
    place: int,
    open_: Words,
    places: NDArray[np.int64],
) -> tuple[int, int]:
    """Bytes as bits; the number of the first kind, and of words with any of the second."""
    count, number = 0, 0
    for block in range((length + WORD - 1) // WORD):
        kept[place + block] = true_bits(over, block * WORD)
        open_[block] = true_bits(between, block * WORD)
        count += popcount(kept[place + block])
        places[number] = block
        number += open_[block] != 0
    return count, number


@compiled
def sums_with_care(
    source: Any, position: int, length: int, largest: float, kept: Words, place: int, open_: Words
) -> tuple[float, float, int]:
    """Sums of squares, all and kept, in float64; numbers beyond ``largest`` are counted and taken out."""
    total, kept_sum, wrong = 0.0, 0.0, 0
    for index in range(length):
        magnitude = np.float64(as_real(without_sign(source[position + index])))
        block, bit = index // WORD, np.uint64(1) << np.uint64(index % WORD)
        if magnitude <= largest:
            square = magnitude * magnitude
            total += square
            if kept[place + block] & bit:
                kept_sum += square
        else:
            wrong += 1
            kept[place + block] &= ~bit
            open_[block] &= ~bit
    return total, kept_sum, wrong
