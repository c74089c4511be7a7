"""Figures of training: accuracy against joules, retained energy, joules by phase.

Every function returns a matplotlib ``Figure`` and touches no global state. Colours are those of Okabe and
Ito, and each rule also has its own marker, so that no figure depends on colour alone.
"""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cost_models.engineering import prefix_for

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

WIDTH_IN = 9.6
"""Width of a figure at 100 %: 922 CSS pixels, the text column of the report."""

_COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "cwmp": "#0072B2",
        "topk": "#D55E00",
        "cwmp-l1": "#009E73",
        "cwmp-block": "#56B4E9",
        "randomk": "#CC79A7",
        "threshold": "#E69F00",
        "dense": "#000000",
    }
)
_MARKERS: Mapping[str, str] = MappingProxyType(
    {
        "cwmp": "o",
        "topk": "s",
        "cwmp-l1": "^",
        "cwmp-block": "P",
        "randomk": "D",
        "threshold": "*",
        "dense": "X",
    }
)
_NEUTRAL = "#57606a"
_STYLES = ("-", "--", ":", "-.")

FIGURE_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "calijoule",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#57606a",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e7eb",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
    "lines.linewidth": 2,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
}
"""Settings of matplotlib for every figure of a report."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What rounds of one rule at one budget gave, each seed in a row.

    Attributes:
        rule: name of the rule.
        budget: of one client and round in words; empty where the rule knows none.
        boundary_j: cumulative predicted joules inside the budget's boundary, shape (n_seeds, n_rounds).
        accuracy: test accuracy in [0, 1], the same shape; NaN where a round was not tested.
        retained: kept share of the squared norm in each round, the same shape.
    """

    rule: str
    budget: str
    boundary_j: Array
    accuracy: Array
    retained: Array

    @property
    def label(self) -> str:
        """Rule and budget."""
        return f"{self.rule}, {self.budget}" if self.budget else self.rule

    def tested(self) -> tuple[Array, Array]:
        """Joules and accuracy of the rounds that were tested with every seed."""
        tested = np.isfinite(self.accuracy).all(axis=0)
        return self.boundary_j[:, tested], self.accuracy[:, tested]


@dataclass(frozen=True, kw_only=True)
class PhaseJoules:
    """Joules of one phase, predicted and seen by sensors.

    Attributes:
        rule: of the run.
        phase: name of the phase.
        predicted_j: by the cost model; None if it cannot know.
        predicted_u_j: standard uncertainty of it.
        seen_j: by sensors, real or simulated; None if none saw it.
        seen_u_j: standard uncertainty of it.
    """

    rule: str
    phase: str
    predicted_j: float | None
    predicted_u_j: float
    seen_j: float | None
    seen_u_j: float


