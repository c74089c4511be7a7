"""Commands of the cost models: fit records, show a model, check a file, list the published ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from calibration_data import UsageError
from calibration_data.families import NEVER_FITTED_FAMILIES
from calibration_data.records import CalibrationRecord
from calibration_data.store import read_records, records_sha256
from cost_models.cost_model import CostModel
from cost_models.document import Coefficient
from cost_models.engineering import interval, quantity, quantity_with_uncertainty
from cost_models.figures import save_figures
from cost_models.fitting import fit_cost_model
from cost_models.plausibility import implausibility, published_range
from cost_models.store import PUBLISHED_PREFIX, load_cost_model, published_names, save_cost_model
from cost_models.validation import findings

COVERAGE_FACTOR = 2
WIDE = 110

ModelFile = Annotated[Path, typer.Argument(help="Cost model file, or published:NAME.")]

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def fit(
    records: Annotated[list[Path], typer.Argument(help="Record files of one device, JSON Lines.")],
    out: Annotated[Path, typer.Option(help="File for the cost model, JSON.")],
    figure: Annotated[
        Path | None, typer.Option(help="Also draw the fit into this file (PNG, SVG, PDF).")
    ] = None,
    figures: Annotated[
        Path | None, typer.Option(help="Also draw every figure of the fit into this folder (PNG).")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap.")] = 0,
    gain_u: Annotated[
        float | None,
        typer.Option(min=0, max=0.5, help="Relative standard uncertainty of the sensors' gain, e.g. 0.05."),
    ] = None,
    priors: Annotated[
        bool, typer.Option("--priors", help="Published ranges speak where the records do not tell a cost.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the model as JSON instead of tables.")
    ] = False,
) -> None:
    """Fit the cost of every elementary operation, with intervals, to measured records."""
    if figure is not None and figure.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{figure}: a figure ends in .png, .svg or .pdf.")
    taken = [record for path in records for record in read_records(path)]
    with _fit_progress(taken) as report:
        model = fit_cost_model(
            taken,
            records_sha256=records_sha256(records),
            seed=seed,
            gain_u_rel=gain_u,
            priors=priors,
            report=report,
        )
    save_cost_model(out, model)
    if figure is not None:
        _draw(figure, model, taken)
    if figures is not None:
        save_figures(figures, model, taken)
    if as_json:
        typer.echo(_json(model))
        return
    _print_model(model)
    _print_line(Console(stderr=True, highlight=False), f"Cost model in {out}. Next: calijoule show {out}")


@app.command()
def show(
    model: ModelFile,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the model as JSON instead of tables.")
    ] = False,
) -> None:
    """Show the coefficients of a cost model, how well they are known, and what was refused."""
    loaded = load_cost_model(model)
    if as_json:
        typer.echo(_json(loaded))
    else:
        _print_model(loaded)


@app.command()
def validate(
    model: ModelFile,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a cost model file: schema, units, physics, and what is published for such devices."""
    loaded = load_cost_model(model)
    found = findings(loaded)
    if as_json:
        typer.echo(json.dumps({"valid": True, "findings": [asdict(finding) for finding in found]}))
        return
    console = _console()
    _print_line(console, f"{model}: a valid cost model; schema, units and physics hold.")
    for finding in found:
        _print_line(console, f"{finding.level}: {finding.message}")
    warnings = sum(finding.level == "warning" for finding in found)
    _print_line(console, f"{warnings} warnings." if warnings != 1 else "1 warning.")


