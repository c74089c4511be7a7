"""The design of the experiment: which microbenchmarks tell the terms of the energy model apart.

    idle                        idle_w                    nothing runs
    awake on 1 … all cores      awake_w, core_w           an empty loop
    duty cycle                  idle against awake        the same work in a fraction of the time
    load, l1 → dram             byte_<level>              one level more with each size
    store, copy, triad          byte_dram_write           reads and writes in different ratios
    gather, scatter             line_random_dram          whole lines at random addresses
    chase                       lines against time        one line after the other has come
    fma                         flop_<dtype>              registers only
    intensity                   flop against bytes        few to many operations on each byte
    launch                      launch                    empty calls
    softmax … matmul            nothing                   judge the model, are never in its fit
    sparse update, compaction   nothing                   judge the cost vector in the same way
    toggle                      nothing                   zeros: a band around costs of random data

An intensity sweep alone cannot tell time, awake power and bytes apart (rank 3 of 6); working sets, thread
counts, duty cycles and the awake idle loop can.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from calibration_data import MemoryHierarchy
from calibration_data.families import TOGGLE_FAMILY, ZEROS_SUFFIX
from calibration_data.terms import DTYPES
from profiler.device import Device
from profiler.microbenchmark import KernelName, Microbenchmark
from profiler.network_work import NETWORK_KERNELS
from profiler.placement import counts_that_reach, items, random_bytes, sizes, sparse, thread_counts, walk
from profiler.sparse_work import DENSITIES, ring_chunks

PlanName = Literal["quick", "full"]

QUICK_NETWORK_KERNELS = tuple(kernel for kernel in NETWORK_KERNELS if kernel != "matmul")
"""Those that judge a quick plan."""


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How each configuration is measured.

    What scatters from run to run is averaged by many short windows better than by few long ones, as long as a
    window is many ticks.

    Attributes:
        replicates: fewest windows that count.
        longest_s: more are taken until the mean is known well enough, or they last so long together.
        target_rel_ci: half width of the 95 % interval of the mean that is well enough, relative.
        preheat_s: work on all cores before the first configuration.
        window_s: shortest duration of such a window.
        idle_s: duration of the idle windows before and after.
        ticks: a window also spans at least this many update periods of the slowest counter.
    """

    replicates: int
    longest_s: float
    target_rel_ci: float
    preheat_s: float
    window_s: float
    idle_s: float
    ticks: int