def svg_data_uri(make: Callable[[], Figure]) -> str:
    """A figure as a ``data:`` address of an SVG image, the same bytes for the same figure.

    An image of its own keeps its identifiers apart from those of other figures on the page, and nothing in it
    can run.
    """
    import matplotlib

    with matplotlib.rc_context(FIGURE_STYLE), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box, which says as much.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        buffer = io.BytesIO()
        make().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def plain_label(name: str) -> str:
    """A name from a file as a label: never mathematics, never a control character, and not too long."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return (printable if len(printable) <= 60 else printable[:59] + "…").replace("$", r"\$")


def plot_accuracy_against_joules(curves: Sequence[Curve], provenance: str) -> Figure:
    """Test accuracy against the joules that the budget governs, every rule in its colour.

    Args:
        curves: of every rule and budget; a line for the mean over seeds, a band from worst to best.
        provenance: of the joules.
    """
    figure, (axes,) = _figure(1, height_in=4.4)
    factor, prefix = prefix_for(max(float(curve.boundary_j.max()) for curve in curves))
    for curve, style in zip(curves, _line_styles(curves), strict=True):
        colour = rule_colour(curve.rule)
        joules_by_seed, by_seed = curve.tested()
        joules, accuracy = joules_by_seed.mean(axis=0) / factor, 100 * by_seed.mean(axis=0)
        _draw(axes, curve, style, joules, accuracy)
        if len(by_seed) > 1:
            low, high = (100 * limit for limit in (by_seed.min(axis=0), by_seed.max(axis=0)))
            axes.fill_between(joules, low, high, color=colour, alpha=0.1, linewidth=0)
    if _spans_decades(curves):
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
    axes.set_xlabel(f"cumulative joules of all clients inside the boundary / {prefix}J ({provenance})")
    axes.set_ylabel("test accuracy / %")
    _legend_outside(figure, axes)
    return figure


def plot_retained_energy(curves: Sequence[Curve], provenance: str) -> Figure:
    """Kept share of the squared norm of the updates by round.

    Args:
        curves: of every rule and budget; the mean over seeds is drawn.
        provenance: of the prices that decided.
    """
    from matplotlib.ticker import MaxNLocator

    figure, (axes,) = _figure(1, height_in=3.8)
    for curve, style in zip(curves, _line_styles(curves), strict=True):
        rounds = np.arange(1.0, curve.retained.shape[1] + 1)
        retained = 100 * curve.retained.mean(axis=0)
        _draw(axes, curve, style, rounds, retained)
    axes.set_ylim(0, 104)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("round")
    axes.set_ylabel(f"retained squared norm / % (prices {provenance})")
    _legend_outside(figure, axes)
    return figure


def plot_phase_energy(phases: Sequence[PhaseJoules], seen_as: str) -> Figure:
    """Joules by phase, predicted beside seen, and how far apart the two are.

    Args:
        phases: of every rule, in the order of the rows.
        seen_as: ``measured`` or ``simulated``: what the sensors were; empty if there were none.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    rules = list(dict.fromkeys(item.rule for item in phases))
    names = list(dict.fromkeys(item.phase for item in phases))
    figure, (joules, ratio) = _figure(2, height_in=1.6 + 0.19 * len(names) * (len(rules) + 1))
    for item in phases:
        place = names.index(item.phase) + (rules.index(item.rule) - (len(rules) - 1) / 2) * 0.8 / len(rules)
        colour, marker = rule_colour(item.rule), rule_marker(item.rule)
        if item.predicted_j:
            joules.plot(item.predicted_j, place, marker, color=colour, fillstyle="none", markersize=10)
        if item.seen_j and item.seen_j > 0:
            joules.plot(item.seen_j, place, marker, color=colour, markersize=5)
        if item.seen_j is not None and item.predicted_j:
            u = 2 * np.hypot(item.seen_u_j, item.seen_j / item.predicted_j * item.predicted_u_j)
            shown = 100 * (item.seen_j / item.predicted_j - 1)
            ratio.errorbar(
                shown, place, xerr=100 * u / item.predicted_j, fmt=marker, color=colour, markersize=5
            )
    joules.set_xscale("log")
    joules.xaxis.set_major_locator(LogLocator(numticks=8))
    joules.xaxis.set_major_formatter(EngFormatter(unit="J"))
    joules.xaxis.set_minor_formatter(NullFormatter())
    joules.set_xlabel("joules of all clients and rounds")
    ratio.axvline(0, color="black", linewidth=0.8)
    ratio.set_xlabel(f"{seen_as or 'seen'} over predicted − 1 / %, with U (k = 2)")
    for axes, labels in ((joules, names), (ratio, [])):
        axes.set_yticks(range(len(names)), labels or [""] * len(names))
        axes.set_ylim(len(names) - 0.5, -0.5)
    for rule in rules:
        joules.plot([], [], rule_marker(rule), color=rule_colour(rule), label=rule)
    joules.plot([], [], "o", color=_NEUTRAL, fillstyle="none", markersize=10, label="predicted")
    if seen_as:
        joules.plot([], [], "o", color=_NEUTRAL, markersize=5, label=seen_as)
    _legend_outside(figure, joules)
    return figure


def _figure(panels: int, *, height_in: float) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
    return figure, list(figure.subplots(1, panels, squeeze=False).flat)


def _draw(axes: Axes, curve: Curve, style: str, x: Array, y: Array) -> None:
    """A line with the rule's marker at its end."""
    axes.plot(
        x,
        y,
        style,
        color=rule_colour(curve.rule),
        marker=rule_marker(curve.rule),
        markersize=7,
        markevery=slice(-1, None),
        label=curve.label,
    )


def _line_styles(curves: Sequence[Curve]) -> list[str]:
    """One style of line per budget."""
    budgets = list(dict.fromkeys(curve.budget for curve in curves if curve.budget))
    return [_STYLES[budgets.index(c.budget) % len(_STYLES)] if c.budget else "-" for c in curves]


def _spans_decades(curves: Sequence[Curve]) -> bool:
    finals = [float(curve.boundary_j[:, -1].mean()) for curve in curves]
    return min(finals) > 0 and max(finals) / min(finals) > 8


def rule_colour(rule: str) -> str:
    """Colour of a rule in every figure."""
    return _COLOURS.get(rule, _NEUTRAL)


def rule_marker(rule: str) -> str:
    """Marker of a rule in every figure."""
    return _MARKERS.get(rule, "v")


def plain_ticks(axis: Axis, digits: Sequence[float] = (1.0, 2.0, 5.0)) -> None:
    """Ticks of a logarithmic axis as plain numbers, at these digits of every decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=tuple(digits), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_outside(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
