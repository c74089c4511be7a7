"""Every configuration once, without joules: does it compile, pass the look at its code, run, and how fast.

What fails is written down with its reason and left out of the plans, so that no minute of a campaign is lost
to it; without this part the plans run whole.
"""

from __future__ import annotations

from benchmarks.gpu_campaign.settings import OutOfTimeError, Rows, Settings
from calibration_data import CalijouleError
from profiler.device import Device
from profiler.devices import open_device
from profiler.microbenchmark import Microbenchmark
from profiler.plan import make_plan

FILE = "check.jsonl"
RUN_S = 0.05
FAILED_AT_FIRST = 3
"""So many failures before anything has run are the machine's, not the configurations'."""


class NothingRunsError(CalijouleError):
    """No configuration has run so far; none is left out of the plans for that."""

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"Nothing runs here: {type(error).__name__}: {error}",
            next_step="Run the part ready, mend what it names, and delete check.jsonl.",
        )


def run(settings: Settings) -> None:
    """Both plans' configurations, the quick one's first; those of earlier commands are not repeated."""
    rows = Rows(settings.file(FILE))
    device = open_device(settings.device_name)
    try:
        points = {
            point.point: point for name in ("quick", "full") for point in make_plan(device, name).points
        }
        for name, point in points.items():
            if name in rows:
                continue
            settings.keep_time()
            try:
                rows.add(name, {"failed": None, **_rates(device, point)})
            # Whatever a compiler or a driver may raise is a result of this part.
            except Exception as error:
                print(f"{name}: {error}", flush=True)
                if not any(row["failed"] is None for row in rows.rows) and len(rows.rows) >= FAILED_AT_FIRST:
                    raise NothingRunsError(error) from error
                rows.add(name, {"failed": f"{type(error).__name__}: {error}"})
                _see_whether_alive(device)
    finally:
        device.close()


def _see_whether_alive(device: Device) -> None:
    """A wrong address ends everything in a process: what failed is left out, and the next command goes on.

    Raises:
        OutOfTimeError: the GPU does not answer this process any more.
    """
    gpu = getattr(device, "gpu", None)
    if gpu is not None:
        try:
            gpu.synchronize()
        except Exception as error:
            raise OutOfTimeError from error


def _rates(device: Device, point: Microbenchmark) -> dict[str, object]:
    kernel = device.prepare(point)
    try:
        loops = 1
        while (execution := kernel.run(loops)).active_s < RUN_S and point.kernel != "idle":
            loops *= 2
        work = kernel.work_per_loop * loops
        return {"rates": {name: amount / execution.active_s for name, amount in work.items()}}
    finally:
        kernel.close()


def failed_points(settings: Settings) -> frozenset[str]:
    """Names of the configurations that do not run here; none where this part was left out, or nothing ran."""
    rows = Rows(settings.file(FILE)).rows
    if all(row["failed"] is not None for row in rows):
        return frozenset()
    return frozenset(row["key"] for row in rows if row["failed"] is not None)
