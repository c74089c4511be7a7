from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import lsq_linear
from scipy.stats import chi2

from cost_models.error_model import Array, Indices
from cost_models.identification import identify, in_words
from cost_models.regression import EnergyRegression

WINDOWS = 4


def experiment(
    seed: int = 0, configurations: int = 30, columns: int = 5, noise: float = 0.01, shared: float = 0.0
) -> tuple[Array, Array, Array, Indices]:
    """Amounts of very different sizes, true costs, joules with noise, and the configuration of each row."""
    rng = np.random.default_rng(seed)
    truth = 10.0 ** np.linspace(1, -11, columns)
    parts = rng.uniform(0.1, 1, (configurations, columns)) * (rng.random((configurations, columns)) < 0.6)
    parts[:, 0] = rng.uniform(0.2, 1, configurations)
    parts[:columns] += 0.3 * np.eye(columns)
    amounts = np.repeat(parts * 10.0 ** rng.uniform(0, 2, (configurations, 1)) / truth, WINDOWS, axis=0)
    clusters = np.repeat(np.arange(configurations), WINDOWS)
    factor = (
        1
        + noise * rng.standard_normal(len(clusters))
        + shared * rng.standard_normal(configurations)[clusters]
    )
    return amounts, truth, amounts @ truth * factor, clusters


def fitted(amounts: Array, energy_j: Array, clusters: Indices, **options: int) -> EnergyRegression:
    rows = len(energy_j)
    return EnergyRegression(**options).fit(
        amounts,
        energy_j,
        relative_u=np.full(rows, 0.01),
        absolute_u=np.zeros(rows),
        clusters=clusters,
        strata=np.zeros(rows, dtype=np.intp),
    )


def test_known_costs_come_back_without_noise() -> None:
    amounts, truth, energy_j, clusters = experiment(noise=0.0)
    np.testing.assert_allclose(fitted(amounts, energy_j, clusters).coef_, truth, rtol=1e-9)


def test_it_solves_the_bounded_least_squares_problem() -> None:
    amounts, truth, energy_j, clusters = experiment(noise=0.2, seed=3)
    energy_j = energy_j - 0.9 * amounts[:, 3] * truth[3]
    fit = fitted(amounts, energy_j, clusters)
    scale = np.linalg.norm(amounts / fit.row_u_[:, None], axis=0)
    reference = lsq_linear(
        amounts / fit.row_u_[:, None] / scale, energy_j / fit.row_u_, (0, np.inf), method="bvls"
    )
    np.testing.assert_allclose(fit.coef_ * scale, reference.x, rtol=1e-6, atol=1e-8 * np.max(reference.x))


def test_inside_the_bounds_it_is_weighted_least_squares_in_closed_form() -> None:
    amounts, _, energy_j, clusters = experiment(seed=4)
    fit = fitted(amounts, energy_j, clusters)
    scale = np.linalg.norm(amounts, axis=0)
    weights = fit.row_u_**-2
    scaled = amounts / scale
    closed = np.linalg.solve(scaled.T * weights @ scaled, scaled.T @ (weights * energy_j)) / scale
    np.testing.assert_allclose(fit.coef_, closed, rtol=1e-8)


def test_weights_do_not_make_costs_too_low() -> None:
    """Weighting by measured energy alone gives a bias of −2·r²: here −2 %."""
    ratios = []
    for seed in range(40):
        amounts, truth, energy_j, clusters = experiment(seed=seed, noise=0.1, columns=1, configurations=40)
        ratios.append(float(fitted(amounts, energy_j, clusters, resamples=20).coef_[0] / truth[0]))
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.005)


def test_scaling_all_energies_scales_costs_and_uncertainties() -> None:
    amounts, _, energy_j, clusters = experiment(seed=5)
    one, other = fitted(amounts, energy_j, clusters), fitted(amounts, 1000 * energy_j, clusters)
    np.testing.assert_allclose(other.coef_, 1000 * one.coef_, rtol=1e-9)
    np.testing.assert_allclose(other.covariance_, 1e6 * one.covariance_, rtol=1e-6)


def test_units_of_the_amounts_do_not_matter() -> None:
    amounts, _, energy_j, clusters = experiment(seed=6)
    units = 10.0 ** np.arange(amounts.shape[1])
    one, other = fitted(amounts, energy_j, clusters), fitted(amounts * units, energy_j, clusters)
    np.testing.assert_allclose(other.coef_ * units, one.coef_, rtol=1e-9)
    np.testing.assert_allclose(other.identification_.vif, one.identification_.vif, rtol=1e-6)


