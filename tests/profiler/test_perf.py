"""RAPL through perf_event: counts of 2⁻³² J, one CPU per socket, and only what powercap shows too."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import pytest
from fakes import perf_tree, powercap_tree
from fakes.perf_tree import CONFIGS, COUNTS_PER_J, PerfTree
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import total_domains
from profiler.errors import (
    CounterResetError,
    SensorMissingError,
    SensorPermissionError,
    SensorReadError,
)
from profiler.meter import EnergyMeter
from profiler.sensors.perf import KernelEvent, PerfSensor, open_kernel_event
from profiler.sensors.rapl import open_rapl


def sensor_of(tree: PerfTree, agreed: Collection[str] | None = None) -> PerfSensor:
    return PerfSensor(tree.root, cpu_root=tree.cpu_root, open_event=tree.open_event, agreed=agreed)


def domains(sensor: object) -> list[str]:
    return [spec.domain for spec in sensor.specs]  # type: ignore[attr-defined]


def opening(tree: PerfTree) -> Callable[..., PerfSensor]:
    return lambda *, agreed: sensor_of(tree, agreed)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (perf_tree.client, ["package-0", "core-0", "uncore-0", "psys"]),
        (perf_tree.server, ["package-0", "dram-0", "package-1", "dram-1"]),
        (perf_tree.amd, ["package-0"]),
    ],
)
def test_events_are_domains_of_their_sockets(
    build: Callable[[Path], PerfTree], expected: list[str], tmp_path: Path
) -> None:
    sensor = sensor_of(build(tmp_path))
    assert domains(sensor) == expected
    assert {spec.interface for spec in sensor.specs} == {"perf"}
    assert {spec.range_uj for spec in sensor.specs} == {None}
    assert sensor.specs[0].excludes == "DRAM"


def test_the_platform_is_no_processor_and_is_counted_on_one_socket(tmp_path: Path) -> None:
    tree = perf_tree.perf_tree(
        tmp_path, events=["energy-pkg", "energy-psys"], cpumask="0-1", packages=(0, 1), cpus=(0, 1)
    )
    names = domains(sensor_of(tree))
    assert names == ["package-0", "psys", "package-1"]
    assert total_domains(names) == ("package-0", "package-1")


@given(counts=st.integers(0, 2**64 - 1))
def test_counts_are_units_of_two_to_the_minus_32_joules(
    tmp_path_factory: pytest.TempPathFactory, counts: int
) -> None:
    tree = perf_tree.amd(tmp_path_factory.mktemp("perf"))
    sensor = sensor_of(tree)
    tree.spend_counts("energy-pkg", 0, counts)
    assert sensor.read().energy_uj == {"package-0": counts * 10**6 // COUNTS_PER_J}


def test_two_sockets_in_microjoules(tmp_path: Path) -> None:
    tree = perf_tree.server(tmp_path)
    tree.spend_counts("energy-pkg", 28, 77)
    sensor = sensor_of(tree)
    assert set(sensor.read().energy_uj.values()) == {0}
    tree.spend_counts("energy-pkg", 0, 3 * COUNTS_PER_J)
    tree.spend_counts("energy-ram", 28, COUNTS_PER_J // 2)
    assert sensor.read().energy_uj == {
        "package-0": 3_000_000,
        "dram-0": 0,
        "package-1": 0,
        "dram-1": 500_000,
    }


def test_a_count_that_falls_is_no_wraparound(tmp_path: Path) -> None:
    tree = perf_tree.amd(tmp_path)
    tree.spend_counts("energy-pkg", 0, COUNTS_PER_J)
    with EnergyMeter([sensor_of(tree)]) as meter, pytest.raises(CounterResetError), meter.window():
        tree.spend_counts("energy-pkg", 0, -COUNTS_PER_J)


def test_a_refused_read_is_an_error_that_names_the_domain(tmp_path: Path) -> None:
    tree = perf_tree.server(tmp_path)
    sensor = sensor_of(tree)
    tree.read_errors[CONFIGS["energy-ram"], 28] = errno.ENODEV
    with pytest.raises(SensorReadError, match=r"dram-1 .*No such device"):
        sensor.read()


def test_a_reading_carries_the_middle_of_its_reads(tmp_path: Path) -> None:
    sensor = sensor_of(perf_tree.client(tmp_path))
    before_ns = time.monotonic_ns()
    reading = sensor.read()
    after_ns = time.monotonic_ns()
    assert before_ns <= reading.time_ns - reading.read_ns // 2 - 1
    assert reading.time_ns + reading.read_ns // 2 <= after_ns


@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM])
def test_a_missing_permission_names_the_capability_and_leaves_nothing_open(code: int, tmp_path: Path) -> None:
    tree = perf_tree.client(tmp_path)
    tree.open_errors[CONFIGS["energy-gpu"], 0] = code
    with pytest.raises(SensorPermissionError, match=r"uncore-0.*perf_event_paranoid") as refused:
        sensor_of(tree)
    assert all(word in refused.value.next_step for word in ("CAP_PERFMON", "CVE-2020-8694", "group"))
    assert tree.open_now == 0


def test_an_event_that_cannot_be_opened_is_left_out_with_the_reason(tmp_path: Path) -> None:
    tree = perf_tree.client(tmp_path)
    tree.open_errors[CONFIGS["energy-psys"], 0] = errno.EINVAL
    sensor = sensor_of(tree)
    assert "psys" not in domains(sensor)
    assert "Invalid argument" in sensor.left_out[0].reason
    sensor.close()
    sensor.close()
    assert tree.open_now == 0


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("energy-pkg", "config=2"),
        ("energy-pkg.scale", "much"),
        ("energy-pkg.scale", "0"),
        ("energy-pkg.scale", "-1"),
        ("energy-pkg.scale", "nan"),
        ("energy-pkg.unit", "Watts"),
    ],
)
def test_an_event_that_says_nothing_of_joules_is_not_read(file: str, content: str, tmp_path: Path) -> None:
    tree = perf_tree.amd(tmp_path)
    (tree.root / "events" / file).write_text(content)
    with pytest.raises(SensorMissingError, match="no energy of a package"):
        sensor_of(tree)


@pytest.mark.parametrize("file", ["type", "cpumask"])
@pytest.mark.parametrize("content", [None, "", "many", "-1", "0,,1"])
def test_a_broken_pmu_is_no_sensor(file: str, content: str | None, tmp_path: Path) -> None:
    tree = perf_tree.amd(tmp_path)
    (tree.root / file).unlink()
    if content is not None:
        (tree.root / file).write_text(content)
    with pytest.raises(SensorMissingError, match=file):
        sensor_of(tree)


def test_a_machine_without_the_pmu_says_which_driver(tmp_path: Path) -> None:
    with pytest.raises(SensorMissingError, match="cannot be read") as missing:
        PerfSensor(tmp_path / "nowhere")
    assert "modprobe" in missing.value.next_step


def test_dies_are_left_to_powercap_which_tells_mirrors(tmp_path: Path) -> None:
    tree = perf_tree.perf_tree(
        tmp_path / "perf", events=["energy-pkg"], cpumask="0,8", packages=(0, 0), cpus=(0, 8)
    )
    with pytest.raises(SensorMissingError, match="dies"):
        sensor_of(tree)
    zones = powercap_tree.dies(tmp_path / "powercap", mirrored=True)
    zones.spend("package-0-die-0", 5_000_000)
    sensor = open_rapl("auto", zones.root, open_perf=opening(tree))
    assert total_domains(domains(sensor)) == ("package-0-die-0",)


def test_perf_comes_first_where_it_is_permitted_and_agrees(tmp_path: Path) -> None:
    perf = perf_tree.client(tmp_path / "perf")
    zones = powercap_tree.client(tmp_path / "powercap")
    sensor = open_rapl("auto", zones.root, open_perf=opening(perf))
    assert sensor.specs[0].interface == "perf"
    assert domains(sensor) == ["package-0", "core-0", "uncore-0", "psys"]
    assert sensor.left_out == ()


def test_only_the_common_domains_are_read_and_the_others_named(tmp_path: Path) -> None:
    perf = perf_tree.perf_tree(tmp_path / "perf", events=["energy-pkg", "energy-gpu"])
    zones = powercap_tree.amd(tmp_path / "powercap")
    sensor = open_rapl("auto", zones.root, open_perf=opening(perf))
    assert domains(sensor) == ["package-0"]
    assert [item.reason for item in sensor.left_out] == [
        "powercap does not show uncore-0, so it is not trusted",
        "perf_event does not show core-0",
    ]


def test_perf_without_the_dram_that_powercap_has_is_not_taken(tmp_path: Path) -> None:
    perf = perf_tree.perf_tree(
        tmp_path / "perf", events=["energy-pkg"], cpumask="0,1", packages=(0, 1), cpus=(0, 1)
    )
    zones = powercap_tree.server(tmp_path / "powercap")
    sensor = open_rapl("auto", zones.root, open_perf=opening(perf))
    assert sensor.specs[0].interface == "powercap"
    assert "dram-1" in domains(sensor)
    assert perf.open_now == 0
    with pytest.raises(SensorMissingError, match="dram-0, dram-1"):
        open_rapl("perf", zones.root, open_perf=opening(perf))


def test_perf_stands_alone_where_there_is_no_powercap_tree(tmp_path: Path) -> None:
    perf = perf_tree.server(tmp_path / "perf")
    sensor = open_rapl("auto", tmp_path / "nowhere", open_perf=opening(perf))
    assert domains(sensor) == ["package-0", "dram-0", "package-1", "dram-1"]


def test_powercap_comes_next_and_a_permission_outweighs_an_absence(tmp_path: Path) -> None:
    perf = perf_tree.amd(tmp_path / "perf")
    perf.forbid()
    zones = powercap_tree.amd(tmp_path / "powercap")
    assert open_rapl("auto", zones.root, open_perf=opening(perf)).specs[0].interface == "powercap"
    with pytest.raises(SensorPermissionError, match="perf event"):
        open_rapl("auto", tmp_path / "nowhere", open_perf=opening(perf))
    zones.energy_file("package-0").chmod(0)
    with powercap_tree.bound_by_permissions(), pytest.raises(SensorPermissionError, match="energy_uj"):
        open_rapl("auto", zones.root, open_perf=opening(perf))


def test_a_foreign_tree_has_no_pmu(tmp_path: Path) -> None:
    zones = powercap_tree.client(tmp_path / "powercap")
    assert open_rapl("auto", zones.root).specs[0].interface == "powercap"
    with pytest.raises(SensorMissingError, match="no powercap tree"):
        open_rapl("auto", tmp_path / "nowhere")


def test_the_system_call_opens_a_count_that_rises_or_is_refused() -> None:
    """The kernel's own CPU clock (software PMU 1, event 0) stands in for energy."""
    with suppress(PermissionError):
        event = open_kernel_event(pmu=1, config=0, cpu=0)
        first, second = event.count(), event.count()
        assert 0 < first < second
        event.close()
        with pytest.raises(OSError, match="Bad file descriptor"):
            event.count()


def test_a_torn_count_is_an_error() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\x01" * 3)
    event = KernelEvent(reader)
    with pytest.raises(OSError, match="disabled"):
        event.count()
    event.close()
    os.close(writer)
