"""The trial: everything that is measured about one configuration.

    prepare ─ idle window ─ calibrate loops ─ warm-up ─ window × replicates ─ idle window

Loops double until a window spans enough time and enough ticks of the slowest counter, so that the tick
does not decide. Windows repeat until the mean energy is known to the target of the protocol, or as long
as it allows; throttled ones do not count.
"""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import ceil, inf, sqrt

from calibration_data import FLAG_MEANING, MeasurementError, WindowReading, domain_kind, total_domains
from calibration_data import __version__ as calijoule_version
from calibration_data.records import CalibrationRecord, CampaignId, DeviceFingerprint, Window
from profiler.device import Device, Execution, Kernel
from profiler.meter import EnergyMeter
from profiler.microbenchmark import Microbenchmark
from profiler.plan import Plan
from profiler.schedule import idle_seconds, most_replicates, slowest_tick_s, window_seconds
from profiler.uncertainty import coverage_factor

MAX_DROPPED = 5
"""Throttled windows of one configuration before it is given up."""

SETTLE_S = 0.05
"""Pause before an idle window; at least two ticks of the slowest counter."""

COOL_DOWN_S = 5.0
"""Pause after a throttled window."""


PREHEAT_SLICE_S = 1.0
"""Work between two looks at the clock while the device warms up."""


class Trial:
    """Measures configurations of one plan on one device; all windows count their time from its making."""

    def __init__(self, device: Device, meter: EnergyMeter, plan: Plan) -> None:
        self._device = device
        self._meter = meter
        self._plan = plan
        self._window_s = window_seconds(plan, device)
        self._most_replicates = most_replicates(plan, device)
        self._idle_s = idle_seconds(plan, device)
        self._settle_s = max(SETTLE_S, 2 * slowest_tick_s(device))
        self._origin_ns = device.clock.now_ns()

    def measure(self, point: Microbenchmark) -> CalibrationRecord:
        """One configuration, from preparing it to its record."""
        kernel = self._device.prepare(point)
        try:
            idle_before = self._idle_window()
            loops, warm_ups = self._calibrate(kernel)
            replicates, dropped = self._replicates(point, kernel, loops)
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

    def _replicates(
        self, point: Microbenchmark, kernel: Kernel, loops: int
    ) -> tuple[list[Window], list[Window]]:
        """Windows that count, as many as the target needs, and those that were dropped."""
        protocol = self._plan.protocol
        replicates: list[Window] = []
        dropped: list[Window] = []
        while len(replicates) < protocol.replicates or (
            len(replicates) < self._most_replicates
            and relative_half_width(replicates) > protocol.target_rel_ci
        ):
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
        return replicates, dropped

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
        self._refuse_stuck_counters(window.reading)
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
                    f"{domain} did not move in {reading.duration_s:.3g} s: the counter is stuck.",
                    next_step="Check the sensor with: calijoule devices; then continue with --resume.",
                )


def relative_half_width(windows: Sequence[Window]) -> float:
    """Of the 95 % interval of the mean total power, over that mean; what repetition can make narrower."""
    powers_w = [
        sum(window.energy_j[domain] for domain in total_domains(window.energy_j)) / window.duration_s
        for window in windows
    ]
    if len(powers_w) < 2:
        return inf
    half_w = coverage_factor(len(powers_w) - 1) * statistics.stdev(powers_w) / sqrt(len(powers_w))
    mean_w = statistics.fmean(powers_w)
    return half_w / mean_w if mean_w > 0 else inf


def preheat(device: Device, seconds: float) -> None:
    """Work on all cores for so long, with a kernel that every device has."""
    point = Microbenchmark(
        point="preheat", family="preheat", kernel="fma", threads=device.memory.cores, dtype="fp32"
    )
    if seconds <= 0 or not device.supports(point):
        return
    kernel = device.prepare(point)
    try:
        loops = 1
        while (run_s := _run_seconds(device, kernel, loops)) < PREHEAT_SLICE_S:
            loops *= 2
            seconds -= run_s
        while seconds > 0:
            seconds -= _run_seconds(device, kernel, loops)
    finally:
        kernel.close()


def _run_seconds(device: Device, kernel: Kernel, loops: int) -> float:
    started_ns = device.clock.now_ns()
    kernel.run(loops)
    return (device.clock.now_ns() - started_ns) * 1e-9


def device_fingerprint(device: Device) -> DeviceFingerprint:
    """What the device is, as records and models name it."""
    return DeviceFingerprint(
        device=device.name, kind=device.kind, model_name=device.model_name, memory=device.memory
    )


def software_versions() -> dict[str, str]:
    """Versions that a measurement can depend on."""
    packages = {"calijoule": calijoule_version}
    for name in ("numba", "numpy"):
        # A GPU needs no numba.
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {**packages, "python": platform.python_version(), "kernel": os.uname().release}
