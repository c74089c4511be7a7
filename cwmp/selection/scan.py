"""A pass over a whole update in threads: pieces of tensors, each classified by a kernel of its own.

The pieces do not depend on the number of threads, and their results are joined in the order of the index, so
the outcome does not either.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock, local
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from cwmp.selection.exact import bins_to_units, new_bins
from cwmp.selection.kernels import CHUNK, scan_piece
from cwmp.selection.lanes import SUM_LANES, WORD
from cwmp.selection.update import Part

PIECE = 1 << 20
"""Coordinates that one call of a kernel classifies: far above the cost of a call, far below a tensor."""

ROOM = 1 << 18
"""Coordinates of a piece that are listed at most, far more than a good bracket holds. An array of that size
is small enough for ordinary pages: clearing huge ones would take longer than selecting from a million."""
LEAST_ROOM = 1 << 16
"""With less room left, an array counts as full."""

T = TypeVar("T")


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
        self.words = tuple(np.empty(part.words, dtype=np.uint64) for part in parts)
        self.pieces = tuple(
            Piece(part=number, begin=begin, stop=min(begin + PIECE, part.numel))
            for number, part in enumerate(parts)
            for begin in range(0, part.numel, PIECE)
        )
        self._own = local()

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
        """The same for one piece."""
        part, own = self.parts[piece.part], self._workspace(room)
        integers = np.int64 if part.precision is np.float64 else np.int32
        lanes = SUM_LANES if part.precision is np.float64 else 2 * SUM_LANES
        bins = new_bins() if part.prices.size > 1 else _NO_BINS
        free = slice(own.used, own.used + room)
        found, scores, magnitudes = own.found[free], own.scores[free], own.magnitudes[free]
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
            np.empty(lanes, dtype=part.precision),
            np.empty(WORD, dtype=integers),
            own.wide,
        )
        price_units = part.price_units
        listed = min(inside, found.size)
        own.used += listed
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

    def _in_threads(self, work: Callable[[Piece], T], pieces: Sequence[Piece]) -> Iterator[T]:
        threads = min(self.threads, len(pieces))
        if threads == 1 or self.numel < 2 * PIECE:
            yield from map(work, pieces)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(work, pieces)

    def _workspace(self, room: int) -> Any:
        """Arrays of the calling thread, with room after what is used; untouched pages take no memory.

        Lists are views of them, so a full array is left to its lists.
        """
        own = self._own
        if not hasattr(own, "wide"):
            own.wide = np.empty(CHUNK, dtype=np.int32)
            own.found, own.used = np.empty(0, dtype=np.int64), 0
            own.scores = own.magnitudes = np.empty(0, dtype=np.float64)
        if own.found.size - own.used < min(room, LEAST_ROOM) or own.found.size < room:
            size = max(room, ROOM)
            own.found, own.used = np.empty(size, dtype=np.int64), 0
            own.scores, own.magnitudes = np.empty(size), np.empty(size)
        return own


_NO_BINS = new_bins()


def default_threads() -> int:
    """As many as torch uses."""
    return torch.get_num_threads()
