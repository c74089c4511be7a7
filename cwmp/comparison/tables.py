"""The tidy tables of a comparison, each as CSV and as Parquet.

    comparison.csv, .parquet    one row per run and round
    runs.csv, .parquet          one row per run, failed ones with their reason

Every row names its run in full, so that rows of several comparisons can be put together. Wall-clock times are
left out: a comparison that was killed and resumed has the same tables as one that was not.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration_data.files import write_whole
from cwmp.budget import PHASES
from cwmp.comparison.plan import AXES, PlannedRun
from cwmp.training.round_record import WALL_CLOCK_FIELDS, RoundReport
from cwmp.training.run_record import RunIdentity, RunReport

if TYPE_CHECKING:
    import pandas as pd

TABLE = "comparison"
RUN_TABLE = "runs"

WORDS = ("provenance", "failure", "device", "variant", "sha256")
"""Endings of columns that hold text; where another has no value at all, it is of numbers still."""


def varying_settings(plans: Sequence[PlannedRun]) -> list[str]:
    """Settings in which runs differ beside rule, budget and seed."""
    configs = [plan.config.model_dump() for plan in plans]
    return [key for key in configs[0] if key not in AXES and len({config[key] for config in configs}) > 1]


def run_columns(plan: PlannedRun, identity: RunIdentity | None, varying: Sequence[str]) -> dict[str, Any]:
    """What names a run in a row."""
    config = plan.config.model_dump()
    return {
        "run": plan.name,
        "variant": plan.variant or None,
        "rule": plan.contender.rule,
        "equal_prices": plan.contender.equal_prices,
        "budget": plan.budget,
        "seed": plan.config.seed,
        **{key: config[key] for key in varying},
        "cost_model_device": None if identity is None else identity.cost_model_device,
        "cost_model_provenance": None if identity is None else identity.cost_model_provenance,
        "measuring_device": None if identity is None else identity.measuring_device,
        "engine": None if identity is None else identity.engine,
    }


def round_rows(columns: Mapping[str, Any], rounds: Iterable[RoundReport]) -> Iterator[dict[str, Any]]:
    """One row per round of a run."""
    for report in rounds:
        row = report.row()
        for name in WALL_CLOCK_FIELDS:
            row.pop(name, None)
        yield {**columns, **row}


def run_row(columns: Mapping[str, Any], report: RunReport) -> dict[str, Any]:
    """One row for a finished run."""
    identity = report.identity
    row: dict[str, Any] = {
        **columns,
        "cost_model_sha256": identity.cost_model_sha256,
        "partition_sha256": identity.partition.sha256,
        "samples_sha256": identity.samples_sha256,
        "coordinates": identity.coordinates,
        "rounds": report.rounds,
        "final_accuracy": report.final_accuracy,
        "best_accuracy": report.best_accuracy,
        "tail_accuracy": report.tail_accuracy,
        "final_loss": report.final_loss,
        "budget_j": report.budget_j,
        "fixed_j": report.fixed_j,
        "dense_j": report.dense_j,
        "granted_j": report.granted_j,
        "boundary_j": report.boundary_j,
        "predicted_j": report.predicted_j,
        "retained_fraction": report.retained_fraction,
        "topk_retained_fraction": report.topk_retained_fraction,
        "cwmp_retained_fraction": report.cwmp_retained_fraction,
        "var_ln_c": report.var_ln_c,
        "predicted_gain": report.predicted_gain,
        "price_provenance": report.price_provenance,
    }
    for phase in PHASES:
        energy = report.energy[phase]
        row[f"{phase}_predicted_j"] = energy.predicted_j
        row[f"{phase}_predicted_u_j"] = energy.predicted_u_j
        row[f"{phase}_measured_j"] = energy.measured_j
        row[f"{phase}_measured_u_j"] = energy.measured_u_j
        row[f"{phase}_provenance"] = energy.provenance
    row["failure"] = None
    return row


def write_tables(
    folder: Path, rounds: Sequence[Mapping[str, Any]], runs: Sequence[Mapping[str, Any]]
) -> None:
    """Write both tables in both formats, each file whole or not at all."""
    for name, rows in ((TABLE, rounds), (RUN_TABLE, runs)):
        frame = _frame(rows)
        write_whole(folder / f"{name}.csv", frame.to_csv(index=False, lineterminator="\n"))
        buffer = io.BytesIO()
        frame.to_parquet(buffer, index=False)
        write_whole(folder / f"{name}.parquet", buffer.getvalue())


def _frame(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    import pandas as pd

    frame = pd.DataFrame.from_records([dict(row) for row in rows])
    empty = [name for name in frame.columns if frame[name].isna().all() and not name.endswith(WORDS)]
    return frame.astype(dict.fromkeys(empty, "float64"))
