"""The energy roofline: joules of one FLOP against arithmetic intensity, as in Choi et al., IPDPS 2013.

    J/FLOP = flop + path/intensity        path: Σ byte_<level> on the way from where the data lives

That is the energy of the operations. What time costs (idle and awake power) is taken off the points by the
model, and added in a dashed line for all cores at the best rates that the model knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from calibration_data import Work
from calibration_data.records import CalibrationRecord
from calibration_data.terms import CACHE_LEVELS, DTYPES, POWER_TERMS
from cost_models.cost_model import CostModel
from cost_models.errors import MissingCoefficientError
from cost_models.plot_style import FAMILY_COLORS, new_figure, seen, title, total_j

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOWEST, HIGHEST = 2.0**-4, 2.0**8
"""Intensities in FLOP/B that are drawn even where no point is."""

_LEVELS = (*CACHE_LEVELS, "dram")


class _Point(NamedTuple):
    dtype: str
    level: str
    intensity: float
    j_per_flop: float


def plot_energy_roofline(model: CostModel, records: Sequence[CalibrationRecord] = ()) -> Figure:
    """Joules per FLOP against FLOP per byte, one panel for each dtype, one line for each memory level."""
    points = [point for record in records for point in _points(model, record)]
    dtypes = [dtype for dtype in DTYPES if not model.missing(Work({f"flop_{dtype}": 1.0}))]
    figure = new_figure(width=7.5 * max(min(len(dtypes), 2), 1), height=5.0 * max((len(dtypes) + 1) // 2, 1))
    figure.suptitle(title("Energy roofline", model.device, model.provenance))
    if not dtypes:
        figure.text(0.5, 0.5, "no cost of any FLOP is known", ha="center")
        return figure
    panels = figure.subplots((len(dtypes) + 1) // 2, min(len(dtypes), 2), squeeze=False)
    for axes in panels.flat[len(dtypes) :]:
        axes.set_visible(False)
    for axes, dtype in zip(panels.flat, dtypes, strict=False):
        _draw_panel(axes, model, dtype, [point for point in points if point.dtype == dtype])
        what = f"points: {seen(records)} windows, less idle and awake power" if points else "model only"
        axes.set_title(f"{dtype}; {what}", fontsize=9)
    return figure


def _draw_panel(axes: Axes, model: CostModel, dtype: str, points: Sequence[_Point]) -> None:
    found = [point.intensity for point in points]
    intensities = np.geomspace(min([LOWEST, *found]), max([HIGHEST, *found]), 60)
    levels = [level for level in _levels_of(model) if not model.missing(_one_flop(model, dtype, level, 1.0))]
    for level in levels:
        color = FAMILY_COLORS[_LEVELS.index(level)]
        _draw_level(axes, model, dtype, level, intensities, color)
        mine = [point for point in points if point.level == level]
        axes.plot(
            [p.intensity for p in mine],
            [1e12 * p.j_per_flop for p in mine],
            "o",
            color=color,
            markersize=4,
            alpha=0.6,
        )
    if levels:
        _draw_whole(axes, model, dtype, levels[-1], intensities)
    floor_pj = 1e12 * model.predict_j(Work({f"flop_{dtype}": 1.0})).value
    axes.axhline(floor_pj, color="black", linewidth=0.8, linestyle=":")
    limits_only = model.coefficients[f"flop_{dtype}"].status == "bounded"
    axes.annotate(
        f"{floor_pj:.3g} pJ without bytes" + (", the middle of its limits" if limits_only else ""),
        (float(intensities[-1]), floor_pj),
        xytext=(0, -4),
        textcoords="offset points",
        ha="right",
        va="top",
        fontsize=8,
    )
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlim(intensities[0] / 4, intensities[-1])
    if floor_pj > 0:
        axes.set_ylim(bottom=floor_pj / 3)
    axes.set_xlabel("arithmetic intensity in FLOP/B, at the level where the data lives")
    axes.set_ylabel("energy of one FLOP with its bytes in pJ")
    axes.grid(visible=True, alpha=0.3)


def _draw_level(
    axes: Axes, model: CostModel, dtype: str, level: str, intensities: NDArray[np.float64], color: str
) -> None:
    estimates = [model.predict_j(_one_flop(model, dtype, level, i)) for i in intensities]
    values = np.array([1e12 * estimate.value for estimate in estimates])
    intervals = 1e12 * np.array([estimate.interval95 for estimate in estimates])
    axes.plot(intensities, values, color=color)
    # A logarithmic axis has no zero; the axis ends above this.
    lower = np.maximum(intervals[:, 0], values.min() / 1e3)
    axes.fill_between(intensities, lower, intervals[:, 1], color=color, alpha=0.15, linewidth=0)
    axes.annotate(
        {"dram": "DRAM", "llc": "last level"}.get(level, level.upper()),
        (float(intensities[0]), float(values[0])),
        xytext=(-4, 0),
        textcoords="offset points",
        ha="right",
        va="center",
        color=color,
        fontsize=9,
    )


def _draw_whole(
    axes: Axes, model: CostModel, dtype: str, level: str, intensities: NDArray[np.float64]
) -> None:
    """The same with idle and awake power, where the model has rates for everything."""
    try:
        whole = [model.predict_j(_timed(model, _one_flop(model, dtype, level, i))).value for i in intensities]
    except MissingCoefficientError:
        return
    axes.plot(intensities, 1e12 * np.array(whole), "--", color="black", linewidth=1)
    powers = "idle and awake power" if "awake_w" in _known_powers(model) else "idle power"
    axes.annotate(
        f"{level.upper()} with {powers},\nall cores at the best rates known",
        (float(intensities[len(whole) // 4]), 1e12 * whole[len(whole) // 4]),
        xytext=(8, 4),
        textcoords="offset points",
        ha="left",
        va="bottom",
        fontsize=8,
    )


def _levels_of(model: CostModel) -> tuple[str, ...]:
    """The device's memory levels from the core outwards; all where the model is of no device."""
    return _LEVELS if model.device is None else model.device.memory.levels


