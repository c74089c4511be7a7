"""Means over seeds and differences paired by seed, with 95 % intervals of Student's t.

Every rule trains on the same data, shares and initial weights under one seed, so rules are compared by the
differences of accuracies seed by seed: mean d̄, standard deviation s, n seeds.

    interval    d̄ ± t(0.975; n − 1)·s/√n
    p           P(|T| ≥ |d̄|·√n/s), T of n − 1 degrees of freedom      (the paired t-test)
    Holm        sorted p₁ ≤ … ≤ p_m: adjusted p_k = max over j ≤ k of min(1, (m − j + 1)·p_j)

Holm, Scandinavian Journal of Statistics 6 (1979): the chance of one false difference in a whole family of
tests stays below the level, whatever the tests have to do with each other. scipy has the false discovery rate
only, which promises less.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field
from scipy.stats import t as student

from calibration_data.files import Frozen
from cost_models.uncertainty import student_t

LEVEL = 0.05
LEAST_SEEDS = 3
"""With fewer, no difference is told from chance."""

Outcome = Literal["ahead", "behind", "tie", "equal", "unknown"]
"""``equal``: no seed differs at all; ``unknown``: too few seeds to tell."""


class SeedMean(Frozen):
    """A mean over seeds.

    Attributes:
        mean: of the seeds.
        half_width: of its 95 % interval; None of a single seed.
    """

    mean: float
    half_width: float | None = Field(default=None, ge=0)


class Difference(Frozen):
    """What one contender's accuracy is above another's, paired by seed.

    Attributes:
        mean: of the differences.
        half_width: of its 95 % interval; None of a single seed.
        seeds: pairs.
        p_value: of the paired t-test; None with fewer than three seeds or no difference at all.
        p_holm: the same after Holm's correction for all tests of the family.
        outcome: what the interval says of this pair alone.
    """

    mean: float
    half_width: float | None
    seeds: int
    p_value: float | None
    p_holm: float | None
    outcome: Outcome

    @property
    def outlasts_correction(self) -> bool:
        """Whether it is told from chance among all tests of its family."""
        return self.p_holm is not None and self.p_holm < LEVEL


def seed_mean(values: Sequence[float]) -> SeedMean:
    """Mean and 95 % interval."""
    return SeedMean(mean=statistics.fmean(values), half_width=_half_width(values))


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> Difference:
    """Compare two contenders seed by seed; ``p_holm`` is left to ``corrected``.

    Args:
        ours: accuracy by seed, at least one.
        theirs: accuracy of the same seeds in the same order.
    """
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    mean, half_width = statistics.fmean(differences), _half_width(differences)
    tested = half_width is not None and len(differences) >= LEAST_SEEDS and any(differences)
    p_value = _p_value(differences) if tested else None
    return Difference(
        mean=mean,
        half_width=half_width,
        seeds=len(differences),
        p_value=p_value,
        p_holm=None,
        outcome=_outcome(mean, p_value, equal=not any(differences)),
    )


def corrected(tests: Sequence[Difference]) -> list[Difference]:
    """The tests with Holm's correction for all that have a p-value."""
    order = sorted(
        (index for index, test in enumerate(tests) if test.p_value is not None),
        key=lambda index: tests[index].p_value or 0.0,
    )
    adjusted: dict[int, float] = {}
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * (tests[index].p_value or 0.0)))
        adjusted[index] = largest
    return [test.model_copy(update={"p_holm": adjusted.get(index)}) for index, test in enumerate(tests)]


def _outcome(mean: float, p_value: float | None, *, equal: bool) -> Outcome:
    if equal:
        return "equal"
    if p_value is None:
        return "unknown"
    if p_value >= LEVEL:
        return "tie"
    return "ahead" if mean > 0 else "behind"


def _p_value(differences: Sequence[float]) -> float:
    u = _u_of_mean(differences)
    mean = statistics.fmean(differences)
    return 0.0 if u == 0 else float(2 * student.sf(abs(mean) / u, len(differences) - 1))


def _half_width(values: Sequence[float]) -> float | None:
    if len(values) < 2:
        return None
    return student_t(0.5 + (1 - LEVEL) / 2, len(values) - 1) * _u_of_mean(values)


def _u_of_mean(values: Sequence[float]) -> float:
    """Standard deviation of the mean (GUM 4.2.3)."""
    return float(statistics.stdev(values) / len(values) ** 0.5)
