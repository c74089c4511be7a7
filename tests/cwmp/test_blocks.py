"""cwmp-block against enumeration of all subsets, and against cwmp and Top-K where lines cost."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import EmptyNetworkError, InvalidCostError, NonFiniteGradientError
from cwmp.pricing import BlockPrice
from cwmp.selection import Rule, select, select_blocks
from cwmp.tensors import touched_groups

Update = tuple[dict[str, Tensor], dict[str, BlockPrice], float]


@st.composite
def updates(draw: st.DrawFn, max_size: int = 40) -> Update:
    """Gradients with ties and zeros in one or two tensors, and prices of their lines."""
    gradients, prices = {}, {}
    for name in ("a", "b")[: draw(st.integers(1, 2))]:
        values = draw(
            st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0]) | st.floats(-9, 9, width=32), max_size=max_size)
        )
        gradients[name] = torch.tensor([*values, draw(st.floats(0.25, 4, width=32))])
        prices[name] = BlockPrice(
            line_coordinates=draw(st.integers(1, 5)),
            open_j=draw(st.sampled_from([0.0, 1.0, 20.0])),
            element_j=draw(st.sampled_from([0.1, 1.0, 3.0])),
        )
    dense_j = cost_j(gradients, prices, {name: part != 9e9 for name, part in gradients.items()})
    return gradients, prices, draw(st.floats(0, 1.1)) * dense_j


def cost_j(gradients: dict[str, Tensor], prices: dict[str, BlockPrice], masks: dict[str, Tensor]) -> float:
    return math.fsum(
        prices[name].open_j * touched_groups(masks[name], prices[name].line_coordinates)
        + prices[name].element_j * int(masks[name].sum())
        for name in gradients
    )


def retained(gradients: dict[str, Tensor], masks: dict[str, Tensor]) -> float:
    return sum(float((part.double() * masks[name]).square().sum()) for name, part in gradients.items())


def best_affordable(update: Update, rule: Rule, prices_j: dict[str, float]) -> float:
    """What a rule of single coordinates keeps if its prefix may grow until it costs too much."""
    gradients, prices, budget_j = update
    total = sum(part.numel() for part in gradients.values())
    low, high = 0, total
    while low < high:
        middle = (low + high + 1) // 2
        masks = dict(select(gradients, prices_j, math.inf, rule=rule, count=middle).masks)
        low, high = (middle, high) if cost_j(gradients, prices, masks) <= budget_j else (low, middle - 1)
    return retained(gradients, dict(select(gradients, prices_j, math.inf, rule=rule, count=low).masks))


@given(updates(max_size=4))
@settings(max_examples=60, deadline=None)
def test_no_subset_beats_the_bound(update: Update) -> None:
    gradients, prices, budget_j = update
    sizes = [part.numel() for part in gradients.values()]
    best = 0.0
    for bits in itertools.product([False, True], repeat=sum(sizes)):
        masks = dict(zip(gradients, torch.tensor(bits).split(sizes), strict=True))
        if cost_j(gradients, prices, masks) <= budget_j:
            best = max(best, retained(gradients, masks))
    selection = select_blocks(gradients, prices, budget_j)
    assert selection.certificate is not None
    assert selection.certificate.bound >= best * (1 - 1e-9)
    assert selection.retained_squared_norm <= best * (1 + 1e-9)


@given(updates())
@settings(max_examples=150, deadline=None)
def test_it_stays_within_the_budget_and_never_keeps_less_than_cwmp(update: Update) -> None:
    gradients, prices, budget_j = update
    selection = select_blocks(gradients, prices, budget_j)
    masks = dict(selection.masks)
    assert selection.within_budget
    assert selection.spent_j == pytest.approx(cost_j(gradients, prices, masks), rel=1e-12)
    assert cost_j(gradients, prices, masks) <= budget_j * (1 + 1e-12)
    assert selection.retained_squared_norm == pytest.approx(retained(gradients, masks))
    assert not any((part[masks[name]] == 0).any() for name, part in gradients.items())
    isolated = {name: price.open_j + price.element_j for name, price in prices.items()}
    assert selection.retained_squared_norm >= best_affordable(update, "cwmp", isolated) * (1 - 1e-12)


def line_correlated(seed: int, lines: int, line: int = 16) -> Tensor:
    """Laplace gradients whose scale is that of their line."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(
        (rng.laplace(size=(lines, line)) * rng.lognormal(0, 1, (lines, 1))).astype(np.float32)
    )


