"""The real pynvml, against a scripted driver library."""

from __future__ import annotations

import sys
import time
import types
from collections.abc import Iterator

import pytest
from fakes.nvml_library import FakeNvml, scripted_nvml

from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.meter import EnergyMeter
from profiler.sensors.nvml import NvmlSensor

NOT_SUPPORTED, NO_PERMISSION, LIBRARY_NOT_FOUND, GPU_IS_LOST, UNKNOWN = 3, 4, 12, 15, 999


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


def test_a_window_holds_what_the_gpus_spent(nvml: FakeNvml) -> None:
    nvml.script(gpus=2)
    nvml.spend(1, 900_000)
    sensor = NvmlSensor()
    with EnergyMeter([sensor]) as meter, meter.window() as window:
        nvml.spend(0, 7)
        nvml.spend(1, 41)
    assert window.reading.energy_j == {"gpu-0": 0.007, "gpu-1": 0.041}
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
    with pytest.raises(SensorMissingError, match="gpu-0: its energy counter answers: Not Supported"):
        NvmlSensor()
    nvml.script(gpus=0)
    with pytest.raises(SensorMissingError, match="No NVIDIA GPU with an energy counter"):
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
