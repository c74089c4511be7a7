"""RAPL through pyJoules: a second way to the same counters, to check the first against.

Only its discovery and its raw counter reads are used (``Device.get_energy``, microjoules since some
moment); time, wraparound and idle power are ours, since pyJoules takes no account of a counter that wraps.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from io import TextIOBase
from pathlib import Path
from typing import Any

from calibration_data import CounterSpec, domain_kind
from profiler.errors import SensorMissingError, SensorReadError
from profiler.sensors.base import Reading
from profiler.sensors.left_out import LeftOut
from profiler.sensors.powercap import (
    POWERCAP_ROOT,
    RAPL_EXCLUDES,
    RAPL_RESOLUTION_UJ,
    RAPL_UPDATE_PERIOD_S,
    counter_range_uj,
    known_range_uj,
    permission_error,
)
from profiler.sensors.zones import find_zones


class PyJoulesSensor:
    """RAPL domains that pyJoules finds.

    It knows ``package``, ``dram``, ``core`` and ``uncore`` of packages numbered without gaps, and neither
    dies nor the platform; those are named in ``left_out``.

    Args:
        root: the powercap folder or its ``intel-rapl`` folder.

    Attributes:
        left_out: zones of the tree that pyJoules does not see.

    Raises:
        SensorMissingError: pyJoules is not installed or finds no domain.
        SensorPermissionError: its counters may not be read.
    """

    notes: tuple[str, ...] = ()

    def __init__(self, root: Path = POWERCAP_ROOT) -> None:
        zones = {zone.domain: zone.folder for zone in find_zones(root).zones}
        self._device = _configured_device(root, zones)
        self._domains = tuple(map(_domain_name, self._device.get_configured_domains()))
        ranges_uj = {domain: counter_range_uj(zones[domain]) for domain in self._domains}
        unseen = tuple(
            LeftOut(source=str(folder), reason=f"pyJoules does not see {domain}")
            for domain, folder in zones.items()
            if domain not in self._domains
        )
        self.left_out = unseen + tuple(item for item in ranges_uj.values() if isinstance(item, LeftOut))
        self._specs = tuple(
            CounterSpec(
                domain=domain,
                interface="pyjoules",
                source=f"pyJoules RaplDevice at {root}",
                resolution_uj=RAPL_RESOLUTION_UJ,
                range_uj=known_range_uj(ranges_uj[domain]),
                update_period_s=RAPL_UPDATE_PERIOD_S,
                excludes=RAPL_EXCLUDES.get(domain_kind(domain), ""),
            )
            for domain in self._domains
        )
        try:
            self.read()
        except SensorReadError as error:
            if isinstance(error.__cause__, PermissionError):
                cause = error.__cause__
                raise permission_error([str(cause.filename)], cause.strerror or "") from error
            raise SensorMissingError(f"pyJoules cannot read its counters. {error.message}") from error

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per domain, in pyJoules' order."""
        return self._specs

    def read(self) -> Reading:
        """All domains now; the time is the middle of the reads.

        Raises:
            SensorReadError: a counter could not be read or is no whole number.
        """
        started_ns = time.monotonic_ns()
        try:
            values: list[float] = self._device.get_energy()
        except (OSError, ValueError) as error:
            raise SensorReadError(f"pyJoules could not read a counter: {error}.") from error
        energy_uj = {
            domain: _whole_uj(domain, value) for domain, value in zip(self._domains, values, strict=True)
        }
        ended_ns = time.monotonic_ns()
        return Reading(
            time_ns=(started_ns + ended_ns) // 2, energy_uj=energy_uj, read_ns=ended_ns - started_ns
        )

    def close(self) -> None:
        """Nothing is held open between reads."""


def _configured_device(root: Path, zones: Mapping[str, Path]) -> Any:
    """A pyJoules device that reads every domain below ``root`` which it finds in the right zone."""
    rapl_device, no_such_device_error = _imported_quietly()
    folder = root / "intel-rapl" if (root / "intel-rapl").is_dir() else root
    standard = rapl_device.RAPL_API_DIR
    rapl_device.RAPL_API_DIR = str(folder)
    try:
        device = rapl_device.RaplDevice()
        device.configure([domain for domain in device.available_domains() if _is_that_zone(domain, zones)])
    except (no_such_device_error, OSError) as error:
        raise SensorMissingError(f"pyJoules finds no RAPL device at {folder}. {error}".strip()) from error
    finally:
        rapl_device.RAPL_API_DIR = standard
    if not device.get_configured_domains():
        raise SensorMissingError(
            f"pyJoules finds no RAPL domain at {folder}; it knows no dies and no flat trees.",
            next_step="Use the powercap backend.",
        )
    # pyJoules leaves every counter file open for the garbage collector.
    device._read_energy_value = _read_and_close
    return device


def _domain_name(domain: Any) -> str:
    return f"{domain.get_domain_name()}-{domain.socket}"


def _is_that_zone(domain: Any, zones: Mapping[str, Path]) -> bool:
    """Whether the package that pyJoules numbers by its zone is the package that the zone is named after."""
    folder = zones.get(_domain_name(domain))
    return folder is not None and folder.name.split(":")[1] == str(domain.socket)


def _imported_quietly() -> tuple[Any, type[Exception]]:
    """Import pyJoules' RAPL module so that it leaves no handler on the root logger.

    Without pynvml its import logs a warning through the root logger, which would install one.
    """
    root_logger = logging.getLogger()
    silence = logging.NullHandler()
    root_logger.addHandler(silence)
    try:
        from pyJoules.device import rapl_device
        from pyJoules.exception import NoSuchDeviceError
    except ImportError as error:
        raise SensorMissingError(
            "The Python package pyJoules is not installed.", next_step="pip install pyJoules"
        ) from error
    finally:
        root_logger.removeHandler(silence)
    return rapl_device, NoSuchDeviceError


def _read_and_close(file: TextIOBase) -> float:
    with file:
        return float(file.readline())


def _whole_uj(domain: str, value: float) -> int:
    if not (value >= 0 and value.is_integer()):
        raise SensorReadError(f"pyJoules read {value} for {domain}, which is no whole number of microjoules.")
    return int(value)
