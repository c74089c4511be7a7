"""Windows are exact to the microjoule through any number of wraps, or they are no windows at all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import CounterSpec, MeasurementError, UsageError, WindowReading
from profiler.clock import MonotonicClock
from profiler.counters import PLAUSIBLE_POWER_W
from profiler.errors import (
    CounterResetError,
    ImplausiblePowerError,
    SensorMissingError,
    SensorReadError,
    WindowOrderError,
)
from profiler.meter import EnergyMeter
from profiler.sensors.base import Reading

RANGE_UJ = 262_143_328_850


@dataclass
class ScriptedClock:
    """Time that a test moves; what is to be done every so often is done on the way."""

    time_ns: int = 0
    _actions: list[tuple[int, Callable[[], None]]] = field(default_factory=list)

    def now_ns(self) -> int:
        return self.time_ns

    def sleep(self, seconds: float) -> None:
        self.advance(seconds)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        entry = (round(period_s * 1e9), action)
        self._actions.append(entry)
        return lambda: self._actions.remove(entry)

    def advance(self, seconds: float) -> None:
        end_ns = self.time_ns + round(seconds * 1e9)
        start_ns = self.time_ns
        due = sorted(
            (at_ns, index)
            for index, (period_ns, _) in enumerate(self._actions)
            for at_ns in range(start_ns + period_ns, end_ns, period_ns)
        )
        for at_ns, index in due:
            self.time_ns = at_ns
            self._actions[index][1]()
        self.time_ns = end_ns


@dataclass
class ConstantPower:
    """Counters that count whole microjoules of a constant power, and wrap."""

    clock: ScriptedClock
    power_uw: dict[str, int]
    range_uj: int | None = RANGE_UJ
    broken: bool = False
    added_uj: int = 0
    reads: int = 0

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        return tuple(
            CounterSpec(
                domain=domain,
                interface="scripted",
                source="test",
                range_uj=self.range_uj,
                resolution_uj=1.0,
                update_period_s=1e-9,
            )
            for domain in self.power_uw
        )

    def true_uj(self, domain: str, time_ns: int) -> int:
        return self.power_uw[domain] * time_ns // 10**9 + self.added_uj

    def read(self) -> Reading:
        self.reads += 1
        if self.broken:
            raise SensorReadError("The counter is broken.")
        now_ns = self.clock.now_ns()
        energy_uj = {domain: self.true_uj(domain, now_ns) for domain in self.power_uw}
        if self.range_uj is not None:
            energy_uj = {domain: energy % self.range_uj for domain, energy in energy_uj.items()}
        return Reading(time_ns=now_ns, energy_uj=energy_uj)

    def close(self) -> None:
        pass


class Following(MonotonicClock):
    """Another clock's time, and actions in a thread."""

    def __init__(self, clock: ScriptedClock) -> None:
        self._clock = clock

    def now_ns(self) -> int:
        return self._clock.now_ns()


@pytest.fixture
def clock() -> ScriptedClock:
    return ScriptedClock()


@pytest.fixture
def sensor(clock: ScriptedClock) -> ConstantPower:
    return ConstantPower(clock, {"package-0": 150_000_000, "dram-0": 12_000_000})


@pytest.fixture
def meter(sensor: ConstantPower, clock: ScriptedClock) -> EnergyMeter:
    return EnergyMeter([sensor], clock=clock, align="never")


def test_a_window_is_power_times_time(meter: EnergyMeter, clock: ScriptedClock) -> None:
    with meter.window() as window:
        clock.advance(2.5)
    assert window.reading.duration_s == 2.5
    assert window.reading.energy_j == {"package-0": 375.0, "dram-0": 30.0}
    assert window.reading.total_j == 405.0


def test_windows_nest_and_overlap(meter: EnergyMeter, clock: ScriptedClock) -> None:
    meter.begin("first")
    clock.advance(1)
    with meter.window("inner") as inner:
        clock.advance(2)
    meter.begin("second")
    clock.advance(4)
    first = meter.end("first")
    clock.advance(8)
    second = meter.end("second")
    assert inner.reading.energy_j["package-0"] == 300.0
    assert first.energy_j["package-0"] == 7 * 150.0
    assert second.energy_j["package-0"] == 12 * 150.0


