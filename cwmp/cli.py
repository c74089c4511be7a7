"""Commands of training: export costs, predict, train, report, and the whole journey."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

from calibration_data import UsageError
from cwmp.command_line import (
    AssumeOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    ModelFile,
    ModelOption,
    SettingsOption,
    assumed_costs,
    bar,
    config_of,
    listed,
    measuring_device,
    print_line,
    settings_given,
)
from cwmp.config import RuleName
from profiler.cli import settings_of

if TYPE_CHECKING:
    from cwmp.training.run_record import RunReport

app = typer.Typer(no_args_is_help=True, add_completion=False)

BoundaryName = Literal["update", "update+uplink"]
OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]

NetworkOption = Annotated[
    str,
    typer.Option(help="mlp, cnn, lenet, fedavg-cnn, resnet18, resnet18-bn, or module:factory of your own."),
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

    costs_of = load_cost_model(model).with_assumed(assumed_costs(assume or []))
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
    print_line(console, f"Fixed for each round: {fixed.value:.4g} J, u = {fixed.standard_uncertainty:.2g} J.")
    print_line(console, f"Boundary {boundary}; provenance {vector.provenance}; density {density:g}.")
    for note in vector.notes:
        print_line(console, f"Note: {note}")
    print_line(console, document.verdict)


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

    costs = load_cost_model(model).with_assumed(assumed_costs(assume or []))
    settings = StepSettings(
        network=network,
        input_shape=None if input_shape is None else _shape(input_shape),
        batch_size=batch_size,
        optimizer=None if forward_only else optimizer,
        vocabulary=vocabulary,
        depth=depth,
    )
    accounting = measuring_device(device, costs, context, Console(stderr=True, highlight=False))
    answer = predict_network(settings, costs, accounting)
    if as_json:
        typer.echo(json.dumps(answer_json(answer), indent=1))
        return
    console = Console(highlight=False)
    console.print(shares_table("layer", answer.prediction.layers))
    console.print(shares_table("operator", answer.prediction.operators))
    for sentence in sentences(answer):
        print_line(console, sentence)


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
        float | None, typer.Option(min=1, help="How long flower waits for a round [600; simulated: a day].")
    ] = None,
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
    training = config_of(config, {**settings_given(settings), **given})
    model = load_cost_model(cost_model).with_assumed(assumed_costs(assume or []))
    if superlink is not None:
        from cwmp.flower.train import train_deployed

        train_deployed(
            training,
            model,
            out,
            superlink,
            round_timeout_s=round_timeout_s or 600.0,
            resume=resume,
            say=lambda line: print_line(console, line),
        )
        return
    measured_by = measuring_device(device, model, context, console)
    if engine == "flower":
        from cwmp.flower.train import train_simulated

        result = train_simulated(
            training,
            model,
            out,
            device=None if measured_by is None else measured_by.name,
            powercap_root=settings_of(context).powercap_root,
            at_once=workers,
            round_timeout_s=round_timeout_s or 86_400.0,
            resume=resume,
            say=lambda line: print_line(console, line),
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
                on_start=lambda var_ln_c, gain: print_line(console, verdict(var_ln_c, [gain])),
                on_round=lambda done: advance(done.round, training.rounds, done.progress),
            )
    if as_json:
        typer.echo(result.model_dump_json(by_alias=True, indent=1))
    else:
        _print_result(result, out, console)


def _print_result(result: RunReport, out: Path, console: Console) -> None:
    stdout = Console(highlight=False)
    boundary = result.identity.config.boundary
    print_line(stdout, f"{result.final_accuracy:.1%} of the test samples right after {result.rounds} rounds.")
    print_line(stdout, f"{result.boundary_j:.4g} J inside {boundary}; {result.price_provenance} costs.")
    for note in result.notes:
        print_line(stdout, f"Note: {note}")
    print_line(console, f"Run in {out}. Next: calijoule report {out}")


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
        print_line(stdout, sentence)
    print_line(stdout, f"Every joule is {journey.provenance}, of {journey.device}. Report: {journey.page}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, a comparison or a quickstart.")],
    out: Annotated[Path | None, typer.Option(help="The page; report.html in the folder if absent.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Folder for the figures as SVG files.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Write one self-contained HTML page about a folder."""
    from cwmp.report import write_report

    page = write_report(folder, out, figures=figures)
    typer.echo(json.dumps({"report": str(page)}) if as_json else f"Report: {page}")


@dataclass(frozen=True)
class _Terminal:
    """The screen of the quickstart."""

    console: Console

    def say(self, text: str) -> None:
        print_line(self.console, text)

    def bar(self, name: str) -> AbstractContextManager[Callable[[int, int, str], None]]:
        return bar(self.console, name)


def _shape(text: str) -> tuple[int, ...]:
    shape = tuple(listed("input-shape", text, int))
    if min(shape) < 1:
        raise UsageError(f"--input-shape {text!r} must have positive lengths.")
    return shape
