"""The report's section on a comparison: the frontier of every variant, tests, and where the joules went."""

from __future__ import annotations

from collections.abc import Iterator

from cost_models.engineering import quantity, quantity_with_uncertainty
from cwmp.comparison.document import ComparisonReport, Entry, PairedTest, VariantReport
from cwmp.comparison.seed_statistics import SeedMean
from cwmp.comparison.verdict import budget_in_words
from cwmp.report.comparison_plots import (
    by_budget,
    can_be_reached,
    plot_density,
    plot_frontier,
    plot_joules_to_accuracy,
    plot_retained,
)
from cwmp.report.markup import Html, bullets, element, figure, join, paragraph, percent, table
from cwmp.report.plots import svg_data_uri
from cwmp.report.words import in_words
from cwmp.selection import RULES


def comparison_section(comparison: ComparisonReport) -> Html:
    """Which rule reached what for how many joules, and what can be told from chance."""
    parts: list[object] = [_frontier(comparison)]
    for variant in comparison.variants:
        if len(comparison.variants) > 1:
            parts.append(element("h3", variant.name))
        parts.extend(_variant(comparison, variant))
    if comparison.failures:
        parts.append(paragraph("Runs that did not finish and are in no mean:"))
        parts.append(bullets(f"{item.run}: {item.reason}" for item in comparison.failures))
    return join(parts)


def _frontier(comparison: ComparisonReport) -> Html:
    prices = in_words({variant.price_provenance for variant in comparison.variants})
    panels = {variant.name: _ordered(comparison, variant) for variant in comparison.variants}
    which = ", one panel for each variant" if len(panels) > 1 else ""
    return figure(
        svg_data_uri(lambda: plot_frontier(panels, prices)),
        "Accuracy of every rule against its joules, a line over its budgets",
        f"Test accuracy of the last rounds against the joules of whole runs{which}; a line joins the budgets"
        f" of one rule. {_over_seeds(comparison)}",
        prices,
    )


def _variant(comparison: ComparisonReport, variant: VariantReport) -> Iterator[Html]:
    """Tables and figures of one variant."""
    entries = _ordered(comparison, variant)
    yield _entries_table(comparison, variant, entries)
    tests = [test for test in comparison.tests if test.variant == variant.name]
    if tests:
        yield _tests_table(comparison, variant, tests)
    prices = variant.price_provenance
    panels = by_budget(entries, comparison.budget_unit)
    intervals = _over_seeds(comparison)
    if can_be_reached(entries):
        yield figure(
            svg_data_uri(lambda: plot_joules_to_accuracy(panels, prices)),
            "Joules until an accuracy is reached, by budget and rule",
            "Joules inside the boundary up to the first tested round that has an accuracy, by budget. A cross"
            f" above a panel: not every seed of the rule reaches it, so there is no number. {intervals}",
            prices,
        )
        yield _reached_table(comparison, variant, entries)
    if any(entry.course is not None for entry in entries):
        yield figure(
            svg_data_uri(lambda: plot_retained(panels, prices)),
            "Retained share of the squared norm by round, budget and rule",
            "Share of the squared norm of the updates that was kept in each round, by budget; of the updates"
            f" that each rule's own training made. {intervals}",
            prices,
        )
    if any(entry.density for entry in entries):
        yield figure(
            svg_data_uri(lambda: plot_density(panels, prices)),
            "Kept share of the coordinates of every tensor, by budget and rule",
            "Share of the coordinates of each tensor that was kept, mean over rounds and clients, by budget."
            f" A tensor of which a rule kept none has no point. {intervals}",
            prices,
        )


def _entries_table(comparison: ComparisonReport, variant: VariantReport, entries: list[Entry]) -> Html:
    seen_as = {entry.measured_provenance for entry in entries if entry.measured_provenance}
    seen = in_words(seen_as) or "seen by sensors"
    prices = variant.price_provenance
    head = (
        "rule",
        "accuracy, 95 %",
        "joules inside the boundary",
        "of the budget",
        "on the device, predicted",
        f"on the device, {seen}",
        "squared norm kept",
        "Var(ln c)",
        "cwmp over Top-K, predicted",
        "cwmp over Top-K, these updates; first → last round",
        "Pareto front",
    )
    return table(
        f"Whole runs{_of(variant)}: accuracy of the last rounds, joules of all clients and rounds, and"
        " squared norm kept.",
        prices if seen_as <= {prices} else f"predicted {prices}, seen {seen}",
        head,
        (_row(comparison, entry) for entry in entries),
        numeric=range(1, 10),
    )


