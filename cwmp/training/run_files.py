"""The folder of a run and its files; each is whole at any moment, whenever the process may be killed.

config.json      RunIdentity: settings and what they met; what --resume must find again
cost_model.json  copy of the cost model
fleet.json       copy of the fleet, if there is one; its cost models are in fleet/
costs.json       prices of the gradient coordinates
rounds.jsonl     one RoundReport a line, each durable before the next round begins
rounds.csv       the same in one row per round, once the run has finished
summary.json     RunReport, once the run has finished
checkpoint.pt    state after the last whole round
residuals/       what each client has not sent, with error feedback; the checkpoint names its files
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from calibration_data import InvalidFileError
from calibration_data.files import append_line, parse_model, read_bounded, read_model, write_whole
from cwmp.training.round_record import RoundReport
from cwmp.training.run_record import RunReport

CONFIG = "config.json"
COST_MODEL = "cost_model.json"
FLEET = "fleet.json"
COSTS = "costs.json"
ROUNDS = "rounds.jsonl"
TABLE = "rounds.csv"
SUMMARY = "summary.json"
CHECKPOINT = "checkpoint.pt"
RESIDUALS = "residuals"

WRITTEN_WHOLE = (CONFIG, COST_MODEL, FLEET, COSTS, TABLE, SUMMARY, CHECKPOINT)

MAX_FILE_BYTES = 2_000_000_000


def append_round(path: Path, report: RoundReport) -> None:
    """Append one line and return only when it is on the disk."""
    append_line(path, report.model_dump_json())


def read_rounds(path: Path) -> list[RoundReport]:
    """All rounds of a run.

    Raises:
        InvalidFileError: the file is missing, or a line breaks the schema.
    """
    lines = read_bounded(path, MAX_FILE_BYTES).splitlines()
    return [
        parse_model(path, line, RoundReport, where=f"line {number}: ")
        for number, line in enumerate(lines, start=1)
    ]


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
    write_whole(path, text.getvalue())


def read_summary(path: Path) -> RunReport:
    """The summary of a finished run.

    Raises:
        InvalidFileError: the file is missing or breaks the schema.
    """
    return read_model(path, RunReport, limit_bytes=MAX_FILE_BYTES)
