"""Where working sets live: sizes for each memory level, and the thread counts whose shares fit there."""

from __future__ import annotations

from calibration_data import MemoryHierarchy
from profiler.microbenchmark import KernelName, Microbenchmark
from profiler.network_work import ITEMS, NetworkKernel
from profiler.sparse_work import SparseKernel, period_bytes, touched_groups


def thread_counts(cores: int, *, full: bool) -> list[int]:
    """Numbers of busy cores, from one to all."""
    counts = {1, cores // 2, cores} | ({cores // 4, 3 * cores // 4} if full else set())
    return sorted(count for count in counts if count >= 1)


def walk(
    kernel: KernelName,
    memory: MemoryHierarchy,
    level: str,
    size: int,
    threads: int,
    *,
    suffix: str = "",
    family: str | None = None,
    dtype: str | None = None,
    fma_per_element: int = 0,
    duty: float = 1.0,
    shared: bool = False,
) -> Microbenchmark:
    """A kernel with a working set; ``size`` is of one thread at private levels, of all at shared ones."""
    total = size * threads if _is_private(memory, level) else size
    share = _whole_lines(total // threads, memory.line_bytes, 3 if kernel == "triad" else 2)
    return Microbenchmark(
        point=f"{kernel}-{level}-t{threads}{suffix}",
        family=family or kernel,
        kernel=kernel,
        threads=threads,
        level=level,  # type: ignore[arg-type]
        working_set_bytes=share * threads,
        dtype=dtype,
        fma_per_element=fma_per_element,
        duty=duty,
        shared=shared,
    )


def items(
    kernel: NetworkKernel, memory: MemoryHierarchy, level: str, size: int, threads: int
) -> Microbenchmark:
    """A kernel of networks with as many whole items as come nearest to a working set, one at least."""
    item_bytes = ITEMS[kernel].size_bytes
    total = size * threads if _is_private(memory, level) else size
    count = max(1, total // (threads * item_bytes))
    return Microbenchmark(
        point=f"{kernel}-{level}-t{threads}",
        family=kernel,
        kernel=kernel,
        threads=threads,
        level=level,  # type: ignore[arg-type]
        working_set_bytes=count * threads * item_bytes,
        dtype="fp32",
    )


def sparse(kernel: SparseKernel, memory: MemoryHierarchy, threads: int, density: float) -> Microbenchmark:
    """A kernel of the phase after backprop on a tensor in DRAM, in whole chunks and rows for each thread.

    What it touches is as large as other working sets: of few coordinates the tensor is many times larger.
    """
    step = touched = period_bytes(density, memory)
    if kernel == "sparse-update":
        touched = memory.line_bytes * touched_groups(density, memory.line_bytes, step)
    share = -(-4 * memory.last_cache_bytes // (threads * touched)) * step
    return Microbenchmark(
        point=f"{kernel}-dram-t{threads}-keep{round(100 * density)}",
        family=kernel,
        kernel=kernel,
        threads=threads,
        level="dram",
        working_set_bytes=share * threads,
        dtype="fp32",
        density=density,
    )


def _is_private(memory: MemoryHierarchy, level: str) -> bool:
    """Whether each core has this level for itself: the last cache and DRAM are shared."""
    return level not in (memory.levels[-2], "dram")


def sizes(memory: MemoryHierarchy, level: str, *, full: bool) -> list[int]:
    """Working sets from half of L1 to four times the last cache, the usual one of each level first."""
    if level == "dram":
        return [4 * memory.last_cache_bytes] + ([6 * memory.last_cache_bytes] if full else [])
    capacity = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes or 0}[level]
    return [capacity // 2] + ([capacity // 4] if full else [])


def counts_that_reach(memory: MemoryHierarchy, level: str, size: int, *, full: bool) -> list[int]:
    """Thread counts whose shares live in the level beyond doubt: twice as large as the level before it.

    Between levels a working set lives partly in both, and the bytes that each serves are not known.
    """
    before = {"l2": memory.l1_bytes, "llc": memory.l2_bytes}.get(level, 0)
    if _is_private(memory, level):
        return thread_counts(memory.cores, full=full) if size >= 2 * before else []
    most = memory.cores if before == 0 else min(memory.cores, size // (2 * before))
    return thread_counts(most, full=full)


def random_bytes(memory: MemoryHierarchy, threads: int) -> int:
    """At least four times the last cache, a power of two of lines for each thread (a full-period walk)."""
    lines = -(-4 * memory.last_cache_bytes // (threads * memory.line_bytes))
    return int(threads * memory.line_bytes * 2 ** (lines - 1).bit_length())


def _whole_lines(size: int, line_bytes: int, parts: int) -> int:
    """Up to so many equal parts of whole lines; an even number has as many to read as to write."""
    return -(-size // (parts * line_bytes)) * parts * line_bytes
