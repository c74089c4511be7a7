"""What an energy budget affords of each step's gradients, for training loops that already exist.

    gradients ─ + residual ─ select within the budget ─ kept: applied or exchanged
                    ▲                                └─ the rest: residual of the next step

``cwmp.optimizer_hook`` puts it before a torch optimizer's step, ``cwmp.ddp_hook`` into distributed data
parallel's exchange of gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from calibration_data import UsageError
from cwmp.budget import EnergyLedger
from cwmp.config import RuleName
from cwmp.cost_vector import CostVector
from cwmp.error_feedback import ErrorFeedback
from cwmp.seeding import derived_seed
from cwmp.selection.budgeted import Choice, RoundBudget, plan_budget, select_within

STATE_VERSION = 1


class BudgetedGradients:
    """Keeps of every step's gradients what is worth its joules, and remembers the rest.

    Args:
        costs: prices of the network's coordinates.
        budget_j: joules of one step for what comes after backprop, fixed ones included.
        budget_fraction: or the fixed joules and this fraction of the others that keeping everything takes.
        rule: how coordinates are ranked.
        at_least: smallest magnitude that ``threshold`` keeps, which needs one.
        error_feedback: add what was not kept to the next step's gradients. The residual is in units of the
            gradient, so a learning rate that changes changes what the residual is worth.
        confidence: probability with which the true joules of a step stay within its budget.
        seed: of ``randomk``.

    Attributes:
        budget: of one step.
        ledger: joules of all steps so far: granted, and predicted for exactly what was kept.
        steps: number of steps so far.
        last: the last step's choice; None before the first.

    Raises:
        UsageError: neither or both budgets are given, or it does not cover the fixed joules and the cheapest
            coordinate.
    """

    def __init__(
        self,
        costs: CostVector,
        *,
        budget_j: float | None = None,
        budget_fraction: float | None = None,
        rule: RuleName = "cwmp",
        at_least: float | None = None,
        error_feedback: bool = True,
        confidence: float = 0.5,
        seed: int = 0,
    ) -> None:
        if (budget_j is None) == (budget_fraction is None) and rule != "dense":
            raise UsageError(
                "A step needs one budget.", next_step="Give budget_j, or budget_fraction of the dense step."
            )
        self.budget: RoundBudget = plan_budget(
            costs,
            rule=rule,
            budget_j=budget_j,
            budget_fraction=budget_fraction,
            confidence=confidence,
            at_least=at_least,
        )
        self.ledger = EnergyLedger()
        self.steps = 0
        self.last: Choice | None = None
        self._rule: RuleName = rule
        self._memory = ErrorFeedback() if error_feedback else None
        self._seed = seed

    def keep(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Choose what this step keeps, and book its joules.

        Args:
            gradients: by parameter name, in the order of the network; all finite, and unscaled where a
                gradient scaler is used.

        Returns:
            The gradients plus the residual where kept, else 0.

        Raises:
            NonFiniteGradientError: a gradient is NaN or infinite; nothing is booked or remembered.
            UsageError: the gradients are not those of the cost vector.
        """
        wanted = dict(gradients) if self._memory is None else self._memory.corrected(gradients)
        seed = derived_seed(self._seed, "randomk", round_index=self.steps, client=0)
        choice = select_within(wanted, self.budget, rule=self._rule, seed=seed)
        masks = choice.selection.masks
        kept = {name: value * masks[name] for name, value in wanted.items()}
        if self._memory is not None:
            self._memory.remember(wanted, kept)
        self.ledger = self.ledger.grant(self.budget.budget_j, charged_j=choice.cost.total_j.value)
        self.last, self.steps = choice, self.steps + 1
        return kept

    def state_dict(self) -> dict[str, Any]:
        """Residual, ledger and number of steps, for ``torch.save``; each process has its own."""
        return {
            "version": STATE_VERSION,
            "residual": {} if self._memory is None else self._memory.state_dict(),
            "ledger": self.ledger.state(),
            "steps": self.steps,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict``.

        Raises:
            UsageError: it is of another version, or a residual is not finite.
        """
        if state.get("version") != STATE_VERSION:
            raise UsageError(
                f"The state is of version {state.get('version')!r}, not {STATE_VERSION}.",
                next_step="Go on from a state that this version has saved.",
            )
        if self._memory is not None:
            self._memory.load_state_dict(state["residual"])
        self.ledger = EnergyLedger.from_state(state["ledger"])
        self.steps = int(state["steps"])
        self.last = None
