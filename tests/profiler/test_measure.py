"""Joules of a command: what its window held, less the idle baseline, or a reason."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fakes.powercap_driver import PowercapDriver
from fakes.powercap_tree import RANGE_UJ, PowercapTree, amd, client, server

from calibration_data import CounterSpec, UsageError
from profiler.conditions import Conditions
from profiler.errors import ImplausiblePowerError, SensorReadError
from profiler.idle import IdleBaseline, mean_idle, measure_idle
from profiler.measure import MeasureResult, measure_command, measurement_document
from profiler.meter import EnergyMeter
from profiler.sensors import PowercapSensor
from profiler.sensors.base import Reading


class SteadyMachine:
    """Counters of constant power on the real clock, in whole microjoules, that tick each millisecond."""

    TICK_NS = 1_000_000

    def __init__(self, **power_w: float) -> None:
        self._power_w = {domain.replace("_", "-"): power for domain, power in power_w.items()}
        self.specs = tuple(
            CounterSpec(
                domain=domain, interface="steady", source="test", resolution_uj=1, update_period_s=0.001
            )
            for domain in self._power_w
        )

    def read(self) -> Reading:
        now_ns = time.monotonic_ns()
        tick_ns = now_ns // self.TICK_NS * self.TICK_NS
        return Reading(
            time_ns=now_ns,
            energy_uj={domain: int(power_w * tick_ns) // 1000 for domain, power_w in self._power_w.items()},
        )

    def close(self) -> None:
        pass


def measured(tree: PowercapTree, script: str) -> MeasureResult:
    with EnergyMeter([PowercapSensor(tree.root)]) as meter:
        return measure_command(["sh", "-c", script], meter, idle_s=0)


def gross_j(result: MeasureResult) -> dict[str, float]:
    return {energy.domain: energy.gross_j for energy in result.domains}


def test_idle_power_is_the_power_of_the_machine() -> None:
    with EnergyMeter([SteadyMachine(package_0=40.0, uncore_0=0.0)]) as meter:
        idle = measure_idle(meter, 0.5)
    assert idle.power_w == {"package-0": pytest.approx(40.0, rel=0.02)}
    assert 0 < idle.standard_uncertainty_w["package-0"] < 4.0
    assert idle.duration_s >= 0.5


def test_net_is_gross_less_idle_power_times_duration() -> None:
    with EnergyMeter([SteadyMachine(package_0=40.0, dram_0=5.0, psys=60.0)]) as meter:
        result = measure_command(["sleep", "0.5"], meter, idle_s=0.5)
    assert gross_j(result)["package-0"] == pytest.approx(40.0 * result.duration_s, rel=0.02)
    assert result.total is not None
    assert result.total.gross_j == pytest.approx(45.0 * result.duration_s, rel=0.02)
    for energy in (*result.domains, result.total):
        assert energy.net_j is not None
        assert energy.net_u_j is not None
        assert energy.net_missing_reason == ""
        assert abs(energy.net_j) < 0.04 * energy.gross_j
        assert energy.net_u_j >= energy.gross_u_j > 0


def test_the_wrap_of_a_counter_while_the_command_runs_is_undone(tmp_path: Path) -> None:
    tree = server(tmp_path / "powercap")
    tree.set_uj("package-1", RANGE_UJ - 3_000_000)
    power_w = {"package-0": 60.0, "dram-0": 8.0, "package-1": 40.0, "dram-1": 4.0}
    with PowercapDriver(tree, power_w):
        result = measured(tree, "sleep 0.6; exit 3")
    assert result.exit_code == 3
    for domain, energy_j in gross_j(result).items():
        assert energy_j == pytest.approx(power_w[domain] * result.duration_s, rel=0.1)
    assert result.total is not None
    assert result.total.gross_j == pytest.approx(112.0 * result.duration_s, rel=0.1)
    assert int(tree.energy_file("package-1").read_text()) < RANGE_UJ // 2


def test_the_total_counts_packages_dram_and_gpus_once(tmp_path: Path) -> None:
    tree = client(tmp_path / "powercap")
    with PowercapDriver(tree, {"package-0": 30.0, "core-0": 20.0, "uncore-0": 5.0, "psys": 45.0}):
        result = measured(tree, "sleep 0.1")
    assert result.total is not None
    assert result.total.gross_j == gross_j(result)["package-0"]
    assert gross_j(result)["psys"] == pytest.approx(45.0 * result.duration_s, rel=0.2)


def test_without_a_domain_of_the_total_there_is_no_total(tmp_path: Path) -> None:
    tree = PowercapTree(tmp_path / "powercap")
    tree.add_zone("intel-rapl:0", "psys", counter="psys")
    assert measured(tree, "true").total is None


def test_why_there_are_no_net_joules(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    script = f"echo 5 > {tree.energy_file('package-0')}"
    assert {energy.domain: energy.net_missing_reason for energy in measured(tree, script).domains} == {
        "package-0": "no idle window was taken",
        "core-0": "the counter did not move while the command ran",
    }
    tree.set_uj("package-0", 0)
    with EnergyMeter([PowercapSensor(tree.root)]) as meter:
        result = measure_command(["sh", "-c", script], meter, idle_s=0.01)
    assert result.total is not None
    assert result.total.net_j is None
    assert "package-0: the counter did not move in the idle window" in result.total.net_missing_reason


@pytest.mark.parametrize("damage", ["rm {}", "echo much > {}", ": > {}", "rm {0}; mkdir {0}"])
def test_a_failed_read_gives_no_joules_and_lets_the_command_finish(damage: str, tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    done = tmp_path / "done"
    with pytest.raises(SensorReadError) as failed:
        measured(tree, f"{damage.format(tree.energy_file('core-0'))}; touch {done}")
    assert failed.value.exit_code == 5
    assert done.exists()


def test_a_leap_of_the_counter_is_no_measurement(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    with pytest.raises(ImplausiblePowerError):
        measured(tree, f"echo {RANGE_UJ - 1} > {tree.energy_file('package-0')}")


def test_a_signal_that_ends_the_command_is_its_exit_code(tmp_path: Path) -> None:
    result = measured(amd(tmp_path / "powercap"), "kill -TERM $$")
    assert result.exit_code == 128 + signal.SIGTERM


def test_what_cannot_be_started_or_asked(tmp_path: Path) -> None:
    with EnergyMeter([PowercapSensor(amd(tmp_path / "powercap").root)]) as meter:
        with pytest.raises(UsageError, match="no-such-command cannot be started: No such file"):
            measure_command(["no-such-command"], meter, idle_s=0)
        for idle_s in (-1.0, float("nan"), float("inf")):
            with pytest.raises(UsageError, match="idle window"):
                measure_command(["true"], meter, idle_s=idle_s)


def test_an_interrupt_stops_the_command(tmp_path: Path) -> None:
    tree = amd(tmp_path / "powercap")
    code = f"""
