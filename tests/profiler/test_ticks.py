"""Ticks are found as they are, and windows aligned to them hold what was spent, with intervals that hold."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from fakes.driven_counters import (
    DrivenCounter,
    DrivenSensor,
    Fault,
    FaultKind,
    Power,
    ReadingClock,
    SquareWave,
    Steady,
    Switched,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import MeasurementError, WindowReading
from profiler.counters import STUCK_LEAST_S, Counters
from profiler.errors import CounterResetError, ImplausiblePowerError, SensorReadError
from profiler.meter import EnergyMeter
from profiler.ticks import LONGEST_DISCOVERY_S, discover_ticks, step_uj

LONGEST_EDGE_PERIODS = 3.2
"""Two periods for a wait, one for a following tick, and the reads."""


def rapl(power: Power, **options: float) -> DrivenCounter:
    return DrivenCounter(power, offset_uj=10**10, phase=0.3, **options)  # type: ignore[arg-type]


def gpu(power: Power, *, tick_s: float = 0.1, **options: float) -> DrivenCounter:
    return DrivenCounter(
        power,
        tick_s=tick_s,
        quantum_uj=1000.0,
        range_uj=None,
        phase=0.7,
        **options,  # type: ignore[arg-type]
    )


def windows(
    clock: ReadingClock, meter: EnergyMeter, duration_s: float, count: int, *, pause_s: float = 0.0371
) -> list[tuple[WindowReading, int, int]]:
    """Readings with the instants at which their work began and stopped."""
    taken = []
    for _ in range(count):
        clock.sleep(pause_s)
        meter.begin("work")
        begin_ns = clock.now_ns()
        clock.sleep(duration_s)
        end_ns = clock.now_ns()
        taken.append((meter.end("work"), begin_ns, end_ns))
    return taken


def true_j(counter: DrivenCounter, begin_ns: int, end_ns: int) -> float:
    return counter.power.energy_j(end_ns * 1e-9) - counter.power.energy_j(begin_ns * 1e-9)


@settings(max_examples=10, deadline=None)
@given(tick_s=st.floats(0.0005, 0.02), jitter=st.floats(0, 0.1), phase=st.floats(0, 0.99))
def test_the_period_is_that_of_the_counter_whatever_its_data_sheet_says(
    tick_s: float, jitter: float, phase: float
) -> None:
    clock = ReadingClock()
    counter = DrivenCounter(Steady(80.0), tick_s=tick_s, jitter=jitter, phase=phase)
    counters = Counters([DrivenSensor({"package-0": counter}, clock, nominal_s=0.005)])
    discover_ticks(counters, clock)
    timing = counters.timing["package-0"]
    assert timing.discovered
    assert timing.period_s == pytest.approx(tick_s, rel=0.02 + jitter)
    assert timing.power_w == pytest.approx(80.0, rel=0.02 + jitter / 4)


def test_the_resolution_and_steadiness_are_discovered() -> None:
    clock = ReadingClock()
    counters = Counters([DrivenSensor({"package-0": rapl(Steady(80.0))}, clock)])
    discover_ticks(counters, clock)
    assert counters.timing["package-0"].resolution_uj == pytest.approx(1e6 / 2**14)
    assert counters.timing["package-0"].variation_w == 0.0


def test_power_that_changes_from_tick_to_tick_is_discovered() -> None:
    clock = ReadingClock()
    counters = Counters([DrivenSensor({"gpu-0": gpu(SquareWave(250.0, 50.0))}, clock)])
    discover_ticks(counters, clock)
    # Means of 100 ms of a wave of ± 100 W with half periods of 86.5 ms.
    assert 30 < counters.timing["gpu-0"].variation_w < 100


@given(
    step=st.sampled_from([1e6 / 2**14, 1e6 / 2**16, 1000.0]),
    counts=st.lists(st.integers(5, 5000), min_size=12, max_size=30),
)
def test_the_step_divides_every_difference(step: float, counts: list[int]) -> None:
    total, shown, differences = 0, 0, []
    for count in counts:
        total += count
        differences.append(int(total * step) - shown)
        shown = int(total * step)
    found = step_uj(differences)
    assert found >= 1
    assert all(abs(moved - round(moved / found) * found) <= 1 for moved in differences)
    assert found >= 0.99 * step


def test_a_counter_that_stands_still_is_not_waited_for_long() -> None:
    clock = ReadingClock()
    counters = Counters([DrivenSensor({"uncore-0": rapl(Steady(0.0))}, clock)])
    started_ns = clock.now_ns()
    discover_ticks(counters, clock)
    assert (clock.now_ns() - started_ns) * 1e-9 < LONGEST_DISCOVERY_S
    assert not counters.timing["uncore-0"].discovered


@pytest.mark.parametrize(
    ("make", "duration_s", "target"),
    [
        (rapl, 0.0103, 0.005),
        (rapl, 0.0503, 0.001),
        (gpu, 0.0103, 0.01),
        (gpu, 0.0503, 0.01),
        (gpu, 0.2003, 0.01),
        (gpu, 1.0003, 0.002),
    ],
)
def test_steady_power(make: Callable[..., DrivenCounter], duration_s: float, target: float) -> None:
    clock = ReadingClock()
    counter = make(Steady(90.0), jitter=0.03)
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: counter}, clock)], clock=clock)
    errors, held = [], 0
    for reading, begin_ns, end_ns in windows(clock, meter, duration_s, 40):
        truth_j = true_j(counter, begin_ns, end_ns)
        errors.append(abs(reading.energy_j[domain] - truth_j) / truth_j)
        low_j, high_j = reading.interval_j(domain)
        held += low_j <= truth_j <= high_j
    assert statistics.median(errors) <= target
    assert held >= 0.85 * 40
    assert max(errors) <= 5 * target


@pytest.mark.parametrize(
    ("make", "duration_s", "target"), [(rapl, 0.0103, 0.005), (rapl, 0.1003, 0.001), (gpu, 1.0003, 0.05)]
)
def test_square_waves(make: Callable[..., DrivenCounter], duration_s: float, target: float) -> None:
    clock = ReadingClock()
    counter = make(SquareWave(200.0, 60.0), jitter=0.02)
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: counter}, clock)], clock=clock)
    errors, held = [], 0
    for reading, begin_ns, end_ns in windows(clock, meter, duration_s, 40, pause_s=0.2113):
        truth_j = true_j(counter, begin_ns, end_ns)
        errors.append(abs(reading.energy_j[domain] - truth_j) / truth_j)
        low_j, high_j = reading.interval_j(domain)
        held += low_j <= truth_j <= high_j
    assert statistics.median(errors) <= target
    assert held >= 0.85 * 40


def test_below_the_tick_a_square_wave_is_known_to_be_unknown() -> None:
    clock = ReadingClock()
    counter = gpu(SquareWave(200.0, 20.0), jitter=0.02)
    meter = EnergyMeter([DrivenSensor({"gpu-0": counter}, clock)], clock=clock)
    taken = windows(clock, meter, 0.0103, 40, pause_s=0.2113)
    held = 0
    for reading, begin_ns, end_ns in taken:
        assert reading.flags["gpu-0"][0] == "short"
        low_j, high_j = reading.interval_j("gpu-0")
        held += low_j <= true_j(counter, begin_ns, end_ns) <= high_j
    assert held >= 36
    assert statistics.median(r.quantisation_u_j["gpu-0"] / r.energy_j["gpu-0"] for r, *_ in taken) > 0.2


@pytest.mark.parametrize(("make", "tolerance"), [(rapl, 0.01), (gpu, 0.03)])
def test_work_between_idle_times_is_not_mixed_with_them(
    make: Callable[..., DrivenCounter], tolerance: float
) -> None:
    """A window far shorter than a GPU's tick, of work at four times the idle power around it."""
    clock = ReadingClock()
    power = Switched(clock, 60.0)
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: make(power)}, clock)], clock=clock, align="always")
    for _ in range(5):
        clock.sleep(0.3)
        with meter.window() as window:
            power.switch(240.0)
            clock.sleep(0.0303)
            power.switch(60.0)
        assert window.reading.energy_j[domain] == pytest.approx(0.0303 * 240, rel=tolerance)


