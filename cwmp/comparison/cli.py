"""The command that compares rules at the same joules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bars
from rich.table import Column, Table

from calibration_data import UsageError
from cwmp.command_line import (
    AssumeOption,
    ConfigOption,
    DeviceOption,
    JsonOption,
    SettingsOption,
    assumed_costs,
    config_of,
    listed,
    print_line,
    settings_given,
)
from profiler.cli import settings_of

if TYPE_CHECKING:
    from cost_models import CostModel
    from cwmp.comparison.document import ComparisonReport
    from cwmp.comparison.runner import Progress
    from cwmp.comparison.study_file import StudyFile
    from profiler.device import Device

RULES = "cwmp,topk,randomk,dense"
BUDGET_FRACTIONS = (0.05, 0.2)
WIDE = 110
HEAD = ("budget", "accuracy", "J inside the boundary", "of the budget", "kept squared norm")

ModelsOption = Annotated[
    list[Path] | None,
    typer.Option(help="Cost model file, or published:NAME; repeatable: one variant each."),
]

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def compare(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder of the comparison.")],
    study: Annotated[
        Path | None, typer.Option(help="TOML file with rules, budgets, seeds, settings and variants.")
    ] = None,
    cost_model: ModelsOption = None,
    config: ConfigOption = None,
    rules: Annotated[
        str | None, typer.Option(help=f"Rules, by commas (else {RULES}); cwmp:equal-prices is the ablation.")
    ] = None,
    budgets_j: Annotated[str | None, typer.Option(help="Joules of one client and round, by commas.")] = None,
    budget_fractions: Annotated[
        str | None, typer.Option(help="The same as fixed joules + these parts of the others [0.05,0.2].")
    ] = None,
    seeds: Annotated[str | None, typer.Option(help="Seeds, by commas [0].")] = None,
    fleets: Annotated[str | None, typer.Option(help="Fleet files, by commas: one variant each.")] = None,
    settings: SettingsOption = None,
    assume: AssumeOption = None,
    device: DeviceOption = "auto",
    engine: Annotated[
        Literal["local", "local-batched"],
        typer.Option(
            help="What runs the clients; local-batched trains those of a small dense network together."
        ),
    ] = "local",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, in a process each.")] = 1,
    resume: Annotated[bool, typer.Option("--resume", help="Keep finished runs, go on with others.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train by several rules at the same joules and say which keeps more and gets further."""
    from cost_models import load_cost_model
    from cwmp.comparison.compare import compare as run_comparison
    from cwmp.comparison.study_file import StudyFile, load_study, variants_of

    given = StudyFile() if study is None else load_study(study)
    budgets, unit = _budgets(given, budgets_j, budget_fractions)
    console = Console(stderr=True, highlight=False)
    assumed = assumed_costs(assume or [])
    variants = variants_of(
        given.variant,
        lambda path, own: load_cost_model(Path(path)).with_assumed({**assumed, **own}),
        cost_model=[str(path) for path in cost_model or []],
        fleet=[] if fleets is None else listed("fleets", fleets, str),
    )
    root = settings_of(context).powercap_root
    _say_what_is_not_measured(console, device, root, [variant.cost_model for variant in variants])
    with _progress(console) as on_progress:
        result = run_comparison(
            config_of(config, {"selector": "dense", **given.settings, **settings_given(settings)}),
            variants,
            out,
            rules=listed("rules", rules, str) if rules else given.rules or RULES.split(","),
            budgets=budgets,
            budget_unit=unit,
            seeds=listed("seeds", seeds, int) if seeds else given.seeds or (0,),
            open_device=partial(_device, device, root),
            engine=engine,
            jobs=jobs,
            resume=resume,
            on_progress=on_progress,
        )
    if as_json:
        typer.echo(result.model_dump_json(by_alias=True, indent=1))
        return
    stdout = Console(highlight=False)
    if not stdout.is_terminal:
        stdout.width = max(stdout.width, WIDE)
    _print_result(stdout, result)
    print_line(console, f"Comparison in {out}. Next: calijoule report {out}")


def _budgets(given: StudyFile, budgets_j: str | None, fractions: str | None) -> tuple[Sequence[float], Any]:
    """Budgets and their unit; the command line replaces those of the file."""
    if budgets_j is not None or fractions is not None:
        joules = None if budgets_j is None else listed("budgets-j", budgets_j, float)
        parts = None if fractions is None else listed("budget-fractions", fractions, float)
    else:
        joules, parts = given.budgets_j, given.budget_fractions  # type: ignore[assignment]
    if joules is not None and parts is not None:
        raise UsageError("Budgets in joules and in fractions exclude each other.")
    return (joules, "J") if joules is not None else (parts or BUDGET_FRACTIONS, "fraction")


def _device(name: str, powercap_root: Path, model: CostModel) -> Device | None:
    from cwmp.measuring_device import find_device

    found = find_device(name, model, powercap_root=powercap_root)
    return None if isinstance(found, str) else found


def _say_what_is_not_measured(console: Console, name: str, root: Path, models: Sequence[CostModel]) -> None:
    from cwmp.measuring_device import find_device

    if name == "none":
        return
    found = [find_device(name, model, powercap_root=root) for model in models]
    for reason in dict.fromkeys(reason for reason in found if isinstance(reason, str)):
        print_line(console, f"Joules are predicted only: {reason}")


@contextmanager
def _progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar over all rounds of all runs; where nobody watches, a line for each run that has ended."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("compare", total=None)

        def advance(progress: Progress) -> None:
            ended = f"{progress.ended_runs}/{progress.runs} runs, {progress.run.name}"
            left = "" if progress.left_s is None else f", about {_time(progress.left_s)} left"
            total = progress.done_rounds + progress.left_rounds
            bars.update(task, completed=progress.done_rounds, total=total, description=ended + left)
            if progress.failure is not None:
                print_line(bars.console, f"{progress.run.name} failed: {progress.failure}")
            elif progress.ended and not console.is_terminal:
                print_line(console, f"{ended} done{left}")

        yield advance


def _time(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _print_result(stdout: Console, result: ComparisonReport) -> None:
    from cwmp.comparison.verdict import budget_in_words

    for variant in result.variants:
        table = Table(Column("rule", no_wrap=True), *HEAD, box=SIMPLE_HEAD)
        for entry in result.entries_of(variant.name):
            half_width = entry.accuracy.half_width
            table.add_row(
                entry.label,
                budget_in_words(entry.budget, result.budget_unit) or "-",
                f"{entry.accuracy.mean:.1%}" + ("" if half_width is None else f" ± {100 * half_width:.1f}"),
                f"{entry.boundary_j:.4g}",
                "-" if entry.spent_fraction is None else f"{entry.spent_fraction:.2%}",
                f"{entry.retained_fraction:.1%}",
            )
        if variant.name:
            print_line(stdout, f"{variant.name}, costs of {variant.cost_model_device}:")
        stdout.print(table)
        print_line(stdout, f"Joules are {variant.price_provenance}; ± is a 95 % interval over seeds.")
        for sentence in result.verdict_on(variant.name) if variant.name else ():
            print_line(stdout, sentence)
    for sentence in result.verdict_on(""):
        print_line(stdout, sentence)
