"""The verdict in words: where rules that see prices are ahead, behind or in a tie, and what was expected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from cost_models.engineering import quantity
from cwmp.comparison.document import Entry, FailedRun, PairedTest
from cwmp.comparison.plan import CWMP, TOPK, BudgetUnit
from cwmp.comparison.seed_statistics import LEAST_SEEDS, LEVEL, Difference, Outcome
from cwmp.predicted_gain import NEGLIGIBLE_GAIN

WORDS: Mapping[Outcome, str] = {
    "ahead": "ahead of it",
    "behind": "behind it",
    "tie": "a tie",
    "equal": "equal in every seed",
    "unknown": "not told from chance",
}
ALONE: Mapping[Outcome, str] = {
    **WORDS,
    "ahead": "ahead of it, but not after the correction,",
    "behind": "behind it, but not after the correction,",
}
"""Where each test by itself tells a difference, and all together do not."""


def verdict(
    entries: Sequence[Entry],
    tests: Sequence[PairedTest],
    failures: Sequence[FailedRun],
    budget_unit: BudgetUnit,
) -> Iterator[str]:
    """One sentence per variant and tested pair of rules, one on the forecast, one on keeping everything.

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
        for pair in dict.fromkeys((test.rule, test.rival) for test in tested):
            yield prefix + _against(*pair, [t for t in tested if (t.rule, t.rival) == pair], budget_unit)
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


def _against(rule: str, rival: str, tests: Sequence[PairedTest], unit: BudgetUnit) -> str:
    parts = []
    for word in dict.fromkeys(words[outcome] for outcome in WORDS for words in (WORDS, ALONE)):
        budgets = [_at(test, unit) for test in tests if _outcome_in_words(test.difference) == word]
        if budgets:
            parts.append(f"{word} at {', '.join(budgets)}")
    return f"{rule} against {rival} at the same joules: {'; '.join(parts)}."


def _outcome_in_words(difference: Difference) -> str:
    words = WORDS if difference.outlasts_correction else ALONE
    return words[difference.outcome]


def _at(test: PairedTest, unit: BudgetUnit) -> str:
    where = budget_in_words(test.budget, unit)
    if test.difference.outcome == "equal":
        return where
    return f"{where} ({difference_in_words(test.difference)})"


def _on_chance(tests: Sequence[PairedTest]) -> str:
    """How many differences are left when all tests are taken together."""
    done = [test.difference for test in tests if test.difference.p_holm is not None]
    alone = sum((difference.p_value or 0.0) < LEVEL for difference in done)
    together = sum(difference.outlasts_correction for difference in done)
    return (
        f"Of {len(done)} paired t-tests, {alone} tell a difference from chance at 95 % each alone, and "
        f"{together} with Holm's correction for all of them."
    )


def _forecast(ours: Entry, tests: Sequence[PairedTest], unit: BudgetUnit) -> str:
    """What prices were expected to bring, what they brought, and whether the accuracy agrees."""
    gain = ours.cwmp_retained_fraction - ours.topk_retained_fraction
    pair = (ours.budget, CWMP.label, TOPK.label)
    topk = next((t.difference for t in tests if (t.budget, t.rule, t.rival) == pair), None)
    return (
        f"At {budget_in_words(ours.budget, unit)}, Var(ln c) = {ours.var_ln_c:.2g} and an update before "
        f"training let {100 * ours.predicted_gain:+.2g} points of the squared norm over topk be expected; "
        f"{100 * gain:+.2g} came{_by_round(ours)}{_agreement(ours.predicted_gain, topk)}."
    )


def _by_round(ours: Entry) -> str:
    """What came in the first and in the last round, where that is known."""
    if ours.course is None or len(ours.course.gain) < 2:
        return ""
    (first, *_, last), rounds = ours.course.gain, ours.course.rounds
    came = f"{100 * first.mean:+.2g} in round {rounds[0]}, {100 * last.mean:+.2g} in round {rounds[-1]}"
    return f" ({came})"


def _ablations(entries: Sequence[Entry], unit: BudgetUnit) -> Iterator[str]:
    """Whether rules that saw equal prices were Top-K, as they have to be."""
    topk = {entry.budget: entry for entry in entries if entry.contender == TOPK}
    for label in dict.fromkeys(entry.label for entry in entries if entry.equal_prices):
        pairs = [(e, topk[e.budget]) for e in entries if e.label == label and e.budget in topk]
        differing = [
            budget_in_words(ours.budget, unit) for ours, other in pairs if not ours.coincides_with(other)
        ]
        if differing:
            yield f"{label} differs from topk at {', '.join(differing)}."
        elif pairs:
            yield f"{label} coincides with topk at every budget and seed."


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
