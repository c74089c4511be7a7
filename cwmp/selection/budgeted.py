"""Selecting so that the predicted joules of exactly the chosen mask, and their uncertainty, fit a budget.

A selection needs one price per coordinate, and a price depends on the density that comes out: kept
neighbours share cache lines. So prices start at the uniform density that the budget affords, and then

    select at prices c(p) ──▶ mask ──▶ joules of the lines it touches ──▶ within the budget, and well used?
         ▲                                                                        │ no
         └────── prices at the densities that came out, allowance scaled ◀────────┘

What has to fit is an upper bound U of the predicted joules E with standard uncertainty u, fixed costs
included: U = E + t_q·u ≤ B, with t_q the one-sided quantile of Student's t. As far as the cost model's
uncertainty tells, the true joules stay within B with probability q.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from calibration_data import UsageError
from cost_models import Estimate
from cost_models.uncertainty import student_t
from cwmp.config import RuleName
from cwmp.cost_vector import CostVector, MaskCost
from cwmp.op_counts import Touched, expected_touched
from cwmp.selection.blocks import select_blocks
from cwmp.selection.result import Selection
from cwmp.selection.selector import select

MAX_SELECTIONS = 8
LEAST_USED = 0.95
"""A selection that uses less of the budget's marginal part than this is tried again."""
AIM = 0.98
CATCH_UP = 1.25
"""Exponent of the allowance's correction: as more is kept, more lines are shared, so joules grow more slowly
than the allowance."""


@dataclass(frozen=True, kw_only=True)
class RoundBudget:
    """What a client may spend in one round, and the prices with which its selection starts.

    Attributes:
        budget_j: joules of everything inside the boundary; None where the rule knows no budget.
        confidence: probability with which the true joules shall stay within it.
        fixed_j: predicted joules that do not depend on the choice.
        fixed_upper_j: their upper bound.
        dense_j: predicted joules if everything is kept, fixed ones included.
        at_least: smallest magnitude that ``threshold`` keeps.
        prices: at the uniform density that the budget affords.
        allowance_j: marginal joules that the budget affords at these prices.
    """

    budget_j: float | None
    confidence: float
    fixed_j: float
    fixed_upper_j: float
    dense_j: float
    at_least: float | None
    prices: CostVector
    allowance_j: float


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A selection, what exactly it costs, and the prices that it was made with.

    Attributes:
        selection: the coordinates.
        cost: joules of this mask by the lines that it touches.
        upper_j: upper bound of its total.
        prices: that it was made with.
        at_least: smallest magnitude that ``threshold`` keeps.
        selections: how often prices were adjusted until it fitted.
    """

    selection: Selection
    cost: MaskCost
    upper_j: float
    prices: CostVector
    at_least: float | None
    selections: int

    @property
    def prices_j(self) -> Mapping[str, float]:
        """Joules per coordinate by tensor."""
        return self.prices.prices_j

    @property
    def priced_j(self) -> float:
        """The kept coordinates at these prices; ``cwmp-block`` spends by lines, other rules exactly this."""
        by_lines = self.selection.rule == "cwmp-block"
        return self.cost.priced_j if by_lines else self.selection.spent_j


def upper_bound_j(estimate: Estimate, confidence: float) -> float:
    """What the true joules stay below with some probability, by Student's t (GUM G.3, one-sided)."""
    t = student_t(confidence, estimate.degrees_of_freedom)
    return estimate.value + t * estimate.standard_uncertainty


