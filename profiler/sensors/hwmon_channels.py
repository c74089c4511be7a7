"""Which files of a hwmon tree tell energy or power, and under which label.

    hwmon3/name                ina3221
    hwmon3/in1_label           VDD_IN            a rail of a Jetson: power = in1_input (mV) · curr1_input (mA)
    hwmon4/energy1_input       µJ, a counter     hwmon4/energy1_label   pkg
    hwmon5/power1_input        µW                hwmon5/power1_average  µW, over power1_average_interval ms

(Linux, Documentation/hwmon/sysfs-interface.rst and ina3221.rst.)
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from profiler.errors import SensorMissingError, SensorPermissionError
from profiler.sensors.left_out import LeftOut

UPDATE_PERIOD_S = 0.1
"""Assumed where the chip does not tell: what hwmon chips take at the most for one conversion of all rails."""

_RAILS = (1, 2, 3)
"""An INA3221 has three channels; its further voltages are those of the shunts."""

_OF_RAPL = frozenset({"amd_energy"})
_LONGEST_LABEL = 40


@dataclass(frozen=True, kw_only=True)
class Channel:
    """One domain of a chip.

    Attributes:
        domain: ``rail-`` and its label in lower case.
        files: one counter in µJ, one power in µW, or voltage in mV and current in mA.
        is_counter: whether the one file counts energy.
        update_period_s: of the chip.
        averaging_window_s: over which a power averages; None if the chip does not tell.
    """

    domain: str
    files: tuple[Path, ...]
    is_counter: bool
    update_period_s: float
    averaging_window_s: float | None


def find_channels(root: Path) -> tuple[list[Channel], list[LeftOut]]:
    """Walk a hwmon tree.

    Args:
        root: the hwmon folder.

    Returns:
        channels in the order of the chips, each domain once; and what is not read, with the reason.

    Raises:
        SensorMissingError: there is no such folder.
        SensorPermissionError: it may not be listed.
    """
    chosen: dict[str, Channel] = {}
    left_out: list[LeftOut] = []
    for folder in _chips(root):
        chip = _text(folder / "name") or folder.name
        if chip in _OF_RAPL:
            left_out.append(
                LeftOut(source=str(folder), reason="its counters are the processor's, read by RAPL")
            )
            continue
        for label, channel in _channels(folder, chip):
            domain = next(name for name in _names(label, chip, folder) if name not in chosen)
            chosen[domain] = replace(channel, domain=domain)
    return list(chosen.values()), left_out


def _chips(root: Path) -> list[Path]:
    try:
        folders = [folder for folder in root.iterdir() if re.fullmatch(r"hwmon\d+", folder.name, re.ASCII)]
    except PermissionError as error:
        raise SensorPermissionError(
            f"The folder {root} may not be listed ({error.strerror}).",
            next_step=f"Let your group enter it: chmod g+rx {root}.",
        ) from error
    except OSError as error:
        raise SensorMissingError(
            f"There is no hwmon tree at {root} ({error.strerror}).",
            next_step="In a container mount the host's tree and give its place: --hwmon-root DIR.",
        ) from error
    return sorted(folders, key=lambda folder: int(folder.name.removeprefix("hwmon")))


def _channels(folder: Path, chip: str) -> Iterator[tuple[str, Channel]]:
    """Labels and channels of one chip; the domain is not named yet."""
    interval_ms = _number(folder / "update_interval")
    period_s = interval_ms / 1000 if interval_ms else UPDATE_PERIOD_S
    has_power = False
    for name in sorted(os.listdir(folder)):
        match = re.fullmatch(r"(energy|power)(\d+)_(input|average)", name, re.ASCII)
        if match is None or (match.group(1) == "energy" and match.group(3) == "average"):
            continue
        kind, number, way = match.groups()
        # Of a power that is shown both ways the instant one is taken: it follows sooner.
        if way == "average" and (folder / f"{kind}{number}_input").exists():
            continue
        has_power = has_power or kind == "power"
        interval_ms = _number(folder / f"{kind}{number}_average_interval") if way == "average" else None
        yield (
            _text(folder / f"{kind}{number}_label") or f"{chip}-{kind}{number}",
            Channel(
                domain="",
                files=(folder / name,),
                is_counter=kind == "energy",
                update_period_s=period_s,
                averaging_window_s=interval_ms / 1000 if interval_ms else None,
            ),
        )
    for number in _RAILS:
        label = _text(folder / f"in{number}_label")
        files = (folder / f"in{number}_input", folder / f"curr{number}_input")
        if label and not has_power and all(file.exists() for file in files):
            yield (
                label,
                Channel(
                    domain="",
                    files=files,
                    is_counter=False,
                    update_period_s=period_s,
                    averaging_window_s=None,
                ),
            )


def _names(label: str, chip: str, folder: Path) -> Iterator[str]:
    """Domain names to try in turn, the shortest first."""
    slug = re.sub(r"[^a-z0-9_.+]+", "-", label.lower()).strip("-")[:_LONGEST_LABEL] or folder.name
    yield f"rail-{slug}"
    yield f"rail-{chip}-{slug}"
    number = 0
    while True:
        yield f"rail-{folder.name}-{slug}" + (f"-{number}" if number else "")
        number += 1


def _number(path: Path) -> int | None:
    text = _text(path)
    return int(text) if re.fullmatch(r"\d{1,9}", text, re.ASCII) else None


def _text(path: Path) -> str:
    """Text of a file; empty where the chip does not have it."""
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
