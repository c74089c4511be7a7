"""Work of one loop on a GPU: what ``profiler.microbenchmark`` counts, as far as GPUs move data otherwise.

    first level    written through: what is stored always goes on to the second level
    second level   takes whole sectors as they come: no line is read before it is overwritten
    a launch       one, however many multiprocessors it reaches
    sparse update  places and gradients stay in registers; weights pass the first level
    intensity      whole blocks of numbers are stepped, also the lanes beyond the end of a share
    networks       torch operators: each reads its operands once, writes its result once, and is one launch

Sectors of 32 bytes are the lines of a GPU. Source of the first two rules: CUDA C++ Programming Guide, memory
hierarchy of compute capability 7.0 and later; the second is checked by a campaign's store and copy kernels.
"""

from __future__ import annotations

from types import MappingProxyType

from calibration_data import MemoryHierarchy, Work
from profiler.microbenchmark import ELEMENT_BYTES, LAUNCHES_PER_LOOP, Microbenchmark, work_per_loop
from profiler.network_work import (
    CHANNELS,
    FLOAT_BYTES,
    HEAD,
    HIDDEN,
    IMAGE,
    INPUTS,
    ITEMS,
    OUT,
    POSITIONS,
    ROW,
    SAMPLES,
    WEIGHTS,
)
from profiler.sparse_work import UPDATE_FLOP, update_amounts

BLOCK_BYTES = 65_536
"""What a multiprocessor reads side by side: enough in flight to fill the memory's latency."""

FMA_BLOCK = 4096
"""Numbers that a multiprocessor steps side by side."""

FMA_STEPS_PER_LOOP = 256

DOT_ROWS, DOT_COLUMNS = 128, 128
DOT_DEPTH = MappingProxyType({"tf32": 32, "bf16": 64, "fp16": 64, "int8": 128})
"""Shape of the products on matrix units; 128 bytes of depth each."""

DOT_STEPS_PER_LOOP = 16
"""Pairs of products."""

_MATRIX_IN, _MATRIX_OUT = SAMPLES * INPUTS, SAMPLES * HIDDEN

