"""What can be measured here, and for what cannot: why, and the remedy."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes.hwmon_tree import jetson
from fakes.nvml_library import FakeNvml, scripted_nvml
from fakes.powercap_tree import amd, bound_by_permissions, client, malformed, server

from calibration_data import NoUsableSensorError
from profiler.discovery import SensorState, discover, require_usable
from profiler.errors import SensorMissingError, SensorPermissionError
from profiler.sensors import RealSensor, open_sensors


@pytest.fixture(autouse=True)
def nvml() -> Iterator[FakeNvml]:
    with scripted_nvml() as library:
        yield library


def discovered(root: Path, **options: bool) -> list[SensorState]:
    """Without the chips of the machine that runs the tests."""
    return discover(root, hwmon_root=root / "no hwmon", **options)


def opened(*, powercap_root: Path, **options: Any) -> tuple[RealSensor, ...]:
    return open_sensors(powercap_root=powercap_root, hwmon_root=powercap_root / "no hwmon", **options)


def by_interface(states: list[SensorState]) -> dict[str, SensorState]:
    return {state.interface: state for state in states if state.state != "left out"}


def test_everything_usable(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    states = by_interface(discovered(server(tmp_path / "powercap").root))
    assert {name for name, state in states.items() if state.state == "usable"} == {
        "powercap",
        "pyjoules",
        "nvml",
    }
    assert {spec.domain for spec in states["powercap"].specs} == {
        "package-0",
        "dram-0",
        "package-1",
        "dram-1",
    }
    assert [spec.domain for spec in states["nvml"].specs] == ["gpu-0"]
    assert nvml.users == 0


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    left_out = [
        state for state in discovered(malformed(tmp_path / "powercap").root) if state.state == "left out"
    ]
    assert {Path(state.name).name for state in left_out} >= {"intel-rapl:a", "intel-rapl:1", "intel-rapl:2"}
    assert all(state.reason and not state.specs for state in left_out)


def test_nothing_here_says_what_was_looked_for_and_three_ways_on(tmp_path: Path) -> None:
    states = discovered(tmp_path)
    assert {state.state for state in states} == {"missing"}
    assert all(state.reason for state in states)
    for attempt in (lambda: require_usable(states), lambda: opened(powercap_root=tmp_path)):
        with pytest.raises(SensorMissingError) as nothing:
            attempt()
        assert str(tmp_path) in nothing.value.message
        assert "NVML" in nothing.value.message
        assert "sim:server-cpu" in nothing.value.next_step
        assert "published cost model" in nothing.value.next_step
        assert nothing.value.exit_code == 3


def test_a_missing_permission_is_said_with_file_and_remedy(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    tree.energy_file("package-0").chmod(0)
    with bound_by_permissions():
        states = discovered(tree.root)
        assert by_interface(states)["powercap"].state == "not permitted"
        assert "chgrp" in by_interface(states)["powercap"].remedy
        for attempt in (lambda: require_usable(states), lambda: opened(powercap_root=tree.root)):
            with pytest.raises(SensorPermissionError, match=r"intel-rapl:0/energy_uj") as refused:
                attempt()
            assert "CVE-2020-8694" in refused.value.next_step


def test_a_forbidden_processor_beside_a_usable_gpu_is_said(
    tmp_path: Path, nvml: FakeNvml, caplog: pytest.LogCaptureFixture
) -> None:
    nvml.script(gpus=1)
    tree = amd(tmp_path / "powercap")
    tree.energy_file("package-0").chmod(0)
    with bound_by_permissions():
        (gpu,) = opened(powercap_root=tree.root)
    assert [spec.domain for spec in gpu.specs] == ["gpu-0"]
    assert "energy_uj" in caplog.text
    gpu.close()


def test_a_machine_without_gpu_opens_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (cpu,) = opened(powercap_root=client(tmp_path / "powercap").root)
    assert cpu.specs[0].interface == "powercap"
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_one_way_to_rapl_at_a_time(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    root = client(tmp_path / "powercap").root
    rapl, gpu = opened(powercap_root=root, backend="pyjoules")
    assert (rapl.specs[0].interface, gpu.specs[0].interface) == ("pyjoules", "nvml")
    gpu.close()
    (rapl,) = opened(powercap_root=root, gpus=False)
    assert rapl.specs[0].interface == "powercap"


def test_without_gpus_a_gpu_is_no_way_out(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    with pytest.raises(NoUsableSensorError):
        opened(powercap_root=tmp_path, gpus=False)
    assert nvml.users == 0


def test_a_jetson_is_measured_by_its_rails_where_nvml_starts_and_tells_nothing(
    tmp_path: Path, nvml: FakeNvml
) -> None:
    nvml.script(gpus=1)
    nvml.set_results(0, energy_result=3)
    root = jetson(tmp_path / "hwmon").root
    states = by_interface(discover(tmp_path / "nowhere", hwmon_root=root))
    assert (states["nvml"].state, states["hwmon"].state) == ("missing", "usable")
    assert "Not Supported" in states["nvml"].reason
    require_usable(list(states.values()))
    (board,) = open_sensors(powercap_root=tmp_path / "nowhere", hwmon_root=root)
    assert board.specs[0].domain == "rail-vdd_in"
    board.close()


def test_every_missing_sensor_says_why_and_what_to_do(tmp_path: Path) -> None:
    states = discovered(tmp_path)
    assert [state.interface for state in states] == ["perf", "powercap", "pyjoules", "nvml", "hwmon"]
    for state in states:
        assert state.reason
        assert state.remedy
        assert "as root" not in state.remedy


def test_counters_are_checked_on_request(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=2)
    nvml.set_field(0, (186, 0))
    for gpu in (0, 1):
        nvml.set_sensor(gpu, update_period_s=0.02, averaging_window_s=0.02)
    nvml.set_power(0, 120.0)
    (state,) = (state for state in discovered(tmp_path, check=True) if state.interface == "nvml")
    (check,) = state.checks
    assert check.domain == "gpu-0"
    assert check.ratio == pytest.approx(1.0, abs=0.03)
    assert any("gpu-1 did not move" in note for note in state.notes)
    assert nvml.users == 0
