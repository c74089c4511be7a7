"""Whole training steps, measured beside what the model of this device predicts for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_campaign.measuring import step_energy
from benchmarks.gpu_campaign.settings import Rows, Settings
from benchmarks.gpu_campaign.stored_model import stored_model
from cost_models import CostModel
from profiler.device import Device
from profiler.devices import open_device

if TYPE_CHECKING:
    from cwmp.prediction.training_step import TrainingStep

BUDGET_S = 25.0


def run(settings: Settings) -> None:
    """Each step once; rows of earlier commands are kept."""
    import torch

    from benchmarks.gpu_campaign.networks import transformer
    from cwmp.networks import build_network
    from cwmp.prediction.training_step import TrainingStep

    # The steps are counted in single precision, so they run in it.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    model, model_name = stored_model(settings)
    where = "cpu" if settings.dry_run else settings.device_name
    samples = 2 if settings.dry_run else 128
    steps: dict[str, Callable[[], TrainingStep]] = {
        "resnet18-momentum": lambda: TrainingStep(
            build_network("resnet18-bn"),
            input_shape=(3, 32, 32),
            batch_size=samples,
            optimizer="momentum",
            device=where,
        ),
        "transformer-adamw": lambda: TrainingStep(
            transformer(8000),
            input_shape=(128,),
            batch_size=max(1, samples // 4),
            optimizer="adamw",
            vocabulary=8000,
            device=where,
        ),
        "transformer-forward": lambda: TrainingStep(
            transformer(8000),
            input_shape=(128,),
            batch_size=max(1, samples // 4),
            optimizer=None,
            vocabulary=8000,
            device=where,
        ),
    }
    rows = Rows(settings.file("heldout.jsonl"))
    device = open_device(settings.device_name)
    try:
        for name, make in steps.items():
            key = f"{name} by {model_name}"
            if key in rows:
                continue
            settings.keep_time()
            print(key, flush=True)
            rows.attempt(key, partial(_measured, device, model, make))
    finally:
        device.close()
    rows.see_failures()


def _measured(device: Device, model: CostModel, make: Callable[[], TrainingStep]) -> dict[str, Any]:
    """One step, beside its prediction."""
    from cwmp.prediction import predict

    step = make()
    counted = step.counted(device.memory)
    prediction = predict(counted, model)
    works = [item.work * item.calls for item in counted.calls]
    seen = step_energy(device, step, works, budget_s=BUDGET_S)
    cores = device.memory.cores
    # The host may be slower than the roofline: the same work, with the seconds that it took.
    at_its_time = counted.work.without_times().over(
        duration_s=seen.duration_s,
        active_s=seen.duration_s,
        busy_core_s=seen.duration_s * cores,
    )
    at_its_time_j = model.predict_j(at_its_time)
    return {
        "step": step.description,
        "measured": seen.document(),
        "predicted_gross_j": prediction.gross_j.value,
        "predicted_gross_interval95_j": list(prediction.gross_j.interval95),
        "predicted_duration_s": prediction.duration_s,
        "predicted_at_measured_time_j": at_its_time_j.value,
        "error_rel": prediction.gross_j.value / seen.gross_j - 1,
        "error_at_measured_time_rel": at_its_time_j.value / seen.gross_j - 1,
        "not_covered": [f"{item.name}: {item.reason}" for item in prediction.not_covered],
        "without_formula": dict(prediction.without_formula),
    }
