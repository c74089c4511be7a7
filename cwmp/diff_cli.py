"""The command that compares two cost models, and the prices of a network by both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from calibration_data import UsageError

if TYPE_CHECKING:
    from cost_models import Coefficient, CostModel
    from cost_models.difference import ModelDifference
    from cwmp.cost_vector import CostVector
    from cwmp.price_difference import PriceDifference

WIDE = 110

app = typer.Typer(no_args_is_help=True, add_completion=False)


@app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="Cost model file, or published:NAME.")],
    second: Annotated[Path, typer.Argument(help="The one to compare it with.")],
    network: Annotated[
        str | None,
        typer.Option(help="Also compare its prices: a network's name, or module:factory of your own."),
    ] = None,
    density: Annotated[float, typer.Option(help="Expected kept fraction, for the prices.")] = 0.05,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the comparison here.")] = None,
) -> None:
    """Compare two cost models: costs with their intervals, what else differs, and a network's prices."""
    from calibration_data.files import write_whole
    from cost_models import load_cost_model
    from cost_models.difference import compare_models

    models = {path: load_cost_model(path) for path in (first, second)}
    difference = compare_models(models[first], models[second])
    prices: tuple[PriceDifference, ...] = ()
    if network is not None:
        from cwmp.price_difference import compare_prices

        prices = compare_prices(*(_priced(path, models[path], network, density) for path in (first, second)))
    verdict = list(difference.verdict)
    if prices:
        from cwmp.price_difference import price_verdict

        verdict += price_verdict(prices)
    if json_file is not None:
        files = {"files": [str(first), str(second)]}
        found = (
            difference.as_json()
            | files
            | {"prices": [price.as_json() for price in prices], "verdict": verdict}
        )
        write_whole(json_file, json.dumps(found, indent=1) + "\n")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, WIDE)
    console.print(_coefficient_table(difference))
    _print_context(console, difference)
    if prices:
        console.print(_price_table(prices))
    for sentence in verdict:
        _print_line(console, sentence)


def _priced(path: Path, model: CostModel, network: str, density: float) -> CostVector:
    """The network priced by one model; an error says which of the two it is about."""
    from cwmp.cost_vector import cost_vector
    from cwmp.networks import load_network

    source = load_network(network)
    try:
        return cost_vector(source, model, boundary="update", density=density)
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", next_step=error.next_step) from error


def _coefficient_table(difference: ModelDifference) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("term", no_wrap=True)
    for heading in ("first", "second", "second / first", "95 % interval of it", ""):
        table.add_column(heading)
    for item in difference.coefficients:
        table.add_row(
            item.name,
            _cost(item.first),
            _cost(item.second),
            "—" if item.ratio is None else f"{item.ratio:.3g}",
            "—" if item.ratio_ci95 is None else f"{item.ratio_ci95[0]:.3g} … {item.ratio_ci95[1]:.3g}",
            Text(item.outcome, style="bold" if item.outcome == "differ" else ""),
        )
    return table


def _cost(item: Coefficient | None) -> str:
    from cost_models.engineering import interval, quantity_with_uncertainty

    if item is None or item.ci95 is None:
        return "absent" if item is None else "refused"
    if item.value is None or item.standard_uncertainty is None:
        return interval(*item.ci95, item.unit)
    return quantity_with_uncertainty(item.value, 2 * item.standard_uncertainty, item.unit)


def _print_context(console: Console, difference: ModelDifference) -> None:
    if not difference.context:
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("what else differs", "first", "second"):
        table.add_column(heading)
    for item in difference.context:
        table.add_row(*(Text(_plain(text)) for text in (item.what, item.first, item.second)))
    console.print(table)


def _price_table(prices: tuple[PriceDifference, ...]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in (
        "tensor",
        "coordinates",
        "lives in",
        "first, nJ ± U",
        "second, nJ ± U",
        "second / first",
        "",
    ):
        table.add_column(heading)
    for price in prices:
        levels = dict.fromkeys((price.first_level, price.second_level))
        table.add_row(
            Text(_plain(price.tensor)),
            str(price.coordinates),
            " / ".join(levels),
            *(f"{1e9 * j.value:.4g} ± {1e9 * j.expanded():.2g}" for j in (price.first_j, price.second_j)),
            f"{price.ratio:.3g}",
            Text("differ" if price.differs else "agree", style="bold" if price.differs else ""),
        )
    return table


def _print_line(console: Console, text: str) -> None:
    console.print(_plain(text), markup=False, emoji=False, soft_wrap=True)


def _plain(text: str) -> str:
    """Text from a file without the control characters that a terminal would obey."""
    return "".join(character if character.isprintable() else "?" for character in text)
