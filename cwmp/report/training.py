"""The report's section on training: what each rule reached with its joules, and where the joules went."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev

from cost_models.engineering import quantity, quantity_with_uncertainty
from cwmp.report.class_mix import class_mix
from cwmp.report.contents import TrainedRun
from cwmp.report.fleet import fleet_table
from cwmp.report.markup import Html, bullets, element, figure, join, paragraph, percent, properties, table
from cwmp.report.plots import (
    PhaseJoules,
    plot_accuracy_against_joules,
    plot_phase_energy,
    plot_retained_energy,
    svg_data_uri,
)
from cwmp.report.rule_runs import RuleRuns, grouped_runs
from cwmp.report.words import in_words
from cwmp.training.run_record import GroupIdentity, RunIdentity

COVERAGE_FACTOR = 2.0


def training_section(runs: Sequence[TrainedRun]) -> Html:
    """Accuracy, retained energy and joules of every rule."""
    groups = grouped_runs(runs)
    prices = provenance_of_prices(runs)
    curves = [group.curve() for group in groups]
    seeds = max(len(group.runs) for group in groups)
    averaged = f" Lines: mean of {seeds} seeds; bands: from the worst to the best." if seeds > 1 else ""
    return join(
        (
            settings_of_runs(runs),
            *_fixed_in_words(runs),
            figure(
                svg_data_uri(lambda: plot_accuracy_against_joules(curves, prices)),
                "Test accuracy against cumulative joules for every rule",
                "Test accuracy against cumulative joules after backprop, all clients together, as the cost "
                f"model predicts them.{averaged}",
                prices,
            ),
            _rules_table(groups, prices),
            figure(
                svg_data_uri(lambda: plot_retained_energy(curves, prices)),
                "Retained share of the squared norm by round for every rule",
                "Share of the squared norm of the updates that was kept in each round.",
                prices,
            ),
            _budget_table(groups, prices),
            *fleet_table(runs),
            *_phases(groups, runs),
            *_notes(runs),
        )
    )


def settings_of_runs(runs: Sequence[TrainedRun]) -> Html:
    """What was run, and who held which samples."""
    prices = provenance_of_prices(runs)
    return join((properties("Settings.", prices, _settings_rows(runs)), *class_mix(runs, prices)))


def provenance_of_prices(runs: Sequence[TrainedRun]) -> str:
    """Where the predicted joules come from: the cost models, and the links where sending is priced."""
    words = {kind.cost_model_provenance for kind in _kinds(runs)}
    words |= {"literature" for run in runs if run.identity.config.link is not None}
    return in_words(words)


def provenance_of_sensors(runs: Sequence[TrainedRun]) -> str:
    """What saw the phases of these runs: real sensors, simulated ones, or none (an empty word)."""
    return in_words(
        {
            joules.provenance
            for run in runs
            for report in run.rounds
            for joules in report.energy.values()
            if joules.provenance is not None
        }
    )


def _settings_rows(runs: Sequence[TrainedRun]) -> Iterator[tuple[str, str]]:
    """Settings in the words of the config file; those in which the runs differ list every value."""
    configs = [run.identity.config.model_dump() for run in runs]
    for name in configs[0]:
        values = dict.fromkeys(config[name] for config in configs)
        yield name, ", ".join("—" if value is None else str(value) for value in values)
    for name, value in (
        ("gradient coordinates", {f"{run.identity.coordinates:,}" for run in runs}),
        ("samples of the clients", {_sizes(run.identity.partition.sizes) for run in runs}),
        ("prices are of", {kind.cost_model_device for kind in _kinds(runs)}),
        ("phases are seen by", {run.identity.measuring_device or "no sensor" for run in runs}),
    ):
        yield name, ", ".join(sorted(value))


def _kinds(runs: Sequence[TrainedRun]) -> Iterator[RunIdentity | GroupIdentity]:
    """Every kind of client: the runs' own, and the groups of their fleets."""
    for run in runs:
        yield run.identity
        yield from run.identity.groups


