"""The report's first section: the key figures in tiles, then in words, then what is not there."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import mean

from cost_models import CostModel
from cost_models.engineering import quantity
from cwmp.report.contents import ReportContents
from cwmp.report.markup import Html, bullets, element, join, paragraph, percent
from cwmp.report.rule_runs import RuleRuns, grouped_runs


def summary_section(contents: ReportContents) -> Html:
    """What a reader in a hurry must know, and what is missing from the folder."""
    tiles = [
        element("div", element("b", figure), element("span", meaning), class_="tile")
        for figure, meaning in _key_figures(contents)
    ]
    parts = [element("div", *tiles, class_="tiles")] if tiles else []
    parts.append(bullets(_sentences(contents)))
    if verdicts := list(_verdicts(contents)):
        parts.append(element("div", *verdicts, class_="verdict"))
    if contents.missing:
        parts.append(
            element("div", element("b", "Not in this folder"), bullets(contents.missing), class_="missing")
        )
    return join(parts)


def _key_figures(contents: ReportContents) -> Iterator[tuple[str, str]]:
    """Of several cost models or lists of prices none, for a figure would hold for one of them."""
    if contents.model is not None and len(contents.models) == 1:
        counts = _counts(contents.model)
        found = contents.model.document.diagnostics
        yield (
            f"{counts['identified']}",
            (f"coefficients identified; {counts['bounded']} bounded, {counts['refused']} refused"),
        )
        if found.mape_leave_one_family_out is not None:
            yield percent(found.mape_leave_one_family_out), "error on families that the fit never saw (MAPE)"
        if found.coverage95_leave_one_family_out is not None:
            yield percent(found.coverage95_leave_one_family_out, 0), "of them inside their 95 % interval"
    for costs in contents.prices.values() if len(contents.prices) == 1 else ():
        best = max(costs.gains, key=lambda gain: gain.cwmp - gain.topk, default=None)
        yield f"{costs.var_ln_c:.2g}", "Var(ln c): how much the prices of coordinates differ"
        if best is not None:
            points = f"{100 * (best.cwmp - best.topk):+.1f} pt"
            share = f"{100 * best.budget_share:g} %"
            yield points, f"predicted gain over Top-K in squared norm kept, at {share} of the marginal joules"


def _sentences(contents: ReportContents) -> Iterator[str]:
    for name, model in contents.models.items():
        yield from (f"{name}: {sentence}" if name else sentence for sentence in _of_the_model(model))
    if contents.comparison is None:
        yield from (_of_a_rule(group) for group in grouped_runs(contents.runs))


def _verdicts(contents: ReportContents) -> Iterator[Html]:
    """Whether prices are worth it, before training and after it."""
    for name, costs in contents.prices.items():
        yield paragraph(element("b", f"{name}: ") if name else "", costs.verdict)
    if contents.comparison is None:
        return
    for name in dict.fromkeys((*(variant.name for variant in contents.comparison.variants), "")):
        sentences = contents.comparison.verdict_on(name)
        if name and sentences:
            yield paragraph(element("b", f"{name}:"))
        yield from map(paragraph, sentences)


def _of_the_model(model: CostModel) -> Iterator[str]:
    counts = _counts(model)
    device = model.device.model_name if model.device else "no single device"
    yield (
        f"The cost model of {device} ({model.provenance}) has {counts['identified']} coefficients "
        f"identified, {counts['bounded']} bounded and {counts['refused']} refused."
    )
    found = model.document.diagnostics
    error, coverage = found.mape_leave_one_family_out, found.coverage95_leave_one_family_out
    if error is not None and coverage is not None:
        yield (
            f"It predicts families of microbenchmarks that it never saw to {percent(error)} on average; "
            f"{percent(coverage, 0)} of their windows lie inside the 95 % prediction interval."
        )


def _of_a_rule(group: RuleRuns) -> str:
    joules = quantity(mean(run.rounds[-1].cumulative_boundary_j for run in group.runs), "J")
    if not group.last_accuracies:
        return f"{group.label}: not tested yet, at {joules} after backprop."
    return f"{group.label}: {percent(mean(group.last_accuracies))} accuracy at {joules} after backprop."


def _counts(model: CostModel) -> dict[str, int]:
    statuses = [item.status for item in model.coefficients.values()]
    return {name: statuses.count(name) for name in ("identified", "bounded", "refused")}
