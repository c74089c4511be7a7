"""Sensors: cumulative energy counters behind one protocol, and the one table of those that we know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from calibration_data import NoUsableSensorError
from profiler.errors import SensorMissingError, SensorPermissionError
from profiler.sensors.base import Reading, Sensor
from profiler.sensors.hwmon import HWMON_ROOT, HwmonSensor
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.perf import PerfSensor
from profiler.sensors.powercap import POWERCAP_ROOT, PowercapSensor
from profiler.sensors.pyjoules import PyJoulesSensor
from profiler.sensors.rapl import RaplBackend, RaplSensor, open_rapl

__all__ = [
    "HWMON_ROOT",
    "POWERCAP_ROOT",
    "SENSORS",
    "HwmonSensor",
    "NvmlSensor",
    "PerfSensor",
    "PowercapSensor",
    "PyJoulesSensor",
    "RaplBackend",
    "Reading",
    "RealSensor",
    "Roots",
    "Sensor",
    "no_usable_sensor",
    "open_sensors",
]

RealSensor = RaplSensor | NvmlSensor | HwmonSensor


@dataclass(frozen=True, kw_only=True)
class Roots:
    """Where the kernel's trees are seen; containers mount the host's elsewhere.

    Attributes:
        powercap: the RAPL zones.
        hwmon: the chips of the board.
    """

    powercap: Path = POWERCAP_ROOT
    hwmon: Path = HWMON_ROOT


SENSORS: dict[str, tuple[str, Callable[[Roots], RealSensor]]] = {
    "perf": ("CPU and DRAM (RAPL, perf_event)", lambda roots: open_rapl("perf", roots.powercap)),
    "powercap": ("CPU and DRAM (RAPL, powercap)", lambda roots: PowercapSensor(roots.powercap)),
    "pyjoules": ("CPU and DRAM (RAPL, pyJoules)", lambda roots: PyJoulesSensor(roots.powercap)),
    "nvml": ("NVIDIA GPU (NVML)", lambda _roots: NvmlSensor()),
    "hwmon": ("Board rails and other chips (hwmon)", lambda roots: HwmonSensor(roots.hwmon)),
}
"""By interface: the name for people, and how to open it."""

_LOG = logging.getLogger(__name__)


def open_sensors(
    *,
    powercap_root: Path = POWERCAP_ROOT,
    hwmon_root: Path = HWMON_ROOT,
    backend: RaplBackend = "auto",
    gpus: bool = True,
) -> tuple[RealSensor, ...]:
    """Open every real sensor that can be used here: RAPL through one backend, NVML and hwmon where wanted.

    Args:
        powercap_root: the powercap folder.
        hwmon_root: the hwmon folder.
        backend: which way to RAPL; never two, since they read the same counters. ``auto`` takes perf_event
            where it is permitted (and the tree is this kernel's own), then powercap, then pyJoules.
        gpus: whether GPUs and the rails of the board belong to what is measured.

    Raises:
        NoUsableSensorError: none can be used; the message says what was looked for and why not.
    """
    opened: list[RealSensor] = []
    failures: dict[str, NoUsableSensorError] = {}
    ways: dict[str, Callable[[], RealSensor]] = {
        "CPU and DRAM (RAPL)": lambda: open_rapl(backend, powercap_root)
    }
    if gpus:
        ways["NVIDIA GPU (NVML)"] = NvmlSensor
        ways["Board rails and other chips (hwmon)"] = lambda: HwmonSensor(hwmon_root)
    for name, open_sensor in ways.items():
        try:
            opened.append(open_sensor())
        except NoUsableSensorError as error:
            failures[name] = error
    if not opened:
        raise no_usable_sensor(failures)
    for name, failure in failures.items():
        if isinstance(failure, SensorPermissionError):
            _LOG.warning("%s is not measured: %s", name, failure.message)
    return tuple(opened)


def no_usable_sensor(failures: Mapping[str, NoUsableSensorError]) -> NoUsableSensorError:
    """One error for sensors that all failed to open: what was looked for, and the three ways on.

    A missing permission outweighs a missing sensor, since it can be given.
    """
    message = " ".join(
        ["No usable sensor.", *(f"{name}: {error.message}" for name, error in failures.items())]
    )
    forbidden = [error for error in failures.values() if isinstance(error, SensorPermissionError)]
    first_way = (
        forbidden[0].next_step.rstrip(".")
        if forbidden
        else "measure where the processor's energy_uj files exist and a group of yours may read them"
    )
    next_step = (
        f"Three ways on: (1) {first_way}; (2) use a simulated device: --device sim:server-cpu;"
        " (3) take a published cost model: calijoule models."
    )
    error_type = SensorPermissionError if forbidden else SensorMissingError
    return error_type(message, next_step=next_step)
