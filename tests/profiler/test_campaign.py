"""A campaign keeps what it measured, whatever stops it, and repeats nothing."""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from calibration_data import MeasurementError, UsageError
from calibration_data.records import CalibrationRecord
from calibration_data.store import read_records
from profiler.campaign import Progress, run_campaign
from profiler.devices import open_device
from profiler.plan import PlanName, make_plan
from profiler.schedule import make_schedule, most_replicates
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import Fault, SimulatedDeviceSpec


def test_one_record_per_point_with_every_raw_window(
    quiet_server: SimulatedDevice, records_path: Path
) -> None:
    plan = make_plan(quiet_server, "quick")
    records = run_campaign(quiet_server, plan, records_path)
    assert read_records(records_path) == list(records)
    assert [record.point for record in records] == [point.point for point in plan.points]
    for record in records:
        assert record.provenance == "simulated"
        assert plan.protocol.replicates <= len(record.replicates) <= most_replicates(plan, quiet_server)
        assert record.warm_ups
        assert min(window.duration_s for window in record.replicates) >= 0.9 * plan.protocol.window_s


def test_windows_show_the_power_of_the_truth(quiet_server: SimulatedDevice, records_path: Path) -> None:
    truth = quiet_server.spec.truth
    for record in run_campaign(quiet_server, make_plan(quiet_server, "quick"), records_path):
        for window in record.replicates:
            true_j = sum(truth[term] * amount for term, amount in record.window_work(window).items())
            assert sum(window.energy_j.values()) == pytest.approx(true_j, rel=2.5e-3)


def test_an_existing_file_is_not_overwritten(quiet_server: SimulatedDevice, records_path: Path) -> None:
    records_path.write_text("precious\n")
    with pytest.raises(UsageError, match="exists already"):
        run_campaign(quiet_server, make_plan(quiet_server, "quick"), records_path)
    assert records_path.read_text() == "precious\n"


def test_resume_refuses_another_campaign(quiet_server: SimulatedDevice, records_path: Path) -> None:
    run_campaign(quiet_server, make_plan(quiet_server, "quick"), records_path)
    with pytest.raises(UsageError, match="another campaign"):
        run_campaign(quiet_server, make_plan(quiet_server, "quick", seed=1), records_path, resume=True)


def test_a_finished_campaign_resumes_to_itself(quiet_server: SimulatedDevice, records_path: Path) -> None:
    plan = make_plan(quiet_server, "quick")
    first = run_campaign(quiet_server, plan, records_path)
    before = records_path.read_bytes()
    assert run_campaign(quiet_server, plan, records_path, resume=True) == first
    assert records_path.read_bytes() == before


def interrupt_after(points: int):  # type: ignore[no-untyped-def]
    def report(progress: Progress) -> None:
        if progress.done == points:
            raise KeyboardInterrupt

    return report


def test_an_interrupt_keeps_every_finished_point(quiet_server: SimulatedDevice, records_path: Path) -> None:
    plan = make_plan(quiet_server, "quick")
    with pytest.raises(KeyboardInterrupt):
        run_campaign(quiet_server, plan, records_path, report=interrupt_after(5))
    assert len(read_records(records_path)) == 5
    resumed = run_campaign(quiet_server, plan, records_path, resume=True)
    assert sorted(record.point for record in resumed) == sorted(point.point for point in plan.points)


@pytest.mark.parametrize("torn_bytes", [1, 17, 1000])
def test_a_torn_line_is_measured_again(
    quiet_server: SimulatedDevice, records_path: Path, torn_bytes: int
) -> None:
    plan = make_plan(quiet_server, "quick")
    with pytest.raises(KeyboardInterrupt):
        run_campaign(quiet_server, plan, records_path, report=interrupt_after(4))
    with open(records_path, "rb+") as file:
        file.truncate(records_path.stat().st_size - torn_bytes)
    run_campaign(quiet_server, plan, records_path, resume=True)
    points = [record.point for record in read_records(records_path)]
    assert sorted(points) == sorted(point.point for point in plan.points)


