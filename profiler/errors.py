"""Errors of measuring, by whose fault they are.

NoUsableSensorError (exit 3)
├── SensorMissingError        this machine has no such sensor
└── SensorPermissionError     it has one, and this user may not read it
MeasurementError (exit 5)
├── SensorReadError           a read failed or returned no number
├── CounterResetError         a counter without a range went backwards
├── ImplausiblePowerError     the energy of a window is more than any part can draw
└── WindowOrderError          a window was closed that is not open
"""

from __future__ import annotations

from calibration_data.errors import MeasurementError, NoUsableSensorError


class SensorMissingError(NoUsableSensorError):
    """This machine has no such sensor."""


class SensorPermissionError(NoUsableSensorError):
    """The sensor exists and this user may not read it."""


class SensorReadError(MeasurementError):
    """A read failed or returned no number. Never replaced by a zero."""


class CounterResetError(MeasurementError):
    """A counter that never wraps went backwards."""


class ImplausiblePowerError(MeasurementError):
    """The energy of a window would need more power than any such part can draw."""


class WindowOrderError(MeasurementError):
    """A window was closed that is not open."""