def plan_budget(
    costs: CostVector,
    *,
    rule: RuleName,
    budget_j: float | None,
    budget_fraction: float | None,
    confidence: float,
    at_least: float | None = None,
) -> RoundBudget:
    """Resolve a budget and find the uniform density that it affords.

    Args:
        costs: prices of the network at any density.
        rule: ``dense`` knows no budget.
        budget_j: joules of one client and round, fixed ones included.
        budget_fraction: or the fixed joules and this fraction of the others that keeping everything takes.
            No selection can save the fixed joules, so a fraction of their sum could be impossible.
        confidence: probability with which the true joules shall stay within the budget.
        at_least: smallest magnitude that ``threshold`` keeps, which needs one.

    Raises:
        UsageError: the budget does not cover the fixed joules and the cheapest coordinate.
    """
    everything = {name: _spread(costs, name, 1.0) for name in costs.tensors}
    dense = costs.evaluate(everything).total_j
    fixed_upper_j = upper_bound_j(costs.evaluate({}).total_j, confidence)
    dense_upper_j = upper_bound_j(dense, confidence)
    if rule == "dense":
        budget_j = None
    elif budget_fraction is not None:
        budget_j = fixed_upper_j + budget_fraction * (dense_upper_j - fixed_upper_j)
    density = 1.0
    if budget_j is not None and budget_j < dense_upper_j:
        density = _affordable_density(costs, budget_j, fixed_upper_j, confidence)
    prices = costs.at_density(density)
    spread = {name: _spread(costs, name, density) for name in costs.tensors}
    return RoundBudget(
        budget_j=budget_j,
        confidence=confidence,
        fixed_j=costs.fixed_j.value,
        fixed_upper_j=fixed_upper_j,
        dense_j=dense.value,
        at_least=at_least,
        prices=prices,
        # A sum of equal prices, rounded, must not cost the last coordinate its place.
        allowance_j=prices.evaluate(spread).priced_j * (1 + 1e-12),
    )


def select_within(
    update: Mapping[str, Tensor],
    budget: RoundBudget,
    *,
    rule: RuleName,
    seed: int,
    equal_prices: bool = False,
) -> Choice:
    """Choose coordinates whose upper bound of predicted joules is within the budget.

    ``dense`` keeps everything, whatever it costs. Of the selections that fit, the one that retains the
    largest squared norm is returned; one that keeps nothing always fits.

    Args:
        update: what the client has learned, by parameter name.
        budget: from ``plan_budget``.
        rule: how coordinates are ranked.
        seed: of the order of ``randomk``, the same in every adjustment.
        equal_prices: let the rule rank by one price for all coordinates; joules and budget stay as they are.
    """
    if equal_prices:
        rule = _at_equal_prices(rule)
    prices, allowance_j = budget.prices, budget.allowance_j
    if budget.budget_j is None or rule == "dense":
        return _choose(update, prices, allowance_j, budget, rule, seed, 1)
    room_j = budget.budget_j - budget.fixed_upper_j
    best: Choice | None = None
    for count in range(1, MAX_SELECTIONS + 1):
        choice = _choose(update, prices, allowance_j, budget, rule, seed, count)
        used = (choice.upper_j - budget.fixed_upper_j) / room_j
        if choice.upper_j <= budget.budget_j and (best is None or _retained(choice) > _retained(best)):
            best = choice
        if choice.selection.kept == 0 or LEAST_USED <= used <= 1 or (used < 1 and _takes_all(choice)):
            break
        prices = prices.at_density(_densities(choice.selection))
        allowance_j = _priced_j(choice, prices) * (AIM / used) ** CATCH_UP
    while best is None:
        allowance_j /= 2
        count += 1
        choice = _choose(update, prices, allowance_j, budget, rule, seed, count)
        best = choice if choice.upper_j <= budget.budget_j else None
    return best


def select_again(update: Mapping[str, Tensor], choice: Choice, *, seed: int) -> Selection:
    """The one selection that is priced: with the last prices, of the same update and seed."""
    selection = choice.selection
    return _selected(
        update, choice.prices, selection.budget_j, selection.rule, seed, at_least=choice.at_least
    )


