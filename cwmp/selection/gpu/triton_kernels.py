"""Passes over an update on a GPU, in Triton; only the ``triton_`` files import it, and only where it is.

One program reads BLOCK neighbours of one tensor; which, two small tables tell. A magnitude is compared as an
integer, which orders non-negative float32 as they are; bfloat16 and float16 become float32 first, exactly.
Nothing is appended by chance: what lies inside the bracket gets a mask of its own and a count per block, and
the running sum of these says where each block lists its coordinates: lists are in the order of the index.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from cwmp.selection.gpu.triton_sheet import (
    ADDRESS,
    HIGH_KEY,
    LARGEST_KEY,
    LOW_KEY,
    Fixed,
    magnitude_at,
    ones_in,
    row_at,
)

ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Formats that are read; float64 has no place in a float32."""

WARPS, LIST_WARPS = 4, 8
"""Of a program that reads a block. 32 coordinates per thread stay in its registers, and what is done once per
thread is a third of all instructions: with more warps the pass is held up by them rather than by memory."""

LEAST_SUM, MOST_SUM = Fixed(1e-24), Fixed(1e37)
"""Between them a sum of squares in float32 has lost nothing to its range."""


@triton.jit
def key_of(value: tl.tensor) -> tl.tensor:
    """|g| as an integer that orders float32 as they are."""
    return value.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def store_sums(
    target: tl.tensor, blocks: tl.tensor, magnitude: tl.tensor, kept: tl.tensor, absolute: tl.constexpr
) -> tl.tensor:
    """Σ g² of all, Σ g² and perhaps Σ |g| of the kept of one block; returns the first."""
    square = magnitude * magnitude
    total = tl.sum(square)
    tl.store(target, total.to(tl.float64))
    tl.store(target + blocks, tl.sum(tl.where(kept, square, 0.0)).to(tl.float64))
    if absolute:
        tl.store(target + 2 * blocks, tl.sum(tl.where(kept, magnitude, 0.0)).to(tl.float64))
    return total


@triton.jit(do_not_specialize=["blocks", "tensor_count"])
def classify(
    sheet: tl.tensor,
    numels: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    kept_words: tl.tensor,
    inside_words: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    blocks: tl.tensor,
    tensor_count: tl.tensor,
    element: tl.constexpr,
    absolute: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Masks of what lies above and inside a bracket, and by block their numbers and sums.

    ``counts`` has three rows of ``blocks``: kept, inside, not finite; ``sums`` Σ g² of all, Σ g² and Σ |g| of
    the kept.
    """
    number = tl.program_id(0)
    tensor = tl.load(tensors + number)
    begin = (number - tl.load(first_blocks + tensor)).to(tl.int64) * block
    start = tl.load(row_at(sheet, ADDRESS, tensor_count, tensor)).to(tl.pointer_type(element)) + begin
    start = tl.multiple_of(start, 16)
    left = tl.load(numels + tensor) - begin
    low = tl.load(row_at(sheet, LOW_KEY, tensor_count, tensor)).to(tl.int32)
    high = tl.load(row_at(sheet, HIGH_KEY, tensor_count, tensor)).to(tl.int32)
    word = tl.arange(0, block // 32)
    bit = tl.arange(0, 32)
    place = word[:, None] * 32 + bit[None, :]
    # Without a mask 16 bytes are read at a time.
    if left >= block:
        key = key_of(tl.load(start + place))
    else:
        key = key_of(tl.load(start + place, mask=place < left, other=0.0))
    wrong = 0
    if tl.max(key) > LARGEST_KEY:
        wrong = tl.sum((key > LARGEST_KEY).to(tl.int32))
        key = tl.where(key > LARGEST_KEY, 0, key)
    kept = key >= high
    mask = (tl.full((32,), 1, tl.int32) << bit)[None, :]
    kept_word = tl.sum(tl.where(kept, mask, 0), 1)
    inside_word = kept_word ^ tl.sum(tl.where(key >= low, mask, 0), 1)
    target = number.to(tl.int64) * (block // 32) + word
    tl.store(kept_words + target, kept_word)
    tl.store(inside_words + target, inside_word)
    # Two counts in one sum.
    both = tl.sum(ones_in(kept_word) + (ones_in(inside_word) << 16))
    tl.store(counts + number, both & 0xFFFF)
    tl.store(counts + blocks + number, both >> 16)
    tl.store(counts + 2 * blocks + number, wrong)
    # Squares of a block are summed in float32, and again where they may be too large or too small for it.
    magnitude = key.to(tl.float32, bitcast=True)
    total = store_sums(sums + number, blocks, magnitude, kept, absolute)
    if (total < LEAST_SUM) | (total > MOST_SUM):
        store_sums(sums + number, blocks, magnitude.to(tl.float64), kept, absolute)


@triton.jit(do_not_specialize=["tensor_count"])
def list_inside(
    sheet: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    inside_words: tl.tensor,
    ends: tl.tensor,
    counts: tl.tensor,
    slots: tl.tensor,
    magnitudes: tl.tensor,
    tensor_count: tl.tensor,
    element: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Bit of the mask and magnitude of what lies inside, in the order of the index.

    ``counts`` is of the inside by block, ``ends`` their running sum.
    """
    number = tl.program_id(0)
    count = tl.load(counts + number)
    if count:
        tensor = tl.load(tensors + number)
        begin = (number - tl.load(first_blocks + tensor)).to(tl.int64) * block
        start = tl.load(row_at(sheet, ADDRESS, tensor_count, tensor)).to(tl.pointer_type(element)) + begin
        place = tl.arange(0, block)
        slot = number.to(tl.int64) * block + place
        inside = (tl.load(inside_words + slot // 32) >> (place % 32)) & 1
        target = tl.load(ends + number) - count + tl.cumsum(inside, 0) - inside
        listed = inside == 1
        tl.store(slots + target, slot, mask=listed)
        tl.store(magnitudes + target, magnitude_at(start, place, listed), mask=listed)
