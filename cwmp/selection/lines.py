"""Lines of neighbours as a knapsack: what opening a line and keeping its best coordinates is worth.

Keeping coordinates of a line costs ``open_j`` once and ``element_j`` for each. For a price λ of a joule, the
best choice is known in closed form (Everett, Operations Research 11 (1963) 399): inside a line keep
g² > λ·element_j, and open the line iff Σ max(0, g² − λ·element_j) > λ·open_j.

As λ falls, a line opens at λ* = max_k S_k/(open_j + k·element_j), with S_k the sum of its k largest squares;
it opens with the k that attains the maximum, and then takes one coordinate after the other at
λ = g²/element_j, all of them below λ*. These steps are the upper concave hull of what the line can keep for
its joules. So all steps of all lines, sorted by λ, are the greedy order of the linear relaxation (Sinha and
Zoltners, Operations Research 27 (1979) 503), and its optimum bounds every selection.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cwmp.selection.compiled import compiled
from cwmp.selection.formats import decode, position_of, readable, without_sign
from cwmp.selection.lanes import WORD, as_real
from cwmp.selection.mask_bits import Words

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]


@compiled
def scan_lines(
    bits: Any,
    begin: int,
    stop: int,
    line: int,
    open_j: float,
    element_j: float,
    price: float,
    largest: float,
    words: Words,
    wide: Any,
) -> tuple[int, int, float, float, int]:
    """Keep what is worth it at a price of the joule; ``begin`` starts a line.

    Args:
        bits: elements of the tensor as integers.
        begin: first coordinate.
        stop: past the last one.
        line: coordinates in a line.
        open_j: joules of opening a line.
        element_j: joules of each kept coordinate beyond that.
        price: λ, squared norm per joule.
        largest: magnitude beyond which a gradient counts as not finite.
        words: mask; bits of kept coordinates are set, others stay.
        wide: room for a line as float32.

    Returns:
        (lines opened, coordinates kept, Σ g² of them, Σ g² of all, not finite).
    """
    source = readable(bits, wide)
    lines, kept, retained, total, wrong = 0, 0, 0.0, 0.0, 0
    limit, toll = price * element_j, price * open_j
    for start in range(begin, stop, line):
        end = min(start + line, stop)
        decode(bits, start, end, wide)
        position = position_of(bits, start)
        surplus, all_squares = 0.0, 0.0
        for index in range(position, position + end - start):
            magnitude = np.float64(as_real(without_sign(source[index])))
            square = magnitude * magnitude if magnitude <= largest else 0.0
            wrong += not magnitude <= largest
            all_squares += square
            surplus += max(square - limit, 0.0)
        total += all_squares
        if surplus > toll:
            lines += 1
            for index in range(end - start):
                magnitude = np.float64(as_real(without_sign(source[position + index])))
                if magnitude <= largest and magnitude * magnitude > limit:
                    words[(start + index) // WORD] |= np.uint64(1) << np.uint64((start + index) % WORD)
                    kept += 1
                    retained += magnitude * magnitude
    return lines, kept, retained, total, wrong


@compiled
def steps_between(
    bits: Any,
    line: int,
    open_j: float,
    element_j: float,
    low: float,
    high: float,
    largest: float,
    prices: Reals,
    lines: Indices,
    counts: Indices,
    added: Indices,
    opens: NDArray[np.bool_],
    wide: Any,
) -> int:
    """Steps of all lines whose λ lies in (low, high], as many as fit in the arrays.

    Args:
        bits: elements of the tensor as integers.
        line: coordinates in a line.
        open_j: joules of opening a line.
        element_j: joules of each kept coordinate beyond that; may be 0.
        low: λ down to which steps are listed.
        high: λ from which on steps are taken already.
        largest: magnitude beyond which a gradient counts as not finite.
        prices: written: λ of each step.
        lines: written: number of its line.
        counts: written: coordinates of the line that are kept after it.
        added: written: coordinates that it adds.
        opens: written: whether it opens the line.
        wide: room for a line as float32.

    Returns:
        Number of steps, also of those that do not fit.
    """
    source = readable(bits, wide)
    values = np.empty(line)
    found = 0
    for start in range(0, bits.size, line):
        end = min(start + line, bits.size)
        decode(bits, start, end, wide)
        position = position_of(bits, start)
        size, possible = 0, 0.0
        for index in range(position, position + end - start):
            magnitude = np.float64(as_real(without_sign(source[index])))
            if 0.0 < magnitude <= largest:
                values[size] = magnitude * magnitude
                possible += max(values[size] - low * element_j, 0.0)
                size += 1
        if possible <= low * open_j * (1 - 1e-12):
            continue
        ranked = np.sort(values[:size])[::-1]
        best, opened, total = 0.0, 0, 0.0
        for count in range(size):
            total += ranked[count]
            price = total / (open_j + (count + 1) * element_j)
            if price >= best:
                best, opened = price, count + 1
        if opened and low < best <= high:
            if found < prices.size:
                prices[found], lines[found] = best, start // line
                counts[found], added[found], opens[found] = opened, opened, True
            found += 1
        for count in range(opened, size):
            price = min(ranked[count] / element_j, best) if element_j > 0 else best
            if low < price <= high:
                if found < prices.size:
                    prices[found], lines[found] = price, start // line
                    counts[found], added[found], opens[found] = count + 1, 1, False
                found += 1
    return found


@compiled
def keep_largest(
    bits: Any, line: int, largest: float, lines: Indices, counts: Indices, words: Words, wide: Any
) -> None:
    """Keep exactly the ``counts`` largest finite coordinates of some lines, of equal ones the first."""
    source = readable(bits, wide)
    for number in range(lines.size):
        start = lines[number] * line
        end = min(start + line, bits.size)
        decode(bits, start, end, wide)
        position = position_of(bits, start)
        magnitudes = np.empty(end - start)
        for index in range(end - start):
            magnitude = np.float64(as_real(without_sign(source[position + index])))
            magnitudes[index] = -magnitude if magnitude <= largest else 0.0
            place = start + index
            words[place // WORD] &= ~(np.uint64(1) << np.uint64(place % WORD))
        order = np.argsort(magnitudes, kind="mergesort")
        for index in range(counts[number]):
            place = start + order[index]
            words[place // WORD] |= np.uint64(1) << np.uint64(place % WORD)


@compiled
def weigh_lines(bits: Any, line: int, words: Words, wide: Any) -> tuple[int, int, float]:
    """Lines with anything kept in them, coordinates kept, and Σ g² of these, of a mask."""
    source = readable(bits, wide)
    lines, kept, retained = 0, 0, 0.0
    for start in range(0, bits.size, line):
        end = min(start + line, bits.size)
        decode(bits, start, end, wide)
        position = position_of(bits, start)
        before = kept
        for index in range(end - start):
            place = start + index
            if words[place // WORD] >> np.uint64(place % WORD) & np.uint64(1):
                magnitude = np.float64(as_real(without_sign(source[position + index])))
                retained += magnitude * magnitude
                kept += 1
        lines += kept > before
    return lines, kept, retained