def test_threads_and_pieces_of_lines_change_nothing() -> None:
    gradients = {"a": line_correlated(2, 140_000), "b": line_correlated(3, 1001)}
    prices = {name: BlockPrice(line_coordinates=16, open_j=20.0, element_j=1.0) for name in gradients}
    one, three = (select_blocks(gradients, prices, 9e4, threads=threads) for threads in (1, 3))
    assert all(torch.equal(one.masks[name], three.masks[name]) for name in gradients)
    assert (one.spent_j, one.retained_squared_norm) == (three.spent_j, three.retained_squared_norm)
    assert one.spent_j == pytest.approx(cost_j(gradients, prices, dict(one.masks)), rel=1e-12)
    assert one.certificate is not None
    assert one.certificate.relative_gap < 1e-4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_where_lines_cost_it_keeps_far_more_than_top_k(dtype: torch.dtype) -> None:
    gradients = {"w": line_correlated(1, 6000).to(dtype)}
    prices = {"w": BlockPrice(line_coordinates=16, open_j=20.0, element_j=1.0)}
    budget_j = 0.02 * 6000 * 36
    selection = select_blocks(gradients, prices, budget_j)
    topk = best_affordable((gradients, prices, budget_j), "topk", {"w": 1.0})
    assert selection.retained_squared_norm > 1.15 * topk
    assert selection.certificate is not None
    assert selection.certificate.relative_gap < 2e-3
    assert selection.spent_j > 0.99 * budget_j


def test_without_a_cost_of_lines_it_is_cwmp() -> None:
    gradients = {"a": line_correlated(2, 700), "b": line_correlated(3, 500)}
    prices = {
        name: BlockPrice(line_coordinates=16, open_j=0.0, element_j=element_j)
        for name, element_j in (("a", 1.0), ("b", 3.0))
    }
    block = select_blocks(gradients, prices, 900.0)
    cwmp = select(gradients, {"a": 1.0, "b": 3.0}, 900.0, rule="cwmp")
    assert all(torch.equal(block.masks[name], cwmp.masks[name]) for name in gradients)
    assert block.spent_j == cwmp.spent_j


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_equal_gradients_fill_whole_lines(value: float) -> None:
    gradients = {"w": torch.full((4000,), value)}
    prices = {"w": BlockPrice(line_coordinates=16, open_j=20.0, element_j=1.0)}
    selection = select_blocks(gradients, prices, 3600.0)
    assert selection.kept == (1600 if value else 0)


@pytest.mark.parametrize("budget_j", [0.0, -1.0, 20.5])
def test_what_is_below_the_cheapest_line_keeps_nothing(budget_j: float) -> None:
    prices = {"w": BlockPrice(line_coordinates=16, open_j=20.0, element_j=1.0)}
    selection = select_blocks({"w": torch.ones(100)}, prices, budget_j)
    assert (selection.kept, selection.spent_j) == (0, 0.0)
    assert selection.warnings


def test_everything_affordable_is_kept_but_zeros() -> None:
    prices = {"w": BlockPrice(line_coordinates=16, open_j=20.0, element_j=0.0)}
    for budget_j in (1e9, math.inf):
        selection = select_blocks({"w": torch.arange(100.0)}, prices, budget_j)
        assert selection.kept == 99
        assert selection.certificate is not None
        assert selection.certificate.gap == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, 1e200])
def test_what_is_not_finite_may_be_left_out(bad: float) -> None:
    generator = torch.Generator().manual_seed(1)
    gradient = torch.randn(1000, generator=generator, dtype=torch.float64)
    prices = {"w": BlockPrice(line_coordinates=16, open_j=20.0, element_j=1.0)}
    without = gradient.clone()
    without[::7] = 0.0
    gradient[::7] = bad
    selection = select_blocks({"w": gradient}, prices, 300.0, nonfinite="drop")
    assert (selection.dropped, len(selection.warnings)) == (143, 1)
    expected = select_blocks({"w": without}, prices, 300.0)
    assert torch.equal(selection.masks["w"], expected.masks["w"])
    assert selection.retained_squared_norm == expected.retained_squared_norm


def test_what_cannot_be_selected_from_is_named() -> None:
    prices = {"w": BlockPrice(line_coordinates=16, open_j=20.0, element_j=1.0)}
    with pytest.raises(EmptyNetworkError):
        select_blocks({}, prices, 1.0)
    with pytest.raises(NonFiniteGradientError, match=r"w \(1\)"):
        select_blocks({"w": torch.tensor([1.0, math.nan])}, prices, 1.0)
    for open_j, element_j in ((-1.0, 2.0), (0.0, 0.0), (math.nan, 1.0), (1.0, math.inf)):
        wrong = {"w": BlockPrice(line_coordinates=16, open_j=open_j, element_j=element_j)}
        with pytest.raises(InvalidCostError, match="lines of w"):
            select_blocks({"w": torch.ones(3)}, wrong, 1.0)
    with pytest.raises(UsageError, match="not a number"):
        select_blocks({"w": torch.ones(3)}, prices, math.nan)