def _one_flop(model: CostModel, dtype: str, level: str, intensity: float) -> Work:
    """One FLOP and the bytes that it reads from a level, charged at every level that they pass."""
    levels = _levels_of(model)
    path = levels[: levels.index(level) + 1]
    names = ["byte_dram_read" if name == "dram" else f"byte_{name}" for name in path]
    return Work({f"flop_{dtype}": 1.0} | dict.fromkeys(names, 1 / intensity))


def _known_powers(model: CostModel) -> list[str]:
    return [
        name
        for name in POWER_TERMS
        if name in model.coefficients and model.coefficients[name].status != "refused"
    ]


def _timed(model: CostModel, work: Work) -> Work:
    cores = model.device.memory.cores if model.device is not None else 0
    duration_s = model.duration_s(work)
    known = _known_powers(model)
    busy = work.over(duration_s=duration_s, active_s=duration_s, busy_core_s=duration_s * cores)
    return Work({name: amount for name, amount in busy.items() if name in known or name in work.amounts})


def _points(model: CostModel, record: CalibrationRecord) -> list[_Point]:
    """Joules of the operations of each window per FLOP; none where another dtype or no level is in it."""
    dtypes = [dtype for dtype in DTYPES if record.work_per_loop.get(f"flop_{dtype}")]
    if len(dtypes) != 1 or record.level is None:
        return []
    points = []
    for window in record.replicates:
        work = record.window_work(window)
        times = Work({name: work[name] for name in POWER_TERMS if name in work.amounts})
        names = ("byte_dram_read", "byte_dram_write") if record.level == "dram" else (f"byte_{record.level}",)
        n_bytes = sum(work[name] for name in names)
        if n_bytes == 0 or model.missing(times):
            continue
        flop = work[f"flop_{dtypes[0]}"]
        operations_j = total_j(window) - model.predict_j(times).value
        if operations_j > 0:
            points.append(_Point(dtypes[0], record.level, flop / n_bytes, operations_j / flop))
    return points
