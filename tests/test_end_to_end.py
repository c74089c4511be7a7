"""From an unseen device to its costs: what is fitted is what the device really spends."""

from __future__ import annotations

from statistics import median

import pytest

from benchmarks.recovery import KINDS, SUBSTANTIAL, Outcome, Recovered, recover
from profiler.plan import QUICK_NETWORK_KERNELS


@pytest.fixture(scope="module")
def outcomes() -> list[Outcome]:
    """One device of each kind that no other test and no benchmark by default has seen."""
    return [recover(9000 + number, kind, "quick", noise_rel=0.01) for number, kind in enumerate(KINDS)]


@pytest.fixture(scope="module")
def recovered(outcomes: list[Outcome]) -> list[Recovered]:
    return [cost for outcome in outcomes for cost in outcome.costs]


def test_work_of_networks_is_predicted_by_a_model_that_never_saw_it(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        assert set(outcome.held_out) == set(QUICK_NETWORK_KERNELS)
        assert outcome.mape_held_out <= 0.04


def test_the_design_is_well_conditioned(outcomes: list[Outcome]) -> None:
    assert max(outcome.condition for outcome in outcomes) <= 10


def test_substantial_costs_are_identified_and_right(recovered: list[Recovered]) -> None:
    substantial = [item for item in recovered if item.share >= SUBSTANTIAL]
    assert len(substantial) >= 30
    identified = [item for item in substantial if item.status == "identified"]
    assert len(identified) >= 0.9 * len(substantial)
    assert median(abs(item.relative_error or 0) for item in identified) <= 0.03


def test_intervals_contain_the_truth(recovered: list[Recovered]) -> None:
    covered = [item.covered for item in recovered if item.status == "identified"]
    assert sum(map(bool, covered)) / len(covered) >= 0.88


def test_what_is_not_identified_has_no_value(recovered: list[Recovered]) -> None:
    assert all(item.value is None for item in recovered if item.status != "identified")


@pytest.mark.slow
def test_coverage_is_neither_too_low_nor_bought_with_wide_intervals() -> None:
    found = [
        item
        for seed in range(9100, 9130)
        for item in recover(seed, KINDS[seed % len(KINDS)], "full", noise_rel=0.02).costs
    ]
    covered = [item.covered for item in found if item.status == "identified"]
    assert 0.92 <= sum(map(bool, covered)) / len(covered) <= 0.98
