"""The commands ``devices`` and ``measure`` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import Result
from fakes.hwmon_tree import jetson
from fakes.nvml_library import FakeNvml, scripted_nvml
from fakes.powercap_tree import (
    PowercapTree,
    amd,
    bound_by_permissions,
    client,
    malformed,
)

from calibration_data import CalijouleError, UsageError
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError

with warnings.catch_warnings():
    # On import typer asks click for a name that click is about to drop.
    warnings.simplefilter("ignore", DeprecationWarning)
    from typer.testing import CliRunner

    from profiler.cli import Settings, app


@pytest.fixture(autouse=True)
def nvml() -> Iterator[FakeNvml]:
    with scripted_nvml() as library:
        yield library


def run(root: Path, *arguments: str) -> Result:
    """Run a command without the chips of the machine that runs the tests."""
    name, *rest = arguments
    command = [name, "--hwmon-root", str(root / "no hwmon"), *rest]
    return CliRunner().invoke(app, command, obj=Settings(powercap_root=root))


def error_of(result: Result) -> CalijouleError:
    assert isinstance(result.exception, CalijouleError)
    return result.exception


def rows(table: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("│┃ \n").split("│")] for line in table.splitlines()]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_devices_names_domains_and_what_is_left_out(tmp_path: Path) -> None:
    tree = malformed(tmp_path / "powercap")
    result = run(tree.root, "devices")
    assert result.exit_code == 0
    assert rows(result.stdout)["CPU and DRAM (RAPL, powercap)"] == ["usable", "package-0"]
    assert rows(result.stdout)["NVIDIA GPU (NVML)"][0] == "missing"
    assert f"left out: {tree.root}/intel-rapl:a: its folder name" in result.stdout
    assert "Driver Not Loaded" in result.stdout


def test_devices_as_json(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    result = run(client(tmp_path / "powercap").root, "devices", "--json")
    states = [state for state in json.loads(result.stdout) if state["state"] == "usable"]
    assert {state["interface"]: [spec["domain"] for spec in state["specs"]] for state in states} == {
        "powercap": ["package-0", "core-0", "uncore-0", "psys"],
        "pyjoules": ["package-0", "core-0", "uncore-0"],
        "nvml": ["gpu-0"],
    }


@pytest.mark.parametrize("arguments", [["devices"], ["devices", "--json"], ["measure", "--", "true"]])
def test_no_sensor_is_exit_code_3(arguments: list[str], tmp_path: Path) -> None:
    result = run(tmp_path / "nowhere", *arguments)
    error = error_of(result)
    assert isinstance(error, SensorMissingError)
    assert error.exit_code == 3
    assert str(tmp_path / "nowhere") in error.message
    assert "sim:server-cpu" in error.next_step
    assert ("missing" in result.stdout) == (arguments[0] == "devices")


@pytest.mark.parametrize("arguments", [["devices"], ["measure", "--", "true"]])
def test_counters_that_may_not_be_read_are_exit_code_3_with_the_permission(
    arguments: list[str], tmp_path: Path
) -> None:
    tree = amd(tmp_path / "powercap")
    tree.energy_file("package-0").chmod(0)
    with bound_by_permissions():
        result = run(tree.root, *arguments)
    error = error_of(result)
    assert isinstance(error, SensorPermissionError)
    assert error.exit_code == 3
    assert f"{tree.root}/intel-rapl:0/energy_uj" in error.message
    assert "chgrp" in error.next_step


def test_measure_prints_a_table_beside_the_output_of_the_command(tmp_path: Path) -> None:
    tree = client(tmp_path / "powercap")
    script = f"echo 2000001 > {tree.energy_file('package-0')}; exit 9"
    result = run(tree.root, "measure", "--idle-s", "0.01", "--", "sh", "-c", script)
    assert result.exit_code == 9
    assert result.stdout == ""
    table = rows(result.stderr)
    assert table["package-0"][0].startswith("2.000001 ± ")
    assert table["package-0"][1:] == ["none", "yes"]
    assert table["total"][0].startswith("2.000001 ± ")
    assert "contains package" in table["psys"][2]
    assert f"by powercap; powercap root {tree.root}" in result.stderr
    assert "No net joules of package-0: the counter did not move in the idle window" in result.stderr
    assert "No net joules of core-0, uncore-0, psys: the counter did not move while" in result.stderr


def test_measure_writes_json_to_a_file_or_to_standard_output(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    command = ("--", "sh", "-c", f"echo 7 > {tree.energy_file('core-0')}")
    file = tmp_path / "result.json"
    assert run(tree.root, "measure", "--json", str(file), "--idle-s", "0", *command).exit_code == 0
    assert json.loads(file.read_text())["domains"][1]["gross_uj"] == 7
    printed = run(tree.root, "measure", "--json", "-", "--idle-s", "0", *command)
    assert json.loads(printed.stdout)["command"] == list(command[1:])


def test_measure_through_the_second_backend(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    options = ("--backend", "pyjoules", "--idle-s", "0", "--json", "-")
    result = run(tree.root, "measure", *options, "true")
    assert {spec["interface"] for spec in json.loads(result.stdout)["sensors"]} == {"pyjoules"}


def test_a_failed_read_prints_no_joules(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    file = tmp_path / "result.json"
    script = f"rm {tree.energy_file('package-0')}"
    result = run(tree.root, "measure", "--json", str(file), "--idle-s", "0", "--", "sh", "-c", script)
    assert isinstance(error_of(result), SensorReadError)
    assert error_of(result).exit_code == 5
    assert (result.stdout, result.stderr) == ("", "")
    assert not file.exists()


def test_a_result_that_could_not_be_kept_is_refused_before_the_command_runs(tmp_path: Path) -> None:
    tree: PowercapTree = amd(tmp_path / "powercap")
    ran = tmp_path / "ran"
    result = run(tree.root, "measure", "--json", str(tmp_path / "no" / "f.json"), "--", "touch", str(ran))
    assert isinstance(error_of(result), UsageError)
    assert not ran.exists()
    kept = run(tree.root, "measure", "--json", str(tmp_path), "--idle-s", "0", "--", "true")
    assert "Is a directory" in error_of(kept).message


def test_gpus_are_given_back_after_measuring(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    result = run(amd(tmp_path / "powercap").root, "measure", "--idle-s", "0", "--json", "-", "--", "true")
    assert [entry["domain"] for entry in json.loads(result.stdout)["domains"]] == [
        "package-0",
        "core-0",
        "gpu-0",
    ]
    assert nvml.users == 0


def test_the_recipe_is_scoped_to_a_group_and_names_the_side_channel(tmp_path: Path) -> None:
    result = run(tmp_path, "devices", "--recipe")
    assert result.exit_code == 0
    for words in (
        "CVE-2020-8694",
        "/etc/udev/rules.d/70-rapl.rules",
        "/etc/tmpfiles.d/rapl.conf",
        "0440 root rapl",
        "max_energy_range_uj",
        "cap_perfmon",
        "perf_event_paranoid",
    ):
        assert words in result.stdout
    assert "0444" not in result.stdout
    shell = subprocess.run(["sh", "-n"], input=result.stdout, text=True, capture_output=True, check=False)
    assert (shell.returncode, shell.stderr) == (0, "")


def test_devices_prints_notes_of_usable_sensors(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    nvml.set_state(0, mig=True)
    result = run(amd(tmp_path / "powercap").root, "devices")
    assert "note: NVIDIA GPU (NVML): gpu-0 is split by MIG" in result.stdout


def test_a_counter_that_stands_still_gives_no_total(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    result = run(tree.root, "measure", "--json", "-", "--idle-s", "0", "--", "sleep", "0.05")
    document = json.loads(result.stdout)
    assert document["total"] is None
    assert "stuck" in document["domains"][0]["flags"]
    assert any(note.startswith("package-0: the counter should have moved") for note in document["notes"])
    assert "No total: the counter of package-0 did not move" in result.stderr


def test_conditions_stand_in_the_result(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    nvml.set_power(0, 100.0)
    nvml.set_state(0, temperature_c=88, reasons=0x20)
    options = ("--idle-s", "0.01", "--idle-after", "--json", "-")
    result = run(tmp_path, "measure", *options, "--", "true")
    document = json.loads(result.stdout)
    assert document["conditions"]["after"]["gpus"]["gpu-0"]["temperature_c"] == 88
    assert "gpu-0 ran slower: heat" in document["notes"]


def test_memory_of_a_gpu_and_rails_of_a_board_are_in_no_total(tmp_path: Path, nvml: FakeNvml) -> None:
    nvml.script(gpus=1)
    nvml.set_field(0, (83, 0))
    nvml.set_field(0, (185, 2), share=0.3)
    nvml.set_power(0, 200.0)
    board = jetson(tmp_path / "hwmon").root
    options = ("measure", "--hwmon-root", str(board), "--idle-s", "0", "--json", "-", "--", "sleep", "0.3")
    result = CliRunner().invoke(app, list(options), obj=Settings(powercap_root=tmp_path))
    table = rows(result.stderr)
    assert table["gpu-0"][2] == "yes"
    assert table["gpumem-0"][2] == "within its GPU"
    assert table["rail-vdd_in"][2] == "no, rails overlap"
    document = json.loads(result.stdout)
    energies = {entry["domain"]: entry for entry in document["domains"]}
    assert document["total"]["gross_j"] == energies["gpu-0"]["gross_j"]
    assert energies["gpu-0"]["gross_j"] == pytest.approx(200.0 * document["duration_s"], rel=0.1)
    assert [name for name, entry in energies.items() if entry["in_total"]] == ["gpu-0"]
