"""What a reader of a cost model should know before trusting it.

A file that breaks physics is refused when it is read (``cost_models.document``): each cost has the unit of
its term, costs and intervals are not negative, an interval contains its value, what is refused has no number,
the covariance is one and agrees with the uncertainties. As bytes are charged by increment and no increment is
negative, the cost of a path grows with distance.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Literal

import numpy as np

from calibration_data import Work, domain_kind, total_domains
from calibration_data.terms import DRAM_TERMS, POWER_TERMS
from cost_models.cost_model import CostModel
from cost_models.engineering import quantity
from cost_models.identification import in_words
from cost_models.plausibility import implausibility

GOOD_CONDITION_NUMBER = 30.0
GOOD_MAPE = 0.10
"""Additive models of unseen GPU kernels reach 11 to 14 % in the literature (Wattchmen, ICS 2026)."""
GOOD_COVERAGE = 0.90

NARROWEST, WIDEST = 1.5, 13.0
"""Half-width of a 95 % interval in standard uncertainties: 1.65 for a rectangular distribution (GUM 4.3.7),
12.7 for Student's t with one degree of freedom (GUM table G.2)."""

MAX_POWER_W = 10_000.0
"""No single device draws more; a cost that would, at a rate that was seen, is wrong."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One sentence; a ``warning`` speaks against trusting the model, a ``note`` says what it is."""

    level: Literal["warning", "note"]
    message: str


def findings(model: CostModel) -> tuple[Finding, ...]:
    """Everything worth knowing about a model, in the order in which a reader should read it."""
    return tuple(_findings(model))


def _findings(model: CostModel) -> Iterator[Finding]:
    if model.provenance == "simulated":
        yield _note("SIMULATED: every joule in this model comes from a simulated device")
    if model.provenance == "measured":
        gain = model.document.gain_u_rel
        size = (
            "about 5 % between NVML boards, not known for RAPL" if gain is None else f"{gain:.1%}, as given"
        )
        yield _note(
            "intervals say how well costs repeat; the sensor's own gain error comes on top, the same for all "
            f"costs ({size})"
        )
    if model.provenance == "literature":
        yield _note("from the literature: nothing in this model was measured on a device at hand")
    inferred = [c for c in model.coefficients.values() if c.name in DRAM_TERMS and c.status == "identified"]
    if inferred and inferred[0].reason.startswith("inferred"):
        yield _note(f"{in_words([c.name for c in inferred])}: {inferred[0].reason}")
    supplied = [c.name for c in model.coefficients.values() if c.provenance == "literature"]
    if supplied and model.provenance != "literature":
        yield _note(f"not measured but supplied: {in_words(supplied)}")
    for status, what in (("refused", "refused, no number is given"), ("bounded", "only limits are known")):
        names = [c.name for c in model.coefficients.values() if c.status == status]
        if names:
            yield _note(f"{what}: {in_words(names)}")
    for coefficient in model.coefficients.values():
        if problem := implausibility(model.device, coefficient):
            yield _warning(f"{coefficient.name} is {problem}")
    unseen = [
        c.name
        for c in model.coefficients.values()
        if c.status != "refused" and c.name not in POWER_TERMS and c.name not in model.document.throughput
    ]
    if unseen:
        yield _note(f"no throughput, so no duration can be predicted: {in_words(unseen)}")
    yield from _of_paths(model)
    yield from _of_consistency(model)
    yield from _of_the_fit(model)


def _of_paths(model: CostModel) -> Iterator[Finding]:
    """What a byte costs by where it comes from."""
    levels = model.device.memory.levels if model.device else ("l1", "l2", "llc", "dram")
    names = ["byte_dram_read" if level == "dram" else f"byte_{level}" for level in levels]
    known = list(takewhile(lambda name: not model.missing(Work({name: 1.0})), names))
    if known:
        path_j = np.cumsum(model.values(known))
        shown = [f"{level} {quantity(cost, 'J/B')}" for level, cost in zip(levels, path_j, strict=False)]
        yield _note(f"a byte costs, by where it comes from: {', '.join(shown)}")


