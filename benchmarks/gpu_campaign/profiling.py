"""The plan, quick or full, in as many commands as it takes, and the model of its records.

Every stretch of a plan has its share of each family, so a plan that was stopped early can be fitted as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import get_args

from benchmarks.gpu_campaign.check import failed_points
from benchmarks.gpu_campaign.settings import Settings, write_json
from calibration_data import UsageError
from calibration_data.records import CalibrationRecord
from calibration_data.store import read_records, records_sha256
from cost_models.fitting import fit_cost_model
from cost_models.store import save_cost_model
from profiler.campaign import run_campaign
from profiler.devices import open_device
from profiler.plan import PlanName, Progress, make_plan
from profiler.schedule import make_schedule

PLANS: tuple[PlanName, ...] = get_args(PlanName)


def run_quick(settings: Settings) -> None:
    _run(settings, "quick")


def run_full(settings: Settings) -> None:
    _run(settings, "full")


def run_fit(settings: Settings) -> None:
    """Fit the records of each plan as they are, of an unfinished one too.

    Raises:
        UsageError: there are none.
    """
    paths = {name: settings.file(f"records-{name}.jsonl") for name in PLANS}
    found = {name: path for name, path in paths.items() if path.exists()}
    if not found:
        raise UsageError(f"{settings.out} holds no records.", next_step="Run the part quick or full first.")
    for name, path in found.items():
        records = read_records(path)
        _fit(settings, name, records)
        print(f"{name}: {len(records)} records", flush=True)


def _run(settings: Settings, name: PlanName) -> None:
    records_path = settings.file(f"records-{name}.jsonl")

    def report(progress: Progress) -> None:
        if progress.point:
            settings.keep_time()
            print(f"{progress.done}/{progress.total} {progress.point}", flush=True)

    device = open_device(settings.device_name)
    try:
        plan = make_plan(device, name)
        failed = failed_points(settings)
        plan = replace(plan, points=tuple(point for point in plan.points if point.point not in failed))
        schedule = make_schedule(plan, device)
        write_json(
            settings.file(f"schedule-{name}.json"),
            {
                "points": len(plan.points),
                "left_out": sorted(failed),
                "window_s": schedule.window_s,
                "expected_s": schedule.expected_s,
                "longest_s": schedule.longest_s,
            },
        )
        records = run_campaign(device, plan, records_path, resume=records_path.exists(), report=report)
    finally:
        device.close()
    _fit(settings, name, records)


def _fit(settings: Settings, name: PlanName, records: Sequence[CalibrationRecord]) -> None:
    sha256 = records_sha256([settings.file(f"records-{name}.jsonl")])
    save_cost_model(settings.file(f"model-{name}.json"), fit_cost_model(records, records_sha256=sha256))
