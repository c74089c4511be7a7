"""What finished runs say together: entries, the Pareto front, tests.

Accuracies of single rounds swing by some points, so rules are compared by the mean of the last rounds, paired
by seed, and what cannot be told from chance is called a tie.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cwmp.budget import Phase
from cwmp.comparison.course import RunCourse, accuracy_targets, mean_course, mean_density, reached
from cwmp.comparison.document import Entry, PairedTest, VariantReport
from cwmp.comparison.plan import PRICED_RULES, TOPK, Contender, PlannedRun, Variant
from cwmp.comparison.seed_statistics import Difference, corrected, paired_difference, seed_mean
from cwmp.training.phase_energy import sum_or_none
from cwmp.training.run_record import RunReport

ON_DEVICE: tuple[Phase, ...] = ("select", "pack", "apply")
"""Phases inside every boundary; the link has no sensor."""


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """A run of a comparison and what came out.

    Attributes:
        plan: what was to be run.
        report: its summary.
        course: what of its rounds is needed.
    """

    plan: PlannedRun
    report: RunReport
    course: RunCourse


def found_entries(runs: Sequence[FinishedRun]) -> tuple[Entry, ...]:
    """One entry for each variant, budget and contender, with the front of each variant marked."""
    groups: dict[tuple[str, float | None, Contender], list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault((run.plan.variant, run.plan.budget, run.plan.contender), []).append(run)
    entries: list[Entry] = []
    for variant in dict.fromkeys(run.plan.variant for run in runs):
        members = [group for (name, _, _), group in groups.items() if name == variant]
        targets = accuracy_targets([[run.course for run in group] for group in members])
        entries += _with_front([_entry(group, targets) for group in members])
    return tuple(entries)


def found_variants(variants: Sequence[Variant], runs: Sequence[FinishedRun]) -> tuple[VariantReport, ...]:
    """What the runs trained under; a variant without any finished run is not among them."""
    first: dict[str, RunReport] = {}
    for run in runs:
        first.setdefault(run.plan.variant, run.report)
    return tuple(
        VariantReport(
            name=variant.name,
            settings=dict(variant.settings),
            cost_model_device=first[variant.name].identity.cost_model_device,
            price_provenance=first[variant.name].price_provenance,
        )
        for variant in variants
        if variant.name in first
    )


def different_samples(runs: Sequence[FinishedRun]) -> Iterator[str]:
    """Says which runs of one variant and seed saw other samples than those that they are compared with."""
    groups: dict[tuple[str, int], dict[str, str]] = {}
    for run in runs:
        if run.report.identity.samples_sha256 is not None:
            group = groups.setdefault((run.plan.variant, run.plan.config.seed), {})
            group.setdefault(run.report.identity.samples_sha256, run.plan.name)
    for (variant, seed), first in groups.items():
        if len(first) > 1:
            prefix = f"{variant}: " if variant else ""
            yield (
                f"{prefix}Runs of seed {seed} did not see the same samples ({' and '.join(first.values())} "
                "differ): the data set was changed between them, or another decoder read its images."
            )


def paired_tests(entries: Sequence[Entry]) -> tuple[PairedTest, ...]:
    """Every rule that sees prices against every rival of its variant and budget, corrected within variants.

    ``dense`` is no rival: it has no budget. Neither is the ablation where it is Top-K to the bit: the same
    test twice would make the correction harsher.
    """
    found: list[PairedTest] = []
    for variant in dict.fromkeys(entry.variant for entry in entries):
        pairs = [pair for pair in _pairs(entries) if pair[0].variant == variant]
        differences = corrected([_difference(ours, rival) for ours, rival in pairs])
        found += [
            PairedTest(
                variant=variant,
                budget=ours.budget or 0.0,
                rule=ours.label,
                rival=rival.label,
                difference=difference,
            )
            for (ours, rival), difference in zip(pairs, differences, strict=True)
        ]
    return tuple(found)


def _pairs(entries: Sequence[Entry]) -> Iterator[tuple[Entry, Entry]]:
    """Rules that see prices, each with its rivals: all that see none, then the rules before it."""
    for ours in sorted(entries, key=_rank):
        for rival in entries:
            same = (rival.variant, rival.budget) == (ours.variant, ours.budget)
            again = rival.equal_prices and _is_topk_again(rival, entries)
            if same and not again and _rank(rival) < _rank(ours) and set(rival.seeds) & set(ours.seeds):
                yield ours, rival


def _rank(entry: Entry) -> int:
    return 1 + PRICED_RULES.index(entry.rule) if entry.contender.sees_prices else 0


def _is_topk_again(ablation: Entry, entries: Sequence[Entry]) -> bool:
    at_same = [e for e in entries if (e.variant, e.budget) == (ablation.variant, ablation.budget)]
    return any(entry.contender == TOPK and ablation.coincides_with(entry) for entry in at_same)


def _difference(ours: Entry, rival: Entry) -> Difference:
    by_seed = dict(zip(rival.seeds, rival.tail_accuracies, strict=True))
    pairs = [
        (accuracy, by_seed[seed])
        for seed, accuracy in zip(ours.seeds, ours.tail_accuracies, strict=True)
        if seed in by_seed
    ]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs])


def _entry(runs: Sequence[FinishedRun], targets: Sequence[float]) -> Entry:
    reports, courses = [run.report for run in runs], [run.course for run in runs]
    plan = runs[0].plan
    accuracies = [report.tail_accuracy for report in reports]
    measured = [sum_or_none(report.energy[phase].measured_j for phase in ON_DEVICE) for report in reports]
    predicted = [sum(report.energy[phase].predicted_j or 0.0 for phase in ON_DEVICE) for report in reports]
    total = sum_or_none(measured)
    budgets = [report.budget_j for report in reports if report.budget_j is not None]
    granted = [report.granted_j for report in reports if report.granted_j]

    def mean(name: str) -> float:
        return statistics.fmean(getattr(report, name) for report in reports)

    return Entry(
        variant=plan.variant,
        rule=plan.contender.rule,
        equal_prices=plan.contender.equal_prices,
        budget=plan.budget,
        budget_j=statistics.fmean(budgets) if budgets else None,
        seeds=tuple(run.plan.config.seed for run in runs),
        runs=tuple(run.plan.name for run in runs),
        tail_accuracies=tuple(accuracies),
        accuracy=seed_mean(accuracies),
        boundary_j=mean("boundary_j"),
        spent_fraction=mean("boundary_j") / statistics.fmean(granted) if granted else None,
        predicted_j=statistics.fmean(predicted),
        measured_j=None if total is None else total / len(reports),
        measured_provenance=None if total is None else reports[0].energy["select"].provenance,
        retained_fraction=mean("retained_fraction"),
        topk_retained_fraction=mean("topk_retained_fraction"),
        cwmp_retained_fraction=mean("cwmp_retained_fraction"),
        var_ln_c=mean("var_ln_c"),
        predicted_gain=mean("predicted_gain"),
        pareto=False,
        course=mean_course(courses),
        density=mean_density(courses),
        reached=reached(courses, targets),
    )


def _with_front(entries: Sequence[Entry]) -> list[Entry]:
    """The entries with those marked that no other beats in accuracy and joules at once."""

    def beaten(entry: Entry) -> bool:
        return any(
            other.accuracy.mean >= entry.accuracy.mean
            and other.boundary_j <= entry.boundary_j
            and (other.accuracy.mean > entry.accuracy.mean or other.boundary_j < entry.boundary_j)
            for other in entries
        )

    return [entry.model_copy(update={"pareto": not beaten(entry)}) for entry in entries]
