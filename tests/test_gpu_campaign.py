"""The GPU campaign without a GPU: its analysis of known sensors, its parts on a simulated GPU."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fakes.driven_counters import DrivenCounter, SquareWave
from fakes.nvml_library import scripted_nvml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.gpu_campaign import __main__ as campaign
from benchmarks.gpu_campaign import check, probe, ready, selection
from benchmarks.gpu_campaign.analysis import (
    busy_share,
    changes_of,
    find_tick,
    find_window,
    powers_of_counter,
)
from benchmarks.gpu_campaign.settings import OutOfTimeError, Rows, Settings, SomeFailedError
from calibration_data import UsageError
from profiler.device import Device
from profiler.devices import open_device
from profiler.microbenchmark import Microbenchmark
from profiler.plan import make_plan
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.nvml_fields import INSTANT_POWER

ROOT = Path(__file__).resolve().parents[1]
WAVE = SquareWave(high_w=400.0, low_w=90.0, period_s=0.1371)
PERIODIC = [(number * WAVE.period_s, (number + 0.5) * WAVE.period_s) for number in range(220)]


class RandomBursts:
    """Power of bursts as the probe makes them."""

    def __init__(self, seconds: float = 30.0) -> None:
        rng = random.Random(3)
        self.bursts: list[tuple[float, float]] = []
        time_s = 0.0
        while time_s < seconds:
            begin_s = time_s + rng.uniform(*probe.BURST_S)
            time_s = begin_s + rng.uniform(*probe.BURST_S)
            self.bursts.append((begin_s, time_s))

    def energy_j(self, time_s: float) -> float:
        busy_s = sum(max(0.0, min(end_s, time_s) - begin_s) for begin_s, end_s in self.bursts)
        return WAVE.low_w * time_s + (WAVE.high_w - WAVE.low_w) * busy_s


LOAD = RandomBursts()


def test_the_tick_of_a_counter_is_found() -> None:
    counter = DrivenCounter(WAVE, tick_s=0.1, jitter=0.02, quantum_uj=1000.0, range_uj=None)
    found = find_tick([(t, counter.at_uj(t) / 1e6) for t in np.arange(0, 20, 0.002)])
    assert found is not None
    assert found.period_s == pytest.approx(0.1, abs=0.003)


def test_a_value_that_stands_still_has_no_tick() -> None:
    assert find_tick([(t / 100, 5.0) for t in range(1000)]) is None


@pytest.mark.parametrize("window_s", [0.010, 0.025, 0.05, 0.1])
def test_the_window_of_a_counter_is_found(window_s: float) -> None:
    """A counter that sees only the last part of each tick; one that sees all of it has a window of a tick."""
    counter = DrivenCounter(LOAD, tick_s=0.1, quantum_uj=1000.0, range_uj=None, averaging_s=window_s)
    samples = [(t, counter.at_uj(t) / 1e6) for t in np.arange(0.3, 29, 0.002)]
    found = find_window(LOAD.bursts, powers_of_counter(samples), tick_s=0.1, longest_s=1.0)
    assert found is not None
    assert found.window_s == pytest.approx(window_s, abs=0.003)
    assert found.coverage == pytest.approx(window_s / 0.1, abs=0.03)
    assert found.low_w == pytest.approx(90, rel=0.05)
    assert found.high_w == pytest.approx(400, rel=0.03)
    assert found.explained > 0.98


def test_the_window_of_nvml_power_is_found() -> None:
    """Instant power of the scripted driver: 25 of each 100 ms."""
    with scripted_nvml() as nvml:
        nvml.script(gpus=1)
        nvml.set_time_s(1000.0)
        nvml.set_sensor(0, update_period_s=0.1, averaging_window_s=0.025)
        nvml.set_power(0, WAVE.high_w, WAVE.low_w, WAVE.period_s)
        nvml.set_field(0, INSTANT_POWER)
        sensor = NvmlSensor(index=0)
        device = SimpleNamespace(sensors=(sensor,))
        read = probe._reader(device)  # type: ignore[arg-type]
        samples = []
        for time_s in np.arange(0.3, 25, 0.002):
            nvml.set_time_s(1000.0 + time_s)
            samples.append((float(time_s), read()["power-186-0"]))
        sensor.close()
    tick = find_tick(samples)
    assert tick is not None
    # A rhythm cannot tell a window from one that is its period longer, or lacks it.
    found = find_window(PERIODIC, changes_of(samples), tick_s=tick.period_s, longest_s=WAVE.period_s / 2)
    assert found is not None
    assert found.window_s == pytest.approx(0.025, abs=0.003)
    assert found.coverage == pytest.approx(0.25, abs=0.03)


def test_power_that_does_not_answer_the_load_has_no_window() -> None:
    assert find_window(PERIODIC, [(t / 10, 90.0) for t in range(250)], tick_s=0.1, longest_s=1.0) is None


@given(st.floats(0.001, 3.0), st.floats(3.5, 20.0))
def test_busy_share_is_the_share_of_a_fine_sum(window_s: float, end_s: float) -> None:
    times = np.linspace(end_s - window_s, end_s, 20001)
    inside = np.mod(times, WAVE.period_s) < WAVE.period_s / 2
    shares = busy_share(PERIODIC, np.array([end_s]), window_s)
    assert float(shares[0]) == pytest.approx(float(inside.mean()), abs=1e-3)


def test_rows_resume_and_survive_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    Rows(path).add("a", {"value": 1})
    with path.open("a") as file:
        file.write('{"key": "b", "val')
    rows = Rows(path)
    assert "a" in rows
    assert "b" not in rows
    rows.add("b", {"value": 2})
    assert [row["key"] for row in Rows(path).rows] == ["a", "b"]


def test_minutes_that_are_over_stop_a_part(tmp_path: Path) -> None:
    settings = Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=-1)
    with pytest.raises(OutOfTimeError):
        settings.keep_time()


def command(out: Path, part: str, *options: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "benchmarks.gpu_campaign", part, "--dry-run", "--out", str(out), *options]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


def test_the_probe_finds_what_the_simulated_gpu_is(tmp_path: Path) -> None:
    result = command(tmp_path, "probe")
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["provenance"] == "simulated"
    assert found["idle"]["gpu-0"]["mean_w"] == pytest.approx(54, rel=0.03)
    assert found["bursts"]["gpu-0"]["tick"]["period_s"] == pytest.approx(0.1, rel=0.02)
    assert found["bursts"]["gpu-0"]["window"]["coverage"] == pytest.approx(0.25, abs=0.03)


def test_a_plan_out_of_time_goes_on_and_leaves_a_model(tmp_path: Path) -> None:
    stopped = command(tmp_path, "quick", "--minutes", "0")
    assert stopped.returncode == 75
    result = command(tmp_path, "quick")
    assert result.returncode == 0, result.stderr
    model = (tmp_path / "model-quick.json").read_text()
    measured_sparse_updates_are_predicted(tmp_path)
    # Fitted as it is, after two thirds.
    records = tmp_path / "records-quick.jsonl"
    records.write_text("".join(records.read_text().splitlines(keepends=True)[:43]))
    result = command(tmp_path, "fit")
    assert result.returncode == 0, result.stderr
    assert "43 records" in result.stdout
    assert (tmp_path / "model-quick.json").read_text() != model


def measured_sparse_updates_are_predicted(out: Path) -> None:
    """The simulated GPU does what it is said to cost, so the part must say so."""
    result = command(out, "sparse")
    assert result.returncode == 0, result.stderr
    rows = Rows(out / "sparse.jsonl").rows
    assert {row["key"].split("-")[2] for row in rows} == {"l2", "dram"}
    assert max(abs(row["error_rel"]) for row in rows) < 0.15
    assert all(0 < row["measured_per_kept_j"] < 1e-7 for row in rows)


def test_selection_is_timed_beside_topk_and_compared_with_the_host(tmp_path: Path) -> None:
    """On the CPU the kernels have no place: only that rows are whole and the choice is the same."""
    settings = Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=60)
    selection.run(settings)
    rows = Rows(tmp_path / "selection.jsonl").rows
    assert [row["key"] for row in rows] == [
        f"{count} {dtype}" for count in (10_000, 100_000) for dtype in selection.DTYPES
    ]
    for row in rows:
        assert row["as_on_cpu"] is True
        assert row["kept"] == int(row["key"].split()[0]) // 100
        assert row["topk_over_cold"] == pytest.approx(row["topk_s"] / row["cold_s"])
        assert row["cold_in_reads"] == pytest.approx(row["cold_s"] / row["read_at_bandwidth_s"])


def test_what_is_missing_is_said_before_it_costs_a_minute(tmp_path: Path) -> None:
    """On a simulated GPU nothing is; for a GPU that is not there every look says so, in a whole file."""
    settings = Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=60)
    ready.run(settings)
    found = json.loads((tmp_path / "ready.json").read_text())
    assert found["missing"] == {}
    assert found["packages"]["torch"]
    assert found["sensor"]["domains"] == {"gpu-0": "counter"}
    assert found["selection"].startswith("kept 10 of 100")
    with pytest.raises(UsageError, match="gpu, kernel, sensor"):
        ready.run(replace(settings, device_name="cuda:0", dry_run=False))
    found = json.loads((tmp_path / "ready.json").read_text())
    assert "no GPU cuda:0" in found["missing"]["sensor"]
    assert found["selection"].startswith("kept")


def test_what_fails_everywhere_is_left_out_of_no_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as without a C compiler: the machine is to be mended, not the plan."""
    settings = Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=60)

    def refuse(device: object, point: object) -> dict[str, object]:
        raise RuntimeError("Failed to find C compiler.")

    monkeypatch.setattr(check, "_rates", refuse)
    with pytest.raises(check.NothingRunsError, match="C compiler"):
        check.run(settings)
    assert len(Rows(tmp_path / check.FILE).rows) == check.FAILED_AT_FIRST
    assert check.failed_points(settings) == frozenset()


