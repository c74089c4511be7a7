"""Commands of the profiler: what can be measured here, the joules of a command, and of a device's work."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars
from rich.table import Table

from calibration_data import UsageError, domain_kind, says_nothing
from profiler.conditions import read_conditions
from profiler.discovery import SensorState, discover, require_usable
from profiler.measure import CommandEnergy, MeasureResult, measure_command, measurement_document
from profiler.meter import EnergyMeter
from profiler.permissions import recipes
from profiler.plan import PlanName, Progress
from profiler.sensors import HWMON_ROOT, POWERCAP_ROOT, RaplBackend, RealSensor, open_sensors

STDOUT = Path("-")
COVERAGE_FACTOR = 2

app = typer.Typer(no_args_is_help=True, add_completion=False)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options that every command shares.

    Attributes:
        powercap_root: root of the RAPL tree.
    """

    powercap_root: Path = POWERCAP_ROOT


@app.command()
def devices(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Hold each GPU's energy counter against its integrated power.")
    ] = False,
    recipe: Annotated[
        bool, typer.Option("--recipe", help="Print how to let one group read the counters, and stop.")
    ] = False,
    hwmon_root: Annotated[Path, typer.Option(help="Root of the hwmon tree.")] = HWMON_ROOT,
) -> None:
    """Show what can be measured here; for what cannot: why, and the exact remedy."""
    if recipe:
        typer.echo(recipes())
        return
    states = discover(settings_of(context).powercap_root, hwmon_root=hwmon_root, check=check)
    if as_json:
        typer.echo(json.dumps([asdict(state) for state in states], indent=2))
    else:
        _print_states(states)
    require_usable(states)


@app.command(context_settings={"allow_interspersed_args": False})
def measure(
    context: typer.Context,
    command: Annotated[list[str], typer.Argument(help="The command and its arguments, after --.")],
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the result as JSON; - for standard output.")
    ] = None,
    idle_s: Annotated[
        float, typer.Option("--idle-s", min=0, help="Seconds of idle baseline before the command; 0: none.")
    ] = 1.0,
    idle_after: Annotated[
        bool, typer.Option("--idle-after", help="Take another idle window after the command.")
    ] = False,
    hwmon_root: Annotated[Path, typer.Option(help="Root of the hwmon tree.")] = HWMON_ROOT,
    backend: Annotated[RaplBackend, typer.Option(help="Way to the RAPL counters.")] = "auto",
) -> None:
    """Measure the joules of a command: by domain, gross and net, with uncertainty."""
    powercap_root = settings_of(context).powercap_root
    if json_file not in (None, STDOUT) and not json_file.parent.is_dir():
        raise UsageError(f"There is no folder {json_file.parent} to write the result into.")
    sensors = open_sensors(powercap_root=powercap_root, hwmon_root=hwmon_root, backend=backend)
    try:
        with EnergyMeter(sensors) as meter:
            result = measure_command(
                command,
                meter,
                idle_s=idle_s,
                idle_after=idle_after,
                look=lambda: read_conditions(sensors, powercap_root=powercap_root),
            )
    finally:
        for sensor in sensors:
            sensor.close()
    _print_result(result, sensors, powercap_root)
    if json_file is not None:
        document = measurement_document(result, sensors=sensors, powercap_root=powercap_root)
        _write(json_file, json.dumps(document, indent=2, allow_nan=False))
    raise typer.Exit(result.exit_code)


