"""The report's table of clients that are other devices than the run's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cost_models.engineering import quantity
from cwmp.report.contents import TrainedRun
from cwmp.report.markup import Html, percent, table
from cwmp.report.words import in_words
from cwmp.training.run_record import RunReport


def fleet_table(runs: Sequence[TrainedRun]) -> Iterator[Html]:
    """One row for each group of every finished run; nothing where all clients are alike."""
    finished = [(run.name, run.report) for run in runs if run.report is not None and run.report.groups]
    if not finished:
        return
    head = (
        "run",
        "group",
        "clients",
        "device",
        "joules of",
        "link",
        "budget",
        "fixed",
        "Var(ln c)",
        "joules after backprop",
        "squared norm kept",
    )
    yield table(
        "Clients that are other devices: budget and fixed joules of one of them and round, joules of all of "
        "them and the whole run.",
        in_words({group.price_provenance for _, report in finished for group in report.groups}),
        head,
        [row for name, report in finished for row in _rows(name, report)],
        numeric=range(6, len(head)),
    )


def _rows(name: str, report: RunReport) -> Iterator[tuple[str, ...]]:
    for identity, group in zip(report.identity.groups, report.groups, strict=True):
        yield (
            name,
            group.name,
            str(group.clients),
            identity.cost_model_device,
            group.price_provenance,
            identity.link or "—",
            "—" if group.budget_j is None else quantity(group.budget_j, "J"),
            quantity(group.fixed_j, "J"),
            f"{group.var_ln_c:.3g}",
            quantity(group.boundary_j, "J"),
            percent(group.retained_fraction),
        )
