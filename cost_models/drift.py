"""Slow drift of the readings over a campaign: estimated, taken off, and kept as an uncertainty of all costs.

    measured = model · (1 + κ·(t − middle))      one κ for each side, asleep and awake

Configurations come in random order, so that a drift (a chip that warms up, a sensor that does) lines up with
none of them, and their residuals show it as a slope over time: Theil and Sen's, which disturbed windows do
not move. What is taken off is the departure from the middle of the campaign. Which moment reads right cannot
be known, and a sensor that was right at the begin is as likely as a chip that is warm at the end: all costs
share half of the drift over the campaign as relative standard uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import theilslopes

from cost_models.design_matrix import DesignMatrix
from cost_models.error_model import Array, Indices, weigh

CONFIDENCE = 0.999
"""A slope counts if its interval at this level does not contain zero."""

MIN_CONFIGURATIONS = 10

PASSES = 4
"""A fit with drift in it takes up a part of the drift, as many parts as it has costs for configurations."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the readings moved.

    Attributes:
        rate_per_h: relative change in an hour, by stratum; strata that did not drift are left out.
        common_u: relative standard uncertainty that all costs share.
    """

    rate_per_h: dict[int, float]
    common_u: float


def take_off_drift(design: DesignMatrix) -> tuple[DesignMatrix, Drift]:
    """The design with joules as the middle of the campaign would have read them, and what was taken off."""
    time_h = design.started_s / 3600
    from_middle_h = time_h - (np.min(time_h) + np.max(time_h)) / 2
    rates = dict.fromkeys((int(stratum) for stratum in np.unique(design.strata)), 0.0)
    steady = design
    for _ in range(PASSES):
        expected_j = _expected_j(steady)
        for stratum in list(rates):
            rows = np.flatnonzero((design.strata == stratum) & (expected_j > 0))
            more = _slope(steady.energy_j, expected_j, time_h, design.clusters, rows)
            if not more and not rates[stratum]:
                del rates[stratum]
                continue
            rates[stratum] += more
        rate = np.array([rates.get(int(stratum), 0.0) for stratum in design.strata])
        factor = np.clip(1 + rate * from_middle_h, 0.5, 2.0)
        steady = replace(design, energy_j=design.energy_j / factor)
    largest = max((abs(rate) for rate in rates.values()), default=0.0)
    return steady, Drift(rate_per_h=rates, common_u=largest * float(np.ptp(time_h)) / 2)


def _expected_j(design: DesignMatrix) -> Array:
    u_j = np.hypot(design.relative_u * design.energy_j, design.quantisation_u_j)
    return np.asarray(design.matrix @ weigh(design.matrix, design.energy_j, u_j).coefficients)


def _slope(energy_j: Array, expected_j: Array, time_h: Array, clusters: Indices, rows: Indices) -> float:
    """Relative change of the residuals of configurations in an hour; 0 where it may be none."""
    groups = [rows[clusters[rows] == cluster] for cluster in np.unique(clusters[rows])]
    if len(groups) < MIN_CONFIGURATIONS:
        return 0.0
    ratios = np.array([np.median(energy_j[group] / expected_j[group]) for group in groups])
    times = np.array([np.mean(time_h[group]) for group in groups])
    if np.ptp(times) == 0:
        return 0.0
    slope, _, low, high = theilslopes(ratios, times, CONFIDENCE)
    return float(slope) if low * high > 0 else 0.0
