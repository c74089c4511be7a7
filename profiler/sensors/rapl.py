"""Which way to the processor's RAPL counters: perf_event where permitted, then powercap, then pyJoules.

All three show the same counters, so only one of them is ever read. perf_event comes first, since its counts
never wrap and cost a system call each; powercap shows which domains a machine really has, so that perf is
held to those (kernels have listed perf events of counters that read nonsense).
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path
from typing import Literal, Protocol

from calibration_data import NoUsableSensorError, total_domains
from profiler.errors import SensorMissingError, SensorPermissionError
from profiler.sensors.left_out import LeftOut
from profiler.sensors.perf import PerfSensor
from profiler.sensors.powercap import POWERCAP_ROOT, PowercapSensor
from profiler.sensors.pyjoules import PyJoulesSensor
from profiler.sensors.zones import find_zones

RaplBackend = Literal["auto", "perf", "powercap", "pyjoules"]
RaplSensor = PerfSensor | PowercapSensor | PyJoulesSensor


class OpenPerf(Protocol):
    """Opens the perf sensor, held to agreed domains."""

    def __call__(self, *, agreed: Collection[str] | None) -> PerfSensor:
        """Open."""
        ...


def open_rapl(
    backend: RaplBackend, powercap_root: Path = POWERCAP_ROOT, *, open_perf: OpenPerf | None = None
) -> RaplSensor:
    """Open one way to RAPL.

    Args:
        backend: ``auto`` takes the first that can be used; it leaves perf out where ``powercap_root`` is
            not this kernel's own, since a foreign tree has no PMU that belongs to it.
        powercap_root: the powercap folder.
        open_perf: opens the perf sensor; this kernel's where not given.

    Raises:
        NoUsableSensorError: none can be used; a missing permission outweighs a missing sensor.
    """
    foreign = open_perf is None and powercap_root != POWERCAP_ROOT
    ways: dict[str, Callable[[], RaplSensor]] = {
        "perf": lambda: _agreed_perf(powercap_root, open_perf or PerfSensor),
        "powercap": lambda: PowercapSensor(powercap_root),
        "pyjoules": lambda: PyJoulesSensor(powercap_root),
    }
    if backend != "auto":
        return ways[backend]()
    failures: dict[str, NoUsableSensorError] = {}
    for way, open_way in ways.items():
        if way == "perf" and foreign:
            continue
        try:
            return open_way()
        except NoUsableSensorError as error:
            failures[way] = error
    raise _most_useful(failures)


def _most_useful(failures: dict[str, NoUsableSensorError]) -> NoUsableSensorError:
    """A permission can be given, most easily that of powercap; else what powercap says of the machine."""
    in_order = [failures["powercap"], *failures.values()]
    return next((error for error in in_order if isinstance(error, SensorPermissionError)), in_order[0])


def _agreed_perf(powercap_root: Path, open_perf: OpenPerf) -> PerfSensor:
    """The perf sensor with the domains that powercap shows too, and a note of what differs."""
    try:
        zones = find_zones(powercap_root).zones
    except SensorMissingError:
        return open_perf(agreed=None)
    sensor = open_perf(agreed={zone.domain for zone in zones})
    counted = {spec.domain for spec in sensor.specs}
    unseen = [zone for zone in zones if zone.domain not in counted]
    sensor.left_out += tuple(
        LeftOut(source=str(zone.folder), reason=f"perf_event does not show {zone.domain}") for zone in unseen
    )
    short = total_domains(zone.domain for zone in unseen)
    if short:
        sensor.close()
        raise SensorMissingError(
            f"perf_event does not show {', '.join(short)}, so that its total would be too small.",
            next_step="Use the powercap backend.",
        )
    return sensor
