"""Which gradient coordinates are worth their joules: scores, costs and a budget in, a Selection out.

Maximise Σ z_i·g_i² under Σ z_i·c_i ≤ B, z_i ∈ {0, 1}: a knapsack. Its linear relaxation is solved by sorting
on g²/c and taking a prefix (Dantzig, Operations Research 5 (1957) 266), which also bounds how far the prefix
can be from the best set: by less than the value of the first coordinate left out.

Rules of this module:
- A ranked rule sorts the non-zero coordinates of all tensors by (score descending, index ascending) and
  keeps the longest prefix whose summed cost is within the budget. The index runs through the tensors in the
  order of the mapping, and through each tensor in row-major order.
- Scores are float64. The cost of a set is the sum of its float64 costs, rounded once (``math.fsum``), so it
  does not depend on the order of summation: equal sets cost the same, and k equal costs c cost k·c.
- Only ``dense`` keeps a gradient that is zero or spends more than the budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

import torch
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import EmptyNetworkError, InvalidCostError, NonFiniteGradientError

Rule = Literal["cwmp", "cwmp-l1", "topk", "randomk", "dense"]
"""How coordinates are ranked.

``cwmp``      g²/c: optimal for the squared norm that is kept.
``cwmp-l1``   |g|/c: optimal for the absolute sum that is kept, the score of arXiv 2603.22465.
``topk``      |g|: the largest gradients, whatever they cost.
``randomk``   a random order.
``dense``     everything, whatever the budget.
"""

RULES: tuple[Rule, ...] = get_args(Rule)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The coordinates to keep, what they cost, and how good the choice is.

    Attributes:
        rule: how they were ranked.
        masks: by tensor, True where the coordinate is kept; shape and device of its gradient.
        budget_j: joules that could be spent.
        spent_j: summed cost of the kept coordinates, in joules.
        kept: number of kept coordinates.
        coordinates: number of all coordinates.
        retained_squared_norm: Σ g² over the kept coordinates.
        total_squared_norm: Σ g² over all.
        retained_l1: Σ |g| over the kept coordinates.
        total_l1: Σ |g| over all.
        threshold: λ, the score of the first ranked coordinate that was left out, 0 if none was: every kept
            score is at least λ, every other one at most. None for the rules without a score.
        lp_bound: what no selection within the budget can exceed: the optimum of the linear relaxation, in
            squared norm for ``cwmp``, in absolute sum for ``cwmp-l1``; None for the other rules.
        density_by_tensor: kept fraction of each tensor.
        warnings: what the caller must know.
    """

    rule: Rule
    masks: Mapping[str, Tensor]
    budget_j: float
    spent_j: float
    kept: int
    coordinates: int
    retained_squared_norm: float
    total_squared_norm: float
    retained_l1: float
    total_l1: float
    threshold: float | None
    lp_bound: float | None
    density_by_tensor: Mapping[str, float]
    warnings: tuple[str, ...] = ()

    @property
    def within_budget(self) -> bool:
        """Whether the selection costs no more than the budget; only ``dense`` can exceed it."""
        return self.spent_j <= max(self.budget_j, 0.0)

    @property
    def retained_fraction(self) -> float:
        """Kept share of the squared norm; 1 where every gradient is zero, because nothing is lost."""
        return self.retained_squared_norm / self.total_squared_norm if self.total_squared_norm else 1.0

    @property
    def density(self) -> float:
        """Kept fraction of all coordinates."""
        return self.kept / self.coordinates

    @property
    def gap(self) -> float | None:
        """Bound minus what was achieved, in the unit of ``lp_bound``; None where there is no bound."""
        if self.lp_bound is None:
            return None
        achieved = self.retained_l1 if self.rule == "cwmp-l1" else self.retained_squared_norm
        return max(self.lp_bound - achieved, 0.0)


@dataclass(frozen=True, kw_only=True)
class _Update:
    """All tensors as one: ``gradient`` and ``cost``, float64, shape (n,), in the order of the index."""

    gradients: Mapping[str, Tensor]
    gradient: Tensor
    cost: Tensor


