"""Closed forms against sampling, against selection on sampled gradients, and against tabulated values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from fakes.known_costs import known_cost_model
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration_data import UsageError
from cwmp.cost_vector import cost_vector
from cwmp.predicted_gain import (
    Distribution,
    Gain,
    Group,
    gains_on,
    predicted_gains,
    price_groups,
    retained_fraction,
    second_order_gain,
    verdict,
)


def groups(*counts_costs_scales: tuple[float, float, float]) -> list[Group]:
    return [Group(coordinates=n, cost_j=c, scale=s) for n, c, s in counts_costs_scales]


many_groups = st.lists(
    st.tuples(st.floats(1, 1e6), st.floats(1e-9, 1e-6), st.floats(0.1, 10)), min_size=1, max_size=6
)


@pytest.mark.parametrize(
    ("share", "kept"), [(0.01, 0.162), (0.05, 0.424), (0.10, 0.595), (0.20, 0.781), (1.0, 1.0)]
)
def test_top_k_of_laplace_gradients(share: float, kept: float) -> None:
    assert retained_fraction(groups((1, 1, 1)), share, "topk") == pytest.approx(kept, abs=5e-4)
    if share < 1:
        assert retained_fraction(groups((1, 1, 1)), share, "topk", "gauss") < kept


EVEN_LOG_SPREAD = [(1.0, math.exp(-1.6 + 0.4 * step), 1.0) for step in range(9)]


@pytest.mark.parametrize(
    ("mix", "table"),
    [
        (
            [(1, 1, 1), (1, 1.1, 1)],
            [(0.1621, 0.1621, 0.1624), (0.4241, 0.4241, 0.4245), (0.7809, 0.7809, 0.7812)],
        ),
        ([(1, 1, 1), (1, 2, 1)], [(0.162, 0.168, 0.177), (0.424, 0.426, 0.444), (0.781, 0.782, 0.793)]),
        ([(1, 1, 1), (1, 10, 1)], [(0.162, 0.310, 0.314), (0.424, 0.512, 0.583), (0.781, 0.840, 0.854)]),
        ([(9, 10, 1), (1, 1, 1)], [(0.162, 0.173, 0.203), (0.424, 0.449, 0.459), (0.781, 0.794, 0.796)]),
        ([(9, 10, 3.3), (1, 1, 1)], [(0.162, 0.145, 0.162), (0.422, 0.413, 0.424), (0.777, 0.777, 0.781)]),
        (EVEN_LOG_SPREAD, [(0.162, 0.260, 0.284), (0.424, 0.522, 0.566), (0.781, 0.826, 0.854)]),
    ],
)
def test_tabulated_cost_mixes(
    mix: list[tuple[float, float, float]], table: list[tuple[float, float, float]]
) -> None:
    for gain, row in zip(predicted_gains(groups(*mix)), table, strict=True):
        digits = 5e-4 if row != (0.1621, 0.1621, 0.1624) else 5e-5
        assert (gain.topk, gain.cwmp_l1, gain.cwmp) == pytest.approx(row, abs=1.01 * digits)


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
def test_closed_forms_describe_selection_on_sampled_gradients(distribution: Distribution) -> None:
    rng = np.random.default_rng(11)
    draw = rng.laplace if distribution == "laplace" else rng.normal
    mix = [(90_000, 2e-9, 1.0), (60_000, 5e-9, 0.4), (150_000, 1e-9, 0.7)]
    gradients = {
        str(index): torch.from_numpy(draw(scale=scale, size=count))
        for index, (count, _, scale) in enumerate(mix)
    }
    costs = {str(index): cost for index, (_, cost, _) in enumerate(mix)}
    expected = predicted_gains(groups(*mix), distribution=distribution)
    for closed, seen in zip(expected, gains_on(gradients, costs), strict=True):
        assert seen.basis == "gradients"
        # At 1 % some 3000 coordinates are kept; their norm is known to about 2 %.
        for name in ("topk", "cwmp_l1", "cwmp"):
            assert getattr(seen, name) == pytest.approx(getattr(closed, name), rel=0.06)


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
@pytest.mark.parametrize("share", [0.01, 0.05, 0.2])
def test_small_differences_between_prices_follow_the_second_order(
    distribution: Distribution, share: float
) -> None:
    mix = groups(*[(1, math.exp(0.1 * step), 1) for step in (-1.5, -0.5, 0.5, 1.5)])
    variance = float(np.var([0.1 * step for step in (-1.5, -0.5, 0.5, 1.5)]))
    (gain,) = predicted_gains(mix, [share], distribution)
    expected = second_order_gain(share, variance, distribution)
    assert gain.over_topk == pytest.approx(expected, rel=0.05)
    # |g|/c is as far from the optimum as Top-K, on the other side.
    assert gain.cwmp - gain.cwmp_l1 == pytest.approx(expected, rel=0.25)


@pytest.mark.parametrize(("share", "gain"), [(0.01, 0.122), (0.05, 0.168), (0.2, 0.104)])
def test_second_order_gain_per_unit_of_variance(share: float, gain: float) -> None:
    assert second_order_gain(share, 1.0) == pytest.approx(gain, abs=5e-4)


@given(many_groups, st.floats(0.001, 1), st.sampled_from(["laplace", "gauss"]))
@settings(deadline=None, max_examples=60)
def test_no_rule_keeps_more_than_cwmp(
    mix: list[tuple[float, float, float]], share: float, distribution: Distribution
) -> None:
    (gain,) = predicted_gains(groups(*mix), [share], distribution)
    assert gain.cwmp >= max(gain.topk, gain.cwmp_l1) - 1e-9
    assert 0 < gain.topk <= 1 + 1e-9


@given(many_groups, st.floats(0.001, 1), st.floats(1e-3, 1e3))
@settings(deadline=None, max_examples=30)
def test_only_ratios_of_prices_count_and_equal_prices_bring_nothing(
    mix: list[tuple[float, float, float]], share: float, factor: float
) -> None:
    first = predicted_gains(groups(*mix), [share])[0]
    scaled = predicted_gains(groups(*[(n, c * factor, s) for n, c, s in mix]), [share])[0]
    assert (scaled.topk, scaled.cwmp_l1, scaled.cwmp) == pytest.approx(
        (first.topk, first.cwmp_l1, first.cwmp)
    )
    equal = predicted_gains(groups(*[(n, factor, s) for n, _, s in mix]), [share])[0]
    assert equal.topk == pytest.approx(equal.cwmp)
    assert equal.topk == pytest.approx(equal.cwmp_l1)


def test_the_verdict_depends_on_half_a_point() -> None:
    def gain(over: float) -> Gain:
        return Gain(budget_share=0.05, basis="laplace", topk=0.4, cwmp_l1=0.4, cwmp=0.4 + over)

    assert "Top-K is as good here" in verdict(0.001, [gain(0.0049), gain(0.001)])
    words = "at a budget of 5 % of the prices of all coordinates together"
    assert all(words in verdict(0.1, [gain(over_topk)]) for over_topk in (0.001, 0.1))
    assert "0.49 points" in verdict(0.001, [gain(0.0049), gain(0.001)])
    assert "Prices are worth it here" in verdict(0.3, [gain(0.001), gain(0.0051)])
    assert "Var(ln c) = 0.3" in verdict(0.3, [gain(0.1)])


def test_a_network_behind_a_radio_gains_nothing_and_one_in_mixed_memory_does() -> None:
    network = {"near": torch.zeros(1000, 1000), "far": torch.zeros(3000, 1500)}
    model = known_cost_model()
    memory = cost_vector(network, model, boundary="update", density=0.01)
    radio = cost_vector(network, model, boundary="update+uplink", link="wifi-2012", density=0.01)
    assert "Prices are worth it" in verdict(memory.var_ln_c, predicted_gains(price_groups(memory)))
    assert "Top-K is as good" in verdict(radio.var_ln_c, predicted_gains(price_groups(radio)))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5, math.nan])
def test_a_budget_share_is_a_fraction(share: float) -> None:
    with pytest.raises(UsageError):
        retained_fraction(groups((1, 1, 1)), share, "topk")
    with pytest.raises(UsageError):
        retained_fraction([], 0.5, "topk")
