"""Rails and powers of boards: named by label, volts times amperes, never in a total."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.hwmon_tree import HwmonTree, jetson, workstation
from fakes.powercap_tree import bound_by_permissions

from calibration_data import total_domains
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.meter import EnergyMeter
from profiler.sensors.hwmon import HwmonSensor


class NoPoller:
    """A clock on which nothing is done by itself."""

    def now_ns(self) -> int:
        return time.monotonic_ns()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        del period_s, action
        return lambda: None


def test_rails_of_a_jetson_are_known_by_label_and_are_volts_times_amperes(tmp_path: Path) -> None:
    sensor = HwmonSensor(jetson(tmp_path / "hwmon").root)
    assert [spec.domain for spec in sensor.specs] == ["rail-vdd_in", "rail-vdd_cpu_gpu_cv", "rail-vdd_soc"]
    assert {spec.kind for spec in sensor.specs} == {"power"}
    with EnergyMeter([sensor]) as meter, meter.window() as window:
        time.sleep(0.4)
    reading = window.reading
    power_w = {domain: energy_j / reading.duration_s for domain, energy_j in reading.energy_j.items()}
    assert power_w == {
        "rail-vdd_in": pytest.approx(5.0, rel=0.05),
        "rail-vdd_cpu_gpu_cv": pytest.approx(1.2, rel=0.05),
        "rail-vdd_soc": pytest.approx(0.8, rel=0.05),
    }
    assert total_domains(power_w) == ()
    sensor.close()
    sensor.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "calijoule-poller"]


def test_generic_counters_and_powers(tmp_path: Path) -> None:
    tree = workstation(tmp_path / "hwmon")
    sensor = HwmonSensor(tree.root, clock=NoPoller())
    specs = {spec.domain: spec for spec in sensor.specs}
    assert list(specs) == ["rail-ppt", "rail-card", "rail-xe-energy2", "rail-power_meter-power1"]
    assert specs["rail-ppt"].source.startswith(str(tree.root / "hwmon1" / "power1_input"))
    assert (specs["rail-card"].kind, specs["rail-card"].averaging_window_s) == ("counter", None)
    assert specs["rail-power_meter-power1"].averaging_window_s == 1.0
    assert [Path(item.source).name for item in sensor.left_out] == ["hwmon11"]
    first = sensor.read()
    tree.write(2, "energy1_input", 5_750_000)
    time.sleep(0.15)
    sensor._poll()
    second = sensor.read()
    moved_uj = {domain: second.energy_uj[domain] - first.energy_uj[domain] for domain in specs}
    elapsed_s = (second.time_ns - first.time_ns) / 1e9
    assert (moved_uj["rail-card"], moved_uj["rail-xe-energy2"]) == (750_000, 0)
    # A value that did not change is booked up to its last tick.
    assert 43e6 * (elapsed_s - 0.1) < moved_uj["rail-ppt"] < 43e6 * elapsed_s
    assert moved_uj["rail-power_meter-power1"] == 0  # it ticks once a second


def test_a_new_value_is_about_the_time_before_it(tmp_path: Path) -> None:
    tree = HwmonTree(tmp_path / "hwmon")
    tree.add_chip(0, "ina238", power1_input=0, update_interval=10)
    sensor = HwmonSensor(tree.root, clock=NoPoller())
    first = sensor.read()
    time.sleep(0.05)
    tree.write(0, "power1_input", 10_000_000)
    sensor._poll()
    second = sensor.read()
    elapsed_s = (second.time_ns - first.time_ns) / 1e9
    moved_uj = second.energy_uj["rail-ina238-power1"] - first.energy_uj["rail-ina238-power1"]
    # The new value came somewhere between the two samples, and is about the time before it.
    assert 0 < moved_uj <= 10e6 * elapsed_s
    assert sensor.specs[0].update_period_s == 0.01


def test_equal_labels_stay_apart(tmp_path: Path) -> None:
    tree = HwmonTree(tmp_path / "hwmon")
    for number in (0, 1, 2):
        tree.add_chip(number, "ina3221", in1_label="VDD IN/5V", in1_input=5000, curr1_input=100 * number)
    sensor = HwmonSensor(tree.root, clock=NoPoller())
    assert [spec.domain for spec in sensor.specs] == [
        "rail-vdd-in-5v",
        "rail-ina3221-vdd-in-5v",
        "rail-hwmon2-vdd-in-5v",
    ]


@pytest.mark.parametrize("damage", ["-300", "", "much", "1.5"])
def test_what_is_no_whole_number_is_an_error_of_the_next_read(damage: str, tmp_path: Path) -> None:
    tree = jetson(tmp_path / "hwmon")
    sensor = HwmonSensor(tree.root, clock=NoPoller())
    tree.write(3, "curr2_input", damage)
    sensor._poll()
    tree.write(3, "curr2_input", 300)
    with pytest.raises(SensorReadError, match="curr2_input"):
        sensor.read()
    sensor._poll()
    sensor.read()


def test_a_channel_that_does_not_answer_is_left_out_with_the_reason(tmp_path: Path) -> None:
    tree = jetson(tmp_path / "hwmon")
    (tree.root / "hwmon3" / "curr3_input").unlink()
    (tree.root / "hwmon3" / "curr3_input").mkdir()
    sensor = HwmonSensor(tree.root, clock=NoPoller())
    assert [spec.domain for spec in sensor.specs] == ["rail-vdd_in", "rail-vdd_cpu_gpu_cv"]
    assert "Is a directory" in sensor.left_out[0].reason


def test_no_tree_no_chip_and_no_permission(tmp_path: Path) -> None:
    with pytest.raises(SensorMissingError, match="no hwmon tree"):
        HwmonSensor(tmp_path / "nowhere")
    tree = HwmonTree(tmp_path / "hwmon")
    tree.add_chip(0, "coretemp", temp1_input=40_000)
    with pytest.raises(SensorMissingError, match="tells energy or power"):
        HwmonSensor(tree.root)
    folder = tree.add_chip(1, "xe", energy1_input=1)
    (folder / "energy1_input").chmod(0)
    with bound_by_permissions(), pytest.raises(SensorPermissionError, match="energy1_input") as refused:
        HwmonSensor(tree.root)
    assert "group" in refused.value.next_step
