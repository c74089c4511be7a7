"""The update of kept coordinates by a kernel with exact counts: random lines of both levels.

What ``update`` measures of torch holds launches and temporaries too. Here is the phase as the cost vector
counts it, w[i] −= η·g at places drawn once, beside what the model predicts for the same lines.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from benchmarks.gpu_campaign.measuring import step_energy
from benchmarks.gpu_campaign.settings import Rows, Settings
from benchmarks.gpu_campaign.stored_model import stored_model
from calibration_data import MemoryHierarchy
from cost_models import CostModel
from profiler.device import Device
from profiler.devices import open_device
from profiler.microbenchmark import Microbenchmark
from profiler.placement import sparse
from profiler.sparse_work import DENSITIES, FLOAT_BYTES, KEPT, chunk_size, period_bytes

BUDGET_S = 5.0
STEP_S = 0.02
"""Of a step: far above the pace of the host."""


def run(settings: Settings) -> None:
    """Each place and density once; rows of earlier commands are kept."""
    model, model_name = stored_model(settings)
    rows = Rows(settings.file("sparse.jsonl"))
    device = open_device(settings.device_name)
    try:
        for density in DENSITIES:
            for benchmark in _points(device.memory, density):
                key = f"{benchmark.point} by {model_name}"
                if key in rows:
                    continue
                settings.keep_time()
                print(key, flush=True)
                rows.attempt(key, partial(_measured, device, model, benchmark))
    finally:
        device.close()
    rows.see_failures()


def _points(memory: MemoryHierarchy, density: float) -> tuple[Microbenchmark, Microbenchmark]:
    """In memory as in a full plan, and in half of the second level."""
    in_memory = sparse("sparse-update", memory, memory.cores, density)
    step = memory.cores * period_bytes(density, memory)
    in_second = replace(
        in_memory,
        point=in_memory.point.replace("dram", "l2"),
        level="l2",
        working_set_bytes=max(memory.l2_bytes // 2 // step, 1) * step,
    )
    return in_second, in_memory


def _measured(device: Device, model: CostModel, benchmark: Microbenchmark) -> dict[str, Any]:
    kernel = device.prepare(benchmark)
    try:
        loops = 1
        while kernel.run(loops).active_s < STEP_S:
            loops *= 2
        work = kernel.work_per_loop * loops
        seen = step_energy(device, lambda: kernel.run(loops), [work], budget_s=BUDGET_S)
    finally:
        kernel.close()
    kept = loops * KEPT * (benchmark.working_set_bytes or 0) // (FLOAT_BYTES * chunk_size(benchmark.density))
    busy_s = seen.duration_s * benchmark.threads
    timed = work.over(duration_s=seen.duration_s, active_s=seen.duration_s, busy_core_s=busy_s)
    predicted_j = model.predict_j(timed)
    return {
        "working_set_bytes": benchmark.working_set_bytes,
        "work": dict(work),
        "kept": kept,
        "measured": seen.document(),
        "measured_per_kept_j": seen.net_j / kept,
        "predicted_gross_j": predicted_j.value,
        "predicted_u_j": predicted_j.standard_uncertainty,
        "predicted_without_time_j": model.predict_j(work).value,
        "error_rel": predicted_j.value / seen.gross_j - 1,
    }
