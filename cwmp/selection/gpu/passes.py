"""Selection on a GPU, a pass and a look at a time: what ``find_prefix`` asks, where one go did not find all.

    sample ──▶ bracket ──▶ one pass ──▶ counts by block ──▶ list ──▶ sorted ──▶ a few around the end of the
                                        (running sum)                            budget, resolved exactly

The host waits for the bracket, for the counts of the pass, for the end of the list, and for the squares of
what it adds. All of one score are taken by their places in the mask.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection.bracket import Bracket
from cwmp.selection.gpu import sheet as gpu_sheet
from cwmp.selection.gpu import triton_kernels
from cwmp.selection.gpu.layout import BLOCK, RUN, WORD_BITS
from cwmp.selection.gpu.listed import Ranked, end_of, scores_of
from cwmp.selection.gpu.sample import DEVIATIONS, expect, sample_of
from cwmp.selection.gpu.update import GpuUpdate
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import unpacked
from cwmp.selection.search import Found

Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class GpuPass:
    """What a pass found; numbers by tensor.

    Attributes:
        kept_by_tensor: above the bracket.
        inside: inside the bracket.
        wrong: not finite.
        total_squared: Σ g² of all that are finite.
        squared: Σ g² of the kept.
        absolute: Σ |g| of the kept, if it was asked for.
        kept_units: exact cost of the kept.
        listed: whether there is room to list the inside.
        counts: of the inside by block, on the device.
        ends: their running sum.
        inside_words: their mask, on the device.
        sheet: that the pass was made with, on the device.
    """

    kept_by_tensor: tuple[int, ...]
    inside: tuple[int, ...]
    wrong: tuple[int, ...]
    total_squared: float
    squared: float
    absolute: float
    kept_units: int
    listed: bool
    counts: Tensor
    ends: Tensor
    inside_words: Tensor
    sheet: Tensor

    @property
    def kept(self) -> int:
        """Number of coordinates above the bracket."""
        return sum(self.kept_by_tensor)


class GpuPasses:
    """Passes over one update.

    Attributes:
        update: with its mask.
        absolute: Σ |g| of what was kept last, if the rule needs it.
    """

    def __init__(self, update: GpuUpdate) -> None:
        self.update = update
        self.absolute = 0.0

    @property
    def numel(self) -> int:
        """Number of coordinates of all tensors."""
        return self.update.numel

    def proposed(self, limits: Limits, known: Bracket, samples: int, draw: int) -> Bracket:
        """Where a sample puts the threshold; ``samples`` were taken before."""
        if limits.units is None and limits.count is None:
            return Bracket(least=known.least, most=known.least)
        runs, ends = sample_of(self.update, samples, draw), []
        for limit in _one_by_one(limits):
            given = self.update.filled_in(limit, known, runs.weights)
            sheet = self.update.sheet.sent(given, self.update.device)
            magnitudes = expect(self.update, sheet, runs, DEVIATIONS + 2.0 * samples)
            filled = self.update.sheet.read(sheet)
            least, most = filled.score(gpu_sheet.LEAST), filled.score(gpu_sheet.MOST)
            prices = self.update.prices.on_device[runs.tensors].repeat_interleave(RUN)
            scores = scores_of(magnitudes.to(torch.float64), prices, self.update.kind)
            # Scores that were seen, so that one which many share makes a bracket of its own.
            inside = scores[(scores >= least) & (scores <= most) & (scores > 0)]
            if inside.numel():
                lowest, highest = torch.stack(torch.aminmax(inside)).tolist()
                least = lowest if least > known.least else least
                most = highest if most < known.most else most
            ends.append((least, most))
        # The limit that ends the prefix first has the higher scores.
        least = max(low for low, _ in ends)
        return Bracket(least=least, most=max(least, *(high for _, high in ends)))

    def scan(self, least: float, most: float, *, room: int) -> GpuPass:
        """Write the mask of all scores above ``most``, and another of those from ``least`` on."""
        update, layout = self.update, self.update.layout
        given = update.filled_in(Limits.of(0.0, None), Bracket(least=least, most=most))
        sheet = update.sheet.sent(given, update.device)
        update.keys_of_known(sheet)
        seen = update.classified(sheet)
        ends = seen.counts.cumsum(1, dtype=torch.int64)
        at_ends = ends[:, layout.first_blocks[1:] - 1]
        # Together, so that the host waits once.
        found = torch.cat([at_ends.reshape(-1), seen.sums.sum(1).view(torch.int64)]).cpu().numpy()
        kept, inside, wrong = np.diff(found[: at_ends.numel()].reshape(3, -1), prepend=0)
        total, squared, *magnitudes = found[at_ends.numel() :].view(np.float64).tolist()
        return GpuPass(
            kept_by_tensor=tuple(kept.tolist()),
            inside=tuple(inside.tolist()),
            wrong=tuple(wrong.tolist()),
            total_squared=total,
            squared=squared,
            absolute=sum(magnitudes),
            kept_units=update.prices.units_of(kept),
            listed=int(inside.sum()) <= room,
            counts=seen.counts[1],
            ends=ends[1],
            inside_words=seen.inside_words,
            sheet=sheet,
        )

    def resolved(self, limits: Limits, result: GpuPass, passes: int) -> Found:
        """Keep what is affordable of a list."""
        counts = np.zeros(len(self.update.sizes), dtype=np.int64)
        if not any(result.inside):
            return self._found(result, counts, result.kept_units, 0.0, 0.0, None, passes)
        ranked = self._ranked(result)
        end = end_of(ranked, self.update.prices, limits, result.inside, result.kept_units, result.kept)
        slots = ranked.slots[: end.length]
        # Each bit is added once, to a word that lacks it.
        bits = (torch.ones_like(slots) << slots % WORD_BITS).to(torch.int32)
        self.update.words.index_add_(0, slots // WORD_BITS, bits)
        magnitudes = ranked.magnitudes[: end.length].to(torch.float64)
        squared, absolute = torch.stack([magnitudes.square().sum(), magnitudes.sum()]).tolist()
        return self._found(result, end.counts, end.units, squared, absolute, end.threshold, passes)

    def ties_resolved(self, limits: Limits, result: GpuPass, score: float, passes: int) -> Found:
        """Keep what is affordable of many coordinates with one score, in the order of their index."""
        units, count = result.kept_units, result.kept
        counts = np.zeros(len(self.update.sizes), dtype=np.int64)
        squared = absolute = 0.0
        threshold: float | None = None
        for number, tied in enumerate(result.inside):
            if not tied or threshold is not None:
                continue
            room = (
                tied if limits.units is None else (limits.units - units) // self.update.prices.units[number]
            )
            taken = min(tied, room, tied if limits.count is None else limits.count - count)
            if taken:
                added = self._keep_first(number, result, taken)
                squared, absolute = squared + added[0], absolute + added[1]
            counts[number] = taken
            units, count = units + taken * self.update.prices.units[number], count + taken
            threshold = score if taken < tied else None
        return self._found(result, counts, units, squared, absolute, threshold, passes)

    def _ranked(self, result: GpuPass) -> Ranked:
        """List what is inside and sort it; the list is in the order of the index, and the sort is stable."""
        total = sum(result.inside)
        slots, magnitudes = self.update.new((total,), torch.int64), self.update.new((total,), torch.float32)
        triton_kernels.list_inside[(self.update.layout.blocks,)](
            result.sheet,
            self.update.layout.tensors,
            self.update.layout.first_blocks,
            result.inside_words,
            result.ends,
            result.counts,
            slots,
            magnitudes,
            len(self.update.sizes),
            element=self.update.element,
            block=BLOCK,
            num_warps=triton_kernels.LIST_WARPS,
        )
        tensors = self.update.layout.tensors[slots // BLOCK]
        prices = self.update.prices.on_device[tensors]
        scores = scores_of(magnitudes.to(torch.float64), prices, self.update.kind)
        scores, order = torch.sort(scores, descending=True, stable=True)
        return Ranked(scores=scores, slots=slots[order], magnitudes=magnitudes[order], tensors=tensors[order])

    def _keep_first(self, number: int, result: GpuPass, taken: int) -> tuple[float, float]:
        """Keep the first so many of what is inside in one tensor; Σ g² and Σ |g| of these."""
        first, stop = self.update.layout.firsts[number], self.update.layout.firsts[number + 1]
        words = result.inside_words.view(-1, BLOCK // WORD_BITS)[first:stop]
        ends = result.ends[first:stop]
        before = int(ends[0]) - int(result.counts[first])
        last = int(torch.searchsorted(ends, before + taken))
        words[last + 1 :] = 0
        in_last = taken - (int(ends[last]) - before - int(result.counts[first + last]))
        words[last] = _first_bits(words[last], in_last)
        self.update.words.view(-1, BLOCK // WORD_BITS)[first:stop] |= words
        gradient = self.update.gradients[number]
        magnitudes = gradient[unpacked(words.reshape(-1), gradient.numel())].to(torch.float64).abs()
        squared, absolute = torch.stack([magnitudes.square().sum(), magnitudes.sum()]).tolist()
        return squared, absolute

    def _found(
        self,
        result: GpuPass,
        counts: Indices,
        units: int,
        squared: float,
        absolute: float,
        threshold: float | None,
        passes: int,
    ) -> Found:
        self.absolute = result.absolute + absolute
        return Found(
            units=units,
            kept=tuple((np.array(result.kept_by_tensor) + counts).tolist()),
            squared=result.squared + squared,
            total_squared=result.total_squared,
            wrong=result.wrong,
            threshold=threshold,
            passes=passes,
        )


def _first_bits(words: Tensor, number: int) -> Tensor:
    """The same words with all but the first so many bits cleared."""
    bits = np.unpackbits(words.cpu().numpy().view(np.uint8), bitorder="little")
    bits &= bits.cumsum() <= number
    return torch.from_numpy(np.packbits(bits, bitorder="little").view(np.int32)).to(words.device)


def _one_by_one(limits: Limits) -> list[Limits]:
    """The limits apart: of joules, and of coordinates."""
    apart = []
    if limits.units is not None:
        apart.append(replace(limits, count=None))
    if limits.count is not None:
        apart.append(replace(limits, units=None))
    return apart
