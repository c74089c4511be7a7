"""Binds a kernel to the data of one thread: from a microbenchmark to a function of a number of loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from calibration_data import MemoryHierarchy, UsageError
from profiler.microbenchmark import (
    CHASE_STEPS,
    ELEMENT_BYTES,
    FMA_PER_LOOP,
    LAUNCHES_PER_LOOP,
    Microbenchmark,
)
from profiler.network_work import ITEMS
from profiler.sparse_work import SPARSE_KERNELS, chunk_parts, chunk_size, period_bytes
from profiler.workloads import cpu_arithmetic, cpu_kernels, cpu_sparse
from profiler.workloads.cpu_data import random_operands, zeros
from profiler.workloads.cpu_network_loops import network_loop

Loop = Callable[[int], object]
"""Does so many loops on one thread's share, and returns a value that depends on all of them."""

FLOAT_TYPES: dict[str, type[np.float32] | type[np.float64]] = {"fp32": np.float32, "fp64": np.float64}
"""Types that a CPU multiplies and adds in hardware."""


def make_loop(benchmark: Microbenchmark, memory: MemoryHierarchy, *, seed: int) -> Loop:
    """Allocate one thread's share of the working set and bind the kernel to it.

    Args:
        benchmark: any but ``idle``.
        memory: of the device; data is aligned to its lines.
        seed: of the operands; each thread has its own.

    Raises:
        UsageError: the working set has no equal shares that the kernel can walk as counted.
    """
    line_bytes = memory.line_bytes
    match benchmark.kernel:
        case "spin":
            return cpu_kernels.spin
        case "launch":
            return _launch
        case "fma":
            dtype = FLOAT_TYPES[benchmark.dtype or ""]
            count = cpu_arithmetic.chain_elements(np.dtype(dtype).itemsize)
            if benchmark.data == "zeros":
                return partial(_multiply_zeros, zeros(count, dtype, alignment=line_bytes))
            state = random_operands(count, dtype, seed=seed, alignment=line_bytes)
            return partial(_multiply_add, state)
        case "intensity":
            dtype = FLOAT_TYPES[benchmark.dtype or ""]
            count = share_bytes(benchmark, memory) // np.dtype(dtype).itemsize
            elements = random_operands(count, dtype, seed=seed, alignment=line_bytes)
            return partial(cpu_arithmetic.intensity_kernel(benchmark.fma_per_element), elements)
        case "idle":
            raise ValueError("idle runs on no thread")
        case kernel if kernel in ITEMS:
            share = share_bytes(benchmark, memory)
            return network_loop(kernel, share, alignment=line_bytes, seed=seed)
        case "sparse-update" | "compaction":
            return _sparse(benchmark, memory, seed)
        case "triad":
            share = share_bytes(benchmark, memory)
            numbers = random_operands(share // 8, np.float64, seed=seed, alignment=line_bytes)
            source, other, target = np.split(numbers, 3)
            return partial(cpu_kernels.triad, source, other, target)
        case _:
            return _move(benchmark, memory, seed)


def share_bytes(benchmark: Microbenchmark, memory: MemoryHierarchy) -> int:
    """Bytes of each thread's share; the whole working set if it is shared.

    Raises:
        UsageError: the shares are not equal and whole: in lines; in pairs of lines for ``copy``; in threes
            for ``triad``; in a power of two of lines for ``gather``, ``scatter`` and ``chase``; in chunks and
            DRAM rows for ``sparse-update`` and ``compaction``.
    """
    line_bytes = memory.line_bytes
    size = benchmark.working_set_bytes or 0
    walkers = 1 if benchmark.shared else benchmark.threads
    lines, rest = divmod(size, walkers * line_bytes)
    whole = rest == 0 and lines > 0
    if benchmark.kernel == "copy":
        whole = whole and lines % 2 == 0
    if benchmark.kernel == "triad":
        whole = whole and lines % 3 == 0
    if benchmark.kernel in ("gather", "scatter", "chase"):
        whole = whole and lines.bit_count() == 1
    if benchmark.kernel in SPARSE_KERNELS:
        whole = whole and lines * line_bytes % period_bytes(benchmark.density, memory) == 0
    if not whole:
        raise UsageError(
            f"{benchmark.point}: {size} bytes have no equal shares for {benchmark.threads} threads of"
            f" {benchmark.kernel}, so its work could not be counted exactly.",
            next_step="Take a plan for this device, or give each thread a share that the kernel can divide.",
        )
    return lines * line_bytes


def _sparse(benchmark: Microbenchmark, memory: MemoryHierarchy, seed: int) -> Loop:
    density, share = benchmark.density, share_bytes(benchmark, memory)
    chunk = chunk_size(density)
    if benchmark.kernel == "sparse-update":
        kept = cpu_sparse.update_arrays(density, share, alignment=memory.line_bytes, seed=seed)
        return lambda loops: cpu_sparse.sparse_update(*kept, loops, chunk)
    packed = cpu_sparse.compaction_arrays(density, share, memory, seed=seed)
    parts = chunk_parts(density)
    return lambda loops: cpu_sparse.compaction(*packed, loops, chunk, parts, cpu_sparse.THRESHOLD)


def _move(benchmark: Microbenchmark, memory: MemoryHierarchy, seed: int) -> Loop:
    share, line_bytes = share_bytes(benchmark, memory), memory.line_bytes
    count = share // ELEMENT_BYTES
    elements: Any
    if benchmark.data == "zeros":
        elements = zeros(count, np.float64, alignment=line_bytes)
    else:
        elements = random_operands(count, np.float64, seed=seed, alignment=line_bytes)
    elements = elements.view(np.uint64)
    elements_per_line = line_bytes // ELEMENT_BYTES
    half_of_the_bits = max(1, (elements.size // elements_per_line).bit_length() // 2)
    match benchmark.kernel:
        case "load":
            return partial(cpu_kernels.load, elements)
        case "store":
            return partial(cpu_kernels.store, elements)
        case "copy":
            source, target = np.split(elements, 2)
            return partial(cpu_kernels.copy, source, target)
        case "chase":
            cpu_kernels.link(elements, elements_per_line, half_of_the_bits)
            return _Chase(elements)
        case "gather":
            kernel = cpu_kernels.gather
        case _:
            kernel = cpu_kernels.scatter
    return lambda loops: kernel(elements, loops, elements_per_line, half_of_the_bits)


def _multiply_add(state: Any, loops: int) -> Any:
    cpu_arithmetic.fma(state, loops * (FMA_PER_LOOP // state.size))
    return state


def _multiply_zeros(state: Any, loops: int) -> Any:
    cpu_arithmetic.fma_adding(state, loops * (FMA_PER_LOOP // state.size), state.dtype.type(0))
    return state


class _Chase:
    """A walk over the lines of an array that goes on where it stopped."""

    def __init__(self, elements: Any) -> None:
        self._elements = elements
        self._place = elements[0]

    def __call__(self, loops: int) -> object:
        self._place = cpu_kernels.chase(self._elements, self._place, loops * CHASE_STEPS)
        return self._place


def _launch(loops: int) -> None:
    for _ in range(loops * LAUNCHES_PER_LOOP):
        cpu_kernels.empty()
