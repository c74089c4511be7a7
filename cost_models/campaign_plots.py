"""Figures of a campaign: how well left-out families are predicted, and what happened in which order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration_data.records import CalibrationRecord, Window
from cost_models.cost_model import CostModel
from cost_models.held_out import LeftOut
from cost_models.plot_style import GREY, LIMIT, POINT, literal, new_figure, seen, title, total_j

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_KINDS = ("idle", "warm-up", "replicate", "dropped")
_COLORS = {"idle": "#666666", "warm-up": "#56B4E9", "replicate": POINT, "dropped": LIMIT}


def plot_left_out(
    model: CostModel, records: Sequence[CalibrationRecord], left_out: Mapping[str, LeftOut]
) -> Figure:
    """Error of every window as predicted by a fit that never saw its family.

    Args:
        model: the fit to all families, for the title.
        records: what it was fitted to.
        left_out: by family, as of ``leave_one_family_out``.
    """
    figure = new_figure(width=9.0, height=2.0 + 0.38 * max(len(left_out), 1))
    axes = figure.subplots()
    for row, result in enumerate(left_out.values()):
        errors = 100 * result.relative_errors
        spread = np.linspace(-0.22, 0.22, len(errors)) if len(errors) > 1 else np.zeros(len(errors))
        for inside, color, filling in ((True, POINT, POINT), (False, LIMIT, "none")):
            chosen = result.inside == inside
            axes.plot(
                errors[chosen],
                row + spread[chosen],
                "o",
                markersize=4,
                alpha=0.7,
                color=color,
                markerfacecolor=filling,
            )
        axes.text(1.01, row, _score(result), transform=axes.get_yaxis_transform(), fontsize=8, va="center")
    axes.set_yticks(range(len(left_out)), [literal(family) for family in left_out])
    axes.set_ylim(max(len(left_out), 1) - 0.5, -0.5)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(visible=True, axis="x", alpha=0.3)
    known = seen(records)
    axes.set_xlabel(
        f"(predicted − {known}) / {known} in %, by a fit without the family\n"
        "filled: inside its 95 % prediction interval; open: outside"
    )
    figure.suptitle(title("Predictions of left-out families", model.device, model.provenance))
    return figure


def plot_timeline(records: Sequence[CalibrationRecord]) -> Figure:
    """Mean power of every window in the order of the campaign, and temperatures where they were read.

    Args:
        records: in the order in which they were taken.

    Raises:
        ValueError: there is no record.
    """
    if not records:
        raise ValueError("a time line needs at least one record")
    temperatures = _temperatures(records)
    figure = new_figure(width=11.0, height=6.0 if temperatures else 4.2)
    panels = figure.subplots(
        2 if temperatures else 1,
        1,
        squeeze=False,
        sharex=True,
        gridspec_kw={"height_ratios": [2, 1] if temperatures else [1]},
    )
    rows: list[Axes] = list(panels[:, 0])
    power = rows[0]
    unit, seconds = _unit(records)
    offsets = _offsets(records)
    for kind in _KINDS:
        _draw_windows(power, records, offsets, kind, seconds)
    _mark_restarts(rows, offsets, seconds)
    power.set_ylim(bottom=0)
    power.set_ylabel(f"{seen(records)} power in W")
    power.legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), frameon=False)
    for name, series in temperatures.items():
        at = [(offsets[i] + records[i].replicates[0].started_s) / seconds for i, _ in series]
        rows[-1].plot(at, [value for _, value in series], ".-", linewidth=1, label=literal(name))
        rows[-1].set_ylabel("temperature in °C")
        rows[-1].legend(fontsize=8)
    remark = "" if temperatures else "; no temperature was read"
    rows[-1].set_xlabel(f"time since the start of the campaign in {unit}{remark}")
    for axes in rows:
        axes.grid(visible=True, alpha=0.3)
    figure.suptitle(title("Time line of the campaign", records[0].device, seen(records)))
    return figure


def _score(result: LeftOut) -> str:
    if result.mape is None or result.coverage95 is None:
        return f"not predicted: {literal(result.reason[:60])}"
    missing = " (some not predicted)" if result.reason else ""
    return f"MAPE {result.mape:.1%}, {result.coverage95:.0%} inside{missing}"


def _windows(record: CalibrationRecord, kind: str) -> tuple[Window, ...]:
    return {
        "idle": (record.idle_before, record.idle_after),
        "warm-up": record.warm_ups,
        "replicate": record.replicates,
        "dropped": record.dropped,
    }[kind]


def _draw_windows(
    axes: Axes, records: Sequence[CalibrationRecord], offsets: Sequence[float], kind: str, seconds: float
) -> None:
    """Every window of a kind as a line from its start to its end."""
    starts, ends, power_w = [], [], []
    for record, offset in zip(records, offsets, strict=True):
        for window in _windows(record, kind):
            starts.append((offset + window.started_s) / seconds)
            ends.append((offset + window.started_s + window.duration_s) / seconds)
            power_w.append(total_j(window) / window.duration_s)
    if starts:
        width = 4 if kind == "dropped" else 2.5
        axes.hlines(power_w, starts, ends, color=_COLORS[kind], linewidth=width, label=kind)


def _offsets(records: Sequence[CalibrationRecord]) -> list[float]:
    """Seconds to add to the windows of each record: a resumed campaign starts its clock again."""
    offsets, offset, end = [], 0.0, 0.0
    for record in records:
        if record.idle_before.started_s < end:
            offset += end
        offsets.append(offset)
        end = record.idle_after.started_s + record.idle_after.duration_s
    return offsets


def _mark_restarts(rows: Sequence[Axes], offsets: Sequence[float], seconds: float) -> None:
    for offset in sorted(set(offsets) - {0.0}):
        for axes in rows:
            axes.axvline(offset / seconds, color=GREY, linestyle="--")
        rows[0].annotate(
            " resumed", (offset / seconds, 1.0), xycoords=("data", "axes fraction"), va="top", fontsize=8
        )


def _unit(records: Sequence[CalibrationRecord]) -> tuple[str, float]:
    last = records[-1].idle_after
    return ("s", 1.0) if last.started_s + last.duration_s < 300 else ("min", 60.0)


def _temperatures(records: Sequence[CalibrationRecord]) -> dict[str, list[tuple[int, float]]]:
    """Index of the record and degrees, by the name of the condition."""
    series: dict[str, list[tuple[int, float]]] = {}
    for index, record in enumerate(records):
        for name, text in record.conditions.items():
            if "temperature" in name:
                try:
                    series.setdefault(name, []).append((index, float(text)))
                except ValueError:
                    continue
    return {name: found for name, found in series.items() if found}
