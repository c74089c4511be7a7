"""Figures of training draw what they are given, label every axis, and survive any name."""

from __future__ import annotations

import base64
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import rcParams
from matplotlib.cbook import is_math_text
from matplotlib.figure import Figure

from cwmp.report.plots import (
    Curve,
    PhaseJoules,
    plain_label,
    plot_accuracy_against_joules,
    plot_phase_energy,
    plot_retained_energy,
    svg_data_uri,
)


def curve(rule: str = "cwmp", budget: str = "fixed + 5 %", scale_j: float = 1e-3, seeds: int = 2) -> Curve:
    rounds = np.arange(1.0, 6)
    return Curve(
        rule=rule,
        budget=budget,
        boundary_j=np.array([rounds * scale_j] * seeds),
        accuracy=np.array([rounds / 10 + 0.1 * seed for seed in range(seeds)]),
        retained=np.array([1 / rounds] * seeds),
    )


def phase(name: str, rule: str = "cwmp", seen_j: float | None = 1.1e-3) -> PhaseJoules:
    return PhaseJoules(
        rule=rule, phase=name, predicted_j=1e-3, predicted_u_j=1e-5, seen_j=seen_j, seen_u_j=2e-5
    )


FIGURES = {
    "accuracy": lambda: plot_accuracy_against_joules([curve(), curve("dense", "", 0.1)], "simulated"),
    "retained": lambda: plot_retained_energy([curve(), curve("topk")], "simulated"),
    "phases": lambda: plot_phase_energy([phase("pack"), phase("pack", "dense")], "simulated"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_the_same_figure_gives_the_same_bytes(name: str) -> None:
    assert svg_data_uri(FIGURES[name]) == svg_data_uri(FIGURES[name])


@pytest.mark.parametrize("name", FIGURES)
def test_every_axis_is_labelled(name: str) -> None:
    for axes in FIGURES[name]().axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or axes.get_yticklabels()


def test_drawing_leaves_no_trace_in_the_settings() -> None:
    before = dict(rcParams)
    svg_data_uri(FIGURES["accuracy"])
    assert dict(rcParams) == before


def test_the_mean_over_seeds_is_drawn_in_the_unit_of_the_axis() -> None:
    (axes,) = plot_accuracy_against_joules([curve(scale_j=2e-6)], "measured").axes
    (line,) = axes.get_lines()
    assert np.asarray(line.get_xdata()) == pytest.approx([2, 4, 6, 8, 10])
    assert np.asarray(line.get_ydata()) == pytest.approx([15, 25, 35, 45, 55])
    assert "µJ (measured)" in axes.get_xlabel()


def test_only_tested_rounds_are_drawn() -> None:
    seen = curve(scale_j=1.0)
    seen.accuracy[:, [0, 2]] = np.nan
    (axes,) = plot_accuracy_against_joules([seen], "measured").axes
    (line,) = axes.get_lines()
    assert np.asarray(line.get_xdata()) == pytest.approx([2, 4, 5])
    assert np.asarray(line.get_ydata()) == pytest.approx([25, 45, 55])


def test_joules_that_are_decades_apart_get_a_logarithmic_axis() -> None:
    scales = {
        plot_accuracy_against_joules([curve(), curve("dense", "", scale)], "measured").axes[0].get_xscale()
        for scale in (5e-3, 9e-3)
    }
    assert scales == {"linear", "log"}


def test_rules_differ_in_colour_and_marker_and_budgets_in_line() -> None:
    curves = [curve(rule, budget) for rule in ("cwmp", "topk") for budget in ("small", "large")]
    lines = plot_retained_energy(curves, "measured").axes[0].get_lines()
    looks = [(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines]
    assert len(set(looks)) == 4
    assert len({(colour, marker) for colour, marker, _ in looks}) == 2


def test_the_ratio_of_phases_carries_both_uncertainties() -> None:
    ratio = plot_phase_energy([phase("pack")], "measured").axes[1]
    (container,) = ratio.containers
    shown = container[0].get_xdata()[0]
    (bar,) = container[2]
    ((low, _), (high, _)) = bar.get_segments()[0]
    assert shown == pytest.approx(10)
    expected = 2 * 100 * np.sqrt((2e-5 / 1e-3) ** 2 + (1.1e-3 * 1e-5 / 1e-3**2) ** 2)
    assert (high - low) / 2 == pytest.approx(expected)
    assert "measured over predicted" in ratio.get_xlabel()


def test_a_phase_that_no_sensor_saw_is_drawn_as_predicted_alone() -> None:
    joules, ratio = plot_phase_energy([phase("uplink", seen_j=None)], "").axes
    assert not ratio.containers
    labels = [text.get_text() for legend in joules.figure.legends for text in legend.get_texts()]
    assert labels == ["cwmp", "predicted"]


def test_rounds_without_a_test_are_left_out_of_the_line() -> None:
    tested = curve(scale_j=2e-6)
    tested.accuracy[:, [0, 2]] = np.nan
    (line,) = plot_accuracy_against_joules([tested], "measured").axes[0].get_lines()
    assert np.asarray(line.get_xdata()) == pytest.approx([4, 8, 10])
    assert np.asarray(line.get_ydata()) == pytest.approx([25, 45, 55])


@settings(max_examples=50)
@given(st.text())
def test_no_name_is_read_as_mathematics(name: str) -> None:
    assert is_math_text(plain_label(name)) in (False, 0)
    assert len(plain_label(name).replace(r"\$", "$")) <= 60


@pytest.mark.parametrize(
    "name", ["$\\frac{", "漢字", "a\x00b\x1b", "-->", "<b>&amp;", "\\$", "e\N{COMBINING ACUTE ACCENT}" * 99]
)
def test_any_name_can_be_drawn(name: str) -> None:
    def titled() -> Figure:
        figure = Figure()
        figure.suptitle(plain_label(name))
        return figure

    _, encoded = svg_data_uri(titled).split(",")
    ElementTree.fromstring(base64.b64decode(encoded))
