"""What a folder holds that a report can show: records, cost model, costs, runs, a comparison.

RUN/         config.json, cost_model.json, costs.json, rounds.jsonl, summary.json
COMPARE/     runs/<name>/ each a RUN, comparison.json
QUICKSTART/  records.jsonl, model.json, costs.json, comparison/ a COMPARE
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from calibration_data import InvalidFileError, UsageError
from calibration_data.records import CalibrationRecord
from calibration_data.store import describe_validation_error, read_records, records_sha256
from cost_models import CostModel, load_cost_model
from cwmp.cost_document import CostsDocument, load_costs
from cwmp.run_files import CONFIG, COST_MODEL, COSTS, ROUNDS, SUMMARY, read_rounds, read_summary
from cwmp.run_record import RoundReport, RunIdentity, RunReport

RECORDS = "records.jsonl"
MODEL = "model.json"
COMPARISON = "comparison"

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
        model: cost model; None if there is none.
        fitted_here: whether the cost model was fitted to these records.
        costs: prices of gradient coordinates; None if there are none.
        runs: training runs by name.
        missing: parts that are not there, each with what would make it.
    """

    name: str
    records: tuple[CalibrationRecord, ...]
    model: CostModel | None
    fitted_here: bool
    costs: CostsDocument | None
    runs: tuple[TrainedRun, ...]
    missing: tuple[str, ...]


def read_contents(folder: Path) -> ReportContents:
    """Read everything in a folder that a report can show.

    Raises:
        UsageError: the folder does not exist, or holds nothing that a report can show.
        InvalidFileError: a file in it breaks its schema.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder.", next_step=_NEXT_STEP)
    runs = tuple(_read_run(path) for path in _run_folders(folder))
    places = (folder, *(path for path in _run_folders(folder)))
    records_path = folder / RECORDS
    records = tuple(read_records(records_path)) if records_path.is_file() else ()
    model_path = _first(place / name for place in places for name in (MODEL, COST_MODEL))
    model = None if model_path is None else load_cost_model(model_path)
    costs_path = _first(place / COSTS for place in places)
    costs = None if costs_path is None else load_costs(costs_path)
    if not (records or runs or model or costs):
        raise UsageError(f"{folder} holds nothing that a report can show.", next_step=_NEXT_STEP)
    digests = records_sha256([records_path]) if records else []
    return ReportContents(
        name=folder.resolve().name,
        records=records,
        model=model,
        fitted_here=model is not None and list(model.document.records_sha256) == digests,
        costs=costs,
        runs=runs,
        missing=(),
    )


def _run_folders(folder: Path) -> list[Path]:
    """The folder itself if it is a run, or those of its comparison."""
    if (folder / CONFIG).is_file():
        return [folder]
    return sorted(
        path.parent
        for place in (folder, folder / COMPARISON)
        for path in (place / "runs").glob(f"*/{CONFIG}")
    )


def _read_run(folder: Path) -> TrainedRun:
    path = folder / CONFIG
    try:
        identity = RunIdentity.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidFileError(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise InvalidFileError(path, describe_validation_error(error)) from error
    summary, rounds = folder / SUMMARY, folder / ROUNDS
    return TrainedRun(
        name=folder.name,
        identity=identity,
        report=read_summary(summary) if summary.is_file() else None,
        rounds=tuple(read_rounds(rounds)) if rounds.is_file() else (),
    )


def _first(paths: Iterator[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)
