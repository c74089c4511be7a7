"""A fleet file: clients that are other devices than the run's own, with their cost models and budgets.

    [[group]]
    name = "boards"
    clients = "0-4"                   # or [0, 1, 2]
    cost_model = "edge.json"          # beside this file; or published:NAME
    budget_fraction = 0.05            # or budget_j; without either, the run's
    link = "wifi-2012"                # without one, the run's
    device = "sim:edge-board"         # simulated device that accounts joules; without one, the model's own

A client is in one group at most; one that is in none has the run's own cost model and budget. A run keeps a
copy of the fleet and its models, so that it can be resumed without the originals.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from calibration_data import InvalidFileError
from calibration_data.files import Frozen, describe_validation_error, read_bounded, write_whole
from cost_models import CostModel, load_cost_model, save_cost_model
from cost_models.store import PUBLISHED_PREFIX

MAX_FLEET_BYTES = 10_000_000
MAX_CLIENTS = 100_000

_RANGE = re.compile(r"\s*(\d{1,6})\s*(?:-\s*(\d{1,6})\s*)?", re.ASCII)


class GroupSettings(Frozen):
    """One group, as it is in the file.

    Attributes:
        name: of the group, in reports and file names.
        clients: numbers, or ranges of them as in ``0-4,7``.
        cost_model: file beside the fleet file, or ``published:NAME``.
        budget_j: as in ``TrainingConfig``; the run's budget without either.
        budget_fraction: likewise.
        link: as in ``TrainingConfig``; the run's without one.
        device: simulated device that accounts the joules; without one, that of the cost model.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
    clients: tuple[NonNegativeInt, ...]
    cost_model: str
    budget_j: PositiveFloat | None = None
    budget_fraction: Annotated[float, Field(gt=0, le=1)] | None = None
    link: str | None = None
    device: Annotated[str, Field(pattern=r"^sim:")] | None = None

    @field_validator("clients", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        return _ranges(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.budget_j is not None and self.budget_fraction is not None:
            raise ValueError("budget_j and budget_fraction exclude each other")
        if not self.clients:
            raise ValueError(f"the group {self.name} has no clients")
        return self


class FleetSettings(BaseModel):
    """A fleet file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: tuple[GroupSettings, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _each_client_once(self) -> Self:
        names = [group.name for group in self.group]
        if len(set(names)) < len(names):
            raise ValueError(f"two groups are called {next(name for name in names if names.count(name) > 1)}")
        groups: dict[int, str] = {}
        for group in self.group:
            for client in group.clients:
                if client in groups:
                    raise ValueError(f"client {client} is in {groups[client]} and again in {group.name}")
                groups[client] = group.name
        return self


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """The groups of a fleet and their cost models.

    Attributes:
        groups: their settings.
        models: cost model by name of the group.
    """

    groups: tuple[GroupSettings, ...] = ()
    models: Mapping[str, CostModel] = field(default_factory=dict)


def load_fleet(path: Path, *, clients: int, assumed: Mapping[str, float]) -> Fleet:
    """Read a fleet file and its cost models.

    Args:
        path: TOML, or the JSON that ``save_fleet`` writes.
        clients: how many there are.
        assumed: costs that replace those of every model, as ``CostModel.with_assumed``.

    Raises:
        InvalidFileError: the file or a cost model cannot be read or breaks its schema, a client is in two
            groups, or there is no such client.
        UsageError: there is no published model of that name.
    """
    text = read_bounded(path, MAX_FLEET_BYTES).decode(errors="replace")
    try:
        settings = (
            FleetSettings.model_validate_json(text)
            if path.suffix == ".json"
            else FleetSettings.model_validate(tomllib.loads(text))
        )
    except tomllib.TOMLDecodeError as error:
        raise InvalidFileError(path, f"is no TOML file ({error})") from error
    except ValidationError as error:
        raise InvalidFileError(path, describe_validation_error(error)) from error
    for group in settings.group:
        if max(group.clients) >= clients:
            raise InvalidFileError(
                path,
                f"the group {group.name} has client {max(group.clients)}, and there are {clients}, from 0 on",
            )
    models = {group.name: _model(path, group).with_assumed(assumed) for group in settings.group}
    return Fleet(groups=settings.group, models=models)


def save_fleet(path: Path, fleet: Fleet) -> None:
    """Write a fleet and copies of its cost models, in a folder beside it.

    Raises:
        UsageError: the files cannot be written there.
    """
    groups = []
    for group in fleet.groups:
        copy = Path(path.stem) / f"{group.name}.json"
        save_cost_model(path.parent / copy, fleet.models[group.name])
        groups.append(group.model_copy(update={"cost_model": str(copy)}))
    write_whole(path, FleetSettings(group=tuple(groups)).model_dump_json(indent=1) + "\n")


def _model(path: Path, group: GroupSettings) -> CostModel:
    name = group.cost_model
    return load_cost_model(Path(name) if name.startswith(PUBLISHED_PREFIX) else path.parent / name)


def _ranges(text: str) -> Sequence[int]:
    """``0-4,7`` as numbers.

    Raises:
        ValueError: the text is of another form.
    """
    numbers: list[int] = []
    for part in text.split(","):
        match = _RANGE.fullmatch(part)
        if match is None:
            raise ValueError(f"{text[:80]!r} names no clients; write them as in 0-4,7")
        first = int(match[1])
        last = first if match[2] is None else int(match[2])
        if last < first or len(numbers) + last - first >= MAX_CLIENTS:
            raise ValueError(f"{text[:80]!r} names no clients; write them as in 0-4,7")
        numbers += range(first, last + 1)
    return numbers


def fleet_of_run(path: str | None, copy: Path, *, clients: int, assumed: Mapping[str, float]) -> Fleet:
    """The fleet of a run: from its file, or where that is gone from the copy in the run's folder.

    Args:
        path: of the file, as in the settings; None where all clients are alike.
        copy: what ``save_fleet`` has written when the run began.
        clients: how many there are.
        assumed: as for ``load_fleet``.

    Raises:
        InvalidFileError: as ``load_fleet``.
    """
    if path is None:
        return Fleet()
    source = copy if copy.exists() and not Path(path).exists() else Path(path)
    return load_fleet(source, clients=clients, assumed=assumed)
