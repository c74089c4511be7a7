"""The exact threshold: propose a bracket, pass over the gradient once, resolve the few inside.

    proposal      bracket                                            tried
    last round    λ of the last round ± 0.5 %                        first, if given
    samples       where a small sample and, inside that, a           then
                  large one put it
    more          larger samples, wider margins, inside what         three times
                  the passes so far have excluded
    halving       one score: each pass halves what is left           until found; at most 64 times

Each pass either finds the bracket right, or excludes one side of it for good: the result is exact whatever
the proposals are, and they decide only how many passes it takes. Where more coordinates have the very same
score than there is room to list, they are taken in the order of their index, piece by piece.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from cwmp.selection.bracket import Bracket, bracket, sample
from cwmp.selection.lanes import WORD
from cwmp.selection.limits import Limits
from cwmp.selection.listed import Kept, Listed, keep_affordable
from cwmp.selection.scan import ROOM, Pass, Piece, PieceScan, Scanner

SMALL = 1 << 15
"""Updates up to this size are listed whole."""
ROOM_PER_COORDINATE = 1 / 50
LAST_ROUND = 1.005
SAMPLES = 4
"""Proposals from samples before halving begins."""
FIRST_SAMPLE, FIRST_RUN = 1 << 12, WORD
"""Coordinates to read, and neighbours in a run."""
SECOND_SAMPLE, SECOND_RUN = 1 << 20, 8 * WORD
SECOND_SHARE = 16
"""The second sample reads one of so many coordinates; where that is few, the first must do."""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The exact prefix; its mask is in the scanner's words.

    Attributes:
        units: exact cost of the kept coordinates.
        kept: their number by tensor, in the order of the scanner's parts.
        squared: Σ g² of the kept ones.
        total_squared: Σ g² of all that are finite.
        wrong: coordinates that are not finite, by tensor.
        threshold: score of the first ranked coordinate left out, None if none was.
        passes: over the gradient.
    """

    units: int
    kept: tuple[int, ...]
    squared: float
    total_squared: float
    wrong: tuple[int, ...]
    threshold: float | None
    passes: int


class Seen(Protocol):
    """What a pass over the gradient found."""

    @property
    def kept_units(self) -> int:
        """Exact cost of what lies above the bracket."""
        ...

    @property
    def kept(self) -> int:
        """Number of coordinates above the bracket."""
        ...

    @property
    def listed(self) -> bool:
        """Whether every coordinate inside the bracket was listed."""
        ...


S = TypeVar("S", bound=Seen)


class Passes(Protocol[S]):
    """What the search asks of the hardware that holds the gradient."""

    @property
    def numel(self) -> int:
        """Number of coordinates of all tensors."""
        ...

    def proposed(self, limits: Limits, known: Bracket, samples: int, draw: int) -> Bracket:
        """Where a sample puts the threshold; ``samples`` were taken before."""
        ...

    def scan(self, least: float, most: float, *, room: int) -> S:
        """Write the mask of all scores above ``most``, and list those from ``least`` on if there is room."""
        ...

    def resolved(self, limits: Limits, result: S, passes: int) -> Found:
        """Keep what is affordable of a list."""
        ...

    def ties_resolved(self, limits: Limits, result: S, score: float, passes: int) -> Found:
        """Keep what is affordable of many coordinates with one score, in the order of their index."""
        ...


def find_prefix(
    passes_over: Passes[S], limits: Limits, *, at_least: float, last: float | None, draw: int = 1
) -> Found:
    """Find the longest affordable prefix by (score descending, index ascending).

    Args:
        passes_over: the update and the score.
        limits: of the prefix.
        at_least: lowest score that may be kept.
        last: where the threshold was found last time, if there was a last time.
        draw: seed of the sample.
    """
    known = Bracket(least=at_least, most=math.inf)
    room = SMALL + int(passes_over.numel * ROOM_PER_COORDINATE)
    passes, samples = 0, 0
    while True:
        if passes_over.numel <= SMALL:
            tried = known
        elif passes == 0 and last is not None and last > 0 and math.isfinite(last):
            tried = _inside(Bracket(least=last / LAST_ROUND, most=last * LAST_ROUND), known)
        elif samples < SAMPLES:
            tried = passes_over.proposed(limits, known, samples, draw + samples)
            samples += 1
        else:
            middle = _middle(known)
            tried = Bracket(least=middle, most=middle)
        result = passes_over.scan(tried.least, tried.most, room=room)
        passes += 1
        if not limits.allow(result.kept_units, result.kept):
            known = Bracket(least=math.nextafter(tried.most, math.inf), most=known.most)
            continue
        if not result.listed and tried.least < tried.most:
            known = Bracket(least=known.least, most=tried.most)
            continue
        found = (
            passes_over.resolved(limits, result, passes)
            if result.listed
            else passes_over.ties_resolved(limits, result, tried.most, passes)
        )
        if found.threshold is not None or tried.least <= known.least:
            return found
        # Everything down to the bracket is affordable; the threshold is below.
        known = Bracket(least=known.least, most=math.nextafter(tried.least, 0.0))


