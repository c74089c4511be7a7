"""What can be measured on this machine, and for what cannot: why, and the exact remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from calibration_data import CounterSpec, NoUsableSensorError
from profiler.errors import SensorMissingError, SensorPermissionError
from profiler.sensors import SENSORS, no_usable_sensor


@dataclass(frozen=True, kw_only=True)
class SensorState:
    """One sensor, or one counter that was found and is not read.

    Attributes:
        name: for people.
        interface: ``powercap``, ``pyjoules`` or ``nvml``.
        state: whether it can measure here.
        reason: why it cannot; empty where it can.
        remedy: what to do about it; empty where nothing helps or is needed.
        specs: what each of its domains can tell; empty unless usable.
    """

    name: str
    interface: str
    state: Literal["usable", "missing", "not permitted", "left out"]
    reason: str = ""
    remedy: str = ""
    specs: tuple[CounterSpec, ...] = ()


def discover(powercap_root: Path) -> list[SensorState]:
    """Try every sensor once.

    Args:
        powercap_root: the powercap folder.
    """
    return [state for interface in SENSORS for state in _states(interface, powercap_root)]


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


def _states(interface: str, powercap_root: Path) -> list[SensorState]:
    name, open_sensor = SENSORS[interface]
    try:
        sensor = open_sensor(powercap_root)
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
    sensor.close()
    left_out = [
        SensorState(name=item.source, interface=interface, state="left out", reason=item.reason)
        for item in sensor.left_out
    ]
    return [SensorState(name=name, interface=interface, state="usable", specs=sensor.specs), *left_out]