def test_edges_take_no_longer_than_two_waits() -> None:
    clock = ReadingClock()
    counters = {"package-0": rapl(Steady(50.0)), "dram-0": rapl(Steady(4.0)), "core-0": rapl(Steady(30.0))}
    meter = EnergyMeter([DrivenSensor(counters, clock)], clock=clock)
    for _ in range(20):
        clock.sleep(0.0123)
        started_ns = clock.now_ns()
        meter.begin("work")
        meter_s = clock.now_ns() - started_ns
        clock.sleep(0.0107)
        started_ns = clock.now_ns()
        meter.end("work")
        meter_s += clock.now_ns() - started_ns
        assert meter_s * 1e-9 < 0.0022


@given(
    range_j=st.floats(20, 200), power_w=st.floats(20, 400), ranges=st.floats(0.05, 4), phase=st.floats(0, 1)
)
@settings(max_examples=15, deadline=None)
def test_windows_through_any_number_of_wraps(
    range_j: float, power_w: float, ranges: float, phase: float
) -> None:
    clock = ReadingClock()
    range_uj = int(range_j * 1e6)
    counter = DrivenCounter(
        Steady(power_w), quantum_uj=1.0, range_uj=range_uj, offset_uj=int(phase * range_uj), phase=0.5
    )
    with EnergyMeter([DrivenSensor({"package-0": counter}, clock)], clock=clock) as meter:
        duration_s = max(0.01, ranges * range_j / power_w)
        ((reading, begin_ns, end_ns),) = windows(clock, meter, duration_s, 1)
    truth_j = true_j(counter, begin_ns, end_ns)
    assert reading.energy_j["package-0"] == pytest.approx(truth_j, rel=0.01 if duration_s < 0.05 else 2e-3)


