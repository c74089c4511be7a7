"""Selection against enumeration of all subsets, sorting by hand, and what theory guarantees."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import EmptyNetworkError, InvalidCostError, NonFiniteGradientError
from cwmp.selection import Rule, Selection, absolute_norms, retained_at, select

PRICED: tuple[Rule, ...] = ("cwmp", "cwmp-l1")
RANKED: tuple[Rule, ...] = (*PRICED, "topk")
ALL: tuple[Rule, ...] = (*RANKED, "randomk", "dense")

float32 = st.floats(-1e6, 1e6, width=32)
costs_j = st.sampled_from([1e-9, 3e-9, 1e-8, 0.1, 0.3, 1.0]) | st.floats(1e-12, 1.0)


@st.composite
def updates(
    draw: st.DrawFn, max_size: int = 40
) -> tuple[dict[str, Tensor], dict[str, float | Tensor], float]:
    """Gradients with ties and zeros in a few tensors, costs by tensor or by coordinate, and a budget."""
    gradients: dict[str, Tensor] = {}
    costs: dict[str, float | Tensor] = {}
    for index in range(draw(st.integers(1, 3))):
        values = draw(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0]) | float32, max_size=max_size))
        name = f"tensor{index}"
        gradients[name] = torch.tensor(values, dtype=torch.float32)
        if draw(st.booleans()):
            costs[name] = draw(costs_j)
        else:
            each = draw(st.lists(costs_j, min_size=len(values), max_size=len(values)))
            costs[name] = torch.tensor(each, dtype=torch.float64)
    gradients["one"] = torch.tensor([draw(float32)])
    costs["one"] = draw(costs_j)
    dense_j = sum(cost for _, cost in flat(gradients, costs))
    return gradients, costs, draw(st.floats(0, 1.2)) * dense_j


def flat(gradients: Mapping[str, Tensor], costs: Mapping[str, float | Tensor]) -> list[tuple[float, float]]:
    """(gradient, cost) of every coordinate in plain floats."""
    pairs = []
    for name, gradient in gradients.items():
        cost = torch.as_tensor(costs[name], dtype=torch.float64).expand(gradient.shape)
        pairs += list(zip(gradient.double().reshape(-1).tolist(), cost.reshape(-1).tolist(), strict=True))
    return pairs


def kept(selection: Selection) -> set[int]:
    mask = torch.cat([part.reshape(-1) for part in selection.masks.values()])
    return set(mask.nonzero().squeeze(1).tolist())


def by_hand(pairs: list[tuple[float, float]], budget_j: float, rule: Rule) -> set[int]:
    """Sort, then add rationals: the definition, in plain Python."""
    score = {
        "cwmp": lambda g, c: g * g / c,
        "cwmp-l1": lambda g, c: abs(g) / c,
        "topk": lambda g, c: abs(g),
    }[rule]
    ranked = sorted(
        (index for index, (g, _) in enumerate(pairs) if g != 0), key=lambda i: (-score(*pairs[i]), i)
    )
    chosen: set[int] = set()
    spent = Fraction(0)
    for index in ranked:
        spent += Fraction(pairs[index][1])
        if float(spent) > budget_j:
            break
        chosen.add(index)
    return chosen


@given(updates(), st.sampled_from(RANKED))
@settings(deadline=None)
def test_a_ranked_rule_keeps_the_longest_affordable_prefix(
    update: tuple[dict[str, Tensor], dict[str, float | Tensor], float], rule: Rule
) -> None:
    gradients, costs, budget_j = update
    selection = select(gradients, costs, budget_j, rule=rule)
    pairs = flat(gradients, costs)
    chosen = by_hand(pairs, budget_j, rule)
    assert kept(selection) == chosen
    assert selection.kept == len(chosen)
    assert selection.spent_j == float(sum(Fraction(pairs[i][1]) for i in chosen)) <= max(budget_j, 0)
    assert selection.retained_squared_norm == pytest.approx(sum(pairs[i][0] ** 2 for i in chosen))
    absolute = (sum(abs(pairs[i][0]) for i in chosen), sum(abs(g) for g, _ in pairs))
    assert absolute_norms(gradients, selection) == pytest.approx(absolute)


@given(updates(max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_subset_beats_the_bound_and_none_is_better_by_more_than_one_coordinate(
    update: tuple[dict[str, Tensor], dict[str, float | Tensor], float],
) -> None:
    gradients, costs, budget_j = update
    pairs = flat(gradients, costs)
    for rule, value in (("cwmp", lambda g: g * g), ("cwmp-l1", abs)):
        best = 0.0
        for size in range(len(pairs) + 1):
            for subset in itertools.combinations(pairs, size):
                if math.fsum(cost for _, cost in subset) <= budget_j:
                    best = max(best, math.fsum(value(g) for g, _ in subset))
        selection = select(gradients, costs, budget_j, rule=rule)
        certificate = selection.certificate
        assert certificate is not None
        achieved = math.fsum(value(pairs[index][0]) for index in kept(selection))
        slack = 1e-9 * (certificate.bound + 1e-300)
        assert certificate.achieved == pytest.approx(achieved)
        assert certificate.bound >= best - slack
        assert best >= achieved - slack
        assert achieved >= certificate.bound - max(value(g) for g, _ in pairs) - slack
        assert certificate.gap == pytest.approx(certificate.bound - achieved, abs=slack)
        assert 0 <= certificate.relative_gap <= 1


@given(updates())
@settings(deadline=None)
def test_for_what_cwmp_spends_no_other_rule_keeps_more(
    update: tuple[dict[str, Tensor], dict[str, float | Tensor], float],
) -> None:
    gradients, costs, budget_j = update
    squared = select(gradients, costs, budget_j, rule="cwmp")
    absolute = select(gradients, costs, budget_j, rule="cwmp-l1")
    generator = torch.Generator().manual_seed(1)
    for rule in (*RANKED, "randomk"):
        at_squared = select(gradients, costs, squared.spent_j, rule=rule, generator=generator)
        at_absolute = select(gradients, costs, absolute.spent_j, rule=rule, generator=generator)
        assert at_squared.retained_squared_norm <= squared.retained_squared_norm * (1 + 1e-12)
        kept_absolute, _ = absolute_norms(gradients, absolute)
        assert absolute_norms(gradients, at_absolute)[0] <= kept_absolute * (1 + 1e-12)


@given(updates(), st.sampled_from([1e-9, 0.1, 1.0, 7e-10]))
@settings(deadline=None)
def test_with_equal_costs_every_priced_rule_is_top_k(
    update: tuple[dict[str, Tensor], dict[str, float | Tensor], float], cost_j: float
) -> None:
    gradients, _, share = update
    costs = dict.fromkeys(gradients, cost_j)
    count = sum(gradient.numel() for gradient in gradients.values())
    budget_j = min(share, 1.0) * count * cost_j
    topk, *priced = (select(gradients, costs, budget_j, rule=rule) for rule in ("topk", *PRICED))
    for selection in priced:
        assert kept(selection) == kept(topk)
        assert selection.retained_squared_norm == topk.retained_squared_norm
        assert selection.spent_j == topk.spent_j


@given(updates(), st.integers(-30, 30), st.sampled_from(RANKED))
@settings(deadline=None)
def test_scaling_costs_and_budget_together_changes_nothing(
    update: tuple[dict[str, Tensor], dict[str, float | Tensor], float], exponent: int, rule: Rule
) -> None:
    gradients, costs, budget_j = update
    factor = 2.0**exponent
    scaled = {name: cost * factor for name, cost in costs.items()}
    first = select(gradients, costs, budget_j, rule=rule)
    second = select(gradients, scaled, budget_j * factor, rule=rule)
    assert kept(first) == kept(second)
    assert second.spent_j == first.spent_j * factor


@given(updates(), st.sampled_from(RANKED))
@settings(deadline=None)
def test_the_threshold_separates_kept_from_left_out(
    update: tuple[dict[str, Tensor], dict[str, float | Tensor], float], rule: Rule
) -> None:
    gradients, costs, budget_j = update
    selection = select(gradients, costs, budget_j, rule=rule)
    chosen = kept(selection)
    assert selection.threshold is not None
    for index, (g, c) in enumerate(flat(gradients, costs)):
        score = {"cwmp": g * g / c, "cwmp-l1": abs(g) / c, "topk": abs(g)}[rule]
        assert score >= selection.threshold if index in chosen else score <= selection.threshold


@pytest.mark.parametrize("cost_j", [0.1, 2e-9, 1 / 3, 7e-10])
@pytest.mark.parametrize("count", [1, 3, 6, 10, 97])
def test_a_budget_of_k_equal_costs_buys_exactly_k(cost_j: float, count: int) -> None:
    gradients = {"w": torch.arange(1.0, 101.0)}
    for rule in (*RANKED, "randomk"):
        assert select(gradients, {"w": cost_j}, count * cost_j, rule=rule).kept == count


def test_costs_over_twelve_orders_of_magnitude_are_summed_exactly() -> None:
    generator = torch.Generator().manual_seed(3)
    gradient = torch.randn(3000, generator=generator)
    cost = 10 ** (12 * torch.rand(3000, generator=generator, dtype=torch.float64) - 12)
    pairs = flat({"w": gradient}, {"w": cost})
    for rule in RANKED:
        for budget_j in (1e-11, 1e-6, 0.01, 1.0, 50.0):
            selection = select({"w": gradient}, {"w": cost}, budget_j, rule=rule)
            assert kept(selection) == by_hand(pairs, budget_j, rule)


def test_ties_go_to_the_lower_index_across_tensors() -> None:
    gradients = {"a": torch.tensor([1.0, -2.0]), "b": torch.tensor([2.0, 1.0])}
    for rule in RANKED:
        selection = select(gradients, {"a": 1.0, "b": 1.0}, 3.0, rule=rule)
        assert selection.masks["a"].tolist() == [True, True]
        assert selection.masks["b"].tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", RANKED)
def test_every_floating_dtype_is_ranked_in_float64(dtype: torch.dtype, rule: Rule) -> None:
    gradient = torch.randn(500, generator=torch.Generator().manual_seed(0)).to(dtype).reshape(20, 25)
    cost = torch.rand(500, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.1
    selection = select({"w": gradient}, {"w": cost.reshape(20, 25)}, 30.0, rule=rule)
    assert selection.masks["w"].shape == (20, 25)
    pairs = flat({"w": gradient}, {"w": cost.reshape(20, 25)})
    assert kept(selection) == by_hand(pairs, 30.0, rule)


def test_costs_broadcast_by_row() -> None:
    gradient = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    rows = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    whole = select({"w": gradient}, {"w": rows.expand(4, 3)}, 9.0, rule="cwmp")
    assert kept(select({"w": gradient}, {"w": rows}, 9.0, rule="cwmp")) == kept(whole)


def test_randomk_is_seeded_keeps_no_zero_and_stays_within_the_budget() -> None:
    gradients = {
        "w": torch.cat([torch.zeros(50), torch.randn(50, generator=torch.Generator().manual_seed(0))])
    }

    def draw(seed: int) -> Selection:
        return select(
            gradients, {"w": 2.0}, 41.0, rule="randomk", generator=torch.Generator().manual_seed(seed)
        )

    assert kept(draw(1)) == kept(draw(1)) != kept(draw(2))
    assert draw(1).kept == 20
    assert not draw(1).masks["w"][:50].any()
    assert draw(1).threshold is None
    assert draw(1).certificate is None


def test_randomk_takes_every_coordinate_equally_often() -> None:
    counts = torch.zeros(20)
    for seed in range(800):
        generator = torch.Generator().manual_seed(seed)
        selection = select({"w": torch.ones(20)}, {"w": 1.0}, 5.0, rule="randomk", generator=generator)
        counts += selection.masks["w"]
    # Binomial with mean 200 and deviation 12; five deviations for twenty coordinates.
    assert (counts - 200).abs().max() < 61


def test_dense_keeps_everything_and_says_when_that_is_over_budget() -> None:
    gradients = {"w": torch.tensor([0.0, 1.0, 2.0])}
    within = select(gradients, {"w": 1.0}, 3.0, rule="dense")
    over = select(gradients, {"w": 1.0}, 2.0, rule="dense")
    assert within.kept == over.kept == 3
    assert (within.within_budget, within.warnings) == (True, ())
    assert not over.within_budget
    assert "spends 3 J of a budget of 2 J" in over.warnings[0]


@pytest.mark.parametrize(
    ("gradient", "cost", "budget_j", "warning"),
    [
        ([1.0, 2.0], 1.0, 0.0, "not positive"),
        ([1.0, 2.0], 1.0, -5.0, "not positive"),
        ([1.0, 2.0], 1.0, 0.5, "below the cheapest coordinate, 1 J"),
        ([0.0, 0.0], 1.0, 5.0, "Every gradient is zero"),
        ([9.0, 1.0], [8.0, 1.0], 2.0, "ranks first costs more"),
    ],
)
def test_an_empty_selection_says_why(
    gradient: list[float], cost: float | list[float], budget_j: float, warning: str
) -> None:
    costs = {"w": torch.tensor(cost, dtype=torch.float64)}
    for rule in RANKED:
        selection = select({"w": torch.tensor(gradient)}, costs, budget_j, rule=rule)
        assert (selection.kept, selection.spent_j, selection.within_budget) == (0, 0.0, True)
        assert warning in selection.warnings[0]


def test_a_selection_tells_its_densities_and_norms() -> None:
    gradients = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0]), "none": torch.empty(0, 4)}
    selection = select(gradients, {"a": 1.0, "b": 1.0}, 1.0, rule="cwmp")
    assert dict(selection.density_by_tensor) == {"a": 0.0, "b": 1.0, "none": 0.0}
    assert selection.density == pytest.approx(1 / 3)
    assert selection.retained_fraction == pytest.approx(16 / 25)
    assert selection.total_squared_norm == 25.0
    assert absolute_norms(gradients, selection) == (4.0, 7.0)
    assert selection.masks["none"].shape == (0, 4)
    assert retained_at(gradients, {"a": 1.0, "b": 1.0}, 1.0, "cwmp") == selection.retained_fraction


def test_an_infinite_budget_keeps_every_gradient_that_is_not_zero() -> None:
    for rule in RANKED:
        selection = select({"w": torch.tensor([0.0, 1.0, 2.0])}, {"w": 1.0}, math.inf, rule=rule)
        assert selection.masks["w"].tolist() == [False, True, True]
        assert selection.threshold == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("rule", ALL)
def test_gradients_that_are_not_finite_are_counted_and_named(bad: float, rule: Rule) -> None:
    gradients = {"fine": torch.ones(3), "broken": torch.tensor([1.0, bad, bad])}
    with pytest.raises(NonFiniteGradientError, match=r"2 gradient coordinates .*broken \(2\)"):
        select(gradients, {"fine": 1.0, "broken": 1.0}, 1.0, rule=rule)


@pytest.mark.parametrize("large", [1e200, 1.3e154])
@pytest.mark.parametrize("rule", ALL)
def test_gradients_whose_squares_overflow_alone_or_together_are_refused(large: float, rule: Rule) -> None:
    gradients = {name: torch.tensor([large, 1.0], dtype=torch.float64) for name in ("v", "w")}
    with pytest.raises(NonFiniteGradientError, match=r"v \(1\), w \(1\)"):
        select(gradients, {"v": 1.0, "w": 1.0}, 5.0, rule=rule)


def test_costs_whose_sum_overflows_are_within_no_budget() -> None:
    selection = select({"w": torch.ones(3)}, {"w": 1e308}, 1.5e308, rule="cwmp")
    assert (selection.kept, selection.spent_j) == (1, 1e308)


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("rule", ALL)
def test_costs_that_are_not_positive_are_refused(cost: float, rule: Rule) -> None:
    with pytest.raises(InvalidCostError, match="1 costs of w"):
        select({"w": torch.ones(3)}, {"w": cost}, 1.0, rule=rule)
    with pytest.raises(InvalidCostError, match="1 costs of w"):
        select({"w": torch.ones(3)}, {"w": torch.tensor([1.0, cost, 1.0])}, 1.0, rule=rule)


def test_what_cannot_be_selected_from_is_a_usage_error() -> None:
    gradients = {"w": torch.ones(3)}
    with pytest.raises(EmptyNetworkError):
        select({}, {}, 1.0, rule="cwmp")
    with pytest.raises(EmptyNetworkError):
        select({"w": torch.empty(0)}, {"w": 1.0}, 1.0, rule="cwmp")
    with pytest.raises(UsageError, match="no cost for w"):
        select(gradients, {"v": 1.0}, 1.0, rule="cwmp")
    with pytest.raises(UsageError, match="shape"):
        select(gradients, {"w": torch.ones(2)}, 1.0, rule="cwmp")
    with pytest.raises(UsageError, match="int64"):
        select({"w": torch.ones(3, dtype=torch.int64)}, {"w": 1.0}, 1.0, rule="cwmp")
    with pytest.raises(UsageError, match="sparse_coo"):
        select({"w": torch.eye(4).to_sparse()}, {"w": 1.0}, 1.0, rule="cwmp")
    with pytest.raises(UsageError, match="it has no values"):
        select({"w": torch.ones(3, device="meta")}, {"w": 1.0}, 1.0, rule="cwmp")
    with pytest.raises(UsageError, match="not a number"):
        select(gradients, {"w": 1.0}, math.nan, rule="cwmp")
    with pytest.raises(UsageError, match="no selection rule"):
        select(gradients, {"w": 1.0}, 1.0, rule="best")  # type: ignore[arg-type]


def test_selecting_leaves_gradients_and_costs_as_they_were() -> None:
    gradient = torch.randn(10, requires_grad=True)
    cost = torch.ones(10)
    before = gradient.detach().clone()
    selection = select({"w": gradient}, {"w": cost}, 4.0, rule="cwmp")
    assert torch.equal(gradient.detach(), before)
    assert torch.equal(cost, torch.ones(10))
    assert not selection.masks["w"].requires_grad
