"""Whether a GPU's energy counter and its power agree: both are read over the same seconds and compared.

Counters that show half or less of the integrated power have been reported (0.57 of it on one board), so a
device's counter is worth one check before its joules are believed. Both edges wait for the counter to move,
so that the ratio is not that of a tick more or less.
"""

from __future__ import annotations

from dataclasses import dataclass

from profiler.clock import Clock, MonotonicClock
from profiler.errors import SensorReadError
from profiler.sensors.nvml_gpu import Gpu
from profiler.sensors.power_integral import PowerIntegral

CHECK_S = 2.0
SAMPLE_PERIOD_S = 0.01
LONGEST_TICK_S = 1.0
AGREEMENT = 0.05
"""A ratio further than this from 1 is worth a note: sampled power alone explains a few per cent."""


@dataclass(frozen=True, kw_only=True)
class CounterCheck:
    """A counter against integrated power.

    Attributes:
        domain: of the GPU.
        ratio: energy of the counter / integrated power.
        counter_j: what the counter moved by.
        integrated_j: integral of the power in the same time.
        duration_s: how long.
    """

    domain: str
    ratio: float
    counter_j: float
    integrated_j: float
    duration_s: float

    @property
    def note(self) -> str:
        """One sentence for people."""
        agree = abs(self.ratio - 1) <= AGREEMENT
        verdict = "they agree" if agree else "they disagree, so neither is sure to be right"
        return (
            f"{self.domain}: its counter shows {self.ratio:.3f} of its integrated power"
            f" ({self.counter_j:.3f} J and {self.integrated_j:.3f} J in {self.duration_s:.2f} s); {verdict}."
        )


def check_counter(
    gpu: Gpu, *, duration_s: float = CHECK_S, clock: Clock | None = None
) -> CounterCheck | None:
    """Compare the counter of a GPU with its power.

    Args:
        gpu: to be checked.
        duration_s: at least how long.
        clock: waits between samples.

    Returns:
        the comparison; None for a GPU without a counter.

    Raises:
        SensorReadError: a read failed, the counter does not move, or the power is nought.
    """
    if not gpu.has_counter:
        return None
    clock = clock or MonotonicClock()
    begin_ns, begin_mj = _next_move(gpu, clock, None)
    integral = PowerIntegral(gpu.domain)
    integral.add(begin_ns, 1000 * gpu.check_power_mw())
    end_ns = begin_ns
    while end_ns - begin_ns < duration_s * 1e9:
        clock.sleep(SAMPLE_PERIOD_S)
        end_ns = clock.now_ns()
        integral.add(end_ns, 1000 * gpu.check_power_mw())
    end_ns, end_mj = _next_move(gpu, clock, integral)
    integrated_j = integral.energy_uj() / 1e6
    if integrated_j <= 0:
        raise SensorReadError(f"The power of {gpu.domain} is nought, so that its counter cannot be checked.")
    counter_j = (end_mj - begin_mj) / 1e3
    return CounterCheck(
        domain=gpu.domain,
        ratio=counter_j / integrated_j,
        counter_j=counter_j,
        integrated_j=integrated_j,
        duration_s=(end_ns - begin_ns) / 1e9,
    )


def _next_move(gpu: Gpu, clock: Clock, integral: PowerIntegral | None) -> tuple[int, int]:
    """Time and value of the counter when it next moves; power is integrated on the way."""
    first_mj = gpu.sample().energy_mj
    deadline_ns = clock.now_ns() + round(LONGEST_TICK_S * 1e9)
    while clock.now_ns() < deadline_ns:
        clock.sleep(SAMPLE_PERIOD_S / 10)
        now_mj, now_ns = gpu.sample().energy_mj, clock.now_ns()
        if integral is not None:
            integral.add(now_ns, 1000 * gpu.check_power_mw())
        if now_mj is not None and now_mj != first_mj:
            return now_ns, now_mj
    raise SensorReadError(
        f"The energy counter of {gpu.domain} did not move for {LONGEST_TICK_S:g} s.",
        next_step="It is stuck or the GPU draws nothing; do not believe its joules.",
    )
