"""A number with its uncertainty, in the words of the GUM (JCGM 100:2008)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit


def student_t(probability: float, degrees_of_freedom: float) -> float:
    """Quantile of Student's t distribution; the normal quantile for infinite degrees of freedom."""
    return float(stdtrit(degrees_of_freedom, probability))


def welch_satterthwaite(
    variances: NDArray[np.float64], degrees_of_freedom: Sequence[float] | NDArray[np.float64]
) -> float:
    """Effective degrees of freedom of a sum of terms with these variances (GUM G.4.1).

    Never fewer than those of the least known term; infinite if no variance is limited by statistics.
    """
    total = float(variances.sum())
    if total == 0:
        return math.inf
    # Shares first: the square of a tiny variance would underflow.
    shares = variances / total
    weighted = float((shares**2 / np.asarray(degrees_of_freedom)).sum())
    return 1 / weighted if weighted > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, its standard uncertainty, and how well that uncertainty itself is known.

    Attributes:
        value: best estimate, in the unit that the caller names.
        standard_uncertainty: one standard deviation, in the same unit.
        degrees_of_freedom: of the uncertainty; infinite where it comes from knowledge, not from statistics.

    Raises:
        ValueError: the uncertainty is negative or not finite, or the degrees of freedom are not positive.
    """

    value: float
    standard_uncertainty: float
    degrees_of_freedom: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.standard_uncertainty) and self.standard_uncertainty >= 0):
            raise ValueError(
                f"a standard uncertainty is finite and not negative, got {self.standard_uncertainty}"
            )
        if not self.degrees_of_freedom > 0:
            raise ValueError(f"degrees of freedom are positive, got {self.degrees_of_freedom}")

    @classmethod
    def rectangular(cls, low: float, high: float) -> Estimate:
        """Anything between two limits is equally likely: mean and (high - low)/√12 (GUM 4.3.7)."""
        return cls(value=(low + high) / 2, standard_uncertainty=(high - low) / math.sqrt(12))

    def expanded(self, coverage_factor: float = 2.0) -> float:
        """Expanded uncertainty U = k·u."""
        return coverage_factor * self.standard_uncertainty

    @property
    def interval95(self) -> tuple[float, float]:
        """Two-sided 95 % interval by Student's t (GUM G.3)."""
        half_width = student_t(0.975, self.degrees_of_freedom) * self.standard_uncertainty
        return self.value - half_width, self.value + half_width
