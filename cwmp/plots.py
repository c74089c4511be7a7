"""Figures of training: accuracy against joules, retained energy, joules by phase.

Every function returns a matplotlib ``Figure`` and touches no global state. Colours are those of Okabe and
Ito, and each rule also has its own marker, so that no figure depends on colour alone.
"""

from __future__ import annotations

import base64
import io
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
        "randomk": "#CC79A7",
        "dense": "#000000",
    }
)
_MARKERS: Mapping[str, str] = MappingProxyType(
    {"cwmp": "o", "topk": "s", "cwmp-l1": "^", "randomk": "D", "dense": "X"}
)
_STYLES = ("-", "--", ":", "-.")

_RC: dict[Any, Any] = {
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


@dataclass(frozen=True, kw_only=True)
class Curve:
    """What rounds of one rule at one budget gave, each seed in a row.

    Attributes:
        rule: name of the rule.
        budget: of one client and round in words; empty where the rule knows none.
        boundary_j: cumulative predicted joules inside the budget's boundary, shape (n_seeds, n_rounds).
        accuracy: test accuracy in [0, 1], the same shape.
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

    with matplotlib.rc_context(_RC):
        buffer = io.BytesIO()
        make().savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return f"data:image/svg+xml;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def plain_label(name: str) -> str:
    """A name from a file as a label: never mathematics, never a control character, never a long line."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return (printable if len(printable) <= 60 else printable[:59] + "…").replace("$", r"\$")


def plot_accuracy_against_joules(curves: Sequence[Curve], provenance: str) -> Figure:
    """Test accuracy against the joules that the budget governs, every rule in its colour.

    Args:
        curves: of every rule and budget; the mean over seeds is drawn bold, single seeds faint.
        provenance: of the joules.
    """
    figure, (axes,) = _figure(1, height_in=4.4)
    factor, prefix = prefix_for(max(float(curve.boundary_j.max()) for curve in curves))
    for curve, style in zip(curves, _line_styles(curves), strict=True):
        colour = _colour(curve.rule)
        if len(curve.accuracy) > 1:
            for joules, accuracy in zip(curve.boundary_j, curve.accuracy, strict=True):
                axes.plot(joules / factor, 100 * accuracy, style, color=colour, alpha=0.25, linewidth=1)
        joules, accuracy = curve.boundary_j.mean(axis=0) / factor, 100 * curve.accuracy.mean(axis=0)
        _draw(axes, curve, style, joules, accuracy)
    if _spans_decades(curves):
        axes.set_xscale("log")
        _plain_ticks(axes.xaxis)
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
    """Joules by phase: what was predicted beside what sensors saw, both with U (k = 2).

    Args:
        phases: of every rule, in the order of the rows.
        seen_as: ``measured`` or ``simulated``: what the sensors were.
    """
    rules = list(dict.fromkeys(item.rule for item in phases))
    names = list(dict.fromkeys(item.phase for item in phases))
    figure, (axes,) = _figure(1, height_in=1.5 + 0.2 * len(names) * (len(rules) + 1))
    factor, prefix = prefix_for(max([item.predicted_j or item.seen_j or 0.0 for item in phases]))
    for item in phases:
        colour, marker = _colour(item.rule), _marker(item.rule)
        place = names.index(item.phase) + (rules.index(item.rule) - (len(rules) - 1) / 2) * 0.8 / len(rules)
        for value, u, face in (
            (item.predicted_j, item.predicted_u_j, "white"),
            (item.seen_j, item.seen_u_j, colour),
        ):
            if value is not None and value > 0:
                low = min(2 * u, 0.999 * value) / factor
                axes.errorbar(
                    value / factor,
                    place,
                    xerr=[[low], [2 * u / factor]],
                    fmt=marker,
                    color=colour,
                    markerfacecolor=face,
                    markersize=6,
                    elinewidth=1.2,
                )
    axes.set_xscale("log")
    _plain_ticks(axes.xaxis)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(f"joules of all clients and rounds / {prefix}J, with U (k = 2)")
    for rule in rules:
        axes.plot([], [], _marker(rule), color=_colour(rule), label=rule)
    axes.plot([], [], "o", color="#57606a", markerfacecolor="white", label="predicted")
    axes.plot([], [], "o", color="#57606a", label=seen_as)
    _legend_outside(figure, axes)
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
        color=_colour(curve.rule),
        marker=_marker(curve.rule),
        markersize=7,
        markevery=[len(x) - 1],
        label=curve.label,
    )


def _line_styles(curves: Sequence[Curve]) -> list[str]:
    """One style of line per budget."""
    budgets = list(dict.fromkeys(curve.budget for curve in curves if curve.budget))
    return [_STYLES[budgets.index(c.budget) % len(_STYLES)] if c.budget else "-" for c in curves]


def _spans_decades(curves: Sequence[Curve]) -> bool:
    finals = [float(curve.boundary_j[:, -1].mean()) for curve in curves]
    return min(finals) > 0 and max(finals) / min(finals) > 8


def _colour(rule: str) -> str:
    return _COLOURS.get(rule, "#57606a")


def _marker(rule: str) -> str:
    return _MARKERS.get(rule, "v")


def _plain_ticks(axis: Axis) -> None:
    """Ticks of a logarithmic axis as plain numbers, three to a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _legend_outside(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper")
