"""Where the budget ends in a list that is sorted on the GPU.

Sums of whole shares propose the place there; a few coordinates around it come to the host, which decides by
exact sums, and moves on where the proposal was off.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection.exact import from_units, to_units
from cwmp.selection.gpu.sheet import SHARES, in_shares, share_of
from cwmp.selection.limits import Limits
from cwmp.selection.prefix import FEW, affordable
from cwmp.selection.rules import MAGNITUDE_PER_JOULE, SQUARE_PER_JOULE

Indices = NDArray[np.int64]
A = TypeVar("A", Tensor, NDArray[np.float64])


def scores_of(magnitudes: A, prices: A, kind: int) -> A:
    """As ``scores.score_of`` has them, bit for bit; both float64."""
    if kind == SQUARE_PER_JOULE:
        return magnitudes * magnitudes / prices
    return magnitudes / prices if kind == MAGNITUDE_PER_JOULE else magnitudes


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Joules per coordinate of each tensor: on the host, on the device, and exactly."""

    joules: NDArray[np.float64]
    units: tuple[int, ...]
    device: torch.device

    @classmethod
    def of(cls, prices_j: Sequence[float], device: torch.device) -> Prices:
        """The same prices in three forms."""
        return cls(
            joules=np.array(prices_j, dtype=np.float64),
            units=tuple(to_units(price) for price in prices_j),
            device=device,
        )

    @cached_property
    def on_device(self) -> Tensor:
        """Joules on the device, copied there when first asked for."""
        return torch.from_numpy(self.joules).to(self.device)

    def units_of(self, counts: Indices) -> int:
        """Exact cost of so many coordinates of each tensor."""
        return sum(int(count) * units for count, units in zip(counts, self.units, strict=True))


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """A list by (score descending, index ascending), on the device; shapes (listed,)."""

    scores: Tensor
    slots: Tensor
    magnitudes: Tensor
    tensors: Tensor


@dataclass(frozen=True, kw_only=True)
class End:
    """Where the affordable part of a list ends.

    Attributes:
        length: of that part.
        units: its exact cost, with that of what was kept before.
        counts: its coordinates by tensor.
        threshold: the score of the first that is not kept, None if all are.
    """

    length: int
    units: int
    counts: Indices
    threshold: float | None


def end_of(
    ranked: Ranked, prices: Prices, limits: Limits, inside: Sequence[int], kept_units: int, kept: int
) -> End:
    """Find the longest affordable part.

    Args:
        ranked: the list.
        prices: of the tensors.
        limits: of all together.
        inside: coordinates of the list by tensor.
        kept_units: exact cost of what is kept already.
        kept: its number.
    """
    total = ranked.scores.numel()
    size = min(FEW, total)
    begin = _guess(ranked, prices, limits, inside, kept_units, kept).sub(size // 2).clamp(0, total - size)
    while True:
        at, counts, tensors, scores = _few_from(ranked, begin, size, len(inside))
        units, count = kept_units + prices.units_of(counts), kept + int(counts.sum())
        prefix = affordable(scores, prices.joules[tensors], units, count, limits)
        length = prefix.also.size
        if length == size and at + size < total:
            begin = (begin + size).clamp(max=total - size)
        elif length == 0 and at > 0 and not limits.allow(units, count):
            begin = (begin - size).clamp(min=0)
        else:
            counts = counts + np.bincount(tensors[:length], minlength=len(inside))
            return End(length=at + length, units=prefix.units, counts=counts, threshold=prefix.threshold)


def _guess(
    ranked: Ranked, prices: Prices, limits: Limits, inside: Sequence[int], kept_units: int, kept: int
) -> Tensor:
    """About how many are affordable, shape (1,)."""
    guess = torch.full((1,), ranked.scores.numel(), device=ranked.scores.device)
    if limits.units is not None:
        total_j = float(prices.joules @ np.array(inside))
        room = share_of(limits.budget_j - from_units(kept_units), total_j)
        shares = torch.from_numpy(in_shares(prices.joules, total_j)).to(prices.device)
        spent = shares[ranked.tensors].cumsum(0)
        edge = torch.full_like(guess, min(room, 2 * SHARES - 1))
        guess = torch.searchsorted(spent, edge, right=True)
    if limits.count is not None:
        guess = guess.clamp(max=max(limits.count - kept, 0))
    return guess


def _few_from(
    ranked: Ranked, begin: Tensor, size: int, tensors: int
) -> tuple[int, Indices, Indices, NDArray[np.float64]]:
    """Where the few begin, coordinates before them by tensor, and their tensors and scores."""
    device = ranked.scores.device
    before = (torch.arange(ranked.scores.numel(), device=device) < begin).to(torch.int64)
    counts = torch.zeros(tensors, dtype=torch.int64, device=device).index_add_(0, ranked.tensors, before)
    place = begin + torch.arange(size, device=device)
    # Together, so that the host waits once.
    few = torch.cat([begin, counts, ranked.tensors[place], ranked.scores[place].view(torch.int64)])
    at, by_tensor, of, scores = np.split(few.cpu().numpy(), np.cumsum([1, tensors, size]))
    return int(at[0]), by_tensor, of, scores.view(np.float64)
