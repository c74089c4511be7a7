"""An update where it lives on a GPU: its tensors, their prices, the mask to be made, and the pass over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection.bracket import Bracket
from cwmp.selection.gpu import sheet as gpu_sheet
from cwmp.selection.gpu import triton_kernels, triton_sample
from cwmp.selection.gpu.layout import BLOCK, GROUP, WORD_BITS, layout_of
from cwmp.selection.gpu.listed import Prices
from cwmp.selection.gpu.sheet import Sheet, bits_of, in_shares, share_of
from cwmp.selection.limits import Limits
from cwmp.selection.rules import MAGNITUDE_PER_JOULE

TENSORS_PER_PROGRAM: int = triton_sample.TENSORS_AT_ONCE.value


@dataclass(frozen=True, kw_only=True, eq=False)
class Classified:
    """What a pass wrote on the device, by block.

    Attributes:
        counts: above the bracket, inside it, not finite; int32, shape (3, blocks).
        sums: Σ g² of all, Σ g² and perhaps Σ |g| above the bracket; float64, shape (2 or 3, blocks).
        inside_words: mask of what is inside it.
    """

    counts: Tensor
    sums: Tensor
    inside_words: Tensor


class GpuUpdate:
    """Gradients on one device; the mask of them is one long array of words.

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
        self.numel = sum(self.sizes)
        self.layout = layout_of(self.sizes, self.device)
        self.words = self.new((self.layout.blocks * BLOCK // WORD_BITS,), torch.int32)
        self.prices = Prices.of(prices, self.device)
        self.element = triton_kernels.ELEMENTS[self.gradients[0].dtype]
        self.columns = 3 if kind == MAGNITUDE_PER_JOULE else 2
        self.sheet = Sheet(tensors=len(self.sizes), programs=-(-self.layout.blocks // GROUP))

    def words_of(self, number: int) -> Tensor:
        """The mask of a tensor, int32: coordinate i is bit i % 32 of word i // 32."""
        first = self.layout.firsts[number] * BLOCK // WORD_BITS
        return self.words[first : first + 2 * -(-self.sizes[number] // (2 * WORD_BITS))]

    def cheapest_j(self) -> float | None:
        """Joules of the cheapest coordinate that is not zero; None if all are."""
        priced = zip(self.gradients, self.prices.joules.tolist(), strict=True)
        return min((price for gradient, price in priced if gradient.any()), default=None)

    def new(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory on the device, as it is."""
        return torch.empty(shape, dtype=dtype, device=self.device)

    def filled_in(
        self, limits: Limits, known: Bracket, weights: NDArray[np.float64] | None = None
    ) -> gpu_sheet.Integers:
        """A sheet with everything that is given.

        Args:
            limits: of joules; of coordinates only where there is none of joules.
            known: where the threshold must lie.
            weights: number of coordinates that one in the sample stands for, by tensor.
        """
        amounts, limit = np.ones(len(self.sizes)), 2.0 * self.numel
        if limits.units is not None:
            amounts, limit = self.prices.joules, limits.budget_j
        elif limits.count is not None:
            limit = float(limits.count)
        total = float(amounts @ np.array(self.sizes))
        numbers, sheet = self.sheet.blank(), self.sheet
        numbers[gpu_sheet.LIMIT] = share_of(limit, total)
        numbers[gpu_sheet.KNOWN_LEAST] = bits_of(known.least)
        numbers[gpu_sheet.KNOWN_MOST] = bits_of(known.most)
        sheet.row(numbers, gpu_sheet.ADDRESS)[:] = [gradient.data_ptr() for gradient in self.gradients]
        sheet.row(numbers, gpu_sheet.PRICE)[:] = self.prices.joules.view(np.int64)
        sheet.row(numbers, gpu_sheet.SHARE)[:] = in_shares(amounts, total)
        if weights is not None:
            sheet.row(numbers, gpu_sheet.SAMPLE_SHARE)[:] = in_shares(amounts * weights, total)
        return numbers

    def keys_of_known(self, sheet: Tensor) -> None:
        """Let what is known be what is expected."""
        triton_sample.bracket[(-(-len(self.sizes) // TENSORS_PER_PROGRAM),)](
            sheet,
            sheet,
            sheet,
            0.0,
            0.0,
            len(self.sizes),
            0,
            kind=self.kind,
            of_sample=False,
            few_runs=0,
            programs_at_once=1,
        )

    def classified(self, sheet: Tensor) -> Classified:
        """One pass: masks of what scores above and inside what is expected; the sheet has the keys."""
        layout, blocks = self.layout, self.layout.blocks
        found = Classified(
            counts=self.new((3, blocks), torch.int32),
            sums=self.new((self.columns, blocks), torch.float64),
            inside_words=torch.empty_like(self.words),
        )
        triton_kernels.classify[(blocks,)](
            sheet,
            layout.numels,
            layout.tensors,
            layout.first_blocks,
            self.words,
            found.inside_words,
            found.counts,
            found.sums,
            blocks,
            len(self.sizes),
            element=self.element,
            absolute=self.columns == 3,
            block=BLOCK,
            num_warps=triton_kernels.WARPS,
        )
        return found


def _aligned(flat: Tensor) -> Tensor:
    """A tensor that can be read 16 bytes at a time, copied if it must be."""
    flat = flat.contiguous()
    return flat if flat.data_ptr() % 16 == 0 else flat.clone()
