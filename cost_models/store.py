"""Reads and writes cost model files. A file is data: nothing in it is executed, and its size is bounded.

``published:NAME`` in the place of a path is a model from the literature that comes with the package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from calibration_data import InvalidFileError, UsageError
from calibration_data.files import parse_model, read_bounded, write_whole
from cost_models.cost_model import CostModel
from cost_models.document import COST_MODEL_SCHEMA, COST_MODEL_SCHEMA_VERSION, CostModelDocument
from cost_models.migrations import migrate

MAX_FILE_BYTES = 2_000_000
"""A model of a full campaign has ten thousand; as Python objects JSON can take thirty times its size."""

PUBLISHED_PREFIX = "published:"
_PUBLISHED_FOLDER = Path(__file__).parent / "published"


def load_cost_model(path: Path) -> CostModel:
    """The cost model of a file, or the published one that ``published:NAME`` names.

    Raises:
        UsageError: there is no published model of that name.
        InvalidFileError: the file is missing, too large, no JSON, of another schema or version, or breaks the
            schema; one line, with the name of the field.
    """
    path = _published_path(path) if str(path).startswith(PUBLISHED_PREFIX) else path
    text = _read(path)
    data = _checked_kind(path, _parse(path, text))
    version = data["schema_version"]
    if version != COST_MODEL_SCHEMA_VERSION:
        text = json.dumps(migrate(data, version, COST_MODEL_SCHEMA_VERSION))
    return CostModel(parse_model(path, text, CostModelDocument, strict=True))


def published_names() -> tuple[str, ...]:
    """Names of the models from the literature that come with the package, for ``published:NAME``."""
    return tuple(sorted(file.stem for file in _PUBLISHED_FOLDER.glob("*.json")))


def save_cost_model(path: Path, model: CostModel) -> None:
    """Write the file whole or not at all: a reader never sees half a model, even after a power cut.

    Raises:
        UsageError: the file cannot be written there.
    """
    write_whole(path, model.document.model_dump_json(by_alias=True, indent=1) + "\n")


def _published_path(path: Path) -> Path:
    name = str(path).removeprefix(PUBLISHED_PREFIX)
    if name not in published_names():
        shown = "".join(character if character.isprintable() else "?" for character in name[:80])
        raise UsageError(
            f"There is no published model {shown!r}.",
            next_step=f"Published models: {', '.join(PUBLISHED_PREFIX + n for n in published_names())}.",
        )
    return _PUBLISHED_FOLDER / f"{name}.json"


def _read(path: Path) -> str:
    data = read_bounded(
        path,
        MAX_FILE_BYTES,
        next_step="Fit a model with: calijoule fit; or take a published one: calijoule models.",
    )
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


def _checked_kind(path: Path, data: object) -> dict[str, Any]:
    schema = data.get("schema") if isinstance(data, dict) else None
    if schema != COST_MODEL_SCHEMA or not isinstance(data, dict):
        raise InvalidFileError(path, f"field 'schema': it is not {COST_MODEL_SCHEMA!r}")
    version = data.get("schema_version")
    if type(version) is not int or not 1 <= version <= COST_MODEL_SCHEMA_VERSION:
        shown = repr(version)[:40]
        raise InvalidFileError(
            path,
            f"field 'schema_version': version {shown} is not one that this program reads "
            f"(1 to {COST_MODEL_SCHEMA_VERSION})",
            next_step="Update calijoule, or fit the model again from its records.",
        )
    return data
