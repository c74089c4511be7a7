"""What a microbenchmark is, and exactly how much work one loop of it does.

The counts are facts of the kernel, not guesses: bytes are charged at every level that they pass on the
way from where the working set lives, in both directions, in whole lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from calibration_data import MemoryHierarchy, Work
from profiler.network_work import ITEMS, NetworkKernel
from profiler.sparse_work import SparseKernel, compaction_pairs, update_amounts

KernelName = (
    Literal[
        "idle",
        "spin",
        "load",
        "store",
        "copy",
        "triad",
        "gather",
        "scatter",
        "chase",
        "fma",
        "intensity",
        "launch",
    ]
    | NetworkKernel
    | SparseKernel
)

ELEMENT_BYTES = 8
"""Loads, stores and copies move 8-byte elements."""

FMA_PER_LOOP = 1_000_000
"""Fused multiply-adds of each thread in one loop of the ``fma`` kernel."""

LAUNCHES_PER_LOOP = 1_000
"""Empty calls of each thread in one loop of the ``launch`` kernel."""

CHASE_STEPS = 1 << 16
"""Dependent loads of each thread in one loop of the ``chase`` kernel: some milliseconds from DRAM."""


@dataclass(frozen=True, kw_only=True)
class Microbenchmark:
    """One configuration of one kernel.

    Attributes:
        point: name, unique within a plan.
        family: kernels that leave together in leave-one-family-out.
        kernel: what runs.
        threads: cores that run it; 0 for ``idle``.
        level: memory level in which the working set lives; None for kernels without one.
        working_set_bytes: of all threads together: each thread walks its own equal share.
        shared: each thread walks all of it instead, for ``load``.
        dtype: of the arithmetic, one of ``calibration_data.terms.DTYPES``.
        fma_per_element: multiply-adds on each loaded element, for ``intensity``.
        density: part of the coordinates that is kept, for ``sparse-update`` and ``compaction``.
        duty: fraction of the window in which the kernel runs; the rest is idle.
        data: what ``load`` and ``fma`` work on.
    """

    point: str
    family: str
    kernel: KernelName
    threads: int = 1
    level: Literal["l1", "l2", "llc", "dram"] | None = None
    working_set_bytes: int | None = None
    dtype: str | None = None
    fma_per_element: int = 0
    density: float = 1.0
    duty: float = 1.0
    shared: bool = False
    data: Literal["random", "zeros"] = "random"


def work_per_loop(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    """Exact amounts of one loop over all threads.

    One loop is one pass over the working set; ``CHASE_STEPS`` lines of each thread's share for ``chase``,
    which goes on where it stopped; for kernels without a working set ``FMA_PER_LOOP`` multiply-adds or
    ``LAUNCHES_PER_LOOP`` calls of each thread; ``idle`` and ``spin`` do no countable work.
    """
    size = benchmark.working_set_bytes or 0
    lines = size // memory.line_bytes
    match benchmark.kernel:
        case "idle" | "spin":
            return Work()
        case "launch":
            return Work({"launch": LAUNCHES_PER_LOOP * benchmark.threads})
        case "fma":
            return Work({f"flop_{benchmark.dtype}": 2 * FMA_PER_LOOP * benchmark.threads})
        case "load":
            walked = size * benchmark.threads if benchmark.shared else size
            return traffic(memory, benchmark.level, element_bytes=walked, read_bytes=walked, written_bytes=0)
        case "store":
            # A cached store first reads the line that it will overwrite (write-allocate).
            return traffic(memory, benchmark.level, element_bytes=size, read_bytes=size, written_bytes=size)
        case "copy":
            half = size // 2
            return traffic(memory, benchmark.level, element_bytes=size, read_bytes=size, written_bytes=half)
        case "triad":
            # A product and a sum for two elements that are read and one that is written.
            third = size // 3
            moved = traffic(memory, benchmark.level, element_bytes=size, read_bytes=size, written_bytes=third)
            return moved + Work({f"flop_{benchmark.dtype}": 2 * (third // ELEMENT_BYTES)})
        case "intensity":
            element = 4 if benchmark.dtype == "fp32" else 8
            flop = Work({f"flop_{benchmark.dtype}": (2 * benchmark.fma_per_element + 1) * (size // element)})
            return flop + traffic(
                memory, benchmark.level, element_bytes=size, read_bytes=size, written_bytes=0
            )
        case "gather" | "chase":
            if benchmark.kernel == "chase":
                lines = CHASE_STEPS * benchmark.threads
                size = lines * memory.line_bytes
            return _random_lines(benchmark, lines) + traffic(
                memory, benchmark.level, element_bytes=lines * ELEMENT_BYTES, read_bytes=size, written_bytes=0
            )
        case "scatter":
            return _random_lines(benchmark, lines) + traffic(
                memory,
                benchmark.level,
                element_bytes=2 * lines * ELEMENT_BYTES,
                read_bytes=size,
                written_bytes=size,
            )
        case "sparse-update":
            return _sparse_update(benchmark, memory)
        case "compaction":
            scanned = traffic(memory, benchmark.level, element_bytes=size, read_bytes=size, written_bytes=0)
            compared = Work({"flop_fp32": size // 4})
            return scanned + compared + compaction_pairs(benchmark.density, size)
        case _:
            return _items(benchmark, memory)


def _items(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    item = ITEMS[benchmark.kernel]
    count = (benchmark.working_set_bytes or 0) // item.size_bytes
    return Work({"flop_fp32": count * item.flop}) + traffic(
        memory,
        benchmark.level,
        element_bytes=count * item.element_bytes,
        read_bytes=count * item.read_bytes,
        written_bytes=count * item.written_bytes,
    )


def _sparse_update(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    size = benchmark.working_set_bytes or 0
    flop, element_bytes, line_bytes, rows = update_amounts(benchmark.density, size, memory)
    return (
        Work({"flop_fp32": flop})
        + _random_lines(benchmark, rows)
        + traffic(
            memory,
            benchmark.level,
            element_bytes=element_bytes,
            read_bytes=line_bytes,
            written_bytes=line_bytes,
        )
    )


def _random_lines(benchmark: Microbenchmark, lines: int) -> Work:
    """Row activations: only lines that come from DRAM open a row there."""
    return Work({"line_random_dram": lines}) if benchmark.level == "dram" else Work()


def traffic(
    memory: MemoryHierarchy,
    level: str | None,
    *,
    element_bytes: float,
    read_bytes: float,
    written_bytes: float,
) -> Work:
    """Bytes by level for data that lives at ``level``.

    Args:
        memory: the levels of the device.
        level: where the data lives.
        element_bytes: bytes that the core loads and stores, charged to the first level.
        read_bytes: whole lines that travel from ``level`` towards the core.
        written_bytes: whole lines that travel back.
    """
    if level is None:
        raise ValueError("a kernel with a working set needs a memory level")
    amounts: dict[str, float] = {"byte_l1": element_bytes}
    for passed in memory.levels[1 : memory.levels.index(level) + 1]:
        if passed == "dram":
            amounts["byte_dram_read"] = read_bytes
            amounts["byte_dram_write"] = written_bytes
        else:
            amounts[f"byte_{passed}"] = read_bytes + written_bytes
    return Work(amounts)
