"""Records in, cost model out: the fit, how far to trust it, and where it holds."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from calibration_data import TERMS, MeasurementError, __version__, total_domains
from calibration_data.families import HELD_OUT_FAMILIES, NEVER_FITTED_FAMILIES
from calibration_data.files import describe_validation_error
from calibration_data.records import CalibrationRecord, DeviceFingerprint
from calibration_data.terms import POWER_TERMS
from cost_models.coefficients import covariance, judge_coefficients
from cost_models.cost_model import CostModel
from cost_models.design_matrix import DesignMatrix, build_design_matrix, sorted_records
from cost_models.diagnostics import diagnose
from cost_models.document import CostModelDocument, Diagnostics, Validity
from cost_models.drift import take_off_drift
from cost_models.errors import RecordsDisagreeError
from cost_models.held_out import leave_one_family_out, predict_held_out
from cost_models.plausibility import published_range
from cost_models.regression import EnergyRegression
from cost_models.toggle import toggle_bands


def fit_cost_model(
    records: Sequence[CalibrationRecord],
    *,
    records_sha256: Sequence[str] = (),
    seed: int = 0,
    gain_u_rel: float | None = None,
    priors: bool = False,
    report: Callable[[str], None] = lambda step: None,
) -> CostModel:
    """Fit every cost that the records exercise; the result does not depend on their order.

    Families that judge a model (``calibration_data.families``) do not enter the fit: it predicts them.

    Args:
        records: of one device and one provenance; dropped windows and warm-ups are not used.
        records_sha256: digests of the files that they came from.
        seed: of the bootstrap.
        gain_u_rel: relative standard uncertainty of the sensors' gain, kept beside the costs.
        priors: whether the middle of the published ranges speaks where the records do not tell a cost; those
            that they tell move by less than 1 %.
        report: called with the name of each step before it starts.

    Raises:
        RecordsDisagreeError: the records cannot go into one model.
        MeasurementError: the numbers of the records are impossible.
    """
    every = sorted_records(records)
    records = [record for record in every if record.family not in NEVER_FITTED_FAMILIES]
    held_out = [record for record in every if record.family in HELD_OUT_FAMILIES]
    if not records:
        raise RecordsDisagreeError(
            "There are only records of families that judge a model and never enter a fit.",
            next_step="Take the others with: calijoule profile.",
        )
    design, drift = take_off_drift(build_design_matrix(records))
    report("all families")
    fit = EnergyRegression(
        seed=seed,
        common_u=drift.common_u,
        prior=published_centres(records[0].device, design) if priors else None,
    ).fit(
        design.matrix,
        design.energy_j,
        relative_u=design.relative_u,
        absolute_u=design.quantisation_u_j,
        clusters=design.clusters,
        strata=design.strata,
    )
    left_out = leave_one_family_out(
        records, design, seed=seed, report=lambda family: report(f"without {family}")
    )
    diagnostics = diagnose(
        records, design, fit, left_out, predict_held_out(records, held_out, design, fit), held_out, drift
    ).model_copy(update={"toggle": toggle_bands(every)})
    try:
        document = _document(records, records_sha256, design, fit, diagnostics)
        return CostModel(document.model_copy(update={"gain_u_rel": gain_u_rel}))
    except ValidationError as error:
        raise MeasurementError(
            f"The records give no possible cost model: {describe_validation_error(error)}.",
            next_step="Look at their numbers, and measure again.",
        ) from error


def published_centres(device: DeviceFingerprint, design: DesignMatrix) -> NDArray[np.float64]:
    """Geometric middle of the published range of each column's term, nan where none is, shape (n_columns,).

    Of a term with two shares the DRAM's own has the prior.
    """
    terms = [column.term for column in design.columns]
    centres = []
    for column in design.columns:
        published = published_range(device, column.term)
        own = column.side == "dram" or terms.count(column.term) == 1
        centres.append(np.sqrt(published.low * published.high) if published and own else np.nan)
    return np.array(centres, dtype=np.float64)


def _document(
    records: Sequence[CalibrationRecord],
    records_sha256: Sequence[str],
    design: DesignMatrix,
    fit: EnergyRegression,
    diagnostics: Diagnostics,
) -> CostModelDocument:
    coefficients = judge_coefficients(records[0], design, fit)
    return CostModelDocument(
        provenance=records[0].provenance,
        device=records[0].device,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software={
            "calijoule": __version__,
            "python": platform.python_version(),
            "numpy": version("numpy"),
            "scipy": version("scipy"),
        },
        records_sha256=tuple(records_sha256),
        domains=tuple(sorted(total_domains(records[0].replicates[0].energy_j))),
        time_attribution="active",
        throughput=_throughput(records),
        coefficients=coefficients,
        covariance=covariance(coefficients, design, fit),
        diagnostics=diagnostics,
        validity=_validity(records),
    )


def _throughput(records: Sequence[CalibrationRecord]) -> dict[str, float]:
    """Largest rate of each operation seen in any window, in units per second of the window."""
    best: dict[str, float] = {}
    for record in records:
        for window in record.replicates:
            for name, amount in record.window_work(window).without_times().items():
                best[name] = max(best.get(name, 0.0), amount / window.duration_s)
    return {name: best[name] for name in TERMS if name in best and name not in POWER_TERMS}


def _validity(records: Sequence[CalibrationRecord]) -> Validity:
    sizes = [record.working_set_bytes for record in records if record.working_set_bytes is not None]
    threads = [record.threads for record in records]
    exercised = {name for record in records for name in record.work_per_loop}
    conditions: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.conditions.items():
            conditions.setdefault(name, set()).add(value)
    return Validity(
        working_set_bytes=(min(sizes), max(sizes)) if sizes else None,
        threads=(min(threads), max(threads)),
        dtypes=tuple(name.removeprefix("flop_") for name in TERMS if name in exercised and "flop_" in name),
        levels=tuple(
            level for level in records[0].device.memory.levels if any(r.level == level for r in records)
        ),
        conditions={name: tuple(sorted(values)[:1000]) for name, values in conditions.items()},
    )
