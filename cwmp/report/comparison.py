"""The report's section on a comparison: accuracy for joules, and the front."""

from __future__ import annotations

from cost_models.engineering import quantity
from cwmp.comparison.findings import ComparisonReport, Entry
from cwmp.report.markup import Html, element, figure, join, percent, table
from cwmp.report.plots import ParetoPoint, plot_pareto, svg_data_uri
from cwmp.report.rule_runs import budget_in_words
from cwmp.report.words import in_words
from cwmp.selection import RULES

COVERAGE_FACTOR = 2.0


def comparison_section(comparison: ComparisonReport) -> Html:
    """Which rule reached what for how many joules, and what can be told from chance."""
    prices = comparison.price_provenance
    points = [_point(comparison, entry) for entry in _ordered(comparison)]
    seeds = len(comparison.seeds)
    over = f"over {seeds} seeds" if seeds > 1 else "of one seed, so chance is not in them"
    return join(
        (
            figure(
                svg_data_uri(lambda: plot_pareto(points, prices)),
                "Accuracy of every rule and budget against its joules",
                f"Test accuracy of the last rounds against the joules of whole runs; means {over}. The "
                "budgets stand above; the line joins what no other beats in both.",
                prices,
            ),
            _entries_table(comparison),
        )
    )


def _entries_table(comparison: ComparisonReport) -> Html:
    seen_as = {entry.measured_provenance for entry in comparison.entries if entry.measured_provenance}
    seen = in_words(seen_as) or "seen by sensors"
    prices = comparison.price_provenance
    head = (
        "rule",
        "accuracy ± U (k = 2)",
        "joules inside the boundary",
        "on the device, predicted",
        f"on the device, {seen}",
        "Var(ln c)",
        "cwmp over Top-K, predicted",
        "cwmp over Top-K, these updates",
        "Pareto front",
    )
    return table(
        "Whole runs: accuracy of the last rounds, joules of all clients and rounds, and squared norm kept.",
        prices if seen_as <= {prices} else f"predicted {prices}, seen {seen}",
        head,
        (_row(comparison, entry) for entry in _ordered(comparison)),
        numeric=range(1, 8),
    )


def _ordered(comparison: ComparisonReport) -> list[Entry]:
    """By rule and budget, as in the tables of training."""
    return sorted(comparison.entries, key=lambda entry: (RULES.index(entry.rule), entry.budget or 0.0))


def _row(comparison: ComparisonReport, entry: Entry) -> tuple[object, ...]:
    return (
        join((element("code", entry.rule), element("small", _budget(comparison, entry)))),
        _accuracy(entry),
        quantity(entry.boundary_j, "J"),
        quantity(entry.predicted_j, "J"),
        "—" if entry.measured_j is None else quantity(entry.measured_j, "J"),
        f"{entry.var_ln_c:.2g}",
        _points(entry, entry.predicted_gain),
        _points(entry, entry.cwmp_retained_fraction - entry.topk_retained_fraction),
        "on it" if entry.pareto else "",
    )


def _point(comparison: ComparisonReport, entry: Entry) -> ParetoPoint:
    return ParetoPoint(
        rule=entry.rule,
        budget=_budget(comparison, entry),
        boundary_j=entry.boundary_j,
        accuracy=entry.mean_accuracy,
        accuracy_u=entry.accuracy_u or 0.0,
        on_front=entry.pareto,
    )


def _budget(comparison: ComparisonReport, entry: Entry) -> str:
    in_joules = comparison.budget_unit == "J"
    return budget_in_words(
        budget_j=entry.budget if in_joules else None, budget_fraction=None if in_joules else entry.budget
    )


def _accuracy(entry: Entry) -> str:
    if entry.accuracy_u is None:
        return percent(entry.mean_accuracy)
    return f"{100 * entry.mean_accuracy:.1f} ± {100 * COVERAGE_FACTOR * entry.accuracy_u:.1f} %"


def _points(entry: Entry, fraction: float) -> str:
    return "—" if entry.budget is None else f"{100 * fraction:+.2f} points"
