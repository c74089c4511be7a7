"""Binds a kernel to its data on a GPU: from a microbenchmark to a function of a number of loops.

What is one kernel runs all loops in one launch. What is many launches is recorded once as a CUDA graph and
replayed, so that the host's pace does not decide how busy the GPU is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from calibration_data import MemoryHierarchy, UsageError
from profiler.microbenchmark import ELEMENT_BYTES, LAUNCHES_PER_LOOP, Microbenchmark
from profiler.network_work import ITEMS
from profiler.sparse_work import FLOAT_BYTES, KEPT, chunk_size, kept_places, period_bytes
from profiler.workloads import cuda_kernels
from profiler.workloads.cuda_network import network_step
from profiler.workloads.cuda_work import (
    DOT_COLUMNS,
    DOT_DEPTH,
    DOT_ROWS,
    DOT_STEPS_PER_LOOP,
    FMA_BLOCK,
    FMA_STEPS_PER_LOOP,
    block_of,
)

Loop = Callable[[int], Any]
"""Does so many loops; returns Triton's compiled kernel where one kernel does them."""

SPIN_STEPS = 40_000
"""Steps of one loop of ``spin``: six dependent operations of about 4 cycles each, 0.6 ms at 1.7 GHz."""

WARPS = 32
"""As many threads as a program may have: one program keeps a multiprocessor's memory busy."""

CHUNKS_TOGETHER = 32
"""Of a sparse update, which a program walks side by side: eight coordinates per thread."""

DOT_WARPS = 8
SPIN_LANES = 32
FMA_UNROLLED = 16
DTYPES: dict[str, torch.dtype] = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "tf32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "int8": torch.int8,
}


def make_loop(benchmark: Microbenchmark, memory: MemoryHierarchy, *, where: str, seed: int = 0) -> Loop:
    """Allocate the working set and bind the kernel to it.

    Args:
        benchmark: any but ``idle``.
        memory: of the device.
        where: torch's name of the device.
        seed: of the operands.

    Raises:
        UsageError: the working set has no equal shares that the kernel can walk as counted.
    """
    generator = torch.Generator(where).manual_seed(seed)
    match benchmark.kernel:
        case "spin":
            return _spin(benchmark.threads, where)
        case "launch":
            return _repeated(_launch_of(benchmark.threads), LAUNCHES_PER_LOOP, where)
        case "fma" if benchmark.dtype in DOT_DEPTH:
            return _dot(benchmark, generator)
        case "fma":
            return _fma(benchmark, generator)
        case "intensity":
            return _intensity(benchmark, memory, generator)
        case "sparse-update":
            return _sparse_update(benchmark, memory, generator)
        case "idle":
            raise ValueError("idle runs nothing")
        case kernel if kernel in ITEMS:
            return _repeated(
                network_step(kernel, benchmark.working_set_bytes or 0, where=where, seed=seed), 1, where
            )
        case _:
            return _move(benchmark, memory, generator)


def share_lines(benchmark: Microbenchmark, memory: MemoryHierarchy) -> int:
    """Sectors of each program's share; of the whole working set if it is shared.

    Raises:
        UsageError: the shares are not equal and whole: in sectors; in pairs of them for ``copy``; in threes
            for ``triad``; in a power of two of them for ``gather`` and ``scatter``; in chunks and DRAM rows
            for ``sparse-update``.
    """
    size = benchmark.working_set_bytes or 0
    walkers = 1 if benchmark.shared else benchmark.threads
    lines, rest = divmod(size, walkers * memory.line_bytes)
    whole = rest == 0 and lines > 0
    if benchmark.kernel == "copy":
        whole = whole and lines % 2 == 0
    if benchmark.kernel == "triad":
        whole = whole and lines % 3 == 0
    if benchmark.kernel in ("gather", "scatter"):
        whole = whole and lines.bit_count() == 1
    if benchmark.kernel == "sparse-update":
        whole = whole and lines * memory.line_bytes % period_bytes(benchmark.density, memory) == 0
    if not whole:
        raise UsageError(
            f"{benchmark.point}: {size} bytes have no equal shares for {benchmark.threads} multiprocessors of"
            f" {benchmark.kernel}, so its work could not be counted exactly.",
            next_step=f"Give each a power of two of {memory.line_bytes}-byte sectors, at least two.",
        )
    return lines


