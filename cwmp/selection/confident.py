"""Spending at most a budget with a stated probability, given how well the costs are known.

The predicted joules of a selection are linear in its counts by tensor, E = Σ n_t·c_t, and so is their
covariance with anything: with W_t the work of a coordinate and Σ the covariance of the coefficients,
u² = w'Σw for w = Σ n_t·W_t. What must fit is the upper bound U = E + t_q·u, with t_q the one-sided quantile
of Student's t (GUM G.3).

U is convex and homogeneous in the counts, so U = Σ n_t·∂U/∂n_t: the derivatives are prices whose sum is the
bound itself, an uncertain tensor costing more than its mean. Selecting at the prices of the last choice and
pricing that choice again converges in a few rounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calibration_data import UsageError
from cost_models import Estimate
from cost_models.uncertainty import student_t
from cwmp.cost_vector import CostVector
from cwmp.pricing import added, total_work
from cwmp.selection.result import Selection
from cwmp.selection.rules import SCORED_RULES, ScoredRule
from cwmp.selection.selector import select

ROUNDS = 8
LEAST_USED = 0.999
"""A selection whose upper bound uses less of the budget is tried again."""
LEAST_PRICE = 1e-3
"""Of the mean price, should a tensor's errors offset the others' so well that it would seem free."""


@dataclass(frozen=True, kw_only=True)
class ConfidentSelection:
    """A selection and what it is predicted to cost.

    Attributes:
        selection: the coordinates; its ``spent_j`` is at prices that include the uncertainty.
        predicted_j: joules with the uncertainty of the cost model, at the density of the cost vector.
        upper_j: what the true joules stay below with the confidence.
        confidence: that probability.
    """

    selection: Selection
    predicted_j: Estimate
    upper_j: float
    confidence: float


def predicted_j(costs: CostVector, kept: Mapping[str, int]) -> Estimate:
    """Joules of keeping so many coordinates of each tensor, with the covariance of the cost model.

    Args:
        costs: prices at a stated density.
        kept: number of coordinates by tensor.
    """
    works = [work * kept[name] for name in kept for work in costs.tensors[name].work.values()]
    uplink_j = sum(costs.tensors[name].uplink_j * count for name, count in kept.items())
    uplink = Estimate(value=uplink_j, standard_uncertainty=uplink_j * _relative_uplink_u(costs))
    return added(costs.pricing.model.predict_j(total_work(works)), uplink)


def select_with_confidence(
    gradients: Mapping[str, Tensor],
    costs: CostVector,
    budget_j: float,
    *,
    confidence: float,
    rule: ScoredRule = "cwmp",
    **options: Any,
) -> ConfidentSelection:
    """Choose coordinates whose true joules stay within the budget with a probability.

    Args:
        gradients: gradient by tensor name.
        costs: prices of the same network at a stated density.
        budget_j: joules for all coordinates together, fixed costs already taken off.
        confidence: probability, in [0.5, 1), as far as the uncertainty of the cost model tells.
        rule: how coordinates are ranked.
        **options: of ``select``; ``last_threshold`` helps the first round only.

    Raises:
        UsageError: the confidence is not in [0.5, 1), the rule ranks nothing, or as ``select``.
    """
    if not 0.5 <= confidence < 1:
        raise UsageError(
            f"{confidence} is no confidence.", next_step="Give a probability of at least 0.5 and below 1."
        )
    if rule not in SCORED_RULES:
        raise UsageError(
            f"{rule!r} ranks no single coordinates, so nothing can be left out to stay within a budget.",
            next_step=f"Rules: {', '.join(SCORED_RULES)}.",
        )
    prices, allowance_j = dict(costs.prices_j), budget_j
    best: ConfidentSelection | None = None
    rounds = 0
    while True:
        selection = select(gradients, prices, allowance_j, rule=rule, **options)
        options["last_threshold"] = selection.threshold
        kept = {name: mask.kept for name, mask in selection.bitmasks.items() if mask.kept}
        predicted = predicted_j(costs, kept)
        upper_j = _upper_j(predicted, confidence)
        fits = upper_j <= max(budget_j, 0.0)
        better = best is None or selection.retained_squared_norm > best.selection.retained_squared_norm
        if fits and better:
            best = ConfidentSelection(
                selection=selection, predicted_j=predicted, upper_j=upper_j, confidence=confidence
            )
        used = upper_j / budget_j if budget_j > 0 else 1.0
        all_that_can = selection.kept_all_but_zeros or budget_j == math.inf or not kept
        if best is not None and fits and (used >= LEAST_USED or all_that_can):
            break
        rounds += 1
        if best is not None and rounds >= ROUNDS:
            break
        prices = _prices_of_bound(costs, kept, confidence)
        priced_j = math.fsum(prices[name] * count for name, count in kept.items())
        # The bound grows at least as fast as these prices say, so aim a little below what is left.
        allowance_j = priced_j / used * (1 - 1e-4) if rounds < ROUNDS else allowance_j / 2
    return best


def _upper_j(predicted: Estimate, confidence: float) -> float:
    t = student_t(confidence, predicted.degrees_of_freedom)
    return predicted.value + t * predicted.standard_uncertainty


def _prices_of_bound(costs: CostVector, kept: Mapping[str, int], confidence: float) -> dict[str, float]:
    """Derivatives of the upper bound by the counts, at these counts."""
    works = {name: total_work(cost.work.values()) for name, cost in costs.tensors.items()}
    terms = sorted(total_work(works.values()).amounts)
    amounts: NDArray[np.float64] = np.array([[work[term] for term in terms] for work in works.values()])
    counts = np.array([kept.get(name, 0) for name in works], dtype=np.float64)
    uplinks = np.array([cost.uplink_j for cost in costs.tensors.values()]) * _relative_uplink_u(costs)
    predicted = predicted_j(costs, kept)
    t = student_t(confidence, predicted.degrees_of_freedom)
    shared = amounts @ costs.pricing.model.covariance(terms) @ (counts @ amounts)
    shared += uplinks * float(counts @ uplinks)
    u = predicted.standard_uncertainty
    margins = t * shared / u if u > 0 else np.zeros(len(works))
    return {
        name: max(price + float(margin), LEAST_PRICE * price)
        for (name, price), margin in zip(costs.prices_j.items(), margins, strict=True)
    }


def _relative_uplink_u(costs: CostVector) -> float:
    return (costs.link.relative_u or 0.0) if costs.link is not None else 0.0
