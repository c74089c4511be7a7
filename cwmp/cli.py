"""Commands of training: export costs, train, compare, report, and the whole journey."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from calibration_data import UsageError
from cwmp.config import RuleName
from profiler.cli import settings_of

if TYPE_CHECKING:
    from cost_models import CostModel
    from cwmp.config import TrainingConfig
    from cwmp.training.run_record import RunReport
    from profiler.device import Device

T = TypeVar("T")

app = typer.Typer(no_args_is_help=True, add_completion=False)

BoundaryName = Literal["update", "update+uplink"]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]

ModelFile = Annotated[Path, typer.Argument(help="Cost model file, or published:NAME.")]
ModelOption = Annotated[Path, typer.Option(help="Cost model file, or published:NAME.")]
AssumeOption = Annotated[
    list[str] | None,
    typer.Option(help="NAME=VALUE in J per unit or W, for a cost that the model refused."),
]
NetworkOption = Annotated[
    str,
    typer.Option(help="mlp, cnn, lenet, fedavg-cnn, resnet18, resnet18-bn, or module:factory of your own."),
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


@app.command()
def export(
    model: ModelFile,
    network: NetworkOption,
    out: Annotated[Path, typer.Option(help="File for the costs, JSON.")],
    boundary: Annotated[BoundaryName, typer.Option(help="What is inside the joules.")] = "update",
    link: Annotated[
        str | None, typer.Option(help="What sends, for update+uplink; unknown names list all.")
    ] = None,
    density: Annotated[float, typer.Option(help="Expected kept fraction; neighbours share lines.")] = 0.05,
    optimizer_streams: Annotated[
        int, typer.Option(min=0, max=3, help="Optimiser states per weight: 0 SGD, 1 momentum, 2 Adam.")
    ] = 0,
    assume: AssumeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Turn a cost model into joules per gradient coordinate of a network."""
    from cost_models import load_cost_model
    from cwmp.cost_document import costs_document, save_costs
    from cwmp.cost_vector import cost_vector
    from cwmp.networks import load_network

    costs_of = load_cost_model(model).with_assumed(_assumed(assume or []))
    vector = cost_vector(
        load_network(network),
        costs_of,
        boundary=boundary,
        link=link,
        density=density,
        optimizer_streams=optimizer_streams,
    )
    document = costs_document(vector, created=datetime.now(UTC))
    save_costs(out, document)
    if as_json:
        typer.echo(document.model_dump_json(by_alias=True, indent=1))
        return
    console = Console(highlight=False)
    table = Table("tensor", "coordinates", "level", "J per kept coordinate", "u")
    for name, cost in vector.tensors.items():
        price = cost.price_j
        table.add_row(
            name,
            str(cost.layout.numel),
            cost.level,
            f"{price.value:.4g}",
            f"{price.standard_uncertainty / price.value:.1%}",
        )
    console.print(table)
    fixed = vector.fixed_j
    _line(console, f"Fixed for each round: {fixed.value:.4g} J, u = {fixed.standard_uncertainty:.2g} J.")
    _line(console, f"Boundary {boundary}; provenance {vector.provenance}; density {density:g}.")
    for note in vector.notes:
        _line(console, f"Note: {note}")
    _line(console, document.verdict)