def _sizes(sizes: Sequence[int]) -> str:
    return f"{min(sizes)} to {max(sizes)}"


def _fixed_in_words(runs: Sequence[TrainedRun]) -> Iterator[Html]:
    """How much of the joules no rule can save; it decides what there is to see in the figures."""
    reports = [run.report for run in runs if run.report is not None]
    if reports:
        fixed_j, dense_j = mean(r.fixed_j for r in reports), mean(r.dense_j for r in reports)
        yield paragraph(
            f"Keeping everything costs {quantity(dense_j, 'J')} per client and round after backprop, of "
            f"which {quantity(fixed_j, 'J')} are fixed: keeping less saves at most "
            f"{percent(1 - fixed_j / dense_j)}. A budget of “fixed + 5 %” is the fixed joules and 5 % of "
            "the rest."
        )


def _rules_table(groups: Sequence[RuleRuns], provenance: str) -> Html:
    head = (
        "rule",
        "seeds",
        "rounds",
        "last accuracy",
        "mean of the last fifth",
        "joules after backprop",
        "joules of all phases",
        "squared norm kept",
        "kept by Top-K for the same joules",
    )
    rows = (
        (
            _name(group),
            len(group.runs),
            " … ".join(str(count) for count in sorted({len(run.rounds) for run in group.runs})),
            _spread(group.last_accuracies),
            _spread([run.report.tail_accuracy for run in group.runs if run.report is not None]),
            quantity(mean(run.rounds[-1].cumulative_boundary_j for run in group.runs), "J"),
            _mean_joules([run.rounds[-1].cumulative_predicted_j for run in group.runs]),
            percent(group.retained_fraction),
            percent(group.topk_retained_fraction),
        )
        for group in groups
    )
    return table(
        "Rules: accuracy, predicted joules of all clients and rounds, and what was kept.",
        provenance,
        head,
        rows,
        numeric=range(1, len(head)),
    )


def _budget_table(groups: Sequence[RuleRuns], provenance: str) -> Html:
    head = ("rule", "budget of a client and round", "selections", "mean use", "largest upper bound", "kept")
    rows = []
    for group in groups:
        bounded = [(client, client.budget_j) for client in group.clients if client.budget_j is not None]
        if not bounded:
            rows.append((_name(group), "none: the rule keeps everything", "—", "—", "—", "—"))
            continue
        budgets = sorted({budget_j for _, budget_j in bounded})
        within = sum(client.upper_j <= budget_j for client, budget_j in bounded)
        rows.append(
            (
                _name(group),
                " … ".join(dict.fromkeys((quantity(budgets[0], "J"), quantity(budgets[-1], "J")))),
                f"{len(bounded):,}",
                percent(mean(client.predicted_j / budget_j for client, budget_j in bounded)),
                percent(max(client.upper_j / budget_j for client, budget_j in bounded)),
                "in every one" if within == len(bounded) else f"NOT in {len(bounded) - within:,}",
            )
        )
    return table(
        "The budget, kept or not, in every round and client. The upper bound holds with the configured "
        "confidence.",
        provenance,
        head,
        rows,
        numeric=(1, 2, 3, 4),
    )