def cache_modifier(benchmark: Microbenchmark) -> str:
    """Whether the first level may keep what is read, as it does with a load that says nothing.

    Said aloud, ``.ca`` becomes a load that is coherent on the multiprocessor (LDG.STRONG.SM on sm_90).
    """
    return "" if benchmark.level == "l1" else ".cg"


def random_operands(count: int, dtype: torch.dtype, generator: torch.Generator) -> Tensor:
    """Numbers with random mantissas and signs, magnitudes in [1/2, 1); whole numbers of random bits."""
    where = generator.device
    if dtype == torch.int8:
        return torch.randint(-127, 128, (count,), dtype=dtype, device=where, generator=generator)
    if dtype == torch.int64:
        return torch.randint(-(2**63), 2**63 - 1, (count,), dtype=dtype, device=where, generator=generator)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    magnitude = 0.5 + torch.rand(count, dtype=wide, device=where, generator=generator) / 2
    sign = torch.randint(0, 2, (count,), device=where, generator=generator).to(wide) * 2 - 1
    return (magnitude * sign).to(dtype)


def _move(benchmark: Microbenchmark, memory: MemoryHierarchy, generator: torch.Generator) -> Loop:
    lines = share_lines(benchmark, memory)
    line_elements = memory.line_bytes // ELEMENT_BYTES
    programs = benchmark.threads
    total_lines = lines if benchmark.shared else lines * programs
    dtype = torch.float64 if benchmark.kernel == "triad" else torch.int64
    elements = random_operands(total_lines * line_elements, dtype, generator)
    if benchmark.data == "zeros":
        elements.zero_()
    sums = torch.empty(programs, dtype=torch.int64, device=generator.device)
    grid = (programs,)
    options = {"line_elements": line_elements, "num_warps": WARPS, "num_stages": 1}
    cache = cache_modifier(benchmark)
    match benchmark.kernel:
        case "load":
            block = block_of(lines * line_elements, ELEMENT_BYTES)
            return lambda loops: cuda_kernels.load[grid](
                elements, sums, lines, loops, shared=benchmark.shared, block=block, cache=cache, **options
            )
        case "store":
            block = block_of(lines * line_elements, ELEMENT_BYTES)
            return lambda loops: cuda_kernels.store[grid](elements, lines, loops, block=block, **options)
        case "copy":
            half = lines // 2
            block = block_of(half * line_elements, ELEMENT_BYTES)
            return lambda loops: cuda_kernels.copy[grid](
                elements, half, loops, block=block, cache=cache, **options
            )
        case "triad":
            third = lines // 3
            block = block_of(third * line_elements, ELEMENT_BYTES) // 2
            return lambda loops: cuda_kernels.triad[grid](
                elements, third, loops, block=block, cache=cache, **options
            )
    shift = max(1, lines.bit_length() // 2)
    block = min(block_of(lines, ELEMENT_BYTES), lines)
    if benchmark.kernel == "gather":
        return lambda loops: cuda_kernels.gather[grid](
            elements, sums, lines, shift, loops, block=block, cache=cache, **options
        )
    return lambda loops: cuda_kernels.scatter[grid](
        elements, lines, shift, loops, block=block, cache=cache, **options
    )


def _intensity(benchmark: Microbenchmark, memory: MemoryHierarchy, generator: torch.Generator) -> Loop:
    dtype = DTYPES[benchmark.dtype or ""]
    lines = share_lines(benchmark, memory)
    line_elements = memory.line_bytes // dtype.itemsize
    elements = random_operands(lines * benchmark.threads * line_elements, dtype, generator)
    sums = torch.empty(benchmark.threads, dtype=dtype, device=generator.device)
    return lambda loops: cuda_kernels.intensity[(benchmark.threads,)](
        elements,
        sums,
        lines,
        loops,
        fma_per_element=benchmark.fma_per_element,
        line_elements=line_elements,
        block=block_of(lines * line_elements, dtype.itemsize),
        cache=cache_modifier(benchmark),
        num_warps=WARPS,
        num_stages=1,
    )


def _fma(benchmark: Microbenchmark, generator: torch.Generator) -> Loop:
    state = random_operands(benchmark.threads * FMA_BLOCK, DTYPES[benchmark.dtype or ""], generator)
    zeros = int(benchmark.data == "zeros")
    if zeros:
        state.zero_()
    rounds = FMA_STEPS_PER_LOOP // FMA_UNROLLED
    return lambda loops: cuda_kernels.fma[(benchmark.threads,)](
        state, loops * rounds, zeros, steps=FMA_UNROLLED, block=FMA_BLOCK, num_warps=WARPS, num_stages=1
    )


def _sparse_update(benchmark: Microbenchmark, memory: MemoryHierarchy, generator: torch.Generator) -> Loop:
    lines, chunk = share_lines(benchmark, memory), chunk_size(benchmark.density)
    share = lines * memory.line_bytes // FLOAT_BYTES
    weights = random_operands(share * benchmark.threads, torch.float32, generator)
    gradients = random_operands(KEPT, torch.float32, generator)
    places = torch.tensor(kept_places(benchmark.density), dtype=torch.int32, device=generator.device)
    return lambda loops: cuda_kernels.sparse_update[(benchmark.threads,)](
        weights,
        places,
        gradients,
        share // chunk,
        loops,
        chunk=chunk,
        kept=KEPT,
        together=CHUNKS_TOGETHER,
        num_warps=WARPS,
        num_stages=1,
    )


def _dot(benchmark: Microbenchmark, generator: torch.Generator) -> Loop:
    name = benchmark.dtype or ""
    dtype, depth = DTYPES[name], DOT_DEPTH[name]
    summed = torch.int32 if name == "int8" else torch.float32
    left = random_operands(DOT_ROWS * depth, dtype, generator)
    right = random_operands(depth * DOT_COLUMNS, dtype, generator)
    size = benchmark.threads * DOT_ROWS * DOT_COLUMNS
    sums = random_operands(size, torch.int8, generator).to(summed)
    return lambda loops: cuda_kernels.dot[(benchmark.threads,)](
        left,
        right,
        sums,
        loops * DOT_STEPS_PER_LOOP,
        rows=DOT_ROWS,
        columns=DOT_COLUMNS,
        depth=depth,
        precision="tf32",
        num_warps=DOT_WARPS,
        num_stages=1,
    )


def _spin(programs: int, where: str) -> Loop:
    states = torch.arange(1, programs * SPIN_LANES + 1, dtype=torch.int32, device=where)
    return lambda loops: cuda_kernels.spin[(programs,)](
        states, loops * SPIN_STEPS, block=SPIN_LANES, num_warps=1, num_stages=1
    )


def _launch_of(programs: int) -> Callable[[], object]:
    return lambda: cuda_kernels.empty[(programs,)](num_warps=1)


def _repeated(step: Callable[[], object], times: int, where: str) -> Loop:
    """Loops of so many steps each: replays of a graph on a GPU, plain calls elsewhere."""
    if not where.startswith("cuda"):

        def plain(loops: int) -> None:
            for _ in range(loops * times):
                step()

        return plain
    stream = torch.cuda.Stream(where)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(where))
    with torch.cuda.stream(stream):
        # A graph may neither compile nor choose an algorithm.
        for _ in range(3):
            step()
    torch.cuda.current_stream(where).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            step()

    def replay(loops: int) -> None:
        for _ in range(loops):
            graph.replay()

    return replay
