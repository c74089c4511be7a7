"""Where λ must lie, from a sample that never leaves the GPU; the margins are those of ``bracket``.

Scores of a sample are sorted by what is linear in the magnitude, |g| or |g|/√c, which float32 holds for every
gradient that can be squared. Joules are counted in whole shares of their sum: integers add up to the same in
any order.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from cwmp.selection.bracket import FEW_RUNS, Bracket
from cwmp.selection.gpu_layout import RUN
from cwmp.selection.limits import Limits

SHARES = 1 << 61
"""In how many shares a sum of joules is counted."""
ROUNDING = 1e-6
"""Of scores in float32, to both sides."""


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Values and weights of runs of neighbours.

    Attributes:
        values: linear in |g|, float32, shape (runs, RUN); 0 for what cannot be kept.
        joules: cost of a coordinate times the number that it stands for, float64, shape (runs,).
        numbers: the number that it stands for, float64, shape (runs,).
        unread: share of all coordinates that were not read.
    """

    values: Tensor
    joules: Tensor
    numbers: Tensor
    unread: float


def in_shares(amounts: Tensor, total: float | Tensor) -> Tensor:
    """Amounts as whole numbers of shares of their sum."""
    return (amounts * (SHARES / total)).to(torch.int64)


def share_of(amount: float, total: float) -> int:
    """An amount in shares of a sum, at most that sum twice."""
    return int(max(min(amount / total, 2.0), 0.0) * SHARES)


def bracket_of_values(sample: Sample, limits: Limits, deviations: float) -> tuple[float, float]:
    """Lowest and highest value between which the threshold lies, as far as the sample tells."""
    ordered, order = torch.sort(sample.values.reshape(-1), descending=True)
    runs = order // RUN
    asked = []
    if limits.units is not None:
        asked.append(_ends(sample, ordered, runs, sample.joules, limits.budget_j, deviations))
    if limits.count is not None:
        asked.append(_ends(sample, ordered, runs, sample.numbers, float(limits.count), deviations))
    ends = torch.stack(asked).tolist()
    least = max(low for low, _ in ends)
    return least, max(least, *(high for _, high in ends))


def _ends(
    sample: Sample, ordered: Tensor, runs: Tensor, weights: Tensor, limit: float, deviations: float
) -> Tensor:
    """Both values, shape (2,): float64, infinity or 0 where the sample says nothing."""
    total = weights.sum() * RUN
    spent = in_shares(weights, total)[runs].cumsum(0)
    last = ordered.numel() - 1
    limit_shares = (torch.full_like(total, limit) / total).clamp(0, 2) * SHARES
    crossing = torch.searchsorted(spent, limit_shares.to(torch.int64).reshape(1), right=True).clamp(max=last)
    of_run = (sample.values >= ordered[crossing]).sum(1) * weights
    # Strata next to each other are alike; see ``bracket``.
    variance = of_run.diff().square().sum() / 2 * of_run.numel() / max(of_run.numel() - 1, 1)
    margin = (deviations * (variance * sample.unread).sqrt() + 1e-9 * limit) / total * SHARES
    edges = torch.stack([limit_shares - margin, limit_shares + margin]).to(torch.int64)
    places = torch.searchsorted(spent, edges)
    values = ordered.to(torch.float64)[places.clamp(max=last)]
    enough = (limit_shares > margin) & (((of_run > 0).sum() >= FEW_RUNS) | (sample.unread == 0))
    high = torch.where(enough & (places[0] > 0), values[0], math.inf)
    low = torch.where(places[1] <= last, values[1], 0.0)
    return torch.stack([low, high])


def bracket_within(low: float, high: float, known: Bracket) -> Bracket:
    """Scores a little apart from those of float32, inside what is known."""
    least = min(max(low * (1 - ROUNDING), known.least), known.most)
    return Bracket(least=least, most=max(min(high * (1 + ROUNDING), known.most), least))