def _of_consistency(model: CostModel) -> Iterator[Finding]:
    document = model.document
    for item in model.coefficients.values():
        if item.standard_uncertainty is not None and item.ci95 is not None:
            half_width = (item.ci95[1] - item.ci95[0]) / 2
            u = item.standard_uncertainty
            if not NARROWEST * u <= half_width <= WIDEST * u:
                yield _warning(f"the 95 % interval of {item.name} does not fit its standard uncertainty")
        rate = document.throughput.get(item.name)
        if rate is not None and item.ci95 is not None and item.ci95[0] * rate > MAX_POWER_W:
            yield _warning(
                f"{item.name} at the rate in its file would draw {quantity(item.ci95[0] * rate, 'W')}"
            )
    charged = document.time_attribution == "active"
    awake = model.coefficients.get("awake_w")
    if charged != (awake is not None and awake.status != "refused"):
        yield _warning(
            f"time is charged as {document.time_attribution!r}, "
            f"and the model has {'no awake_w' if charged else 'an awake_w'}"
        )
    yield from _of_origin(model)


def _of_origin(model: CostModel) -> Iterator[Finding]:
    domains = model.document.domains
    if added_twice := sorted(set(domains) - set(total_domains(domains))):
        yield _warning(f"{in_words(added_twice)}: no domain that belongs into a total")
    seen = {domain_kind(domain) for domain in domains}
    claimed = [
        name
        for name in DRAM_TERMS
        if name in model.coefficients
        and model.coefficients[name].status != "refused"
        and model.coefficients[name].provenance == "measured"
    ]
    if claimed and "dram" not in seen:
        yield _warning(f"called measured, without a domain of the DRAM's own: {in_words(claimed)}")
    if model.provenance == "literature" and not model.document.sources:
        yield _warning("from the literature, and no source is named")


def _of_the_fit(model: CostModel) -> Iterator[Finding]:
    found = model.document.diagnostics
    if not found.n_records:
        return
    if found.scaled_condition_number is None or found.scaled_condition_number > GOOD_CONDITION_NUMBER:
        shown = (
            "infinite" if found.scaled_condition_number is None else f"{found.scaled_condition_number:.3g}"
        )
        yield _warning(
            f"the scaled condition number is {shown} (good: up to {GOOD_CONDITION_NUMBER:g}); "
            f"hardest to tell apart: {found.smallest_singular_direction}"
        )
    if found.mape_leave_one_family_out is None:
        yield _warning("no family can be predicted without its own records, so the error is not known")
    elif found.mape_leave_one_family_out > GOOD_MAPE:
        yield _warning(
            f"families that the fit never saw are predicted to {found.mape_leave_one_family_out:.1%} "
            f"(good: up to {GOOD_MAPE:.0%})"
        )
    if found.mape_held_out is not None:
        level = _warning if found.mape_held_out > GOOD_MAPE else _note
        yield level(
            f"softmax, attention, training steps and the like, which no fit uses, are predicted to "
            f"{found.mape_held_out:.1%}: the error of the model on work of networks"
        )
    if found.n_disturbed:
        yield _note(
            f"{found.n_disturbed} of {found.n_windows} windows count less: they disagree with their like, "
            "as windows do that another program disturbed"
        )
    if found.drift_common_u:
        yield _note(
            f"the readings drifted over the campaign; all costs share an uncertainty of "
            f"{found.drift_common_u:.1%} from it, which is within their intervals"
        )
    coverage = found.coverage95_leave_one_family_out
    if coverage is not None and coverage < GOOD_COVERAGE:
        yield _warning(f"only {coverage:.0%} of left-out windows lie inside their 95 % interval")


def _note(message: str) -> Finding:
    return Finding(level="note", message=message)


def _warning(message: str) -> Finding:
    return Finding(level="warning", message=message)
