"""Joules of a step: on a GPU the code itself, on a simulated device its counted work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from calibration_data import Work, total_domains
from profiler.device import Device
from profiler.idle import measure_idle
from profiler.meter import EnergyMeter
from profiler.repeat import measure_repeated
from profiler.schedule import slowest_tick_s
from profiler.simulated_device import SimulatedDevice

BATCH_S = 0.25
"""Steps of a batch last at least so long, so that waiting for its end is no part of it."""

IDLE_TICKS = 20


@dataclass(frozen=True, kw_only=True)
class StepEnergy:
    """Of one step.

    Attributes:
        gross_j: of the total.
        half_width_rel: of the 95 % interval of it.
        duration_s: mean.
        idle_w: power of the idle device just before.
        net_j: without idle power.
        steps: in all windows.
        provenance: ``measured`` or ``simulated``.
    """

    gross_j: float
    half_width_rel: float
    duration_s: float
    idle_w: float
    net_j: float
    steps: int
    provenance: str

    def document(self) -> dict[str, Any]:
        return asdict(self)


def step_energy(
    device: Device, step: Callable[[], object], works: Sequence[Work], *, budget_s: float
) -> StepEnergy:
    """Measure a step.

    Args:
        device: a GPU, which runs the step, or a simulated device, which executes the works.
        step: leaves its work on the GPU's queue.
        works: of the step, part by part.
        budget_s: of windows.
    """
    run = _simulated(device, works) if isinstance(device, SimulatedDevice) else _on_gpu(step)
    clock = device.clock
    count = 1
    while True:
        started_ns = clock.now_ns()
        run(count)
        if (clock.now_ns() - started_ns) * 1e-9 >= BATCH_S:
            break
        count *= 2
    tick_s = slowest_tick_s(device)
    with EnergyMeter(device.sensors, clock=clock) as meter:
        clock.sleep(2 * tick_s)
        idle = measure_idle(meter, IDLE_TICKS * tick_s, sleep=clock.sleep)
        seen = measure_repeated(meter, lambda: run(count), target_rel_ci=0.005, budget_s=budget_s)
    domains = total_domains(seen.mean.energy_j)
    gross_j = sum(seen.mean.energy_j[domain] for domain in domains) / count
    idle_w = sum(idle.power_w.get(domain, 0.0) for domain in domains)
    duration_s = seen.mean.duration_s / count
    return StepEnergy(
        gross_j=gross_j,
        half_width_rel=seen.relative_half_width,
        duration_s=duration_s,
        idle_w=idle_w,
        net_j=gross_j - idle_w * duration_s,
        steps=count * seen.calls_per_window * len(seen.windows),
        provenance=device.provenance,
    )


def _simulated(device: SimulatedDevice, works: Sequence[Work]) -> Callable[[int], None]:
    parts = [work.without_times() for work in works if work.without_times()]

    def run(count: int) -> None:
        for part in parts:
            device.execute(part * count)

    return run


def _on_gpu(step: Callable[[], object]) -> Callable[[int], None]:
    import torch

    def run(count: int) -> None:
        for _ in range(count):
            step()
        torch.cuda.synchronize()

    return run
