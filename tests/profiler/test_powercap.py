"""RAPL zones are known by name, counted once, and read as whole microjoules or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from fakes.powercap_driver import PowercapDriver
from fakes.powercap_tree import (
    DRAM_RANGE_UJ,
    LAYOUTS,
    RANGE_UJ,
    Layout,
    PowercapTree,
    amd,
    bound_by_permissions,
    client,
    dies,
    malformed,
    server,
)
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import MeasurementError, total_domains
from profiler.errors import (
    CounterResetError,
    ImplausiblePowerError,
    SensorMissingError,
    SensorPermissionError,
    SensorReadError,
)
from profiler.meter import EnergyMeter
from profiler.sensors.powercap import CounterFile, PowercapSensor, read_counter_uj
from profiler.wraparound import counter_difference

MACHINES: dict[str, tuple[Callable[[Path, Layout], PowercapTree], set[str]]] = {
    "client": (client, {"package-0", "core-0", "uncore-0", "psys"}),
    "server": (server, {"package-0", "dram-0", "package-1", "dram-1"}),
    "amd": (amd, {"package-0", "core-0"}),
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> Layout:
    return request.param


def domains(sensor: PowercapSensor) -> set[str]:
    return {spec.domain for spec in sensor.specs}


def reasons(sensor: PowercapSensor) -> dict[str, str]:
    return {Path(item.source).name: item.reason for item in sensor.left_out}


@pytest.mark.parametrize("machine", MACHINES)
def test_zones_are_known_by_name_in_every_layout(machine: str, layout: Layout, tmp_path: Path) -> None:
    build, expected = MACHINES[machine]
    tree = build(tmp_path / "powercap", layout)
    sensor = PowercapSensor(tree.root)
    assert domains(sensor) == expected
    assert len(sensor.specs) == len(expected)
    for number, domain in enumerate(sorted(expected)):
        tree.set_uj(domain, 1000 + number)
    assert sensor.read().energy_uj == {
        domain: 1000 + number for number, domain in enumerate(sorted(expected))
    }


def test_the_platform_is_no_second_socket_and_the_other_bus_no_second_counter(
    layout: Layout, tmp_path: Path
) -> None:
    tree = client(tmp_path / "powercap", layout)
    sensor = PowercapSensor(tree.root)
    before = sensor.read().energy_uj
    tree.spend("core-0", 2_000_000)
    tree.spend("package-0", 500_000)
    after = sensor.read().energy_uj
    moved = {domain: after[domain] - before[domain] for domain in after}
    assert moved == {"psys": 2_500_000, "package-0": 2_500_000, "core-0": 2_000_000, "uncore-0": 0}
    assert total_domains(moved) == ("package-0",)
    assert "same counter as intel-rapl:0" in reasons(sensor)["intel-rapl-mmio:0"]


def test_the_root_may_be_the_control_type_folder(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap", "nested")
    assert domains(PowercapSensor(tree.root / "intel-rapl")) == MACHINES["server"][1]


def test_a_memory_mapped_zone_counts_where_it_has_no_twin(layout: Layout, tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "powercap", layout)
    tree.add_zone("intel-rapl-mmio:0", "package-0", counter="package-0")
    tree.add_zone("intel-rapl-mmio:0:0", "dram", counter="dram-0")
    assert domains(PowercapSensor(tree.root)) == {"package-0", "dram-0"}


def test_zones_of_the_same_name_count_once(layout: Layout, tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "powercap", layout)
    for zone in (0, 1):
        tree.add_zone(f"intel-rapl:{zone}", "package-0", counter="package-0")
        tree.add_zone(f"intel-rapl:{zone}:0", "dram", counter="dram-0")
    sensor = PowercapSensor(tree.root)
    assert domains(sensor) == {"package-0", "dram-0"}
    assert set(reasons(sensor)) == {"intel-rapl:1", "intel-rapl:1:0"}


def test_dies_that_mirror_one_counter_count_once(layout: Layout, tmp_path: Path) -> None:
    tree = dies(tmp_path / "powercap", mirrored=True, layout=layout)
    tree.spend("package-0-die-0", 7_000_000)
    sensor = PowercapSensor(tree.root)
    assert total_domains(sensor.read().energy_uj) == ("package-0-die-0",)
    assert reasons(sensor) == {"intel-rapl:1": "its counter mirrors package-0-die-0"}
    tree.spend("package-0-die-0", 1_000)
    assert sensor.read().energy_uj["package-0-die-0"] == 7_001_000


def test_dies_with_counters_of_their_own_all_count(layout: Layout, tmp_path: Path) -> None:
    tree = dies(tmp_path / "powercap", mirrored=False, layout=layout)
    tree.spend("package-0-die-0", 7_000_000)
    tree.spend("package-0-die-1", 9_000_000)
    sensor = PowercapSensor(tree.root)
    assert domains(sensor) == {"package-0-die-0", "package-0-die-1", "core-0-die-0", "core-0-die-1"}
    assert len(total_domains(domains(sensor))) == 2


def test_dies_within_a_package_that_has_its_own_zone_do_not_count_twice(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "powercap")
    for number, name in enumerate(("package-0", "package-0-die-0", "package-0-die-1")):
        tree.add_zone(f"intel-rapl:{number}", name, counter=name)
    sensor = PowercapSensor(tree.root)
    assert domains(sensor) == {"package-0"}
    assert set(reasons(sensor).values()) == {"its counter is part of package-0"}


def test_zones_are_ordered_by_number(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "powercap")
    for socket in (10, 9, 2):
        tree.add_zone(f"intel-rapl:{socket}", f"package-{socket}", counter=str(socket))
    names = [spec.domain for spec in PowercapSensor(tree.root).specs]
    assert names == ["package-2", "package-9", "package-10"]


def test_malformed_zones_are_left_out_with_a_reason(layout: Layout, tmp_path: Path) -> None:
    sensor = PowercapSensor(malformed(tmp_path / "powercap", layout).root)
    assert domains(sensor) == {"package-0"}
    found = reasons(sensor)
    assert set(found) - {"intel-rapl:3"} == {"intel-rapl:a", "intel-rapl:1", "intel-rapl:2", "intel-rapl:3:0"}
    assert "no zone number" in found["intel-rapl:a"]
    assert "name file cannot be read (No such file or directory)" in found["intel-rapl:1"]
    assert "'toaster'" in found["intel-rapl:2"]
    assert "package" in found["intel-rapl:3:0"]


def test_links_that_lead_in_circles_end_the_walk(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    (tree.folder("package-0") / "intel-rapl:0").symlink_to(".")
    (tree.folder("package-0") / "intel-rapl").symlink_to(tree.root)
    (tree.root / "intel-rapl:9").symlink_to("intel-rapl:9")
    assert domains(PowercapSensor(tree.root)) == {"package-0", "core-0"}


def test_what_a_spec_says(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    specs = {spec.domain: spec for spec in PowercapSensor(tree.root).specs}
    package, dram = specs["package-0"], specs["dram-1"]
    assert (package.range_uj, dram.range_uj) == (RANGE_UJ, DRAM_RANGE_UJ)
    assert package.update_period_s == 0.001
    assert package.resolution_uj == 61
    assert package.interface == "powercap"
    assert Path(package.source).samefile(tree.energy_file("package-0"))
    assert package.excludes == "DRAM"
    assert dram.excludes == ""


@pytest.mark.parametrize("content", [None, "", "many", "0"])
def test_without_a_range_a_counter_is_taken_not_to_wrap(content: str | None, tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    file = tree.folder("package-0") / "max_energy_range_uj"
    file.unlink() if content is None else file.write_text(content)
    sensor = PowercapSensor(tree.root)
    assert sensor.specs[0].range_uj is None
    assert "wraparound" in reasons(sensor)["max_energy_range_uj"]


@given(value=st.integers(0, 2**64 - 1), around=st.sampled_from(["", "\n", " \n"]))
def test_any_counter_value_is_read_exactly(
    tmp_path_factory: pytest.TempPathFactory, value: int, around: str
) -> None:
    file = tmp_path_factory.getbasetemp() / "energy_uj"
    file.write_text(f"{value}{around}")
    assert read_counter_uj(str(file)) == value


@given(content=st.binary(max_size=40))
def test_anything_but_a_plain_whole_number_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "energy_uj"
    file.write_bytes(content)
    digits = content.strip()
    if digits and set(digits) <= set(b"0123456789") and len(content) < 32:
        assert read_counter_uj(str(file)) == int(digits)
    else:
        with pytest.raises(SensorReadError, match="whole number of microjoules"):
            read_counter_uj(str(file))


@pytest.mark.parametrize("content", ["-1", "+1", "1.5", "1e6", "nan", "0x10", "1_000", "٣", "7 7", "9" * 40])
def test_numbers_of_other_kinds_are_errors(content: str, tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    sensor = PowercapSensor(tree.root)
    tree.energy_file("core-0").write_text(content)
    with pytest.raises(SensorReadError, match="energy_uj should hold a whole number"):
        sensor.read()


def test_a_failed_read_names_the_file_and_the_cause(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap", "flat")
    sensor = PowercapSensor(tree.root)
    file = tree.energy_file("package-0")
    file.unlink()
    with pytest.raises(SensorReadError) as missing:
        sensor.read()
    assert str(file) in missing.value.message
    assert "No such file or directory" in missing.value.message
    file.mkdir()
    with pytest.raises(SensorReadError, match="Is a directory"):
        sensor.read()
    file.rmdir()
    os.mkfifo(file)
    with pytest.raises(SensorReadError, match="Illegal seek"):
        sensor.read()


def test_a_replaced_file_is_read_anew(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    sensor = PowercapSensor(tree.root)
    replacement = tmp_path / "replacement"
    replacement.write_text("77\n")
    replacement.replace(tree.energy_file("package-0"))
    assert sensor.read().energy_uj["package-0"] == 77


def test_a_file_is_held_open_and_read_from_its_start_each_time() -> None:
    file = Path("/sys/devices/system/cpu/kernel_max")
    descriptors = len(os.listdir("/proc/self/fd"))
    counter = CounterFile("package-0", file)
    assert {counter.read_uj() for _ in range(3)} == {int(file.read_text())}
    assert len(os.listdir("/proc/self/fd")) == descriptors + 1
    counter.close()
    counter.close()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert counter.read_uj() == int(file.read_text())


def test_a_reading_carries_one_time_from_within_the_read(tmp_path: Path) -> None:
    sensor = PowercapSensor(server(tmp_path / "powercap").root)
    before_ns = time.monotonic_ns()
    times_ns = [sensor.read().time_ns for _ in range(3)]
    assert before_ns <= times_ns[0] <= times_ns[1] <= times_ns[2] <= time.monotonic_ns()


def test_one_wrap_is_right_to_the_microjoule(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    tree.set_uj("package-0", RANGE_UJ - 1_234_567)
    tree.set_uj("dram-1", DRAM_RANGE_UJ - 1)
    sensor = PowercapSensor(tree.root)
    before = sensor.read().energy_uj
    tree.spend("package-0", 3_000_001)
    tree.spend("dram-1", 1)
    tree.spend("dram-0", 999_999)
    after = sensor.read().energy_uj
    assert {
        spec.domain: counter_difference(before[spec.domain], after[spec.domain], spec.range_uj)
        for spec in sensor.specs
    } == {"package-0": 3_000_001, "dram-0": 999_999, "package-1": 0, "dram-1": 1}


@pytest.mark.parametrize("content", ["", "broken"])
def test_a_counter_that_never_gave_a_number_is_left_out_with_a_reason(
    content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tree = server(tmp_path / "powercap")
    tree.energy_file("dram-1").write_text(content)
    sensor = PowercapSensor(tree.root)
    assert domains(sensor) == {"package-0", "dram-0", "package-1"}
    assert "whole number" in reasons(sensor)["intel-rapl:1:0"]
    assert "dram-1 is not measured" in caplog.text


def test_no_tree_no_zone_and_no_zone_that_counts(tmp_path: Path) -> None:
    with pytest.raises(SensorMissingError, match=r"no powercap tree at .*nowhere"):
        PowercapSensor(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(SensorMissingError, match="no powercap tree"):
        PowercapSensor(tmp_path / "file")
    (tmp_path / "powercap" / "dtpm").mkdir(parents=True)
    with pytest.raises(SensorMissingError, match="holds no RAPL zone"):
        PowercapSensor(tmp_path / "powercap")
    (tmp_path / "powercap" / "intel-rapl:0").mkdir()
    with pytest.raises(SensorMissingError, match=r"Left out: .*intel-rapl:0: its name file"):
        PowercapSensor(tmp_path / "powercap")


def test_counters_that_may_not_be_read_are_named_with_the_remedy(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    for domain in ("package-0", "package-1", "dram-0", "dram-1"):
        tree.energy_file(domain).chmod(0)
    with bound_by_permissions(), pytest.raises(SensorPermissionError) as refused:
        PowercapSensor(tree.root)
    assert str(tree.root / "intel-rapl:0" / "energy_uj") in refused.value.message
    assert "nor 3 more" in refused.value.message
    assert "Permission denied" in refused.value.message
    remedy = refused.value.next_step
    assert all(word in remedy for word in ("chgrp", "g+r", "udev", "CVE-2020-8694"))
    assert "as root" not in remedy


def test_a_total_short_of_a_forbidden_counter_is_refused_a_part_is_left_out(tmp_path: Path) -> None:
    tree = client(tmp_path / "powercap")
    tree.energy_file("uncore-0").chmod(0)
    with bound_by_permissions():
        sensor = PowercapSensor(tree.root)
    assert domains(sensor) == {"package-0", "core-0", "psys"}
    assert "Permission denied" in reasons(sensor)["intel-rapl:0:1"]
    tree.energy_file("package-0").chmod(0)
    with bound_by_permissions(), pytest.raises(SensorPermissionError, match=r"intel-rapl:0/energy_uj"):
        PowercapSensor(tree.root)


def test_a_tree_that_may_not_be_listed_is_named(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    tree.root.chmod(0)
    with bound_by_permissions(), pytest.raises(SensorPermissionError, match="may not be listed"):
        PowercapSensor(tree.root)
    tree.root.chmod(0o755)


SERVER_POWER_W = {"package-0": 120.0, "dram-0": 20.0, "package-1": 80.0, "dram-1": 10.0}


def test_windows_around_and_after_a_wrap_are_power_times_time(tmp_path: Path) -> None:
    """The window after the one in which a counter wrapped has come out as minus one range elsewhere."""
    tree = server(tmp_path / "powercap")
    tree.set_uj("package-0", RANGE_UJ - 5_000_000)
    tree.set_uj("dram-1", DRAM_RANGE_UJ - 500_000)
    with PowercapDriver(tree, SERVER_POWER_W), EnergyMeter([PowercapSensor(tree.root)]) as meter:
        # Long against the pauses of the thread that drives the tree.
        for _ in range(3):
            with meter.window() as window:
                time.sleep(0.4)
            reading = window.reading
            for domain, power_w in SERVER_POWER_W.items():
                assert reading.energy_j[domain] == pytest.approx(power_w * reading.duration_s, rel=0.2)
    assert int(tree.energy_file("package-0").read_text()) < RANGE_UJ // 2


def test_dram_is_in_the_total_and_the_platform_is_not(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    tree.add_zone("intel-rapl:2", "psys", counter="psys")
    power_w = {**SERVER_POWER_W, "psys": 400.0}
    with (
        PowercapDriver(tree, power_w),
        EnergyMeter([PowercapSensor(tree.root)]) as meter,
        meter.window() as window,
    ):
        time.sleep(0.2)
    assert window.reading.total_j == pytest.approx(230.0 * window.reading.duration_s, rel=0.1)


@pytest.mark.parametrize("fault", ["vanish", "break_reads"])
def test_one_failed_read_is_an_error_of_its_window_and_of_no_other(fault: str, tmp_path: Path) -> None:
    """One failed read in six has booked a counter range of 262 kJ elsewhere."""
    tree = server(tmp_path / "powercap")
    with PowercapDriver(tree, SERVER_POWER_W) as driver, EnergyMeter([PowercapSensor(tree.root)]) as meter:
        meter.begin("broken")
        getattr(driver, fault)("dram-0")
        with pytest.raises(SensorReadError, match="energy_uj could not be read"):
            meter.end("broken")
        driver.repair("dram-0")
        with meter.window() as window:
            time.sleep(0.5)
    assert window.reading.energy_j["dram-0"] == pytest.approx(20.0 * window.reading.duration_s, rel=0.2)


def test_a_counter_that_sticks_is_flagged(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    with PowercapDriver(tree, SERVER_POWER_W) as driver, EnergyMeter([PowercapSensor(tree.root)]) as meter:
        driver.stick("package-1")
        time.sleep(0.02)
        with meter.window() as window:
            time.sleep(0.1)
    assert "stuck" in window.reading.flags["package-1"]
    with pytest.raises(MeasurementError, match="package-1"):
        _ = window.reading.total_j


def test_a_reset_far_from_the_end_of_the_range_is_no_wraparound(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    tree.set_uj("package-0", RANGE_UJ // 2)
    with PowercapDriver(tree, SERVER_POWER_W) as driver, EnergyMeter([PowercapSensor(tree.root)]) as meter:
        meter.begin("window")
        driver.reset("package-0")
        time.sleep(0.05)
        with pytest.raises(ImplausiblePowerError, match="package-0"):
            meter.end("window")


def test_an_unknown_range_makes_a_falling_counter_an_error(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    (tree.folder("package-0") / "max_energy_range_uj").unlink()
    tree.set_uj("package-0", 3_000_000)
    with (
        PowercapDriver(tree, {"package-0": 50.0, "core-0": 20.0}) as driver,
        EnergyMeter([PowercapSensor(tree.root)]) as meter,
    ):
        meter.begin("window")
        driver.reset("package-0")
        time.sleep(0.02)
        with pytest.raises(CounterResetError):
            meter.end("window")
