"""The folder of a run and its files; each is whole at any moment, whenever the process may be killed.

config.json      RunIdentity: settings and what they met; what --resume must find again
cost_model.json  copy of the cost model
costs.json       prices of the gradient coordinates
rounds.jsonl     one RoundReport a line, each durable before the next round begins
rounds.csv       the same in one row per round, once the run has finished
summary.json     RunReport, once the run has finished
checkpoint.pt    state after the last whole round
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from calibration_data import InvalidFileError
from calibration_data.store import describe_validation_error
from cwmp.checkpoint import sync_folder
from cwmp.run_record import RoundReport, RunReport

CONFIG = "config.json"
COST_MODEL = "cost_model.json"
COSTS = "costs.json"
ROUNDS = "rounds.jsonl"
TABLE = "rounds.csv"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.pt"


def append_round(path: Path, report: RoundReport) -> None:
    """Append one line and return only when it is on the disk."""
    with open(path, "ab") as file:
        file.write(report.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_rounds(path: Path) -> list[RoundReport]:
    """All rounds of a run.

    Raises:
        InvalidFileError: the file is missing, or a line breaks the schema.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise InvalidFileError(path, f"cannot be read ({error.strerror})") from error
    reports = []
    for number, line in enumerate(lines, start=1):
        try:
            reports.append(RoundReport.model_validate_json(line))
        except ValidationError as error:
            raise InvalidFileError(path, f"line {number}: {describe_validation_error(error)}") from error
    return reports


def cut_rounds(path: Path, rounds: int) -> None:
    """Keep the first lines of a round file: what came after the checkpoint is run again.

    Raises:
        InvalidFileError: the file has fewer whole lines than the checkpoint has rounds.
    """
    data = path.read_bytes() if path.exists() else b""
    lines = data.split(b"\n")
    if len(lines) - 1 < rounds:
        raise InvalidFileError(
            path,
            f"it has {len(lines) - 1} rounds and the checkpoint {rounds}",
            next_step="Remove the run's folder and train again.",
        )
    with open(path, "ab") as file:
        file.truncate(sum(len(line) + 1 for line in lines[:rounds]))
        os.fsync(file.fileno())


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Replace a table; columns are those of the first row, and a missing number is an empty field."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    replace_text(path, text.getvalue())


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def read_summary(path: Path) -> RunReport:
    """The summary of a finished run.

    Raises:
        InvalidFileError: the file is missing or breaks the schema.
    """
    try:
        return RunReport.model_validate_json(path.read_bytes())
    except OSError as error:
        raise InvalidFileError(path, f"cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise InvalidFileError(path, describe_validation_error(error)) from error
