"""The phase after backprop for real: select, pack and apply, at many densities, against the cost vector.

    select   |g| > threshold, a mask                           one pass over the gradient
    pack     indices of the mask, values at them
    apply    w[index] += −η·value

Each phase is measured by itself, in the second level and in memory. Torch's operators do more than the
counted work (they write the mask and read it again); what that costs is part of the result.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.gpu_campaign.measuring import step_energy
from benchmarks.gpu_campaign.settings import Rows, Settings
from benchmarks.gpu_campaign.stored_model import stored_model
from calibration_data import Work
from cost_models import CostModel
from profiler.device import Device
from profiler.devices import open_device

DENSITIES = (0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
BUDGET_S = 5.0
LEARNING_RATE = 1e-6


def run(settings: Settings) -> None:
    """Each phase at each density and place; rows of earlier commands are kept."""
    import torch

    model, model_name = stored_model(settings)
    where = "cpu" if settings.dry_run else settings.device_name
    rows = Rows(settings.file("update.jsonl"))
    device = open_device(settings.device_name)
    l2_bytes = device.memory.l2_bytes
    # Gradient and weight share the level.
    sizes = {"l2": l2_bytes // 32, "dram": l2_bytes if settings.dry_run else 4 * l2_bytes}
    generator = torch.Generator(where).manual_seed(0)
    try:
        for place, numel in sizes.items():
            left = [density for density in DENSITIES if _key(place, density, model_name) not in rows]
            if not left:
                continue
            gradient = torch.randn(numel, device=where, generator=generator)
            weight = torch.randn(numel, device=where, generator=generator)
            for density in left:
                settings.keep_time()
                key = _key(place, density, model_name)
                print(key, flush=True)
                rows.attempt(key, partial(_measured, device, model, gradient, weight, density))
            del gradient, weight
    finally:
        device.close()
    rows.see_failures()


def _key(place: str, density: float, model_name: str) -> str:
    return f"{place}-{density:g} by {model_name}"


def _measured(device: Device, model: CostModel, gradient: Any, weight: Any, density: float) -> dict[str, Any]:
    """The three phases at one density, each beside its predicted joules, net of idle power."""
    import torch

    from cwmp.cost_vector import cost_vector

    # Of a part: torch's quantile takes no more than 2²⁴ numbers.
    threshold = float(torch.quantile(gradient[: 1 << 22].abs(), 1 - density))
    mask = gradient.abs() > threshold if density < 1 else torch.ones_like(gradient, dtype=torch.bool)
    index = mask.nonzero().squeeze(1)
    values, short_index = gradient[index], index.to(torch.int32)
    costs = cost_vector({"weight": weight}, model, boundary="update", density=density)
    exact = costs.evaluate({"weight": mask.cpu()})
    phases: dict[str, tuple[Callable[[], object], Work]] = {
        "select": (lambda: gradient.abs() > threshold, costs.fixed_work),
        "pack": (lambda: gradient[mask.nonzero().squeeze(1)], exact.phase_work("pack")),
        "apply": (
            lambda: weight.index_add_(0, short_index, values, alpha=-LEARNING_RATE),
            exact.phase_work("apply"),
        ),
    }
    row = {"numel": gradient.numel(), "kept": exact.kept, "level": costs.tensors["weight"].level}
    for name, (phase, work) in phases.items():
        seen = step_energy(device, phase, [work], budget_s=BUDGET_S)
        predicted_j = model.predict_j(work)
        row[name] = {
            "measured": seen.document(),
            "measured_per_kept_j": seen.net_j / exact.kept,
            "predicted_net_j": predicted_j.value,
            "predicted_u_j": predicted_j.standard_uncertainty,
            "error_rel": predicted_j.value / seen.net_j - 1 if seen.net_j > 0 else None,
        }
    return row
