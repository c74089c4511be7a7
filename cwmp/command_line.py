"""What commands of training share: options, and their text read and printed."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from calibration_data import UsageError
from profiler.cli import settings_of

if TYPE_CHECKING:
    from cost_models import CostModel
    from cwmp.config import TrainingConfig
    from profiler.device import Device

T = TypeVar("T")

ModelFile = Annotated[Path, typer.Argument(help="Cost model file, or published:NAME.")]
ModelOption = Annotated[Path, typer.Option(help="Cost model file, or published:NAME.")]
AssumeOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE in J per unit or W, for a cost that the model refused."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
ConfigOption = Annotated[Path | None, typer.Option(help="TOML file with the settings of the run.")]
SettingsOption = Annotated[
    list[str] | None, typer.Option("--set", help="KEY=VALUE of any setting, as in the TOML file; repeatable.")
]
DeviceOption = Annotated[
    str,
    typer.Option(
        help="Device whose sensors see the phases: auto (the one of the cost model), none, or as for profile."
    ),
]


@contextmanager
def bar(console: Console, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time that is left; yields ``advance(done, total, what)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(unit, total=None)

        def advance(done: int, total: int, what: str) -> None:
            bars.update(task, completed=done, total=total, description=what)

        yield advance


def assumed_costs(pairs: list[str]) -> dict[str, float]:
    """Costs by name from ``NAME=VALUE``."""
    assumed = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        try:
            assumed[name] = float(value)
        except ValueError as error:
            raise UsageError(
                f"--assume {pair!r} is not of the form NAME=VALUE.",
                next_step="For example: --assume launch=2e-6.",
            ) from error
    return assumed


def print_line(console: Console, text: str) -> None:
    """Print a whole line, so that paths and commands in it can be copied."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


def listed(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    """Values of an option that takes several, by commas."""
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--{option} {text!r} cannot be read: {error}.") from error


def config_of(path: Path | None, given: dict[str, Any]) -> TrainingConfig:
    """The settings of a file, if there is one, in which those that were given replace single keys."""
    from cwmp.config import load_training_config, training_config

    return training_config(**given) if path is None else load_training_config(path, **given)


def settings_given(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value is read as TOML, and as a string where it is none."""
    found = {}
    for pair in pairs or []:
        key, separator, value = pair.partition("=")
        if not separator:
            raise UsageError(
                f"--set {pair!r} is not of the form KEY=VALUE.", next_step="As in: --set alpha=1.0."
            )
        try:
            found[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key] = value
    return found


def measuring_device(name: str, model: CostModel, context: typer.Context, console: Console) -> Device | None:
    """The device whose sensors see the phases; None, with the reason printed, where there is none."""
    from cwmp.measuring_device import find_device

    found = find_device(name, model, powercap_root=settings_of(context).powercap_root)
    if not isinstance(found, str):
        return found
    if name != "none":
        print_line(console, f"Joules are predicted only: {found}")
    return None
