"""Spending at most a budget with a stated probability."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fakes.known_costs import known_cost_model
from torch import Tensor

from calibration_data import UsageError
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.networks import build_network
from cwmp.pricing import total_work
from cwmp.selection import predicted_j, select, select_with_confidence

NETWORK = build_network("mlp")


def costs_of(boundary: str = "update") -> CostVector:
    return cost_vector(
        NETWORK,
        known_cost_model("server-cpu", relative_u=0.05, correlation=0.3),
        boundary=boundary,  # type: ignore[arg-type]
        density=0.1,
        link="wifi-2012" if boundary == "update+uplink" else None,
    )


def update(seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(p.shape, generator=generator) for name, p in NETWORK.named_parameters()}


def test_the_prediction_is_the_sum_of_the_prices() -> None:
    for boundary in ("update", "update+uplink"):
        costs = costs_of(boundary)
        selection = select(update(1), costs.prices_j, 1e-5, rule="cwmp")
        kept = {name: mask.kept for name, mask in selection.bitmasks.items()}
        assert predicted_j(costs, kept).value == pytest.approx(selection.spent_j)


@pytest.mark.parametrize("boundary", ["update", "update+uplink"])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_the_upper_bound_uses_the_budget_and_never_exceeds_it(boundary: str, confidence: float) -> None:
    costs = costs_of(boundary)
    dense_j = sum(
        price * p.numel() for price, p in zip(costs.prices_j.values(), NETWORK.parameters(), strict=True)
    )
    for share in (0.01, 0.3):
        choice = select_with_confidence(update(2), costs, share * dense_j, confidence=confidence)
        assert 0.99 * share * dense_j < choice.upper_j <= share * dense_j
        assert choice.predicted_j.value <= choice.upper_j


def test_true_joules_stay_within_the_budget_as_often_as_promised() -> None:
    """Worlds drawn from the covariance of the cost model."""
    costs, confidence, budget_j, worlds = costs_of(), 0.9, 1e-5, 4000
    choice = select_with_confidence(update(3), costs, budget_j, confidence=confidence)
    kept = {name: mask.kept for name, mask in choice.selection.bitmasks.items()}
    work = total_work(
        part * kept[name] for name, cost in costs.tensors.items() for part in cost.work.values()
    )
    model, names = costs.pricing.model, sorted(work)
    drawn = np.random.default_rng(4).multivariate_normal(
        model.values(names), model.covariance(names), size=worlds
    )
    true_j = drawn @ np.array([work[name] for name in names])
    assert np.mean(true_j <= budget_j) == pytest.approx(confidence, abs=4 * math.sqrt(0.09 / worlds) + 0.01)


def test_a_budget_that_affords_everything_or_nothing() -> None:
    costs = costs_of()
    everything = select_with_confidence(update(1), costs, 1e3, confidence=0.95)
    assert everything.selection.kept == costs.coordinates
    for rule in ("cwmp", "topk", "randomk"):
        unlimited = select_with_confidence(update(1), costs, math.inf, confidence=0.95, rule=rule)
        assert unlimited.selection.kept == costs.coordinates
    nothing = select_with_confidence(update(1), costs, 0.0, confidence=0.95)
    assert (nothing.selection.kept, nothing.upper_j) == (0, 0.0)


@pytest.mark.parametrize("confidence", [0.4, 1.0, math.nan])
def test_what_is_no_probability_is_refused(confidence: float) -> None:
    with pytest.raises(UsageError, match="no confidence"):
        select_with_confidence(update(1), costs_of(), 1.0, confidence=confidence)


def test_a_rule_that_ranks_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="ranks no single coordinates"):
        select_with_confidence(update(1), costs_of(), 1.0, confidence=0.9, rule="dense")  # type: ignore[arg-type]
