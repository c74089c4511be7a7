"""Passes over an update on a GPU, in Triton; imported only where Triton is, and only this file imports it.

One program reads BLOCK neighbours of one tensor; which, two small tables tell. A magnitude is compared as an
integer, which orders non-negative float32 as they are; bfloat16 and float16 become float32 first, exactly.
Nothing is appended by chance: what lies inside the bracket gets a mask of its own and a count per block, and
the running sum of these says where each block lists its coordinates: lists are in the order of the index.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ELEMENTS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Formats that are read; float64 has no place in a float32."""

WARPS = 8
"""Of a program that reads a block: 16 coordinates per thread, which stay in its registers."""

LARGEST_KEY = tl.constexpr(0x7F7FFFFF)
"""Of the largest finite float32."""


@triton.jit
def magnitude_at(start: tl.tensor, place: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """|g| in float32."""
    return tl.abs(tl.load(start + place, mask=mask, other=0.0).to(tl.float32))


@triton.jit(do_not_specialize=["blocks"])
def classify(
    addresses: tl.tensor,
    numels: tl.tensor,
    keys: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    kept_words: tl.tensor,
    inside_words: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    blocks: tl.tensor,
    element: tl.constexpr,
    absolute: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Masks of what lies above and inside a bracket, and by block their numbers and sums.

    ``keys`` holds two per tensor: of the lowest magnitude inside, and of the lowest above. ``counts`` has
    three rows of ``blocks``: kept, inside, not finite; ``sums`` Σ g² of all, Σ g² and Σ |g| of the kept.
    """
    number = tl.program_id(0)
    tensor = tl.load(tensors + number)
    begin = (number - tl.load(first_blocks + tensor)).to(tl.int64) * block
    start = tl.load(addresses + tensor).to(tl.pointer_type(element)) + begin
    start = tl.multiple_of(start, 16)
    left = tl.load(numels + tensor) - begin
    low, high = tl.load(keys + 2 * tensor), tl.load(keys + 2 * tensor + 1)
    word = tl.arange(0, block // 32)
    bit = tl.arange(0, 32)
    place = word[:, None] * 32 + bit[None, :]
    # Without a mask 16 bytes are read at a time.
    if left >= block:
        magnitude = tl.abs(tl.load(start + place).to(tl.float32))
    else:
        magnitude = magnitude_at(start, place, place < left)
    key = magnitude.to(tl.int32, bitcast=True)
    finite = key <= LARGEST_KEY
    kept = (key >= high) & finite
    inside = (key >= low) & (key < high) & finite
    target = number.to(tl.int64) * (block // 32) + word
    tl.store(kept_words + target, tl.sum(kept.to(tl.int32) << bit[None, :], 1))
    tl.store(inside_words + target, tl.sum(inside.to(tl.int32) << bit[None, :], 1))
    tl.store(counts + number, tl.sum(kept.to(tl.int32)))
    tl.store(counts + blocks + number, tl.sum(inside.to(tl.int32)))
    tl.store(counts + 2 * blocks + number, tl.sum(1 - finite.to(tl.int32)))
    wide = tl.where(finite, magnitude, 0.0).to(tl.float64)
    square = wide * wide
    tl.store(sums + number, tl.sum(square))
    tl.store(sums + blocks + number, tl.sum(tl.where(kept, square, 0.0)))
    if absolute:
        tl.store(sums + 2 * blocks + number, tl.sum(tl.where(kept, wide, 0.0)))


@triton.jit
def list_inside(
    addresses: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    inside_words: tl.tensor,
    ends: tl.tensor,
    counts: tl.tensor,
    slots: tl.tensor,
    magnitudes: tl.tensor,
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
        start = tl.load(addresses + tensor).to(tl.pointer_type(element)) + begin
        place = tl.arange(0, block)
        slot = number.to(tl.int64) * block + place
        inside = (tl.load(inside_words + slot // 32) >> (place % 32)) & 1
        target = tl.load(ends + number) - count + tl.cumsum(inside, 0) - inside
        listed = inside == 1
        tl.store(slots + target, slot, mask=listed)
        tl.store(magnitudes + target, magnitude_at(start, place, listed), mask=listed)


@triton.jit(do_not_specialize=["size"])
def sample(
    addresses: tl.tensor,
    numels: tl.tensor,
    run_tensors: tl.tensor,
    run_begins: tl.tensor,
    magnitudes: tl.tensor,
    size: tl.tensor,
    element: tl.constexpr,
    run: tl.constexpr,
    sampled: tl.constexpr,
) -> None:
    """|g| of runs of neighbours; 0 for what is not finite."""
    place = tl.program_id(0) * sampled + tl.arange(0, sampled)
    known = place < size
    tensor = tl.load(run_tensors + place // run, mask=known, other=0)
    begin = tl.load(run_begins + place // run, mask=known, other=0)
    start = tl.load(addresses + tensor).to(tl.pointer_type(element))
    begin += place % run
    known &= begin < tl.load(numels + tensor)
    magnitude = magnitude_at(start, begin, known)
    finite = magnitude.to(tl.int32, bitcast=True) <= LARGEST_KEY
    tl.store(magnitudes + place, tl.where(finite, magnitude, 0.0), mask=place < size)