NETWORK_NUMBERS: MappingProxyType[str, tuple[int, int, int]] = MappingProxyType(
    {
        "softmax": (ROW, ROW, 1),
        "layernorm": (ROW, ROW, 1),
        "convolution": (CHANNELS * IMAGE * IMAGE, CHANNELS * OUT * OUT, 1),
        "attention": (3 * POSITIONS * HEAD, POSITIONS * HEAD, 1),
        # Adam counts its steps in a launch of its own.
        "adam": (4 * ROW, 3 * ROW, 2),
        # h = x·W₁, clamp, y = h·W₂, y − t, hᵀ·e, e·W₂ᵀ, its mask, xᵀ·back, and Adam over all weights.
        "training-step": (
            (_MATRIX_IN + WEIGHTS // 2)
            + _MATRIX_OUT
            + (_MATRIX_OUT + WEIGHTS // 2)
            + 2 * _MATRIX_IN
            + (_MATRIX_OUT + _MATRIX_IN)
            + (_MATRIX_IN + WEIGHTS // 2)
            + 2 * _MATRIX_OUT
            + (_MATRIX_IN + _MATRIX_OUT)
            + 4 * WEIGHTS,
            _MATRIX_OUT
            + _MATRIX_OUT
            + _MATRIX_IN
            + _MATRIX_IN
            + WEIGHTS // 2
            + _MATRIX_OUT
            + _MATRIX_OUT
            + WEIGHTS // 2
            + 3 * WEIGHTS,
            10,
        ),
    }
)
"""Numbers read and written for each item, and launches of the whole, as ``cuda_network`` runs them."""


def cuda_work_per_loop(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    """Exact amounts of one loop over all multiprocessors that take part."""
    size = benchmark.working_set_bytes or 0
    lines = size // memory.line_bytes
    match benchmark.kernel:
        case "launch":
            return Work({"launch": LAUNCHES_PER_LOOP})
        case "fma" if benchmark.dtype in DOT_DEPTH:
            products = 2 * DOT_STEPS_PER_LOOP * benchmark.threads
            return Work({f"flop_{benchmark.dtype}": products * flop_of_product(benchmark.dtype or "")})
        case "fma":
            return Work({f"flop_{benchmark.dtype}": 2 * FMA_BLOCK * FMA_STEPS_PER_LOOP * benchmark.threads})
        case "intensity":
            return _intensity(benchmark, memory)
        case "store":
            return _traffic(memory, benchmark.level, read_bytes=0, written_bytes=size)
        case "copy":
            return _traffic(memory, benchmark.level, read_bytes=size // 2, written_bytes=size // 2)
        case "triad":
            third = size // 3
            moved = _traffic(memory, benchmark.level, read_bytes=2 * third, written_bytes=third)
            return moved + Work({f"flop_{benchmark.dtype}": 2 * (third // ELEMENT_BYTES)})
        case "sparse-update":
            return _sparse_update(benchmark, memory)
        case "scatter":
            moved = _traffic(memory, benchmark.level, read_bytes=size, written_bytes=size)
            return _of_lines(moved, benchmark, element_bytes=2 * lines * ELEMENT_BYTES, lines=lines)
        case kernel if kernel in NETWORK_NUMBERS:
            return _network(benchmark, memory)
        case _:
            return work_per_loop(benchmark, memory)


def block_of(count: int, element_bytes: int) -> int:
    """Elements of a share side by side: as many as a block holds, or the power of two that it fills."""
    return min(BLOCK_BYTES // element_bytes, 1 << (count.bit_length() - 1))


def flop_of_product(dtype: str) -> int:
    """Of one product on matrix units."""
    return 2 * DOT_ROWS * DOT_COLUMNS * DOT_DEPTH[dtype]


def _intensity(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    size, element_bytes = benchmark.working_set_bytes or 0, 4 if benchmark.dtype == "fp32" else 8
    share = size // benchmark.threads // element_bytes
    block = block_of(share, element_bytes)
    stepped = benchmark.threads * block * -(-share // block)
    moved = _traffic(memory, benchmark.level, read_bytes=size, written_bytes=0)
    return moved + Work({f"flop_{benchmark.dtype}": (2 * benchmark.fma_per_element + 1) * stepped})


def _traffic(memory: MemoryHierarchy, level: str | None, *, read_bytes: int, written_bytes: int) -> Work:
    if level is None:
        raise ValueError("a kernel with a working set needs a memory level")
    amounts: dict[str, float] = {
        "byte_l1": read_bytes + written_bytes,
        "byte_l2": written_bytes if level == "l1" else read_bytes + written_bytes,
    }
    if level == "dram":
        amounts["byte_dram_read"] = read_bytes
        amounts["byte_dram_write"] = written_bytes
    return Work(amounts)


def _sparse_update(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    """Each kept coordinate loads and stores its weight; its place and gradient stay in registers."""
    size = benchmark.working_set_bytes or 0
    flop, _, line_bytes, rows = update_amounts(benchmark.density, size, memory)
    kept = flop // UPDATE_FLOP
    moved = _traffic(memory, benchmark.level, read_bytes=line_bytes, written_bytes=line_bytes)
    opened = {"line_random_dram": rows} if benchmark.level == "dram" else {}
    return Work({**moved, "byte_l1": 2 * FLOAT_BYTES * kept, "flop_fp32": flop, **opened})


def _of_lines(moved: Work, benchmark: Microbenchmark, *, element_bytes: int, lines: int) -> Work:
    """Of each line a core loads and stores one element, and in DRAM each opens a row."""
    rows = {"line_random_dram": lines} if benchmark.level == "dram" else {}
    return Work({**moved, "byte_l1": element_bytes, **rows})


def _network(benchmark: Microbenchmark, memory: MemoryHierarchy) -> Work:
    item = ITEMS[benchmark.kernel]
    read, written, launches = NETWORK_NUMBERS[benchmark.kernel]
    count = (benchmark.working_set_bytes or 0) // item.size_bytes
    moved = _traffic(
        memory,
        benchmark.level,
        read_bytes=count * read * FLOAT_BYTES,
        written_bytes=count * written * FLOAT_BYTES,
    )
    return moved + Work({"flop_fp32": count * item.flop, "launch": launches})
