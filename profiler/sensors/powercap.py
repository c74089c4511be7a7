"""RAPL energy counters through the kernel's powercap files.

Intel (package, core, uncore, DRAM, platform) and AMD (package, core) processors alike. The kernel applies
each domain's energy unit, so the files count microjoules. A package does not contain its DRAM; core and
uncore are parts of their package; ``psys`` contains package and DRAM.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path

from calibration_data import CounterSpec, domain_kind, total_domains
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.permissions import POWERCAP_REMEDY
from profiler.sensors.base import Reading
from profiler.sensors.left_out import LeftOut
from profiler.sensors.zones import Zone, find_zones

POWERCAP_ROOT = Path("/sys/class/powercap")
"""Where Linux mounts the tree; a container may see the host's tree elsewhere."""

RAPL_UPDATE_PERIOD_S = 0.001
"""About one update a millisecond (Intel SDM vol. 3B, package RAPL domain; AMD counters are as quick)."""

RAPL_RESOLUTION_UJ = 61.0
"""2⁻¹⁴ J, the default energy unit (Intel SDM vol. 3B, RAPL interfaces). DRAM counters of older servers and
AMD counters step by 15.3 µJ, for which this is an upper bound."""

# Without blocking, so that nothing but a counter can hold the reader up.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_AFTER_FAILED_READ = "No joules are reported without it; look at the sensor with: calijoule devices."
_LONGEST_COUNTER_BYTES = 32
RAPL_EXCLUDES = {"package": "DRAM", "core": "rest of the package", "uncore": "rest of the package"}
_LOG = logging.getLogger(__name__)


def read_counter_uj(path: str) -> int:
    """Read one counter file, opened for this reading alone, so that a replaced file is noticed.

    Raises:
        SensorReadError: the file cannot be read, is empty, or holds no plain whole number.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS)
        try:
            content = os.read(descriptor, _LONGEST_COUNTER_BYTES)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _unreadable(path, error) from error
    return _whole_uj(path, content)


def _unreadable(path: str, error: OSError) -> SensorReadError:
    return SensorReadError(f"{path} could not be read: {error.strerror}.", next_step=_AFTER_FAILED_READ)


def _whole_uj(path: str, content: bytes) -> int:
    digits = content.strip()
    if not digits.isdigit() or len(content) == _LONGEST_COUNTER_BYTES:
        found = f"{content!r}" if content else "nothing"
        raise SensorReadError(
            f"{path} should hold a whole number of microjoules and holds {found}.",
            next_step=_AFTER_FAILED_READ,
        )
    return int(digits)


class CounterFile:
    """The counter of one zone, held open and read again from its start: opening costs more than reading.

    A file of sysfs that vanishes answers ENODEV. Any other that has been removed or replaced has no link
    any more, and is opened anew.
    """

    def __init__(self, domain: str, path: Path) -> None:
        self.domain = domain
        self._path = str(path)
        self._descriptor: int | None = None

    def read_uj(self) -> int:
        """The counter now.

        Raises:
            SensorReadError: it cannot be read or holds no plain whole number.
        """
        try:
            if self._descriptor is not None and os.fstat(self._descriptor).st_nlink == 0:
                self.close()
            if self._descriptor is None:
                self._descriptor = os.open(self._path, _OPEN_FLAGS)
            content = os.pread(self._descriptor, _LONGEST_COUNTER_BYTES, 0)
        except OSError as error:
            raise _unreadable(self._path, error) from error
        return _whole_uj(self._path, content)

    def close(self) -> None:
        """Close it; the next read opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


class PowercapSensor:
    """RAPL domains of one machine through powercap.

    Args:
        root: the powercap folder or a control type folder below it.

    Attributes:
        left_out: what was found and is not read, with the reasons.

    Raises:
        SensorMissingError: there is no RAPL zone that counts.
        SensorPermissionError: a counter of the total exists and this user may not read it.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, root: Path = POWERCAP_ROOT) -> None:
        tree = find_zones(root)
        readable, unreadable = _readable(tree.zones)
        zones, mirrors = _without_mirrored_dies(readable)
        self.left_out: tuple[LeftOut, ...] = (*tree.left_out, *unreadable, *mirrors)
        if not zones:
            reasons = "; ".join(f"{item.source}: {item.reason}" for item in self.left_out)
            raise SensorMissingError(
                f"No RAPL zone at {root} can be measured. Left out: {reasons}.",
                next_step="Check the tree, or give another one: --powercap-root DIR.",
            )
        ranges_uj = {zone.domain: counter_range_uj(zone.folder) for zone in zones}
        self.left_out += tuple(item for item in ranges_uj.values() if isinstance(item, LeftOut))
        self._files = tuple(CounterFile(zone.domain, zone.folder / "energy_uj") for zone in zones)
        self._specs = tuple(
            CounterSpec(
                domain=zone.domain,
                interface="powercap",
                source=str(zone.folder / "energy_uj"),
                resolution_uj=RAPL_RESOLUTION_UJ,
                range_uj=known_range_uj(ranges_uj[zone.domain]),
                update_period_s=RAPL_UPDATE_PERIOD_S,
                excludes=RAPL_EXCLUDES.get(domain_kind(zone.domain), ""),
            )
            for zone in zones
        )

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per zone that counts."""
        return self._specs

    def read(self) -> Reading:
        """All zones now; the time is the middle of the reads.

        Raises:
            SensorReadError: a counter could not be read or is no number.
        """
        started_ns = time.monotonic_ns()
        energy_uj = {counter.domain: counter.read_uj() for counter in self._files}
        ended_ns = time.monotonic_ns()
        return Reading(
            time_ns=(started_ns + ended_ns) // 2, energy_uj=energy_uj, read_ns=ended_ns - started_ns
        )

    def close(self) -> None:
        """Close what is held open between reads; a second call does nothing."""
        for counter in self._files:
            counter.close()


