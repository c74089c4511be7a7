"""Exact work of the phase after backprop, per tensor: scan, then pack and apply what is kept.

    scan    read every gradient once and compare it; three kernel launches (select, pack, apply)
    pack    write each kept (value, index) pair into a streamed buffer, and read it back for sending
    apply   load and store each kept element of the weight and of every optimiser stream

Select needs no second pass: the scan holds the gradient in a register. The buffer is shared by all tensors
and drained chunk by chunk, so it passes the first level and lives in the second, wherever the tensor does.
Bytes follow the convention of the microbenchmarks: the first level is charged what the core loads and
stores, every further level up to the residence the whole lines that pass it. Formula: c_pack and c_upd of
CWMP (arXiv 2603.22465) with line sharing s(p) and row sharing r(p).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal

from calibration_data import MemoryHierarchy, Work
from cwmp.tensors import TensorLayout, expected_groups, touched_groups
from profiler.microbenchmark import traffic
from profiler.sparse_work import row_bytes

if TYPE_CHECKING:
    from cwmp.selection.result import Mask

Phase = Literal["pack", "apply"]
IndexCoding = Literal["raw32", "golomb"]
"""``raw32``: four bytes each, bare. ``golomb``: the message of federated training, a header and the gap to
the kept coordinate before in as few bits as ``index_coding`` needs."""

HEADER_BYTES: Mapping[IndexCoding, int] = MappingProxyType({"raw32": 0, "golomb": 24})
"""Bytes of a message that do not depend on what is kept."""

GAPS_PER_BLOCK = 256
"""Gaps that share one parameter of their code, a byte."""

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2

LAUNCHES_PER_TENSOR = 3

APPLY_FLOP = (2, 4, 13, 14)
"""FLOP per coordinate by number of optimiser streams: w -= η·g (2); with momentum (4); Adam: two moving
averages (3 + 4), denominator (3), step (3); with the maximum of AMSGrad one more."""


@dataclass(frozen=True, kw_only=True)
class Touched:
    """What keeping some coordinates of a tensor touches; expectations may be fractions.

    Attributes:
        kept: coordinates.
        lines: cache lines of one stream with a kept coordinate in them.
        rows: DRAM rows of one stream with a kept coordinate in them.
    """

    kept: float
    lines: float
    rows: float


def line_coordinates(layout: TensorLayout, memory: MemoryHierarchy) -> int:
    """Coordinates in one cache line."""
    return max(memory.line_bytes // layout.element_bytes, 1)


def row_coordinates(layout: TensorLayout, memory: MemoryHierarchy) -> int:
    """Coordinates in one DRAM row, which one activation opens."""
    return row_bytes(memory) // layout.element_bytes


def expected_touched(layout: TensorLayout, memory: MemoryHierarchy, density: float) -> Touched:
    """What one kept coordinate touches on average at a density, if all are equally likely kept."""
    return Touched(
        kept=1.0,
        lines=expected_groups(layout.numel, line_coordinates(layout, memory), density),
        rows=expected_groups(layout.numel, row_coordinates(layout, memory), density),
    )


def count_touched(layout: TensorLayout, memory: MemoryHierarchy, mask: Mask) -> Touched:
    """What a mask really touches; the tensor is taken to start at a line and to lie in row-major order."""
    from cwmp.selection.result import as_bits  # compiles kernels

    bits = as_bits(mask)
    groups = line_coordinates(layout, memory), row_coordinates(layout, memory)
    if bits.kept == layout.numel:
        lines, rows = (-(-bits.kept // group) for group in groups)
    else:
        lines, rows = (touched_groups(bits, group) for group in groups)
    return Touched(kept=bits.kept, lines=lines, rows=rows)


def scan_work(layout: TensorLayout, level: str, memory: MemoryHierarchy) -> Work:
    """Work of one tensor that is done whatever is kept."""
    size = layout.numel * layout.element_bytes
    reading = traffic(memory, level, element_bytes=size, read_bytes=size, written_bytes=0)
    return reading + Work({layout.flop_term: layout.numel, "launch": LAUNCHES_PER_TENSOR})


def pack_work(memory: MemoryHierarchy, pair_bytes: float) -> Work:
    """Work of packing one kept coordinate and reading it back."""
    return traffic(
        memory, "l2", element_bytes=2 * pair_bytes, read_bytes=pair_bytes, written_bytes=pair_bytes
    )


def apply_work(
    layout: TensorLayout, level: str, memory: MemoryHierarchy, touched: Touched, optimizer_streams: int
) -> Work:
    """Work of updating the kept coordinates of one tensor."""
    streams = 1 + optimizer_streams
    moved_bytes = streams * touched.lines * memory.line_bytes
    moving = traffic(
        memory,
        level,
        element_bytes=2 * streams * touched.kept * layout.element_bytes,
        read_bytes=moved_bytes,
        written_bytes=moved_bytes,
    )
    rows = streams * touched.rows if level == "dram" else 0.0
    return moving + Work(
        {layout.flop_term: APPLY_FLOP[optimizer_streams] * touched.kept, "line_random_dram": rows}
    )


def index_bytes(coding: IndexCoding, density: float) -> float:
    """Mean bytes that say which coordinate a value belongs to, where some are kept at random and not all.

    ``golomb``: a gap at density p is g with probability p·(1 − p)^g. With r = (1 − p)^(2^k) its code takes
    k + 1 + r/(1 − r) bits, the fewest with the first k at which r ≤ 1/φ, φ the golden ratio (Kiely, Selecting
    the Golomb parameter in Rice coding, IPN Progress Report 42-159, 2004).
    """
    if coding == "raw32":
        return 4.0
    decay = -math.log1p(-density) if density < 1 else math.inf
    parameter = max(math.ceil(math.log2(math.log(GOLDEN_RATIO) / decay)), 0) if density < 1 else 0
    return (parameter + 1 + 1 / math.expm1(decay * 2**parameter)) / 8 + 1 / GAPS_PER_BLOCK