import pathlib, sys
from profiler.measure import measure_command
from profiler.meter import EnergyMeter
from profiler.sensors import PowercapSensor
try:
    with EnergyMeter([PowercapSensor(pathlib.Path({str(tree.root)!r}))]) as meter:
        measure_command(["sh", "-c", "echo $$; exec sleep 600"], meter, idle_s=0)
except KeyboardInterrupt:
    sys.exit(130)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as measurer:
        assert measurer.stdout is not None
        child = int(measurer.stdout.readline())
        measurer.send_signal(signal.SIGINT)
        assert measurer.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_the_document_is_json_with_whole_microjoules(tmp_path: Path) -> None:
    tree = client(tmp_path / "powercap")
    sensor = PowercapSensor(tree.root)
    with EnergyMeter([sensor]) as meter:
        result = measure_command(
            ["sh", "-c", f"echo 1234567 > {tree.energy_file('package-0')}"], meter, idle_s=0.01
        )
    text = json.dumps(
        measurement_document(result, sensors=[sensor], powercap_root=tree.root), allow_nan=False
    )
    document = json.loads(text)
    domains = {entry["domain"]: entry for entry in document["domains"]}
    assert document["schema"] == "calijoule/measurement"
    assert document["provenance"] == "measured"
    assert document["powercap_root"] == str(tree.root)
    assert (domains["package-0"]["gross_uj"], domains["package-0"]["gross_j"]) == (1_234_567, 1.234567)
    assert domains["package-0"]["in_total"]
    assert not domains["psys"]["in_total"]
    assert document["total"]["gross_uj"] == 1_234_567
    assert {spec["domain"] for spec in document["sensors"]} == set(domains)
    assert "intel-rapl-mmio:0" in document["left_out"][0]["source"]


def test_idle_before_and_after_is_their_mean_and_drift_is_uncertainty() -> None:
    before = IdleBaseline(
        duration_s=1.0,
        power_w={"package-0": 40.0, "dram-0": 5.0},
        standard_uncertainty_w={"package-0": 0.6, "dram-0": 0.1},
    )
    after = IdleBaseline(
        duration_s=1.0, power_w={"package-0": 46.0}, standard_uncertainty_w={"package-0": 0.8}
    )
    both = mean_idle(before, after)
    assert both.duration_s == 2.0
    assert both.power_w == {"package-0": 43.0}
    # A rectangle from 40 W to 46 W has the standard deviation 6/√12; the means add 0.3 and 0.4 W.
    assert both.standard_uncertainty_w["package-0"] == pytest.approx((36 / 12 + 0.25) ** 0.5)


def test_conditions_are_looked_at_before_and_after_and_become_notes() -> None:
    looks = iter([Conditions(), Conditions(cpu_throttle_events=3, power_limits_w={"package-0": 40.0})])
    with EnergyMeter([SteadyMachine(package_0=40.0)]) as meter:
        result = measure_command(["sleep", "0.05"], meter, idle_s=0, look=lambda: next(looks))
    assert result.before == Conditions()
    assert "the processor ran slower for heat (3 throttle events)" in result.notes
    assert "package-0 ran at its power limit of 40 W" in result.notes
