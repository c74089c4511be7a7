"""Reads and appends records: JSON Lines, one record a line, each line durable before the next is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from calibration_data.errors import InvalidFileError
from calibration_data.files import append_line, parse_model, read_bounded
from calibration_data.records import CalibrationRecord

MAX_LINE_BYTES = 8_000_000
MAX_FILE_BYTES = 512_000_000


def append_record(path: Path, record: CalibrationRecord) -> None:
    """Append one record and return only when it is on the disk.

    Raises:
        UsageError: the file cannot be written there.
    """
    append_line(path, record.model_dump_json(by_alias=True))


def read_records(path: Path) -> list[CalibrationRecord]:
    """All records of a file.

    Raises:
        InvalidFileError: the file is missing, empty, too large, torn at the end, or a line breaks the schema.
    """
    lines = _lines(path)
    if not lines:
        raise InvalidFileError(path, "it holds no record", next_step="Take some with: calijoule profile.")
    if not lines[-1].endswith(b"\n"):
        raise InvalidFileError(
            path,
            f"line {len(lines)} is torn (no line end)",
            next_step="Repair it with: calijoule profile --resume.",
        )
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def finished_records(path: Path) -> list[CalibrationRecord]:
    """The whole records of a campaign that may have been cut off in the middle of its last line.

    Raises:
        InvalidFileError: a line other than a torn last one breaks the schema.
    """
    if not path.exists():
        return []
    lines = [line for line in _lines(path) if line.endswith(b"\n")]
    return [_parse(path, number, line) for number, line in enumerate(lines, start=1)]


def records_sha256(paths: Iterable[Path]) -> list[str]:
    """Digest of each record file, so that a model names the data it came from."""
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]


def _lines(path: Path) -> list[bytes]:
    lines = read_bounded(path, MAX_FILE_BYTES).splitlines(keepends=True)
    if any(len(line) > MAX_LINE_BYTES for line in lines):
        raise InvalidFileError(path, f"a line is longer than {MAX_LINE_BYTES} bytes")
    return lines


def _parse(path: Path, number: int, line: bytes) -> CalibrationRecord:
    return parse_model(
        path,
        line,
        CalibrationRecord,
        where=f"line {number}: ",
        next_step="Give what calijoule profile has written; cost models are for calijoule show.",
    )
