"""The sysfs folder of the PMU ``power`` of named machines, and its events, whose counts a test drives.

Counts are 64-bit, start at 0 when the event is opened, and are units of 2⁻³² J, as the kernel shows them.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

SCALE = "2.3283064365386962890625e-10"
COUNTS_PER_J = 2**32
CONFIGS = {"energy-cores": 1, "energy-pkg": 2, "energy-ram": 3, "energy-gpu": 4, "energy-psys": 5}


@dataclass
class FakeEvent:
    """One open event."""

    tree: PerfTree
    config: int
    cpu: int
    opened_at: int
    closed: bool = False

    def count(self) -> int:
        assert not self.closed
        error = self.tree.read_errors.get((self.config, self.cpu))
        if error:
            raise OSError(error, os.strerror(error))
        return self.tree.counts.get((self.config, self.cpu), 0) - self.opened_at

    def close(self) -> None:
        assert not self.closed
        self.closed = True


@dataclass
class PerfTree:
    """A machine: one CPU per socket, and the events that its PMU has."""

    root: Path
    cpu_root: Path
    counts: dict[tuple[int, int], int] = field(default_factory=dict)
    open_errors: dict[tuple[int, int], int] = field(default_factory=dict)
    read_errors: dict[tuple[int, int], int] = field(default_factory=dict)
    opened: list[FakeEvent] = field(default_factory=list)

    def open_event(self, *, pmu: int, config: int, cpu: int) -> FakeEvent:
        """What perf_event_open would do."""
        assert pmu == 32
        error = self.open_errors.get((config, cpu))
        if error:
            raise OSError(error, os.strerror(error))
        event = FakeEvent(self, config, cpu, self.counts.get((config, cpu), 0))
        self.opened.append(event)
        return event

    def forbid(self) -> None:
        """What a kernel does whose perf_event_paranoid is above 0, for a user without CAP_PERFMON."""
        for cpu in range(64):
            self.open_errors |= {(config, cpu): errno.EACCES for config in CONFIGS.values()}

    def spend_counts(self, event: str, cpu: int, counts: int) -> None:
        key = CONFIGS[event], cpu
        self.counts[key] = self.counts.get(key, 0) + counts

    @property
    def open_now(self) -> int:
        return sum(not event.closed for event in self.opened)


def perf_tree(
    folder: Path,
    *,
    events: Sequence[str],
    cpumask: str = "0",
    packages: Sequence[int] = (0,),
    cpus: Sequence[int] = (0,),
) -> PerfTree:
    """A PMU with some events, and the package that each CPU of its mask belongs to."""
    tree = PerfTree(root=folder / "power", cpu_root=folder / "cpu")
    (tree.root / "events").mkdir(parents=True)
    (tree.root / "type").write_text("32\n")
    (tree.root / "cpumask").write_text(f"{cpumask}\n")
    for name in events:
        (tree.root / "events" / name).write_text(f"event={CONFIGS[name]:#04x}\n")
        (tree.root / "events" / f"{name}.scale").write_text(f"{SCALE}\n")
        (tree.root / "events" / f"{name}.unit").write_text("Joules\n")
    for cpu, package in zip(cpus, packages, strict=True):
        topology = tree.cpu_root / f"cpu{cpu}" / "topology"
        topology.mkdir(parents=True)
        (topology / "physical_package_id").write_text(f"{package}\n")
    return tree


def client(folder: Path) -> PerfTree:
    """One socket of a hybrid or client machine: cores, graphics and platform, no DRAM."""
    return perf_tree(folder, events=["energy-pkg", "energy-cores", "energy-gpu", "energy-psys"])


def server(folder: Path) -> PerfTree:
    """Two sockets with DRAM."""
    return perf_tree(
        folder, events=["energy-pkg", "energy-ram"], cpumask="0,28", packages=(0, 1), cpus=(0, 28)
    )


def amd(folder: Path) -> PerfTree:
    """One package, whose cores only powercap shows."""
    return perf_tree(folder, events=["energy-pkg"])
