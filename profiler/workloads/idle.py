"""The kernel that does nothing: what a device draws while it waits."""

from __future__ import annotations

from calibration_data import Work
from profiler.clock import Clock
from profiler.device import Execution

IDLE_LOOP_S = 1e-3
"""One loop of ``idle``."""


class IdleKernel:
    """Nothing, for 1 ms per loop."""

    work_per_loop = Work()

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def run(self, loops: int) -> Execution:
        """Sleep."""
        self._clock.sleep(loops * IDLE_LOOP_S)
        return Execution(active_s=0.0, busy_core_s=0.0)

    def close(self) -> None:
        """Nothing to free."""