def _choose(
    update: Mapping[str, Tensor],
    prices: CostVector,
    allowance_j: float,
    budget: RoundBudget,
    rule: RuleName,
    seed: int,
    count: int,
) -> Choice:
    selection = _selected(update, prices, allowance_j, rule, seed, at_least=budget.at_least)
    cost = prices.evaluate(selection.bitmasks)
    return Choice(
        selection=selection,
        cost=cost,
        upper_j=upper_bound_j(cost.total_j, budget.confidence),
        prices=prices,
        at_least=budget.at_least,
        selections=count,
    )


def _selected(
    update: Mapping[str, Tensor],
    prices: CostVector,
    allowance_j: float,
    rule: RuleName,
    seed: int,
    *,
    at_least: float | None,
) -> Selection:
    if rule == "cwmp-block":
        blocks = {name: cost.block for name, cost in prices.tensors.items()}
        return select_blocks(update, blocks, allowance_j, scalar_prices_j=prices.prices_j)
    return select(
        update,
        prices.prices_j,
        allowance_j,
        rule=rule,
        at_least=at_least if rule == "threshold" else None,
        generator=torch.Generator().manual_seed(seed) if rule == "randomk" else None,
    )


def _priced_j(choice: Choice, prices: CostVector) -> float:
    """What its rule would count for the same coordinates at other prices."""
    touched = choice.cost.touched
    if choice.selection.rule == "cwmp-block":
        blocks = {name: prices.tensors[name].block for name in touched}
        return sum(
            blocks[name].open_j * part.lines + blocks[name].element_j * part.kept
            for name, part in touched.items()
        )
    return sum(prices.prices_j[name] * part.kept for name, part in touched.items())


def _at_equal_prices(rule: RuleName) -> RuleName:
    """The rule that ranks as this one does where all prices are c: g²/c and |g|/c are in the order of |g|."""
    return "topk" if rule in ("cwmp", "cwmp-l1", "cwmp-block") else rule


def _retained(choice: Choice) -> float:
    return choice.selection.retained_squared_norm


def _takes_all(choice: Choice) -> bool:
    """Whether nothing but zero gradients is left."""
    return choice.selection.kept_all_but_zeros


def _densities(selection: Selection) -> dict[str, float]:
    """Kept fractions; a tensor that keeps nothing is priced as if it kept one coordinate."""
    return {
        name: max(density, 1 / max(selection.bitmasks[name].shape.numel(), 1))
        for name, density in selection.density_by_tensor.items()
    }


def _spread(costs: CostVector, name: str, density: float) -> Touched:
    """What keeping a fraction of a tensor at random touches on average."""
    layout = costs.tensors[name].layout
    per_coordinate = expected_touched(layout, costs.pricing.memory, density)
    kept = layout.numel * density
    return Touched(kept=kept, lines=kept * per_coordinate.lines, rows=kept * per_coordinate.rows)


def _affordable_density(costs: CostVector, budget_j: float, fixed_upper_j: float, confidence: float) -> float:
    """The uniform density at which the upper bound of the joules is the budget, at least one coordinate."""

    def excess_j(density: float) -> float:
        spread = {name: _spread(costs, name, density) for name in costs.tensors}
        return upper_bound_j(costs.evaluate(spread).total_j, confidence) - budget_j

    one = Touched(kept=1, lines=1, rows=1)
    smallest_j = min(upper_bound_j(costs.evaluate({name: one}).total_j, confidence) for name in costs.tensors)
    if budget_j < smallest_j:
        raise UsageError(
            f"The budget of {budget_j:.4g} J does not cover the fixed {fixed_upper_j:.4g} J of one client and"
            f" round (upper bound at {100 * confidence:g} % confidence) and one coordinate.",
            # Rounded up, so that the figure itself is enough.
            next_step=f"The smallest useful budget is {1.0005 * smallest_j:.4g} J; or use budget_fraction.",
        )
    lowest, highest = 1 / costs.coordinates, 1 - 1e-9
    if excess_j(lowest) >= 0:
        return lowest
    if excess_j(highest) <= 0:
        return highest
    return float(brentq(excess_j, lowest, highest, xtol=1e-9))
