"""Every figure of a fit, written into a folder. matplotlib is imported only when one is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from calibration_data import UsageError
from calibration_data.records import CalibrationRecord
from cost_models.cost_model import CostModel
from cost_models.design_matrix import build_design_matrix, sorted_records
from cost_models.held_out import leave_one_family_out


def save_figures(folder: Path, model: CostModel, records: Sequence[CalibrationRecord]) -> list[Path]:
    """Draw a fit and its campaign: roofline, coefficients, residuals, left-out families, time line.

    Args:
        folder: made if it is not there.
        model: fitted to the records.
        records: in the order in which they were taken.

    Returns:
        The files, PNG.

    Raises:
        UsageError: a file cannot be written there.
    """
    from cost_models.campaign_plots import plot_left_out, plot_timeline
    from cost_models.plots import plot_coefficients, plot_measured_vs_predicted, plot_residuals_by_family
    from cost_models.roofline_plot import plot_energy_roofline

    in_order = sorted_records(records)
    left_out = leave_one_family_out(in_order, build_design_matrix(in_order))
    drawn = {
        "roofline": plot_energy_roofline(model, records),
        "coefficients": plot_coefficients(model),
        "predicted": plot_measured_vs_predicted(model, records),
        "residuals": plot_residuals_by_family(model, records),
        "left-out": plot_left_out(model, records, left_out),
        "timeline": plot_timeline(records),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, figure in drawn.items():
            figure.savefig(folder / f"{name}.png", dpi=120)
    except OSError as error:
        raise UsageError(f"{folder}: the figures cannot be written ({error.strerror}).") from error
    return [folder / f"{name}.png" for name in drawn]
