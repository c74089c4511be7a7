"""Powercap trees of named machines in a folder, with counters that obey physics.

Counters rise and start again at their range; energy of a part is energy of what contains it; a mirror shows
the counter that it mirrors. The layout is the kernel's: zones nested below their control type, with links to
all of them in one flat folder (``both``), or one of the two alone.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Layout = Literal["both", "nested", "flat"]
LAYOUTS: tuple[Layout, ...] = ("both", "nested", "flat")

RANGE_UJ = 262_143_328_850
"""2³² steps of 61 µJ, as Intel machines show it."""

DRAM_RANGE_UJ = 65_532_610_987
"""2³² steps of 15.3 µJ, as servers with a fixed DRAM unit show it."""


@dataclass
class Counter:
    """One hardware counter: the zones that show it, and the counter that contains it."""

    range_uj: int
    within: str | None
    energy_uj: int = 0
    folders: list[Path] = field(default_factory=list)


class PowercapTree:
    """A tree under construction, whose counters can be driven."""

    def __init__(self, root: Path, layout: Layout = "both") -> None:
        self.root = root
        self.layout = layout
        self._counters: dict[str, Counter] = {}
        root.mkdir(parents=True, exist_ok=True)

    def add_zone(
        self, zone_id: str, name: str, *, counter: str, range_uj: int = RANGE_UJ, within: str | None = None
    ) -> Path:
        """Make a zone's folder; zones that are given the same ``counter`` are mirrors of each other."""
        folder = self._make_folder(zone_id)
        (folder / "name").write_text(f"{name}\n")
        (folder / "max_energy_range_uj").write_text(f"{range_uj}\n")
        shown = self._counters.setdefault(counter, Counter(range_uj=range_uj, within=within))
        shown.folders.append(folder)
        self.set_uj(counter, shown.energy_uj)
        return folder

    def _make_folder(self, zone_id: str) -> Path:
        control, *numbers = zone_id.split(":")
        nested = Path(control, *(":".join([control, *numbers[: end + 1]]) for end in range(len(numbers))))
        if self.layout == "flat":
            folder = self.root / zone_id
            folder.mkdir()
            return folder
        folder = self.root / nested
        folder.mkdir(parents=True)
        (folder / "power").mkdir()
        (folder / "subsystem").symlink_to(os.path.relpath(self.root, folder))
        (folder / "device").symlink_to("..")
        if self.layout == "both":
            (self.root / zone_id).symlink_to(nested)
        return folder

    def folder(self, counter: str) -> Path:
        """Folder of the first zone that shows a counter."""
        return self._counters[counter].folders[0]

    def folders(self, counter: str) -> list[Path]:
        """Folders of all zones that show a counter."""
        return list(self._counters[counter].folders)

    def range_uj(self, counter: str) -> int:
        return self._counters[counter].range_uj

    def energy_file(self, counter: str) -> Path:
        return self.folder(counter) / "energy_uj"

    def energy_uj(self, counter: str) -> int:
        return self._counters[counter].energy_uj

    def set_uj(self, counter: str, energy_uj: int) -> None:
        """Put a counter somewhere in its range."""
        shown = self._counters[counter]
        assert 0 <= energy_uj < shown.range_uj
        shown.energy_uj = energy_uj
        for folder in shown.folders:
            (folder / "energy_uj").write_text(f"{energy_uj}\n")

    def spend(self, counter: str, energy_uj: int) -> None:
        """Use energy in a domain: its counter and those that contain it rise, and wrap at their range."""
        shown = self._counters[counter]
        self.set_uj(counter, (shown.energy_uj + energy_uj) % shown.range_uj)
        if shown.within is not None:
            self.spend(shown.within, energy_uj)


def client(root: Path, layout: Layout = "both") -> PowercapTree:
    """One socket with graphics, a platform zone, and the package once more through another bus."""
    tree = PowercapTree(root, layout)
    tree.add_zone("intel-rapl:1", "psys", counter="psys")
    tree.add_zone("intel-rapl:0", "package-0", counter="package-0", within="psys")
    tree.add_zone("intel-rapl:0:0", "core", counter="core-0", within="package-0")
    tree.add_zone("intel-rapl:0:1", "uncore", counter="uncore-0", within="package-0")
    tree.add_zone("intel-rapl-mmio:0", "package-0", counter="package-0")
    return tree


def server(root: Path, layout: Layout = "both") -> PowercapTree:
    """Two sockets with DRAM."""
    tree = PowercapTree(root, layout)
    for socket in (0, 1):
        tree.add_zone(f"intel-rapl:{socket}", f"package-{socket}", counter=f"package-{socket}")
        tree.add_zone(f"intel-rapl:{socket}:0", "dram", counter=f"dram-{socket}", range_uj=DRAM_RANGE_UJ)
    return tree


def amd(root: Path, layout: Layout = "both") -> PowercapTree:
    """One package with its cores, no DRAM."""
    tree = PowercapTree(root, layout)
    tree.add_zone("intel-rapl:0", "package-0", counter="package-0")
    tree.add_zone("intel-rapl:0:0", "core", counter="core-0", within="package-0")
    return tree


def dies(root: Path, *, mirrored: bool, layout: Layout = "both") -> PowercapTree:
    """One package of two dies, whose zones show one socket-wide counter or one of their own."""
    tree = PowercapTree(root, layout)
    for die in (0, 1):
        counter = "package-0-die-0" if mirrored else f"package-0-die-{die}"
        tree.add_zone(f"intel-rapl:{die}", f"package-0-die-{die}", counter=counter)
        tree.add_zone(f"intel-rapl:{die}:0", "core", counter=f"core-0-die-{die}", within=counter)
    return tree


def malformed(root: Path, layout: Layout = "both") -> PowercapTree:
    """One good package among zones that no kernel should show."""
    tree = PowercapTree(root, layout)
    tree.add_zone("intel-rapl:0", "package-0", counter="package-0")
    tree.add_zone("intel-rapl:a", "package-7", counter="lettered")
    (tree.add_zone("intel-rapl:1", "", counter="nameless") / "name").unlink()
    tree.add_zone("intel-rapl:2", "toaster", counter="toaster")
    tree.add_zone("intel-rapl:3:0", "dram", counter="orphan")
    return tree


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilitySets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextmanager
def bound_by_permissions() -> Iterator[None]:
    """Let file permissions bind this thread, also where root runs the tests.

    Root passes them by two capabilities (capabilities(7)): CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, bits
    1 and 2, which are put down for a while.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    header = _CapabilityHeader(version=0x20080522, pid=0)
    sets = (_CapabilitySets * 2)()
    assert libc.capget(ctypes.byref(header), sets) == 0
    effective = sets[0].effective
    sets[0].effective = effective & ~0b110
    assert libc.capset(ctypes.byref(header), sets) == 0
    try:
        yield
    finally:
        sets[0].effective = effective
        assert libc.capset(ctypes.byref(header), sets) == 0
