"""Runs a plan on a device and writes one record per configuration as soon as it is measured.

Trial of one configuration:

    prepare ─ idle window ─ calibrate loops ─ warm-up ─ window × replicates ─ idle window ─ record (fsync)

Loops double until a window spans enough time and enough ticks of the slowest counter, so that the tick
does not decide. Whatever stops the campaign, every finished configuration is kept, and the next run with
``resume`` measures the others.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from math import ceil
from pathlib import Path

from calibration_data import FLAG_MEANING, MeasurementError, UsageError, WindowReading, domain_kind
from calibration_data.records import CalibrationRecord, CampaignId, DeviceFingerprint, Window
from calibration_data.store import append_record, finished_records
from profiler.device import Device, Execution, Kernel
from profiler.meter import EnergyMeter
from profiler.microbenchmark import Microbenchmark
from profiler.plan import Plan, Progress

MAX_DROPPED = 5
"""Throttled windows of one configuration before it is given up."""

SETTLE_S = 0.05
"""Pause before an idle window; at least two ticks of the slowest counter."""

COOL_DOWN_S = 5.0
"""Pause after a throttled window."""


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
        trial = _Trial(device, meter, plan)
        for point in plan.points:
            if point.point in finished:
                continue
            report(Progress(done=len(records), total=len(plan.points), point=point.point))
            record = trial.measure(point)
            append_record(out, record)
            records.append(record)
    report(Progress(done=len(records), total=len(plan.points), point=""))
    return records


def estimated_seconds(plan: Plan, device: Device) -> float:
    """Expected duration of a whole campaign: its windows, warm-ups and idle windows."""
    protocol = plan.protocol
    window_s = _window_seconds(plan, device)
    # Finding the loop count takes about one window more, allocating and compiling about half a second.
    return len(plan.points) * ((protocol.replicates + 2) * window_s + 2 * protocol.idle_s + 0.5)


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


def _window_seconds(plan: Plan, device: Device) -> float:
    return max(plan.protocol.window_s, plan.protocol.ticks * _slowest_tick_s(device))


def _slowest_tick_s(device: Device) -> float:
    return max(spec.update_period_s or 0.0 for sensor in device.sensors for spec in sensor.specs)


class _Trial:
    """Measures configurations of one plan on one device."""

    def __init__(self, device: Device, meter: EnergyMeter, plan: Plan) -> None:
        self._device = device
        self._meter = meter
        self._plan = plan
        self._window_s = _window_seconds(plan, device)
        self._idle_s = max(plan.protocol.idle_s, self._window_s / 2)
        self._settle_s = max(SETTLE_S, 2 * _slowest_tick_s(device))
        self._origin_ns = device.clock.now_ns()

    def measure(self, point: Microbenchmark) -> CalibrationRecord:
        """One configuration, from preparing it to its record."""
        kernel = self._device.prepare(point)
        try:
            idle_before = self._idle_window()
            loops, warm_ups = self._calibrate(kernel)
            replicates: list[Window] = []
            dropped: list[Window] = []
            while len(replicates) < self._plan.protocol.replicates:
                window, execution = self._busy_window(kernel, loops)
                if not execution.throttled:
                    replicates.append(window)
                    continue
                dropped.append(window.model_copy(update={"notes": (*window.notes, "throttled")}))
                if len(dropped) > MAX_DROPPED:
                    raise MeasurementError(
                        f"{point.point} was throttled {len(dropped)} times.",
                        next_step="Let the device cool down, then continue with --resume.",
                    )
                self._device.idle(COOL_DOWN_S)
            idle_after = self._idle_window()
        finally:
            kernel.close()
        return CalibrationRecord(
            campaign=CampaignId(
                plan=self._plan.name, seed=self._plan.seed, digest=self._plan.digest(self._device.name)
            ),
            point=point.point,
            family=point.family,
            threads=point.threads,
            level=point.level,
            working_set_bytes=point.working_set_bytes,
            work_per_loop=dict(kernel.work_per_loop),
            loops=loops,
            replicates=tuple(replicates),
            warm_ups=tuple(warm_ups),
            dropped=tuple(dropped),
            idle_before=idle_before,
            idle_after=idle_after,
            device=device_fingerprint(self._device),
            sensors=self._meter.specs,
            software=software_versions(),
            conditions=self._device.conditions(),
            provenance=self._device.provenance,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    def _calibrate(self, kernel: Kernel) -> tuple[int, list[Window]]:
        """Double the loops until a window is long enough; its windows are the warm-ups."""
        loops, warm_ups = 1, []
        while True:
            started_ns = self._device.clock.now_ns()
            kernel.run(loops)
            elapsed_s = (self._device.clock.now_ns() - started_ns) * 1e-9
            if elapsed_s >= self._window_s / 8:
                break
            loops *= 2
        loops = max(1, ceil(loops * self._window_s / elapsed_s))
        window, _ = self._busy_window(kernel, loops)
        warm_ups.append(window)
        return loops, warm_ups

    def _busy_window(self, kernel: Kernel, loops: int) -> tuple[Window, Execution]:
        started_ns = self._device.clock.now_ns()
        with self._meter.window("replicate") as window:
            execution = kernel.run(loops)
        self._refuse_stuck_counters(window.reading)
        return self._as_record(started_ns, window.reading, execution), execution

    def _idle_window(self) -> Window:
        # The counter's last tick before the window must not hold the power of the work before it.
        self._device.idle(self._settle_s)
        started_ns = self._device.clock.now_ns()
        with self._meter.window("idle") as window:
            self._device.idle(self._idle_s)
        return self._as_record(started_ns, window.reading, Execution(active_s=0.0, busy_core_s=0.0))

    def _as_record(self, started_ns: int, reading: WindowReading, execution: Execution) -> Window:
        # The counters' times and the kernel's own clock can differ by a few reads.
        cores = max(1, self._device.memory.cores)
        return Window(
            started_s=(started_ns - self._origin_ns) * 1e-9,
            duration_s=reading.duration_s,
            active_s=min(execution.active_s, reading.duration_s),
            busy_core_s=min(execution.busy_core_s, reading.duration_s * cores),
            energy_j=dict(reading.energy_j),
            quantisation_u_j=dict(reading.quantisation_u_j),
            notes=tuple(
                f"{domain}: {FLAG_MEANING[flag]}" for domain, flags in reading.flags.items() for flag in flags
            ),
        )

    def _refuse_stuck_counters(self, reading: WindowReading) -> None:
        for domain, energy_j in reading.energy_j.items():
            stuck = energy_j == 0 or "stuck" in reading.flags.get(domain, ())
            if stuck and domain_kind(domain) in ("package", "gpu"):
                raise MeasurementError(
                    f"{domain} did not move in {reading.duration_s:.3g} s of work: the counter is stuck.",
                    next_step="Check the sensor with: calijoule devices; then continue with --resume.",
                )


def device_fingerprint(device: Device) -> DeviceFingerprint:
    """What the device is, as records and models name it."""
    return DeviceFingerprint(
        device=device.name, kind=device.kind, model_name=device.model_name, memory=device.memory
    )


def software_versions() -> dict[str, str]:
    """Versions that a measurement can depend on."""
    packages = {name: version(name) for name in ("calijoule", "numba", "numpy")}
    return {**packages, "python": platform.python_version(), "kernel": os.uname().release}
