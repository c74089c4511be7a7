"""The cost model file: what a model must hold to be read at all.

Everything that would make a prediction meaningless is refused here (a negative joule, an interval without
its value, a covariance that no random vector can have); what is merely suspicious is the business of
``cost_models.validation``.

History of the format:
    1   first version
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeInt, PositiveFloat, model_validator

from calibration_data import TERMS, Provenance
from calibration_data.files import Frozen
from calibration_data.records import DeviceFingerprint

COST_MODEL_SCHEMA: Final = "calijoule/cost-model"
COST_MODEL_SCHEMA_VERSION: Final = 1

Name = Annotated[str, Field(min_length=1, max_length=200)]
Text = Annotated[str, Field(max_length=2000)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
TermName = Annotated[str, Field(max_length=40)]
# No operation costs a gigajoule; the bound keeps squares and sums finite.
Quantity = Annotated[float, Field(ge=0, le=1e9)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Row = Annotated[tuple[Annotated[float, Field(ge=-1e18, le=1e18)], ...], Field(max_length=64)]

_ALLOWED_PROVENANCE: dict[str, frozenset[str]] = {
    "measured": frozenset({"measured", "inferred", "literature"}),
    "simulated": frozenset({"simulated", "literature"}),
    "literature": frozenset({"literature"}),
}


class Coefficient(Frozen):
    """Cost of one unit of one term.

    Attributes:
        name: term of the energy model.
        unit: joules per unit of amount, or watts.
        value: best estimate; null unless ``identified``.
        standard_uncertainty: null unless ``identified``.
        degrees_of_freedom: of the uncertainty; null where it is not limited by statistics.
        ci95: 95 % interval; of a ``bounded`` coefficient all that is known; null if ``refused``.
        status: ``identified``, ``bounded`` (only limits are known) or ``refused`` (nothing is known).
        provenance: where its joules come from.
        reason: why it is bounded or refused, or where it comes from.
    """

    name: TermName
    unit: TermName
    value: Quantity | None = None
    standard_uncertainty: Quantity | None = None
    degrees_of_freedom: PositiveFloat | None = None
    ci95: tuple[Quantity, Quantity] | None = None
    status: Literal["identified", "bounded", "refused"]
    provenance: Provenance
    reason: Text = ""

    @model_validator(mode="after")
    def _consistent(self) -> Coefficient:
        if self.name not in TERMS:
            raise ValueError(f"{self.name!r} is not a term of the energy model")
        if self.unit != TERMS[self.name].unit:
            raise ValueError(f"{self.name} is in {TERMS[self.name].unit}, not in {self.unit!r}")
        given = (self.value is not None, self.standard_uncertainty is not None, self.ci95 is not None)
        wanted = {"identified": (True,) * 3, "bounded": (False, False, True), "refused": (False,) * 3}
        if given != wanted[self.status]:
            raise ValueError(f"{self.name} is {self.status}, which does not fit the numbers it has")
        if self.ci95 is not None and self.ci95[0] > self.ci95[1]:
            raise ValueError(f"the interval of {self.name} ends before it begins")
        if self.value is not None and self.ci95 is not None:
            low, high = self.ci95
            if not low <= self.value <= high:
                raise ValueError(f"the interval of {self.name} does not contain its value")
        if self.status != "identified" and not self.reason:
            raise ValueError(f"{self.name} is {self.status} without a reason")
        return self


class Covariance(Frozen):
    """Covariance of the identified coefficients, in the product of their units, shape (n, n)."""

    names: Annotated[tuple[TermName, ...], Field(max_length=64)]
    matrix: Annotated[tuple[Row, ...], Field(max_length=64)]

    @model_validator(mode="after")
    def _possible(self) -> Covariance:
        size = len(self.names)
        if len(set(self.names)) != size:
            raise ValueError("a name is given twice")
        if len(self.matrix) != size or any(len(row) != size for row in self.matrix):
            raise ValueError(f"the matrix must have {size} rows of {size} numbers")
        matrix = np.array(self.matrix, dtype=float).reshape(size, size)
        u = np.sqrt(np.abs(np.diag(matrix)))
        scale = np.outer(u, u)
        tolerance = 1e-6 * scale + 1e-300
        if np.any(np.abs(matrix - matrix.T) > tolerance):
            raise ValueError("the matrix is not symmetric")
        if np.any(np.diag(matrix) < 0) or np.any(np.abs(matrix) > scale + tolerance):
            raise ValueError("the matrix is no covariance: a correlation is larger than one")
        with np.errstate(divide="ignore", invalid="ignore"):
            correlation = np.where(scale > 0, matrix / scale, 0.0)
        if size and np.linalg.eigvalsh(correlation)[0] < -1e-6:
            raise ValueError("the matrix is no covariance: it is not positive semi-definite")
        return self


class FamilyDiagnostics(Frozen):
    """How well one family of microbenchmarks is described.

    Attributes:
        records: configurations in it.
        mape_in_sample: mean absolute relative error of the windows, as a fraction.
        mape_left_out: the same, predicted by a fit that never saw the family; null if it cannot be predicted.
        coverage95_left_out: share of its windows inside the 95 % prediction interval of that fit.
        reason: why it cannot be predicted when left out.
    """

    records: NonNegativeInt
    mape_in_sample: Quantity
    mape_left_out: Quantity | None = None
    coverage95_left_out: Fraction | None = None
    reason: Text = ""


class HeldOutDiagnostics(Frozen):
    """How well the model predicts one family that no fit uses.

    Attributes:
        records: configurations in it.
        mape: mean absolute relative error of its windows, as a fraction; null if it cannot be predicted.
        coverage95: share of its windows inside the 95 % prediction interval.
        reason: why it cannot be predicted.
    """

    records: NonNegativeInt
    mape: Quantity | None = None
    coverage95: Fraction | None = None
    reason: Text = ""


class ToggleBand(Frozen):
    """How much less work on zeros draws than the same work on random data, for which the costs hold.

    Attributes:
        zeros_rel: joules of a loop on zeros, those of the idle device taken off, over those on random data.
        ci95: 95 % interval.
    """

    zeros_rel: Quantity
    ci95: tuple[Quantity, Quantity]

    @model_validator(mode="after")
    def _consistent(self) -> ToggleBand:
        low, high = self.ci95
        if not low <= self.zeros_rel <= high:
            raise ValueError("the interval of a toggle band does not contain its value")
        return self


class Diagnostics(Frozen):
    """How far to trust the fit; empty for a model from the literature.

    Attributes:
        n_records: configurations.
        n_windows: measurement windows, idle ones included.
        n_disturbed: windows that count less, since they disagree with the others of their configuration or
            their configuration with all others.
        drift_common_u: relative standard uncertainty of all costs together from a drift of the readings over
            the campaign; it is within their uncertainties.
        repeatability: pooled relative standard deviation of replicates, by side (package, dram).
        scaled_condition_number: of the weighted design with unit-norm columns; null if infinite.
        vif: variance inflation factor by term; null if infinite.
        smallest_singular_direction: in words.
        mape_in_sample: mean absolute relative error, as a fraction.
        mape_leave_one_family_out: the same for families that the fit never saw.
        coverage95_leave_one_family_out: share of left-out windows inside the 95 % prediction interval.
        families: the same by family.
        mape_held_out: mean absolute relative error on the families that no fit uses, as a fraction.
        coverage95_held_out: share of their windows inside the 95 % prediction interval.
        held_out: the same by family.
        toggle: work on zeros against the same on random data, by configuration; never part of the fit.
    """

    n_records: NonNegativeInt = 0
    n_windows: NonNegativeInt = 0
    n_disturbed: NonNegativeInt = 0
    drift_common_u: Quantity = 0.0
    repeatability: Annotated[dict[Name, Quantity], Field(max_length=8)] = Field(default_factory=dict)
    scaled_condition_number: PositiveFloat | None = None
    vif: Annotated[dict[TermName, PositiveFloat | None], Field(max_length=64)] = Field(default_factory=dict)
    smallest_singular_direction: Text = ""
    mape_in_sample: Quantity | None = None
    mape_leave_one_family_out: Quantity | None = None
    coverage95_leave_one_family_out: Fraction | None = None
    families: Annotated[dict[Name, FamilyDiagnostics], Field(max_length=1000)] = Field(default_factory=dict)
    mape_held_out: Quantity | None = None
    coverage95_held_out: Fraction | None = None
    held_out: Annotated[dict[Name, HeldOutDiagnostics], Field(max_length=1000)] = Field(default_factory=dict)
    toggle: Annotated[dict[Name, ToggleBand], Field(max_length=1000)] = Field(default_factory=dict)


class Validity(Frozen):
    """Where the model was measured; outside of it a prediction is an extrapolation.

    Attributes:
        working_set_bytes: smallest and largest working set.
        threads: smallest and largest number of busy cores.
        dtypes: dtypes of the arithmetic.
        levels: memory levels.
        conditions: every value that a changeable state (governor, clocks, ...) took.
    """

    working_set_bytes: tuple[NonNegativeInt, NonNegativeInt] | None = None
    threads: tuple[NonNegativeInt, NonNegativeInt] | None = None
    dtypes: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    levels: Annotated[tuple[Name, ...], Field(max_length=32)] = ()
    conditions: Annotated[
        dict[Name, Annotated[tuple[Text, ...], Field(max_length=1000)]], Field(max_length=200)
    ] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _ordered(self) -> Validity:
        for name, span in (("working_set_bytes", self.working_set_bytes), ("threads", self.threads)):
            if span is not None and span[0] > span[1]:
                raise ValueError(f"{name} ends before it begins")
        return self


class CostModelDocument(Frozen):
    """One cost model as it is written.

    Attributes:
        provenance: of the model as a whole: the records it was fitted to, or the literature.
        device: what was measured; null only for a model from the literature.
        created: when, ISO 8601.
        software: versions by name.
        records_sha256: digest of each record file.
        sources: publications that its numbers come from, for a model from the literature.
        domains: domains of the total.
        time_attribution: which power is charged to time: ``active`` models have an ``awake_w`` of their own.
        gain_u_rel: relative standard uncertainty of the sensors' gain, where somebody gave one. All costs
            share it and none of their uncertainties holds it: no repetition makes it smaller, and ratios of
            costs are free of it.
        throughput: by operation term, the largest rate seen in the campaign, in units per second.
        coefficients: one for each term that was looked for.
        covariance: of the identified coefficients.
    """

    schema_name: Literal["calijoule/cost-model"] = Field(default=COST_MODEL_SCHEMA, alias="schema")
    schema_version: Literal[1] = COST_MODEL_SCHEMA_VERSION
    provenance: Literal["measured", "simulated", "literature"]
    device: DeviceFingerprint | None
    created: Name
    software: Annotated[dict[Name, Text], Field(max_length=200)] = Field(default_factory=dict)
    records_sha256: Annotated[tuple[Digest, ...], Field(max_length=10_000)] = ()
    sources: Annotated[tuple[Text, ...], Field(max_length=100)] = ()
    domains: Annotated[tuple[Name, ...], Field(max_length=64)] = ()
    time_attribution: Literal["active", "idle", "none"]
    gain_u_rel: Annotated[float, Field(ge=0, le=0.5)] | None = None
    throughput: Annotated[dict[TermName, Annotated[float, Field(ge=1e-6, le=1e24)]], Field(max_length=64)] = (
        Field(default_factory=dict)
    )
    coefficients: Annotated[tuple[Coefficient, ...], Field(min_length=1, max_length=64)]
    covariance: Covariance
    diagnostics: Diagnostics = Field(default_factory=Diagnostics)
    validity: Validity = Field(default_factory=Validity)

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )

    @model_validator(mode="after")
    def _consistent(self) -> CostModelDocument:
        names = [coefficient.name for coefficient in self.coefficients]
        if len(set(names)) != len(names):
            raise ValueError("coefficients: a name is given twice")
        if unknown := sorted(set(self.throughput) - set(TERMS)):
            raise ValueError(f"throughput: {unknown[0]!r} is not a term of the energy model")
        if not _is_time(self.created):
            raise ValueError("created: it is no ISO 8601 time")
        self._check_provenance()
        self._check_covariance()
        return self

    def _check_provenance(self) -> None:
        for coefficient in self.coefficients:
            if coefficient.provenance not in _ALLOWED_PROVENANCE[self.provenance]:
                raise ValueError(
                    f"provenance: {coefficient.name} is {coefficient.provenance} in a model that is "
                    f"{self.provenance}"
                )
        if self.device is None and self.provenance != "literature":
            raise ValueError(f"device: a {self.provenance} model must say what it describes")
        if self.device is not None and self.device.kind == "simulated" and self.provenance != "simulated":
            raise ValueError(f"provenance: a simulated device cannot give a {self.provenance} model")

    def _check_covariance(self) -> None:
        u = {
            coefficient.name: coefficient.standard_uncertainty
            for coefficient in self.coefficients
            if coefficient.standard_uncertainty is not None
        }
        if set(u) != set(self.covariance.names):
            raise ValueError("covariance: its names must be those of the identified coefficients")
        for index, name in enumerate(self.covariance.names):
            variance = self.covariance.matrix[index][index]
            if abs(variance - u[name] ** 2) > 1e-6 * u[name] ** 2:
                raise ValueError(f"covariance: the variance of {name} is not the square of its uncertainty")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def cost_model_json_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a cost model file, as written in ``cost_models/schema``."""
    return CostModelDocument.model_json_schema(by_alias=True)
