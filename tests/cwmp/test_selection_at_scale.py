"""The threshold search against sorting everything, on updates that need samples, pieces and threads."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from torch import Tensor

from cwmp.selection import Rule, Selection, select

Costs = Mapping[str, float | Tensor]


def sorted_prefix(gradients: Mapping[str, Tensor], costs: Costs, budget_j: float, rule: Rule) -> set[int]:
    """Sort all coordinates, add costs exactly, stop at the first that does not fit."""
    g = np.concatenate([part.double().reshape(-1).numpy() for part in gradients.values()])
    c = np.concatenate(
        [
            torch.as_tensor(costs[name], dtype=torch.float64).expand(part.shape).reshape(-1).numpy()
            for name, part in gradients.items()
        ]
    )
    with np.errstate(over="ignore"):
        score = {"cwmp": g * g / c, "cwmp-l1": abs(g) / c, "topk": abs(g)}[rule]
    order = np.argsort(-score, kind="stable")
    order = order[g[order] != 0]
    low, high = 0, len(order)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if math.fsum(c[order[:middle]]) <= budget_j else (low, middle - 1)
    return set(order[:low].tolist())


def kept(selection: Selection) -> set[int]:
    mask = torch.cat([part.reshape(-1) for part in selection.masks.values()])
    return set(mask.nonzero().squeeze(1).tolist())


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def scaled_lines(seed: int, size: int) -> Tensor:
    scale = torch.exp(2 * normal(seed, -(-size // 16))).repeat_interleave(16)[:size]
    return normal(seed + 1, size) * scale


CASES: dict[str, Callable[[], tuple[Mapping[str, Tensor], Costs]]] = {
    "normal": lambda: ({"a": normal(1, 60_000), "b": normal(2, 40_001)}, {"a": 1.0, "b": 2.5}),
    "correlated lines": lambda: ({"a": scaled_lines(3, 100_000)}, {"a": 0.1}),
    "all equal": lambda: (
        {"a": torch.full((70_000,), 0.3), "b": torch.full((9,), 0.3)},
        {"a": 1.0, "b": 1.0},
    ),
    "two values": lambda: ({"a": normal(4, 90_000).sign() * (1 + (normal(5, 90_000) > 1))}, {"a": 3e-9}),
    "mostly zero": lambda: ({"a": normal(6, 120_000) * (normal(7, 120_000) > 2)}, {"a": 1.0}),
    "one giant": lambda: ({"a": torch.cat([normal(8, 80_000), torch.tensor([1e30])])}, {"a": 1.0}),
    "tiny": lambda: ({"a": normal(9, 80_000) * 1e-40}, {"a": 1e-9}),
    "sorted": lambda: ({"a": normal(10, 80_000).abs().sort().values}, {"a": 1.0}),
    "one costly tensor": lambda: (
        {"a": normal(11, 80_000), "b": 50 * normal(12, 300)},
        {"a": 1e-12, "b": 1.0},
    ),
    "rows": lambda: (
        {"a": normal(13, 300, 200)},
        {"a": torch.rand(300, 1, generator=torch.manual_seed(0)) + 0.1},
    ),
    "short rows": lambda: ({"a": normal(14, 9000, 3, 3)}, {"a": torch.linspace(1, 9, 9000)[:, None, None]}),
    "rows of words": lambda: (
        {"a": normal(15, 300, 256)},
        {"a": torch.linspace(1, 9, 300).double()[:, None]},
    ),
    "each its own": lambda: (
        {"a": normal(16, 70_001)},
        {"a": 10 ** (12 * torch.rand(70_001, generator=torch.manual_seed(1)).double() - 12)},
    ),
    "float32 costs": lambda: ({"a": normal(17, 50_000)}, {"a": torch.rand(50_000) + 0.5}),
    "subnormal costs": lambda: ({"a": normal(18, 50_000)}, {"a": 5e-324}),
    "float64, tiny and huge": lambda: (
        {"a": normal(19, 50_000).double() * 10 ** (300 * torch.rand(50_000).double() - 160)},
        {"a": 1e-3},
    ),
    "transposed": lambda: ({"a": normal(20, 200, 300).t(), "b": normal(21, 5)}, {"a": 2.0, "b": 1.0}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("rule", ["cwmp", "cwmp-l1", "topk"])
def test_the_set_is_that_of_sorting_everything(case: str, rule: Rule) -> None:
    torch.manual_seed(0)
    gradients, costs = CASES[case]()
    dense_j = select(gradients, costs, math.inf, rule="dense").spent_j
    for share in (1e-4, 0.03, 0.4, 1.1):
        selection = select(gradients, costs, share * dense_j, rule=rule)
        expected = sorted_prefix(gradients, costs, share * dense_j, rule)
        assert kept(selection) == expected
        assert selection.kept == len(expected)
        for last in (selection.threshold, 1e-3, 1e3):
            again = select(gradients, costs, share * dense_j, rule=rule, last_threshold=last)
            assert kept(again) == expected
            assert (again.spent_j, again.threshold) == (selection.spent_j, selection.threshold)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_formats_are_ranked_like_their_values(dtype: torch.dtype) -> None:
    gradients = {"a": (normal(1, 90_000) * 1e-3).to(dtype), "b": (normal(2, 33_333) * 1e-7).to(dtype)}
    costs = {"a": 1.0, "b": 1e-6}
    for rule in ("cwmp", "cwmp-l1", "topk"):
        selection = select(gradients, costs, 3000.0, rule=rule)
        assert kept(selection) == sorted_prefix(gradients, costs, 3000.0, rule)
        squares = sum(float(part.double().square().sum()) for part in gradients.values())
        assert selection.total_squared_norm == pytest.approx(squares, rel=1e-6)


def test_threads_and_pieces_change_nothing() -> None:
    gradients = {"a": normal(1, 6_000_000), "b": normal(2, 1_500_001), "c": normal(3, 70)}
    costs = {"a": 1.0, "b": torch.tensor(3.0), "c": 0.5}
    one = select(gradients, costs, 3e5, rule="cwmp", threads=1)
    two = select(gradients, costs, 3e5, rule="cwmp", threads=3)
    assert all(torch.equal(one.masks[name], two.masks[name]) for name in gradients)
    assert (one.retained_squared_norm, one.spent_j) == (two.retained_squared_norm, two.spent_j)
    assert kept(one) == sorted_prefix(gradients, costs, 3e5, "cwmp")
    retained = sum(
        float((part.double() * one.masks[name]).square().sum()) for name, part in gradients.items()
    )
    assert one.retained_squared_norm == pytest.approx(retained, rel=1e-6)


@pytest.mark.parametrize("count", [0, 1, 999, 50_000, 10**9])
def test_top_k_by_count_is_torch_topk(count: int) -> None:
    gradients = {"a": normal(1, 40_000), "b": normal(2, 30_000)}
    selection = select(gradients, {"a": 1.0, "b": 9.0}, math.inf, rule="topk", count=count)
    everything = torch.cat(list(gradients.values())).abs()
    expected = everything.topk(min(count, 70_000)).indices
    assert kept(selection) == set(expected.tolist())


def test_a_count_and_a_budget_both_hold() -> None:
    gradients, costs = {"a": normal(1, 50_000)}, {"a": 2.0}
    assert select(gradients, costs, 600.0, rule="topk", count=1000).kept == 300
    assert select(gradients, costs, 600.0, rule="topk", count=200).kept == 200


def test_the_threshold_rule_keeps_what_is_large_enough_and_affordable() -> None:
    gradients, costs = {"a": normal(1, 50_000)}, {"a": 2.0}
    large = int((gradients["a"].abs() >= 1.5).sum())
    assert select(gradients, costs, math.inf, rule="threshold", at_least=1.5).kept == large
    assert select(gradients, costs, 100.0, rule="threshold", at_least=1.5).kept == 50


def test_gradients_that_are_not_finite_are_dropped_on_request() -> None:
    gradient = normal(1, 50_000)
    finite = gradient.clone()
    gradient[::1000] = math.nan
    gradient[7::1000] = math.inf
    finite[::1000] = finite[7::1000] = 0.0
    for rule in ("cwmp", "cwmp-l1", "topk", "randomk", "dense"):
        selection = select({"a": gradient}, {"a": 1.0}, 500.0, rule=rule, nonfinite="drop")
        assert selection.dropped == 100
        assert "100 gradient coordinates are not finite" in selection.warnings[0]
        assert not selection.masks["a"][::1000].any()
        assert not selection.masks["a"][7::1000].any()
        assert selection.kept == (49_900 if rule == "dense" else 500)
        if rule not in ("randomk", "dense"):
            assert kept(selection) == sorted_prefix({"a": finite}, {"a": 1.0}, 500.0, rule)
        assert math.isfinite(selection.total_squared_norm)


def test_indices_and_values_are_those_of_the_mask() -> None:
    gradients = {"a": normal(1, 100, 300), "b": torch.zeros(4), "none": torch.empty(0)}
    selection = select(gradients, {"a": 1.0, "b": 1.0}, 777.0, rule="cwmp")
    pairs = selection.sparse(gradients)
    indices, values = pairs["a"]
    assert indices.tolist() == selection.masks["a"].reshape(-1).nonzero().squeeze(1).tolist()
    assert torch.equal(values, gradients["a"][selection.masks["a"]])
    assert [pairs[name][0].numel() for name in ("b", "none")] == [0, 0]
