"""Records in, cost model out, and predictions from it."""

from cost_models.cost_model import CostModel
from cost_models.document import Coefficient, CostModelDocument
from cost_models.errors import MissingCoefficientError, RecordsDisagreeError
from cost_models.fitting import fit_cost_model
from cost_models.store import load_cost_model, save_cost_model
from cost_models.uncertainty import Estimate

__all__ = [
    "Coefficient",
    "CostModel",
    "CostModelDocument",
    "Estimate",
    "MissingCoefficientError",
    "RecordsDisagreeError",
    "fit_cost_model",
    "load_cost_model",
    "save_cost_model",
]
