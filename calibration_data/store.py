"""Reads and appends records: JSON Lines, one record a line, each line durable before the next is measured."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from calibration_data.errors import InvalidFileError
from calibration_data.records import CalibrationRecord

MAX_LINE_BYTES = 8_000_000
MAX_FILE_BYTES = 512_000_000
MAX_SHOWN = 200


def append_record(path: Path, record: CalibrationRecord) -> None:
    """Append one record and return only when it is on the disk.

    A line that an earlier crash tore is cut off first, so that a file never holds half a record.
    """
    line = record.model_dump_json(by_alias=True).encode() + b"\n"
    created = not path.exists()
    with open(path, "ab") as file:
        _cut_torn_line(path)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    if created:
        _sync_folder(path.parent)


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
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidFileError(path, f"it is larger than {MAX_FILE_BYTES} bytes")
        with open(path, "rb") as file:
            lines = file.readlines()
    except OSError as error:
        raise InvalidFileError(path, f"cannot be read ({error.strerror})") from error
    if any(len(line) > MAX_LINE_BYTES for line in lines):
        raise InvalidFileError(path, f"a line is longer than {MAX_LINE_BYTES} bytes")
    return lines


def _parse(path: Path, number: int, line: bytes) -> CalibrationRecord:
    try:
        return CalibrationRecord.model_validate_json(line)
    except ValidationError as error:
        raise InvalidFileError(path, f"line {number}: {describe_validation_error(error)}") from error


def describe_validation_error(error: ValidationError) -> str:
    """The first problem of a pydantic error in one short line, with the name of the field.

    Names of fields can come from a hostile file: they are quoted and cut.
    """
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = ".".join(str(part) for part in first["loc"])[:MAX_SHOWN]
    message = str(first["msg"])[:MAX_SHOWN]
    return f"field {field!r}: {message}" if field else message


def _cut_torn_line(path: Path) -> None:
    with open(path, "rb+") as file:
        data = file.read()
        end = data.rfind(b"\n") + 1
        if end < len(data):
            file.truncate(end)
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
