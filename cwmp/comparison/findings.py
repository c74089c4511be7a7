"""What a comparison of rules found: entries, the Pareto front, and a verdict in words.

Accuracies of single rounds swing by some points, so rules are compared by the mean of the last rounds, paired
by seed, and what cannot be told from chance is called a tie.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from calibration_data import Provenance
from cost_models.engineering import quantity
from cost_models.uncertainty import student_t
from cwmp.budget import Phase
from cwmp.config import RuleName
from cwmp.training.run_record import RunReport, sum_or_none

COMPARISON_SCHEMA: Final = "calijoule/comparison"
COMPARISON_SCHEMA_VERSION: Final = 1

LEAST_DIFFERENCE = 0.01
"""Accuracies that differ by less than a point are called a tie."""

ON_DEVICE: tuple[Phase, ...] = ("select", "pack", "apply")
"""Phases inside every boundary; the link has no sensor."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Entry(_Frozen):
    """One rule at one budget, over all seeds.

    Attributes:
        rule: how coordinates were chosen.
        budget: as given; None for ``dense``.
        budget_j: joules of one client and round, mean over seeds; None for ``dense``.
        runs: folders of its runs.
        tail_accuracies: mean accuracy of the last rounds, by seed.
        mean_accuracy: their mean.
        accuracy_u: standard deviation of the mean; None with one seed.
        boundary_j: predicted joules inside the boundary over the whole run, mean over seeds.
        predicted_j: those of select, pack and apply.
        measured_j: the same, measured or simulated; None if a sensor missed some.
        measured_provenance: ``measured`` or ``simulated``.
        retained_fraction: kept share of the squared norm of the updates.
        topk_retained_fraction: what ``topk`` keeps of the same updates for the same joules.
        cwmp_retained_fraction: what ``cwmp`` keeps of them.
        var_ln_c: variance of the logarithm of the prices: how much there is to gain from them.
        predicted_gain: of the squared norm, ``cwmp`` over ``topk``, expected from one update before training.
        pareto: no other entry is at least as accurate for fewer joules.
    """

    rule: RuleName
    budget: float | None
    budget_j: float | None
    runs: tuple[str, ...]
    tail_accuracies: tuple[float, ...]
    mean_accuracy: float
    accuracy_u: float | None
    boundary_j: float
    predicted_j: float
    measured_j: float | None
    measured_provenance: Literal["measured", "simulated"] | None
    retained_fraction: float
    topk_retained_fraction: float
    cwmp_retained_fraction: float
    var_ln_c: float
    predicted_gain: float
    pareto: bool


class ComparisonReport(_Frozen):
    """What a comparison found.

    Attributes:
        budget_unit: ``J``, or ``fraction`` of the joules that can be saved.
        seeds: seeds of each entry.
        entries: by budget and rule.
        price_provenance: where predicted joules come from.
        verdict: who won, who lost and where it is a tie, one sentence each.
    """

    schema_name: Literal["calijoule/comparison"] = Field(default=COMPARISON_SCHEMA, alias="schema")
    schema_version: Literal[1] = COMPARISON_SCHEMA_VERSION
    budget_unit: Literal["J", "fraction"]
    seeds: tuple[int, ...]
    entries: tuple[Entry, ...]
    price_provenance: Provenance
    verdict: tuple[str, ...]

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )


def comparison_report(
    runs: Mapping[str, RunReport], *, budget_unit: Literal["J", "fraction"], seeds: Sequence[int]
) -> ComparisonReport:
    """Join the summaries of finished runs.

    Args:
        runs: summary by name of the run's folder; every rule and budget with the same seeds in one order.
        budget_unit: of the budgets as they were given.
        seeds: of the runs.
    """
    groups: dict[tuple[float | None, RuleName], dict[str, RunReport]] = {}
    for name, report in runs.items():
        config = report.identity.config
        budget = config.budget_j if budget_unit == "J" else config.budget_fraction
        groups.setdefault((budget, config.selector), {})[name] = report
    entries = _with_front([_entry(budget, group) for (budget, _), group in groups.items()])
    return ComparisonReport(
        budget_unit=budget_unit,
        seeds=tuple(seeds),
        entries=tuple(entries),
        price_provenance=next(iter(runs.values())).price_provenance,
        verdict=tuple(_verdict(entries, budget_unit)),
    )


