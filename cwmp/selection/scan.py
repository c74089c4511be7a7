"""A pass over a whole update in threads: pieces of tensors, each classified by a kernel of its own.

The pieces do not depend on the number of threads, and their results are joined in the order of the index, so
the outcome does not either.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cwmp.selection.exact import bins_to_units, new_bins
from cwmp.selection.kernels import CHUNK, scan_piece
from cwmp.selection.update import Part

PIECE = 1 << 21
"""Coordinates that one call of a kernel classifies: far above the cost of a call, far below an update."""

ROOM = 1 << 18
"""Coordinates of a piece that are listed at most, far more than a good bracket holds."""
LEAST_ROOM = 1 << 16
"""With less room left, an array counts as full."""

T = TypeVar("T")


class Lists:
    """Arrays in which a thread lists what lies inside a bracket; lists are views of them.

    Fresh memory costs more than what is done with it here, so a few are kept from one selection to the next.
    """

    def __init__(self) -> None:
        self.found = np.empty(ROOM, dtype=np.int64)
        self.scores = np.empty(ROOM)
        self.magnitudes = np.empty(ROOM)
        self.wide = np.empty(CHUNK, dtype=np.int32)
        self.used = 0


_SPARE: deque[Lists] = deque(maxlen=4)


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Coordinates ``begin`` to ``stop`` of a tensor; ``begin`` starts a word of its mask."""

    part: int
    begin: int
    stop: int


@dataclass(frozen=True, kw_only=True)
class PieceScan:
    """What a pass found in one piece.

    Attributes:
        kept: coordinates with a score above the bracket.
        kept_units: their cost, exactly.
        inside: coordinates with a score inside the bracket.
        wrong: coordinates that are not finite or cannot be squared.
        squared: Σ g² over all that are finite.
        kept_squared: Σ g² over the kept ones.
        found: the coordinates inside, shape (inside,); empty if there was no room for them.
        scores: their scores.
        magnitudes: their |g|.
    """

    kept: int
    kept_units: int
    inside: int
    wrong: int
    squared: float
    kept_squared: float
    found: NDArray[np.int64]
    scores: NDArray[np.float64]
    magnitudes: NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Pass:
    """What a pass found in all pieces, in their order."""

    scans: tuple[PieceScan, ...]

    @property
    def kept_units(self) -> int:
        """Exact cost of what lies above the bracket."""
        return sum(scan.kept_units for scan in self.scans)

    @property
    def kept(self) -> int:
        """Number of coordinates above the bracket."""
        return sum(scan.kept for scan in self.scans)

    @property
    def inside(self) -> int:
        """Number of coordinates inside the bracket."""
        return sum(scan.inside for scan in self.scans)

    @property
    def listed(self) -> bool:
        """Whether there was room to list every coordinate inside."""
        return all(scan.inside == scan.found.size for scan in self.scans)


class Scanner:
    """Runs passes over one update and holds its mask.

    Args:
        parts: the tensors.
        kind: the score, one of ``rules.SCORES``.
        seed: of random scores.
        threads: that share the work.
    """

    def __init__(self, parts: Sequence[Part], *, kind: int, seed: int, threads: int) -> None:
        self.parts = tuple(parts)
        self.kind = kind
        self.seed = seed
        self.threads = threads
        # One array: what is large enough for huge pages is cleared several times faster.
        words = np.empty(sum(part.words for part in parts), dtype=np.uint64)
        ends = itertools.accumulate(part.words for part in parts)
        self.words = tuple(words[end - part.words : end] for end, part in zip(ends, parts, strict=True))
        self.pieces = tuple(
            Piece(part=number, begin=begin, stop=min(begin + PIECE, part.numel))
            for number, part in enumerate(parts)
            for begin in range(0, part.numel, PIECE)
        )
        self._own = local()
        self._lists: list[Lists] = []

    @property
    def numel(self) -> int:
        """Number of coordinates of all tensors."""
        return sum(part.numel for part in self.parts)

    def scan(self, least: float, most: float, *, room: int) -> Pass:
        """Write the mask of all scores above ``most``, and list those from ``least`` on.

        Args:
            least: smallest score inside the bracket.
            most: largest score inside.
            room: coordinates that may be listed; when there are more, later pieces are only counted.
        """
        used, lock = 0, Lock()

        def scanned(piece: Piece) -> PieceScan:
            nonlocal used
            result = self.scan_piece(piece, least, most, room=ROOM if used <= room else 0)
            with lock:
                used += result.found.size
            return result

        return Pass(scans=tuple(self._in_threads(scanned, self.pieces)))

    def scan_piece(self, piece: Piece, least: float, most: float, *, room: int) -> PieceScan:
        """The same for one piece, of which ``ROOM`` coordinates are listed at most."""
        part, lists = self.parts[piece.part], self._lists_of_thread(room)
        bins = new_bins() if part.prices.size > 1 else _NO_BINS
        free = slice(lists.used, lists.used + room)
        found, scores, magnitudes = lists.found[free], lists.scores[free], lists.magnitudes[free]
        kept, inside, wrong, squared, kept_squared = scan_piece(
            part.bits,
            piece.begin,
            piece.stop,
            self.kind,
            part.prices,
            part.row,
            self.seed,
            part.offset,
            least,
            most,
            part.largest,
            self.words[piece.part],
            bins,
            found,
            scores,
            magnitudes,
            lists.wide,
        )
        price_units = part.price_units
        listed = min(inside, found.size)
        lists.used += listed
        return PieceScan(
            kept=kept,
            kept_units=bins_to_units(bins) if price_units is None else kept * price_units,
            inside=inside,
            wrong=wrong,
            squared=squared,
            kept_squared=kept_squared,
            found=found[:listed],
            scores=scores[:listed],
            magnitudes=magnitudes[:listed],
        )

    def release(self) -> None:
        """Leave the arrays to later selections; the lists of all passes end here."""
        for lists in self._lists:
            lists.used = 0
            _SPARE.append(lists)
        self._lists.clear()
        self._own = local()

    def _in_threads(self, work: Callable[[Piece], T], pieces: Sequence[Piece]) -> Iterator[T]:
        threads = min(self.threads, len(pieces))
        if threads == 1 or self.numel < 2 * PIECE:
            yield from map(work, pieces)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, pieces)

    def _lists_of_thread(self, room: int) -> Lists:
        """Those of the calling thread; full ones are left to the lists in them."""
        own = self._own
        if not hasattr(own, "lists") or ROOM - own.lists.used < min(room, LEAST_ROOM):
            try:
                own.lists = _SPARE.pop()
            except IndexError:
                own.lists = Lists()
            self._lists.append(own.lists)
        lists: Lists = own.lists
        return lists


_NO_BINS = new_bins()


def default_threads() -> int:
    """As many as torch uses."""
    return torch.get_num_threads()
