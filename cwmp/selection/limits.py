"""What a selection may not exceed: joules, counted exactly, and perhaps a number of coordinates."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cwmp.selection.exact import units_within


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A budget in exact units, and the number of coordinates that may be kept; None: no limit."""

    units: int | None
    count: int | None
    budget_j: float

    @classmethod
    def of(cls, budget_j: float, count: int | None) -> Limits:
        """Limits of a budget in joules; a negative one buys nothing."""
        return cls(units=units_within(max(budget_j, 0.0)), count=count, budget_j=max(budget_j, 0.0))

    @property
    def most_coordinates(self) -> float:
        """The number of coordinates that may be kept, infinite without a limit."""
        return math.inf if self.count is None else self.count

    def allow(self, units: int, count: int) -> bool:
        """Whether a set of this cost and size is within both."""
        return (self.units is None or units <= self.units) and (self.count is None or count <= self.count)
