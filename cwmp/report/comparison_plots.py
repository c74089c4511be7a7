"""Figures of a comparison: the frontier, joules to an accuracy, what was kept by round, density by tensor.

Intervals are of 95 % over seeds. A rule has the colour and marker that it has in every figure; one that saw
equal prices has an open marker and a dotted line. Panels share their axes, so that they can be compared; only
joules of variants, whose boundaries differ, have axes of their own.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cost_models.engineering import prefix_for
from cwmp.comparison.document import Entry
from cwmp.comparison.plan import BudgetUnit
from cwmp.comparison.seed_statistics import SeedMean
from cwmp.comparison.verdict import budget_in_words
from cwmp.report.plots import WIDTH_IN, plain_label, plain_ticks, rule_colour, rule_marker

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels = Mapping[str, Sequence[Entry]]
"""Title of each panel, and what is drawn in it."""

COLUMNS = 2
PANEL_HEIGHT_IN = 3.0
CROSS_ROW_POINTS = 8.0
"""Height of a row of crosses above a panel."""

BESIDE_POINTS = 0.25
"""Points of accuracy by which rules are drawn beside each other, so that their intervals can be seen."""

LOG_FROM = 8
"""Joules that differ by this factor get a logarithmic axis."""

MANY = 50
"""Above this factor, an axis has ticks at powers of ten alone."""

MAX_TENSORS = 40
"""Rows of the figure of densities; a network with more shows the first and the last ones."""


def by_budget(entries: Sequence[Entry], unit: BudgetUnit) -> Panels:
    """A panel for each budget; ``dense``, which knows none, is in all of them."""
    everywhere = [entry for entry in entries if entry.budget is None]
    budgets = sorted({entry.budget for entry in entries if entry.budget is not None})
    if not budgets:
        return {"": everywhere}
    return {
        budget_in_words(budget, unit): [e for e in entries if e.budget == budget] + everywhere
        for budget in budgets
    }


def plot_frontier(variants: Panels, provenance: str) -> Figure:
    """Accuracy of the last rounds over joules of whole runs; a line joins the budgets of one rule.

    Args:
        variants: a panel for each.
        provenance: of the joules.
    """
    everything = [entry for entries in variants.values() for entry in entries]
    factor, prefix = prefix_for(max(entry.boundary_j for entry in everything))
    figure, panels = _panels(variants, sharex=False)
    for axes, entries in zip(panels, variants.values(), strict=True):
        for members in _by_rule(entries):
            ordered = sorted(members, key=lambda entry: entry.boundary_j)
            axes.errorbar(
                [entry.boundary_j / factor for entry in ordered],
                [100 * entry.accuracy.mean for entry in ordered],
                yerr=[100 * (entry.accuracy.half_width or 0.0) for entry in ordered],
                **_look(ordered[0]),
            )
        _scale(axes, "x", [entry.boundary_j for entry in entries])
    figure.supxlabel(f"joules of all clients and rounds inside the boundary / {prefix}J ({provenance})")
    figure.supylabel("test accuracy, mean of the last rounds / %")
    _legend(figure, panels)
    return figure


def plot_joules_to_accuracy(budgets: Panels, provenance: str) -> Figure:
    """Joules until an accuracy is reached; a cross at the upper edge where not every seed reaches it.

    Args:
        budgets: a panel for each.
        provenance: of the joules.
    """
    joules = [joules.mean for entries in budgets.values() for joules in _reached(entries)]
    factor, prefix = prefix_for(max(joules))
    rows = max(
        (place for entries in budgets.values() for place, entry in enumerate(entries, 1) if _misses(entry)),
        default=0,
    )
    figure, panels = _panels(budgets, pad=rows * CROSS_ROW_POINTS)
    for axes, entries in zip(panels, budgets.values(), strict=True):
        for place, entry in enumerate(entries):
            aside = (place - (len(entries) - 1) / 2) * BESIDE_POINTS
            got = [(100 * at.target, at.boundary_j) for at in entry.reached if at.boundary_j is not None]
            axes.errorbar(
                [target + aside for target, _ in got],
                [joules.mean / factor for _, joules in got],
                yerr=[min(joules.half_width or 0.0, joules.mean) / factor for _, joules in got],
                **_look(entry),
            )
            _cross_out(axes, [100 * at.target for at in entry.reached if at.boundary_j is None], entry, place)
        _scale(axes, "y", joules)
    panels[0].plot([], [], "x", color="#57606a", label="not reached\nin every seed")
    figure.supxlabel("test accuracy to reach / %")
    figure.supylabel(f"joules inside the boundary / {prefix}J ({provenance})")
    _legend(figure, panels)
    return figure


def plot_retained(budgets: Panels, provenance: str) -> Figure:
    """Kept share of the squared norm of the updates by round.

    Args:
        budgets: a panel for each.
        provenance: of the prices that decided.
    """
    from matplotlib.ticker import MaxNLocator

    figure, panels = _panels(budgets)
    for axes, entries in zip(panels, budgets.values(), strict=True):
        for entry in entries:
            if entry.course is not None and entry.rule != "dense":
                _draw_rounds(axes, entry, entry.course.rounds, entry.course.retained)
        axes.set_ylim(0, 104)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.supxlabel("round")
    figure.supylabel(f"retained squared norm / % (prices {provenance})")
    _legend(figure, panels)
    return figure


def plot_density(budgets: Panels, provenance: str) -> Figure:
    """Kept share of the coordinates of every tensor, mean over rounds and clients.

    Args:
        budgets: a panel for each.
        provenance: of the prices that decided.
    """
    from matplotlib.ticker import FuncFormatter

    kept_at_all = [
        100 * d.mean for e in budgets.values() for i in e for d in i.density.values() if d.mean > 0
    ]
    least = min(kept_at_all, default=1.0)
    tensors = _shown(list(dict.fromkeys(name for entries in budgets.values() for name in _tensors(entries))))
    figure, panels = _panels(budgets, height_in=1.0 + 0.24 * len(tensors))
    for axes, entries in zip(panels, budgets.values(), strict=True):
        shown = [entry for entry in entries if entry.rule != "dense"]
        for place, entry in enumerate(shown):
            aside = (place - (len(shown) - 1) / 2) * 0.8 / max(len(shown), 1)
            kept = [
                (row + aside, entry.density[name])
                for row, name in enumerate(tensors)
                if name in entry.density and entry.density[name].mean > 0
            ]
            look = {**_look(entry), "linestyle": "none", "markersize": 4.5}
            axes.errorbar(
                [100 * density.mean for _, density in kept],
                [row for row, _ in kept],
                xerr=[100 * min(density.half_width or 0.0, density.mean) for _, density in kept],
                **look,
            )
        axes.set_xscale("log")
        axes.set_xlim(least / 2, 130)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_yticks(range(len(tensors)), [plain_label(name) for name in tensors])
        axes.set_ylim(len(tensors) - 0.5, -0.5)
    figure.supxlabel(f"kept coordinates / % (prices {provenance})")
    _legend(figure, panels)
    return figure


def can_be_reached(entries: Sequence[Entry]) -> bool:
    """Whether some accuracy was reached in every seed of an entry."""
    return any(True for _ in _reached(entries))


def _reached(entries: Sequence[Entry]) -> Iterator[SeedMean]:
    return (at.boundary_j for entry in entries for at in entry.reached if at.boundary_j is not None)


def _draw_rounds(axes: Axes, entry: Entry, rounds: Sequence[int], values: Sequence[SeedMean]) -> None:
    mean = 100 * np.array([value.mean for value in values])
    half = 100 * np.array([value.half_width or 0.0 for value in values])
    axes.plot(rounds, mean, **{**_line(entry), "markevery": slice(-1, None)})
    if half.any():
        band = (np.clip(mean - half, 0, 100), np.clip(mean + half, 0, 100))
        axes.fill_between(rounds, *band, color=rule_colour(entry.rule), alpha=0.12, linewidth=0)


def _panels(
    titles: Mapping[str, object], *, height_in: float = PANEL_HEIGHT_IN, pad: float = 0.0, sharex: bool = True
) -> tuple[Figure, list[Axes]]:
    """A panel per title, two beside each other, with shared axes and some points below the titles."""
    from matplotlib.figure import Figure

    columns = min(COLUMNS, len(titles))
    rows = -(-len(titles) // columns)
    height = 0.7 + rows * (height_in + 0.4 + pad / 72)
    figure = Figure(figsize=(WIDTH_IN, height), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=True).flat)
    for axes, title in zip(grid, titles, strict=False):
        axes.set_title(textwrap.fill(plain_label(title), 38 if columns > 1 else 90), pad=6.0 + pad)
    for axes in grid[len(titles) :]:
        axes.remove()
        grid[grid.index(axes) - columns].tick_params(labelbottom=True)
    return figure, grid[: len(titles)]


def _cross_out(axes: Axes, targets: Sequence[float], entry: Entry, place: int) -> None:
    """A row of crosses above a panel, a row for each rule, below the title."""
    from matplotlib.transforms import ScaledTranslation

    above = ScaledTranslation(0, (place + 0.7) * CROSS_ROW_POINTS / 72, axes.figure.dpi_scale_trans)
    (crosses,) = axes.plot(
        targets,
        [1.0] * len(targets),
        "x",
        color=rule_colour(entry.rule),
        transform=axes.get_xaxis_transform() + above,
        clip_on=False,
        markersize=5,
    )
    crosses.set_in_layout(False)


def _misses(entry: Entry) -> bool:
    return any(at.boundary_j is None for at in entry.reached)


def _by_rule(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    for label in dict.fromkeys(entry.label for entry in entries):
        yield [entry for entry in entries if entry.label == label]


def _look(entry: Entry) -> dict[str, Any]:
    """How points with error bars of a rule are drawn."""
    return {**_line(entry), "elinewidth": 1.1, "capsize": 2}


def _line(entry: Entry) -> dict[str, Any]:
    return {
        "label": entry.label,
        "color": rule_colour(entry.rule),
        "marker": rule_marker(entry.rule),
        "fillstyle": "none" if entry.equal_prices else "full",
        "linestyle": ":" if entry.equal_prices else "-",
        "linewidth": 1.4,
        "markersize": 6,
    }


def _tensors(entries: Sequence[Entry]) -> Iterator[str]:
    for entry in entries:
        yield from entry.density


def _shown(tensors: Sequence[str]) -> list[str]:
    half = MAX_TENSORS // 2
    return list(tensors) if len(tensors) <= MAX_TENSORS else [*tensors[:half], *tensors[-half:]]


def _scale(axes: Axes, which: Literal["x", "y"], joules: Sequence[float]) -> None:
    """A logarithmic axis for joules that are far apart, with ticks that do not run into each other."""
    span = max(joules) / min(joules) if min(joules) > 0 else 1.0
    if span > LOG_FROM:
        axes.set(**{f"{which}scale": "log"})
        plain_ticks(axes.xaxis if which == "x" else axes.yaxis, (1.0, 2.0, 5.0) if span < MANY else (1.0,))


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One entry for each rule of any panel."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    figure.legend(list(found.values()), list(found), loc="outside right upper")
