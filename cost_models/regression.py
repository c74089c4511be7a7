"""EnergyRegression: non-negative least squares on relative errors.

    minimise Σ ((E_i − x_i·β) / u_i)²   subject to β ≥ 0,   u_i² = (r·Ê_i)² + q_i²

r is the relative repeatability of a window and q its quantisation, so that short windows count as little as
they know. Ê is the fitted energy of a first fit that weights by the measured one: a window that happens to
read low must not gain weight by that, or every cost would be too low by about 2·r².
"""

from __future__ import annotations

from typing import Literal, overload

import numpy as np

from cost_models.error_model import Array, ErrorModel, Indices, Spread, weigh
from cost_models.identification import Identification, identify


class EnergyRegression:
    """Costs from amounts and joules; the estimator contract of scikit-learn.

    Args:
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Attributes:
        coef_: costs, not negative, shape (n_columns,).
        covariance_: of the costs, shape (n_columns, n_columns).
        degrees_of_freedom_: of each cost's uncertainty, shape (n_columns,).
        row_u_: standard uncertainty of each row in joules, as weighted, shape (n_rows,).
        identification_: conditioning and variance inflation of the weighted design.
        spread_: size of the errors by stratum.
    """

    def __init__(self, *, resamples: int = 500, seed: int = 0) -> None:
        self.resamples = resamples
        self.seed = seed

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
        first = weigh(X, y, np.hypot(relative_u * y, absolute_u))
        expected_j = np.clip(X @ first.coefficients, y / 2, 2 * y)
        self.row_u_: Array = np.hypot(relative_u * expected_j, absolute_u)
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
        self.coef_: Array = weighted.coefficients
        self.covariance_: Array = scaled / np.outer(weighted.scale, weighted.scale)
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
