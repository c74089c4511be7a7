"""How far to trust a fit, as the cost model file says it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration_data.records import CalibrationRecord
from cost_models.design_matrix import DesignMatrix
from cost_models.document import Diagnostics, FamilyDiagnostics, HeldOutDiagnostics
from cost_models.drift import Drift
from cost_models.held_out import LeftOut, relative_errors
from cost_models.regression import EnergyRegression


def diagnose(
    records: Sequence[CalibrationRecord],
    design: DesignMatrix,
    fit: EnergyRegression,
    left_out: Mapping[str, LeftOut],
    judged: Mapping[str, LeftOut],
    held_out: Sequence[CalibrationRecord],
    drift: Drift,
) -> Diagnostics:
    """Conditioning of a design, and the errors of its fit in sample and on families that it never saw.

    Args:
        records: those of the design.
        design: what was fitted.
        fit: the fit of it.
        left_out: each family predicted by a fit without it.
        judged: each family that no fit uses, predicted by the fit.
        held_out: records of these families.
        drift: what was taken off the readings.
    """
    identification = fit.identification_
    families = np.array([record.family for record in records])[design.records]
    busy = ~design.around
    return Diagnostics(
        n_records=len(records),
        n_windows=len(set(design.windows)),
        n_disturbed=len(set(design.windows[fit.inflation_ > 1])),
        drift_common_u=drift.common_u,
        repeatability=dict(design.repeatability),
        scaled_condition_number=_finite(identification.condition_number),
        vif={
            name: _finite(float(np.max(identification.vif[design.shares(name) > 0]))) for name in design.terms
        },
        smallest_singular_direction=identification.smallest_direction(design.labels),
        mape_in_sample=_mape(design, fit, busy),
        mape_leave_one_family_out=_together(left_out).mape,
        coverage95_leave_one_family_out=_together(left_out).coverage95,
        families={
            family: FamilyDiagnostics(
                records=sum(record.family == family for record in records),
                mape_in_sample=_mape(design, fit, busy & (families == family)),
                mape_left_out=result.mape,
                coverage95_left_out=result.coverage95,
                reason=result.reason,
            )
            for family, result in left_out.items()
        },
        mape_held_out=_together(judged).mape,
        coverage95_held_out=_together(judged).coverage95,
        held_out={
            family: HeldOutDiagnostics(
                records=sum(record.family == family for record in held_out),
                mape=result.mape,
                coverage95=result.coverage95,
                reason=result.reason,
            )
            for family, result in judged.items()
        },
    )


def _together(results: Mapping[str, LeftOut]) -> LeftOut:
    return LeftOut(
        relative_errors=np.concatenate([np.zeros(0), *(r.relative_errors for r in results.values())]),
        inside=np.concatenate([np.zeros(0, dtype=np.bool_), *(r.inside for r in results.values())]),
    )


def _mape(design: DesignMatrix, fit: EnergyRegression, rows: NDArray[np.bool_]) -> float:
    return float(np.mean(np.abs(relative_errors(design, fit.coef_, rows))))


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
