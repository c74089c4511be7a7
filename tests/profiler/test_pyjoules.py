"""pyJoules reads the same counters on its own way; time, wraparound and honesty are ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fakes.powercap_tree import (
    RANGE_UJ,
    Layout,
    PowercapTree,
    amd,
    bound_by_permissions,
    client,
    dies,
    server,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from pyJoules.device import rapl_device

from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.sensors.powercap import PowercapSensor
from profiler.sensors.pyjoules import PyJoulesSensor
from profiler.wraparound import counter_difference


@settings(max_examples=30)
@given(counters_uj=st.lists(st.integers(0, 65_532_610_986), min_size=4, max_size=4))
def test_both_backends_read_the_same_counters(
    tmp_path_factory: pytest.TempPathFactory, counters_uj: list[int]
) -> None:
    tree = server(tmp_path_factory.mktemp("server") / "powercap")
    for domain, energy_uj in zip(("package-0", "package-1", "dram-0", "dram-1"), counters_uj, strict=True):
        tree.set_uj(domain, energy_uj)
    ours, theirs = PowercapSensor(tree.root), PyJoulesSensor(tree.root)
    assert theirs.read().energy_uj == ours.read().energy_uj
    assert {spec.domain: spec.range_uj for spec in theirs.specs} == {
        spec.domain: spec.range_uj for spec in ours.specs
    }
    assert {spec.interface for spec in theirs.specs} == {"pyjoules"}


@pytest.mark.parametrize("layout", ["both", "nested"])
def test_a_wrap_in_a_window_is_undone(layout: Layout, tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap", layout)
    tree.set_uj("package-0", RANGE_UJ - 3)
    sensor = PyJoulesSensor(tree.root)
    before = sensor.read().energy_uj
    tree.spend("core-0", 1_000_001)
    after = sensor.read().energy_uj
    assert {
        spec.domain: counter_difference(before[spec.domain], after[spec.domain], spec.range_uj)
        for spec in sensor.specs
    } == {"package-0": 1_000_001, "core-0": 1_000_001}


def test_what_pyjoules_does_not_see_is_named(tmp_path: Path) -> None:
    sensor = PyJoulesSensor(client(tmp_path / "powercap").root)
    assert [spec.domain for spec in sensor.specs] == ["package-0", "core-0", "uncore-0"]
    assert [item.reason for item in sensor.left_out] == ["pyJoules does not see psys"]


def test_domains_that_pyjoules_would_name_wrongly_are_not_read(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "powercap")
    for zone, socket in ((0, 1), (1, 0), (2, 2)):
        tree.add_zone(f"intel-rapl:{zone}", f"package-{socket}", counter=f"package-{socket}")
        tree.add_zone(f"intel-rapl:{zone}:0", "dram", counter=f"dram-{socket}")
    sensor = PyJoulesSensor(tree.root)
    assert [spec.domain for spec in sensor.specs] == ["package-2", "dram-2"]
    assert len(sensor.left_out) == 4


def test_dies_and_missing_trees_are_no_sensor(tmp_path: Path) -> None:
    with pytest.raises(SensorMissingError, match="no powercap tree"):
        PyJoulesSensor(tmp_path / "nowhere")
    with pytest.raises(SensorMissingError, match="knows no dies"):
        PyJoulesSensor(dies(tmp_path / "dies", mirrored=False).root)


@pytest.mark.parametrize("content", ["", "nan", "-5", "1.5", "inf", "much"])
def test_what_is_no_whole_number_is_an_error(content: str, tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    sensor = PyJoulesSensor(tree.root)
    tree.energy_file("package-0").write_text(content)
    with pytest.raises(SensorReadError):
        sensor.read()
    tree.energy_file("package-0").unlink()
    with pytest.raises(SensorReadError, match="No such file"):
        sensor.read()


def test_counters_that_may_not_be_read_are_named(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    tree.energy_file("package-0").chmod(0)
    with bound_by_permissions(), pytest.raises(SensorPermissionError, match=r"intel-rapl:0/energy_uj"):
        PyJoulesSensor(tree.root)


def test_pyjoules_own_root_is_left_as_it_was(tmp_path: Path) -> None:
    before = rapl_device.RAPL_API_DIR
    PyJoulesSensor(amd(tmp_path / "powercap").root)
    assert before == rapl_device.RAPL_API_DIR


def test_it_is_imported_late_and_quietly(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    code = f"""
import logging, pathlib, sys
from profiler.sensors.pyjoules import PyJoulesSensor
assert "pyJoules" not in sys.modules
sys.modules["pynvml"] = None
PyJoulesSensor(pathlib.Path({str(tree.root)!r}))
assert "pyJoules" in sys.modules
assert logging.getLogger().handlers == []
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (result.stdout, result.stderr) == ("", "")


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyJoules.device", None)
    with pytest.raises(SensorMissingError, match="pyJoules is not installed"):
        PyJoulesSensor(amd(tmp_path / "powercap").root)
