"""Repetition ends when the interval is narrow enough, or says that it is not; its interval holds."""

from __future__ import annotations

import random

import pytest
from fakes.driven_counters import DrivenCounter, DrivenSensor, Fault, ReadingClock, Steady, Switched
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from calibration_data import MeasurementError, UsageError
from profiler.meter import EnergyMeter
from profiler.repeat import MIN_WINDOWS, measure_repeated
from profiler.uncertainty import coverage_factor


def machine(power_w: float = 40.0, **options: float) -> tuple[ReadingClock, Switched, EnergyMeter]:
    clock = ReadingClock()
    power = Switched(clock, power_w)
    sensor = DrivenSensor({"package-0": DrivenCounter(power, phase=0.4)}, clock)
    return clock, power, EnergyMeter([sensor], clock=clock, gain_u_rel=options)


@given(st.integers(1, 10_000))
def test_the_coverage_factor_is_students(degrees_of_freedom: int) -> None:
    exact = stats.t.ppf(0.975, degrees_of_freedom)
    assert coverage_factor(degrees_of_freedom) == pytest.approx(exact, rel=2e-3)


def test_less_than_one_degree_of_freedom_gives_no_interval() -> None:
    with pytest.raises(ValueError, match="no interval"):
        coverage_factor(0)


def test_steady_work_is_known_after_few_windows() -> None:
    clock, _, meter = machine()
    result = measure_repeated(meter, lambda: clock.sleep(0.002), target_rel_ci=0.01)
    assert result.converged
    assert len(result.windows) == MIN_WINDOWS
    assert result.calls_per_window in (5, 6)
    assert result.mean.energy_j["package-0"] == pytest.approx(0.002 * 40, rel=0.01)
    assert result.relative_half_width <= 0.01


def test_work_that_varies_is_repeated_until_it_is_known() -> None:
    clock, power, meter = machine()
    rng = random.Random(1)

    def work() -> None:
        power.switch(rng.gauss(200.0, 30.0))
        clock.sleep(0.02)
        power.switch(40.0)

    result = measure_repeated(meter, work, target_rel_ci=0.03, budget_s=60)
    assert result.converged
    assert len(result.windows) > 4 * MIN_WINDOWS
    mean = result.mean
    assert mean.repeatability_u_j["package-0"] > 5 * mean.quantisation_u_j["package-0"]
    assert mean.energy_j["package-0"] == pytest.approx(0.02 * 200, rel=0.06)


def test_a_budget_that_is_too_small_is_said() -> None:
    clock, power, meter = machine()
    rng = random.Random(1)

    def work() -> None:
        power.switch(rng.gauss(200.0, 60.0))
        clock.sleep(0.02)

    started_ns = clock.now_ns()
    result = measure_repeated(meter, work, target_rel_ci=0.001, budget_s=0.5)
    assert not result.converged
    assert "asked for" in result.reason
    assert (clock.now_ns() - started_ns) * 1e-9 < 0.7


def test_the_gain_of_the_sensor_stays_however_often_work_is_repeated() -> None:
    clock, _, meter = machine(**{"package-0": 0.02})
    result = measure_repeated(meter, lambda: clock.sleep(0.02), target_rel_ci=0.01, budget_s=2)
    assert not result.converged
    assert result.relative_half_width >= 1.96 * 0.02


def test_the_interval_of_the_mean_contains_the_truth() -> None:
    held = 0
    for seed in range(40):
        clock, power, meter = machine()
        rng = random.Random(seed)

        def work(power: Switched = power, clock: ReadingClock = clock, rng: random.Random = rng) -> None:
            power.switch(rng.gauss(150.0, 30.0))
            clock.sleep(0.011)

        result = measure_repeated(meter, work, target_rel_ci=1.0, seed=seed)
        truth_j = 0.011 * 150
        half_j = result.half_width_j["package-0"]
        held += abs(result.mean.energy_j["package-0"] - truth_j) <= half_j
    assert held >= 34


def test_a_stuck_counter_ends_it() -> None:
    clock = ReadingClock()
    counter = DrivenCounter(Steady(40.0), phase=0.4)
    meter = EnergyMeter([DrivenSensor({"package-0": counter}, clock)], clock=clock)
    counter.fault = Fault(kind="stuck", at_s=clock.now_ns() * 1e-9 + 0.1)
    with pytest.raises(MeasurementError, match="stuck"):
        measure_repeated(meter, lambda: clock.sleep(0.02), target_rel_ci=1e-9)


@pytest.mark.parametrize("options", [{"target_rel_ci": 0.0}, {"budget_s": -1.0}, {"domains": ["gpu-0"]}])
def test_wrong_use_is_said(options: dict[str, object]) -> None:
    _, _, meter = machine()
    with pytest.raises(UsageError):
        measure_repeated(meter, lambda: None, **options)  # type: ignore[arg-type]
