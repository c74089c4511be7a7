"""Where λ must lie, from a sample that never leaves the GPU; the margins are those of ``bracket``.

Scores of a sample are sorted by what is linear in the magnitude, |g|, |g|/c or |g|/√c, which float32 holds;
the ends of the bracket are scores of float64 again, so that one score that many share makes a bracket of its
own. Joules are counted in whole shares of their sum: integers add up to the same in any order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cwmp.selection.bracket import FEW_RUNS, Bracket
from cwmp.selection.gpu_layout import RUN
from cwmp.selection.limits import Limits

SHARES = 1 << 61
"""In how many shares a sum of joules is counted."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Values and weights of runs of neighbours.

    Attributes:
        values: linear in |g|, float32, shape (runs, RUN); 0 for what cannot be kept.
        scores_at: float64 scores of some of them by their numbers, shape (n,).
        joules: cost of a coordinate times the number that it stands for, float64, shape (runs,).
        numbers: the number that it stands for, float64, shape (runs,).
        unread: share of all coordinates that were not read.
    """

    values: Tensor
    scores_at: Callable[[Tensor], Tensor]
    joules: Tensor
    numbers: Tensor
    unread: float


def in_shares(amounts: Tensor, total: float | Tensor) -> Tensor:
    """Amounts as whole numbers of shares of their sum."""
    return (amounts * (SHARES / total)).to(torch.int64)


def share_of(amount: float, total: float) -> int:
    """An amount in shares of a sum, at most that sum twice."""
    return int(max(min(amount / total, 2.0), 0.0) * SHARES)


def bracket_of(sample: Sample, limits: Limits, known: Bracket, deviations: float) -> Bracket:
    """Scores between which the threshold lies, as far as the sample tells; arguments as of ``bracket``."""
    ordered, order = torch.sort(sample.values.reshape(-1), descending=True)
    asked = []
    if limits.units is not None:
        asked.append(_ends(sample, ordered, order, sample.joules, limits.budget_j, deviations))
    if limits.count is not None:
        asked.append(_ends(sample, ordered, order, sample.numbers, float(limits.count), deviations))
    ends = torch.stack(asked).tolist()
    least = min(max(known.least, *(low for low, _ in ends)), known.most)
    most = min(known.most, max(high for _, high in ends))
    return Bracket(least=least, most=max(least, most))


def _ends(
    sample: Sample, ordered: Tensor, order: Tensor, weights: Tensor, limit: float, deviations: float
) -> Tensor:
    """Lowest and highest score, shape (2,): 0 and infinity where the sample says nothing."""
    total = weights.sum() * RUN
    spent = in_shares(weights, total)[order // RUN].cumsum(0)
    last = ordered.numel() - 1
    limit_shares = (torch.full_like(total, limit) / total).clamp(0, 2) * SHARES
    crossing = torch.searchsorted(spent, limit_shares.to(torch.int64).reshape(1), right=True).clamp(max=last)
    of_run = (sample.values >= ordered[crossing]).sum(1) * weights
    # Strata next to each other are alike; see ``bracket``.
    variance = of_run.diff().square().sum() / 2 * of_run.numel() / max(of_run.numel() - 1, 1)
    margin = (deviations * (variance * sample.unread).sqrt() + 1e-9 * limit) / total * SHARES
    edges = torch.stack([limit_shares + margin, limit_shares - margin]).clamp(0, 2 * SHARES).to(torch.int64)
    places = torch.searchsorted(spent, edges)
    low, high = sample.scores_at(order[places.clamp(max=last)])
    enough = (limit_shares > margin) & (((of_run > 0).sum() >= FEW_RUNS) | (sample.unread == 0))
    high = torch.where(enough & (places[1] > 0), high, math.inf)
    low = torch.where(places[0] <= last, low, 0.0)
    return torch.stack([low, high])
