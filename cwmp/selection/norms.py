"""Sums of magnitudes over an update and over its mask, and the cheapest coordinate: what few callers need."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from cwmp.selection.compiled import compiled, summing
from cwmp.selection.formats import decode, position_of, readable, without_sign
from cwmp.selection.kernels import CHUNK
from cwmp.selection.lanes import WORD, as_real, lowest_bit
from cwmp.selection.mask_bits import Words
from cwmp.selection.update import Part


@summing
def _magnitude_sum(source: Any, largest: float) -> float:
    total = 0.0
    for index in range(source.size):
        magnitude = np.float64(as_real(without_sign(source[index])))
        total += magnitude if magnitude <= largest else 0.0
    return total


@compiled
def _magnitude_sums(bits: Any, largest: float, words: Words, wide: Any) -> tuple[float, float]:
    source = readable(bits, wide)
    total, kept = 0.0, 0.0
    for start in range(0, bits.size, CHUNK):
        length = min(CHUNK, bits.size - start)
        decode(bits, start, start + length, wide)
        position = position_of(bits, start)
        total += _magnitude_sum(source[position : position + length], largest)
        part_kept = 0.0
        for place in range((length + WORD - 1) // WORD):
            word = words[start // WORD + place]
            while word:  # nothing is kept that is not finite
                index = position + place * WORD + lowest_bit(word)
                part_kept += np.float64(as_real(without_sign(source[index])))
                word &= word - np.uint64(1)
        kept += part_kept
    return total, kept


def absolute_sums(parts: Sequence[Part], words: Sequence[Words]) -> tuple[float, float]:
    """Σ |g| over everything that is finite, and over what is kept."""
    sums = [
        _magnitude_sums(part.bits, part.largest, mask, np.empty(CHUNK, dtype=np.int32))
        for part, mask in zip(parts, words, strict=True)
    ]
    return math.fsum(total for total, _ in sums), math.fsum(kept for _, kept in sums)


def cheapest_j(parts: Sequence[Part]) -> float | None:
    """Joules of the cheapest coordinate that is not zero; None if all are."""
    prices = []
    for part in parts:
        nonzero = np.flatnonzero(part.bits << 1)
        if nonzero.size:
            prices.append(float(part.prices_at(nonzero).min()))
    return min(prices, default=None)