def _entry(budget: float | None, runs: Mapping[str, RunReport]) -> Entry:
    reports = list(runs.values())
    accuracies = [report.tail_accuracy for report in reports]
    measured = [sum_or_none(report.energy[phase].measured_j for phase in ON_DEVICE) for report in reports]
    predicted = [sum(report.energy[phase].predicted_j or 0.0 for phase in ON_DEVICE) for report in reports]
    total = sum_or_none(measured)
    budgets = [report.budget_j for report in reports if report.budget_j is not None]
    return Entry(
        rule=reports[0].identity.config.selector,
        budget=budget,
        budget_j=statistics.fmean(budgets) if budgets else None,
        runs=tuple(runs),
        tail_accuracies=tuple(accuracies),
        mean_accuracy=statistics.fmean(accuracies),
        accuracy_u=_u_of_mean(accuracies),
        boundary_j=statistics.fmean(report.boundary_j for report in reports),
        predicted_j=statistics.fmean(predicted),
        measured_j=None if total is None else total / len(reports),
        measured_provenance=None if total is None else reports[0].energy["select"].provenance,
        retained_fraction=statistics.fmean(report.retained_fraction for report in reports),
        topk_retained_fraction=statistics.fmean(report.topk_retained_fraction for report in reports),
        cwmp_retained_fraction=statistics.fmean(report.cwmp_retained_fraction for report in reports),
        var_ln_c=statistics.fmean(report.var_ln_c for report in reports),
        predicted_gain=statistics.fmean(report.predicted_gain for report in reports),
        pareto=False,
    )


def _with_front(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with those marked that no other beats in accuracy and joules at once."""

    def beaten(entry: Entry) -> bool:
        return any(
            other.mean_accuracy >= entry.mean_accuracy
            and other.boundary_j <= entry.boundary_j
            and (other.mean_accuracy > entry.mean_accuracy or other.boundary_j < entry.boundary_j)
            for other in entries
        )

    return [entry.model_copy(update={"pareto": not beaten(entry)}) for entry in entries]


def _verdict(entries: Sequence[Entry], budget_unit: Literal["J", "fraction"]) -> Iterable[str]:
    """One sentence per budget and rival of ``cwmp``, ties and losses included."""
    for ours in entries:
        if ours.rule != "cwmp" or ours.budget is None:
            continue
        budget = (
            quantity(ours.budget, "J")
            if budget_unit == "J"
            else f"{100 * ours.budget:g} % of what can be saved"
        )
        where = f"At a budget of {budget}"
        for rival in entries:
            if rival.budget == ours.budget and rival.rule != "cwmp":
                yield f"{where}, cwmp {_against(ours, rival)}."
        gain = ours.cwmp_retained_fraction - ours.topk_retained_fraction
        yield (
            f"{where}, cwmp keeps {100 * gain:.2g} points more of the squared norm than topk would of the"
            f" same updates for the same joules; {100 * ours.predicted_gain:.2g} were"
            f" expected before training (Var(ln c) = {ours.var_ln_c:.2g})."
        )
    dense = next((entry for entry in entries if entry.rule == "dense"), None)
    if dense is not None:
        yield (
            f"Keeping everything reaches {100 * dense.mean_accuracy:.1f} % for"
            f" {quantity(dense.boundary_j, 'J')}, whatever the budget."
        )


def _against(ours: Entry, rival: Entry) -> str:
    """Win, loss or tie, by the difference of accuracies paired by seed."""
    differences = [a - b for a, b in zip(ours.tail_accuracies, rival.tail_accuracies, strict=True)]
    difference = statistics.fmean(differences)
    numbers = (
        f"{rival.rule}: {100 * ours.mean_accuracy:.1f} % against {100 * rival.mean_accuracy:.1f} % accuracy"
        f" for {quantity(ours.boundary_j, 'J')} and {quantity(rival.boundary_j, 'J')}"
    )
    u = _u_of_mean(differences)
    if u is None:
        side = "above" if difference > 0 else "below"
        return f"ends {100 * abs(difference):.1f} points {side} {numbers} (one seed: this may be chance)"
    half_width = student_t(0.975, len(differences) - 1) * u
    chance = f"{100 * difference:+.1f} ± {100 * half_width:.1f} points over {len(differences)} seeds"
    if abs(difference) < LEAST_DIFFERENCE or abs(difference) <= half_width:
        return f"ties with {numbers} ({chance})"
    return f"{'beats' if difference > 0 else 'loses to'} {numbers} ({chance})"


def _u_of_mean(values: Sequence[float]) -> float | None:
    """Standard deviation of the mean (GUM 4.2.3); None of a single value."""
    if len(values) < 2:
        return None
    return float(statistics.stdev(values) / len(values) ** 0.5)
