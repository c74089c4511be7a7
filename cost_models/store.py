"""Reads and writes cost model files. A file is data: nothing in it is executed, and its size is bounded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from calibration_data import InvalidFileError
from calibration_data.files import parse_model, read_bounded, write_whole
from cost_models.cost_model import CostModel
from cost_models.document import COST_MODEL_SCHEMA, COST_MODEL_SCHEMA_VERSION, CostModelDocument

MAX_FILE_BYTES = 16_000_000


def load_cost_model(path: Path) -> CostModel:
    """The cost model of a file.

    Raises:
        InvalidFileError: it is missing, too large, no JSON, of another schema or version, or breaks the
            schema; one line, with the name of the field.
    """
    text = _read(path)
    _check_kind(path, _parse(path, text))
    document = parse_model(path, text, CostModelDocument, strict=True)
    return CostModel(document)


def save_cost_model(path: Path, model: CostModel) -> None:
    """Write the file whole or not at all: a reader never sees half a model, even after a power cut.

    Raises:
        UsageError: the file cannot be written there.
    """
    write_whole(path, model.document.model_dump_json(by_alias=True, indent=1) + "\n")


def _read(path: Path) -> str:
    data = read_bounded(path, MAX_FILE_BYTES, next_step="Fit a model with: calijoule fit.")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidFileError(path, f"it is not UTF-8 text (byte {error.start})") from error


def _parse(path: Path, text: str) -> object:
    try:
        data: object = json.loads(
            text, object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant
        )
    except RecursionError as error:
        raise InvalidFileError(path, "it is nested too deeply") from error
    except ValueError as error:
        raise InvalidFileError(path, f"it is not valid JSON: {error}") from error
    return data


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    seen: dict[str, Any] = {}
    for key, value in pairs:
        if key in seen:
            raise ValueError(f"the key {key[:80]!r} is given twice")
        seen[key] = value
    return seen


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number")


def _check_kind(path: Path, data: object) -> None:
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != COST_MODEL_SCHEMA or not isinstance(data, dict):
        raise InvalidFileError(path, f"field 'schema': it is not {COST_MODEL_SCHEMA!r}")
    version = data.get("schema_version")
    if version != COST_MODEL_SCHEMA_VERSION or isinstance(version, bool):
        shown = repr(version)[:40]
        raise InvalidFileError(
            path,
            f"field 'schema_version': version {shown} is not one that this program reads "
            f"({COST_MODEL_SCHEMA_VERSION})",
            next_step="Update calijoule, or fit the model again from its records.",
        )