def counter_range_uj(folder: Path) -> int | LeftOut:
    """``max_energy_range_uj`` of a zone, at which its counter starts again at 0, or why there is none.

    Without a range a counter that falls is an error of the window, never a guess.
    """
    path = str(folder / "max_energy_range_uj")
    try:
        range_uj = read_counter_uj(path)
    except SensorReadError as error:
        return LeftOut(source=path, reason=f"{error.message} A wraparound cannot be undone.")
    return range_uj or LeftOut(source=path, reason="a range of 0 says nothing about a wraparound")


def known_range_uj(range_uj: int | LeftOut) -> int | None:
    """The range as a spec holds it: None where it is not known."""
    return None if isinstance(range_uj, LeftOut) else range_uj


def permission_error(paths: Sequence[str], strerror: str) -> SensorPermissionError:
    """The error for counters that exist and may not be read, with the way to permit it."""
    others = f" (nor {len(paths) - 1} more of its counters)" if len(paths) > 1 else ""
    return SensorPermissionError(
        f"This user may not read {paths[0]}{others}: {strerror}.", next_step=POWERCAP_REMEDY
    )


def _readable(zones: Sequence[Zone]) -> tuple[list[Zone], list[LeftOut]]:
    """Try every counter once.

    Raises:
        SensorPermissionError: a counter that belongs to the total may not be read, so that the total
            would be short of it; or none may be read.
    """
    readable: list[Zone] = []
    failed: list[tuple[Zone, SensorReadError]] = []
    for zone in zones:
        try:
            read_counter_uj(str(zone.folder / "energy_uj"))
            readable.append(zone)
        except SensorReadError as error:
            failed.append((zone, error))
    forbidden = {
        zone.domain: (str(zone.folder / "energy_uj"), problem.__cause__.strerror or "")
        for zone, problem in failed
        if isinstance(problem.__cause__, PermissionError)
    }
    if forbidden and (not readable or total_domains(forbidden)):
        paths, reasons = zip(*forbidden.values(), strict=True)
        raise permission_error(paths, reasons[0])
    for zone, problem in failed:
        _LOG.warning("%s is not measured: %s", zone.domain, problem.message)
    return readable, [LeftOut(source=str(zone.folder), reason=problem.message) for zone, problem in failed]


def _without_mirrored_dies(zones: Sequence[Zone]) -> tuple[list[Zone], list[LeftOut]]:
    """Leave out dies whose counter is the same socket-wide counter that another die already shows.

    First- and second-generation EPYC and Threadripper show one package zone per die, all mirrors of one
    counter. Independent counters of 2³² steps agree so closely about once in a million boots.
    """
    kept: list[Zone] = []
    mirrors: list[LeftOut] = []
    for zone in zones:
        twin = next((other for other in kept if _are_mirrors(other, zone)), None)
        if twin is None:
            kept.append(zone)
        else:
            mirrors.append(LeftOut(source=str(zone.folder), reason=f"its counter mirrors {twin.domain}"))
    return kept, mirrors


def _are_mirrors(first: Zone, second: Zone) -> bool:
    """Whether two dies of one package show one counter: two reads of the first bracket the second."""
    package, is_die, _ = first.domain.partition("-die-")
    if not is_die or domain_kind(package) != "package" or not second.domain.startswith(f"{package}-die-"):
        return False
    before_uj = read_counter_uj(str(first.folder / "energy_uj"))
    between_uj = read_counter_uj(str(second.folder / "energy_uj"))
    after_uj = read_counter_uj(str(first.folder / "energy_uj"))
    return 0 < before_uj <= between_uj <= after_uj