@pytest.mark.parametrize("shared", [0.0, 0.03])
def test_uncertainties_are_the_scatter_of_repeated_experiments(shared: float) -> None:
    amounts, truth, _, clusters = experiment(seed=7)
    rng = np.random.default_rng(8)
    repeats = 150
    found, variances = [], []
    for _ in range(repeats):
        factor = 1 + 0.01 * rng.standard_normal(len(clusters)) + shared * rng.standard_normal(30)[clusters]
        fit = fitted(amounts, amounts @ truth * factor, clusters, resamples=100)
        found.append(fit.coef_)
        variances.append(np.diag(fit.covariance_))
    ratio = np.mean(variances, axis=0) / np.var(found, axis=0, ddof=1)
    # The empirical variance itself is known to χ²; the larger of two variances is a little too large.
    low, high = chi2.ppf([0.001, 0.999], repeats - 1) / (repeats - 1)
    assert np.all(ratio > low)
    assert np.all(ratio < 1.35 * high)


def test_predict_gives_the_uncertainty_of_the_costs() -> None:
    amounts, _, energy_j, clusters = experiment(seed=9)
    fit = fitted(amounts, energy_j, clusters)
    mean, u = fit.predict(amounts[:3], return_std=True)
    np.testing.assert_allclose(mean, fit.predict(amounts[:3]))
    for row in range(3):
        assert u[row] ** 2 == pytest.approx(amounts[row] @ fit.covariance_ @ amounts[row])


def test_the_same_seed_gives_the_same_covariance() -> None:
    amounts, _, energy_j, clusters = experiment(seed=10)
    one, same = (fitted(amounts, energy_j, clusters, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.covariance_, same.covariance_)
    other = fitted(amounts, energy_j, clusters, seed=4)
    assert not np.array_equal(one.covariance_, other.covariance_)


def test_a_cost_that_only_one_configuration_exercises_still_has_an_uncertainty() -> None:
    amounts, truth, energy_j, clusters = experiment(seed=11)
    amounts[clusters != 4, 4] = 0.0
    fit = fitted(amounts, amounts @ truth * (energy_j / energy_j), clusters)
    noisy = fitted(
        amounts, amounts @ truth * np.random.default_rng(1).normal(1, 0.01, len(clusters)), clusters
    )
    assert fit.coef_[4] == pytest.approx(truth[4], rel=1e-6)
    assert 0.002 < np.sqrt(noisy.covariance_[4, 4]) / truth[4] < 0.2


def test_windows_that_agree_because_the_quantum_is_coarse_are_not_exact() -> None:
    """All windows show 20 J; the counter moves in steps of 2 J."""
    windows = 12
    fit = EnergyRegression().fit(
        np.ones((windows, 1)),
        np.full(windows, 20.0),
        relative_u=np.full(windows, 0.001),
        absolute_u=np.full(windows, 2 / np.sqrt(6)),
        clusters=np.repeat(np.arange(windows // 2), 2),
        strata=np.zeros(windows, dtype=np.intp),
    )
    assert np.sqrt(fit.covariance_[0, 0]) == pytest.approx(2 / np.sqrt(6) / np.sqrt(windows), rel=0.01)


def test_exactly_collinear_columns_do_not_break_the_others() -> None:
    amounts, truth, energy_j, clusters = experiment(seed=12)
    doubled = np.column_stack([amounts, 3 * amounts[:, 2]])
    fit = fitted(doubled, energy_j, clusters)
    assert np.isinf(fit.identification_.vif[[2, 5]]).all()
    assert fit.identification_.condition_number == np.inf
    others = [0, 1, 3, 4]
    np.testing.assert_allclose(
        fit.coef_[others], fitted(amounts, energy_j, clusters).coef_[others], rtol=1e-6
    )
    assert fit.identification_.partners(2) == [5]
    assert fit.coef_[2] + 3 * fit.coef_[5] == pytest.approx(truth[2], rel=0.05)


def test_variance_inflation_is_one_over_one_minus_r_squared() -> None:
    amounts, _, _, _ = experiment(seed=13)
    scaled = amounts / np.linalg.norm(amounts, axis=0)
    vif = identify(amounts).vif
    for column in range(amounts.shape[1]):
        others = np.delete(scaled, column, axis=1)
        residual = scaled[:, column] - others @ np.linalg.lstsq(others, scaled[:, column], rcond=None)[0]
        assert vif[column] == pytest.approx(1 / (residual @ residual))


def test_the_condition_number_is_that_of_unit_norm_columns() -> None:
    amounts, _, _, _ = experiment(seed=14)
    expected = np.linalg.cond(amounts / np.linalg.norm(amounts, axis=0))
    assert identify(amounts).condition_number == pytest.approx(expected)


def test_the_hardest_combination_is_told_in_words() -> None:
    rng = np.random.default_rng(2)
    free, base = rng.random(50), rng.random(50)
    matrix = np.column_stack([free, base, base + 0.01 * rng.random(50)])
    words = identify(matrix).smallest_direction(["idle", "bytes", "time"])
    assert words in ("more bytes against less time", "more time against less bytes")


@pytest.mark.parametrize(
    ("names", "words"), [(["a"], "a"), (["a", "b"], "a and b"), (["a", "b", "c"], "a, b and c")]
)
def test_lists_in_words(names: list[str], words: str) -> None:
    assert in_words(names) == words
