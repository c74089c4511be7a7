"""The model that an earlier part fitted: of the full plan, else of the quick one."""

from __future__ import annotations

from benchmarks.gpu_campaign.settings import Settings
from calibration_data import UsageError
from cost_models import CostModel
from cost_models.store import load_cost_model


def stored_model(settings: Settings) -> tuple[CostModel, str]:
    """The model and the name of its plan.

    Raises:
        UsageError: no plan has been finished in this folder.
    """
    for name in ("full", "quick"):
        path = settings.file(f"model-{name}.json")
        if path.exists():
            return load_cost_model(path), name
    raise UsageError(
        f"{settings.out} holds no model.", next_step="Finish the part quick or full in the same folder first."
    )
