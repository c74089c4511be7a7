"""Runs a plan on a device and writes one record per configuration as soon as it is measured.

    pre-heat ─ trial ─ record (fsync) ─ trial ─ record (fsync) ─ ...

The device works before the first trial, so that it is as warm for the first configuration as for the last.
Whatever stops the campaign, every finished configuration is kept, and the next run with ``resume`` measures
the others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from calibration_data import UsageError
from calibration_data.records import CalibrationRecord
from calibration_data.store import append_record, finished_records
from profiler.device import Device
from profiler.meter import EnergyMeter
from profiler.plan import Plan, Progress
from profiler.trial import Trial, preheat


def run_campaign(
    device: Device,
    plan: Plan,
    out: Path,
    *,
    resume: bool = False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Sequence[CalibrationRecord]:
    """Measure every configuration of a plan and append its record to ``out``.

    Args:
        device: what is measured.
        plan: what runs, and in which order.
        out: JSON Lines file; it must not exist unless ``resume``.
        resume: continue a campaign that was stopped; finished configurations are not repeated.
        report: called before each configuration and once at the end.

    Returns:
        All records of the campaign, those of earlier runs included.

    Raises:
        UsageError: ``out`` exists without ``resume``, or belongs to another campaign.
        MeasurementError: a window cannot be trusted; everything before it is kept.
    """
    digest = plan.digest(device.name)
    records = _earlier_records(out, digest, resume=resume)
    finished = {record.point for record in records}
    out.parent.mkdir(parents=True, exist_ok=True)
    with EnergyMeter(device.sensors, clock=device.clock) as meter:
        trial = Trial(device, meter, plan)
        left = [point for point in plan.points if point.point not in finished]
        if left:
            preheat(device, plan.protocol.preheat_s)
        for point in left:
            report(Progress(done=len(records), total=len(plan.points), point=point.point))
            record = trial.measure(point)
            append_record(out, record)
            records.append(record)
    report(Progress(done=len(records), total=len(plan.points), point=""))
    return records


def _earlier_records(out: Path, digest: str, *, resume: bool) -> list[CalibrationRecord]:
    if not out.exists():
        return []
    if not resume:
        raise UsageError(
            f"{out} exists already.", next_step="Continue it with --resume, or give another --out."
        )
    records = finished_records(out)
    if any(record.campaign.digest != digest for record in records):
        raise UsageError(
            f"{out} belongs to another campaign (device, plan or seed differ).",
            next_step="Resume with the options it was started with, or give another --out.",
        )
    return records
