"""Which RAPL zones of a powercap tree count, under which names, and which are left out.

The kernel shows every zone twice: nested below its control type, and as a symbolic link in one flat folder.

    powercap/intel-rapl/intel-rapl:0/name               package-0
    powercap/intel-rapl/intel-rapl:0/intel-rapl:0:0/name    dram
    powercap/intel-rapl:0:0  ──►  the same folder
    powercap/intel-rapl-mmio:0/name                     package-0, the same counter through another bus

A zone is known by the content of its ``name`` file, never by its number: on client machines zone 1 is
``psys``, not a second socket. (Linux, Documentation/power/powercap/powercap.rst and
drivers/powercap/intel_rapl_common.c.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from profiler.errors import SensorMissingError, SensorPermissionError
from profiler.sensors.left_out import LeftOut

_ZONE_ID = re.compile(r"(?P<control>intel-rapl(?:-[a-z]+)?)(?P<numbers>(?::\d+)+)", re.ASCII)
_PACKAGE_NAME = re.compile(r"package-\d+(?:-die-\d+)?", re.ASCII)
_PLATFORM_NAME = re.compile(r"psys(?:-\d+)?", re.ASCII)
_PART_NAMES = ("core", "uncore", "dram")
_MAX_NAME_CHARACTERS = 40


@dataclass(frozen=True, kw_only=True)
class Zone:
    """One RAPL zone whose counter stands for one domain.

    Attributes:
        domain: ``package-0``, ``package-0-die-1``, ``core-0``, ``uncore-0``, ``dram-0`` or ``psys``.
        folder: where its files are.
    """

    domain: str
    folder: Path


@dataclass(frozen=True, kw_only=True)
class ZoneTree:
    """All zones of a tree: those that count, by rising zone number, and those that do not."""

    zones: tuple[Zone, ...]
    left_out: tuple[LeftOut, ...]


def find_zones(root: Path) -> ZoneTree:
    """Walk a powercap tree.

    Args:
        root: the powercap folder, or a control type folder (``intel-rapl``) below it.

    Raises:
        SensorMissingError: the folder does not exist or holds no RAPL zone at all.
        SensorPermissionError: the folder may not be listed.
    """
    folders: dict[str, Path] = {}
    left_out: list[LeftOut] = []
    for folder in _zone_folders(root):
        if _ZONE_ID.fullmatch(folder.name) is None:
            left_out.append(LeftOut(source=str(folder), reason="its folder name has no zone number"))
        else:
            folders.setdefault(folder.name, folder)
    names = {zone_id: _read_name(folder) for zone_id, folder in folders.items()}
    chosen: dict[str, Zone] = {}
    for zone_id in sorted(folders, key=_sort_key):
        domain, problem = _domain(zone_id, names)
        if problem:
            left_out.append(LeftOut(source=str(folders[zone_id]), reason=problem))
        elif domain in chosen:
            twin = chosen[domain].folder.name
            left_out.append(
                LeftOut(source=str(folders[zone_id]), reason=f"same counter as {twin} ({domain})")
            )
        else:
            chosen[domain] = Zone(domain=domain, folder=folders[zone_id])
    if not chosen and not left_out:
        raise _no_zone(root)
    return ZoneTree(zones=tuple(chosen.values()), left_out=tuple(left_out))


def _zone_folders(root: Path) -> Iterator[Path]:
    """Folders named like RAPL zones, the shallowest first, each real folder once.

    Only names that begin with ``intel-rapl`` are entered, so the links ``device``, ``subsystem`` and
    ``power`` are never followed; a link to a folder that was already seen is not entered again.
    """
    level = [root]
    seen: set[Path] = set()
    while level:
        below: list[Path] = []
        for folder in level:
            for child in _children(folder, root):
                real = child.resolve()
                if real in seen:
                    continue
                seen.add(real)
                if ":" in child.name:
                    yield child
                below.append(child)
        level = below


def _children(folder: Path, root: Path) -> list[Path]:
    try:
        return sorted(
            child for child in folder.iterdir() if child.name.startswith("intel-rapl") and child.is_dir()
        )
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SensorMissingError(
            f"There is no powercap tree at {root} ({error.strerror}).",
            next_step="Load the kernel's RAPL driver (modprobe intel_rapl_msr); virtual machines have none;"
            " in a container mount the host's tree and give its place: --powercap-root DIR.",
        ) from error
    except PermissionError as error:
        raise SensorPermissionError(
            f"The folder {folder} may not be listed ({error.strerror}).",
            next_step=f"Let your group enter it: chmod g+rx {folder}.",
        ) from error


def _no_zone(root: Path) -> SensorMissingError:
    return SensorMissingError(
        f"The powercap tree at {root} holds no RAPL zone.",
        next_step="Load the kernel's RAPL driver (modprobe intel_rapl_msr); virtual machines have none.",
    )


def _read_name(folder: Path) -> str | OSError:
    try:
        return (folder / "name").read_text(encoding="ascii", errors="replace").strip()
    except OSError as error:
        return error


def _domain(zone_id: str, names: dict[str, str | OSError]) -> tuple[str, str]:
    """Domain of a zone, or the reason why it has none."""
    name = names[zone_id]
    if isinstance(name, OSError):
        return "", f"its name file cannot be read ({name.strerror})"
    if _PACKAGE_NAME.fullmatch(name):
        package = name.split("-die-", 1)[0]
        if package != name and package in names.values():
            return "", f"its counter is part of {package}"
        return name, ""
    if _PLATFORM_NAME.fullmatch(name):
        return name, ""
    if name not in _PART_NAMES:
        return "", f"its name {name[:_MAX_NAME_CHARACTERS]!r} is none that RAPL has"
    parent = names.get(zone_id.rpartition(":")[0])
    if not isinstance(parent, str) or not _PACKAGE_NAME.fullmatch(parent):
        return "", f"the package that this {name} belongs to cannot be told"
    return f"{name}-{parent.removeprefix('package-')}", ""


def _sort_key(zone_id: str) -> tuple[bool, list[int], str]:
    """Machine-register zones before their memory-mapped twins, then by number."""
    control, *numbers = zone_id.split(":")
    return control.endswith("-mmio"), [int(number) for number in numbers], control
