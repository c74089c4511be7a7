"""The fit as a scikit-learn estimator, for cross-validation, pipelines and model selection.

Only this file imports scikit-learn, so that reading a cost model stays light.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from cost_models.design_matrix import DEFAULT_REPEATABILITY
from cost_models.regression import EnergyRegression

EXPECTED_FAILED_CHECKS = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a weight says how well a row is known: a row of weight 2 is not two rows, which would make a "
        "configuration of its own in the uncertainty and in the search for disturbed rows"
    ),
}
"""Checks of ``sklearn.utils.estimator_checks.check_estimator`` that do not apply, each with the reason."""


class EnergyRegressor(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Non-negative costs from amounts and joules, by relative errors, without an intercept.

    A thin face of ``EnergyRegression``: every row is a configuration of its own unless ``groups`` are given.

    Args:
        relative_u: relative standard uncertainty of a row's joules.
        absolute_u_j: standard uncertainty of a row that does not grow with it, in joules; None takes a
            thousandth of the mean of |y|, so that rows about 0 do not decide.
        resamples: bootstrap resamples.
        seed: of the bootstrap.

    Attributes:
        coef_: costs, not negative, shape (n_features,).
        covariance_: of the costs, shape (n_features, n_features).
        regression_: the fit itself, with conditioning and the size of the errors; columns that are all zero
            are not in it.
        n_features_in_: number of columns.
    """

    def __init__(
        self,
        *,
        relative_u: float = DEFAULT_REPEATABILITY,
        absolute_u_j: float | None = None,
        resamples: int = 100,
        seed: int = 0,
    ) -> None:
        self.relative_u = relative_u
        self.absolute_u_j = absolute_u_j
        self.resamples = resamples
        self.seed = seed

    def fit(
        self,
        X: ArrayLike,  # noqa: N803
        y: ArrayLike,
        sample_weight: ArrayLike | None = None,
        groups: ArrayLike | None = None,
    ) -> EnergyRegressor:
        """Learn the costs.

        Args:
            X: amounts, shape (n_rows, n_features).
            y: joules, shape (n_rows,).
            sample_weight: inverse relative variance of each row, shape (n_rows,).
            groups: configuration of each row, shape (n_rows,).
        """
        amounts, energy_j = validate_data(self, X, y, dtype=np.float64, y_numeric=True)
        energy_j = np.asarray(energy_j, dtype=np.float64)
        weight = _check_sample_weight(sample_weight, amounts, dtype=np.float64)
        kept = weight > 0
        used = np.any(amounts[kept] != 0, axis=0)
        floor_j = self.absolute_u_j
        if floor_j is None:
            floor_j = 1e-3 * float(np.mean(np.abs(energy_j[kept]))) or 1.0
        names = np.arange(len(energy_j)) if groups is None else np.unique(groups, return_inverse=True)[1]
        self.coef_: NDArray[np.float64] = np.zeros(amounts.shape[1])
        self.covariance_: NDArray[np.float64] = np.zeros((amounts.shape[1], amounts.shape[1]))
        if np.any(used):
            scale = 1 / np.sqrt(weight[kept])
            self.regression_ = EnergyRegression(resamples=self.resamples, seed=self.seed).fit(
                amounts[np.ix_(kept, used)],
                energy_j[kept],
                relative_u=self.relative_u * scale,
                absolute_u=floor_j * scale,
                clusters=np.asarray(names)[kept],
                strata=np.zeros(int(np.sum(kept)), dtype=np.intp),
            )
            self.coef_[used] = self.regression_.coef_
            self.covariance_[np.ix_(used, used)] = self.regression_.covariance_
        return self

    def predict(
        self,
        X: ArrayLike,  # noqa: N803
        return_std: bool = False,
    ) -> Any:
        """Joules of some amounts, shape (n_rows,), and with ``return_std`` their standard uncertainty."""
        check_is_fitted(self)
        amounts = validate_data(self, X, reset=False, dtype=np.float64)
        mean = amounts @ self.coef_
        if not return_std:
            return mean
        variance = np.einsum("ij,jk,ik->i", amounts, self.covariance_, amounts)
        return mean, np.sqrt(np.maximum(variance, 0.0))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # The checks' data has an intercept and costs below zero; no energy has.
        tags.regressor_tags.poor_score = True
        return tags