def test_sigkill_at_any_moment_then_resume(tmp_path: Path, rng: random.Random) -> None:
    device = open_device("sim:edge-board")
    expected = sorted(point.point for point in make_plan(device, "quick").points)
    out = tmp_path / "records.jsonl"
    script = (
        "import sys, time; from pathlib import Path; from profiler.devices import open_device;"
        "from profiler.plan import PlanName, make_plan; from profiler.campaign import run_campaign;"
        "device = open_device('sim:edge-board'); out = Path(sys.argv[1]); print('started', flush=True);"
        "run_campaign(device, make_plan(device, 'quick'), out, resume=True,"
        " report=lambda progress: time.sleep(0.01))"
    )
    for _ in range(3):
        process = subprocess.Popen([sys.executable, "-c", script, str(out)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(rng.uniform(0.02, 0.3))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
    subprocess.run([sys.executable, "-c", script, str(out)], check=True, stdout=subprocess.DEVNULL)
    assert sorted(record.point for record in read_records(out)) == expected


def faulty(spec: SimulatedDeviceSpec, *faults: Fault) -> SimulatedDevice:
    return SimulatedDevice(spec.model_copy(update={"faults": faults}), name="sim:faulty")


@pytest.mark.parametrize("kind", ["read_error", "vanish", "stuck", "reset", "spike"])
def test_a_broken_counter_stops_the_campaign_and_leaves_only_whole_records(
    server_spec: SimulatedDeviceSpec, records_path: Path, kind: str
) -> None:
    fault = Fault.model_validate({"kind": kind, "at_s": 40.2, "domain": "package-0"})
    device = faulty(server_spec, fault)
    with pytest.raises(MeasurementError):
        run_campaign(device, make_plan(device, "quick"), records_path)
    records = read_records(records_path)
    assert records
    for record in records:
        assert power_is_plausible(record)


def power_is_plausible(record: CalibrationRecord) -> bool:
    windows = (*record.replicates, record.idle_before, record.idle_after)
    return all(0 < window.energy_j["package-0"] / window.duration_s < 1000 for window in windows)


def test_throttled_windows_are_dropped_with_a_note(
    server_spec: SimulatedDeviceSpec, records_path: Path
) -> None:
    device = faulty(server_spec, Fault(kind="throttle", at_s=30.0))
    plan = make_plan(device, "quick")
    records = run_campaign(device, plan, records_path)
    dropped = [window for record in records for window in record.dropped]
    assert dropped
    assert all(window.notes == ("throttled",) for window in dropped)
    assert all(len(record.replicates) >= plan.protocol.replicates for record in records)


def test_a_device_that_never_cools_down_ends_the_campaign(
    server_spec: SimulatedDeviceSpec, records_path: Path
) -> None:
    device = faulty(server_spec, *(Fault(kind="throttle", at_s=30.0 + 10 * i) for i in range(20)))
    with pytest.raises(MeasurementError, match="throttled"):
        run_campaign(device, make_plan(device, "quick"), records_path)


def test_the_estimate_of_time_holds_in_virtual_time(
    quiet_server: SimulatedDevice, records_path: Path
) -> None:
    plan = make_plan(quiet_server, "quick")
    run_campaign(quiet_server, plan, records_path)
    schedule = make_schedule(plan, quiet_server)
    assert quiet_server.clock.now_s == pytest.approx(schedule.expected_s, rel=0.25)


def noisy(spec: SimulatedDeviceSpec, noise_rel: float) -> SimulatedDevice:
    sensor = spec.sensor.model_copy(update={"noise_rel": noise_rel})
    return SimulatedDevice(spec.model_copy(update={"sensor": sensor}), name="sim:noisy")


@pytest.mark.parametrize(("noise_rel", "replicates"), [(0.0, 3), (0.1, 10)])
def test_windows_repeat_until_their_mean_is_known_or_the_protocol_ends(
    server_spec: SimulatedDeviceSpec, records_path: Path, noise_rel: float, replicates: int
) -> None:
    device = noisy(server_spec, noise_rel)
    counts = [len(r.replicates) for r in run_campaign(device, make_plan(device, "quick"), records_path)]
    assert median(counts) == replicates


def test_the_longest_time_is_never_exceeded(server_spec: SimulatedDeviceSpec, records_path: Path) -> None:
    device = noisy(server_spec, 0.3)
    plan = make_plan(device, "quick")
    run_campaign(device, plan, records_path)
    schedule = make_schedule(plan, device)
    assert schedule.expected_s < device.clock.now_s <= schedule.longest_s


@pytest.mark.parametrize(("plan_name", "minutes"), [("quick", 10), ("full", 75)])
@pytest.mark.parametrize("cores", [1, 4, 24, 192])
def test_no_plan_takes_longer_than_it_may(
    server_spec: SimulatedDeviceSpec, plan_name: PlanName, minutes: float, cores: int
) -> None:
    """With counters of 1 ms ticks, even if every configuration takes all its replicates."""
    memory = dataclasses.replace(server_spec.memory, cores=cores)
    device = SimulatedDevice(server_spec.model_copy(update={"memory": memory}))
    assert make_schedule(make_plan(device, plan_name), device).longest_s <= 60 * minutes


def test_every_stretch_of_a_campaign_has_its_share_of_each_family(quiet_server: SimulatedDevice) -> None:
    points = make_plan(quiet_server, "full", seed=3).points
    for family in ("load", "intensity"):
        places = [place for place, point in enumerate(points) if point.family == family]
        halves = sum(place < len(points) / 2 for place in places) / len(places)
        assert 0.4 < halves < 0.6
        assert max(b - a for a, b in pairwise(places)) < 4 * len(points) / len(places)
