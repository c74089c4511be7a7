"""CostModel: joules of exactly counted work with their uncertainty, or what it is that it cannot know."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from calibration_data import TERMS, Provenance, UsageError, Work, domain_kind
from calibration_data.records import DeviceFingerprint
from calibration_data.terms import POWER_TERMS
from cost_models.document import Coefficient, CostModelDocument, Covariance
from cost_models.errors import MissingCoefficientError
from cost_models.uncertainty import Estimate, welch_satterthwaite

_NEXT_STEP = (
    "Profile the device with microbenchmarks that exercise it (calijoule profile --plan full), "
    "or supply a value of your own."
)

_SUPPLIED = "supplied by the user"


@dataclass(frozen=True, kw_only=True)
class _Knowledge:
    """Costs of some terms as arrays, all in the order of the names."""

    names: tuple[str, ...]
    values: NDArray[np.float64]
    covariance: NDArray[np.float64]
    variances: NDArray[np.float64]
    degrees_of_freedom: NDArray[np.float64]


@dataclass(frozen=True)
class CostModel:
    """Costs of elementary operations on one device, read from a document or fitted to records."""

    document: CostModelDocument

    def __reduce__(self) -> tuple[type[CostModel], tuple[CostModelDocument]]:
        """In another process a model is its document; what was looked up stays here."""
        return CostModel, (self.document,)

    @property
    def provenance(self) -> Provenance:
        """Where the model as a whole comes from."""
        return self.document.provenance

    @property
    def device(self) -> DeviceFingerprint | None:
        """What the model describes; None for a model from the literature."""
        return self.document.device

    @cached_property
    def coefficients(self) -> Mapping[str, Coefficient]:
        """Every coefficient by name, refused ones included."""
        return MappingProxyType({item.name: item for item in self.document.coefficients})

    def missing(self, work: Work) -> tuple[str, ...]:
        """Terms that the work needs and the model has no value for, in the order of ``TERMS``."""
        return tuple(
            name
            for name in self._charged(work)
            if name not in self.coefficients or self.coefficients[name].status == "refused"
        )

    def predict_j(self, work: Work, *, with_gain: bool = False) -> Estimate:
        """Joules of the work: Σ amount·cost, with the full covariance of the costs.

        The degrees of freedom are those of Welch and Satterthwaite (GUM G.4.1), weighted by each term's own
        share of variance; they are never fewer than those of the least known term.

        Args:
            work: exact amounts; seconds for the power terms.
            with_gain: whether the uncertainty contains that of the sensors' gain, which errs for all costs
                together; wanted for absolute joules, not for comparing.

        Raises:
            MissingCoefficientError: a needed coefficient is refused or absent.
            UsageError: the gain is asked for, and nobody gave its uncertainty.
        """
        gain_u_rel = self._gain_u_rel() if with_gain else 0.0
        known, amounts = self._known_amounts(work)
        value = float(amounts @ known.values)
        variance = float(amounts @ known.covariance @ amounts)
        return Estimate(
            value=value,
            standard_uncertainty=math.hypot(math.sqrt(max(variance, 0.0)), gain_u_rel * value),
            degrees_of_freedom=welch_satterthwaite(amounts**2 * known.variances, known.degrees_of_freedom),
        )

    def value_j(self, work: Work) -> float:
        """The best estimate of ``predict_j`` alone.

        Raises:
            MissingCoefficientError: a needed coefficient is refused or absent.
        """
        known, amounts = self._known_amounts(work)
        return float(amounts @ known.values)

    def values(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Costs by term, shape (n_names,), in each term's unit.

        A bounded coefficient counts with the middle of its interval.

        Raises:
            MissingCoefficientError: a coefficient is refused or absent.
        """
        self._require(names)
        return np.array([self._estimate(name).value for name in names], dtype=np.float64)

    def covariance(self, names: Sequence[str]) -> NDArray[np.float64]:
        """Covariance of the costs, shape (n_names, n_names), in the products of the terms' units.

        A bounded coefficient has the variance of a rectangular distribution over its interval (GUM 4.3.7)
        and is not correlated with the others.

        Raises:
            MissingCoefficientError: a coefficient is refused or absent.
        """
        self._require(names)
        known = {name: index for index, name in enumerate(self.document.covariance.names)}
        matrix = np.zeros((len(names), len(names)))
        for i, first in enumerate(names):
            for j, second in enumerate(names):
                if first in known and second in known:
                    matrix[i, j] = self.document.covariance.matrix[known[first]][known[second]]
                elif first == second:
                    matrix[i, j] = self._estimate(first).standard_uncertainty ** 2
        return matrix

    def duration_s(self, work: Work) -> float:
        """Shortest time for the operations, by the roofline: each at the best rate seen, all overlapping.

        Raises:
            MissingCoefficientError: an operation was never seen at any rate.
        """
        throughput = self.document.throughput
        operations = [(name, amount) for name, amount in work.amounts.items() if name not in POWER_TERMS]
        unseen = [name for name, _ in operations if name not in throughput]
        if unseen:
            raise MissingCoefficientError(
                f"The cost model has no throughput for {', '.join(unseen)}.", next_step=_NEXT_STEP
            )
        return max([amount / throughput[name] for name, amount in operations], default=0.0)

    @property
    def assumed(self) -> dict[str, float]:
        """What ``with_assumed`` has put in."""
        return {
            item.name: item.value
            for item in self.coefficients.values()
            if item.reason == _SUPPLIED and item.value is not None
        }

    def with_assumed(self, assumed: Mapping[str, float]) -> CostModel:
        """The same model with coefficients that the user supplies, taken as exact, provenance ``literature``.

        Raises:
            UsageError: a name is no term, or a value is negative or not finite.
        """
        for name, value in assumed.items():
            if name not in TERMS:
                raise UsageError(
                    f"{name!r} is not a term of the energy model.", next_step=f"Terms: {', '.join(TERMS)}."
                )
            if not 0 <= value <= 1e9:
                raise UsageError(f"The value supplied for {name} must lie between 0 and 1e9, got {value}.")
        coefficients = {**self.coefficients, **{name: _supplied(name, v) for name, v in assumed.items()}}
        names = [name for name in TERMS if name in coefficients]
        identified = [name for name in names if coefficients[name].status == "identified"]
        known = [name for name in identified if name not in assumed]
        matrix = np.zeros((len(identified), len(identified)))
        rows = [identified.index(name) for name in known]
        matrix[np.ix_(rows, rows)] = self.covariance(known)
        document = self.document.model_copy(
            update={
                "coefficients": tuple(coefficients[name] for name in names),
                "covariance": Covariance(
                    names=tuple(identified), matrix=tuple(tuple(row) for row in matrix.tolist())
                ),
            }
        )
        return CostModel(document)

    def _gain_u_rel(self) -> float:
        if self.document.gain_u_rel is None:
            raise UsageError(
                "The cost model does not say how uncertain its sensors' gain is.",
                next_step="Give it when fitting: calijoule fit --gain-u 0.05.",
            )
        return self.document.gain_u_rel

    def _charged(self, work: Work) -> tuple[str, ...]:
        # Without a DRAM domain the idle power of the DRAM is no term: it is inside idle_w or not seen at all.
        return tuple([name for name in work.amounts if self._has_dram or name != "dram_idle_w"])

    @cached_property
    def _has_dram(self) -> bool:
        return any(domain_kind(domain) == "dram" for domain in self.document.domains)

    @cached_property
    def _known(self) -> dict[tuple[str, ...], _Knowledge]:
        return {}

    def _knowledge(self, names: tuple[str, ...]) -> _Knowledge:
        """What is known of some costs together; looked up once, for predictions repeat."""
        if names not in self._known:
            covariance = self.covariance(names)
            self._known[names] = _Knowledge(
                names=names,
                values=self.values(names),
                covariance=covariance,
                variances=np.diag(covariance),
                degrees_of_freedom=np.array([self._degrees_of_freedom(name) for name in names]),
            )
        return self._known[names]

    def _known_amounts(self, work: Work) -> tuple[_Knowledge, NDArray[np.float64]]:
        """What is known of the costs of some work, and its amounts in the same order."""
        known = self._knowledge(self._charged(work))
        return known, np.array([work.amounts[name] for name in known.names])

    def _require(self, names: Iterable[str]) -> None:
        problems = []
        for name in names:
            if name not in self.coefficients:
                problems.append(f"{name} (absent)")
            elif self.coefficients[name].status == "refused":
                problems.append(f"{name} (refused: {self.coefficients[name].reason})")
        if problems:
            raise MissingCoefficientError(
                f"The cost model has no value for {'; '.join(problems)}.", next_step=_NEXT_STEP
            )

    def _estimate(self, name: str) -> Estimate:
        item = self.coefficients[name]
        if item.value is None or item.standard_uncertainty is None:
            low, high = item.ci95 or (math.nan, math.nan)
            return Estimate.rectangular(low, high)
        return Estimate(
            value=item.value,
            standard_uncertainty=item.standard_uncertainty,
            degrees_of_freedom=item.degrees_of_freedom or math.inf,
        )

    def _degrees_of_freedom(self, name: str) -> float:
        return self._estimate(name).degrees_of_freedom


def _supplied(name: str, value: float) -> Coefficient:
    return Coefficient(
        name=name,
        unit=TERMS[name].unit,
        value=value,
        standard_uncertainty=0.0,
        ci95=(value, value),
        status="identified",
        provenance="literature",
        reason=_SUPPLIED,
    )
