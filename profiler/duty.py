"""Duty cycles: work in slices with pauses between them, at no rhythm that a sensor could be in step with.

    ████░░░░░░██████░░░░░░░░░██░░░     slices of different lengths, each followed by its own pause

A sensor that sees 25 of each 100 ms takes what it sees for the whole: slices that came regularly would be
seen at the same few phases in every window, and the power would be wrong by as much as it varies.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from profiler.clock import Clock
from profiler.device import Execution
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


class SlicedRuns:
    """Runs loops in slices with pauses, at a duty below 1; it learns how many loops a slice holds.

    Args:
        run: does so many loops at once.
        duty: fraction of the time in which it runs.
        slice_s: mean length of a slice.
        clock: waits, and tells how long all has taken so far.
    """

    def __init__(self, run: Callable[[int], Execution], *, duty: float, slice_s: float, clock: Clock) -> None:
        self._run = run
        self._duty = duty
        self._slice_s = slice_s
        self._clock = clock
        self._slice_loops = 1
        self._rng = random.Random(0)

    def __call__(self, loops: int) -> Execution:
        """Run that many loops, pauses included."""
        began_ns = self._clock.now_ns()
        active_s = busy_core_s = 0.0
        left = loops
        while left:
            slice_loops = min(left, max(1, round(self._slice_loops * jitter(self._rng))))
            part = self._run(slice_loops)
            left -= slice_loops
            active_s += part.active_s
            busy_core_s += part.busy_core_s
            self._slice_loops = max(1, round(slice_loops * self._slice_s / part.active_s))
            # Against all time so far, so that one pause that lasts too long shortens the next.
            pause_s = active_s / self._duty - (self._clock.now_ns() - began_ns) * 1e-9
            if pause_s > 0:
                self._clock.sleep(pause_s)
        return Execution(active_s=active_s, busy_core_s=busy_core_s)
