from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fakes.synthetic_records import POINTS, campaign
from matplotlib.figure import Figure

from calibration_data.records import CalibrationRecord
from cost_models import CostModel, fit_cost_model
from cost_models.plots import (
    plot_coefficients,
    plot_fit,
    plot_measured_vs_predicted,
    plot_residuals_by_family,
)

RECORDS = campaign(kind="simulated")
MODEL = fit_cost_model(RECORDS, records_sha256=[])


def words(figure: Figure) -> str:
    """Every text that a figure draws."""
    figure.draw_without_rendering()
    return "\n".join(text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text")))


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_coefficients(MODEL),
        lambda: plot_measured_vs_predicted(MODEL, RECORDS),
        lambda: plot_residuals_by_family(MODEL, RECORDS),
        lambda: plot_fit(MODEL, RECORDS),
    ],
)
def test_every_title_says_where_the_joules_come_from(draw: Callable[[], Figure], tmp_path: Path) -> None:
    figure = draw()
    assert "synthetic · SIMULATED" in words(figure)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_coefficients_are_drawn_by_name_and_refused_ones_without_a_number() -> None:
    without_launch = [record for record in RECORDS if record.family != "launch"]
    model = fit_cost_model(without_launch, records_sha256=[])
    text = words(plot_coefficients(model))
    assert all(name in text for name in model.coefficients)
    assert "refused: no record exercises it" in text


def test_points_lie_where_the_model_predicts_them() -> None:
    axes = plot_measured_vs_predicted(MODEL, RECORDS).axes[0]
    drawn = {(x, y) for line in axes.lines for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
    record = RECORDS[5]
    for window in record.replicates:
        predicted_j = MODEL.predict_j(record.window_work(window)).value
        assert (sum(window.energy_j.values()), predicted_j) in drawn


def test_windows_that_cannot_be_predicted_are_counted() -> None:
    blind = fit_cost_model([r for r in RECORDS if r.family != "launch"], records_sha256=[])
    for draw in (plot_measured_vs_predicted, plot_residuals_by_family):
        assert "9 windows not predicted: no cost for launch" in words(draw(blind, RECORDS))


def test_nothing_to_compare_is_drawn_empty() -> None:
    one = RECORDS[7:8]
    model = fit_cost_model(one, records_sha256=[])
    for draw in (plot_measured_vs_predicted, plot_residuals_by_family):
        assert "3 windows not predicted" in words(draw(model, one))


def renamed(records: list[CalibrationRecord], **names: Any) -> tuple[CostModel, list[CalibrationRecord]]:
    device = records[0].device.model_copy(update={"model_name": names["model"]})
    changed = [r.model_copy(update={"device": device, "family": names["family"]}) for r in records]
    return fit_cost_model(changed, records_sha256=[]), changed


def test_names_are_drawn_literally(tmp_path: Path) -> None:
    model, records = renamed(campaign(points=POINTS[:6]), model="$\\frac{1\x1b", family="a $ b")
    for number, figure in enumerate((plot_coefficients(model), plot_residuals_by_family(model, records))):
        figure.savefig(tmp_path / f"{number}.png")
    assert "a \\$ b" in words(plot_residuals_by_family(model, records))
