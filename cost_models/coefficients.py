"""What may be said of each cost after a fit: a number, only limits, or nothing; and why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from calibration_data import TERMS, Provenance, domain_kind
from calibration_data.records import CalibrationRecord
from calibration_data.terms import DRAM_TERMS
from cost_models.design_matrix import DesignMatrix
from cost_models.document import Coefficient, Covariance
from cost_models.engineering import quantity_with_uncertainty
from cost_models.identification import MAX_VIF, in_words
from cost_models.regression import EnergyRegression
from cost_models.uncertainty import Estimate, student_t, welch_satterthwaite

MAX_RELATIVE_HALF_WIDTH = 0.5
"""A cost whose 95 % interval reaches further than this part of it is not given as a number."""

MIN_PART, MAX_PARTS = 0.003, 4
"""Smaller parts of a combination are left out of it; one with more parts than this helps no reader."""

_EVERY_DEVICE_HAS = ("flop_fp64", "flop_fp32")
"""Other number formats are listed only where a record exercises them."""


def judge_coefficients(
    record: CalibrationRecord, design: DesignMatrix, fit: EnergyRegression
) -> tuple[Coefficient, ...]:
    """Every cost that the device could have, those that no record exercises included.

    Args:
        record: any of the fitted ones, for the device and its domains.
        design: what was fitted.
        fit: the fit of it.
    """
    return tuple(
        _refused(name, record, reason)
        if (reason := _why_refused(name, design, fit))
        else _estimated(name, record, _estimate(name, design, fit))
        for name in _looked_for(record, design)
    )


def covariance(
    coefficients: Sequence[Coefficient], design: DesignMatrix, fit: EnergyRegression
) -> Covariance:
    """Covariance of the identified costs; those of a term with two shares are added up."""
    names = tuple(item.name for item in coefficients if item.status == "identified")
    shares = np.array([design.shares(name) for name in names]).reshape(len(names), len(design.columns))
    matrix = shares @ fit.covariance_ @ shares.T
    symmetric = (matrix + matrix.T) / 2
    return Covariance(names=names, matrix=tuple(tuple(row) for row in symmetric.tolist()))


def _looked_for(record: CalibrationRecord, design: DesignMatrix) -> Iterator[str]:
    for name in TERMS:
        if name.startswith("flop_") and name not in _EVERY_DEVICE_HAS and name not in design.terms:
            continue
        if name == "dram_idle_w" and not _has_dram_domain(record):
            continue
        if name == "byte_llc" and "llc" not in record.device.memory.levels:
            continue
        yield name


def _why_refused(name: str, design: DesignMatrix, fit: EnergyRegression) -> str:
    mine = np.flatnonzero(design.shares(name))
    if not mine.size:
        return "no record exercises it"
    found = fit.identification_
    if not np.any(found.unidentified[mine]):
        return ""
    worst = int(mine[np.argmax(found.vif[mine])])
    columns = found.partners(worst)
    partners = [term for term in dict.fromkeys(design.columns[i].term for i in columns) if term != name]
    others = in_words(partners) if partners else "the other terms"
    reason = (
        f"cannot be told apart from {others} in these records (VIF {found.vif[worst]:.3g}, limit {MAX_VIF:g})"
    )
    known = _known_combination(worst, design, fit)
    return f"{reason}; known is {known}" if known else reason


def _known_combination(column: int, design: DesignMatrix, fit: EnergyRegression) -> str:
    """The nearest combination that the records do tell, with its value; empty where there is none."""
    scaled = fit.identification_.contrast(column)
    parts = np.flatnonzero(np.abs(scaled) > MIN_PART)
    if not 1 < len(parts) <= MAX_PARTS or column not in parts:
        return ""
    weights = np.zeros_like(scaled)
    weights[parts] = scaled[parts] * fit.scale_[parts]
    weights /= weights[column]
    value = float(weights @ fit.coef_)
    u = math.sqrt(max(0.0, float(weights @ fit.covariance_ @ weights)))
    half_width = student_t(0.975, float(np.min(fit.degrees_of_freedom_[parts]))) * u
    if not 0 < half_width <= MAX_RELATIVE_HALF_WIDTH * value:
        return ""
    others = [index for index in parts if index != column]
    words = "".join(
        f" {'+' if weights[index] > 0 else '-'} {abs(weights[index]):.3g} {design.labels[index]}"
        for index in others
    )
    unit = TERMS[design.columns[column].term].unit
    shown = quantity_with_uncertainty(value, half_width, unit)
    return f"{design.labels[column]}{words} = {shown} (95 %)"


def _estimate(name: str, design: DesignMatrix, fit: EnergyRegression) -> Estimate:
    shares = design.shares(name)
    mine = shares > 0
    variance = float(shares @ fit.covariance_ @ shares)
    return Estimate(
        value=float(shares @ fit.coef_),
        standard_uncertainty=math.sqrt(max(variance, 0.0)),
        degrees_of_freedom=welch_satterthwaite(np.diag(fit.covariance_)[mine], fit.degrees_of_freedom_[mine]),
    )


def _refused(name: str, record: CalibrationRecord, reason: str) -> Coefficient:
    return Coefficient(
        name=name,
        unit=TERMS[name].unit,
        status="refused",
        provenance=_provenance(name, record),
        reason=reason,
    )


def _estimated(name: str, record: CalibrationRecord, estimate: Estimate) -> Coefficient:
    low, high = estimate.interval95
    reason = ""
    if low <= 0:
        # The interval of a bounded quantity is not symmetric: all of the 5 % lie above it.
        quantile = student_t(0.95, estimate.degrees_of_freedom)
        low, high = 0.0, estimate.value + quantile * estimate.standard_uncertainty
        reason = "the records allow zero; the limit is one-sided, at 95 %"
    elif high - estimate.value > MAX_RELATIVE_HALF_WIDTH * estimate.value:
        width = (high - estimate.value) / estimate.value
        reason = f"its 95 % interval is ±{width:.0%} wide, the limit is ±{MAX_RELATIVE_HALF_WIDTH:.0%}"
    identified = not reason
    if identified and name in DRAM_TERMS and not _has_dram_domain(record):
        reason = _without_dram_domain(record)
    finite = math.isfinite(estimate.degrees_of_freedom)
    return Coefficient(
        name=name,
        unit=TERMS[name].unit,
        value=estimate.value if identified else None,
        standard_uncertainty=estimate.standard_uncertainty if identified else None,
        degrees_of_freedom=estimate.degrees_of_freedom if identified and finite else None,
        ci95=(low, high),
        status="identified" if identified else "bounded",
        provenance=_provenance(name, record),
        reason=reason,
    )


def _without_dram_domain(record: CalibrationRecord) -> str:
    """What a DRAM cost is where DRAM has no domain: never the same as one that was measured there."""
    kinds = {domain_kind(domain) for domain in record.replicates[0].energy_j}
    if "gpu" in kinds:
        return "inferred from the slope of the whole board, which contains its memory"
    return (
        "inferred from the slope of the package: the share of its memory controller; "
        "what the memory modules draw is outside unless the maker counts it in"
    )


def _provenance(name: str, record: CalibrationRecord) -> Provenance:
    """DRAM costs are measured only by a domain of the DRAM's own; otherwise other domains let infer them."""
    if record.provenance == "simulated":
        return "simulated"
    return "inferred" if name in DRAM_TERMS and not _has_dram_domain(record) else "measured"


def _has_dram_domain(record: CalibrationRecord) -> bool:
    return any(domain_kind(domain) == "dram" for domain in record.replicates[0].energy_j)
