"""What a folder holds that a report can show: records, cost model, costs, runs, a comparison.

RUN/         config.json, cost_model.json, costs.json, rounds.jsonl, summary.json
COMPARE/     runs/<name>/ each a RUN, comparison.json
QUICKSTART/  records.jsonl, model.json, costs.json, comparison/ a COMPARE
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from calibration_data import UsageError
from calibration_data.files import read_model
from calibration_data.records import CalibrationRecord
from calibration_data.store import read_records, records_sha256
from cost_models import CostModel, load_cost_model
from cwmp.comparison.compare import COMPARISON as COMPARISON_FILE
from cwmp.comparison.compare import RUNS
from cwmp.comparison.document import ComparisonReport, load_comparison
from cwmp.cost_document import CostsDocument, load_costs
from cwmp.training.round_record import RoundReport
from cwmp.training.run_files import (
    CONFIG,
    COST_MODEL,
    COSTS,
    MAX_FILE_BYTES,
    ROUNDS,
    SUMMARY,
    read_rounds,
    read_summary,
)
from cwmp.training.run_record import RunIdentity, RunReport

RECORDS = "records.jsonl"
MODEL = "model.json"
COMPARISON = "comparison"

MAX_RUNS_IN_DETAIL = 60
"""A comparison of more runs, or of several variants, is shown by its own means over seeds."""

Part = TypeVar("Part")

_NEXT_STEP = "Give a folder that calijoule train, compare or quickstart has written."


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """One training run.

    Attributes:
        name: of its folder.
        identity: what was run.
        report: summary; None while the run is not finished.
        rounds: finished rounds.
    """

    name: str
    identity: RunIdentity
    report: RunReport | None
    rounds: tuple[RoundReport, ...]


@dataclass(frozen=True, kw_only=True)
class ReportContents:
    """Everything that a report shows.

    Attributes:
        name: of the folder.
        records: of the campaign; empty if they are not in the folder.
        models: cost models; where there are several, by the names of the variants that have them.
        fitted_here: whether the first cost model was fitted to these records.
        prices: of gradient coordinates; where several differ, by the names of the variants that have them.
        runs: training runs by name.
        comparison: of the runs; None if there is none.
        missing: parts that are not there, each with what would make it.
    """

    name: str
    records: tuple[CalibrationRecord, ...]
    models: Mapping[str, CostModel]
    fitted_here: bool
    prices: Mapping[str, CostsDocument]
    runs: tuple[TrainedRun, ...]
    comparison: ComparisonReport | None
    missing: tuple[str, ...]

    @property
    def model(self) -> CostModel | None:
        """The first cost model."""
        return next(iter(self.models.values()), None)


def read_contents(folder: Path) -> ReportContents:
    """Read everything in a folder that a report can show.

    Raises:
        UsageError: the folder does not exist, or holds nothing that a report can show.
        InvalidFileError: a file in it breaks its schema.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", next_step=_NEXT_STEP)
    run_folders = _run_folders(folder)
    places = [folder, folder / COMPARISON, *run_folders]
    records_path = _first([folder / RECORDS])
    model_path = _first([place / name for place in places for name in (MODEL, COST_MODEL)])
    costs_path = _first([place / COSTS for place in places])
    comparison_path = _first([place / COMPARISON_FILE for place in places])
    if not (run_folders or any((records_path, model_path, costs_path, comparison_path))):
        raise UsageError(f"{folder} holds nothing that a report can show.", next_step=_NEXT_STEP)
    comparison = load_comparison(comparison_path) if comparison_path else None
    models, prices = _of_variants(run_folders, comparison)
    if model_path and not models:
        models = {"": load_cost_model(model_path)}
    if costs_path and not prices:
        prices = {"": load_costs(costs_path)}
    model = next(iter(models.values()), None)
    digests = records_sha256([records_path]) if records_path else None
    contents = ReportContents(
        name=folder.resolve().name,
        records=tuple(read_records(records_path)) if records_path else (),
        models=models,
        fitted_here=model is not None and list(model.document.records_sha256) == digests,
        prices=prices,
        runs=tuple(_read_runs(run_folders, comparison)),
        comparison=comparison,
        missing=(),
    )
    return replace(contents, missing=tuple(_missing(contents)))


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run, or those of its comparison."""
    if (folder / CONFIG).is_file():
        return [folder]
    comparisons = (folder / RUNS, folder / COMPARISON / RUNS)
    return sorted(path.parent for runs in comparisons for path in runs.glob(f"*/{CONFIG}"))


def _of_variants(
    run_folders: Sequence[Path], comparison: ComparisonReport | None
) -> tuple[dict[str, CostModel], dict[str, CostsDocument]]:
    """Cost models and prices of a comparison's variants, from the first run of each; of one variant, none."""
    if comparison is None or len(comparison.variants) < 2:
        return {}, {}
    names = {comparison.entries_of(item.name)[0].runs[0]: item.name for item in comparison.variants}
    first = {names[folder.name]: folder for folder in run_folders if folder.name in names}
    folders = {item.name: first[item.name] for item in comparison.variants if item.name in first}
    models = {name: load_cost_model(folder / COST_MODEL) for name, folder in folders.items()}
    prices = {name: load_costs(folder / COSTS) for name, folder in folders.items()}
    return (
        _distinct(models, lambda model: model.document),
        _distinct(prices, lambda costs: costs.model_copy(update={"created": ""})),
    )


