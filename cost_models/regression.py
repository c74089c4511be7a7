"""EnergyRegression: non-negative least squares on relative errors.

    minimise Σ ((E_i − x_i·β) / u_i)²   subject to β ≥ 0,   u_i² = (r·Ê_i)² + q_i²

r is the relative repeatability of a window and q its quantisation, so that short windows count as little as
they know. Ê is the fitted energy of a first fit that weights by the measured one: a window that happens to
read low must not gain weight by that, or every cost would be too low by about 2·r². Windows that something
disturbed get a larger uᵢ (``cost_models.disturbance``). A prior adds one row (β_k − μ_k)/τ_k for each cost,
and all τ are doubled until no cost that the data tell moves by more than 1 % of itself: the prior speaks
where they do not.
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from cost_models.disturbance import inflation
from cost_models.error_model import Array, ErrorModel, Indices, Spread, Weighted, weigh
from cost_models.identification import Identification, identify

PASSES = 5
"""Fits at most until the weights stand; without disturbed windows the first already has them."""

PRIOR_SHIFT = 0.01
"""A cost whose interval is narrower than half of it is moved by no prior by more than this part of it."""

PRIOR_DOUBLINGS = 40


class EnergyRegression:
    """Costs from amounts and joules; the estimator contract of scikit-learn.

    Args:
        resamples: bootstrap resamples.
        seed: of the bootstrap.
        prior: what each cost is expected to be, shape (n_columns,), nan where nothing is; None for no prior.
            The covariance is that of the data alone.
        common_u: relative standard uncertainty that all rows share, such as that of a drift taken off them.

    Attributes:
        coef_: costs, not negative, shape (n_columns,).
        covariance_: of the costs, shape (n_columns, n_columns).
        degrees_of_freedom_: of each cost's uncertainty, shape (n_columns,).
        scale_: norm of each weighted column, shape (n_columns,).
        row_u_: standard uncertainty of each row in joules, as weighted, shape (n_rows,).
        identification_: conditioning and variance inflation of the weighted design.
        spread_: size of the errors by stratum.
        inflation_: by how much the uncertainty of each row was increased, since it was disturbed, (n_rows,).
    """

    def __init__(
        self, *, resamples: int = 500, seed: int = 0, prior: Array | None = None, common_u: float = 0.0
    ) -> None:
        self.resamples = resamples
        self.seed = seed
        self.prior = prior
        self.common_u = common_u

    def fit(
        self,
        X: Array,  # noqa: N803
        y: Array,
        *,
        relative_u: Array,
        absolute_u: Array,
        clusters: Indices,
        strata: Indices,
    ) -> EnergyRegression:
        """Learn the costs.

        Args:
            X: amounts without zero columns, shape (n_rows, n_columns).
            y: joules, shape (n_rows,); 0 only where ``absolute_u`` is not.
            relative_u: relative standard uncertainty of each row, positive, shape (n_rows,).
            absolute_u: standard uncertainty of each row that does not grow with it, in joules, (n_rows,).
            clusters: configuration of each row, shape (n_rows,).
            strata: rows whose errors are of one size, shape (n_rows,).
        """
        expected_j, self.inflation_ = y, np.ones(len(y))
        for _ in range(PASSES):
            plain_u: Array = np.hypot(relative_u * expected_j, absolute_u)
            fitted_j = X @ weigh(X, y, plain_u * self.inflation_).coefficients
            expected_j = np.clip(fitted_j, y / 2, 2 * y)
            self.inflation_ = inflation(
                (y - fitted_j) / plain_u, (absolute_u / plain_u) ** 2, clusters, strata
            )
            if np.all(self.inflation_ == 1):
                break
        self.row_u_: Array = np.hypot(relative_u * expected_j, absolute_u) * self.inflation_
        weighted = weigh(X, y, self.row_u_)
        self.identification_: Identification = identify(weighted.design)
        errors = ErrorModel(
            weighted,
            size=expected_j / self.row_u_,
            known=(absolute_u / self.row_u_) ** 2,
            clusters=clusters,
            strata=strata,
        )
        self.spread_: dict[int, Spread] = errors.spread
        scaled, self.degrees_of_freedom_ = errors.covariance(self.resamples, np.random.default_rng(self.seed))
        self.scale_: Array = weighted.scale
        self.coef_: Array = weighted.coefficients
        self.covariance_: Array = scaled / np.outer(weighted.scale, weighted.scale)
        self.covariance_ += self.common_u**2 * np.outer(self.coef_, self.coef_)
        if self.prior is not None:
            self.coef_ = with_prior(
                weighted, np.sqrt(np.diag(scaled)), self.identification_.unidentified, self.prior
            )
        return self

    @overload
    def predict(self, X: Array) -> Array: ...  # noqa: N803
    @overload
    def predict(self, X: Array, return_std: Literal[True]) -> tuple[Array, Array]: ...  # noqa: N803
    def predict(self, X: Array, return_std: bool = False) -> Array | tuple[Array, Array]:  # noqa: N803
        """Joules of some amounts, shape (n_rows,), and with ``return_std`` their standard uncertainty.

        The uncertainty is that of the costs; a single window scatters more.
        """
        mean: Array = X @ self.coef_
        if not return_std:
            return mean
        variance = np.einsum("ij,jk,ik->i", X, self.covariance_, X)
        return mean, np.sqrt(np.maximum(variance, 0.0))


def with_prior(weighted: Weighted, u: Array, unidentified: NDArray[np.bool_], prior: Array) -> Array:
    """Costs of the same system with a row more for each prior, shape (n_columns,).

    Args:
        weighted: the system without prior.
        u: standard uncertainty of its solution, scaled, shape (n_columns,).
        unidentified: columns that the data cannot tell apart, shape (n_columns,).
        prior: in the units of the costs, nan where there is none, shape (n_columns,).
    """
    rows = np.flatnonzero(np.isfinite(prior))
    centre = prior[rows] * weighted.scale[rows]
    plain = weighted.solution
    told = ~unidentified & (u < plain / 4)
    width = np.maximum(centre, np.where(unidentified[rows], 0.0, 10 * u[rows]))
    for _ in range(PRIOR_DOUBLINGS):
        added = np.eye(len(prior))[rows] / width[:, None]
        solution = nnls(np.vstack([weighted.design, added]), np.append(weighted.target, centre / width))[0]
        if np.all(np.abs(solution - plain)[told] <= PRIOR_SHIFT * plain[told]):
            return np.asarray(solution / weighted.scale, dtype=np.float64)
        width = 2 * width
    return weighted.coefficients
