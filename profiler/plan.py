"""The design of the experiment: which microbenchmarks tell the terms of the energy model apart.

    idle                        idle_w                    nothing runs
    awake on 1 … all cores      awake_w, core_w           an empty loop
    duty cycle                  idle against awake        the same work in a fraction of the time
    load, l1 → dram             byte_<level>              one level more with each size
    store, copy                 byte_dram_write           reads and writes in different ratios
    gather, scatter             line_random_dram          whole lines at random addresses
    fma                         flop_<dtype>              registers only
    intensity                   flop against bytes        few to many operations on each byte
    launch                      launch                    empty calls

An intensity sweep alone cannot tell time, awake power and bytes apart (rank 3 of 6); working sets, thread
counts, duty cycles and the awake idle loop can.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from calibration_data import MemoryHierarchy
from calibration_data.terms import DTYPES
from profiler.device import Device
from profiler.microbenchmark import KernelName, Microbenchmark

PlanName = Literal["quick", "full"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How each configuration is measured.

    Attributes:
        replicates: windows that count.
        window_s: shortest duration of such a window.
        idle_s: duration of the idle windows before and after.
        ticks: a window also spans at least this many update periods of the slowest counter.
    """

    replicates: int
    window_s: float
    idle_s: float
    ticks: int


PROTOCOLS: dict[PlanName, Protocol] = {
    "quick": Protocol(replicates=3, window_s=1.0, idle_s=0.5, ticks=20),
    "full": Protocol(replicates=5, window_s=2.0, idle_s=1.0, ticks=100),
}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Configurations in the order in which they run, and how each is measured."""

    name: PlanName
    seed: int
    points: tuple[Microbenchmark, ...]
    protocol: Protocol

    def digest(self, device_name: str) -> str:
        """Identity of a campaign: the same device, points, order and protocol."""
        text = repr((device_name, self.name, self.seed, self.points, self.protocol))
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a campaign stands: ``done`` of ``total`` configurations, ``point`` comes next."""

    done: int
    total: int
    point: str


def make_plan(device: Device, name: PlanName, *, seed: int = 0) -> Plan:
    """The plan for a device, without what it cannot run, in random order.

    Order is random so that drift (temperature, other users) does not line up with a family.
    """
    points = [point for point in _points(device.memory, full=name == "full") if device.supports(point)]
    random.Random(seed).shuffle(points)
    return Plan(name=name, seed=seed, points=tuple(points), protocol=PROTOCOLS[name])


def _points(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    threads = _thread_counts(memory.cores, full=full)
    yield Microbenchmark(point="idle", family="idle", kernel="idle", threads=0)
    for count in threads:
        yield Microbenchmark(point=f"spin-t{count}", family="awake", kernel="spin", threads=count)
    yield from _duty_cycles(memory, full=full)
    for level in memory.levels:
        sizes = _load_sizes(memory, level, full=full)
        for count in threads if full or level == "dram" else threads[-2:]:
            for index, size in enumerate(sizes):
                yield _walk("load", memory, level, size, count, suffix=f"-{index}")
    kernel: KernelName
    for kernel in ("store", "copy"):
        for level in memory.levels:
            for count in threads[-2:] if full or level == "dram" else threads[-1:]:
                yield _walk(kernel, memory, level, _load_sizes(memory, level, full=False)[-1], count)
    for kernel in ("gather", "scatter"):
        for count in threads if full else threads[-3:]:
            yield _walk(kernel, memory, "dram", _random_bytes(memory, count), count)
    for dtype in DTYPES:
        for count in threads if full else threads[-3:]:
            yield Microbenchmark(
                point=f"fma-{dtype}-t{count}", family="fma", kernel="fma", threads=count, dtype=dtype
            )
    yield from _intensities(memory, full=full)
    for count in threads if full else threads[-3:]:
        yield Microbenchmark(point=f"launch-t{count}", family="launch", kernel="launch", threads=count)


def _thread_counts(cores: int, *, full: bool) -> list[int]:
    counts = {1, cores // 2, cores} | ({cores // 4, 3 * cores // 4} if full else set())
    return sorted(count for count in counts if count >= 1)


def _duty_cycles(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    cores = memory.cores
    size = _load_sizes(memory, "dram", full=False)[-1]
    for duty in (0.25, 0.5, 0.75) if full else (0.25, 0.5):
        suffix = f"-duty{round(100 * duty)}"
        yield Microbenchmark(
            point=f"spin-t{cores}{suffix}", family="duty", kernel="spin", threads=cores, duty=duty
        )
        yield Microbenchmark(
            point=f"fma-fp32-t{cores}{suffix}",
            family="duty",
            kernel="fma",
            threads=cores,
            dtype="fp32",
            duty=duty,
        )
        yield _walk("load", memory, "dram", size, cores, suffix=suffix, family="duty", duty=duty)


def _intensities(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    for level in memory.levels if full else (memory.levels[1], "dram"):
        size = _load_sizes(memory, level, full=False)[-1]
        for dtype in ("fp32", "fp64"):
            for fma in (1, 2, 4, 8, 16, 32, 64) if full else (2, 16):
                yield _walk(
                    "intensity",
                    memory,
                    level,
                    size,
                    memory.cores,
                    suffix=f"-{dtype}-fma{fma}",
                    dtype=dtype,
                    fma_per_element=fma,
                )


def _walk(
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
) -> Microbenchmark:
    """A kernel with a working set; ``size`` is of one thread at private levels, of all at shared ones."""
    total = size * threads if _is_private(memory, level) else size
    share = _whole_lines(total // threads, memory.line_bytes)
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
    )


def _is_private(memory: MemoryHierarchy, level: str) -> bool:
    """Whether each core has this level for itself: the last cache and DRAM are shared."""
    return level not in (memory.levels[-2], "dram")


def _load_sizes(memory: MemoryHierarchy, level: str, *, full: bool) -> list[int]:
    """Working sets that live in a level beyond doubt: twice the level before it to half of its own.

    From half of L1 to four times the last cache; between levels a working set lives partly in both, and
    the bytes that each serves are not known exactly.
    """
    if level == "dram":
        return [4 * memory.last_cache_bytes] + ([6 * memory.last_cache_bytes] if full else [])
    capacity = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes or 0}[level]
    half = capacity // 2
    if level == "l1":
        return [half // 2, half] if full else [half]
    inner = memory.levels[memory.levels.index(level) - 1]
    inner_bytes = {"l1": memory.l1_bytes, "l2": memory.l2_bytes}[inner]
    if not _is_private(memory, level):
        inner_bytes *= memory.cores
    smallest = min(2 * inner_bytes, half)
    return [smallest, half] if full and smallest < half else [half]


def _random_bytes(memory: MemoryHierarchy, threads: int) -> int:
    """At least four times the last cache, a power of two of lines for each thread (a full-period walk)."""
    lines = -(-4 * memory.last_cache_bytes // (threads * memory.line_bytes))
    return int(threads * memory.line_bytes * 2 ** (lines - 1).bit_length())


def _whole_lines(size: int, line_bytes: int) -> int:
    """Up to an even number of lines, so that a copy has as many to read as to write."""
    return -(-size // (2 * line_bytes)) * 2 * line_bytes
