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
        few = full or level == "dram"
        for index, size in enumerate(_sizes(memory, level, full=full)):
            counts = _counts_that_reach(memory, level, size, full=full)
            for count in counts if few else counts[-2:]:
                yield _walk("load", memory, level, size, count, suffix=f"-{index}")
        size = _sizes(memory, level, full=False)[0]
        counts = _counts_that_reach(memory, level, size, full=full)
        if counts and counts[-1] < memory.cores:
            # Its rate with all cores shows only where they walk the same lines.
            yield _walk("load", memory, level, size, memory.cores, suffix="-shared", shared=True)
        for count in counts[-2:] if few else counts[-1:]:
            yield _walk("store", memory, level, size, count)
            yield _walk("copy", memory, level, size, count)
    kernel: KernelName
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
    size = _sizes(memory, "dram", full=False)[0]
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
        size = _sizes(memory, level, full=False)[0]
        counts = _counts_that_reach(memory, level, size, full=full)
        for dtype in ("fp32", "fp64") if counts else ():
            for fma in (1, 2, 4, 8, 16, 32, 64) if full else (2, 16):
                yield _walk(
                    "intensity",
                    memory,
                    level,
                    size,
                    counts[-1],
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
    shared: bool = False,
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
        shared=shared,
    )


def _is_private(memory: MemoryHierarchy, level: str) -> bool:
    """Whether each core has this level for itself: the last cache and DRAM are shared."""
    return level not in (memory.levels[-2], "dram")


def _sizes(memory: MemoryHierarchy, level: str, *, full: bool) -> list[int]:
    """Working sets from half of L1 to four times the last cache, the usual one of each level first."""
    if level == "dram":
        return [4 * memory.last_cache_bytes] + ([6 * memory.last_cache_bytes] if full else [])
    capacity = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes or 0}[level]
    return [capacity // 2] + ([capacity // 4] if full else [])


def _counts_that_reach(memory: MemoryHierarchy, level: str, size: int, *, full: bool) -> list[int]:
    """Thread counts whose shares live in the level beyond doubt: twice as large as the level before it.

    Between levels a working set lives partly in both, and the bytes that each serves are not known.
    """
    before = {"l2": memory.l1_bytes, "llc": memory.l2_bytes}.get(level, 0)
    if _is_private(memory, level):
        return _thread_counts(memory.cores, full=full) if size >= 2 * before else []
    most = memory.cores if before == 0 else min(memory.cores, size // (2 * before))
    return _thread_counts(most, full=full)


def _random_bytes(memory: MemoryHierarchy, threads: int) -> int:
    """At least four times the last cache, a power of two of lines for each thread (a full-period walk)."""
    lines = -(-4 * memory.last_cache_bytes // (threads * memory.line_bytes))
    return int(threads * memory.line_bytes * 2 ** (lines - 1).bit_length())


def _whole_lines(size: int, line_bytes: int) -> int:
    """Up to an even number of lines, so that a copy has as many to read as to write."""
    return -(-size // (2 * line_bytes)) * 2 * line_bytes
