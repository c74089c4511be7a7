"""What the machine did around a window, as far as it can be read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.cpu_tree import write
from fakes.nvml_library import FakeNvml, scripted_nvml
from fakes.powercap_tree import client

from profiler.conditions import Conditions, condition_notes, energy_filtering_possible, read_conditions
from profiler.sensors import NvmlSensor
from profiler.sensors.nvml_conditions import GpuConditions

POWER_POLICY, THERMAL_POLICY = (74, 0), (75, 0)
POWER_CAP_BIT, GPU_IDLE_BIT = 0x4, 0x1


@pytest.fixture
def nvml() -> Iterator[FakeNvml]:
    with scripted_nvml() as library:
        yield library


def test_nothing_readable_is_empty_and_says_nothing(tmp_path: Path) -> None:
    conditions = read_conditions(powercap_root=tmp_path, sys_root=tmp_path, proc_root=tmp_path)
    assert conditions == Conditions()
    assert condition_notes(conditions, conditions, power_w={"package-0": 100.0}) == ()


def test_throttle_events_in_between_are_a_note(tmp_path: Path) -> None:
    count = tmp_path / "devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    write(count, "7")
    before = read_conditions(powercap_root=tmp_path, sys_root=tmp_path, proc_root=tmp_path)
    write(count, "9")
    after = read_conditions(powercap_root=tmp_path, sys_root=tmp_path, proc_root=tmp_path)
    (note,) = condition_notes(before, after)
    assert "2 throttle events" in note
    assert condition_notes(after, after) == ()


@pytest.mark.parametrize(("power_w", "capped"), [(50.0, False), (124.0, True), (130.0, True)])
def test_power_at_its_limit_is_a_note(power_w: float, capped: bool, tmp_path: Path) -> None:
    tree = client(tmp_path / "powercap")
    write(tree.folder("package-0") / "constraint_0_power_limit_uw", "125000000")
    write(tree.folder("psys") / "constraint_0_power_limit_uw", "none")
    conditions = read_conditions(powercap_root=tree.root, sys_root=tmp_path, proc_root=tmp_path)
    assert conditions.power_limits_w == {"package-0": 125.0}
    notes = condition_notes(conditions, conditions, power_w={"package-0": power_w, "psys": power_w})
    assert notes == (("package-0 ran at its power limit of 125 W",) if capped else ())


def test_a_gpu_tells_clock_temperature_limit_and_what_slowed_it(nvml: FakeNvml, tmp_path: Path) -> None:
    nvml.script(gpus=2)
    nvml.set_field(0, POWER_POLICY, share=1000)
    nvml.set_field(0, THERMAL_POLICY, share=5)
    nvml.set_state(1, clock_mhz=300, temperature_c=91, limit_mw=250_000, reasons=GPU_IDLE_BIT)
    sensor = NvmlSensor()
    before = read_conditions([sensor], powercap_root=tmp_path, sys_root=tmp_path, proc_root=tmp_path)
    assert before.gpus["gpu-1"] == GpuConditions(sm_clock_mhz=300, temperature_c=91, power_limit_w=250.0)
    assert before.gpus["gpu-0"].policy_times == {"power limit": 1000, "heat": 5}
    nvml.set_field(0, THERMAL_POLICY, share=6)
    nvml.set_state(1, reasons=GPU_IDLE_BIT | POWER_CAP_BIT)
    after = read_conditions([sensor], powercap_root=tmp_path, sys_root=tmp_path, proc_root=tmp_path)
    assert condition_notes(before, after) == (
        "gpu-0 ran slower: heat",
        "gpu-1 ran slower: power limit",
    )
    assert json.loads(json.dumps(after.document()))["gpus"]["gpu-0"]["policy_times"]["heat"] == 6
    sensor.close()


@pytest.mark.parametrize(
    ("cpuinfo", "possible"),
    [
        ("processor : 0\nflags\t\t: fpu sgx sgx_lc\n", True),
        ("processor : 0\nflags\t\t: fpu sgx_lc\n", False),
        ("model name : sgx\n", False),
        ("", False),
    ],
)
def test_energy_filtering_is_possible_where_the_processor_has_sgx(
    cpuinfo: str, possible: bool, tmp_path: Path
) -> None:
    assert not energy_filtering_possible(tmp_path)
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert energy_filtering_possible(tmp_path) == possible
