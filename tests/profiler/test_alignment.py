"""Slow counters are watched in the background, and intervals say what that cannot tell."""

from __future__ import annotations

import random
import statistics

import pytest
from fakes.driven_counters import DrivenCounter, DrivenSensor, Power, ReadingClock, Steady, Switched

from profiler.meter import EnergyMeter


def gpu(power: Power) -> DrivenCounter:
    return DrivenCounter(power, tick_s=0.1, quantum_uj=1000.0, range_uj=None, phase=0.7)


def test_a_window_waits_for_a_slow_counter_only_at_its_end() -> None:
    """Never more than an update period in all, whatever the phase of its begin and end."""
    clock = ReadingClock()
    counter = gpu(Steady(300.0))
    rng = random.Random(3)
    with EnergyMeter([DrivenSensor({"gpu-0": counter}, clock)], clock=clock) as meter:
        inside_s = []
        for _ in range(60):
            clock.sleep(rng.uniform(0, 0.5))
            called_ns = clock.now_ns()
            meter.begin("window")
            begun_ns = clock.now_ns()
            clock.sleep(rng.uniform(0.005, 0.4))
            ended_ns = clock.now_ns()
            reading = meter.end("window")
            inside_s.append((clock.now_ns() - ended_ns + begun_ns - called_ns) * 1e-9)
            assert reading.energy_j["gpu-0"] == pytest.approx(300 * (ended_ns - begun_ns) * 1e-9, rel=0.01)
    assert statistics.median(inside_s) < 0.7 * counter.tick_s
    assert statistics.quantiles(inside_s, n=10)[-1] < 1.05 * counter.tick_s


def test_a_burst_before_a_window_widens_its_interval() -> None:
    """What a slow counter counts between its last tick and the begin cannot be told from the window's own."""
    clock = ReadingClock()
    power = Switched(clock, 60.0)
    covered = []
    with EnergyMeter([DrivenSensor({"gpu-0": gpu(power)}, clock)], clock=clock) as meter:
        for pause_s in (0.31, 0.34, 0.37, 0.4, 0.43, 0.46, 0.49, 0.52):
            clock.sleep(pause_s)
            power.switch(300.0)
            clock.sleep(0.06)
            with meter.window() as window:
                begun_ns = clock.now_ns()
                clock.sleep(0.5)
                true_j = 300.0 * (clock.now_ns() - begun_ns) * 1e-9
            power.switch(60.0)
            low_j, high_j = window.reading.interval_j("gpu-0")
            covered.append(low_j <= true_j <= high_j)
    assert sum(covered) >= 7


def test_power_that_begins_to_vary_is_noticed() -> None:
    """The counter was discovered at steady power; its ticks in the background tell the change."""
    clock = ReadingClock()
    power = Switched(clock, 100.0)
    rng = random.Random(5)
    with EnergyMeter([DrivenSensor({"gpu-0": gpu(power)}, clock)], clock=clock) as meter:
        assert meter.timing["gpu-0"].variation_w == 0
        for _ in range(60):
            power.switch(rng.uniform(100, 400))
            clock.sleep(0.08)
        assert 40 < meter.timing["gpu-0"].variation_w < 120


def test_a_sensor_that_sees_a_part_of_each_period_says_so() -> None:
    """Power of random length and height, of which the last quarter of each period is seen."""
    clock = ReadingClock()
    power = Switched(clock, 100.0)
    rng = random.Random(11)
    sees_all, sees_part = gpu(power), gpu(power)
    sees_part.averaging_s = 0.25 * sees_part.tick_s
    covered, wider = [], []
    sensor = DrivenSensor({"gpu-0": sees_all, "gpu-1": sees_part}, clock)
    with EnergyMeter([sensor], clock=clock) as meter:
        for _ in range(26):
            with meter.window() as window:
                begun_j = power.energy_j(clock.now_ns() * 1e-9)
                for _ in range(12):
                    power.switch(rng.uniform(100, 400))
                    clock.sleep(rng.uniform(0.04, 0.16))
                true_j = power.energy_j(clock.now_ns() * 1e-9) - begun_j
            low_j, high_j = window.reading.interval_j("gpu-1")
            covered.append(low_j <= true_j <= high_j)
            wider.append(window.reading.quantisation_u_j["gpu-1"] > window.reading.quantisation_u_j["gpu-0"])
    # In the first window it is not known yet that the power varies.
    assert all(wider[1:])
    assert sum(covered[1:]) >= 22
