"""Runs that differ in their seed alone, taken together: what a figure or a table of rules shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cost_models.engineering import quantity
from cwmp.budget import Phase
from cwmp.comparison.plan import VARIANT_ENDS
from cwmp.report.contents import TrainedRun
from cwmp.report.plots import Curve
from cwmp.selection import RULES
from cwmp.training.phase_energy import PhaseEnergy, summed_energy
from cwmp.training.round_record import ClientReport, accuracies_of


@dataclass(frozen=True, kw_only=True)
class RuleRuns:
    """All seeds of one rule at one budget.

    Attributes:
        rule: name of the rule.
        budget: of one client and round in words, and what else sets the runs apart; may be empty.
        runs: one for each seed; each has at least one round.
    """

    rule: str
    budget: str
    runs: tuple[TrainedRun, ...]

    @property
    def label(self) -> str:
        """Rule and budget."""
        return f"{self.rule}, {self.budget}" if self.budget else self.rule

    @property
    def clients(self) -> Iterator[ClientReport]:
        """Every client of every round."""
        for run in self.runs:
            for report in run.rounds:
                yield from report.clients

    @property
    def retained_fraction(self) -> float:
        """Kept share of the squared norm of all updates."""
        return self._share(sum(client.retained_squared_norm for client in self.clients))

    @property
    def topk_retained_fraction(self) -> float:
        """What ``topk`` would have kept of the same updates for the same joules."""
        return self._share(sum(client.topk_retained_squared_norm for client in self.clients))

    @cached_property
    def energy(self) -> dict[Phase, PhaseEnergy]:
        """Joules by phase of one run: the mean over the seeds."""
        total = summed_energy(report.energy for run in self.runs for report in run.rounds)
        return {phase: _divided(joules, len(self.runs)) for phase, joules in total.items()}

    @property
    def last_accuracies(self) -> list[float]:
        """What each seed's last test gave; nothing of a seed that has none yet."""
        return [accuracies[-1] for run in self.runs if (accuracies := accuracies_of(run.rounds))]

    def curve(self) -> Curve:
        """What is drawn of them, as far as all seeds have come."""
        rounds = min(len(run.rounds) for run in self.runs)

        def rows(name: str) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
            values = [[getattr(report, name) for report in run.rounds[:rounds]] for run in self.runs]
            return np.array(values, dtype=np.float64)

        return Curve(
            rule=self.rule,
            budget=self.budget,
            boundary_j=rows("cumulative_boundary_j"),
            accuracy=rows("test_accuracy"),
            retained=rows("retained_fraction"),
        )

    def _share(self, kept: float) -> float:
        total = sum(client.squared_norm for client in self.clients)
        return kept / total if total else 1.0


def grouped_runs(runs: Sequence[TrainedRun]) -> tuple[RuleRuns, ...]:
    """Runs by rule, in the order of ``RULES``, and budget; runs without a round are left out."""
    groups: dict[tuple[str, str], list[TrainedRun]] = {}
    for run in sorted(runs, key=_order):
        if run.rounds:
            groups.setdefault((run.identity.config.selector, _conditions(run)), []).append(run)
    return tuple(
        RuleRuns(rule=rule, budget=budget, runs=tuple(members)) for (rule, budget), members in groups.items()
    )


def _order(run: TrainedRun) -> tuple[int, float, float, int]:
    config = run.identity.config
    return (RULES.index(config.selector), config.budget_fraction or 0.0, config.budget_j or 0.0, config.seed)


def budget_in_words(*, budget_j: float | None, budget_fraction: float | None) -> str:
    """The budget of one client and round as figures and tables name it; empty where a rule knows none."""
    if budget_fraction is not None:
        return f"fixed + {100 * budget_fraction:g} %"
    return "" if budget_j is None else quantity(budget_j, "J")


def _conditions(run: TrainedRun) -> str:
    """Budget, equal prices and variant of a run in words."""
    config = run.identity.config
    budget = budget_in_words(budget_j=config.budget_j, budget_fraction=config.budget_fraction)
    variant, separator, _ = run.name.partition(VARIANT_ENDS)
    parts = (
        "" if config.selector == "dense" else budget,
        "equal prices" if config.equal_prices else "",
        variant if separator else "",
    )
    return ", ".join(part for part in parts if part)


def _divided(joules: PhaseEnergy, count: int) -> PhaseEnergy:
    names = ("predicted_j", "predicted_u_j", "measured_j", "measured_u_j")
    values = {name: getattr(joules, name) for name in names}
    return joules.model_copy(
        update={name: None if value is None else value / count for name, value in values.items()}
    )
