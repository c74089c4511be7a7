"""What a device is: it executes kernels and has sensors and a clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from calibration_data import MemoryHierarchy, Work
from profiler.clock import Clock
from profiler.microbenchmark import Microbenchmark
from profiler.sensors.base import Sensor


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How long a run kept the device awake.

    Attributes:
        active_s: seconds in which at least one core was busy.
        busy_core_s: busy seconds summed over cores.
        throttled: the device ran below its speed for heat or power; the run does not count.
    """

    active_s: float
    busy_core_s: float
    throttled: bool = False


class Kernel(Protocol):
    """A microbenchmark ready to run: data allocated, code compiled."""

    @property
    def work_per_loop(self) -> Work:
        """Exact amounts of one loop over all threads."""
        ...

    def run(self, loops: int) -> Execution:
        """Run that many loops, duty cycle included, and return when they are done."""
        ...

    def close(self) -> None:
        """Free the data and stop the threads."""
        ...


class Device(Protocol):
    """Executes work and has sensors."""

    name: str
    kind: Literal["cpu", "cuda", "simulated"]
    provenance: Literal["measured", "simulated"]
    model_name: str
    memory: MemoryHierarchy

    @property
    def clock(self) -> Clock:
        """Time as the device and its sensors see it."""
        ...

    @property
    def sensors(self) -> Sequence[Sensor]:
        """What measures it."""
        ...

    def supports(self, benchmark: Microbenchmark) -> bool:
        """Whether the device can run it (a dtype may be missing)."""
        ...

    def prepare(self, benchmark: Microbenchmark) -> Kernel:
        """Allocate and compile; the first loop runs at full speed."""
        ...

    def idle(self, seconds: float) -> None:
        """Do nothing for that long."""
        ...

    def conditions(self) -> dict[str, str]:
        """State that can change: governor, clocks, temperature."""
        ...

    def close(self) -> None:
        """Release the sensors."""
        ...