@app.command()
def predict(
    context: typer.Context,
    model: ModelFile,
    network: NetworkOption,
    input_shape: Annotated[
        str | None,
        typer.Option(help="Of one sample, by commas, as in 3,224,224 [what a named network takes]."),
    ] = None,
    vocabulary: Annotated[
        int | None, typer.Option(min=1, help="Samples are tokens: integers below this.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples of one step.")] = 32,
    optimizer: Annotated[OptimizerName, typer.Option(help="Whose step ends the training step.")] = "sgd",
    forward_only: Annotated[bool, typer.Option("--forward-only", help="Inference, no training.")] = False,
    depth: Annotated[int | None, typer.Option(min=1, help="Levels of modules to list [all].")] = None,
    device: Annotated[
        str, typer.Option(help="Device that accounts the same step: none, auto, or as for profile.")
    ] = "none",
    assume: AssumeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Joules of one training step of a network by operator and layer, with intervals."""
    from cost_models import load_cost_model
    from cwmp.prediction.command import StepSettings, predict_network
    from cwmp.prediction.words import answer_json, sentences, shares_table

    costs = load_cost_model(model).with_assumed(_assumed(assume or []))
    settings = StepSettings(
        network=network,
        input_shape=None if input_shape is None else _shape(input_shape),
        batch_size=batch_size,
        optimizer=None if forward_only else optimizer,
        vocabulary=vocabulary,
        depth=depth,
    )
    accounting = _measuring_device(device, costs, context, Console(stderr=True, highlight=False))
    answer = predict_network(settings, costs, accounting)
    if as_json:
        typer.echo(json.dumps(answer_json(answer), indent=1))
        return
    console = Console(highlight=False)
    console.print(shares_table("layer", answer.prediction.layers))
    console.print(shares_table("operator", answer.prediction.operators))
    for sentence in sentences(answer):
        _line(console, sentence)


@app.command()
def train(
    context: typer.Context,
    cost_model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder of the run.")],
    config: ConfigOption = None,
    dataset: Annotated[str | None, typer.Option(help="digits, cifar10 or synthetic.")] = None,
    selector: Annotated[RuleName | None, typer.Option(help="Rule that chooses what is sent.")] = None,
    budget_j: Annotated[float | None, typer.Option(help="Joules of one client and round.")] = None,
    budget_fraction: Annotated[
        float | None, typer.Option(help="The same as fixed joules + this part of the others.")
    ] = None,
    confidence: Annotated[
        float | None, typer.Option(help="Probability that the true joules stay within the budget.")
    ] = None,
    boundary: Annotated[BoundaryName | None, typer.Option(help="What the budget covers.")] = None,
    link: Annotated[str | None, typer.Option(help="What sends, for update+uplink.")] = None,
    rounds: Annotated[int | None, typer.Option(help="Federated rounds.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of every random draw.")] = None,
    settings: SettingsOption = None,
    assume: AssumeOption = None,
    device: DeviceOption = "auto",
    engine: Annotated[
        Literal["local", "flower"], typer.Option(help="What runs the clients; flower needs the extra flower.")
    ] = "local",
    workers: Annotated[int, typer.Option(min=1, help="Processes that train clients; the same bits.")] = 1,
    superlink: Annotated[
        str | None, typer.Option(help="SuperLink of Flower's config.toml [flower: a simulation here].")
    ] = None,
    round_timeout_s: Annotated[
        float, typer.Option(min=1, help="How long flower waits for the answers of a round.")
    ] = 600.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Federated training under an energy budget, its joules predicted and measured (or simulated)."""
    from cost_models import load_cost_model
    from cwmp.predicted_gain import verdict
    from cwmp.training.run import train as run_training

    if engine == "local" and superlink is not None:
        raise UsageError("--superlink is for --engine flower.")
    console = Console(stderr=True, highlight=False)
    options = {
        "dataset": dataset,
        "selector": selector,
        "budget_j": budget_j,
        "budget_fraction": budget_fraction,
        "confidence": confidence,
        "boundary": boundary,
        "link": link,
        "rounds": rounds,
        "seed": seed,
    }
    given = {key: value for key, value in options.items() if value is not None}
    training = _training_config(config, {**_settings(settings), **given})
    model = load_cost_model(cost_model).with_assumed(_assumed(assume or []))
    if superlink is not None:
        from cwmp.flower.train import train_deployed

        train_deployed(
            training,
            model,
            out,
            superlink,
            round_timeout_s=round_timeout_s,
            resume=resume,
            say=lambda line: _line(console, line),
        )
        return
    measured_by = _measuring_device(device, model, context, console)
    if engine == "flower":
        from cwmp.flower.train import train_simulated

        result = train_simulated(
            training,
            model,
            out,
            device=None if measured_by is None else measured_by.name,
            powercap_root=settings_of(context).powercap_root,
            at_once=workers,
            round_timeout_s=round_timeout_s,
            resume=resume,
            say=lambda line: _line(console, line),
        )
    else:
        with bar(console, "round") as advance:
            result = run_training(
                training,
                model,
                out,
                device=measured_by,
                workers=workers,
                resume=resume,
                on_start=lambda var_ln_c, gain: _line(console, verdict(var_ln_c, [gain])),
                on_round=lambda done: advance(done.round, training.rounds, done.progress),
            )
    if as_json:
        typer.echo(result.model_dump_json(by_alias=True, indent=1))
    else:
        _print_result(result, out, console)


def _print_result(result: RunReport, out: Path, console: Console) -> None:
    stdout = Console(highlight=False)
    boundary = result.identity.config.boundary
    _line(stdout, f"{result.final_accuracy:.1%} of the test samples right after {result.rounds} rounds.")
    _line(stdout, f"{result.boundary_j:.4g} J inside {boundary}; {result.price_provenance} costs.")
    for note in result.notes:
        _line(stdout, f"Note: {note}")
    _line(console, f"Run in {out}. Next: calijoule report {out}")


@app.command()
def compare(
    context: typer.Context,
    cost_model: ModelOption,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")],
    config: ConfigOption = None,
    rules: Annotated[str, typer.Option(help="Rules, by commas.")] = "cwmp,topk,randomk,dense",
    budgets_j: Annotated[str | None, typer.Option(help="Joules of one client and round, by commas.")] = None,
    budget_fractions: Annotated[
        str | None, typer.Option(help="The same as fixed joules + these parts of the others [0.05,0.2].")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, by commas.")] = "0",
    settings: SettingsOption = None,
    assume: AssumeOption = None,
    device: DeviceOption = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Keep finished runs, go on with others.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train by several rules at the same joules and say which keeps more and gets further."""
    from cost_models import load_cost_model
    from cwmp.comparison.compare import compare as run_comparison

    if budgets_j is not None and budget_fractions is not None:
        raise UsageError("--budgets-j and --budget-fractions exclude each other.")
    console = Console(stderr=True, highlight=False)
    training = _training_config(config, {"selector": "dense", **_settings(settings)})
    model = load_cost_model(cost_model).with_assumed(_assumed(assume or []))
    started: list[str] = []
    with bar(console, "compare") as advance:
        result = run_comparison(
            training,
            model,
            out,
            rules=[_rule(name) for name in _listed("rules", rules, str)],
            budgets=_listed("budgets", budgets_j or budget_fractions or "0.05,0.2", float),
            budget_unit="fraction" if budgets_j is None else "J",
            seeds=_listed("seeds", seeds, int),
            device=_measuring_device(device, model, context, console),
            resume=resume,
            on_run=lambda run, index, total: started.append(f"{run.name} ({index + 1}/{total})"),
            on_round=lambda run, done: advance(done.round, training.rounds, started[-1]),
        )
    if as_json:
        typer.echo(result.model_dump_json(by_alias=True, indent=1))
        return
    stdout = Console(highlight=False)
    table = Table("rule", "budget", "accuracy", "J inside the boundary", "kept squared norm")
    for entry in result.entries:
        table.add_row(
            entry.rule,
            "-" if entry.budget is None else f"{entry.budget:g} {result.budget_unit}",
            f"{entry.mean_accuracy:.1%}",
            f"{entry.boundary_j:.4g}",
            f"{entry.retained_fraction:.1%}",
        )
    stdout.print(table)
    _line(stdout, f"Joules are {result.price_provenance}.")
    for sentence in result.verdict:
        _line(stdout, sentence)
    _line(console, f"Comparison in {out}. Next: calijoule report {out}")


@app.command()
def quickstart(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder; given again: goes on.")] = Path("calijoule-quickstart"),
    as_json: JsonOption = False,
) -> None:
    """Take this machine from nothing to calibrated training and a report."""
    from cwmp.quickstart import quickstart as run_journey

    journey = run_journey(
        out, powercap_root=settings_of(context).powercap_root, screen=_Terminal(Console(stderr=True))
    )
    if as_json:
        typer.echo(json.dumps({**asdict(journey), "page": str(journey.page)}))
        return
    stdout = Console(highlight=False)
    for sentence in journey.verdict:
        _line(stdout, sentence)
    _line(stdout, f"Every joule is {journey.provenance}, of {journey.device}. Report: {journey.page}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, a comparison or a quickstart.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder if absent.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a folder."""
    from cwmp.report import write_report

    page = write_report(folder, out)
    typer.echo(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


@dataclass(frozen=True)
class _Terminal:
    """The screen of the quickstart."""

    console: Console

    def say(self, text: str) -> None:
        _line(self.console, text)

    def bar(self, name: str) -> AbstractContextManager[Callable[[int, int, str], None]]:
        return bar(self.console, name)


@contextmanager
def bar(console: Console, unit: str) -> Iterator[Callable[[int, int, str], None]]:
    """A bar with the time that is left; yields ``advance(done, total, what)``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(unit, total=None)

        def advance(done: int, total: int, what: str) -> None:
            bars.update(task, completed=done, total=total, description=what)

        yield advance


def _assumed(pairs: list[str]) -> dict[str, float]:
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


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(_listed("input-shape", text, int))
    if min(shape) < 1:
        raise UsageError(f"--input-shape {text!r} must have positive lengths.")
    return shape


def _line(console: Console, text: str) -> None:
    """Print a whole line, so that paths and commands in it can be copied."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


def _listed(option: str, text: str, kind: Callable[[str], T]) -> list[T]:
    try:
        return [kind(part.strip()) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--{option} {text!r} cannot be read: {error}.") from error


def _rule(name: str) -> RuleName:
    for rule in get_args(RuleName):
        if rule == name:
            return cast(RuleName, rule)
    raise UsageError(f"There is no rule {name!r}.", next_step=f"Rules are {', '.join(get_args(RuleName))}.")


def _training_config(path: Path | None, given: dict[str, Any]) -> TrainingConfig:
    from cwmp.config import load_training_config, training_config

    return training_config(**given) if path is None else load_training_config(path, **given)


def _settings(pairs: list[str] | None) -> dict[str, Any]:
    """``KEY=VALUE`` pairs; a value is read as TOML, and as a string where it is none."""
    import tomllib

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


def _measuring_device(name: str, model: CostModel, context: typer.Context, console: Console) -> Device | None:
    """The device whose sensors see the phases; None, with the reason printed, where there is none."""
    from cwmp.measuring_device import measuring_device

    found = measuring_device(name, model, powercap_root=settings_of(context).powercap_root)
    if not isinstance(found, str):
        return found
    if name != "none":
        _line(console, f"Joules are predicted only: {found}")
    return None
