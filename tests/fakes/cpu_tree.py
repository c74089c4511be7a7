"""Builds the part of /sys and /proc that describes a processor, in a temporary folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FakeCache:
    """One cache, as every CPU that shares it sees it."""

    level: int
    kind: str
    size: str
    cpus: Sequence[int]
    line_bytes: int = 64


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def write_caches(cpu_root: Path, caches: Sequence[FakeCache]) -> None:
    """Lay the caches out below ``cpu_root`` as the kernel does: one numbered folder per CPU and cache."""
    seen: dict[int, int] = {}
    for cache in caches:
        for cpu in cache.cpus:
            folder = cpu_root / f"cpu{cpu}" / "cache" / f"index{seen.setdefault(cpu, 0)}"
            seen[cpu] += 1
            write(folder / "level", str(cache.level))
            write(folder / "type", cache.kind)
            write(folder / "size", cache.size)
            write(folder / "coherency_line_size", str(cache.line_bytes))
            write(folder / "shared_cpu_list", ",".join(map(str, cache.cpus)))


def private_caches(cores: Sequence[Sequence[int]], *, l1: str = "32K", l2: str = "1024K") -> list[FakeCache]:
    """First and second level of some cores, each given by its logical CPUs."""
    return [
        cache
        for cpus in cores
        for cache in (
            FakeCache(1, "Data", l1, cpus),
            FakeCache(1, "Instruction", "32K", cpus),
            FakeCache(2, "Unified", l2, cpus),
        )
    ]