def select(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float | Tensor],
    budget_j: float,
    *,
    rule: Rule,
    generator: torch.Generator | None = None,
) -> Selection:
    """Choose the coordinates that the budget is spent on.

    Args:
        gradients: floating-point gradient by tensor name.
        costs: joules per coordinate by tensor name: one number, or a tensor that broadcasts to the shape of
            the gradient. Names without a gradient are ignored.
        budget_j: joules for all coordinates together, fixed costs already taken off.
        rule: how coordinates are ranked.
        generator: random order of ``randomk``; torch's own generator by default.

    Raises:
        EmptyNetworkError: there is no coordinate.
        NonFiniteGradientError: a gradient, or its square, is NaN or infinite.
        InvalidCostError: a cost is zero, negative or not finite.
        UsageError: the rule is unknown, the budget is not a number, a cost is missing or has another shape,
            or a gradient is not of floating point.
    """
    if rule not in RULES:
        raise UsageError(f"{rule!r} is no selection rule.", next_step=f"Rules: {', '.join(RULES)}.")
    if math.isnan(budget_j):
        raise UsageError("The energy budget is not a number.", next_step="Give a budget in joules.")
    gradient = _flat_gradients(gradients)
    cost = _flat_costs(gradients, costs, gradient.device)
    update = _Update(gradients=gradients, gradient=gradient, cost=cost)
    if rule == "dense":
        everything = torch.ones_like(gradient, dtype=torch.bool)
        return _selection(update, rule, budget_j, everything, threshold=None)
    order, score = _ranking(update, rule, generator)
    count = _affordable(cost[order], budget_j)
    mask = torch.zeros_like(gradient, dtype=torch.bool)
    mask[order[:count]] = True
    # The score of the first coordinate left out; an empty sum, zero, if none was.
    threshold = None if score is None else float(score[order[count : count + 1]].sum())
    return _selection(update, rule, budget_j, mask, threshold=threshold)