@dataclass(frozen=True)
class ScannerPasses:
    """Passes by the compiled kernels of a CPU."""

    scanner: Scanner

    @property
    def numel(self) -> int:
        """Number of coordinates of all tensors."""
        return self.scanner.numel

    def proposed(self, limits: Limits, known: Bracket, samples: int, draw: int) -> Bracket:
        """Where a sample puts the threshold."""
        return _proposed(self.scanner, limits, known, samples, draw)

    def scan(self, least: float, most: float, *, room: int) -> Pass:
        """One pass in threads."""
        return self.scanner.scan(least, most, room=room)

    def resolved(self, limits: Limits, result: Pass, passes: int) -> Found:
        """Keep what is affordable of a list."""
        return _resolved(self.scanner, limits, result, passes)

    def ties_resolved(self, limits: Limits, result: Pass, score: float, passes: int) -> Found:
        """Keep what is affordable of many with one score."""
        return _ties_resolved(self.scanner, limits, result, score, passes)


def _proposed(scanner: Scanner, limits: Limits, known: Bracket, samples: int, draw: int) -> Bracket:
    """From a small sample a wide bracket, from a larger one with that bracket a narrow one."""
    deviations = 3.0 + 2.0 * samples
    first = sample(scanner, known, length=FIRST_RUN, size=FIRST_SAMPLE << samples, draw=draw)
    if first is None:
        return known
    wide = bracket(first, limits, known, deviations)
    size = min(scanner.numel // SECOND_SHARE, SECOND_SAMPLE) << samples
    if size < 4 * FIRST_SAMPLE:
        return wide
    second = sample(scanner, wide, length=SECOND_RUN, size=size, draw=draw)
    return wide if second is None else bracket(second, limits, wide, deviations)


def _inside(tried: Bracket, known: Bracket) -> Bracket:
    least = min(max(tried.least, known.least), known.most)
    return Bracket(least=least, most=max(min(tried.most, known.most), least))


def _middle(known: Bracket) -> float:
    """The score in the middle of all float64 between two."""
    keys = np.array([known.least, known.most]).view(np.int64)
    return float(np.int64((int(keys[0]) + int(keys[1])) // 2).view(np.float64))


def _resolved(scanner: Scanner, limits: Limits, result: Pass, passes: int) -> Found:
    """Keep what is affordable of a list."""
    lists = [_listed(scanner, piece, scan) for piece, scan in zip(scanner.pieces, result.scans, strict=True)]
    kept = keep_affordable(lists, result.kept_units, result.kept, limits, threads=scanner.threads)
    return _found(scanner, result, kept, passes)


def _ties_resolved(scanner: Scanner, limits: Limits, result: Pass, score: float, passes: int) -> Found:
    """Keep what is affordable of many coordinates with one score, in the order of their index."""
    units, count = result.kept_units, result.kept
    threshold: float | None = None
    counts, squared = [], []
    for piece, scan in zip(scanner.pieces, result.scans, strict=True):
        counts.append(0)
        squared.append(0.0)
        for part in _small_pieces(piece) if scan.inside else ():
            if threshold is None:
                scanner.release()
                again = scanner.scan_piece(part, score, score, room=ROOM)
                kept = keep_affordable([_listed(scanner, part, again)], units, count, limits, threads=1)
                units, threshold = kept.units, kept.threshold
                counts[-1] += kept.counts[0]
                squared[-1] += kept.squared[0]
                count += kept.counts[0]
    together = Kept(units=units, counts=tuple(counts), squared=tuple(squared), threshold=threshold)
    return _found(scanner, result, together, passes + 1)


def _small_pieces(piece: Piece) -> Iterator[Piece]:
    """Parts of a piece that can be listed whole."""
    for begin in range(piece.begin, piece.stop, ROOM):
        yield replace(piece, begin=begin, stop=min(begin + ROOM, piece.stop))


def _listed(scanner: Scanner, piece: Piece, scan: PieceScan) -> Listed:
    return Listed(part=scanner.parts[piece.part], words=scanner.words[piece.part], lists=scan.lists)


def _found(scanner: Scanner, result: Pass, lists: Kept, passes: int) -> Found:
    kept, wrong = [0] * len(scanner.parts), [0] * len(scanner.parts)
    for piece, scan, count in zip(scanner.pieces, result.scans, lists.counts, strict=True):
        kept[piece.part] += scan.kept + count
        wrong[piece.part] += scan.wrong
    return Found(
        units=lists.units,
        kept=tuple(kept),
        squared=math.fsum([scan.kept_squared for scan in result.scans] + list(lists.squared)),
        total_squared=math.fsum(scan.squared for scan in result.scans),
        wrong=tuple(wrong),
        threshold=lists.threshold,
        passes=passes,
    )
