"""Figures of a cost model. matplotlib is imported only when one is drawn, and no display is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from calibration_data import TERMS
from calibration_data.records import CalibrationRecord
from cost_models.cost_model import CostModel
from cost_models.document import Coefficient
from cost_models.engineering import prefix_for
from cost_models.plausibility import published_range
from cost_models.plot_style import (
    FAMILY_COLORS,
    GREY,
    LIMIT,
    POINT,
    literal,
    new_figure,
    seen,
    title,
    total_j,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """Windows of one family that the model can predict; energies in joules."""

    family: str
    measured_j: list[float]
    predicted_j: list[float]

    @property
    def errors_percent(self) -> list[float]:
        return [100 * (p / m - 1) for p, m in zip(self.predicted_j, self.measured_j, strict=True)]


def plot_coefficients(model: CostModel) -> Figure:
    """Every coefficient with its 95 % interval beside the published range, one panel for each unit."""
    figure = new_figure(width=8.0, height=1.8 + 0.33 * len(model.coefficients))
    _draw_coefficients(figure, model)
    return figure


def plot_measured_vs_predicted(model: CostModel, records: Sequence[CalibrationRecord]) -> Figure:
    """Predicted over measured energy of every replicate window, by family, with the line of equality."""
    figure = new_figure(width=7.0, height=5.5)
    _draw_measured_vs_predicted(figure, model, records)
    return figure


def plot_residuals_by_family(model: CostModel, records: Sequence[CalibrationRecord]) -> Figure:
    """Relative error of every replicate window by family of microbenchmarks."""
    compared, missed = _compare(model, records)
    figure = new_figure(width=7.0, height=1.8 + 0.35 * max(len(compared), 1))
    axes = figure.subplots()
    for row, family in enumerate(compared):
        errors = family.errors_percent
        spread = np.linspace(-0.2, 0.2, len(errors)) if len(errors) > 1 else np.zeros(1)
        axes.plot(errors, row + spread, ".", color=POINT, alpha=0.6)
        axes.plot(np.mean(errors), row, "|", color=LIMIT, markersize=16, markeredgewidth=2)
    axes.set_yticks(range(len(compared)), [literal(family.family) for family in compared])
    axes.invert_yaxis()
    axes.axvline(0, color="black", linewidth=0.8)
    known = seen(records)
    axes.set_xlabel(f"(predicted − {known}) / {known} in %; bar: mean of the family" + missed)
    figure.suptitle(_title(model, "Residuals by family"))
    return figure


def plot_fit(model: CostModel, records: Sequence[CalibrationRecord]) -> Figure:
    """Coefficients beside published ranges, and predicted over measured energy, in one figure."""
    figure = new_figure(width=14.0, height=max(6.0, 1.8 + 0.33 * len(model.coefficients)))
    left, right = figure.subfigures(1, 2, squeeze=False)[0]
    _draw_coefficients(left, model)
    _draw_measured_vs_predicted(right, model, records)
    return figure


def _title(model: CostModel, what: str) -> str:
    return title(what, model.device, model.provenance)


def _draw_coefficients(container: Figure | SubFigure, model: CostModel) -> None:
    units = list(dict.fromkeys(item.unit for item in model.coefficients.values()))
    by_unit = [[item for item in model.coefficients.values() if item.unit == unit] for unit in units]
    heights = [len(items) + 1 for items in by_unit]
    panels = container.subplots(len(units), 1, squeeze=False, gridspec_kw={"height_ratios": heights})
    for axes, items in zip(panels[:, 0], by_unit, strict=True):
        _draw_panel(axes, model, items)
    container.suptitle(_title(model, "Coefficients, 95 % intervals; grey: published"))


def _draw_panel(axes: Axes, model: CostModel, items: Sequence[Coefficient]) -> None:
    unit = items[0].unit
    ranges = [published_range(model.device, item.name) for item in items]
    largest = [item.ci95[1] for item in items if item.ci95] or [known.high for known in ranges if known]
    factor, prefix = prefix_for(max(largest, default=1.0))
    for row, item in enumerate(items):
        published = published_range(model.device, item.name)
        if published is not None:
            low, width = published.low / factor, (published.high - published.low) / factor
            axes.barh(row, width, left=low, height=0.7, color=GREY)
        if item.ci95 is None:
            refused = f" refused: {_short(item.reason)}"
            axes.text(
                0,
                row,
                refused,
                fontsize=7,
                va="center",
                transform=axes.get_yaxis_transform(),
                bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1},
            )
            continue
        identified = item.value is not None
        limits = [limit / factor for limit in item.ci95]
        axes.plot(limits, [row, row], color=POINT if identified else LIMIT, marker="|", linewidth=2)
        if item.value is not None:
            axes.plot(item.value / factor, row, "o", color=POINT, markersize=4)
        else:
            axes.text(limits[1], row, "  limits only", fontsize=7, va="center", color=LIMIT)
    labels = [
        item.name if item.provenance == model.provenance else f"{item.name} ({item.provenance})"
        for item in items
    ]
    axes.set_yticks(range(len(items)), labels, fontsize=8)
    axes.set_ylim(len(items) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * axes.get_xlim()[1])
    axes.set_xlabel(f"{prefix}{unit}", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)


def _short(reason: str) -> str:
    return literal(reason if len(reason) <= 70 else reason[:69] + "…")


def _draw_measured_vs_predicted(
    container: Figure | SubFigure, model: CostModel, records: Sequence[CalibrationRecord]
) -> None:
    compared, missed = _compare(model, records)
    axes = container.subplots()
    every = [energy for family in compared for energy in (*family.measured_j, *family.predicted_j)]
    for index, family in enumerate(compared):
        color = FAMILY_COLORS[index % len(FAMILY_COLORS)]
        marker = "osv^D"[index // len(FAMILY_COLORS) % 5]
        axes.plot(
            family.measured_j,
            family.predicted_j,
            marker,
            color=color,
            markersize=4,
            alpha=0.7,
            label=literal(family.family),
        )
    if every:
        ends = [0.9 * min(every), 1.1 * max(every)]
        axes.plot(ends, ends, color="black", linewidth=0.8, label="equal")
        if max(every) > 10 * min(every):
            axes.set_xscale("log")
            axes.set_yscale("log")
        axes.legend(fontsize=8)
    axes.set_xlabel(f"{seen(records)} energy of a window in J" + missed)
    axes.set_ylabel("predicted energy in J")
    container.suptitle(_title(model, f"{seen(records).capitalize()} and predicted"))


def _compare(model: CostModel, records: Sequence[CalibrationRecord]) -> tuple[list[_Compared], str]:
    """Predictions by family, and a remark on the windows whose work the model has no cost for."""
    compared: dict[str, _Compared] = {}
    missed, unknown = 0, set()
    for record in records:
        for window in record.replicates:
            work = record.window_work(window)
            if missing := model.missing(work):
                missed += 1
                unknown |= set(missing)
                continue
            family = compared.setdefault(
                record.family, _Compared(family=record.family, measured_j=[], predicted_j=[])
            )
            family.measured_j.append(total_j(window))
            family.predicted_j.append(model.predict_j(work).value)
    names = ", ".join(name for name in TERMS if name in unknown)
    remark = f"\n{missed} windows not predicted: no cost for {names}" if missed else ""
    return [compared[name] for name in sorted(compared)], remark