@app.command()
def profile(
    context: typer.Context,
    device: Annotated[
        str, typer.Option(help="cpu, cuda:0, sim:NAME (a shipped simulated device) or sim:FILE.json.")
    ],
    out: Annotated[
        Path | None, typer.Option(help="File for the records, JSON Lines; a dry run needs none.")
    ] = None,
    plan: Annotated[PlanName, typer.Option(help="quick: minutes; full: narrower intervals.")] = "quick",
    seed: Annotated[int, typer.Option(help="Order of the configurations; noise of a simulated device.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a stopped campaign.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the schedule and the minutes it takes; measure nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Measure a device with microbenchmarks of known work; one record per configuration."""
    from profiler.campaign import run_campaign
    from profiler.devices import open_device
    from profiler.plan import make_plan
    from profiler.schedule import make_schedule
    from profiler.schedule_view import minutes, print_schedule, schedule_document

    if out is None and not dry_run:
        raise UsageError("The records need a file.", next_step="Give --out R.jsonl, or --dry-run.")
    console = Console(stderr=True, highlight=False)
    opened = open_device(device, powercap_root=settings_of(context).powercap_root, seed=seed)
    try:
        the_plan = make_plan(opened, plan, seed=seed)
        schedule = make_schedule(the_plan, opened)
        if dry_run and as_json:
            typer.echo(json.dumps(schedule_document(the_plan, schedule, opened.name)))
            return
        virtual = opened.provenance == "simulated"
        if virtual:
            _print_line(console, f"SIMULATED: every joule of {opened.name} is simulated.")
        if dry_run:
            print_schedule(Console(highlight=False), the_plan, schedule)
        _print_line(console, minutes(schedule, virtual=virtual))
        if out is None or dry_run:
            return
        with campaign_progress(console) as report:
            records = run_campaign(opened, the_plan, out, resume=resume, report=report)
    finally:
        opened.close()
    summary = {
        "records": len(records),
        "out": str(out),
        "device": opened.name,
        "provenance": opened.provenance,
    }
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        _print_line(
            console, f"{len(records)} {opened.provenance} records in {out}. Next: calijoule fit {out}"
        )


@contextmanager
def campaign_progress(console: Console) -> Iterator[Callable[[Progress], None]]:
    """A bar with the time that is left, for ``run_campaign``."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("profile", total=None)

        def report(progress: Progress) -> None:
            bars.update(task, total=progress.total, completed=progress.done, description=progress.point)

        yield report


def settings_of(context: typer.Context) -> Settings:
    """Options of the composed command; its defaults where a command runs alone."""
    return context.obj if isinstance(context.obj, Settings) else Settings()


def _write(path: Path, text: str) -> None:
    if path == STDOUT:
        typer.echo(text)
        return
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror}.") from error


def _print_states(states: Sequence[SensorState]) -> None:
    console = Console(highlight=False)
    table = Table("sensor", "state", "domains")
    for state in states:
        if state.state != "left out":
            table.add_row(state.name, state.state, "\n".join(spec.domain for spec in state.specs))
    console.print(table)
    for state in states:
        if state.reason:
            _print_line(console, f"{state.state}: {state.name}: {state.reason}")
        for note in (*state.notes, *(check.note for check in state.checks)):
            _print_line(console, f"note: {state.name}: {note}")
    for remedy in dict.fromkeys(state.remedy for state in states if state.remedy):
        _print_line(console, f"Remedy: {remedy}")


def _print_result(result: MeasureResult, sensors: Sequence[RealSensor], powercap_root: Path) -> None:
    console = Console(stderr=True, highlight=False)
    table = Table("domain", "gross J", "net J", "in the total")
    for energy in result.domains:
        table.add_row(energy.domain, *_joules(energy), _part_of_total(energy.domain))
    if result.total is not None:
        table.add_section()
        table.add_row("total", *_joules(result.total))
    console.print(table)
    if result.total is None:
        stuck = [energy.domain for energy in result.domains if says_nothing(energy.flags)]
        nothing = "neither a package, nor DRAM, nor a GPU is measured"
        reason = f"the counter of {', '.join(stuck)} did not move" if stuck else nothing
        _print_line(console, f"No total: {reason}.")
    for note in result.notes:
        _print_line(console, f"Note: {note}.")
    for reason in dict.fromkeys(energy.net_missing_reason for energy in result.domains):
        without = [energy.domain for energy in result.domains if energy.net_missing_reason == reason]
        if reason:
            _print_line(console, f"No net joules of {', '.join(without)}: {reason}.")
    interfaces = sorted({spec.interface for sensor in sensors for spec in sensor.specs})
    _print_line(
        console,
        f"Measured in {result.duration_s:.3f} s by {', '.join(interfaces)}; powercap root {powercap_root}."
        f" ± is U (k = {COVERAGE_FACTOR}) from tick, resolution and idle baseline; the sensor's own gain"
        " error comes on top.",
    )


def _print_line(console: Console, text: str) -> None:
    """Print a whole line, so that paths and commands in it can be copied."""
    console.print(text, markup=False, emoji=False, soft_wrap=True)


def _joules(energy: CommandEnergy) -> tuple[str, str]:
    if says_nothing(energy.flags):
        return "did not move", "none"
    gross = f"{energy.gross_j:.6f} ± {COVERAGE_FACTOR * energy.gross_u_j:.2g}"
    if energy.net_j is None or energy.net_u_j is None:
        return gross, "none"
    return gross, f"{energy.net_j:.6f} ± {COVERAGE_FACTOR * energy.net_u_j:.2g}"


def _part_of_total(domain: str) -> str:
    match domain_kind(domain):
        case "core" | "uncore":
            return "within its package"
        case "psys":
            return "no, it contains package and DRAM"
        case "gpumem":
            return "within its GPU"
        case "rail":
            return "no, rails overlap"
        case _:
            return "yes"