FAULTS: list[tuple[FaultKind, type[MeasurementError]]] = [
    ("reset", MeasurementError),
    ("jump back", MeasurementError),
    ("jump ahead", ImplausiblePowerError),
    ("read error", SensorReadError),
    ("vanish", SensorReadError),
]


@pytest.mark.parametrize("align", ["auto", "never"])
@pytest.mark.parametrize("make", [rapl, gpu])
@pytest.mark.parametrize(("kind", "error"), FAULTS)
def test_a_fault_within_a_window_is_a_named_error(
    kind: FaultKind, error: type[MeasurementError], make: Callable[..., DrivenCounter], align: str
) -> None:
    clock = ReadingClock()
    counter = make(Steady(100.0))
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: counter}, clock)], clock=clock, align=align)  # type: ignore[arg-type]
    meter.begin("work")
    counter.fault = Fault(kind=kind, at_s=clock.now_ns() * 1e-9 + 0.25)
    clock.sleep(0.5)
    with pytest.raises(error) as caught:
        meter.end("work")
    if make is gpu and kind in ("reset", "jump back"):
        assert isinstance(caught.value, CounterResetError)
    counter.fault = None
    ((reading, begin_ns, end_ns),) = windows(clock, meter, 1.0, 1)
    assert reading.energy_j[domain] == pytest.approx(true_j(counter, begin_ns, end_ns), rel=0.15)


@pytest.mark.parametrize("make", [rapl, gpu])
def test_a_counter_that_stops_within_a_window_is_stuck(make: Callable[..., DrivenCounter]) -> None:
    clock = ReadingClock()
    counter = make(Steady(100.0))
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: counter}, clock)], clock=clock)
    meter.begin("work")
    counter.fault = Fault(kind="stuck", at_s=clock.now_ns() * 1e-9 + 0.45)
    clock.sleep(0.5)
    started_ns = clock.now_ns()
    reading = meter.end("work")
    assert (clock.now_ns() - started_ns) * 1e-9 < max(
        LONGEST_EDGE_PERIODS * counter.tick_s, 1.2 * STUCK_LEAST_S
    )
    assert "stuck" in reading.flags[domain]
    with pytest.raises(MeasurementError, match="no total"):
        _ = reading.total_j
    with meter.window() as window:
        clock.sleep(0.5)
    assert {"stuck", "unmoved"} <= set(window.reading.flags[domain])


@pytest.mark.parametrize("make", [rapl, gpu])
def test_reads_of_half_a_second_widen_the_interval_and_hold_nothing_up(
    make: Callable[..., DrivenCounter],
) -> None:
    clock = ReadingClock()
    counter = make(Steady(100.0))
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: counter}, clock)], clock=clock)
    counter.fault = Fault(kind="slow read", at_s=0.0)
    started_ns = clock.now_ns()
    ((reading, begin_ns, end_ns),) = windows(clock, meter, 1.0, 1)
    assert (clock.now_ns() - started_ns) * 1e-9 < 1.0 + 4 * 0.5 + 0.1
    assert "slow read" in reading.flags[domain]
    low_j, high_j = reading.interval_j(domain)
    assert low_j <= true_j(counter, begin_ns, end_ns) <= high_j


@pytest.mark.parametrize("make", [rapl, gpu])
def test_a_counter_that_stood_still_for_a_while_within_a_window_is_stuck(
    make: Callable[..., DrivenCounter],
) -> None:
    clock = ReadingClock()
    counter = make(Steady(100.0))
    domain = "package-0" if make is rapl else "gpu-0"
    meter = EnergyMeter([DrivenSensor({domain: counter}, clock)], clock=clock)
    meter.begin("work")
    counter.fault = Fault(kind="stuck", at_s=clock.now_ns() * 1e-9 + 0.1)
    clock.sleep(0.9)
    counter.fault = None
    clock.sleep(0.5)
    assert "stuck" in meter.end("work").flags[domain]


def test_without_alignment_windows_are_right_on_average() -> None:
    clock = ReadingClock()
    counter = gpu(Steady(100.0))
    meter = EnergyMeter([DrivenSensor({"gpu-0": counter}, clock)], clock=clock, align="never")
    taken = windows(clock, meter, 0.03, 600, pause_s=0.0717)
    shares = [r.energy_j["gpu-0"] / true_j(counter, begin, end) for r, begin, end in taken]
    assert statistics.fmean(shares) == pytest.approx(1.0, abs=0.1)
    held = [r.interval_j("gpu-0")[1] >= true_j(counter, begin, end) for r, begin, end in taken]
    assert statistics.fmean(held) > 0.9
