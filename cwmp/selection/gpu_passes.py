"""Selection on a GPU: the gradient, the masks and the lists stay there; the exact sums are the host's.

    sample ──▶ bracket ──▶ one pass ──▶ counts by block ──▶ list ──▶ sorted ──▶ a few around the end of the
                                        (running sum)                            budget, resolved exactly

A tensor has one price here, so scores grow with magnitudes and a bracket is two float32 per tensor, found by
bisection with the very scores of the CPU: classifying is exact, and rounding has no say. The host waits for
the bracket, for the counts of the pass, for the end of the list, and for the squares of what it adds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection import triton_kernels
from cwmp.selection.bracket import Bracket
from cwmp.selection.compiled import compiled
from cwmp.selection.gpu_layout import BLOCK, RUN, WORD_BITS, layout_of, runs_of
from cwmp.selection.gpu_listed import Prices, Ranked, end_of
from cwmp.selection.gpu_sample import Sample, bracket_of
from cwmp.selection.lanes import as_real
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import unpacked
from cwmp.selection.rules import MAGNITUDE_PER_JOULE, SQUARE_PER_JOULE
from cwmp.selection.scores import score_of
from cwmp.selection.search import Found

SAMPLE = 1 << 20
SAMPLE_SHARE = 16
"""The first sample reads at most one of so many coordinates."""
DEVIATIONS = 4.0
"""Of the first bracket: sorting a longer list costs less here than a pass in vain."""
SAMPLED_PER_PROGRAM = 512
LARGEST_KEY = 0x7F7FFFFF
"""The largest finite float32 as an integer."""

Indices = NDArray[np.int64]


@compiled
def _lowest_key(kind: int, price: float, score: float, beyond: bool) -> int:
    """Lowest key, from 1 on, of a magnitude that scores at least so much, or more; beyond all if none."""
    low, high = 1, LARGEST_KEY
    while low <= high:
        middle = (low + high) // 2
        scored = score_of(kind, np.float64(as_real(np.int32(middle))), price, 0, 0)
        if scored > score or (not beyond and scored == score):
            high = middle - 1
        else:
            low = middle + 1
    return low


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

    @property
    def kept(self) -> int:
        """Number of coordinates above the bracket."""
        return sum(self.kept_by_tensor)


class GpuPasses:
    """Passes over one update; its masks are one long array of words on the device.

    Args:
        gradients: by tensor name, of one dtype, on one device, none empty.
        prices: joules per coordinate of each, in the same order.
        kind: the score, one of ``rules.SCORES`` that are not random.
    """

    def __init__(self, gradients: Mapping[str, Tensor], prices: Sequence[float], *, kind: int) -> None:
        self.names = tuple(gradients)
        self.shapes = tuple(gradient.shape for gradient in gradients.values())
        self.gradients = [_aligned(gradient.detach().reshape(-1)) for gradient in gradients.values()]
        self.device = self.gradients[0].device
        self.kind = kind
        self.sizes = tuple(gradient.numel() for gradient in self.gradients)
        self.layout = layout_of(self.sizes, self.device)
        self.words = self._new((self.layout.blocks * BLOCK // WORD_BITS,), torch.int32)
        self.absolute = 0.0
        addresses = [gradient.data_ptr() for gradient in self.gradients]
        self._addresses = torch.tensor(addresses, dtype=torch.int64, device=self.device)
        self.prices = Prices.of(prices, self.device)
        self._element = triton_kernels.ELEMENTS[self.gradients[0].dtype]

    @property
    def numel(self) -> int:
        """Number of coordinates of all tensors."""
        return sum(self.sizes)

    def words_of(self, number: int) -> Tensor:
        """The mask of a tensor, int32: coordinate i is bit i % 32 of word i // 32."""
        first = self.layout.firsts[number] * BLOCK // WORD_BITS
        return self.words[first : first + 2 * -(-self.sizes[number] // (2 * WORD_BITS))]

    def proposed(self, limits: Limits, known: Bracket, samples: int, draw: int) -> Bracket:
        """Where a sample puts the threshold; ``samples`` were taken before."""
        if limits.units is None and limits.count is None:
            return Bracket(least=known.least, most=known.least)
        size = min(max(self.numel // SAMPLE_SHARE, 1), SAMPLE) << samples
        runs = runs_of(self.sizes, self.device, size, draw)
        magnitudes = self._new((runs.tensors.numel(), RUN), torch.float32)
        programs = -(-magnitudes.numel() // SAMPLED_PER_PROGRAM)
        triton_kernels.sample[(programs,)](
            self._addresses,
            self.layout.numels,
            runs.tensors,
            runs.begins,
            magnitudes,
            magnitudes.numel(),
            element=self._element,
            run=RUN,
            sampled=SAMPLED_PER_PROGRAM,
        )
        power = {SQUARE_PER_JOULE: -0.5, MAGNITUDE_PER_JOULE: -1.0}.get(self.kind, 0.0)
        scales = (self.prices.on_device**power).to(torch.float32)[runs.tensors]
        sampled = Sample(
            values=magnitudes * scales[:, None],
            scores_at=lambda at: self._scores(magnitudes.reshape(-1)[at], runs.tensors[at // RUN]),
            joules=runs.weights * self.prices.on_device[runs.tensors],
            numbers=runs.weights,
            unread=runs.unread,
        )
        return bracket_of(sampled, limits, known, DEVIATIONS + 2.0 * samples)

    def scan(self, least: float, most: float, *, room: int) -> GpuPass:
        """Write the mask of all scores above ``most``, and another of those from ``least`` on."""
        layout, blocks = self.layout, self.layout.blocks
        keys = [
            _lowest_key(self.kind, price, score, beyond)
            for price in self.prices.joules.tolist()
            for score, beyond in ((least, False), (most, True))
        ]
        absolute = self.kind == MAGNITUDE_PER_JOULE
        inside_words = torch.empty_like(self.words)
        counts = self._new((3, blocks), torch.int32)
        sums = self._new((3 if absolute else 2, blocks), torch.float64)
        triton_kernels.classify[(blocks,)](
            self._addresses,
            layout.numels,
            torch.tensor(keys, dtype=torch.int32, device=self.device),
            layout.tensors,
            layout.first_blocks,
            self.words,
            inside_words,
            counts,
            sums,
            blocks,
            element=self._element,
            absolute=absolute,
            block=BLOCK,
            num_warps=triton_kernels.WARPS,
        )
        ends = counts.cumsum(1, dtype=torch.int64)
        at_ends = ends[:, layout.first_blocks[1:] - 1]
        # Together, so that the host waits once.
        found = torch.cat([at_ends.reshape(-1), sums.sum(1).view(torch.int64)]).cpu().numpy()
        kept, inside, wrong = np.diff(found[: at_ends.numel()].reshape(3, -1), prepend=0)
        total, squared, *magnitudes = found[at_ends.numel() :].view(np.float64).tolist()
        return GpuPass(
            kept_by_tensor=tuple(kept.tolist()),
            inside=tuple(inside.tolist()),
            wrong=tuple(wrong.tolist()),
            total_squared=total,
            squared=squared,
            absolute=sum(magnitudes),
            kept_units=self.prices.units_of(kept),
            listed=int(inside.sum()) <= room,
            counts=counts[1],
            ends=ends[1],
            inside_words=inside_words,
        )

    def resolved(self, limits: Limits, result: GpuPass, passes: int) -> Found:
        """Keep what is affordable of a list."""
        counts = np.zeros(len(self.sizes), dtype=np.int64)
        if not any(result.inside):
            return self._found(result, counts, result.kept_units, 0.0, 0.0, None, passes)
        ranked = self._ranked(result)
        end = end_of(ranked, self.prices, limits, result.inside, result.kept_units, result.kept)
        slots = ranked.slots[: end.length]
        # Each bit is added once, to a word that lacks it.
        bits = (torch.ones_like(slots) << slots % WORD_BITS).to(torch.int32)
        self.words.index_add_(0, slots // WORD_BITS, bits)
        magnitudes = ranked.magnitudes[: end.length].to(torch.float64)
        squared, absolute = torch.stack([magnitudes.square().sum(), magnitudes.sum()]).tolist()
        return self._found(result, end.counts, end.units, squared, absolute, end.threshold, passes)

    def ties_resolved(self, limits: Limits, result: GpuPass, score: float, passes: int) -> Found:
        """Keep what is affordable of many coordinates with one score, in the order of their index."""
        units, count = result.kept_units, result.kept
        counts = np.zeros(len(self.sizes), dtype=np.int64)
        squared = absolute = 0.0
        threshold: float | None = None
        for number, tied in enumerate(result.inside):
            if not tied or threshold is not None:
                continue
            room = tied if limits.units is None else (limits.units - units) // self.prices.units[number]
            taken = min(tied, room, tied if limits.count is None else limits.count - count)
            if taken:
                added = self._keep_first(number, result, taken)
                squared, absolute = squared + added[0], absolute + added[1]
            counts[number] = taken
            units, count = units + taken * self.prices.units[number], count + taken
            threshold = score if taken < tied else None
        return self._found(result, counts, units, squared, absolute, threshold, passes)

    def cheapest_j(self) -> float | None:
        """Joules of the cheapest coordinate that is not zero; None if all are."""
        priced = zip(self.gradients, self.prices.joules.tolist(), strict=True)
        return min((price for gradient, price in priced if gradient.any()), default=None)

    def _new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.device)

    def _ranked(self, result: GpuPass) -> Ranked:
        """List what is inside and sort it; the list is in the order of the index, and the sort is stable."""
        total = sum(result.inside)
        slots, magnitudes = self._new((total,), torch.int64), self._new((total,), torch.float32)
        triton_kernels.list_inside[(self.layout.blocks,)](
            self._addresses,
            self.layout.tensors,
            self.layout.first_blocks,
            result.inside_words,
            result.ends,
            result.counts,
            slots,
            magnitudes,
            element=self._element,
            block=BLOCK,
            num_warps=triton_kernels.WARPS,
        )
        tensors = self.layout.tensors[slots // BLOCK]
        scores, order = torch.sort(self._scores(magnitudes, tensors), descending=True, stable=True)
        return Ranked(scores=scores, slots=slots[order], magnitudes=magnitudes[order], tensors=tensors[order])

    def _scores(self, magnitudes: Tensor, tensors: Tensor) -> Tensor:
        """As ``scores.score_of`` has them, bit for bit."""
        wide = magnitudes.to(torch.float64)
        if self.kind == SQUARE_PER_JOULE:
            return wide * wide / self.prices.on_device[tensors]
        return wide / self.prices.on_device[tensors] if self.kind == MAGNITUDE_PER_JOULE else wide

    def _keep_first(self, number: int, result: GpuPass, taken: int) -> tuple[float, float]:
        """Keep the first so many of what is inside in one tensor; Σ g² and Σ |g| of these."""
        first, stop = self.layout.firsts[number], self.layout.firsts[number + 1]
        words = result.inside_words.view(-1, BLOCK // WORD_BITS)[first:stop]
        ends = result.ends[first:stop]
        before = int(ends[0]) - int(result.counts[first])
        last = int(torch.searchsorted(ends, before + taken))
        words[last + 1 :] = 0
        in_last = taken - (int(ends[last]) - before - int(result.counts[first + last]))
        words[last] = _first_bits(words[last], in_last)
        self.words.view(-1, BLOCK // WORD_BITS)[first:stop] |= words
        gradient = self.gradients[number]
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


def _aligned(flat: Tensor) -> Tensor:
    """A tensor that can be read 16 bytes at a time, copied if it must be."""
    flat = flat.contiguous()
    return flat if flat.data_ptr() % 16 == 0 else flat.clone()
