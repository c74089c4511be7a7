"""Error and interval coverage on families that the fit never saw.

Two ways: each family of microbenchmarks in turn is left out of a fit of its own; and the families that no
fit ever uses (softmax, convolution, a training step, ...) are predicted by the model as it is exported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from calibration_data.records import CalibrationRecord
from cost_models.design_matrix import DesignMatrix, build_design_matrix
from cost_models.identification import in_words
from cost_models.regression import EnergyRegression
from cost_models.uncertainty import student_t

Array = NDArray[np.float64]

RESAMPLES = 200
"""Enough for intervals that are only counted."""


@dataclass(frozen=True, kw_only=True)
class LeftOut:
    """How one family was predicted by a fit without it.

    Attributes:
        relative_errors: (predicted − measured) / measured of each window that could be predicted.
        inside: whether the measured energy lies in the 95 % prediction interval, for the same windows.
        reason: what kept the others from being predicted; empty if all were.
    """

    relative_errors: Array
    inside: NDArray[np.bool_]
    reason: str = ""

    @property
    def mape(self) -> float | None:
        """Mean absolute relative error, as a fraction; None if nothing could be predicted."""
        return float(np.mean(np.abs(self.relative_errors))) if self.relative_errors.size else None

    @property
    def coverage95(self) -> float | None:
        """Share of windows inside their interval; None if nothing could be predicted."""
        return float(np.mean(self.inside)) if self.inside.size else None


def relative_errors(design: DesignMatrix, coefficients: Array, rows: NDArray[np.bool_]) -> Array:
    """(predicted − measured) / measured of the total of each window, shape (n_windows,)."""
    predicted = _per_window(design, rows, design.matrix @ coefficients)
    measured = _per_window(design, rows, design.energy_j)
    return predicted / measured - 1


def leave_one_family_out(
    records: Sequence[CalibrationRecord],
    design: DesignMatrix,
    *,
    seed: int = 0,
    report: Callable[[str], None] = lambda family: None,
) -> dict[str, LeftOut]:
    """Fit without each family in turn and predict the total of its windows.

    Idle windows around configurations stay in: idle power is measured with every one of them.

    Args:
        records: those of the design, in its order.
        design: all windows.
        seed: of the bootstrap.
        report: called with each family before its fit.
    """
    families = np.array([record.family for record in records])[design.records]
    results = {}
    for family in sorted(set(families)):
        report(str(family))
        left_out = (families == family) & ~design.around
        results[str(family)] = _leave_out(design, left_out, seed)
    return results


def predict_held_out(
    records: Sequence[CalibrationRecord],
    held_out: Sequence[CalibrationRecord],
    design: DesignMatrix,
    fit: EnergyRegression,
) -> dict[str, LeftOut]:
    """Predict families that judge a model.

    Args:
        records: those of the design.
        held_out: records of the families that no fit uses, of the same device.
        design: what was fitted.
        fit: the fit of it.
    """
    if not held_out:
        return {}
    joined = build_design_matrix([*records, *held_out])
    present = np.array([column in design.columns for column in joined.columns])
    families = np.array([record.family for record in (*records, *held_out)])[joined.records]
    return {
        family: _predict(joined, fit, present, (families == family) & ~joined.around)
        for family in sorted({record.family for record in held_out})
    }


def _leave_out(design: DesignMatrix, left_out: NDArray[np.bool_], seed: int) -> LeftOut:
    kept = ~left_out
    present = np.any(design.matrix[kept] > 0, axis=0)
    fit = EnergyRegression(resamples=RESAMPLES, seed=seed).fit(
        design.matrix[np.ix_(kept, present)],
        design.energy_j[kept],
        relative_u=design.relative_u[kept],
        absolute_u=design.quantisation_u_j[kept],
        clusters=design.clusters[kept],
        strata=design.strata[kept],
    )
    return _predict(design, fit, present, left_out)


def _predict(
    design: DesignMatrix, fit: EnergyRegression, present: NDArray[np.bool_], left_out: NDArray[np.bool_]
) -> LeftOut:
    """Predict some rows by a fit of those columns that are ``present``."""
    known = present.copy()
    known[present] = ~fit.identification_.unidentified
    unknown = np.any(design.matrix[:, ~known] > 0, axis=1) & left_out
    predictable = left_out & ~np.isin(design.windows, design.windows[unknown])
    missing = dict.fromkeys(
        column.term
        for column, is_known, used in zip(
            design.columns, known, np.any(design.matrix[unknown] > 0, axis=0), strict=True
        )
        if used and not is_known
    )
    reason = ""
    if missing:
        lost = len(set(design.windows[unknown]))
        reason = f"no other family tells {in_words(list(missing))}: {lost} windows not predicted"
    if not np.any(predictable):
        return LeftOut(relative_errors=np.zeros(0), inside=np.zeros(0, dtype=np.bool_), reason=reason)
    u_j = _prediction_u_j(design, fit, predictable, present)
    coefficients = np.zeros(len(present))
    coefficients[present] = fit.coef_
    errors = relative_errors(design, coefficients, predictable)
    freedom = min(fit.spread_[int(stratum)].degrees_of_freedom for stratum in design.strata[predictable])
    half_width = student_t(0.975, freedom) * u_j / _per_window(design, predictable, design.energy_j)
    return LeftOut(relative_errors=errors, inside=np.abs(errors) <= half_width, reason=reason)


def _prediction_u_j(
    design: DesignMatrix, fit: EnergyRegression, rows: NDArray[np.bool_], present: NDArray[np.bool_]
) -> Array:
    """Standard uncertainty of the total of each window: of the costs, the configuration and the window."""
    amounts = design.matrix[np.ix_(rows, present)]
    expected_j = amounts @ fit.coef_
    spread = [fit.spread_[int(stratum)] for stratum in design.strata[rows]]
    row_variance = (design.relative_u[rows] * expected_j) ** 2 + design.quantisation_u_j[rows] ** 2
    own = row_variance * [s.window_variance for s in spread] + expected_j**2 * [
        s.cluster_variance for s in spread
    ]
    labels, positions = np.unique(design.windows[rows], return_inverse=True)
    totals = np.zeros((len(labels), amounts.shape[1]))
    np.add.at(totals, positions, amounts)
    of_costs = np.einsum("ij,jk,ik->i", totals, fit.covariance_, totals)
    return np.asarray(np.sqrt(np.maximum(of_costs, 0) + np.bincount(positions, own)), dtype=np.float64)


def _per_window(design: DesignMatrix, rows: NDArray[np.bool_], values: Array) -> Array:
    _, positions = np.unique(design.windows[rows], return_inverse=True)
    return np.asarray(np.bincount(positions, values[rows]), dtype=np.float64)
