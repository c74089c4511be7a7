"""Duty cycles: work in slices with pauses between them, at no rhythm that a sensor could be in step with.

    ████░░░░░░██████░░░░░░░░░██░░░     slices of different lengths, each followed by its own pause

A sensor that sees 25 of each 100 ms takes what it sees for the whole: slices that came regularly would be
seen at the same few phases in every window, and the power would be wrong by as much as it varies.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from profiler.sensors.base import Sensor

LONGEST_SLICE_S = 0.010
"""Work between two pauses on average, where the sensors see all of the time."""

SLICES_PER_LOOK = 10.0
"""So many slices fit into what a sensor sees of each update period, where that is less than all of it."""


def slice_seconds(sensors: Sequence[Sensor]) -> float:
    """Mean length of a slice of work for these sensors."""
    looks_s = [spec.averaging_window_s for sensor in sensors for spec in sensor.specs]
    return min([LONGEST_SLICE_S, *(look_s / SLICES_PER_LOOK for look_s in looks_s if look_s)])


def jitter(rng: random.Random) -> float:
    """Factor of a slice's length: from a half to three halves, all equally likely."""
    return rng.uniform(0.5, 1.5)
