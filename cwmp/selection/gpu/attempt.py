"""Selection on a GPU in one go: all kernels are started before the host waits, once, for what they found.

    sheet ─▶ sample ─▶ bracket ─▶ one pass ─▶ bins inside it ─▶ end ─▶ kept, and a few ─▶ sheet
             (first round only)                                                             │
                                                      kept of the few ◀── exact sums ◀── host

Where the bracket missed, or held more than can be listed, nothing is found here, and ``find_prefix`` goes on
with a pass, a wait and a look at a time. Many of one score are narrowed down by their places, at the cost of
one more wait. A tensor has one price here, so scores grow with magnitudes: classifying by float32 is exact,
and rounding has no say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection.bracket import Bracket
from cwmp.selection.gpu import sheet as gpu_sheet
from cwmp.selection.gpu import triton_narrow
from cwmp.selection.gpu.layout import BLOCK, GROUP
from cwmp.selection.gpu.listed import scores_of
from cwmp.selection.gpu.passes import GpuPasses
from cwmp.selection.gpu.sample import DEVIATIONS, expect, sample_of
from cwmp.selection.gpu.sheet import BINS, Filled, Integers
from cwmp.selection.gpu.update import Classified, GpuUpdate
from cwmp.selection.limits import Limits
from cwmp.selection.prefix import FEW
from cwmp.selection.search import LAST_ROUND, SMALL, Found, find_prefix

Reals = NDArray[np.float64]

LISTED_SHARE = 32
"""A program lists at most one coordinate of so many."""
SMALL_UPDATE, SMALL_LISTED_SHARE = 1 << 22, 4
"""The same of an update up to this size, whose sample is small and its bracket wide."""

NARROWINGS = 8
"""Of a bin that holds more than a few: each takes 10 bits of the score or of the place."""


def find_on_gpu(passes: GpuPasses, limits: Limits, *, at_least: float, last: float | None) -> Found:
    """Find the longest affordable prefix by (score descending, index ascending).

    Args:
        passes: the update and the score.
        limits: of the prefix.
        at_least: lowest score that may be kept.
        last: where the threshold was found last time, if there was a last time.
    """
    tried = 0
    if passes.numel > SMALL and (limits.units is None or limits.count is None):
        warm = last is not None and last > 0 and math.isfinite(last)
        for from_last in (last, None) if warm else (None,):
            tried += 1
            found = _attempt(passes, limits, at_least, from_last)
            if found is not None:
                return replace(found, passes=tried)
    found = find_prefix(passes, limits, at_least=at_least, last=None)
    return replace(found, passes=found.passes + tried)


def _attempt(passes: GpuPasses, limits: Limits, at_least: float, last: float | None) -> Found | None:
    update = passes.update
    if last is not None or (limits.units is None and limits.count is None):
        known = Bracket(least=at_least, most=at_least)
        if last is not None:
            least = max(at_least, last / LAST_ROUND)
            known = Bracket(least=least, most=max(least, last * LAST_ROUND))
        given = update.filled_in(limits, known)
        sheet = update.sheet.sent(given, update.device)
        update.keys_of_known(sheet)
    else:
        runs = sample_of(update, 0, 1)
        given = update.filled_in(limits, Bracket(least=at_least, most=math.inf), runs.weights)
        sheet = update.sheet.sent(given, update.device)
        expect(update, sheet, runs, DEVIATIONS)
    lists = _lists(update, sheet, update.classified(sheet))
    for _ in range(NARROWINGS):
        _narrow(update, sheet, lists)
        filled = update.sheet.read(sheet)
        if filled.head(gpu_sheet.FULL):
            return None
        if filled.head(gpu_sheet.FEW_FOUND) <= FEW:
            return _found(passes, limits, filled, at_least)
        if filled.head(gpu_sheet.BY_SLOT):
            return None
        sheet = update.sheet.sent(_narrower(update, given, filled), update.device)
    return None


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lists:
    """What is inside the bracket, by program.

    Attributes:
        seen: by the pass.
        places: in the blocks of the program, int32, shape (programs, room).
        counts: of them, int32, shape (programs,).
        room: for them.
    """

    seen: Classified
    places: Tensor
    counts: Tensor
    room: int


def _lists(update: GpuUpdate, sheet: Tensor, seen: Classified) -> _Lists:
    programs = update.sheet.programs
    room = GROUP * BLOCK // (SMALL_LISTED_SHARE if update.numel <= SMALL_UPDATE else LISTED_SHARE)
    places = update.new((programs, room), torch.int32)
    counts = update.new((programs,), torch.int32)
    triton_narrow.gather[(programs,)](
        sheet,
        seen.inside_words.view(torch.int64),
        places,
        counts,
        update.layout.blocks,
        block=BLOCK,
        group=GROUP,
        room=room,
    )
    return _Lists(seen=seen, places=places, counts=counts, room=room)


def _narrow(update: GpuUpdate, sheet: Tensor, lists: _Lists) -> None:
    """Keep all above the bin in which the limit ends, and write down what is in it."""
    layout, programs, tensors = update.layout, update.sheet.programs, len(update.sizes)
    triton_narrow.bins[(programs,)](
        sheet,
        layout.tensors,
        layout.first_blocks,
        lists.places,
        lists.counts,
        lists.seen.counts,
        lists.seen.sums,
        layout.blocks,
        tensors,
        kind=update.kind,
        element=update.element,
        columns=update.columns,
        block=BLOCK,
        group=GROUP,
        room=lists.room,
    )
    triton_narrow.end[(1,)](sheet)
    triton_narrow.settle[(programs,)](
        sheet,
        layout.tensors,
        layout.first_blocks,
        lists.places,
        lists.counts,
        update.words,
        layout.blocks,
        tensors,
        kind=update.kind,
        element=update.element,
        block=BLOCK,
        group=GROUP,
        room=lists.room,
    )


def _narrower(update: GpuUpdate, given: Integers, filled: Filled) -> Integers:
    """The same sheet for the bin in which the limit ended; by place where it seems to have one score."""
    numbers = given.copy()
    shift, slots = filled.head(gpu_sheet.SHIFT), update.layout.blocks * BLOCK
    low = filled.head(gpu_sheet.LOW) + (filled.head(gpu_sheet.BIN) << shift)
    high = min(low + (1 << shift), filled.head(gpu_sheet.HIGH))
    scores = _ranked_few(update, filled).scores
    by_slot = scores[0] == scores[-1]
    if by_slot:
        low = gpu_sheet.bits_of(float(scores[0]))
        high = low + 1
    width = slots if by_slot else high - low
    numbers[gpu_sheet.LOW], numbers[gpu_sheet.HIGH] = low, high
    numbers[gpu_sheet.BY_SLOT] = by_slot
    numbers[gpu_sheet.SHIFT] = max((width - 1).bit_length() - (BINS - 1).bit_length(), 0)
    return numbers


@dataclass(frozen=True, kw_only=True)
class _Few:
    """The few by (score descending, index ascending); shapes (few,)."""

    slots: Integers
    tensors: Integers
    magnitudes: Reals
    scores: Reals


def _ranked_few(update: GpuUpdate, filled: Filled) -> _Few:
    slots, keys = filled.few
    magnitudes = keys.astype(np.int32).view(np.float32).astype(np.float64)
    tensors = np.searchsorted(update.layout.firsts, slots // BLOCK, side="right") - 1
    scores = scores_of(magnitudes, update.prices.joules[tensors], update.kind)
    order = np.lexsort((slots, -scores))
    return _Few(
        slots=slots[order], tensors=tensors[order], magnitudes=magnitudes[order], scores=scores[order]
    )


def _found(passes: GpuPasses, limits: Limits, filled: Filled, at_least: float) -> Found | None:
    """Keep what is affordable of the few; None if the budget ends elsewhere."""
    update, few = passes.update, _ranked_few(passes.update, filled)
    kept = filled.row(gpu_sheet.KEPT) + filled.row(gpu_sheet.SETTLED)
    units, count = update.prices.units_of(kept), int(kept.sum())
    if not limits.allow(units, count):
        return None
    length = 0
    for tensor in few.tensors.tolist():
        more = units + update.prices.units[tensor]
        if not limits.allow(more, count + length + 1):
            break
        units, length = more, length + 1
    threshold = None if length == few.scores.size else float(few.scores[length])
    left = int(filled.row(gpu_sheet.INSIDE).sum() - filled.row(gpu_sheet.SETTLED).sum()) - few.scores.size
    if threshold is None and (left or filled.score(gpu_sheet.LEAST) > at_least):
        return None
    if length:
        slots = torch.from_numpy(few.slots[:length]).to(update.device, non_blocking=True)
        triton_narrow.finish[(1,)](update.words, slots, length)
    added = few.magnitudes[:length]
    total, squared, absolute, inside_squared, inside_absolute = filled.sums
    passes.absolute = absolute + inside_absolute + float(added.sum())
    return Found(
        units=units,
        kept=tuple((kept + np.bincount(few.tensors[:length], minlength=kept.size)).tolist()),
        squared=squared + inside_squared + float(added @ added),
        total_squared=total,
        wrong=tuple(filled.row(gpu_sheet.WRONG).tolist()),
        threshold=threshold,
        passes=1,
    )