PROTOCOLS: dict[PlanName, Protocol] = {
    "quick": Protocol(
        replicates=3,
        longest_s=5.0,
        target_rel_ci=0.01,
        preheat_s=10.0,
        window_s=0.5,
        idle_s=0.5,
        ticks=20,
    ),
    "full": Protocol(
        replicates=5,
        longest_s=21.0,
        target_rel_ci=0.003,
        preheat_s=60.0,
        window_s=1.0,
        idle_s=1.0,
        ticks=30,
    ),
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
    """The plan for a device, without what it cannot run, in randomised blocks.

    The order within a family is random, and every stretch of the campaign has its share of each family, so
    that drift (temperature, other users) lines up neither with a family nor with a working set.
    """
    full = name == "full"
    points = [*_points(device.memory, full=full), *network_points(device.memory, full=full)]
    points += (
        [*_more_traffic(device.memory), *_after_backprop(device.memory), *_zeros(points)] if full else []
    )
    supported = [point for point in _on_all_cores(points, device) if device.supports(point)]
    return Plan(
        name=name, seed=seed, points=_in_blocks(supported, random.Random(seed)), protocol=PROTOCOLS[name]
    )


def _on_all_cores(points: Sequence[Microbenchmark], device: Device) -> Iterator[Microbenchmark]:
    """Networks that a device cannot run on some of its cores, on all of them (torch's operators on a GPU)."""
    taken = {point.point for point in points}
    for point in points:
        if point.kernel in NETWORK_KERNELS and not device.supports(point):
            size, level = point.working_set_bytes or 0, point.level or "dram"
            point = items(point.kernel, device.memory, level, size, device.memory.cores)
            if point.point in taken:
                continue
            taken.add(point.point)
        yield point


def _in_blocks(points: Sequence[Microbenchmark], rng: random.Random) -> tuple[Microbenchmark, ...]:
    by_family: dict[str, list[Microbenchmark]] = {}
    for point in points:
        by_family.setdefault(point.family, []).append(point)
    placed = []
    for family in by_family.values():
        rng.shuffle(family)
        placed += [((place + rng.random()) / len(family), point) for place, point in enumerate(family)]
    return tuple(point for _, point in sorted(placed, key=lambda pair: pair[0]))


def _points(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    threads = thread_counts(memory.cores, full=full)
    yield from _background(memory, full=full)
    yield from _duty_cycles(memory, full=full)
    for level in memory.levels:
        few = full or level == "dram"
        for index, size in enumerate(sizes(memory, level, full=full)):
            counts = counts_that_reach(memory, level, size, full=full)
            for count in counts if few and index == 0 else counts[-2:]:
                yield walk("load", memory, level, size, count, suffix=f"-{index}")
        size = sizes(memory, level, full=False)[0]
        counts = counts_that_reach(memory, level, size, full=full)
        if counts and counts[-1] < memory.cores:
            # Its rate with all cores shows only where they walk the same lines.
            yield walk("load", memory, level, size, memory.cores, suffix="-shared", shared=True)
        most = len(counts) if full and level == "dram" else 2 if few else 1
        for count in counts[-most:]:
            yield walk("store", memory, level, size, count)
            yield walk("copy", memory, level, size, count)
    kernel: KernelName
    for kernel in ("gather", "scatter"):
        for count in threads if full else threads[-3:]:
            yield walk(kernel, memory, "dram", random_bytes(memory, count), count)
    for dtype in DTYPES:
        for count in threads if full and dtype in ("fp32", "fp64") else threads[-3:]:
            yield Microbenchmark(
                point=f"fma-{dtype}-t{count}", family="fma", kernel="fma", threads=count, dtype=dtype
            )
    yield from _intensities(memory, full=full)
    for count in threads if full else threads[-3:]:
        yield Microbenchmark(point=f"launch-t{count}", family="launch", kernel="launch", threads=count)


def _background(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    """Idle and awake; a full plan comes back to what tells them apart at several times of the campaign.

    Busy windows are many and hold the idle power too: without as many idle ones, and without one core
    against all of them, idle_w, awake_w and core_w would be known only together where a device idles high.
    """
    ends = sorted({1, memory.cores})
    yield Microbenchmark(point="idle", family="idle", kernel="idle", threads=0)
    for count in thread_counts(memory.cores, full=full):
        yield Microbenchmark(point=f"spin-t{count}", family="awake", kernel="spin", threads=count)
    for visit in range(2, 6) if full else ():
        yield Microbenchmark(point=f"idle-visit{visit}", family="idle", kernel="idle", threads=0)
        for count in ends if visit < 5 else ():
            name = f"spin-t{count}-visit{visit}"
            yield Microbenchmark(point=name, family="awake", kernel="spin", threads=count)


def _duty_cycles(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    cores = memory.cores
    size = sizes(memory, "dram", full=False)[0]
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
        yield walk("load", memory, "dram", size, cores, suffix=suffix, family="duty", duty=duty)


def _intensities(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    for level in memory.levels if full else (memory.levels[1], "dram"):
        size = sizes(memory, level, full=False)[0]
        counts = counts_that_reach(memory, level, size, full=full)
        for dtype in ("fp32", "fp64") if counts else ():
            # By turns on all cores and, in a full plan, on few: bytes and FLOP must not mean busy cores.
            for number, fma in enumerate((1, 4, 16, 64) if full else (2, 16)):
                yield walk(
                    "intensity",
                    memory,
                    level,
                    size,
                    counts[0] if full and number % 2 else counts[-1],
                    suffix=f"-{dtype}-fma{fma}",
                    dtype=dtype,
                    fma_per_element=fma,
                )


def _more_traffic(memory: MemoryHierarchy) -> Iterator[Microbenchmark]:
    """Bytes and lines at rates other than those of ``load`` and ``gather``: they must not mean time."""
    size = sizes(memory, "dram", full=False)[0]
    for count in thread_counts(memory.cores, full=True):
        yield walk("triad", memory, "dram", size, count, dtype="fp64")
    for count in sorted({1, memory.cores}):
        yield walk("chase", memory, "dram", random_bytes(memory, count), count)


def _after_backprop(memory: MemoryHierarchy) -> Iterator[Microbenchmark]:
    """What a cost vector prices, with few to all coordinates kept."""
    for density in DENSITIES:
        yield sparse("sparse-update", memory, memory.cores, density)
        if ring_chunks(density, memory):
            yield sparse("compaction", memory, memory.cores, density)


def _zeros(points: Sequence[Microbenchmark]) -> Iterator[Microbenchmark]:
    """Loads from DRAM and multiply-adds of the plan on all cores once more, on zeros."""
    cores = max(point.threads for point in points)
    for name in (f"load-dram-t{cores}-0", f"fma-fp32-t{cores}"):
        for point in points:
            if point.point == name:
                yield replace(point, point=f"{name}{ZEROS_SUFFIX}", family=TOGGLE_FAMILY, data="zeros")


def network_points(memory: MemoryHierarchy, *, full: bool) -> Iterator[Microbenchmark]:
    """Work as networks do it, in the second level and in DRAM; in a quick plan in one of both."""
    for number, kernel in enumerate(NETWORK_KERNELS if full else QUICK_NETWORK_KERNELS):
        for level in (memory.levels[1], "dram") if full else (("dram", memory.levels[1])[number % 2],):
            size = sizes(memory, level, full=False)[0]
            counts = counts_that_reach(memory, level, size, full=full)
            for count in counts[-2:] if full and level == "dram" else counts[-1:]:
                yield items(kernel, memory, level, size, count)
