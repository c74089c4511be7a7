"""What can be measured on this machine, and for what cannot: why, and the exact remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibration_data import CounterSpec, NoUsableSensorError
from profiler.conditions import FILTERING_NOTE, energy_filtering_possible
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.sensors import HWMON_ROOT, SENSORS, NvmlSensor, RealSensor, Roots, no_usable_sensor
from profiler.sensors.nvml_check import CounterCheck, check_counter


@dataclass(frozen=True, kw_only=True)
class SensorState:
    """One sensor, or one counter that was found and is not read.

    Attributes:
        name: for people.
        interface: ``perf``, ``powercap``, ``pyjoules``, ``nvml`` or ``hwmon``.
        state: whether it can measure here.
        reason: why it cannot; empty where it can.
        remedy: what to do about it; empty where nothing helps or is needed.
        specs: what each of its domains can tell; empty unless usable.
        notes: what its numbers contain, do not tell apart, or may be blurred by.
        checks: each GPU's energy counter against its integrated power, where asked for.
    """

    name: str
    interface: str
    state: Literal["usable", "missing", "not permitted", "left out"]
    reason: str = ""
    remedy: str = ""
    specs: tuple[CounterSpec, ...] = ()
    notes: tuple[str, ...] = ()
    checks: tuple[CounterCheck, ...] = ()


def discover(powercap_root: Path, *, hwmon_root: Path = HWMON_ROOT, check: bool = False) -> list[SensorState]:
    """Try every sensor once.

    Args:
        powercap_root: the powercap folder.
        hwmon_root: the hwmon folder.
        check: hold every GPU's counter against its integrated power, which takes some seconds for each.
    """
    roots = Roots(powercap=powercap_root, hwmon=hwmon_root)
    return [state for interface in SENSORS for state in _states(interface, roots, check)]


def require_usable(states: Sequence[SensorState]) -> None:
    """Pass if any sensor can measure.

    Raises:
        NoUsableSensorError: none can; the message says what was looked for and why not.
    """
    if any(state.state == "usable" for state in states):
        return
    failures: dict[str, NoUsableSensorError] = {}
    for state in states:
        error_type = SensorPermissionError if state.state == "not permitted" else SensorMissingError
        failures[state.name] = error_type(state.reason, next_step=state.remedy)
    raise no_usable_sensor(failures)


def _states(interface: str, roots: Roots, check: bool) -> list[SensorState]:
    name, open_sensor = SENSORS[interface]
    try:
        sensor = open_sensor(roots)
    except NoUsableSensorError as error:
        forbidden = isinstance(error, SensorPermissionError)
        return [
            SensorState(
                name=name,
                interface=interface,
                state="not permitted" if forbidden else "missing",
                reason=error.message,
                remedy=error.next_step,
            )
        ]
    try:
        checks, failures = _checked(sensor) if check else ((), ())
    finally:
        sensor.close()
    left_out = [
        SensorState(name=item.source, interface=interface, state="left out", reason=item.reason)
        for item in sensor.left_out
    ]
    usable = SensorState(
        name=name,
        interface=interface,
        state="usable",
        specs=sensor.specs,
        notes=(*sensor.notes, *_filtering(interface), *failures),
        checks=checks,
    )
    return [usable, *left_out]


def _filtering(interface: str) -> tuple[str, ...]:
    rapl = interface in ("perf", "powercap", "pyjoules")
    return (FILTERING_NOTE,) if rapl and energy_filtering_possible() else ()


def _checked(sensor: RealSensor) -> tuple[tuple[CounterCheck, ...], tuple[str, ...]]:
    """Counter against power of every GPU, and why it could not be told."""
    checks: list[CounterCheck] = []
    failures: list[str] = []
    for gpu in sensor.gpus if isinstance(sensor, NvmlSensor) else ():
        try:
            check = check_counter(gpu)
        except SensorReadError as error:
            failures.append(str(error))
        else:
            checks += [check] if check else []
    return tuple(checks), tuple(failures)
