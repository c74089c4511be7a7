"""Rules × budgets × seeds, each a run of its own, put side by side with a verdict in words.

    DIR/runs/<rule>-b<budget>-s<seed>/    one run each, as from ``train``; ``dense-s<seed>`` knows no budget
    DIR/comparison.csv                    one row per run and round
    DIR/comparison.json                   ComparisonReport

Every rule gets the same budget in every round, so they are compared at equal predicted joules.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Literal

from calibration_data import UsageError
from calibration_data.files import write_whole
from cost_models import CostModel
from cwmp.budget import EnergyLedger
from cwmp.comparison.findings import ON_DEVICE, ComparisonReport, comparison_report
from cwmp.config import RuleName, TrainingConfig, training_config
from cwmp.training.run import train
from cwmp.training.run_files import ROUNDS, read_rounds, write_csv
from cwmp.training.run_record import RoundReport, RunReport, sum_or_none
from profiler.device import Device

RUNS = "runs"
TABLE = "comparison.csv"
COMPARISON = "comparison.json"


@dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        name: of its folder.
        rule: how coordinates are chosen.
        budget: as given; None for ``dense``.
        config: its settings.
    """

    name: str
    rule: RuleName
    budget: float | None
    config: TrainingConfig


def compare(
    config: TrainingConfig,
    cost_model: CostModel,
    out: Path,
    *,
    rules: Sequence[RuleName],
    budgets: Sequence[float],
    budget_unit: Literal["J", "fraction"] = "fraction",
    seeds: Sequence[int] = (0,),
    device: Device | None = None,
    resume: bool = False,
    on_run: Callable[[PlannedRun, int, int], None] | None = None,
    on_round: Callable[[PlannedRun, RoundReport], None] | None = None,
) -> ComparisonReport:
    """Train with every rule at every budget and seed, and say what came out.

    Args:
        config: settings that all runs share; its rule, budget and seed are replaced.
        cost_model: costs of elementary operations on the clients' device.
        out: folder of the comparison.
        rules: selection rules; ``dense`` runs once per seed.
        budgets: of one client and round.
        budget_unit: of the budgets: joules, or fractions as in ``TrainingConfig.budget_fraction``.
        seeds: of the runs.
        device: whose sensors see the phases.
        resume: skip finished runs and go on with an interrupted one.
        on_run: called before each run with its number, from 1, and how many there are.
        on_round: called after each round.

    Raises:
        UsageError: the folder is in use, nothing is to be compared, or a run cannot be made.
    """
    plans = planned_runs(config, rules=rules, budgets=budgets, budget_unit=budget_unit, seeds=seeds)
    if out.exists() and not resume and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists already.", next_step="Choose another folder, or go on with it: --resume."
        )
    reports: dict[str, RunReport] = {}
    rows: list[dict[str, Any]] = []
    for number, plan in enumerate(plans, start=1):
        if on_run is not None:
            on_run(plan, number, len(plans))
        folder = out / RUNS / plan.name
        reports[plan.name] = train(
            plan.config,
            cost_model,
            folder,
            device=device,
            resume=True,
            on_round=_named(plan, on_round),
        )
        rows.extend(_rows(plan, reports[plan.name], read_rounds(folder / ROUNDS)))
    comparison = comparison_report(reports, budget_unit=budget_unit, seeds=seeds)
    write_csv(out / TABLE, rows)
    write_whole(out / COMPARISON, comparison.model_dump_json(by_alias=True, indent=1) + "\n")
    return comparison


def planned_runs(
    config: TrainingConfig,
    *,
    rules: Sequence[RuleName],
    budgets: Sequence[float],
    budget_unit: Literal["J", "fraction"],
    seeds: Sequence[int],
) -> list[PlannedRun]:
    """Every run of a comparison, in the order in which they are made.

    Raises:
        UsageError: there is nothing to compare, something is named twice, or a budget is not valid.
    """
    for name, given in (("rules", rules), ("budgets", budgets), ("seeds", seeds)):
        if len(set(given)) != len(given):
            raise UsageError(f"The {name} of a comparison name something twice: {list(given)}.")
    if not rules or not seeds or (not budgets and set(rules) != {"dense"}):
        raise UsageError("A comparison needs at least one rule, one budget and one seed.")
    plans = []
    for seed, budget, rule in product(seeds, [None, *budgets], rules):
        if (rule == "dense") == (budget is None):
            name = f"{rule}-s{seed}" if budget is None else f"{rule}-b{budget:g}-s{seed}"
            changes: dict[str, Any] = {
                "selector": rule,
                "seed": seed,
                "budget_j": budget if budget_unit == "J" else None,
                "budget_fraction": budget if budget_unit == "fraction" else None,
            }
            settings = training_config(**{**config.model_dump(), **changes})
            plans.append(PlannedRun(name=name, rule=rule, budget=budget, config=settings))
    if len({plan.name for plan in plans}) != len(plans):
        raise UsageError("Two budgets of the comparison agree in their first six digits.")
    return plans


def _named(
    plan: PlannedRun, on_round: Callable[[PlannedRun, RoundReport], None] | None
) -> Callable[[RoundReport], None] | None:
    return None if on_round is None else lambda report: on_round(plan, report)


def _rows(plan: PlannedRun, summary: RunReport, rounds: Sequence[RoundReport]) -> Iterable[dict[str, Any]]:
    """One row per round; joules are cumulative."""
    ledger = EnergyLedger()
    for report in rounds:
        for phase in ON_DEVICE:
            energy = report.energy[phase]
            ledger = ledger.charge(phase, predicted_j=energy.predicted_j, measured_j=energy.measured_j)
        yield {
            "rule": plan.rule,
            "budget": plan.budget,
            "budget_j": summary.budget_j,
            "seed": plan.config.seed,
            "round": report.round,
            "accuracy": report.test_accuracy,
            "boundary_j": report.cumulative_boundary_j,
            "predicted_j": ledger.total_predicted_j,
            "measured_j": sum_or_none(ledger.measured_j[phase] for phase in ON_DEVICE),
            "provenance": report.energy["select"].provenance,
            "retained_fraction": report.retained_fraction,
            "topk_retained_fraction": report.topk_retained_fraction,
            "cwmp_retained_fraction": report.cwmp_retained_fraction,
        }
