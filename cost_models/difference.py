"""What is different between two cost models, and whether the difference is more than their uncertainties.

Two costs differ where |b − a| is larger than t·√(u_a² + u_b²), with t of Student's distribution at 95 % and
the degrees of freedom of Welch and Satterthwaite (GUM G.4.1); where only limits are known of one of them,
they differ if the two 95 % intervals have nothing in common.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from calibration_data import TERMS
from calibration_data.records import DeviceFingerprint
from cost_models.cost_model import CostModel
from cost_models.document import Coefficient
from cost_models.identification import in_words
from cost_models.uncertainty import Estimate, student_t, welch_satterthwaite

DIFFERENCE_SCHEMA = "calijoule/cost-model-difference"
DIFFERENCE_SCHEMA_VERSION = 1
FALSE_ALARM = 0.05
"""Share of equal costs that are called different by chance, as intervals are of 95 %."""

Outcome = Literal["agree", "differ", "only in first", "only in second", "in neither"]


@dataclass(frozen=True, kw_only=True)
class CoefficientDifference:
    """One term in both models.

    Attributes:
        name: term of the energy model.
        unit: of its cost.
        first: as the first model has it; None where it has no such term.
        second: the same of the second model.
        ratio: second over first; None unless both have a value above zero.
        ratio_ci95: 95 % interval of the ratio, as of a log-normal quantity.
        intervals_overlap: whether the two 95 % intervals have a point in common; None unless both have one.
        outcome: what follows.
    """

    name: str
    unit: str
    first: Coefficient | None
    second: Coefficient | None
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    intervals_overlap: bool | None
    outcome: Outcome


@dataclass(frozen=True, kw_only=True)
class ContextDifference:
    """Something beside the costs that is not the same: device, software, how time is charged."""

    what: str
    first: str
    second: str


@dataclass(frozen=True, kw_only=True)
class ModelDifference:
    """Two cost models side by side.

    Attributes:
        coefficients: every term that one of them has, in the order of ``TERMS``.
        context: what else is not the same.
        verdict: the same in sentences.
    """

    coefficients: tuple[CoefficientDifference, ...]
    context: tuple[ContextDifference, ...]
    verdict: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values, with the schema's name and version."""
        coefficients = [
            asdict(item)
            | {"first": _dumped(item.first), "second": _dumped(item.second)}
            | {"ratio_ci95": list(item.ratio_ci95) if item.ratio_ci95 else None}
            for item in self.coefficients
        ]
        return {
            "schema": DIFFERENCE_SCHEMA,
            "schema_version": DIFFERENCE_SCHEMA_VERSION,
            "coefficients": coefficients,
            "context": [asdict(item) for item in self.context],
            "verdict": list(self.verdict),
        }


def compare_models(first: CostModel, second: CostModel) -> ModelDifference:
    """Put two cost models side by side."""
    names = [name for name in TERMS if name in first.coefficients or name in second.coefficients]
    coefficients = tuple(_coefficient(name, first, second) for name in names)
    context = tuple(_context(first, second))
    return ModelDifference(
        coefficients=coefficients,
        context=context,
        verdict=tuple(_verdict(first, second, coefficients)),
    )


def differ(first: Estimate, second: Estimate) -> bool:
    """Whether two independent estimates differ by more than their uncertainties, at 95 %."""
    variances = (first.standard_uncertainty**2, second.standard_uncertainty**2)
    u = math.sqrt(sum(variances))
    freedom = welch_satterthwaite(np.array(variances), [first.degrees_of_freedom, second.degrees_of_freedom])
    return abs(second.value - first.value) > student_t(1 - FALSE_ALARM / 2, freedom) * u


def ratio_interval(first: Estimate, second: Estimate) -> tuple[float, float] | None:
    """95 % interval of second over first, by the uncertainties of their logarithms; None at zero."""
    if not (first.value > 0 and second.value > 0):
        return None
    relative = [item.standard_uncertainty / item.value for item in (first, second)]
    freedom = welch_satterthwaite(
        np.array([r**2 for r in relative]), [first.degrees_of_freedom, second.degrees_of_freedom]
    )
    # No interval of use is wider than e^±50, and the exponential must not overflow.
    half_width = min(student_t(1 - FALSE_ALARM / 2, freedom) * math.hypot(*relative), 50.0)
    ratio = second.value / first.value
    return ratio * math.exp(-half_width), ratio * math.exp(half_width)


