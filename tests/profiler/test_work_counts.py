"""Counted bytes against a simulated cache: every access of a loop, one by one, through LRU levels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest
from fakes.lru_cache import Cache

from calibration_data import MemoryHierarchy, Work
from profiler.microbenchmark import (
    CHASE_STEPS,
    FMA_PER_LOOP,
    LAUNCHES_PER_LOOP,
    KernelName,
    Microbenchmark,
    work_per_loop,
)

LINE = 64
MEMORY = MemoryHierarchy(l1_bytes=4 * LINE, l2_bytes=16 * LINE, llc_bytes=64 * LINE, line_bytes=LINE, cores=1)
LINES_AT_LEVEL = {"l1": 4, "l2": 16, "llc": 64, "dram": 256}
THREES_AT_LEVEL = {"l1": 3, "l2": 12, "llc": 48, "dram": 258}
NAMES = {1: "byte_l2", 2: "byte_llc"}

Access = tuple[int, bool]
"""Address of an 8-byte element, and whether it is written."""


def one_loop(kernel: KernelName, lines: int) -> Iterator[Access]:
    """Every access of one loop, in order."""
    elements = [8 * index for index in range(lines * LINE // 8)]
    order = random.Random(1).sample(range(lines), lines)
    match kernel:
        case "load" | "intensity":
            yield from ((address, False) for address in elements)
        case "store":
            yield from ((address, True) for address in elements)
        case "copy":
            half = len(elements) // 2
            for source, target in zip(elements[:half], elements[half:], strict=True):
                yield from ((source, False), (target, True))
        case "triad":
            third = len(elements) // 3
            source, other, target = (elements[place * third : (place + 1) * third] for place in range(3))
            for addresses in zip(source, other, target, strict=True):
                yield from zip(addresses, (False, False, True), strict=True)
        case "gather":
            yield from ((line * LINE, False) for line in order)
        case "scatter":
            for line in order:
                yield from ((line * LINE, False), (line * LINE, True))


def simulated_bytes(kernel: KernelName, lines: int) -> dict[str, float]:
    """Bytes by term of one loop, once earlier loops have filled the caches."""
    llc = Cache(64, None)
    l2 = Cache(16, llc)
    l1 = Cache(4, l2)
    element_bytes = 0
    for loop in range(4):
        if loop == 3:
            element_bytes = 0
            for cache in (l1, l2, llc):
                cache.read_bytes = cache.written_bytes = 0
        for address, write in one_loop(kernel, lines):
            element_bytes += 8
            l1.access(address // LINE, write=write)
    return {
        "byte_l1": element_bytes,
        "byte_l2": l1.read_bytes + l1.written_bytes,
        "byte_llc": l2.read_bytes + l2.written_bytes,
        "byte_dram_read": llc.read_bytes,
        "byte_dram_write": llc.written_bytes,
    }


def lines_of(kernel: KernelName, level: str) -> int:
    return (THREES_AT_LEVEL if kernel == "triad" else LINES_AT_LEVEL)[level]


def benchmark(kernel: KernelName, level: str, *, threads: int = 1, fma: int = 0) -> Microbenchmark:
    return Microbenchmark(
        point=f"{kernel}-{level}",
        family=kernel,
        kernel=kernel,
        threads=threads,
        level=level,  # type: ignore[arg-type]
        working_set_bytes=lines_of(kernel, level) * LINE,
        dtype={"intensity": "fp32", "triad": "fp64"}.get(kernel),
        fma_per_element=fma,
    )


@pytest.mark.parametrize(
    ("kernel", "level"),
    [
        *product(("load", "store", "copy", "triad", "gather", "scatter"), LINES_AT_LEVEL),
    ],
)
def test_counted_bytes_are_those_that_a_cache_moves(kernel: KernelName, level: str) -> None:
    counted = work_per_loop(benchmark(kernel, level), MEMORY)
    simulated = Work(simulated_bytes(kernel, lines_of(kernel, level)))
    assert {name: amount for name, amount in counted.items() if name.startswith("byte_")} == dict(simulated)


@pytest.mark.parametrize("kernel", ["gather", "scatter"])
def test_only_lines_from_dram_open_a_row(kernel: KernelName) -> None:
    assert work_per_loop(benchmark(kernel, "dram"), MEMORY)["line_random_dram"] == LINES_AT_LEVEL["dram"]
    for level in ("l1", "l2", "llc"):
        assert work_per_loop(benchmark(kernel, level), MEMORY)["line_random_dram"] == 0


def test_triad_does_a_product_and_a_sum_for_each_number_it_writes() -> None:
    work = work_per_loop(benchmark("triad", "llc"), MEMORY)
    assert work["flop_fp64"] == 2 * (THREES_AT_LEVEL["llc"] // 3) * LINE / 8


def test_steps_of_a_chase_are_as_many_gathered_lines() -> None:
    """A random cycle comes back to a line when all others have passed: what is walked of it is the same."""
    chase = work_per_loop(benchmark("chase", "dram", threads=2), MEMORY)
    gathered = work_per_loop(benchmark("gather", "dram"), MEMORY)
    assert chase == gathered * (2 * CHASE_STEPS / LINES_AT_LEVEL["dram"])


@pytest.mark.parametrize("fma", [0, 1, 7])
def test_intensity_moves_like_load_and_counts_its_operations(fma: int) -> None:
    intensity = work_per_loop(benchmark("intensity", "llc", fma=fma), MEMORY)
    load = work_per_loop(benchmark("load", "llc"), MEMORY)
    elements = LINES_AT_LEVEL["llc"] * LINE // 4
    assert intensity == load + Work({"flop_fp32": sum(2 * fma + 1 for _ in range(elements))})


def test_kernels_without_a_working_set_count_by_thread() -> None:
    fma = Microbenchmark(point="f", family="fma", kernel="fma", threads=3, dtype="fp64")
    launch = Microbenchmark(point="l", family="launch", kernel="launch", threads=3)
    spin = Microbenchmark(point="s", family="awake", kernel="spin", threads=3)
    assert work_per_loop(fma, MEMORY) == Work({"flop_fp64": 3 * 2 * FMA_PER_LOOP})
    assert work_per_loop(launch, MEMORY) == Work({"launch": 3 * LAUNCHES_PER_LOOP})
    assert work_per_loop(spin, MEMORY) == Work()


def test_a_working_set_without_a_level_is_refused() -> None:
    with pytest.raises(ValueError, match="memory level"):
        work_per_loop(Microbenchmark(point="x", family="load", kernel="load", working_set_bytes=4096), MEMORY)
