"""Passes over an update in lines of neighbours, in threads: what is worth it at a price of the joule.

The pieces do not depend on the number of threads, and their results are joined in their order, so the outcome
does not either.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from cwmp.pricing import BlockPrice
from cwmp.selection.exact import to_units
from cwmp.selection.lanes import WORD
from cwmp.selection.lines import scan_lines, steps_between
from cwmp.selection.mask_bits import Words
from cwmp.selection.threads import in_threads
from cwmp.selection.update import Part

PIECE = 1 << 20
"""Coordinates of one call of a kernel, about."""

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]
T = TypeVar("T")


class LineCounts(NamedTuple):
    """Lines opened, coordinates kept, Σ g² of them and of all, coordinates that are not finite."""

    lines: int
    kept: int
    retained: float
    total: float
    wrong: int


@dataclass(frozen=True, kw_only=True)
class Priced:
    """A tensor, its price in two parts, and that price in exact units."""

    part: Part
    price: BlockPrice

    @property
    def open_units(self) -> int:
        """Cost of opening a line, exactly."""
        return to_units(self.price.open_j)

    @property
    def element_units(self) -> int:
        """Cost of a coordinate beyond that, exactly."""
        return to_units(self.price.element_j)

    def units(self, lines: int, kept: int) -> int:
        """Cost of so many opened lines and kept coordinates, exactly."""
        return lines * self.open_units + kept * self.element_units

    def pieces(self) -> list[tuple[int, int]]:
        """Begin and end of pieces that share no line and no word of the mask."""
        step = WORD * self.price.line_coordinates
        step *= max(PIECE // step, 1)
        return [(begin, min(begin + step, self.part.numel)) for begin in range(0, self.part.numel, step)]

    def scan(self, begin: int, stop: int, price: float, words: Words) -> LineCounts:
        """Keep what is worth it from one coordinate to another."""
        part, block = self.part, self.price
        if price == math.inf:  # infinity times a free coordinate would be no number
            price = 1e300 / max(block.open_j + block.element_j, 1e-8)
        return LineCounts(
            *scan_lines(
                part.bits,
                begin,
                stop,
                block.line_coordinates,
                block.open_j,
                block.element_j,
                price,
                part.largest,
                words,
                self.room(),
            )
        )

    def room(self) -> NDArray[np.int32]:
        """Room for a line as float32."""
        return np.empty(self.price.line_coordinates, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class BlockChoice:
    """Masks and what they cost and keep."""

    words: tuple[Words, ...]
    kept: tuple[int, ...]
    units: int
    retained: float


@dataclass(frozen=True, kw_only=True)
class Steps:
    """Steps inside a bracket, in the order in which they are taken; arrays of shape (steps,)."""

    tensor: Indices
    price: Reals
    line: Indices
    count: Indices
    added: Indices
    opens: NDArray[np.bool_]


class LineScanner:
    """Runs passes over one update.

    Args:
        priced: the tensors and their prices.
        threads: that share the work.
    """

    def __init__(self, priced: Sequence[Priced], threads: int) -> None:
        self.priced = tuple(priced)
        self._threads = threads
        self._pieces = [
            (number, begin, stop)
            for number, tensor in enumerate(self.priced)
            for begin, stop in tensor.pieces()
        ]

    def totals(self) -> tuple[float, dict[str, int]]:
        """Σ g² of everything that is finite, and the number of what is not by tensor."""
        _, counts = self._counts(math.inf)
        wrong = {
            tensor.part.name: sum(count.wrong for count in of_tensor)
            for tensor, of_tensor in zip(self.priced, counts, strict=True)
        }
        return math.fsum(count.total for of_tensor in counts for count in of_tensor), wrong

    def at(self, price: float) -> BlockChoice:
        """What is worth it at a price of the joule; nothing at an infinite one."""
        if price == math.inf:
            return BlockChoice(words=self._no_words(), kept=(0,) * len(self.priced), units=0, retained=0.0)
        words, counts = self._counts(price)
        lines = [sum(count.lines for count in of_tensor) for of_tensor in counts]
        kept = [sum(count.kept for count in of_tensor) for of_tensor in counts]
        return BlockChoice(
            words=words,
            kept=tuple(kept),
            units=sum(tensor.units(a, b) for tensor, a, b in zip(self.priced, lines, kept, strict=True)),
            retained=math.fsum(count.retained for of_tensor in counts for count in of_tensor),
        )

    def steps(self, low: float, high: float, room: int) -> tuple[Steps, bool]:
        """Steps with λ in (low, high], sorted; whether there was room for all."""

        def listed(number: int, begin: int, stop: int) -> tuple[tuple[Any, ...], bool]:
            return _steps_of(self.priced[number], number, begin, stop, low, high, room)

        found = self._in_threads(listed)
        joined = [np.concatenate(column) for column in zip(*(columns for columns, _ in found), strict=True)]
        order = np.argsort(-joined[1], kind="stable")
        tensor, price, line, count, added, opens = (column[order] for column in joined)
        steps = Steps(tensor=tensor, price=price, line=line, count=count, added=added, opens=opens)
        return steps, all(complete for _, complete in found)

    def _counts(self, price: float) -> tuple[tuple[Words, ...], list[list[LineCounts]]]:
        words = self._no_words()
        found = self._in_threads(
            lambda number, begin, stop: self.priced[number].scan(begin, stop, price, words[number])
        )
        counts: list[list[LineCounts]] = [[] for _ in self.priced]
        for (number, _, _), count in zip(self._pieces, found, strict=True):
            counts[number].append(count)
        return words, counts

    def _no_words(self) -> tuple[Words, ...]:
        return tuple(np.zeros(tensor.part.words, dtype=np.uint64) for tensor in self.priced)

    def _in_threads(self, work: Callable[[int, int, int], T]) -> list[T]:
        return in_threads(lambda piece: work(*piece), self._pieces, self._threads)


def _steps_of(
    tensor: Priced, number: int, begin: int, stop: int, low: float, high: float, room: int
) -> tuple[tuple[Any, ...], bool]:
    """Columns of ``Steps`` of one piece, and whether there was room for all."""
    block, size = tensor.price, min(room, stop - begin)
    price, opens = np.empty(size), np.empty(size, dtype=np.bool_)
    line, count, added = (np.empty(size, dtype=np.int64) for _ in range(3))
    found = steps_between(
        tensor.part.bits[begin:stop],
        block.line_coordinates,
        block.open_j,
        block.element_j,
        low,
        high,
        tensor.part.largest,
        price,
        line,
        count,
        added,
        opens,
        tensor.room(),
    )
    listed = min(found, size)
    line = line[:listed] + begin // block.line_coordinates
    columns = (np.full(listed, number), price[:listed], line, count[:listed], added[:listed], opens[:listed])
    return columns, found <= size
