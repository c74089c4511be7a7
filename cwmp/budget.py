"""EnergyLedger: what a run may spend, what it is predicted to have spent, and what was measured.

The ledger is not the mechanism: it only adds up. A ledger is a value; ``grant`` and ``charge`` return the
next one. A phase of which one execution has no number has no total either: a missing joule is never zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self, get_args

from calibration_data import UsageError

Phase = Literal["train", "select", "pack", "uplink", "aggregate", "apply"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""What a client's round consists of, in order:

``train``      local SGD; sunk before the budget begins
``select``     the scan of all gradients
``pack``       gathering the kept coordinates into the message
``uplink``     sending it, inside the boundary ``update+uplink``
``aggregate``  the server adds the message to the average; outside of every boundary
``apply``      updating the kept coordinates of the weights
"""


@dataclass(frozen=True, kw_only=True)
class EnergyLedger:
    """Joules of a run so far.

    Attributes:
        granted_j: sum of the budgets of all clients and rounds; None where the rule knows no budget.
        charged_j: predicted joules inside the boundary of the budget.
        predicted_j: predicted joules by phase; None where an execution has no prediction.
        measured_j: measured or simulated joules by phase; None where no sensor saw an execution.
    """

    granted_j: float | None = 0.0
    charged_j: float = 0.0
    predicted_j: Mapping[str, float | None] = field(default_factory=dict)
    measured_j: Mapping[str, float | None] = field(default_factory=dict)

    @property
    def remaining_j(self) -> float | None:
        """Granted and not charged; None where the rule knows no budget."""
        return None if self.granted_j is None else self.granted_j - self.charged_j

    @property
    def total_predicted_j(self) -> float | None:
        """Predicted joules of all phases; None if one has no prediction."""
        total: float | None = 0.0
        for amount in self.predicted_j.values():
            total = _sum(total, amount)
        return total

    @property
    def seen_j(self) -> dict[str, float]:
        """Measured joules of the phases of which every execution was seen."""
        return {phase: amount for phase, amount in self.measured_j.items() if amount is not None}

    def grant(self, budget_j: float | None, *, charged_j: float) -> Self:
        """Book one client's budget and the joules that its choice is predicted to use of it.

        Raises:
            UsageError: more is charged than was granted.
        """
        if budget_j is not None and charged_j > budget_j:
            raise UsageError(f"{charged_j:.6g} J cannot be charged to a budget of {budget_j:.6g} J.")
        return replace(self, granted_j=_sum(self.granted_j, budget_j), charged_j=self.charged_j + charged_j)

    def charge(self, phase: Phase, *, predicted_j: float | None, measured_j: float | None) -> Self:
        """Book one execution of a phase."""
        return replace(
            self,
            predicted_j={**self.predicted_j, phase: _sum(self.predicted_j.get(phase, 0.0), predicted_j)},
            measured_j={**self.measured_j, phase: _sum(self.measured_j.get(phase, 0.0), measured_j)},
        )

    def state(self) -> dict[str, Any]:
        """Plain types for a checkpoint."""
        return {
            "granted_j": self.granted_j,
            "charged_j": self.charged_j,
            "predicted_j": dict(self.predicted_j),
            "measured_j": dict(self.measured_j),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The ledger whose ``state`` this is."""
        return cls(**state)


def _sum(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first + second
