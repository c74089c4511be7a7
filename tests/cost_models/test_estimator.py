"""The scikit-learn face of the fit."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.utils.estimator_checks import check_estimator

from cost_models.estimator import EXPECTED_FAILED_CHECKS, EnergyRegressor

TRUTH = np.array([20.0, 5e-12, 150e-12])


def experiment(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    amounts = np.repeat(rng.uniform(0.1, 2, (20, 3)) / TRUTH, 4, axis=0)
    return amounts, amounts @ TRUTH * rng.normal(1, 0.01, 80), np.repeat(np.arange(20), 4)


@pytest.mark.filterwarnings("ignore:Skipping check:sklearn.exceptions.SkipTestWarning")
def test_it_is_an_estimator() -> None:
    check_estimator(
        EnergyRegressor(resamples=20), expected_failed_checks=EXPECTED_FAILED_CHECKS, on_skip=None
    )


def test_it_can_be_cross_validated_by_configuration() -> None:
    amounts, energy_j, groups = experiment()
    scores = cross_val_score(
        EnergyRegressor(resamples=20),
        amounts,
        energy_j,
        groups=groups,
        cv=GroupKFold(5),
        scoring="neg_mean_absolute_percentage_error",
    )
    assert len(scores) == 5
    assert np.all(scores > -0.02)
    search = GridSearchCV(EnergyRegressor(resamples=20), {"relative_u": [0.01, 0.1]}, cv=3)
    assert search.fit(amounts, energy_j).best_params_["relative_u"] in (0.01, 0.1)


def test_costs_and_their_uncertainty_are_those_of_the_fit() -> None:
    amounts, energy_j, groups = experiment(1)
    fit = EnergyRegressor(resamples=200).fit(amounts, energy_j, groups=groups)
    np.testing.assert_allclose(fit.coef_, TRUTH, rtol=0.02)
    mean, u = fit.predict(amounts[:2], return_std=True)
    np.testing.assert_allclose(mean, amounts[:2] @ fit.coef_)
    np.testing.assert_allclose(u**2, [row @ fit.covariance_ @ row for row in amounts[:2]])


def test_a_row_of_weight_zero_is_not_there() -> None:
    amounts, energy_j, _ = experiment(2)
    weight = np.ones(80)
    weight[::7] = 0.0
    energy_j[::7] *= 10
    some = EnergyRegressor(resamples=20).fit(amounts, energy_j, sample_weight=weight)
    kept = weight > 0
    np.testing.assert_allclose(
        some.coef_, EnergyRegressor(resamples=20).fit(amounts[kept], energy_j[kept]).coef_, rtol=1e-9
    )


def test_a_column_of_zeros_costs_nothing_and_breaks_nothing() -> None:
    amounts, _, _ = experiment(3)
    amounts[:, 1] = 0
    fit = EnergyRegressor(resamples=20).fit(amounts, amounts @ TRUTH)
    assert fit.coef_[1] == 0
    np.testing.assert_allclose(fit.coef_[[0, 2]], TRUTH[[0, 2]], rtol=1e-6)