def _coefficient(name: str, first: CostModel, second: CostModel) -> CoefficientDifference:
    one, other = first.coefficients.get(name), second.coefficients.get(name)
    a, b = _estimate(one), _estimate(other)
    return CoefficientDifference(
        name=name,
        unit=TERMS[name].unit,
        first=one,
        second=other,
        ratio=b.value / a.value if a and b and a.value > 0 and b.value > 0 else None,
        ratio_ci95=ratio_interval(a, b) if a and b else None,
        intervals_overlap=None if one is None or other is None else _overlap(one, other),
        outcome=_outcome(one, other, differ(a, b) if a and b else None),
    )


def _outcome(one: Coefficient | None, other: Coefficient | None, values_differ: bool | None) -> Outcome:
    known = [item is not None and item.status != "refused" for item in (one, other)]
    if known == [False, False]:
        return "in neither"
    if known == [True, False]:
        return "only in first"
    if known == [False, True]:
        return "only in second"
    if values_differ is None and one is not None and other is not None:
        values_differ = not _overlap(one, other)
    return "differ" if values_differ else "agree"


def _estimate(item: Coefficient | None) -> Estimate | None:
    if item is None or item.value is None or item.standard_uncertainty is None:
        return None
    return Estimate(
        value=item.value,
        standard_uncertainty=item.standard_uncertainty,
        degrees_of_freedom=item.degrees_of_freedom or math.inf,
    )


def _overlap(one: Coefficient, other: Coefficient) -> bool | None:
    if one.ci95 is None or other.ci95 is None:
        return None
    return max(one.ci95[0], other.ci95[0]) <= min(one.ci95[1], other.ci95[1])


def _context(first: CostModel, second: CostModel) -> Iterator[ContextDifference]:
    for what, one, other in (
        ("provenance", first.provenance, second.provenance),
        ("time attribution", first.document.time_attribution, second.document.time_attribution),
        ("domains", ", ".join(first.document.domains), ", ".join(second.document.domains)),
    ):
        if one != other:
            yield ContextDifference(what=what, first=one or "none", second=other or "none")
    yield from _of_mappings("", _device(first.device), _device(second.device))
    yield from _of_mappings("software ", first.document.software, second.document.software)
    conditions = [
        {name: ", ".join(values) for name, values in model.document.validity.conditions.items()}
        for model in (first, second)
    ]
    yield from _of_mappings("condition ", *conditions)


def _of_mappings(
    prefix: str, first: Mapping[str, str], second: Mapping[str, str]
) -> Iterator[ContextDifference]:
    for name in dict.fromkeys((*first, *second)):
        if first.get(name) != second.get(name):
            yield ContextDifference(
                what=prefix + name, first=first.get(name, "none"), second=second.get(name, "none")
            )


def _device(device: DeviceFingerprint | None) -> dict[str, str]:
    if device is None:
        return {}
    memory = {f"device {name}": str(value) for name, value in asdict(device.memory).items()}
    return {"device": device.device, "device kind": device.kind, "device model": device.model_name} | memory


def _verdict(
    first: CostModel, second: CostModel, coefficients: tuple[CoefficientDifference, ...]
) -> Iterator[str]:
    compared = [item for item in coefficients if item.outcome in ("agree", "differ")]
    different = [item for item in compared if item.outcome == "differ"]
    if not compared:
        yield "No cost is known to both models."
    elif different:
        shown = [item.name + (f" (×{item.ratio:.3g})" if item.ratio else "") for item in different]
        yield (
            f"{len(different)} of {len(compared)} costs differ by more than their uncertainties: "
            f"{in_words(shown)}. By chance alone about {FALSE_ALARM * len(compared):.1f} would."
        )
    else:
        yield f"No cost differs by more than its uncertainties; {len(compared)} were compared."
    for outcome, whose in (("only in first", "the first"), ("only in second", "the second")):
        if names := [item.name for item in coefficients if item.outcome == outcome]:
            yield f"Only {whose} model knows {in_words(names)}."
    yield from _cautions(first, second)


def _cautions(first: CostModel, second: CostModel) -> Iterator[str]:
    if first.document.time_attribution != second.document.time_attribution:
        yield (
            "They charge time differently "
            f"({first.document.time_attribution} and {second.document.time_attribution}), so that a cost of "
            "work is not the same quantity in both."
        )
    if set(first.document.records_sha256) & set(second.document.records_sha256):
        yield "They share records, so they are not independent: equal costs are no confirmation."
    provenances = {first.provenance, second.provenance}
    if "simulated" in provenances:
        yield "SIMULATED: joules of at least one of them come from a simulated device."
    if provenances == {"measured"} and first.device != second.device:
        yield "Ratios up to about 5 % can be the gain of two sensors, which is in no interval."


def _dumped(item: Coefficient | None) -> dict[str, Any] | None:
    return None if item is None else item.model_dump(mode="json")
