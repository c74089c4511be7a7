"""The idle baseline is the power of an idle machine, and its uncertainty holds."""

from __future__ import annotations

import pytest
from fakes.driven_counters import DrivenCounter, DrivenSensor, ReadingClock, SquareWave, Steady

from profiler.idle import measure_idle
from profiler.meter import EnergyMeter


@pytest.mark.parametrize(("tick_s", "quantum_uj"), [(0.001, 61.03515625), (0.1, 1000.0)])
def test_steady_idle_power(tick_s: float, quantum_uj: float) -> None:
    clock = ReadingClock()
    counter = DrivenCounter(Steady(12.0), tick_s=tick_s, quantum_uj=quantum_uj, phase=0.3, jitter=0.02)
    meter = EnergyMeter([DrivenSensor({"package-0": counter}, clock)], clock=clock)
    idle = measure_idle(meter, 1.0, sleep=clock.sleep)
    assert idle.power_w["package-0"] == pytest.approx(12.0, rel=2e-3)
    assert idle.standard_uncertainty_w["package-0"] < 0.02 * 12


def test_idle_power_that_comes_in_bursts_is_less_certain() -> None:
    clock = ReadingClock()
    counters = {
        "package-0": DrivenCounter(SquareWave(40.0, 5.0, period_s=0.7), phase=0.3),
        "dram-0": DrivenCounter(Steady(22.5), phase=0.3),
    }
    meter = EnergyMeter([DrivenSensor(counters, clock)], clock=clock)
    u_w = measure_idle(meter, 2.0, sleep=clock.sleep).standard_uncertainty_w
    assert u_w["package-0"] > 10 * u_w["dram-0"]


def test_a_counter_that_stands_still_has_no_idle_power() -> None:
    clock = ReadingClock()
    counters = {"package-0": DrivenCounter(Steady(9.0)), "uncore-0": DrivenCounter(Steady(0.0))}
    meter = EnergyMeter([DrivenSensor(counters, clock)], clock=clock)
    assert set(measure_idle(meter, 0.5, sleep=clock.sleep).power_w) == {"package-0"}
