"""The real pynvml, against a scripted driver library."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from fakes.nvml_library import (
    FUNCTION_NOT_FOUND,
    GPU_IS_LOST,
    LIBRARY_NOT_FOUND,
    NO_PERMISSION,
    NOT_SUPPORTED,
    UNKNOWN,
    FakeNvml,
    scripted_nvml,
)
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import total_domains
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.meter import EnergyMeter
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.nvml_check import check_counter
from profiler.sensors.nvml_fields import (
    AVERAGE_MEMORY_POWER,
    AVERAGE_POWER,
    ENERGY,
    INSTANT_MODULE_POWER,
    INSTANT_POWER,
    read_fields,
)
from profiler.sensors.power_integral import LATEST_TICK, MAX_GAP_S, POLL_PERIOD_S, PowerIntegral


class SteppedClock:
    """Time that a test steps, for the library and for the poller alike; nothing is done by itself."""

    def __init__(self, nvml: FakeNvml, start_s: float = 1000.0) -> None:
        self._nvml = nvml
        self._now_ns = round(start_s * 1e9)
        self._actions: list[Callable[[], None]] = []
        nvml.set_time_s(start_s)

    def now_ns(self) -> int:
        return self._now_ns

    def sleep(self, seconds: float) -> None:
        self._now_ns += round(seconds * 1e9)
        self._nvml.set_time_s(self._now_ns / 1e9)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        del period_s
        self._actions.append(action)
        return lambda: self._actions.remove(action)

    def poll(self) -> None:
        for action in self._actions:
            action()

    @property
    def pollers(self) -> int:
        return len(self._actions)


@pytest.fixture
def nvml() -> Iterator[FakeNvml]:
    with scripted_nvml() as library:
        yield library


def test_every_gpu_is_a_domain_in_microjoules(nvml: FakeNvml) -> None:
    nvml.script(gpus=2)
    nvml.spend(0, 12_345)
    nvml.spend(1, 2**40)
    sensor = NvmlSensor()
    before_ns = time.monotonic_ns()
    reading = sensor.read()
    assert reading.energy_uj == {"gpu-0": 12_345_000, "gpu-1": 2**40 * 1000}
    assert before_ns <= reading.time_ns <= time.monotonic_ns()
    spec = sensor.specs[1]
    assert (spec.domain, spec.interface, spec.range_uj) == ("gpu-1", "nvml", None)
    assert (spec.update_period_s, spec.resolution_uj) == (0.1, 1000.0)
    assert "Fake GPU 1" in spec.source
    sensor.close()


def test_counters_hold_what_the_gpus_spent(nvml: FakeNvml) -> None:
    nvml.script(gpus=2)
    nvml.spend(1, 900_000)
    sensor = NvmlSensor()
    before_uj = sensor.read().energy_uj
    nvml.spend(0, 7)
    nvml.spend(1, 41)
    after_uj = sensor.read().energy_uj
    assert {gpu: after_uj[gpu] - before_uj[gpu] for gpu in after_uj} == {"gpu-0": 7_000, "gpu-1": 41_000}
    sensor.close()


@pytest.mark.parametrize("call", ["handle_result", "energy_result"])
def test_a_gpu_without_a_counter_is_asked_and_left_out(nvml: FakeNvml, call: str) -> None:
    nvml.script(gpus=3)
    nvml.set_results(1, **{call: NOT_SUPPORTED})
    sensor = NvmlSensor()
    assert [spec.domain for spec in sensor.specs] == ["gpu-0", "gpu-2"]
    (left_out,) = sensor.left_out
    assert left_out.source == "gpu-1"
    assert "Not Supported" in left_out.reason
    sensor.close()


def test_no_gpu_with_a_counter_is_no_sensor(nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    nvml.set_results(0, energy_result=NOT_SUPPORTED)
    with pytest.raises(
        SensorMissingError, match="gpu-0: its energy counter answers: Not Supported; its power: Not Supported"
    ):
        NvmlSensor()
    nvml.script(gpus=0)
    with pytest.raises(SensorMissingError, match="No NVIDIA GPU with an energy counter or a power reading"):
        NvmlSensor()
    nvml.script(gpus=1, count_result=UNKNOWN)
    with pytest.raises(SensorMissingError, match="cannot list the GPUs"):
        NvmlSensor()
    assert nvml.users == 0


def test_no_driver_no_library_no_permission(nvml: FakeNvml) -> None:
    nvml.no_driver()
    with pytest.raises(SensorMissingError, match="Driver Not Loaded"):
        NvmlSensor()
    nvml.script(init_result=LIBRARY_NOT_FOUND)
    with pytest.raises(SensorMissingError, match="Library Not Found"):
        NvmlSensor()
    nvml.script(init_result=NO_PERMISSION)
    with pytest.raises(SensorPermissionError, match="Insufficient Permissions"):
        NvmlSensor()


def test_an_error_during_a_read_raises(nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    sensor = NvmlSensor()
    nvml.set_results(0, energy_result=GPU_IS_LOST)
    with pytest.raises(SensorReadError, match="GPU is lost"):
        sensor.read()
    nvml.set_results(0, energy_result=12_345)
    with pytest.raises(SensorReadError, match="NVML result 12345"):
        sensor.read()
    sensor.close()


def test_nvml_is_started_by_a_sensor_and_given_back_once(nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    assert nvml.users == 0
    first, second = NvmlSensor(), NvmlSensor()
    assert nvml.users == 2
    first.close()
    first.close()
    assert nvml.users == 1
    assert second.read().energy_uj == {"gpu-0": 0}
    second.close()
    assert nvml.users == 0


def test_the_old_package_that_shadows_the_bindings_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", types.ModuleType("pynvml"))
    with pytest.raises(SensorMissingError, match="old pynvml package") as shadowed:
        NvmlSensor()
    assert "pip uninstall" in shadowed.value.next_step


def test_missing_bindings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(SensorMissingError, match="nvidia-ml-py is not installed"):
        NvmlSensor()


def data_centre_gpu(nvml: FakeNvml, *, memory_share: float = 0.25) -> None:
    """A GPU with a counter, both powers, and the power of its memory."""
    nvml.script(gpus=1)
    for key in (ENERGY, INSTANT_POWER, AVERAGE_POWER):
        nvml.set_field(0, key)
    nvml.set_field(0, AVERAGE_MEMORY_POWER, share=memory_share)


def gpu_without_counter(nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    nvml.set_results(0, energy_result=NOT_SUPPORTED)
    nvml.set_field(0, ENERGY, result=NOT_SUPPORTED)
    nvml.set_field(0, INSTANT_POWER)


def test_fields_come_in_one_call_with_a_return_code_each(nvml: FakeNvml) -> None:
    data_centre_gpu(nvml)
    nvml.set_power(0, 300.0)
    sensor = NvmlSensor()
    gpu = sensor.gpus[0]
    calls = nvml.calls
    keys = (ENERGY, INSTANT_POWER, AVERAGE_MEMORY_POWER, INSTANT_MODULE_POWER)
    fields = read_fields(gpu.nvml, gpu.handle, keys)
    assert nvml.calls <= calls + 2  # the poller may have called beside us
    assert fields[INSTANT_POWER].value == pytest.approx(300_000, abs=1)
    assert fields[AVERAGE_MEMORY_POWER].value == pytest.approx(75_000, abs=1)
    assert (fields[INSTANT_MODULE_POWER].value, fields[INSTANT_MODULE_POWER].result) == (None, NOT_SUPPORTED)
    assert fields[ENERGY].timestamp_us == pytest.approx(time.time() * 1e6, abs=60e6)
    assert fields[ENERGY].latency_us == 7
    sensor.close()


def test_counter_and_memory_are_read_in_one_call(nvml: FakeNvml) -> None:
    data_centre_gpu(nvml)
    sensor = NvmlSensor(clock=SteppedClock(nvml))
    assert [spec.domain for spec in sensor.specs] == ["gpu-0", "gpumem-0"]
    calls = nvml.calls
    sensor.read()
    assert nvml.calls == calls + 1
    memory = sensor.specs[1]
    assert (memory.kind, memory.averaging_window_s) == ("power", 1.0)
    assert "part of gpu-0" in memory.excludes
    assert total_domains(spec.domain for spec in sensor.specs) == ("gpu-0",)
    sensor.close()


@pytest.mark.parametrize("way", ["field", "call"])
def test_the_counter_is_found_by_asking_either_way(nvml: FakeNvml, way: str) -> None:
    nvml.script(gpus=1)
    nvml.set_power(0, 100.0)
    if way == "field":
        nvml.set_field(0, ENERGY)
        nvml.set_results(0, energy_result=NOT_SUPPORTED)
    clock = SteppedClock(nvml)
    sensor = NvmlSensor(clock=clock)
    before_uj = sensor.read().energy_uj["gpu-0"]
    clock.sleep(10.0)
    assert sensor.read().energy_uj["gpu-0"] - before_uj == pytest.approx(1e9, abs=2000)
    assert (sensor.specs[0].kind, clock.pollers) == ("counter", 0)
    assert ("field 83" in sensor.specs[0].source) == (way == "field")
    sensor.close()


def test_a_driver_without_the_field_call_is_read_by_the_old_calls(nvml: FakeNvml) -> None:
    nvml.script(gpus=2)
    nvml.set_power(1, 50.0)
    for gpu in (0, 1):
        nvml.set_power_result(gpu, fields_result=FUNCTION_NOT_FOUND)
    nvml.set_results(1, energy_result=NOT_SUPPORTED)
    sensor = NvmlSensor(clock=SteppedClock(nvml))
    assert [spec.kind for spec in sensor.specs] == ["counter", "power"]
    assert "nvmlDeviceGetPowerUsage" in sensor.specs[1].source
    assert sensor.specs[1].averaging_window_s == 1.0
    sensor.close()


def test_power_is_integrated_where_there_is_no_counter(nvml: FakeNvml) -> None:
    gpu_without_counter(nvml)
    nvml.set_power(0, 250.0)
    sensor = NvmlSensor()
    spec = sensor.specs[0]
    assert (spec.kind, spec.update_period_s, spec.averaging_window_s) == ("power", 0.1, 0.1)
    assert "no energy counter" in sensor.notes[0]
    with EnergyMeter([sensor]) as meter, meter.window() as window:
        time.sleep(0.4)
    reading = window.reading
    assert reading.energy_j["gpu-0"] == pytest.approx(250.0 * reading.duration_s, rel=0.05)
    sensor.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "calijoule-poller"]
    assert nvml.users == 0


def test_a_failed_sample_is_an_error_of_the_next_read_and_then_it_goes_on(nvml: FakeNvml) -> None:
    gpu_without_counter(nvml)
    nvml.set_power(0, 250.0)
    clock = SteppedClock(nvml)
    sensor = NvmlSensor(clock=clock)
    sensor.read()
    nvml.set_field(0, INSTANT_POWER, result=GPU_IS_LOST)
    clock.poll()
    with pytest.raises(SensorReadError, match=r"field 186 of gpu-0: GPU is lost"):
        sensor.read()
    nvml.set_field(0, INSTANT_POWER)
    with pytest.raises(SensorReadError, match=r"field 186 of gpu-0: GPU is lost"):
        sensor.read()
    clock.poll()
    before_uj = sensor.read().energy_uj["gpu-0"]
    clock.poll()
    assert sensor.read().energy_uj["gpu-0"] >= before_uj
    sensor.close()


def test_a_driver_that_answers_late_leaves_a_gap_that_is_an_error(nvml: FakeNvml) -> None:
    gpu_without_counter(nvml)
    nvml.set_power(0, 250.0)
    sensor = NvmlSensor()
    nvml.set_slow_s(1.2 * MAX_GAP_S)
    with pytest.raises(SensorReadError, match="was not sampled for"):
        [sensor.read() for _ in range(2)]
    nvml.set_slow_s(0)
    sensor.close()


def test_a_slow_read_of_a_counter_says_how_long_it_took(nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    sensor = NvmlSensor()
    nvml.set_slow_s(0.05)
    assert sensor.read().read_ns >= 50_000_000
    sensor.close()


@given(
    samples=st.lists(
        st.tuples(st.integers(1, int(MAX_GAP_S * 1e9)), st.integers(0, 10**9)), min_size=2, max_size=50
    )
)
def test_without_a_tick_every_sample_stands_for_the_time_before_it(samples: list[tuple[int, int]]) -> None:
    integral = PowerIntegral("gpu-0")
    times_ns = list(itertools.accumulate(step for step, _ in samples))
    for time_ns, (_, power_uw) in zip(times_ns, samples, strict=True):
        integral.add(time_ns, power_uw)
        integral.add(time_ns - 1, 10**12)
    truth_uj = sum(step * power_uw for step, power_uw in samples[1:]) // 10**9
    assert integral.energy_uj() == truth_uj


@given(
    phase_s=st.floats(0, 0.1),
    period_s=st.floats(0.098, 0.104),
    powers_w=st.lists(st.integers(50, 700), min_size=30, max_size=60),
)
def test_values_that_are_shown_late_are_booked_for_the_time_that_they_are_about(
    phase_s: float, period_s: float, powers_w: list[int]
) -> None:
    """A sensor shows, in each period, the mean power of the period before it."""
    integral = PowerIntegral("gpu-0", tick_s=0.1)
    energy_j = [0.0, *itertools.accumulate(power_w * period_s for power_w in powers_w)]
    tick_s = [phase_s + number * period_s for number in range(len(powers_w) + 1)]
    shown: list[tuple[float, float]] = []
    for poll in range(int((tick_s[-1] - phase_s) / POLL_PERIOD_S)):
        now_s = phase_s + poll * POLL_PERIOD_S
        last = max(0, int((now_s - phase_s) / period_s) - 1)
        integral.add(round((1 + now_s) * 1e9), powers_w[last] * 10**6)
        shown.append((now_s, integral.energy_uj() / 1e6))
    first, final = (max(1, len(shown) // 3), len(shown) - 1)
    true_j = [np.interp(shown[index][0], tick_s, energy_j) for index in (first, final)]
    seen_j = shown[final][1] - shown[first][1]
    # Each end is off by no more than the period that has not been shown yet, and its polls.
    assert abs(seen_j - (true_j[1] - true_j[0])) <= 2 * 700 * (LATEST_TICK * 0.104 + 2 * POLL_PERIOD_S)


def test_a_gap_is_an_error_once() -> None:
    integral = PowerIntegral("gpu-0", max_gap_s=1.0)
    integral.add(0, 10**6)
    integral.add(1_000_000_001, 10**6)
    with pytest.raises(SensorReadError, match=r"gpu-0 was not sampled for 1\.00 s"):
        integral.energy_uj()
    before_uj = integral.energy_uj()
    integral.add(1_500_000_000, 10**6)
    integral.add(2_500_000_000, 10**6)
    assert integral.energy_uj() - before_uj == 10**6
    assert integral.energy_uj(3_500_000_000) - before_uj == 10**6
    with pytest.raises(SensorReadError, match="was not sampled"):
        integral.energy_uj(3_500_000_001)


@given(tick_s=st.floats(0.05, 2.0), power_w=st.integers(1, 1000), averages=st.booleans())
def test_steady_power_ticks_about_once_in_its_period(tick_s: float, power_w: int, averages: bool) -> None:
    integral = PowerIntegral("gpu-0", tick_s=tick_s, averages=averages)
    shown_uj = []
    samples = int(20 * tick_s / POLL_PERIOD_S)
    for number in range(samples):
        integral.add(round((1 + number * POLL_PERIOD_S) * 1e9), power_w * 10**6)
        shown_uj.append(integral.energy_uj())
    moves = sum(after != before for before, after in itertools.pairwise(shown_uj))
    assert 15 <= moves <= 21
    assert shown_uj[-1] == pytest.approx(20e6 * tick_s * power_w, rel=0.07)


@pytest.mark.parametrize("gain", [1.0, 0.57])
def test_the_counter_is_checked_against_integrated_power(nvml: FakeNvml, gain: float) -> None:
    """The counter is a share of the truth that power shows whole: here its field, scaled by the script."""
    data_centre_gpu(nvml)
    nvml.set_sensor(0, gain=gain)
    nvml.set_field(0, INSTANT_POWER, share=1 / gain)
    nvml.set_power(0, 300.0)
    clock = SteppedClock(nvml)
    sensor = NvmlSensor(clock=clock)
    check = check_counter(sensor.gpus[0], clock=clock)
    assert check is not None
    assert check.ratio == pytest.approx(gain, rel=0.002)
    assert check.duration_s >= 2.0
    assert ("disagree" in check.note) == (gain != 1.0)
    sensor.close()


def test_a_counter_that_stands_still_cannot_be_checked(nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    nvml.set_field(0, INSTANT_POWER)
    clock = SteppedClock(nvml)
    sensor = NvmlSensor(clock=clock)
    with pytest.raises(SensorReadError, match="did not move for 1 s"):
        check_counter(sensor.gpus[0], clock=clock)
    sensor.close()
    gpu_without_counter(nvml)
    sensor = NvmlSensor(clock=clock)
    assert check_counter(sensor.gpus[0], clock=clock) is None
    sensor.close()


def test_what_a_counter_does_not_tell_apart_is_said(nvml: FakeNvml) -> None:
    nvml.script(gpus=4)
    nvml.set_state(0, mig=True)
    nvml.set_state(1, virtualization=2)
    nvml.set_field(2, INSTANT_MODULE_POWER)
    sensor = NvmlSensor()
    assert [any(word in note for note in sensor.notes) for word in ("MIG", "virtual machines", "module")] == [
        True,
        True,
        True,
    ]
    assert [spec.excludes != "" for spec in sensor.specs] == [True, True, True, False]
    sensor.close()


def test_the_package_imports_and_fails_by_name_without_any_nvml() -> None:
    """No library of that name at all: the real bindings look for it and do not find it."""
    code = """
from profiler.errors import SensorMissingError
from profiler.sensors import NvmlSensor
try:
    NvmlSensor()
except SensorMissingError as error:
    print(error.message)
else:
    print("This machine has a GPU.")
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert any(text in result.stdout for text in ("cannot be started", "energy counter", "has a GPU"))
    assert result.stderr == ""
