"""What a sensor is: it lists domains and reads all of them at one instant.

A reading is integers straight from the hardware. Joules begin in ``profiler.meter``.
A read that fails raises; it never returns zero, which the next step would take for a wraparound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from calibration_data import CounterSpec


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Counters of every domain of a sensor at one instant.

    Attributes:
        time_ns: monotonic time of the reading, on the sensor's clock.
        energy_uj: cumulative µJ by domain, since some unknown moment.
        read_ns: how long the read took; the counters were taken at some moment within it, so that
            ``time_ns``, its middle, is uncertain by up to half of it.
    """

    time_ns: int
    energy_uj: Mapping[str, int]
    read_ns: int = 0


class Sensor(Protocol):
    """Cumulative energy counters of one or more domains."""

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per domain, in the order of ``read``."""
        ...

    def read(self) -> Reading:
        """All domains now.

        Raises:
            SensorReadError: a counter could not be read or is no number.
        """
        ...

    def close(self) -> None:
        """Release what the sensor holds."""
        ...
