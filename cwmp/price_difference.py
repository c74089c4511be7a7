"""What two cost models ask for the same coordinates: whose prices change, and whether that matters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cost_models import Estimate
from cost_models.difference import differ
from cwmp.cost_vector import CostVector

SAME_SELECTION = 0.01
"""Prices that move together to this are called alike; selection depends on their ratios only."""


@dataclass(frozen=True, kw_only=True)
class PriceDifference:
    """One tensor under two cost models.

    Attributes:
        tensor: its name.
        coordinates: how many it has.
        first_level: memory level in which it lives on the first model's device.
        second_level: the same of the second.
        first_j: joules per kept coordinate by the first model.
        second_j: the same by the second.
        ratio: second over first.
        differs: whether the difference is more than the uncertainties.
    """

    tensor: str
    coordinates: int
    first_level: str
    second_level: str
    first_j: Estimate
    second_j: Estimate
    ratio: float
    differs: bool

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "tensor": self.tensor,
            "coordinates": self.coordinates,
            "first_level": self.first_level,
            "second_level": self.second_level,
            "first_j": self.first_j.value,
            "first_standard_uncertainty_j": self.first_j.standard_uncertainty,
            "second_j": self.second_j.value,
            "second_standard_uncertainty_j": self.second_j.standard_uncertainty,
            "ratio": self.ratio,
            "differs": self.differs,
        }


def compare_prices(first: CostVector, second: CostVector) -> tuple[PriceDifference, ...]:
    """The prices of one network by two cost models, tensor by tensor."""
    return tuple(
        PriceDifference(
            tensor=name,
            coordinates=one.layout.numel,
            first_level=one.level,
            second_level=second.tensors[name].level,
            first_j=one.price_j,
            second_j=second.tensors[name].price_j,
            ratio=second.tensors[name].price_j.value / one.price_j.value,
            differs=differ(one.price_j, second.tensors[name].price_j),
        )
        for name, one in first.tensors.items()
    )


def price_verdict(prices: Sequence[PriceDifference]) -> Iterator[str]:
    """In sentences: how many prices differ, and whether other coordinates would be kept."""
    changed = sum(price.differs for price in prices)
    yield f"{changed} of {len(prices)} tensors have a price that differs by more than its uncertainty."
    ratios = [price.ratio for price in prices]
    spread = max(ratios) / min(ratios) - 1
    if spread < SAME_SELECTION:
        yield (
            f"All prices change alike (×{min(ratios):.3g}): for its joules a budget buys "
            f"{1 / min(ratios):.3g} times as many coordinates, in the same order."
        )
    else:
        yield (
            f"Against each other, prices change by up to {spread:.0%}: rules that look at prices keep other "
            "coordinates."
        )