def test_what_kills_a_process_is_left_out_and_the_next_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong address on a GPU: every later call of the process fails, but only one configuration did."""
    settings = Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=60)
    device = open_device(settings.device_name)
    broken = make_plan(device, "quick").points[5].point
    rates, alive = check._rates, True

    def run_point(device: Device, point: Microbenchmark) -> dict[str, object]:
        nonlocal alive
        alive = point.point != broken
        if not alive:
            raise RuntimeError("an illegal memory access was encountered")
        return rates(device, point)

    def answer(device: object) -> None:
        if not alive:
            raise OutOfTimeError

    monkeypatch.setattr(check, "_rates", run_point)
    monkeypatch.setattr(check, "_see_whether_alive", answer)
    with pytest.raises(OutOfTimeError):
        check.run(settings)
    assert check.failed_points(settings) == {broken}
    check.run(settings)
    rows = Rows(tmp_path / check.FILE).rows
    assert [row["key"] for row in rows if row["failed"]] == [broken]
    assert {point.point for point in make_plan(device, "full").points} <= {row["key"] for row in rows}


def test_a_part_that_a_driver_ends_leaves_its_story(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(settings: Settings) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setitem(campaign.PARTS, "probe", fail)
    monkeypatch.setattr(sys, "argv", ["gpu_campaign", "probe", "--dry-run", "--out", str(tmp_path)])
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert campaign.main() == campaign.FAILED
    assert "device-side assert" in (tmp_path / "probe.error").read_text()
    assert "all before it is kept" in capsys.readouterr().err


def test_one_row_that_fails_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=60)

    def row(count: int, dtype: str, where: str) -> dict[str, object]:
        if dtype == "bfloat16" and count == 10_000:
            raise RuntimeError("no kernel image\nis available")
        return {"kept": count}

    monkeypatch.setattr(selection, "_row", row)
    with pytest.raises(SomeFailedError, match="10000 bfloat16: RuntimeError: no kernel image"):
        selection.run(settings)
    assert [row["kept"] for row in Rows(tmp_path / "selection.jsonl").rows] == [10_000, 100_000, 100_000]
    monkeypatch.setattr(selection, "_row", lambda *_: {"kept": 7})
    selection.run(settings)
    assert [row["kept"] for row in Rows(tmp_path / "selection.jsonl").rows][3:] == [7]


def test_a_state_that_cannot_be_probed_hides_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(device: object) -> None:
        raise RuntimeError("cannot compile")

    monkeypatch.setattr(probe, "_spin", fail)
    monkeypatch.setattr(probe, "_bursts", lambda device: {"bursts": 0})
    probe.run(Settings(out=tmp_path, device_name="sim:datacenter-gpu", dry_run=True, seconds=60))
    found = json.loads((tmp_path / "probe.json").read_text())
    assert found["awake"] == {"refused": "RuntimeError: cannot compile"}
    assert found["idle"]["gpu-0"]["mean_w"] == pytest.approx(54, rel=0.03)
    assert len(found["rates"]) == 14


def test_a_part_that_needs_a_model_says_so(tmp_path: Path) -> None:
    result = command(tmp_path, "heldout")
    assert result.returncode == 2
    assert "quick or full" in result.stderr


def test_without_a_gpu_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "benchmarks.gpu_campaign", "probe", "--out", str(tmp_path)]
    result = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 2
    assert "no GPU cuda:0" in result.stderr
    assert "Traceback" not in result.stderr
