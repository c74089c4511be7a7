"""What Triton's kernels of the selection share: places of the sheet, and a score as the CPU has it."""

from __future__ import annotations

import triton
import triton.language as tl

from cwmp.selection.gpu import sheet as gpu_sheet
from cwmp.selection.prefix import FEW as FEW_COORDINATES
from cwmp.selection.rules import MAGNITUDE_PER_JOULE as PER_JOULE
from cwmp.selection.rules import SQUARE_PER_JOULE as SQUARES


class Fixed(tl.constexpr):  # type: ignore[misc]
    """A constant of kernels.

    Triton compares every global of a kernel with what it was, at every launch, and its own comparison of two
    constants makes a third: all together that took longer than everything else that the host does.
    """

    def __ne__(self, other: object) -> bool:
        return bool(self.value != getattr(other, "value", other))

    def __hash__(self) -> int:
        return hash(self.value)


OCTAVES, BINS = Fixed(gpu_sheet.OCTAVES), Fixed(gpu_sheet.BINS)
BIN_BITS = Fixed(gpu_sheet.BINS.bit_length() - 1)
SHARES = Fixed(float(gpu_sheet.SHARES))
LIMIT, LEAST, MOST = (
    Fixed(gpu_sheet.LIMIT),
    Fixed(gpu_sheet.LEAST),
    Fixed(gpu_sheet.MOST),
)
KNOWN_LEAST, KNOWN_MOST = Fixed(gpu_sheet.KNOWN_LEAST), Fixed(gpu_sheet.KNOWN_MOST)
LOW, HIGH, SHIFT = Fixed(gpu_sheet.LOW), Fixed(gpu_sheet.HIGH), Fixed(gpu_sheet.SHIFT)
BY_SLOT, BIN = Fixed(gpu_sheet.BY_SLOT), Fixed(gpu_sheet.BIN)
SPENT, FULL = Fixed(gpu_sheet.SPENT), Fixed(gpu_sheet.FULL)
FEW_FOUND = Fixed(gpu_sheet.FEW_FOUND)
SAMPLE_LOW, SAMPLE_ABOVE = Fixed(gpu_sheet.SAMPLE_LOW), Fixed(gpu_sheet.SAMPLE_ABOVE)
ROWS, ROW_COUNT = Fixed(gpu_sheet.ROWS), Fixed(gpu_sheet.ROW_COUNT)
ADDRESS, PRICE = Fixed(gpu_sheet.ADDRESS), Fixed(gpu_sheet.PRICE)
SHARE, SAMPLE_SHARE = Fixed(gpu_sheet.SHARE), Fixed(gpu_sheet.SAMPLE_SHARE)
LOW_KEY, HIGH_KEY = Fixed(gpu_sheet.LOW_KEY), Fixed(gpu_sheet.HIGH_KEY)
KEPT, WRONG = Fixed(gpu_sheet.KEPT), Fixed(gpu_sheet.WRONG)
INSIDE, SETTLED = Fixed(gpu_sheet.INSIDE), Fixed(gpu_sheet.SETTLED)
FEW = Fixed(FEW_COORDINATES)
SQUARE_PER_JOULE, MAGNITUDE_PER_JOULE = Fixed(SQUARES), Fixed(PER_JOULE)

LARGEST_KEY = Fixed(0x7F7FFFFF)
"""Of the largest finite float32, as an integer."""
INFINITE = Fixed(0x7FF0000000000000)
"""Bits of an infinite score."""


@triton.jit
def row_at(sheet: tl.tensor, row: tl.constexpr, tensors: tl.tensor, tensor: tl.tensor) -> tl.tensor:
    """Where a row has the number of a tensor."""
    return sheet + ROWS + row * tensors + tensor


@triton.jit
def magnitude_at(start: tl.tensor, place: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """|g| in float32."""
    return tl.abs(tl.load(start + place, mask=mask, other=0.0).to(tl.float32))


@triton.jit
def ones_in(word: tl.tensor) -> tl.tensor:
    """Bits of words of 32 that are set (Warren, Hacker's Delight, 2012, section 5-1)."""
    ones = word.to(tl.uint32, bitcast=True)
    ones = ones - ((ones >> 1) & 0x55555555)
    ones = (ones & 0x33333333) + ((ones >> 2) & 0x33333333)
    ones = (ones + (ones >> 4)) & 0x0F0F0F0F
    return ((ones * 0x01010101) >> 24).to(tl.int32)


@triton.jit
def score_bits(magnitude: tl.tensor, price: tl.tensor, kind: tl.constexpr) -> tl.tensor:
    """As ``scores.score_of`` has it, bit for bit: division of float64 is rounded as IEEE 754 has it."""
    wide = magnitude.to(tl.float64)
    if kind == SQUARE_PER_JOULE:
        wide = wide * wide / price
    elif kind == MAGNITUDE_PER_JOULE:
        wide = wide / price
    return wide.to(tl.int64, bitcast=True)


@triton.jit
def price_of(sheet: tl.tensor, tensors: tl.tensor, tensor: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """Joules of one coordinate of a tensor; 1 where masked."""
    bits = tl.load(row_at(sheet, PRICE, tensors, tensor), mask=mask, other=0x3FF0000000000000)
    return bits.to(tl.float64, bitcast=True)


@triton.jit
def spent_from(start: tl.tensor, above: tl.tensor, size: tl.constexpr) -> tl.tensor:
    """Shares of each bin and of all that lies above it, shape (size,)."""
    bins = tl.load(start + tl.arange(0, size))
    return above + tl.sum(bins) - tl.cumsum(bins, 0) + bins
