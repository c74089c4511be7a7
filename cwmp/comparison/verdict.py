"""The verdict in words: where ``cwmp`` is ahead, behind or in a tie, and what was expected of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cost_models.engineering import quantity
from cwmp.comparison.document import Entry, FailedRun, PairedTest
from cwmp.comparison.plan import CWMP, TOPK, BudgetUnit
from cwmp.comparison.seed_statistics import LEAST_SEEDS, LEVEL, Difference
from cwmp.predicted_gain import NEGLIGIBLE_GAIN


def verdict(
    entries: Sequence[Entry],
    tests: Sequence[PairedTest],
    failures: Sequence[FailedRun],
    budget_unit: BudgetUnit,
) -> Iterator[str]:
    """One sentence per variant and rival of ``cwmp``, one on the forecast, one on keeping everything.

    Args:
        entries: of all variants.
        tests: of all variants.
        failures: runs that are in no entry.
        budget_unit: of the budgets.
    """
    for variant in dict.fromkeys(entry.variant for entry in entries):
        prefix = f"{variant}: " if variant else ""
        of_variant = [entry for entry in entries if entry.variant == variant]
        tested = [test for test in tests if test.variant == variant]
        for rival in dict.fromkeys(test.rival for test in tested):
            yield prefix + _against(rival, [t for t in tested if t.rival == rival], budget_unit)
        if any(test.difference.p_holm is not None for test in tested):
            yield prefix + _on_chance(tested)
        if any(test.difference.outcome == "unknown" for test in tested):
            yield f"{prefix}With fewer than {LEAST_SEEDS} seeds, no difference can be told from chance."
        for entry in of_variant:
            if entry.contender == CWMP:
                yield prefix + _forecast(entry, tested, budget_unit)
        for sentence in _ablations(of_variant, budget_unit):
            yield prefix + sentence
        for entry in of_variant:
            if entry.rule == "dense":
                yield (
                    f"{prefix}Keeping everything reaches {100 * entry.accuracy.mean:.1f} % for "
                    f"{quantity(entry.boundary_j, 'J')}, whatever the budget."
                )
    for reason in dict.fromkeys(failure.reason for failure in failures):
        failed = [failure.run for failure in failures if failure.reason == reason]
        others = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
        yield f"In no mean, because it did not finish: {failed[0]}{others}. {reason}"


def budget_in_words(budget: float | None, unit: BudgetUnit) -> str:
    """A budget of one client and round as tables and figures name it; empty where a rule knows none."""
    if budget is None:
        return ""
    return quantity(budget, "J") if unit == "J" else f"fixed + {100 * budget:g} %"


def difference_in_words(difference: Difference) -> str:
    """Points of accuracy with their 95 % interval and the p-values."""
    points = f"{100 * difference.mean:+.1f}"
    if difference.half_width is not None:
        points += f" ± {100 * difference.half_width:.1f}"
    if difference.p_value is None or difference.p_holm is None:
        return f"{points} points"
    return f"{points} points, p = {difference.p_value:.2g}, corrected {difference.p_holm:.2g}"


def _against(rival: str, tests: Sequence[PairedTest], unit: BudgetUnit) -> str:
    words = {
        "ahead": "ahead of it",
        "behind": "behind it",
        "tie": "a tie",
        "equal": "equal in every seed",
        "unknown": "not told from chance",
    }
    parts = []
    for outcome, word in words.items():
        found = [test for test in tests if test.difference.outcome == outcome]
        if found:
            budgets = "; ".join(_at(test, unit) for test in found)
            parts.append(f"{word} at {budgets}")
    return f"cwmp against {rival} at the same joules: {'; '.join(parts)}."


def _at(test: PairedTest, unit: BudgetUnit) -> str:
    where = budget_in_words(test.budget, unit)
    if test.difference.outcome == "equal":
        return where
    return f"{where} ({difference_in_words(test.difference)})"


def _on_chance(tests: Sequence[PairedTest]) -> str:
    """How many differences are left when all tests are taken together."""
    done = [test.difference for test in tests if test.difference.p_holm is not None]
    alone = sum((difference.p_value or 0.0) < LEVEL for difference in done)
    together = sum((difference.p_holm or 0.0) < LEVEL for difference in done)
    return (
        f"Of {len(done)} paired t-tests, {alone} tell a difference from chance at 95 % each alone, and "
        f"{together} with Holm's correction for all of them."
    )


def _forecast(ours: Entry, tests: Sequence[PairedTest], unit: BudgetUnit) -> str:
    """What prices were expected to bring, what they brought, and whether the accuracy agrees."""
    gain = ours.cwmp_retained_fraction - ours.topk_retained_fraction
    topk = next((t.difference for t in tests if (t.budget, t.rival) == (ours.budget, "topk")), None)
    return (
        f"At {budget_in_words(ours.budget, unit)}, Var(ln c) = {ours.var_ln_c:.2g} and an update before "
        f"training let {100 * ours.predicted_gain:+.2g} points of the squared norm over topk be expected; "
        f"{100 * gain:+.2g} came{_agreement(ours.predicted_gain, topk)}."
    )


def _ablations(entries: Sequence[Entry], unit: BudgetUnit) -> Iterator[str]:
    """Whether rules that saw equal prices were Top-K, as they have to be."""
    topk = {entry.budget: entry for entry in entries if entry.contender == TOPK}
    for label in dict.fromkeys(entry.label for entry in entries if entry.equal_prices):
        pairs = [(e, topk[e.budget]) for e in entries if e.label == label and e.budget in topk]
        differing = [budget_in_words(ours.budget, unit) for ours, other in pairs if not _same(ours, other)]
        if differing:
            yield f"{label} differs from topk at {', '.join(differing)}."
        elif pairs:
            yield f"{label} coincides with topk at every budget and seed."


def _same(ours: Entry, other: Entry) -> bool:
    """Whether two contenders had the same accuracies, joules and kept shares to the bit."""
    return (ours.seeds, ours.tail_accuracies, ours.boundary_j, ours.course) == (
        other.seeds,
        other.tail_accuracies,
        other.boundary_j,
        other.course,
    )


def _agreement(predicted_gain: float, topk: Difference | None) -> str:
    if topk is None or topk.outcome == "unknown":
        return ""
    if predicted_gain < NEGLIGIBLE_GAIN:
        agrees = topk.outcome in ("tie", "equal")
        return f": topk was said to be as good, and the accuracy {'agrees' if agrees else 'disagrees'}"
    return {
        "ahead": ": prices were said to be worth it, and the accuracy agrees",
        "behind": ": prices were said to be worth it, and the accuracy disagrees",
    }.get(topk.outcome, ": more was kept, and the accuracy is no different")
