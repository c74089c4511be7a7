"""A pass over a whole update in threads: pieces of tensors, each classified by a kernel of its own.

The pieces do not depend on the number of threads, and their results are joined in the order of the index, so
the outcome does not either.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock, local

import numpy as np
import torch

from cwmp.selection.exact import bins_to_units, new_bins
from cwmp.selection.kernels import CHUNK, Lists, Scratch, Source, scan_piece
from cwmp.selection.threads import in_threads
from cwmp.selection.update import Part

PIECES = 16
LEAST_PIECE, LARGEST_PIECE = 1 << 20, 1 << 22
"""Coordinates that one call of a kernel classifies: enough calls to share among threads, and no more."""
THREADED = 1 << 22
"""Updates from this size on are worth threads."""

ROOM = 1 << 18
"""Coordinates of a piece that are listed at most, far more than a good bracket holds."""
LEAST_ROOM = 1 << 17
"""With less room left, an array counts as full."""


class Room:
    """Arrays in which a thread lists what lies inside a bracket; lists are views of them.

    Fresh memory costs more than what is done with it here, so a few are kept from one selection to the next.
    """

    def __init__(self) -> None:
        self.lists = Lists(np.empty(ROOM, dtype=np.int64), np.empty(ROOM), np.empty(ROOM))
        self.scratch = Scratch.new()
        self.used = 0

    def rest(self, most: int) -> Lists:
        """At most so much of what is free."""
        return self.lists.between(self.used, self.used + most)


_SPARE: deque[Room] = deque(maxlen=4)


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
        lists: the coordinates inside, in their order; fewer if there was no room for all.
    """

    kept: int
    kept_units: int
    inside: int
    wrong: int
    squared: float
    kept_squared: float
    lists: Lists


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
        return all(scan.inside == scan.lists.found.size for scan in self.scans)


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
        self.threads = threads if self.numel >= THREADED else 1
        # One array: what is large enough for huge pages is cleared several times faster.
        words = np.empty(sum(part.words for part in parts), dtype=np.uint64)
        ends = itertools.accumulate(part.words for part in parts)
        self.words = tuple(words[end - part.words : end] for end, part in zip(ends, parts, strict=True))
        size = min(max(self.numel // PIECES, LEAST_PIECE), LARGEST_PIECE)
        size -= size % CHUNK
        self.pieces = tuple(
            Piece(part=number, begin=begin, stop=min(begin + size, part.numel))
            for number, part in enumerate(parts)
            for begin in range(0, part.numel, size)
        )
        self.sources = tuple(
            Source(part.bits, part.prices, part.row, part.offset, part.largest, kind, seed) for part in parts
        )
        self._own = local()
        self._rooms: list[Room] = []

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
                used += result.lists.found.size
            return result

        return Pass(scans=tuple(in_threads(scanned, self.pieces, self.threads)))

    def scan_piece(self, piece: Piece, least: float, most: float, *, room: int) -> PieceScan:
        """The same for one piece, of which ``ROOM`` coordinates are listed at most."""
        part, own = self.parts[piece.part], self.room_of_thread(room)
        bins = new_bins() if part.prices.size > 1 else _NO_BINS
        lists = own.rest(room)
        kept, inside, wrong, squared, kept_squared = scan_piece(
            self.sources[piece.part],
            piece.begin,
            piece.stop,
            least,
            most,
            self.words[piece.part],
            bins,
            lists,
            own.scratch,
        )
        listed = min(inside, lists.found.size)
        own.used += listed
        price_units = part.price_units
        return PieceScan(
            kept=kept,
            kept_units=bins_to_units(bins) if price_units is None else kept * price_units,
            inside=inside,
            wrong=wrong,
            squared=squared,
            kept_squared=kept_squared,
            lists=lists.between(0, listed),
        )

    def release(self) -> None:
        """Leave the rooms to later selections; the lists of all passes end here."""
        for room in self._rooms:
            room.used = 0
            _SPARE.append(room)
        self._rooms.clear()
        self._own = local()

    def room_of_thread(self, least: int) -> Room:
        """That of the calling thread; a full one is left to the lists in it."""
        own = self._own
        if not hasattr(own, "room") or ROOM - own.room.used < min(least, LEAST_ROOM):
            try:
                own.room = _SPARE.pop()
            except IndexError:
                own.room = Room()
            self._rooms.append(own.room)
        room: Room = own.room
        return room


_NO_BINS = new_bins()


def default_threads() -> int:
    """As many as torch uses."""
    return torch.get_num_threads()
