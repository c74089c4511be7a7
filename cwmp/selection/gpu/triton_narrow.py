"""What lies inside a bracket, narrowed down to a few around the end of the budget: kernels.

    gather   the mask of the inside becomes a list of places by program
    bins     shares of what is listed, by score (or, of one score, by place), and of what is surely kept
    end      the bin in which the limit ends
    settle   above that bin: kept; in it: the few, whom the host resolves exactly
    finish   what the host kept of the few

One program lists and reads GROUP blocks, so what it adds up does not depend on chance. Atomic operations are
relaxed: what they write is read by a later kernel.
"""

from __future__ import annotations

import triton
import triton.language as tl

from cwmp.selection.gpu.triton_sheet import (
    ADDRESS,
    BIN,
    BINS,
    BY_SLOT,
    FEW,
    FEW_FOUND,
    FULL,
    HIGH,
    INSIDE,
    KEPT,
    LIMIT,
    LOW,
    OCTAVES,
    ROW_COUNT,
    ROWS,
    SETTLED,
    SHARE,
    SHIFT,
    SPENT,
    WRONG,
    Fixed,
    magnitude_at,
    ones_in,
    price_of,
    row_at,
    score_bits,
    spent_from,
)

LISTED_AT_ONCE = Fixed(256)
WORD_BITS = Fixed(64)