def _distinct(found: Mapping[str, Part], content: Callable[[Part], object]) -> dict[str, Part]:
    """Those that differ, each under the names of all that are like it; without a name if all are alike."""
    groups: list[tuple[list[str], Part]] = []
    for name, part in found.items():
        names = next((names for names, other in groups if content(other) == content(part)), None)
        if names is None:
            groups.append(([name], part))
        else:
            names.append(name)
    if len(groups) == 1:
        return {"": groups[0][1]}
    return {", ".join(names): part for names, part in groups}


def _read_runs(folders: Sequence[Path], comparison: ComparisonReport | None) -> Iterator[TrainedRun]:
    """The runs; of a large comparison only the finished ones, without their rounds."""
    large = comparison is not None and (len(folders) > MAX_RUNS_IN_DETAIL or len(comparison.variants) > 1)
    for folder in folders:
        summary, rounds = folder / SUMMARY, folder / ROUNDS
        if large and not summary.is_file():
            continue
        yield TrainedRun(
            name=folder.name,
            identity=read_model(folder / CONFIG, RunIdentity, limit_bytes=MAX_FILE_BYTES),
            report=read_summary(summary) if summary.is_file() else None,
            rounds=tuple(read_rounds(rounds)) if rounds.is_file() and not large else (),
        )


def _missing(contents: ReportContents) -> Iterator[str]:
    if not contents.records:
        yield "The records of the campaign: no sensors, no windows beside predictions. calijoule profile."
    if not contents.models:
        yield "A cost model: no cost of any operation. calijoule fit."
    elif contents.records and not contents.fitted_here:
        yield "The records that the cost model was fitted to: those in this folder are others."
    if not contents.prices:
        yield "Prices of gradient coordinates. calijoule export."
    if not contents.runs:
        yield "Training runs: nothing about accuracy or budgets. calijoule train, calijoule compare."
    elif contents.comparison is not None and not any(run.rounds for run in contents.runs):
        yield "The training of every single run: there are many. calijoule report RUNS/NAME of one of them."
    elif len(contents.runs) > 1 and contents.comparison is None:
        yield "The verdict of the comparison: it has not finished. calijoule compare --resume."
    for run in contents.runs:
        if run.report is None:
            done, planned = len(run.rounds), run.identity.config.rounds
            yield f"The end of the run {run.name}: {done} of {planned} rounds are there. Go on with --resume."


def _first(paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