def _phases(groups: Sequence[RuleRuns], runs: Sequence[TrainedRun]) -> Iterator[Html]:
    prices, seen_as = provenance_of_prices(runs), provenance_of_sensors(runs)
    both = prices if seen_as in ("", prices) else f"predicted {prices}, seen {seen_as}"
    beside = f"beside what {seen_as} sensors saw" if seen_as else "alone (no sensor saw them)"
    # More budgets of one rule would only repeat its phases at another size.
    shown = tuple({group.rule: group for group in groups}.values())
    which = "" if len(shown) == len(groups) else " at the largest budget of each rule"
    items = [item for group in shown for item in _phase_joules(group)]
    yield figure(
        svg_data_uri(lambda: plot_phase_energy(items, seen_as)),
        "Joules by phase for every rule",
        f"Joules by phase of one run{which}, as the cost model predicts them {beside}; net of idle power.",
        both,
    )
    head = (
        "rule",
        "phase",
        "predicted ± U (k = 2)",
        f"{seen_as or 'seen'} ± U (k = 2)",
        "ratio",
        "executions in a window",
    )
    yield table(
        f"Joules by phase of one run{which}, predicted {beside}; net of idle power.",
        both,
        head,
        [row for group in shown for row in _phase_rows(group)],
        numeric=(2, 3, 4, 5),
    )
    if reasons := _reasons(shown):
        yield bullets(reasons)


def _phase_joules(group: RuleRuns) -> Iterator[PhaseJoules]:
    for phase, joules in group.energy.items():
        if joules.predicted_j or joules.measured_j is not None:
            yield PhaseJoules(
                rule=group.rule,
                phase=phase,
                predicted_j=joules.predicted_j,
                predicted_u_j=joules.predicted_u_j or 0.0,
                seen_j=joules.measured_j,
                seen_u_j=joules.measured_u_j or 0.0,
            )


def _phase_rows(group: RuleRuns) -> Iterator[tuple[object, ...]]:
    executions = sum(1 for _ in group.clients)
    for phase, joules in group.energy.items():
        predicted_j, seen_j = joules.predicted_j, joules.measured_j
        if predicted_j == 0 and seen_j is None:
            continue
        yield (
            element("code", group.rule),
            phase,
            _with_u(predicted_j, joules.predicted_u_j),
            _with_u(seen_j, joules.measured_u_j),
            f"{seen_j / predicted_j:.3f}" if predicted_j and seen_j is not None else "—",
            f"{joules.replays / executions:,.0f}" if joules.replays else "—",
        )


def _reasons(groups: Sequence[RuleRuns]) -> list[str]:
    """Why numbers are missing, and what a repeated execution is."""
    reasons = [
        f"{phase}: {joules.reason}."
        for group in groups
        for phase, joules in group.energy.items()
        if joules.reason and joules.predicted_j != 0
    ]
    if any(joules.replays for group in groups for joules in group.energy.values()):
        reasons.append(
            "A phase that is too short for the sensor is executed again, with the same mask, until its "
            "window is long enough; the joules are of one execution."
        )
    return list(dict.fromkeys(reasons))


def _notes(runs: Sequence[TrainedRun]) -> Iterator[Html]:
    notes = [note for run in runs if run.report is not None for note in run.report.notes]
    not_counted = {name for run in runs if run.report is not None for name in run.report.not_counted}
    if not_counted:
        notes.append(f"Not in the predicted joules of training: {', '.join(sorted(not_counted))}.")
    dropped = sum(len(report.dropped) for run in runs for report in run.rounds)
    if dropped:
        notes.append(f"{dropped} updates of clients were not used.")
    if notes:
        yield bullets(dict.fromkeys(notes))


def _name(group: RuleRuns) -> Html:
    return join((element("code", group.rule), element("small", group.budget)))


def _with_u(value_j: float | None, u_j: float | None) -> str:
    if value_j is None:
        return "—"
    if not u_j or value_j <= 0:
        return quantity(value_j, "J")
    return quantity_with_uncertainty(value_j, COVERAGE_FACTOR * u_j, "J")


def _mean_joules(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return quantity(mean(known), "J") if len(known) == len(values) else "—"


def _spread(fractions: Sequence[float]) -> str:
    """Mean, and the standard deviation over seeds where there are several."""
    if not fractions:
        return "—"
    if len(fractions) == 1:
        return percent(fractions[0])
    return f"{100 * mean(fractions):.1f} ± {100 * stdev(fractions):.1f} %"