@triton.jit(do_not_specialize=["blocks"])
def gather(
    sheet: tl.tensor,
    inside_words: tl.tensor,
    places: tl.tensor,
    counts: tl.tensor,
    blocks: tl.tensor,
    block: tl.constexpr,
    group: tl.constexpr,
    room: tl.constexpr,
) -> None:
    """Places, in the blocks of a program, of what is inside; each lane takes the lowest bit of its word.

    ``inside_words`` are of 64 bits, ``places`` have ``room`` for each program, ``counts`` their numbers.
    """
    words: tl.constexpr = group * block // WORD_BITS
    word = tl.arange(0, words)
    number = tl.program_id(0).to(tl.int64) * words + word
    left = tl.load(inside_words + number, mask=number < blocks.to(tl.int64) * (block // WORD_BITS), other=0)
    ones = ones_in(left.to(tl.int32)) + ones_in((left >> 32).to(tl.int32))
    total = tl.sum(ones)
    if total > room:
        tl.atomic_add(sheet + FULL, tl.full((), 1, tl.int64), sem="relaxed")
        left = left * 0
        total = total * 0
    tl.store(counts + tl.program_id(0), total)
    target = places + tl.program_id(0).to(tl.int64) * room + tl.cumsum(ones, 0) - ones
    while tl.max((left != 0).to(tl.int32)) > 0:
        bit = left & -left
        # The place of a single bit is the exponent of it as a float.
        exponent = (bit.to(tl.float32).to(tl.int32, bitcast=True) >> 23) & 0xFF
        tl.store(target, word * WORD_BITS + exponent - 127, mask=left != 0)
        target += 1
        left = left ^ bit


@triton.jit
def _bin_of(sheet: tl.tensor, bits: tl.tensor, slot: tl.tensor, slots: tl.tensor) -> tl.tensor:
    """The bin of what lies between the ends of the bins."""
    value = bits - tl.load(sheet + LOW)
    if tl.load(sheet + BY_SLOT) != 0:
        value = slots - 1 - slot
    return value >> tl.load(sheet + SHIFT)


@triton.jit
def _bit_of(slot: tl.tensor) -> tl.tensor:
    """The bit of a slot in its word of 32."""
    return tl.full(slot.shape, 1, tl.int32) << (slot % 32).to(tl.int32)


@triton.jit
def _add_by_tensor(row: tl.tensor, tensor: tl.tensor, amounts: tl.tensor, known: tl.tensor) -> None:
    """Add amounts to a row; at once where all are of one tensor."""
    first = tl.min(tl.where(known, tensor, 0x7FFFFFFF))
    if first == tl.max(tl.where(known, tensor, 0)):
        tl.atomic_add(row + first, tl.sum(amounts), sem="relaxed")
    else:
        tl.atomic_add(row + tensor, amounts, mask=known & (amounts > 0), sem="relaxed")


@triton.jit
def _listed(
    sheet: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    places: tl.tensor,
    at: tl.tensor,
    count: tl.tensor,
    tensor_count: tl.tensor,
    kind: tl.constexpr,
    element: tl.constexpr,
    block: tl.constexpr,
    group: tl.constexpr,
    room: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor, tl.tensor, tl.tensor]:
    """Some of a program's list: which there are, their tensors, slots in the mask, |g| and bits of scores."""
    entry = at + tl.arange(0, LISTED_AT_ONCE)
    there = entry < count
    place = tl.load(places + tl.program_id(0).to(tl.int64) * room + entry, mask=there, other=0)
    slot = tl.program_id(0).to(tl.int64) * (group * block) + place
    tensor = tl.load(tensors + slot // block, mask=there, other=0)
    start = tl.load(row_at(sheet, ADDRESS, tensor_count, tensor)).to(tl.pointer_type(element))
    begin = slot - tl.load(first_blocks + tensor) * block
    magnitude = magnitude_at(start, begin, there)
    bits = score_bits(magnitude, price_of(sheet, tensor_count, tensor, there), kind)
    return there, tensor, slot, magnitude, bits


@triton.jit(do_not_specialize=["blocks", "tensor_count"])
def bins(
    sheet: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    places: tl.tensor,
    listed: tl.tensor,
    counts: tl.tensor,
    sums: tl.tensor,
    blocks: tl.tensor,
    tensor_count: tl.tensor,
    kind: tl.constexpr,
    element: tl.constexpr,
    columns: tl.constexpr,
    block: tl.constexpr,
    group: tl.constexpr,
    room: tl.constexpr,
) -> None:
    """Shares by bin, and what the blocks counted and added up, by tensor and by program."""
    own = tl.program_id(0) * group + tl.arange(0, group)
    own_known = own < blocks
    own_tensor = tl.load(tensors + own, mask=own_known, other=0)
    kept = tl.load(counts + own, mask=own_known, other=0).to(tl.int64)
    inside = tl.load(counts + blocks + own, mask=own_known, other=0).to(tl.int64)
    wrong = tl.load(counts + 2 * blocks + own, mask=own_known, other=0).to(tl.int64)
    _add_by_tensor(row_at(sheet, KEPT, tensor_count, 0), own_tensor, kept, own_known)
    _add_by_tensor(row_at(sheet, INSIDE, tensor_count, 0), own_tensor, inside, own_known)
    _add_by_tensor(row_at(sheet, WRONG, tensor_count, 0), own_tensor, wrong, own_known)
    spent = tl.sum(kept * tl.load(row_at(sheet, SHARE, tensor_count, own_tensor)))
    target = sheet + ROWS + ROW_COUNT * tensor_count + 2 * FEW + tl.program_id(0)
    for column in tl.static_range(3):
        # A column that was not added up has no row.
        total = tl.sum(tl.load(sums + column * blocks + own, mask=own_known & (column < columns), other=0.0))
        tl.store(target + column * tl.num_programs(0), total.to(tl.int64, bitcast=True))
    low, high = tl.load(sheet + LOW), tl.load(sheet + HIGH)
    above = tl.zeros((LISTED_AT_ONCE,), tl.int64)
    count = tl.load(listed + tl.program_id(0))
    for at in range(0, count, LISTED_AT_ONCE):
        there, tensor, slot, _, bits = _listed(
            sheet, tensors, first_blocks, places, at, count, tensor_count, kind, element, block, group, room
        )
        share = tl.load(row_at(sheet, SHARE, tensor_count, tensor))
        between = there & (bits >= low) & (bits < high)
        bin_ = _bin_of(sheet, bits, slot, blocks.to(tl.int64) * block)
        tl.atomic_add(sheet + OCTAVES + BINS + bin_, share, mask=between, sem="relaxed")
        above += tl.where(there & (bits >= high), share, 0)
    tl.atomic_add(sheet + SPENT, spent + tl.sum(above), sem="relaxed")


@triton.jit
def end(sheet: tl.tensor) -> None:
    """The highest bin whose shares, with all above, are beyond the limit; the lowest if none is."""
    spent = spent_from(sheet + OCTAVES + BINS, tl.load(sheet + SPENT), BINS)
    beyond = spent > tl.load(sheet + LIMIT)
    tl.store(sheet + BIN, tl.max(tl.where(beyond, tl.arange(0, BINS), 0)).to(tl.int64))


@triton.jit(do_not_specialize=["blocks", "tensor_count"])
def settle(
    sheet: tl.tensor,
    tensors: tl.tensor,
    first_blocks: tl.tensor,
    places: tl.tensor,
    listed: tl.tensor,
    words: tl.tensor,
    blocks: tl.tensor,
    tensor_count: tl.tensor,
    kind: tl.constexpr,
    element: tl.constexpr,
    block: tl.constexpr,
    group: tl.constexpr,
    room: tl.constexpr,
) -> None:
    """Keep what lies above the bin of the end, and write down what lies in it."""
    low, high, edge = tl.load(sheet + LOW), tl.load(sheet + HIGH), tl.load(sheet + BIN)
    few = sheet + ROWS + ROW_COUNT * tensor_count
    squared = tl.zeros((LISTED_AT_ONCE,), tl.float64)
    absolute = tl.zeros((LISTED_AT_ONCE,), tl.float64)
    count = tl.load(listed + tl.program_id(0))
    for at in range(0, count, LISTED_AT_ONCE):
        there, tensor, slot, magnitude, bits = _listed(
            sheet, tensors, first_blocks, places, at, count, tensor_count, kind, element, block, group, room
        )
        between = there & (bits >= low) & (bits < high)
        bin_ = _bin_of(sheet, bits, slot, blocks.to(tl.int64) * block)
        kept = there & ((bits >= high) | (between & (bin_ > edge)))
        tl.atomic_or(words + slot // 32, _bit_of(slot), mask=kept, sem="relaxed")
        _add_by_tensor(row_at(sheet, SETTLED, tensor_count, 0), tensor, kept.to(tl.int64), there)
        wide = tl.where(kept, magnitude, 0.0).to(tl.float64)
        squared += wide * wide
        absolute += wide
        chosen = between & (bin_ == edge)
        order = tl.atomic_add(sheet + FEW_FOUND + 0 * slot, chosen.to(tl.int64), mask=chosen, sem="relaxed")
        tl.store(few + order, slot, mask=chosen & (order < FEW))
        key = magnitude.to(tl.int32, bitcast=True).to(tl.int64)
        tl.store(few + FEW + order, key, mask=chosen & (order < FEW))
    target = few + 2 * FEW + 3 * tl.num_programs(0) + tl.program_id(0)
    tl.store(target, tl.sum(squared).to(tl.int64, bitcast=True))
    tl.store(target + tl.num_programs(0), tl.sum(absolute).to(tl.int64, bitcast=True))


@triton.jit(do_not_specialize=["count"])
def finish(words: tl.tensor, slots: tl.tensor, count: tl.tensor) -> None:
    """Keep those of the few that the host resolved to keep."""
    place = tl.arange(0, FEW)
    slot = tl.load(slots + place, mask=place < count, other=0)
    tl.atomic_or(words + slot // 32, _bit_of(slot), mask=place < count, sem="relaxed")