@app.command()
def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the published cost models, from the literature, that can be given in the place of a file."""
    published = {name: load_cost_model(Path(PUBLISHED_PREFIX + name)) for name in published_names()}
    if as_json:
        sources = {PUBLISHED_PREFIX + name: list(m.document.sources) for name, m in published.items()}
        typer.echo(json.dumps(sources))
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("name", no_wrap=True)
    for heading in ("device", "costs with a value", "with limits only", "without a number"):
        table.add_column(heading)
    for name, model in published.items():
        counted = [c.status for c in model.coefficients.values()]
        table.add_row(
            PUBLISHED_PREFIX + name,
            model.device.model_name if model.device else "no single device",
            *(str(counted.count(status)) for status in ("identified", "bounded", "refused")),
        )
    console = _console()
    console.print(table)
    _print_line(console, "Nothing in them was measured here. Next: calijoule show published:NAME")


def _json(model: CostModel) -> str:
    return model.document.model_dump_json(by_alias=True, indent=1)


def _draw(path: Path, model: CostModel, records: list[CalibrationRecord]) -> None:
    from cost_models.plots import plot_fit

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        plot_fit(model, records).savefig(path)
    except OSError as error:
        raise UsageError(f"{path}: the figure cannot be written ({error.strerror}).") from error


@contextmanager
def _fit_progress(records: list[CalibrationRecord]) -> Iterator[Callable[[str], None]]:
    """A bar over the fits: one with all families, one without each."""
    columns = (
        TextColumn("fit {task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        families = {record.family for record in records} - set(NEVER_FITTED_FAMILIES)
        task = bars.add_task("", total=1 + len(families))
        started = False

        def report(step: str) -> None:
            nonlocal started
            bars.update(task, description=_plain(step), advance=1 if started else 0)
            started = True

        yield report


def _print_model(model: CostModel) -> None:
    console = _console()
    device = model.device
    name = f"{device.model_name} ({device.device})" if device else "no single device"
    if model.provenance == "simulated":
        console.rule("[bold red]SIMULATED: no joule here was measured[/]", style="red")
    _print_line(
        console, f"Cost model of {name}, {model.provenance}, domains {', '.join(model.document.domains)}"
    )
    for source in model.document.sources:
        _print_line(console, f"source: {source}")
    console.print(_coefficient_table(model))
    _print_diagnostics(console, model)
    for finding in findings(model):
        _print_line(console, f"{finding.level}: {finding.message}")


def _coefficient_table(model: CostModel) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("term", no_wrap=True)
    for name in (f"value ± U (k = {COVERAGE_FACTOR})", "95 % interval", "status", "published", "joules are"):
        table.add_column(name)
    for item in model.coefficients.values():
        published = published_range(model.device, item.name)
        known = interval(published.low, published.high, item.unit) if published else "—"
        mark = " [red]outside[/]" if implausibility(model.device, item) else ""
        provenance = "[bold red]SIMULATED[/]" if item.provenance == "simulated" else item.provenance
        table.add_row(
            item.name,
            _value(item),
            interval(*item.ci95, item.unit) if item.ci95 else "—",
            item.status,
            known + mark,
            provenance,
        )
    return table


def _value(item: Coefficient) -> str:
    if item.value is None or item.standard_uncertainty is None:
        return "—"
    if item.standard_uncertainty == 0:
        return f"{quantity(item.value, item.unit)}, as supplied"
    return quantity_with_uncertainty(item.value, COVERAGE_FACTOR * item.standard_uncertainty, item.unit)


def _print_diagnostics(console: Console, model: CostModel) -> None:
    for item in model.coefficients.values():
        if item.status != "identified":
            _print_line(console, f"{item.name} {item.status}: {item.reason}")
    found = model.document.diagnostics
    if not found.n_records:
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("family", "records", "MAPE in sample", "MAPE left out", "inside 95 % left out"):
        table.add_column(heading)
    for name, family in found.families.items():
        table.add_row(
            Text(_plain(name)),
            str(family.records),
            _percent(family.mape_in_sample),
            _percent(family.mape_left_out),
            _percent(family.coverage95_left_out),
        )
    table.add_section()
    table.add_row(
        "all",
        str(found.n_records),
        _percent(found.mape_in_sample),
        _percent(found.mape_leave_one_family_out),
        _percent(found.coverage95_leave_one_family_out),
    )
    if found.held_out:
        table.add_section()
        for name, judged in found.held_out.items():
            table.add_row(
                Text(f"{_plain(name)} (never fitted)"),
                str(judged.records),
                "—",
                _percent(judged.mape),
                _percent(judged.coverage95),
            )
        table.add_section()
        table.add_row(
            "all never fitted",
            str(sum(judged.records for judged in found.held_out.values())),
            "—",
            _percent(found.mape_held_out),
            _percent(found.coverage95_held_out),
        )
    console.print(table)
    for name, judged in found.held_out.items():
        if judged.reason:
            _print_line(console, f"{_plain(name)}: {judged.reason}")
    for name, family in found.families.items():
        if family.reason:
            _print_line(console, f"{name} left out: {family.reason}")
    for point, band in found.toggle.items():
        low, high = band.ci95
        _print_line(
            console,
            f"{_plain(point)} on zeros draws {band.zeros_rel:.0%} ({low:.0%} to {high:.0%}) of what it draws "
            "on random data, for which the costs hold",
        )
    condition = found.scaled_condition_number
    _print_line(
        console,
        f"{found.n_windows} windows; scaled condition number "
        f"{'infinite' if condition is None else f'{condition:.1f}'}; hardest to tell apart: "
        f"{found.smallest_singular_direction}",
    )


def _percent(fraction: float | None) -> str:
    return "—" if fraction is None else f"{100 * fraction:.1f} %"


def _console() -> Console:
    """Standard output; a pipe or a file gets tables as wide as they need."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    return console


def _print_line(console: Console, text: str) -> None:
    """Print a whole line, so that names and commands in it can be copied."""
    console.print(_plain(text), markup=False, emoji=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Text from a file without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