@given(
    range_uj=st.integers(20_000_000, 2**32),
    power_uw=st.integers(0, int(PLAUSIBLE_POWER_W * 1e6)),
    before_s=st.floats(0, 1000),
    duration_s=st.floats(0.001, 1.0),
)
def test_any_number_of_wraps_is_exact_to_the_microjoule(
    range_uj: int, power_uw: int, before_s: float, duration_s: float
) -> None:
    clock = ScriptedClock()
    sensor = ConstantPower(clock, {"package-0": power_uw}, range_uj=range_uj)
    clock.advance(before_s)
    with EnergyMeter([sensor], clock=clock, align="never") as meter:
        begin_ns = clock.now_ns()
        with meter.window() as window:
            clock.advance(duration_s)
        truth_uj = sensor.true_uj("package-0", clock.now_ns()) - sensor.true_uj("package-0", begin_ns)
    assert round(window.reading.energy_j["package-0"] * 1e6) == truth_uj


def test_an_hour_through_seven_wraps(clock: ScriptedClock) -> None:
    sensor = ConstantPower(clock, {"package-0": 560_000_000})
    with EnergyMeter([sensor], clock=clock, align="never") as meter, meter.window() as window:
        clock.advance(3600)
    assert 3600 * 560_000_000 // RANGE_UJ == 7
    assert window.reading.energy_j == {"package-0": 3600 * 560.0}


def test_the_poller_runs_in_a_thread_of_this_process() -> None:
    enough = threading.Event()

    class Counting(ConstantPower):
        def read(self) -> Reading:
            if self.reads == 5:
                enough.set()
            return super().read()

    sensor = Counting(ScriptedClock(), {"package-0": 0}, range_uj=1_000)
    with EnergyMeter([sensor], clock=Following(sensor.clock), align="never") as meter:
        meter.begin("window")
        assert enough.wait(30)
        sensor.clock.advance(1)
        assert meter.end("window").energy_j == {"package-0": 0.0}
    assert not [thread for thread in threading.enumerate() if thread.name == "calijoule-poller"]


def test_an_exception_discards_the_window(meter: EnergyMeter, clock: ScriptedClock) -> None:
    with pytest.raises(ZeroDivisionError), meter.window("work") as window:
        raise ZeroDivisionError
    with pytest.raises(WindowOrderError, match="no reading"):
        _ = window.reading
    with meter.window("work") as again:
        clock.advance(1)
    assert again.reading.energy_j["dram-0"] == 12.0


def test_a_window_has_no_reading_while_it_is_open(meter: EnergyMeter, clock: ScriptedClock) -> None:
    with meter.window() as window:
        clock.advance(1)
        with pytest.raises(WindowOrderError):
            _ = window.reading


def test_a_failed_read_at_either_edge_raises(
    meter: EnergyMeter, sensor: ConstantPower, clock: ScriptedClock
) -> None:
    sensor.broken = True
    with pytest.raises(SensorReadError):
        meter.begin("window")
    sensor.broken = False
    meter.begin("window")
    clock.advance(1)
    sensor.broken = True
    with pytest.raises(SensorReadError):
        meter.end("window")
    sensor.broken = False
    with meter.window("window") as window:
        clock.advance(1)
    assert window.reading.energy_j["package-0"] == 150.0


def test_a_failed_poll_comes_out_at_the_end_of_every_window_it_fell_into(
    meter: EnergyMeter, sensor: ConstantPower, clock: ScriptedClock
) -> None:
    meter.begin("outer")
    meter.begin("inner")
    sensor.broken = True
    clock.advance(60)
    sensor.broken = False
    with pytest.raises(SensorReadError):
        meter.end("inner")
    with meter.window("after") as after:
        clock.advance(60)
    with pytest.raises(SensorReadError):
        meter.end("outer")
    assert after.reading.energy_j["package-0"] == 60 * 150.0


