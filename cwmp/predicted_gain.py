"""How much of the squared norm each rule keeps for its joules, before any training: closed forms and data.

Coordinates come in groups (tensors) with a count n, a price c and a scale of their gradients. Every ranked
rule keeps |g| > τ with τ = θ·c^a: a = 0 is Top-K, 1 is |g|/c, 1/2 is g²/c. With u = τ/scale:

    Laplace    P(kept) = e^-u            E g² kept = e^-u (1 + u + u²/2)·E g²
    Gauss      P(kept) = erfc(u/√2)      E g² kept = [erfc(u/√2) + √(2/π) u e^(-u²/2)]·E g²

θ follows from the budget, Σ n·c·P(kept) = B, because the left side falls with θ. Real gradients have heavier
tails than either: ``empirical_gains`` puts histograms of an earlier update in their place, and ``gains_on``
takes gradients as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import erfc
from torch import Tensor

from calibration_data import UsageError
from cwmp.cost_vector import CostVector
from cwmp.gradient_histogram import GradientHistogram
from cwmp.selection import select

Distribution = Literal["laplace", "gauss"]
PricedRule = Literal["cwmp", "cwmp-l1", "topk"]
Array = NDArray[np.float64]

BUDGET_SHARES = (0.01, 0.05, 0.2)
"""Budgets that are reported, as shares of the joules of keeping every coordinate."""

NEGLIGIBLE_GAIN = 0.005
"""Half a point of the squared norm: below it, prices are not worth the trouble."""

_EXPONENT: Mapping[PricedRule, float] = {"topk": 0.0, "cwmp": 0.5, "cwmp-l1": 1.0}


@dataclass(frozen=True, kw_only=True)
class Group:
    """Coordinates with one price and one scale.

    Attributes:
        coordinates: how many.
        cost_j: joules of keeping one.
        scale: of their gradients, relative to the other groups: mean of |g| (Laplace), deviation (Gauss).
    """

    coordinates: float
    cost_j: float
    scale: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Gain:
    """Share of the squared norm that each rule keeps at one budget.

    Attributes:
        budget_share: budget as a share of the joules of keeping every coordinate.
        basis: distribution that was assumed, an ``earlier update`` whose histograms stand for the next, or
            ``gradients`` that were given.
        topk: kept by the largest |g|.
        cwmp_l1: kept by the largest |g|/c.
        cwmp: kept by the largest g²/c.
    """

    budget_share: float
    basis: Literal["laplace", "gauss", "earlier update", "gradients"]
    topk: float
    cwmp_l1: float
    cwmp: float

    @property
    def over_topk(self) -> float:
        """What prices bring."""
        return self.cwmp - self.topk


def retained_fraction(
    groups: Sequence[Group], budget_share: float, rule: PricedRule, distribution: Distribution = "laplace"
) -> float:
    """Expected share of the squared norm that a rule keeps.

    Args:
        groups: coordinates by price and scale.
        budget_share: budget as a share of the joules of keeping every coordinate, in (0, 1].
        rule: how coordinates are ranked.
        distribution: of the gradients in each group.

    Raises:
        UsageError: there is no group, or the budget share is not in (0, 1].
    """
    if not groups or not 0 < budget_share <= 1:
        raise UsageError(
            f"A gain needs a group of coordinates and a budget share in (0, 1], got {budget_share}."
        )
    count, cost, scale = (
        np.array([getattr(group, name) for group in groups], dtype=np.float64)
        for name in ("coordinates", "cost_j", "scale")
    )
    kept, squared = _FORMS[distribution]
    slope = (cost / cost.max()) ** _EXPONENT[rule] / scale
    joules = count * cost / float(np.sum(count * cost))
    norm = count * scale**2 / float(np.sum(count * scale**2))

    def excess(theta: float) -> float:
        return float(joules @ kept(theta * slope)) - budget_share

    theta = 0.0
    if budget_share < 1:
        above = 1.0
        while excess(above) > 0:
            above *= 2
        theta = float(brentq(excess, 0.0, above, xtol=1e-300, rtol=1e-14, maxiter=1000))
    return float(norm @ squared(theta * slope))


def predicted_gains(
    groups: Sequence[Group],
    budget_shares: Sequence[float] = BUDGET_SHARES,
    distribution: Distribution = "laplace",
) -> tuple[Gain, ...]:
    """What each rule is expected to keep at some budgets.

    Raises:
        UsageError: as ``retained_fraction``.
    """
    return tuple(
        Gain(
            budget_share=share,
            basis=distribution,
            topk=retained_fraction(groups, share, "topk", distribution),
            cwmp_l1=retained_fraction(groups, share, "cwmp-l1", distribution),
            cwmp=retained_fraction(groups, share, "cwmp", distribution),
        )
        for share in budget_shares
    )


def price_groups(vector: CostVector) -> tuple[Group, ...]:
    """The tensors of a cost vector as groups, gradients of equal scale assumed for want of better."""
    return tuple(
        Group(coordinates=cost.layout.numel, cost_j=cost.value_j) for cost in vector.tensors.values()
    )


def gains_on(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float | Tensor],
    budget_shares: Sequence[float] = BUDGET_SHARES,
) -> tuple[Gain, ...]:
    """What each rule keeps of these very gradients, all at the joules that ``cwmp`` spent.

    Raises:
        UsageError: as ``select``.
    """
    dense_j = select(gradients, costs, math.inf, rule="dense").spent_j
    gains = []
    for share in budget_shares:
        cwmp = select(gradients, costs, share * dense_j, rule="cwmp")
        others = {
            rule: select(gradients, costs, cwmp.spent_j, rule=rule).retained_fraction
            for rule in ("topk", "cwmp-l1")
        }
        gains.append(
            Gain(
                budget_share=share,
                basis="gradients",
                topk=others["topk"],
                cwmp_l1=others["cwmp-l1"],
                cwmp=cwmp.retained_fraction,
            )
        )
    return tuple(gains)


def empirical_gains(
    histograms: Mapping[str, GradientHistogram],
    prices_j: Mapping[str, float],
    budget_shares: Sequence[float] = BUDGET_SHARES,
) -> tuple[Gain, ...]:
    """What each rule is expected to keep of gradients that are distributed like those of an earlier update.

    Args:
        histograms: of the earlier update, by tensor.
        prices_j: joules per coordinate by tensor.
        budget_shares: budgets as shares of the joules of keeping every coordinate.

    Raises:
        UsageError: a price is missing, or a budget share is not in (0, 1].
    """
    missing = [name for name in histograms if name not in prices_j]
    if missing or not all(0 < share <= 1 for share in budget_shares):
        raise UsageError(
            f"A gain needs a price of {', '.join(missing) or 'every tensor'} and budget shares in (0, 1]."
        )
    return tuple(
        Gain(
            budget_share=share,
            basis="earlier update",
            topk=_empirical_fraction(histograms, prices_j, share, "topk"),
            cwmp_l1=_empirical_fraction(histograms, prices_j, share, "cwmp-l1"),
            cwmp=_empirical_fraction(histograms, prices_j, share, "cwmp"),
        )
        for share in budget_shares
    )


def _empirical_fraction(
    histograms: Mapping[str, GradientHistogram],
    prices_j: Mapping[str, float],
    budget_share: float,
    rule: PricedRule,
) -> float:
    total = math.fsum(histogram.squared_norm for histogram in histograms.values())
    if total == 0:
        return 0.0
    highest_j = max(prices_j[name] for name in histograms)
    slope = {name: (prices_j[name] / highest_j) ** _EXPONENT[rule] for name in histograms}
    budget_j = budget_share * math.fsum(
        prices_j[name] * histogram.coordinates for name, histogram in histograms.items()
    )

    def excess_j(log_theta: float) -> float:
        spent_j = math.fsum(
            prices_j[name] * histogram.kept(2**log_theta * slope[name])
            for name, histogram in histograms.items()
        )
        return spent_j - budget_j

    edges = [histogram.edges - math.log2(slope[name]) for name, histogram in histograms.items()]
    lowest, highest = min(float(edge[0]) for edge in edges), max(float(edge[-1]) for edge in edges)
    # Where the budget is worth more than all that is not zero, everything is kept.
    theta = 2.0 ** float(brentq(excess_j, lowest, highest)) if excess_j(lowest) > 0 else 0.0
    kept = math.fsum(histogram.squared(theta * slope[name]) for name, histogram in histograms.items())
    return kept / total


def second_order_gain(budget_share: float, var_ln_c: float, distribution: Distribution = "laplace") -> float:
    """Gain of g²/c over Top-K for small differences between prices that do not depend on |g|.

    Keeping |g| > θ·c^a loses f·τ³·(1/2 − a)²·Var(ln c) against the optimum, with f the density of |g| at the
    threshold τ. In units of E g² and for a = 0 that is ρ·u³·Var/8 (Laplace) and √(2/π)·e^(-u²/2)·u³·Var/4
    (Gauss).

    Args:
        budget_share: ρ, which is also the kept fraction where prices are almost equal.
        var_ln_c: variance of ln(price) over coordinates.
        distribution: of the gradients.
    """
    if distribution == "laplace":
        u = math.log(1 / budget_share)
        return budget_share * u**3 * var_ln_c / 8
    u = float(brentq(lambda x: erfc(x / math.sqrt(2)) - budget_share, 0.0, 40.0))
    return math.sqrt(2 / math.pi) * math.exp(-(u**2) / 2) * u**3 * var_ln_c / 4


def verdict(var_ln_c: float, gains: Sequence[Gain]) -> str:
    """Whether prices are worth it here, in one sentence.

    Args:
        var_ln_c: variance of ln(price) over coordinates.
        gains: at the budgets that matter.
    """
    best = max(gains, key=lambda gain: gain.over_topk)
    points = f"{100 * max(best.over_topk, 0.0):.2g} points of the squared norm"
    budget = f"a budget of {100 * best.budget_share:.3g} % of the prices of all coordinates together"
    if best.over_topk < NEGLIGIBLE_GAIN:
        return (
            f"Top-K is as good here: with Var(ln c) = {var_ln_c:.2g}, prices are predicted to keep at most "
            f"{points} more, at {budget}."
        )
    return (
        f"Prices are worth it here: with Var(ln c) = {var_ln_c:.2g}, cwmp is predicted to keep up to "
        f"{points} more than Top-K, at {budget}."
    )


def _laplace_kept(u: Array) -> Array:
    return np.exp(-u)


def _laplace_squared(u: Array) -> Array:
    return np.exp(-u) * (1 + u + u**2 / 2)


def _gauss_kept(u: Array) -> Array:
    return np.asarray(erfc(u / math.sqrt(2)), dtype=np.float64)


def _gauss_squared(u: Array) -> Array:
    return _gauss_kept(u) + math.sqrt(2 / math.pi) * u * np.exp(-(u**2) / 2)


_FORMS: Mapping[Distribution, tuple[Callable[[Array], Array], Callable[[Array], Array]]] = {
    "laplace": (_laplace_kept, _laplace_squared),
    "gauss": (_gauss_kept, _gauss_squared),
}
