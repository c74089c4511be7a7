"""The file of a comparison: TOML with lists of rules, budgets and seeds, settings, and variants.

rules = ["cwmp", "topk", "cwmp:equal-prices", "dense"]
budget_fractions = [0.05, 0.2]                  # or budgets_j
seeds = [0, 1, 2]

[settings]                                      # of every run, as for train
dataset = "digits"

[[variant]]                                     # what all rules train under
name = "update"
error_feedback = [false, true]                  # a list stands for one variant per value
cost_model = ["published:haswell-ep", "cpu.json"]   # beside this file, or published:NAME

[[variant]]
name = "update+uplink"
boundary = "update+uplink"
link = "wifi-2012"
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from calibration_data import InvalidFileError, UsageError
from calibration_data.files import Frozen, describe_validation_error, read_bounded
from cost_models import CostModel
from cost_models.store import PUBLISHED_PREFIX
from cwmp.comparison.plan import Variant

MAX_STUDY_BYTES = 1_000_000
NAME = "name"
COST_MODEL = "cost_model"
ASSUME = "assume"

LoadModel = Callable[[str, Mapping[str, float]], CostModel]


class StudyFile(Frozen):
    """A comparison as its file describes it; what is absent is taken from the command line.

    Attributes:
        rules: contenders by name.
        budgets_j: joules of one client and round.
        budget_fractions: or the fixed joules and these fractions of the others.
        seeds: of the runs.
        settings: of every run, as in a file for ``train``.
        variant: tables of settings, each with a ``name`` and, where it has its own, ``cost_model`` and
            ``assume``.
    """

    rules: tuple[str, ...] | None = None
    budgets_j: tuple[float, ...] | None = None
    budget_fractions: tuple[float, ...] | None = None
    seeds: tuple[int, ...] | None = None
    settings: dict[str, Any] = Field(default_factory=dict)
    variant: tuple[dict[str, Any], ...] = ()


def load_study(path: Path) -> StudyFile:
    """Read the file of a comparison.

    Raises:
        InvalidFileError: it cannot be read, is no TOML, or has a key that a comparison does not know.
    """
    data = read_bounded(path, MAX_STUDY_BYTES)
    try:
        study = StudyFile.model_validate(tomllib.loads(data.decode()))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InvalidFileError(path, f"is no TOML file ({error})") from error
    except ValidationError as error:
        raise InvalidFileError(path, describe_validation_error(error)) from error
    return study.model_copy(update={"variant": tuple(_from(path.parent, table) for table in study.variant)})


def _from(folder: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """A table of settings whose cost models are looked for in a folder."""
    if COST_MODEL not in table:
        return dict(table)
    given = table[COST_MODEL]
    names = [str(name) for name in (given if isinstance(given, list) else [given])]
    found = [name if name.startswith(PUBLISHED_PREFIX) else str(folder / name) for name in names]
    return {**table, COST_MODEL: found}


def variants_of(
    tables: Sequence[Mapping[str, Any]], load_model: LoadModel, **axes: Sequence[Any]
) -> list[Variant]:
    """Variants that tables of settings stand for.

    Args:
        tables: as in the file; none at all is one variant without settings.
        load_model: the cost model of a ``cost_model`` that a table names, with what it lets be assumed.
        axes: values of settings for the tables that have none of their own; several make variants.

    Raises:
        UsageError: a table has no name, or no cost model.
    """
    defaults = {key: list(values) for key, values in axes.items() if values}
    models: dict[str, CostModel] = {}
    variants = []
    for table in tables or ({NAME: ""},):
        if not isinstance(table.get(NAME), str):
            raise UsageError("Every [[variant]] of a comparison needs a name.", next_step='name = "update"')
        for name, settings in _expanded({**table, **{k: defaults[k] for k in defaults if k not in table}}):
            path, assumed = settings.pop(COST_MODEL, None), settings.pop(ASSUME, {})
            if path is None:
                raise UsageError(
                    f"The variant {name!r} has no cost model." if name else "There is no cost model.",
                    next_step="Give --cost-model, or cost_model in the variant.",
                )
            key = f"{path} {assumed}"
            if key not in models:
                models[key] = load_model(str(path), assumed)
            variants.append(Variant(name=name, settings=settings, cost_model=models[key]))
    return variants


def _expanded(table: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every choice of one value from each list, with a name that says which."""
    settings = {key: value for key, value in table.items() if key != NAME}
    lists = [value if isinstance(value, list) else [value] for value in settings.values()]
    several = [key for key, values in zip(settings, lists, strict=True) if len(values) > 1]
    for choice in product(*lists):
        chosen = dict(zip(settings, choice, strict=True))
        parts = [table[NAME], *(_in_words(key, chosen[key]) for key in several)]
        yield ", ".join(part for part in parts if part), chosen


def _in_words(key: str, value: object) -> str:
    """A setting in the name of a variant: ``no error feedback``, ``haswell-ep``, ``alpha 0.3``."""
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if key in (COST_MODEL, "fleet"):
        return Path(str(value).removeprefix("published:")).stem
    return f"{words} {value}"