def test_power_that_no_part_can_draw_is_an_error_of_every_open_window(
    meter: EnergyMeter, sensor: ConstantPower, clock: ScriptedClock
) -> None:
    meter.begin("outer")
    meter.begin("inner")
    clock.advance(0.010)
    sensor.added_uj += 200_000_000
    with pytest.raises(ImplausiblePowerError, match="package-0"):
        meter.end("inner")
    clock.advance(5)
    with pytest.raises(ImplausiblePowerError):
        meter.end("outer")
    with meter.window() as window:
        clock.advance(1)
    assert window.reading.energy_j["package-0"] == 150.0


def test_a_counter_without_range_that_falls_is_an_error(clock: ScriptedClock) -> None:
    sensor = ConstantPower(clock, {"gpu-0": 10_000_000}, range_uj=None, added_uj=5_000_000)
    meter = EnergyMeter([sensor], clock=clock, align="never")
    meter.begin("window")
    clock.advance(0.1)
    sensor.added_uj = 0
    with pytest.raises(CounterResetError):
        meter.end("window")


def test_what_a_counter_does_between_windows_is_no_matter(clock: ScriptedClock) -> None:
    sensor = ConstantPower(clock, {"gpu-0": 10_000_000}, range_uj=None, added_uj=5_000_000)
    meter = EnergyMeter([sensor], clock=clock, align="never")
    for added_uj in (5_000_000, 0, 900_000_000):
        sensor.added_uj = added_uj
        with meter.window() as window:
            clock.advance(1)
        assert window.reading.energy_j == {"gpu-0": 10.0}


def test_a_window_without_duration_is_an_error(meter: EnergyMeter) -> None:
    meter.begin("window")
    with pytest.raises(MeasurementError, match="ended at the instant"):
        meter.end("window")


def test_windows_in_the_wrong_order(meter: EnergyMeter) -> None:
    with pytest.raises(WindowOrderError, match="No window"):
        meter.end("window")
    meter.begin("window")
    with pytest.raises(WindowOrderError, match="already open"):
        meter.begin("window")


def test_sensors_must_be_there_and_differ(sensor: ConstantPower, clock: ScriptedClock) -> None:
    with pytest.raises(SensorMissingError):
        EnergyMeter([])
    with pytest.raises(UsageError, match="same name"):
        EnergyMeter([sensor, sensor], clock=clock, align="never")


def test_several_sensors_join_in_one_reading(sensor: ConstantPower, clock: ScriptedClock) -> None:
    gpu = ConstantPower(clock, {"gpu-0": 300_000_000}, range_uj=None)
    meter = EnergyMeter([sensor, gpu], clock=clock, align="never")
    assert [spec.domain for spec in meter.specs] == ["package-0", "dram-0", "gpu-0"]
    with meter.window() as window:
        clock.advance(1)
    assert window.reading.energy_j == {"package-0": 150.0, "dram-0": 12.0, "gpu-0": 300.0}


def test_the_device_is_synchronised_before_each_edge_is_read(
    sensor: ConstantPower, clock: ScriptedClock
) -> None:
    reads_at_synchronisation = []
    meter = EnergyMeter(
        [sensor],
        clock=clock,
        align="never",
        synchronize=lambda: reads_at_synchronisation.append(sensor.reads),
    )
    with meter.window():
        clock.advance(0.01)
    assert reads_at_synchronisation == [1, 2]


def test_a_decorated_function_reports_each_call(meter: EnergyMeter, clock: ScriptedClock) -> None:
    reports: list[tuple[str, WindowReading]] = []

    @meter.measured(lambda name, reading: reports.append((name, reading)))
    def work(seconds: float) -> float:
        clock.advance(seconds)
        return 2 * seconds

    assert work(3.0) == 6.0
    ((name, reading),) = reports
    assert name.endswith("work")
    assert reading.energy_j["dram-0"] == 36.0
