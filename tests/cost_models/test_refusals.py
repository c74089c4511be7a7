"""A plan with a family removed: what can no longer be told apart is refused by name, whatever is left."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
from fakes.synthetic_records import POINTS, TRUTH, Point, campaign

from cost_models import fit_cost_model

WITHOUT: dict[str, tuple[Callable[[Point], bool], set[str]]] = {
    "other thread counts": (lambda p: p.threads in (0, 8), {"awake_w", "core_w"}),
    "anything in L2": (lambda p: p.level != "l2", {"byte_l2", "byte_llc"}),
    "anything in L1 or L2": (lambda p: p.level not in ("l1", "l2"), {"byte_l2", "byte_llc"}),
    "all but stores to DRAM": (
        lambda p: p.level != "dram" or p.family in ("store", "scatter"),
        {"byte_dram_read", "byte_dram_write"},
    ),
    "anything in the last cache": (
        lambda p: p.level != "llc" and p.family not in ("copy",),
        {"byte_llc", "byte_dram_read", "byte_dram_write"},
    ),
}
ONLY_ONE = {
    "launch": "launch",
    "store copy scatter": "byte_dram_write",
    "gather scatter": "line_random_dram",
}


@pytest.mark.parametrize("domains", [("package-0",), ("package-0", "dram-0")])
@pytest.mark.parametrize("without", WITHOUT)
def test_terms_that_go_together_are_refused_together(without: str, domains: tuple[str, ...]) -> None:
    keep, together = WITHOUT[without]
    if "dram-0" in domains and without == "anything in the last cache":
        # The DRAM domain tells what DRAM costs; only what passes the package stays open.
        together = {"byte_llc", "byte_dram_read"}
    model = fit_cost_model(
        campaign(points=[p for p in POINTS if keep(p)], noise=0.003, replicates=5, domains=domains)
    )
    refused = {name: c for name, c in model.coefficients.items() if c.status == "refused"}
    assert together <= set(refused)
    for name in together:
        item = refused[name]
        assert (item.value, item.standard_uncertainty, item.ci95) == (None, None, None)
        assert "cannot be told apart from" in item.reason
        assert any(other in item.reason for other in together - {name})
    assert not set(refused) & set(model.document.covariance.names)
    for name in model.document.covariance.names:
        low, high = model.coefficients[name].ci95 or (0.0, 0.0)
        true = TRUTH[name]
        if name == "idle_w" and "dram-0" not in domains:
            true += TRUTH["dram_idle_w"]
        assert low - 2 * (high - low) < true < high + 2 * (high - low), name


@pytest.mark.parametrize("families", ONLY_ONE)
def test_a_term_that_nothing_exercises_is_refused(families: str) -> None:
    points = [point for point in POINTS if point.family not in families.split()]
    item = fit_cost_model(campaign(points=points)).coefficients[ONLY_ONE[families]]
    assert (item.status, item.reason) == ("refused", "no record exercises it")


def test_the_combination_that_is_known_is_named_and_true() -> None:
    """Eight busy cores whenever one is: awake_w + 8 core_w is known, neither is alone."""
    points = [point for point in POINTS if point.threads in (0, 8)]
    model = fit_cost_model(campaign(points=points, noise=0.003, replicates=5))
    reason = model.coefficients["awake_w"].reason
    found = re.search(r"known is awake_w \+ 8 core_w = ([\d.]+) ± ([\d.]+) W", reason)
    assert found, reason
    value, half = map(float, found.groups())
    assert abs(value - (TRUTH["awake_w"] + 8 * TRUTH["core_w"])) < 2 * half
    assert half < 0.1 * value


def test_terms_that_nearly_go_together_are_refused_both() -> None:
    """Seven or eight cores: nearly a sum."""
    points = [replace(p, threads=7) if p.name == "spin-t4" else p for p in POINTS]
    points = [point for point in points if point.threads in (0, 7, 8)]
    model = fit_cost_model(campaign(points=points, noise=0.003))
    statuses = {model.coefficients[name].status for name in ("awake_w", "core_w")}
    assert statuses == {"refused"}