def retained_at(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float | Tensor],
    budget_j: float,
    rule: Rule,
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Share of the squared norm that a rule keeps of this update for these joules.

    No set that costs at most what ``cwmp`` spent keeps more than ``cwmp`` (Everett, Operations Research 11
    (1963) 399): give its ``spent_j`` as the budget to compare other rules with it at the same joules.

    Raises:
        UsageError: as ``select``.
    """
    return select(gradients, costs, budget_j, rule=rule, generator=generator).retained_fraction


def _score(rule: Rule, gradient: Tensor, cost: Tensor) -> Tensor:
    """What coordinates are ranked by, largest first; shapes (n,)."""
    if rule == "cwmp":
        return gradient.square() / cost
    if rule == "cwmp-l1":
        return gradient.abs() / cost
    return gradient.abs()


def _ranking(update: _Update, rule: Rule, generator: torch.Generator | None) -> tuple[Tensor, Tensor | None]:
    """Indices of the non-zero coordinates in the order of the rule, and the score of every coordinate."""
    candidates = update.gradient.nonzero().squeeze(1)
    if rule == "randomk":
        device = "cpu" if generator is None else generator.device
        order = torch.randperm(len(candidates), generator=generator, device=device)
        return candidates[order.to(candidates.device)], None
    score = _score(rule, update.gradient, update.cost)
    order = torch.sort(score[candidates], descending=True, stable=True).indices
    return candidates[order], score


def _affordable(ranked_cost: Tensor, budget_j: float) -> int:
    """Length of the longest prefix whose summed cost, rounded once, is within the budget.

    A running sum of n positive numbers is off by less than a factor 1 ± 2·n·ε. Outside of that band around
    the budget it decides; inside, the exactly rounded sum does, by bisection.
    """
    running = torch.cumsum(ranked_cost, 0)
    slack = 2 * len(ranked_cost) * torch.finfo(torch.float64).eps
    limits = torch.tensor([budget_j * (1 - slack), budget_j * (1 + slack)], dtype=torch.float64)
    low, high = torch.searchsorted(running, limits.to(running.device), right=True).tolist()
    while low < high:
        middle = (low + high + 1) // 2
        if math.fsum(ranked_cost[:middle].tolist()) <= budget_j:
            low = middle
        else:
            high = middle - 1
    return int(low)


def _selection(
    update: _Update, rule: Rule, budget_j: float, mask: Tensor, *, threshold: float | None
) -> Selection:
    chosen = update.gradient[mask]
    spent_j = math.fsum(update.cost[mask].tolist())
    squared, absolute = float(chosen.square().sum()), float(chosen.abs().sum())
    bound = None
    if threshold is not None and rule != "topk":
        # The rest of the budget, spent at the score of the first coordinate left out.
        rest = threshold * max(budget_j - spent_j, 0.0) if threshold else 0.0
        bound = (squared if rule == "cwmp" else absolute) + rest
    masks = _split(mask, update.gradients)
    densities = {name: float(part.sum()) / max(part.numel(), 1) for name, part in masks.items()}
    return Selection(
        rule=rule,
        masks=MappingProxyType(masks),
        budget_j=float(budget_j),
        spent_j=spent_j,
        kept=len(chosen),
        coordinates=len(mask),
        retained_squared_norm=squared,
        total_squared_norm=float(update.gradient.square().sum()),
        retained_l1=absolute,
        total_l1=float(update.gradient.abs().sum()),
        threshold=threshold,
        lp_bound=bound,
        density_by_tensor=MappingProxyType(densities),
        warnings=_warnings(update, rule, budget_j, spent_j, len(chosen)),
    )


def _warnings(update: _Update, rule: Rule, budget_j: float, spent_j: float, kept: int) -> tuple[str, ...]:
    if kept and spent_j > budget_j:
        return (f"{rule} keeps everything and spends {spent_j:.4g} J of a budget of {budget_j:.4g} J.",)
    if kept:
        return ()
    if not update.gradient.any():
        return ("Every gradient is zero; nothing is kept.",)
    if budget_j <= 0:
        return (f"The energy budget of {budget_j:.4g} J is not positive; nothing is kept.",)
    cheapest_j = float(update.cost[update.gradient != 0].min())
    if budget_j < cheapest_j:
        return (
            f"The energy budget of {budget_j:.4g} J is below the cheapest coordinate, {cheapest_j:.4g} J; "
            "nothing is kept.",
        )
    return (
        f"The coordinate that {rule} ranks first costs more than the energy budget of {budget_j:.4g} J; "
        "nothing is kept.",
    )


def _split(flat: Tensor, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
    parts = torch.split_with_sizes(flat, [gradient.numel() for gradient in gradients.values()])
    return {
        name: part.reshape(gradient.shape).to(gradient.device)
        for (name, gradient), part in zip(gradients.items(), parts, strict=True)
    }


def _flat_gradients(gradients: Mapping[str, Tensor]) -> Tensor:
    for name, gradient in gradients.items():
        if not (isinstance(gradient, Tensor) and gradient.is_floating_point()):
            raise UsageError(
                f"The gradient of {name} is no tensor of floating-point numbers.",
                next_step="Leave out parameters that have no gradient.",
            )
    if not any(gradient.numel() for gradient in gradients.values()):
        raise EmptyNetworkError(
            "There is no gradient coordinate to select from.",
            next_step="Give the gradients of at least one trainable parameter.",
        )
    device = next(iter(gradients.values())).device
    flat = torch.cat(
        [gradient.detach().to(device, torch.float64).reshape(-1) for gradient in gradients.values()]
    )
    finite = flat.square().isfinite()
    if not finite.all():
        counts = {name: int((~part).sum()) for name, part in _split(finite, gradients).items()}
        named = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
        raise NonFiniteGradientError(
            f"{sum(counts.values())} gradient coordinates are NaN, infinite or too large to square: {named}.",
            next_step="Lower the learning rate or clip the gradients; no selection was made.",
        )
    return flat


def _flat_costs(
    gradients: Mapping[str, Tensor], costs: Mapping[str, float | Tensor], device: torch.device
) -> Tensor:
    present = {name: gradient for name, gradient in gradients.items() if gradient.numel()}
    missing = [name for name in present if name not in costs]
    if missing:
        raise UsageError(
            f"There is no cost for {', '.join(missing)}.",
            next_step="Make the cost vector from the same network as the gradients.",
        )
    flat = []
    for name, gradient in present.items():
        cost = torch.as_tensor(costs[name], dtype=torch.float64, device=device).detach()
        wrong = ~(cost.isfinite() & (cost > 0))
        if wrong.any():
            raise InvalidCostError(
                f"{int(wrong.sum())} costs of {name} are zero, negative or not finite, "
                f"such as {float(cost[wrong][0])} J.",
                next_step="A coordinate that costs nothing has no place in a budget; check the cost model.",
            )
        try:
            flat.append(cost.broadcast_to(gradient.shape).reshape(-1))
        except RuntimeError as error:
            raise UsageError(
                f"The costs of {name} have shape {tuple(cost.shape)}, its gradient {tuple(gradient.shape)}.",
                next_step="Give one cost, or costs that broadcast to the gradient.",
            ) from error
    return torch.cat(flat)
