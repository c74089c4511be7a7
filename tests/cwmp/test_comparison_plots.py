"""Figures of a comparison draw what the file says, and nothing covers anything at any size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.figure import Figure

from cwmp.comparison.course import RunCourse, accuracy_targets, mean_course, mean_density, reached
from cwmp.comparison.document import Entry, load_comparison
from cwmp.comparison.seed_statistics import seed_mean
from cwmp.config import RuleName
from cwmp.report.comparison_plots import (
    Panels,
    by_budget,
    can_be_reached,
    plot_density,
    plot_frontier,
    plot_joules_to_accuracy,
    plot_retained,
)
from cwmp.report.plots import FIGURE_STYLE, svg_data_uri

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "comparison-v2.json"
CONTENDERS: tuple[tuple[RuleName, bool, float], ...] = (
    ("cwmp", False, 0.62),
    ("cwmp", True, 0.60),
    ("cwmp-l1", False, 0.58),
    ("topk", False, 0.60),
    ("topk", True, 0.60),
    ("randomk", False, 0.30),
    ("dense", False, 0.66),
)


def course(best: float, budget: float, seed: int) -> RunCourse:
    rounds = np.arange(1, 31)
    accuracy = best * budget**0.1 * (1 - np.exp(-rounds / 8)) + 0.01 * np.sin(rounds + seed)
    return RunCourse(
        rounds=tuple(rounds.tolist()),
        boundary_j=tuple((1e-3 * rounds * (0.1 + budget)).tolist()),
        accuracy=tuple(value if number % 2 else None for number, value in enumerate(accuracy.tolist())),
        retained=tuple(np.clip(0.5 + 0.1 * np.sin(rounds + seed), 0, 1).tolist()),
        gain=tuple(np.full(30, 0.1).tolist()),
        density={f"layer{part}.conv.weight": budget * (1 - part / 100) for part in range(12)},
    )


def entries(budgets: tuple[float, ...], contenders: int) -> list[Entry]:
    template = load_comparison(GOLDEN).entries[1]
    runs = {
        (rule, equal, budget): [course(best, budget or 1.0, seed) for seed in range(3)]
        for rule, equal, best in CONTENDERS[:contenders]
        for budget in ((None,) if rule == "dense" else budgets)
    }
    targets = accuracy_targets(list(runs.values()))
    return [
        template.model_copy(
            update={
                "rule": rule,
                "equal_prices": equal,
                "budget": budget,
                "accuracy": seed_mean([run.best_accuracy for run in courses]),
                "boundary_j": courses[0].boundary_j[-1],
                "course": mean_course(courses),
                "density": mean_density(courses),
                "reached": reached(courses, targets),
            }
        )
        for (rule, equal, budget), courses in runs.items()
    ]


SMALL = entries((0.05, 0.2), 2)
LARGE = entries((0.01, 0.05, 0.1, 0.2), len(CONTENDERS))
LONG = "update+uplink over wifi-2012, no error feedback, a device with a long name"


def figures(members: list[Entry], variants: Panels) -> dict[str, Figure]:
    panels = by_budget(members, "fraction")
    with rc_context(FIGURE_STYLE):
        return {
            "frontier": plot_frontier(variants, "simulated"),
            "joules": plot_joules_to_accuracy(panels, "simulated"),
            "retained": plot_retained(panels, "simulated"),
            "density": plot_density(panels, "simulated"),
        }


@pytest.mark.parametrize(
    ("members", "variants"),
    [(SMALL, {"": SMALL}), (LARGE, {"update": LARGE, LONG: LARGE})],
    ids=["2 rules, 2 budgets", "7 rules, 4 budgets, 2 variants"],
)
def test_titles_legends_and_panels_keep_clear_of_each_other(members: list[Entry], variants: Panels) -> None:
    for name, figure in figures(members, variants).items():
        with rc_context(FIGURE_STYLE):
            figure.draw_without_rendering()
        page = figure.bbox
        (legend,) = (legend.get_window_extent() for legend in figure.legends)
        panels = [axes.get_tightbbox() for axes in figure.axes]
        words = [
            text.get_window_extent() for text in (*figure.texts, figure._supxlabel, figure._supylabel) if text
        ]
        for box in (legend, *panels, *words):
            assert page.x0 - 1 <= box.x0, name
            assert box.x1 <= page.x1 + 1, name
            assert page.y0 - 1 <= box.y0, name
            assert box.y1 <= page.y1 + 1, name
        for number, panel in enumerate(panels):
            assert not panel.padded(-1).overlaps(legend.padded(-1)), name
            assert not any(panel.padded(-1).overlaps(other.padded(-1)) for other in panels[:number]), name


def test_the_frontier_joins_the_budgets_of_a_rule_in_the_order_of_joules() -> None:
    figure = figures(LARGE, {"": LARGE})["frontier"]
    cwmp = figure.axes[0].containers[0]
    ours = sorted((entry.boundary_j, entry.accuracy.mean) for entry in LARGE if entry.label == "cwmp")
    assert cwmp[0].get_xdata() == pytest.approx([1e3 * joules for joules, _ in ours])
    assert cwmp[0].get_ydata() == pytest.approx([100 * accuracy for _, accuracy in ours])
    assert "mJ (simulated)" in figure.get_supxlabel()


def test_what_was_not_reached_has_a_cross_and_no_joules() -> None:
    figure = figures(LARGE, {"": LARGE})["joules"]
    axes = figure.axes[0]
    (randomk,) = [entry for entry in LARGE if (entry.rule, entry.budget) == ("randomk", 0.01)]
    assert all(at.boundary_j is None for at in randomk.reached)
    shown = [container for container in axes.containers if container.get_label() == "randomk"]
    assert [len(container[0].get_xdata()) for container in shown] == [0]
    crosses = [line for line in axes.get_lines() if line.get_marker() == "x" and len(line.get_xdata())]
    assert max(len(line.get_xdata()) for line in crosses) == len(randomk.reached)
    with rc_context(FIGURE_STYLE):
        figure.draw_without_rendering()
    title = axes._left_title.get_window_extent()
    for line in crosses:
        places = line.get_transform().transform(line.get_xydata())
        assert (places[:, 1] > axes.bbox.y1).all()
        assert (places[:, 1] < title.y0).all()


def test_dense_stands_beside_every_budget() -> None:
    panels = by_budget(LARGE, "fraction")
    assert list(panels) == ["fixed + 1 %", "fixed + 5 %", "fixed + 10 %", "fixed + 20 %"]
    assert all(sum(entry.rule == "dense" for entry in members) == 1 for members in panels.values())
    assert list(by_budget([entry for entry in LARGE if entry.rule == "dense"], "J")) == [""]


def test_a_rule_with_equal_prices_has_an_open_marker_and_a_dotted_line() -> None:
    lines = {line.get_label(): line for line in figures(LARGE, {"": LARGE})["retained"].axes[0].get_lines()}
    ours, blind = lines["cwmp"], lines["cwmp (equal prices)"]
    assert ours.get_color() == blind.get_color()
    assert (ours.get_fillstyle(), blind.get_fillstyle()) == ("full", "none")
    assert (ours.get_linestyle(), blind.get_linestyle()) == ("-", ":")


def test_nothing_reached_is_known_before_drawing() -> None:
    assert can_be_reached(SMALL)
    assert not can_be_reached([entry.model_copy(update={"reached": ()}) for entry in SMALL])


def test_the_same_figure_gives_the_same_bytes() -> None:
    def draw() -> Figure:
        return plot_frontier({"": SMALL}, "simulated")

    assert svg_data_uri(draw) == svg_data_uri(draw)
