"""Binds a kernel to the data of one thread: from a microbenchmark to a function of a number of loops."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from calibration_data import UsageError
from profiler.microbenchmark import ELEMENT_BYTES, FMA_PER_LOOP, LAUNCHES_PER_LOOP, Microbenchmark
from profiler.network_work import ITEMS
from profiler.workloads import cpu_arithmetic, cpu_kernels
from profiler.workloads.cpu_data import random_operands
from profiler.workloads.cpu_network_loops import network_loop

Loop = Callable[[int], object]
"""Does so many loops on one thread's share, and returns a value that depends on all of them."""

FLOAT_TYPES: dict[str, type[np.float32] | type[np.float64]] = {"fp32": np.float32, "fp64": np.float64}
"""Types that a CPU multiplies and adds in hardware."""


def make_loop(benchmark: Microbenchmark, *, line_bytes: int, seed: int) -> Loop:
    """Allocate one thread's share of the working set and bind the kernel to it.

    Args:
        benchmark: any but ``idle``.
        line_bytes: cache line, to which data is aligned.
        seed: of the operands; each thread has its own.

    Raises:
        UsageError: the working set has no equal shares that the kernel can walk as counted.
    """
    match benchmark.kernel:
        case "spin":
            return cpu_kernels.spin
        case "launch":
            return _launch
        case "fma":
            dtype = FLOAT_TYPES[benchmark.dtype or ""]
            count = cpu_arithmetic.chain_elements(np.dtype(dtype).itemsize)
            state = random_operands(count, dtype, seed=seed, alignment=line_bytes)
            return partial(_multiply_add, state)
        case "intensity":
            dtype = FLOAT_TYPES[benchmark.dtype or ""]
            count = share_bytes(benchmark, line_bytes) // np.dtype(dtype).itemsize
            elements = random_operands(count, dtype, seed=seed, alignment=line_bytes)
            return partial(cpu_arithmetic.intensity_kernel(benchmark.fma_per_element), elements)
        case "idle":
            raise ValueError("idle runs on no thread")
        case kernel if kernel in ITEMS:
            share = share_bytes(benchmark, line_bytes)
            return network_loop(kernel, share, alignment=line_bytes, seed=seed)
        case _:
            return _move(benchmark, line_bytes, seed)


def share_bytes(benchmark: Microbenchmark, line_bytes: int) -> int:
    """Bytes of each thread's share; the whole working set if it is shared.

    Raises:
        UsageError: the shares are not equal and whole: in lines; in pairs of lines for ``copy``; in a power
            of two of lines for ``gather`` and ``scatter``.
    """
    size = benchmark.working_set_bytes or 0
    walkers = 1 if benchmark.shared else benchmark.threads
    lines, rest = divmod(size, walkers * line_bytes)
    whole = rest == 0 and lines > 0
    if benchmark.kernel == "copy":
        whole = whole and lines % 2 == 0
    if benchmark.kernel in ("gather", "scatter"):
        whole = whole and lines.bit_count() == 1
    if not whole:
        raise UsageError(
            f"{benchmark.point}: {size} bytes have no equal shares for {benchmark.threads} threads of"
            f" {benchmark.kernel}, so its work could not be counted exactly.",
            next_step=f"Give each thread a power of two of {line_bytes}-byte lines, at least two.",
        )
    return lines * line_bytes


def _move(benchmark: Microbenchmark, line_bytes: int, seed: int) -> Loop:
    share = share_bytes(benchmark, line_bytes)
    elements: Any = random_operands(share // ELEMENT_BYTES, np.float64, seed=seed, alignment=line_bytes)
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
        case "gather":
            kernel = cpu_kernels.gather
        case _:
            kernel = cpu_kernels.scatter
    return lambda loops: kernel(elements, loops, elements_per_line, half_of_the_bits)


def _multiply_add(state: Any, loops: int) -> Any:
    cpu_arithmetic.fma(state, loops * (FMA_PER_LOOP // state.size))
    return state


def _launch(loops: int) -> None:
    for _ in range(loops * LAUNCHES_PER_LOOP):
        cpu_kernels.empty()
