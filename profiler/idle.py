"""The idle baseline: what the machine draws by itself, to be taken off a command's gross energy.

    | part | part | part | part | part |   one idle window in equal parts

The mean power is that of the whole; its uncertainty joins the scatter of the parts (power that drifts or
comes in bursts) with the tick and the resolution of the counter.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import hypot, sqrt

from profiler.meter import EnergyMeter

PARTS = 5


@dataclass(frozen=True, kw_only=True)
class IdleBaseline:
    """Mean idle power by domain.

    Attributes:
        duration_s: length of the idle window.
        power_w: mean power of the domains whose counter moved; a counter that stood still says nothing.
        standard_uncertainty_w: standard uncertainty of ``power_w``.
    """

    duration_s: float
    power_w: Mapping[str, float]
    standard_uncertainty_w: Mapping[str, float]


def measure_idle(
    meter: EnergyMeter, duration_s: float, *, sleep: Callable[[float], None] = time.sleep
) -> IdleBaseline:
    """Measure while nothing runs.

    Args:
        meter: counts all domains.
        duration_s: length of the idle window in seconds, more than 0.
        sleep: waits; of the meter's clock.

    Raises:
        MeasurementError: a window could not be trusted.
    """
    parts = []
    with meter.window("idle baseline") as whole:
        for number in range(PARTS):
            with meter.window(f"idle baseline, part {number}") as part:
                sleep(duration_s / PARTS)
            parts.append(part.reading)
    reading = whole.reading
    moved = [domain for domain, energy_j in reading.energy_j.items() if energy_j > 0]
    u_w = {}
    for domain in moved:
        powers_w = [part.energy_j[domain] / part.duration_s for part in parts]
        # Standard deviation of the mean, GUM 4.2.3.
        scatter_w = statistics.stdev(powers_w) / sqrt(PARTS)
        u_w[domain] = hypot(scatter_w, reading.quantisation_u_j[domain] / reading.duration_s)
    return IdleBaseline(
        duration_s=reading.duration_s,
        power_w={domain: reading.energy_j[domain] / reading.duration_s for domain in moved},
        standard_uncertainty_w=u_w,
    )


def mean_idle(first: IdleBaseline, second: IdleBaseline) -> IdleBaseline:
    """The idle power between two windows, which may have drifted from one to the other.

    In between it is taken to lie anywhere from one to the other: a rectangular distribution, whose standard
    uncertainty joins those of the windows (GUM 4.3.7).
    """
    common = [domain for domain in first.power_w if domain in second.power_w]
    drift_u_w = {domain: abs(second.power_w[domain] - first.power_w[domain]) / sqrt(12) for domain in common}
    return IdleBaseline(
        duration_s=first.duration_s + second.duration_s,
        power_w={domain: (first.power_w[domain] + second.power_w[domain]) / 2 for domain in common},
        standard_uncertainty_w={
            domain: hypot(
                drift_u_w[domain],
                first.standard_uncertainty_w[domain] / 2,
                second.standard_uncertainty_w[domain] / 2,
            )
            for domain in common
        },
    )