def _row(comparison: ComparisonReport, entry: Entry) -> tuple[object, ...]:
    return (
        join((element("code", entry.label), element("small", _budget(comparison, entry.budget)))),
        _accuracy(entry.accuracy),
        quantity(entry.boundary_j, "J"),
        "—" if entry.spent_fraction is None else percent(entry.spent_fraction, 2),
        quantity(entry.predicted_j, "J"),
        "—" if entry.measured_j is None else quantity(entry.measured_j, "J"),
        percent(entry.retained_fraction),
        f"{entry.var_ln_c:.2g}",
        _points(entry, entry.predicted_gain),
        join((_points(entry, entry.cwmp_retained_fraction - entry.topk_retained_fraction), _by_round(entry))),
        "on it" if entry.pareto else "",
    )


def _tests_table(comparison: ComparisonReport, variant: VariantReport, tests: list[PairedTest]) -> Html:
    head = (
        "rule against rival",
        "seeds",
        "points of accuracy, 95 %",
        "p",
        "p, corrected",
        "the rule is",
    )
    pairs = dict.fromkeys((test.rule, test.rival) for test in tests)
    rows = (
        (
            join(
                (
                    element("code", f"{test.rule} against {test.rival}"),
                    element("small", _budget(comparison, test.budget)),
                )
            ),
            test.difference.seeds,
            _signed_points(test),
            _p_value(test.difference.p_value),
            _p_value(test.difference.p_holm),
            _outcome(test),
        )
        for pair in pairs
        for test in tests
        if (test.rule, test.rival) == pair
    )
    return table(
        f"Paired t-tests{_of(variant)}: accuracy of rules that see prices above each rival's, seed by seed,"
        " at the same predicted joules. Corrected: Holm's method for all tests of this table.",
        variant.price_provenance,
        head,
        rows,
        numeric=range(1, 5),
    )


def _reached_table(comparison: ComparisonReport, variant: VariantReport, entries: list[Entry]) -> Html:
    targets = [at.target for at in entries[0].reached]
    rows = (
        (
            join((element("code", entry.label), element("small", _budget(comparison, entry.budget)))),
            *(
                f"{at.seeds} of {len(entry.seeds)} seeds" if at.boundary_j is None else _joules(at.boundary_j)
                for at in entry.reached
            ),
        )
        for entry in entries
    )
    return table(
        f"Joules to an accuracy{_of(variant)}, with 95 % intervals. Targets: every 5 points from half the"
        " highest accuracy that some rule reaches in every seed. Where not all seeds reach it: how many do.",
        variant.price_provenance,
        ("rule", *(f"{100 * target:.0f} %" for target in targets)),
        rows,
        numeric=range(1, len(targets) + 1),
    )


def _ordered(comparison: ComparisonReport, variant: VariantReport) -> list[Entry]:
    """By rule and budget, as in the tables of training."""
    return sorted(
        comparison.entries_of(variant.name),
        key=lambda entry: (RULES.index(entry.rule), entry.equal_prices, entry.budget or 0.0),
    )


def _over_seeds(comparison: ComparisonReport) -> str:
    seeds = len(comparison.seeds)
    if seeds == 1:
        return "One seed, so chance is not in it."
    return f"Means of {seeds} seeds with 95 % intervals of Student's t."


def _of(variant: VariantReport) -> str:
    return f" of “{variant.name}”" if variant.name else ""


def _budget(comparison: ComparisonReport, budget: float | None) -> str:
    return budget_in_words(budget, comparison.budget_unit)


def _accuracy(accuracy: SeedMean) -> str:
    if accuracy.half_width is None:
        return percent(accuracy.mean)
    return f"{100 * accuracy.mean:.1f} ± {100 * accuracy.half_width:.1f} %"


def _joules(joules: SeedMean) -> str:
    if not joules.half_width:
        return quantity(joules.mean, "J")
    return quantity_with_uncertainty(joules.mean, joules.half_width, "J")


def _points(entry: Entry, fraction: float) -> str:
    return "—" if entry.budget is None else f"{100 * fraction:+.2f} points"


def _by_round(entry: Entry) -> Html | str:
    """The same in the first and in the last round."""
    if entry.budget is None or entry.course is None or not entry.course.gain:
        return ""
    first, last = entry.course.gain[0].mean, entry.course.gain[-1].mean
    return element("small", f"{100 * first:+.2f} → {100 * last:+.2f}")


def _signed_points(test: PairedTest) -> str:
    half_width = test.difference.half_width
    return f"{100 * test.difference.mean:+.2f}" + ("" if half_width is None else f" ± {100 * half_width:.2f}")


def _p_value(value: float | None) -> str:
    return "—" if value is None else f"{value:.2g}" if value >= 1e-4 else "< 0.0001"


def _outcome(test: PairedTest) -> str:
    outcome = test.difference.outcome
    if outcome == "unknown":
        return "not told from chance: too few seeds"
    if outcome == "equal":
        return "equal in every seed"
    if outcome == "tie":
        return "in a tie"
    return outcome if test.difference.outlasts_correction else f"{outcome}; not after the correction"
