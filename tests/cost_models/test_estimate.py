from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from cost_models import Estimate
from cost_models.uncertainty import welch_satterthwaite

positive = st.floats(min_value=1e-6, max_value=1e6)


@pytest.mark.parametrize("freedom", [0.7, 1.0, 2.5, 30.0, math.inf])
def test_the_interval_is_that_of_student_t(freedom: float) -> None:
    estimate = Estimate(value=3.0, standard_uncertainty=0.2, degrees_of_freedom=freedom)
    expected = stats.t.interval(0.95, freedom, loc=3.0, scale=0.2)
    assert estimate.interval95 == pytest.approx(expected, rel=1e-9)


def test_expanded_uncertainty_is_k_times_u() -> None:
    assert Estimate(value=1.0, standard_uncertainty=0.3).expanded(3) == pytest.approx(0.9)


@settings(deadline=None)
@given(low=st.floats(-1e3, 1e3), width=st.floats(1e-3, 1e3))
def test_rectangular_has_the_moments_of_the_uniform_distribution(low: float, width: float) -> None:
    estimate = Estimate.rectangular(low, low + width)
    uniform = stats.uniform(low, width)
    assert estimate.value == pytest.approx(uniform.mean())
    assert estimate.standard_uncertainty == pytest.approx(width * stats.uniform.std(), abs=1e-12)
    assert estimate.degrees_of_freedom == math.inf


@pytest.mark.parametrize("u", [-1.0, math.nan, math.inf])
def test_an_impossible_uncertainty_is_refused(u: float) -> None:
    with pytest.raises(ValueError, match="standard uncertainty"):
        Estimate(value=1.0, standard_uncertainty=u)


@pytest.mark.parametrize("freedom", [0.0, -1.0, math.nan])
def test_impossible_degrees_of_freedom_are_refused(freedom: float) -> None:
    with pytest.raises(ValueError, match="degrees of freedom"):
        Estimate(value=1.0, standard_uncertainty=1.0, degrees_of_freedom=freedom)


def test_welch_satterthwaite_agrees_with_welchs_t_test() -> None:
    rng = np.random.default_rng(5)
    one, other = rng.normal(0, 1, 7), rng.normal(0, 3, 12)
    variances = np.array([np.var(one, ddof=1) / 7, np.var(other, ddof=1) / 12])
    expected = stats.ttest_ind(one, other, equal_var=False).df
    assert welch_satterthwaite(variances, [6, 11]) == pytest.approx(expected)


@settings(deadline=None)
@given(st.lists(st.tuples(positive, st.floats(0.5, 1e4)), min_size=1, max_size=6))
def test_degrees_of_freedom_lie_between_the_fewest_and_their_sum(parts: list[tuple[float, float]]) -> None:
    variances, freedom = np.array([v for v, _ in parts]), [nu for _, nu in parts]
    effective = welch_satterthwaite(variances, freedom)
    assert min(freedom) * (1 - 1e-9) <= effective <= sum(freedom) * (1 + 1e-9)


def test_a_sum_without_statistics_has_infinite_degrees_of_freedom() -> None:
    assert welch_satterthwaite(np.array([1.0, 2.0]), [math.inf, math.inf]) == math.inf
    assert welch_satterthwaite(np.zeros(0), []) == math.inf
