"""The phase after backprop as kernels with exact counts: what is kept is drawn, and counted as it fell.

    sparse-update   w[i] −= η·g of the kept coordinates of a tensor          random lines, some shared
    compaction      |g| ≥ t → the pair (g, i) into a buffer, and read back   a scan and a packed stream

Both walk over chunks of one tensor of single precision. Each chunk keeps the same number of coordinates, at
places drawn once, so that a list of them stays in the first level and what they touch can be counted: whole
lines, and rows of DRAM that they open, as a cost vector charges them.
"""

from __future__ import annotations

import functools
import math
import random
from typing import Literal, get_args

from calibration_data import MemoryHierarchy, Work

SparseKernel = Literal["sparse-update", "compaction"]

SPARSE_KERNELS: tuple[SparseKernel, ...] = get_args(SparseKernel)

DENSITIES = (0.01, 0.1, 1.0)

KEPT = 256
"""Coordinates kept of each chunk: their list and the lines that they touch fit in a first level."""

PART_BYTES = 12_800
"""After so much of a chunk ``compaction`` reads back what it packed, before that leaves the first level."""

FLOAT_BYTES, PAIR_BYTES = 4, 8
"""A coordinate, and a value with its index."""

UPDATE_FLOP = 2
"""w −= η·g: a product and a difference."""


def row_bytes(memory: MemoryHierarchy) -> int:
    """Bytes of a DRAM row, which one activation opens.

    8 KiB for a rank of eight x8 DDR4 chips with pages of 1 KiB (JESD79-4); 1 KiB for HBM2 (O'Connor et al.,
    MICRO'17), told by its transfers of 32 B.
    """
    return 1024 if memory.line_bytes <= 32 else 8192


def chunk_size(density: float) -> int:
    """Coordinates of a chunk."""
    return round(KEPT / density)


def chunk_parts(density: float) -> int:
    """Parts of a chunk after each of which ``compaction`` reads back."""
    return -(-FLOAT_BYTES * chunk_size(density) // PART_BYTES)


@functools.cache
def kept_places(density: float) -> tuple[int, ...]:
    """Which coordinates of each chunk are kept, in growing order."""
    return tuple(sorted(random.Random(f"kept/{density}").sample(range(chunk_size(density)), KEPT)))


def period_bytes(density: float, memory: MemoryHierarchy) -> int:
    """Bytes after which chunks and DRAM rows begin together again."""
    return math.lcm(FLOAT_BYTES * chunk_size(density), row_bytes(memory))


def touched_groups(density: float, group_bytes: int, period: int) -> int:
    """Groups of so many bytes with a kept coordinate in them, within so many bytes of whole chunks."""
    chunk = FLOAT_BYTES * chunk_size(density)
    places = kept_places(density)
    starts = range(0, period, chunk)
    return len({(start + FLOAT_BYTES * place) // group_bytes for start in starts for place in places})


def ring_chunks(density: float, memory: MemoryHierarchy) -> int | None:
    """Chunks whose pairs the buffer of ``compaction`` holds; None where it would lie between two levels.

    Until a line of the buffer is written again, at least twice the first level has passed and at most half
    of the core's part of the second: each of its lines comes from there and goes back there.
    """
    private = memory.llc_bytes is not None
    second = memory.l2_bytes if private else memory.l2_bytes // memory.cores
    low, high = 2 * memory.l1_bytes, second // 2
    step = FLOAT_BYTES * chunk_size(density) + KEPT * PAIR_BYTES
    chunks = max(1, round(math.sqrt(low * high) / step))
    return chunks if low <= chunks * step <= high else None


def update_amounts(density: float, size: int, memory: MemoryHierarchy) -> tuple[int, int, int, int]:
    """FLOP, bytes at the core, bytes of whole lines, and DRAM rows of one pass of ``sparse-update``.

    Each kept coordinate loads its index, its gradient and its weight, and stores the weight.
    """
    period = period_bytes(density, memory)
    periods = size // period
    kept = KEPT * size // (FLOAT_BYTES * chunk_size(density))
    lines = touched_groups(density, memory.line_bytes, period) * periods
    rows = touched_groups(density, row_bytes(memory), period) * periods
    return UPDATE_FLOP * kept, (PAIR_BYTES + 2 * FLOAT_BYTES) * kept, lines * memory.line_bytes, rows


def compaction_pairs(density: float, size: int) -> Work:
    """What the kept pairs of one pass add to the scan: written to the buffer and read back from it.

    A line of the buffer comes from the second level and goes back there; reading it back finds it in the
    first. Values are added up as they are read back.
    """
    kept = KEPT * size // (FLOAT_BYTES * chunk_size(density))
    moved = 2 * PAIR_BYTES * kept
    return Work({"flop_fp32": kept, "byte_l1": moved, "byte_l2": moved})
