"""Intervals and tests over seeds agree with scipy and with what Holm published."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cwmp.comparison.seed_statistics import Difference, corrected, paired_difference, seed_mean


def test_the_paired_test_is_that_of_scipy() -> None:
    rng = np.random.default_rng(1)
    for seeds in (3, 5, 12):
        ours, theirs = rng.normal(0.6, 0.02, seeds), rng.normal(0.59, 0.02, seeds)
        found = paired_difference(ours.tolist(), theirs.tolist())
        expected = stats.ttest_rel(ours, theirs)
        low, high = expected.confidence_interval(0.95)
        assert found.p_value == pytest.approx(expected.pvalue)
        assert found.half_width is not None
        assert (found.mean - found.half_width, found.mean + found.half_width) == pytest.approx((low, high))
        assert (found.outcome == "tie") == (low < 0 < high)


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(2)
    hits = 0
    for _ in range(2000):
        mean = seed_mean(rng.normal(3.0, 1.0, 4).tolist())
        assert mean.half_width is not None
        hits += abs(mean.mean - 3.0) <= mean.half_width
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


def test_what_cannot_be_told_is_not_told() -> None:
    assert seed_mean([0.5]).half_width is None
    assert paired_difference([0.9], [0.1]).outcome == "unknown"
    assert paired_difference([0.9, 0.8], [0.1, 0.2]).outcome == "unknown"
    assert paired_difference([0.9, 0.8, 0.7], [0.9, 0.8, 0.7]).outcome == "equal"
    # every seed differs by the same: no doubt is left
    assert paired_difference([0.5, 0.75, 1.0], [0.25, 0.5, 0.75]).outcome == "ahead"


def test_differences_from_the_same_source_are_rarely_called_different() -> None:
    rng = np.random.default_rng(3)
    found = [paired_difference(*rng.normal(0.5, 0.02, (2, 5)).tolist()).outcome for _ in range(1000)]
    assert sum(outcome != "tie" for outcome in found) / 1000 == pytest.approx(0.05, abs=0.02)


def with_p_values(*p_values: float | None) -> list[Difference]:
    return [
        Difference(mean=0.1, half_width=0.1, seeds=3, p_value=p, p_holm=None, outcome="tie") for p in p_values
    ]


def test_holm_steps_down() -> None:
    # m = 4: 4·0.005, 3·0.01, 2·0.03, then never below the one before, which no multiple of 0.04 reaches
    found = [item.p_holm for item in corrected(with_p_values(0.01, 0.04, 0.03, 0.005))]
    assert found == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_tests_without_a_p_value_do_not_count() -> None:
    assert [item.p_holm for item in corrected(with_p_values(None, 0.02, None))] == [None, 0.02, None]
    assert [item.p_holm for item in corrected(with_p_values(0.9, 0.8))] == [1.0, 1.0]
