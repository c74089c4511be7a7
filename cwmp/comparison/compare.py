"""Contenders × budgets × seeds × variants, each a run of its own, put side by side with a verdict in words.

    DIR/runs/<run>/                   one run each, as from ``train``
    DIR/comparison.csv, .parquet      one row per run and round
    DIR/runs.csv, .parquet            one row per run
    DIR/comparison.json               ComparisonReport

Every rule gets the same budget in every round, so they are compared at equal predicted joules.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration_data import UsageError
from calibration_data.files import alone_in, write_whole
from cost_models import CostModel
from cwmp.comparison.course import run_course
from cwmp.comparison.document import ComparisonReport, FailedRun
from cwmp.comparison.findings import (
    FinishedRun,
    different_samples,
    found_entries,
    found_variants,
    paired_tests,
)
from cwmp.comparison.plan import BudgetUnit, EngineName, PlannedRun, Variant, contender, planned_runs
from cwmp.comparison.runner import OnProgress, OpenDevice, make_runs
from cwmp.comparison.tables import round_rows, run_columns, run_row, varying_settings, write_tables
from cwmp.comparison.verdict import verdict
from cwmp.config import TrainingConfig
from cwmp.training.run_files import ROUNDS, SUMMARY, read_rounds, read_summary
from cwmp.training.run_folder import refuse_content
from profiler.device import Device

RUNS = "runs"
COMPARISON = "comparison.json"


def no_device(model: CostModel) -> Device | None:
    """Joules are predicted only."""
    return None


def compare(
    config: TrainingConfig,
    variants: CostModel | Sequence[Variant],
    out: Path,
    *,
    rules: Sequence[str],
    budgets: Sequence[float],
    budget_unit: BudgetUnit = "fraction",
    seeds: Sequence[int] = (0,),
    open_device: OpenDevice = no_device,
    engine: EngineName = "local",
    jobs: int = 1,
    resume: bool = False,
    on_progress: OnProgress | None = None,
) -> ComparisonReport:
    """Train with every rule at every budget and seed, and say what came out.

    Args:
        config: settings that all runs share; its rule, budget and seed are replaced.
        variants: what all rules train under, or the cost model of the only variant.
        out: folder of the comparison.
        rules: names of selection rules, such as ``cwmp`` or ``cwmp:equal-prices``; ``dense`` runs once per
            seed.
        budgets: of one client and round.
        budget_unit: of the budgets: joules, or fractions as in ``TrainingConfig.budget_fraction``.
        seeds: of the runs.
        open_device: opens the device whose sensors see the phases; with several jobs a function of a module.
        engine: runs the clients; ``local-batched`` trains those of a small dense network together.
        jobs: processes that train at the same time; the results are the same bits.
        resume: keep finished runs, and go on with the others.
        on_progress: called after each round and each run.

    Raises:
        UsageError: the folder is in use, nothing is to be compared, or no run can be made.
    """
    listed = [Variant(cost_model=variants)] if isinstance(variants, CostModel) else list(variants)
    plans = planned_runs(
        config,
        listed,
        contenders=[contender(name) for name in rules],
        budgets=budgets,
        budget_unit=budget_unit,
        seeds=seeds,
    )
    if not resume:
        refuse_content(out)
    with alone_in(
        out, other="Another comparison is running", next_step="Wait for it, or choose another folder."
    ):
        failures = make_runs(
            plans,
            out / RUNS,
            open_device=open_device,
            engine=engine,
            jobs=jobs,
            on_progress=on_progress,
        )
        if len(failures) == len(plans):
            raise UsageError(f"No run of the comparison finished: {next(iter(failures.values()))}")
        runs = _collected(plans, failures, out)
    entries = found_entries(runs)
    tests = paired_tests(entries)
    failed = tuple(FailedRun(run=name, reason=reason) for name, reason in failures.items())
    report = ComparisonReport(
        budget_unit=budget_unit,
        seeds=tuple(seeds),
        variants=found_variants(listed, runs),
        entries=entries,
        tests=tests,
        failures=failed,
        verdict=(*verdict(entries, tests, failed, budget_unit), *different_samples(runs)),
    )
    write_whole(out / COMPARISON, report.model_dump_json(by_alias=True, indent=1) + "\n")
    return report


def _collected(plans: Sequence[PlannedRun], failures: Mapping[str, str], out: Path) -> list[FinishedRun]:
    """Read what the runs left, one after the other, and write the tables."""
    varying = varying_settings(plans)
    runs: list[FinishedRun] = []
    rows: list[dict[str, Any]] = []
    run_rows: list[dict[str, Any]] = []
    for plan in plans:
        if plan.name in failures:
            run_rows.append({**run_columns(plan, None, varying), "failure": failures[plan.name]})
            continue
        report = read_summary(out / RUNS / plan.name / SUMMARY)
        rounds = read_rounds(out / RUNS / plan.name / ROUNDS)
        columns = run_columns(plan, report.identity, varying)
        rows.extend(round_rows(columns, rounds))
        run_rows.append(run_row(columns, report))
        runs.append(FinishedRun(plan=plan, report=report, course=run_course(rounds)))
    write_tables(out, rows, run_rows)
    return runs
