"""Cache sizes of this machine, and which of its cores share them, from the kernel's cpu tree.

Five numbers describe a memory hierarchy only where all cores are alike and share one last-level cache.
So a CPU device is the cores like the first allowed one: same cache sizes, same last-level cache. On
most machines that is all of them; where it is one chiplet or one kind of core of several, the process's
affinity chooses which (``taskset``).
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from calibration_data import MemoryHierarchy, UsageError

CPU_ROOT = Path("/sys/devices/system/cpu")

_UNIT_BYTES = {"K": 1024, "M": 1024**2, "G": 1024**3}


@dataclass(frozen=True, kw_only=True)
class CpuCaches:
    """What a CPU device consists of.

    Attributes:
        memory: sizes of the levels, and the number of cores.
        cpus: one logical CPU of each core, lowest first.
    """

    memory: MemoryHierarchy
    cpus: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Cache:
    size_bytes: int
    line_bytes: int
    cpus: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class _CpuLevels:
    """Caches on the way of one logical CPU to memory; ``llc`` is None where the second is the last."""

    l1: _Cache
    l2: _Cache
    llc: _Cache | None

    @property
    def l2_bytes(self) -> int:
        """Second level of one core; whole where it is the last one, which all share."""
        if self.llc is None:
            return self.l2.size_bytes
        cores = max(1, len(self.l2.cpus) // len(self.l1.cpus))
        return self.l2.size_bytes // cores

    @property
    def likeness(self) -> tuple[int, int, _Cache]:
        """Equal for cores that belong to one device."""
        return self.l1.size_bytes, self.l2_bytes, self.llc or self.l2


def read_cpu_caches(root: Path = CPU_ROOT, *, allowed: Iterable[int] | None = None) -> CpuCaches:
    """Memory hierarchy of the cores that this process may use.

    Args:
        root: the tree documented in the kernel's ``ABI/testing/sysfs-devices-system-cpu``.
        allowed: logical CPUs to consider; the process's affinity if None.

    Raises:
        UsageError: the tree does not show the caches of these CPUs.
    """
    candidates = sorted(os.sched_getaffinity(0) if allowed is None else allowed)
    levels = {cpu: _read_levels(root / f"cpu{cpu}" / "cache") for cpu in candidates}
    first = levels[candidates[0]]
    cpu_of_core: dict[frozenset[int], int] = {}
    for cpu in candidates:
        if levels[cpu].likeness == first.likeness:
            cpu_of_core.setdefault(levels[cpu].l1.cpus, cpu)
    memory = MemoryHierarchy(
        l1_bytes=first.l1.size_bytes,
        l2_bytes=first.l2_bytes,
        llc_bytes=None if first.llc is None else first.llc.size_bytes,
        line_bytes=first.l1.line_bytes,
        cores=len(cpu_of_core),
    )
    return CpuCaches(memory=memory, cpus=tuple(cpu_of_core.values()))


def parse_cpu_list(text: str) -> frozenset[int]:
    """Logical CPUs of a kernel list: ``"0-3,8"`` → {0, 1, 2, 3, 8}.

    Raises:
        ValueError: the text is no such list.
    """
    cpus: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def _read_levels(folder: Path) -> _CpuLevels:
    by_level: dict[int, _Cache] = {}
    try:
        for index in sorted(folder.glob("index*")):
            if _read(index, "type") != "Instruction":
                by_level[int(_read(index, "level"))] = _read_cache(index)
        last = max(by_level, default=0)
        return _CpuLevels(l1=by_level[1], l2=by_level[2], llc=by_level[last] if last > 2 else None)
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"{folder} does not show a first and a second cache level, without which no byte can be charged"
            " to a level.",
            next_step="In a container mount the host's /sys read-only; in a virtual machine let the"
            " hypervisor pass the host's caches through; or use a simulated device: --device sim:server-cpu.",
        ) from error


def _read_cache(index: Path) -> _Cache:
    size = _read(index, "size")
    return _Cache(
        size_bytes=int(size[:-1]) * _UNIT_BYTES[size[-1]],
        line_bytes=int(_read(index, "coherency_line_size")),
        cpus=parse_cpu_list(_read(index, "shared_cpu_list")),
    )


def _read(folder: Path, name: str) -> str:
    return (folder / name).read_text().strip()
