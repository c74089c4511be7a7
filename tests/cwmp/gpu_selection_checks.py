"""Run by test_gpu_selection under Triton's interpreter, on the CPU: one group of cases per process."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping

import torch
from torch import Tensor

from cwmp.selection import Rule, Selection, select
from cwmp.selection.bracket import Bracket
from cwmp.selection.gpu import sheet as gpu_sheet
from cwmp.selection.gpu.attempt import _attempt
from cwmp.selection.gpu.sample import expect, sample_of
from cwmp.selection.gpu.update import GpuUpdate
from cwmp.selection.limits import Limits
from cwmp.selection.on_gpu import passes_if_ranked, run_a_kernel
from cwmp.selection.rules import SCORES
from cwmp.selection.search import Found
from cwmp.selection.selector import _on_gpu, _selection
from cwmp.selection.update import present_in

RANKED: tuple[Rule, ...] = ("cwmp", "cwmp-l1", "topk")


def normal(seed: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def by_kernels(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float],
    budget_j: float,
    rule: Rule,
    *,
    count: int | None = None,
    at_least: float | None = None,
    last: float | None = None,
) -> Selection:
    passes = passes_if_ranked(present_in(gradients, costs), costs, rule)
    assert passes is not None
    chosen = _on_gpu(passes, Limits.of(budget_j, count), at_least or 0.0, last)
    return _selection(gradients, chosen, rule, budget_j)


def sorted_prefix(
    gradients: Mapping[str, Tensor], costs: Mapping[str, float], budget_j: float, rule: Rule, count: int
) -> set[int]:
    """Sort everything finite, add costs exactly, stop at the first that does not fit."""
    g = torch.cat([part.double().reshape(-1) for part in gradients.values()])
    c = torch.cat(
        [torch.full((part.numel(),), costs[name], dtype=torch.float64) for name, part in gradients.items()]
    )
    score = {"cwmp": g * g / c, "cwmp-l1": g.abs() / c, "topk": g.abs()}[rule]
    score[~g.isfinite()] = 0.0
    order = torch.sort(score, descending=True, stable=True).indices
    ranked = order[(g[order] != 0) & g[order].isfinite()]
    low, high = 0, min(len(ranked), count)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (
            (middle, high) if math.fsum(c[ranked[:middle]].tolist()) <= budget_j else (low, middle - 1)
        )
    return set(ranked[:low].tolist())


def check(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float],
    share: float,
    rules: tuple[Rule, ...] = RANKED,
    count: int | None = None,
    last: float | None = None,
) -> None:
    budget_j = share * math.fsum(costs[name] * part.numel() for name, part in gradients.items())
    for rule in rules:
        by_gpu = by_kernels(gradients, costs, budget_j, rule, count=count, last=last)
        mask = torch.cat([part.reshape(-1) for part in by_gpu.masks.values()])
        coordinates = sum(part.numel() for part in gradients.values())
        expected = sorted_prefix(gradients, costs, budget_j, rule, coordinates if count is None else count)
        assert set(mask.nonzero().squeeze(1).tolist()) == expected, rule
        on_cpu = select(gradients, costs, budget_j, rule=rule, count=count, nonfinite="drop")
        for name in ("kept", "spent_j", "threshold", "dropped", "warnings", "coordinates"):
            assert getattr(by_gpu, name) == getattr(on_cpu, name), (rule, name)
        for name in ("retained_squared_norm", "total_squared_norm"):
            assert math.isclose(getattr(by_gpu, name), getattr(on_cpu, name), rel_tol=1e-5), (rule, name)
        if on_cpu.certificate is not None:
            assert by_gpu.certificate is not None
            assert math.isclose(by_gpu.certificate.achieved, on_cpu.certificate.achieved, rel_tol=1e-5)
        for name, part in by_gpu.bitmasks.items():
            assert part.words.tolist() == on_cpu.bitmasks[name].words.tolist(), name
            assert torch.equal(part.indices(), on_cpu.bitmasks[name].indices()), name


def small() -> None:
    """Ties, zeros, empty tensors, budgets of nothing, one, some and everything."""
    gradients = {
        "ties": torch.tensor([1.0, -2.0, 2.0, 0.0, 1.0, -1.0, 1e-30, 3e38]),
        "none": torch.empty(0, 3),
        "row": normal(1, 91).reshape(7, 13),
    }
    costs = {"ties": 3e-9, "none": 1.0, "row": 1e-9}
    for share in (0.0, 0.01, 1.0):
        check(gradients, costs, share)
    check(gradients, costs, 0.33, rules=("cwmp-l1",))
    check(gradients, costs, math.inf, rules=("topk",))
    check({"zero": torch.zeros(50)}, {"zero": 1.0}, 0.5)
    check(gradients, costs, 2.0, count=5)


def formats() -> None:
    """Two bytes per coordinate: many ties, subnormals of float16, and several blocks."""
    for dtype in (torch.bfloat16, torch.float16):
        gradients = {
            "a": normal(2, 9000, dtype),
            "b": (1e-6 * normal(3, 4097, torch.float32)).to(dtype),
        }
        check(gradients, {"a": 1e-9, "b": 2.7e-15}, 0.002, rules=("cwmp",))
        check(gradients, {"a": 1e-9, "b": 2.7e-15}, 0.4, rules=("cwmp-l1", "topk"))


def sampled() -> None:
    """Large enough for a sample, tensors that are no multiple of anything, prices far apart."""
    gradients = {"a": normal(4, 30_001), "b": 100 * normal(5, 12_345), "c": normal(6, 7)}
    costs = {"a": 1e-9, "b": 5e-8, "c": 1e-12}
    for share in (0.001, 0.2):
        check(gradients, costs, share, rules=("cwmp",))
    check(gradients, costs, 0.1, rules=("cwmp-l1",))
    check(gradients, costs, math.inf, rules=("topk",), count=1234)
    check(gradients, costs, 0.3, rules=("topk",), count=40_000)


def last_round() -> None:
    """The last threshold, right and wrong: the same choice."""
    gradients, costs = {"a": normal(7, 40_003)}, {"a": 1e-9}
    found = select(gradients, costs, 2e-6, rule="cwmp")
    assert found.threshold is not None
    for factor in (1.001, 30.0, 0.01):
        check(gradients, costs, 0.05, rules=("cwmp",), last=factor * found.threshold)


def tied() -> None:
    """More of one score than are listed: by index, inside a block and across tensors."""
    gradients = {"a": torch.full((50_000,), 0.3), "b": torch.full((9001,), -0.3), "c": normal(8, 100)}
    costs = {"a": 1.0, "b": 1.0, "c": 1.0}
    for share in (0.31, 0.9):
        check(gradients, costs, share, rules=("cwmp",))
    check(gradients, costs, 2.0, rules=("topk",), count=50_100)


def not_finite() -> None:
    """Left out and counted by tensor."""
    broken = normal(9, 5000)
    broken[[3, 4095, 4096]] = torch.tensor([math.nan, math.inf, -math.inf])
    check({"fine": normal(10, 70), "broken": broken}, {"fine": 1.0, "broken": 2.0}, 0.3)


def places() -> None:
    """A view that does not start at 16 bytes, one that is not contiguous, and threshold's own limit."""
    base = normal(11, 8192)
    gradients = {"odd": base[1:6000], "turned": base[:8190].reshape(90, 91).t()}
    check(gradients, {"odd": 1.0, "turned": 2.0}, 0.2)
    found = by_kernels(gradients, dict.fromkeys(gradients, 1.0), math.inf, "threshold", at_least=0.75)
    assert all(torch.equal(found.masks[name], part.abs() >= 0.75) for name, part in gradients.items())
    again = by_kernels(gradients, dict.fromkeys(gradients, 1.0), 700.0, "topk")
    pairs = again.sparse(gradients)
    assert sum(index.numel() for index, _ in pairs.values()) == again.kept == 700


def one_go() -> None:
    """What is found before the host looks twice, cold and warm; many of one score, by their places."""
    wide = {"a": normal(12, 60_000), "b": 3 * normal(13, 20_001)}
    costs = {"a": 1e-9, "b": 4e-9}
    for rule in RANKED:
        found = in_one_go(wide, costs, Limits.of(1e-5, None), rule, None)
        assert found.threshold is not None
        again = in_one_go(wide, costs, Limits.of(1e-5, None), rule, 1.001 * found.threshold)
        assert (again.kept, again.units, again.threshold) == (found.kept, found.units, found.threshold)
    half = {"a": normal(14, 90_000).to(torch.bfloat16).clamp(-1.25, 1.25)}
    ties = int((half["a"].abs() == 1.25).sum())
    assert ties > 10_000
    found = in_one_go(half, {"a": 1.0}, Limits.of(ties / 3, None), "cwmp", None)
    assert (found.kept, found.threshold) == ((ties // 3,), 1.25**2)
    check(half, {"a": 1.0}, ties / 3 / 90_000, rules=("cwmp",))
    everything = in_one_go(wide, costs, Limits.of(math.inf, 10**6), "topk", None)
    assert everything.threshold is None
    assert everything.kept == tuple(int((part != 0).sum()) for part in wide.values())


def in_one_go(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float],
    limits: Limits,
    rule: Rule,
    last: float | None,
) -> Found:
    passes = passes_if_ranked(gradients, costs, rule)
    assert passes is not None
    found = _attempt(passes, limits, 0.0, last)
    assert found is not None, rule
    return found


def bracket() -> None:
    """Of a normal estimate 4 deviations miss 1 in 16,000, half a deviation 6 in 10: 5 to 14 of 16."""
    numel, price = 100_000, 1e-9
    gradient = normal(0, numel)
    scores = torch.sort(gradient.double().square() / price, descending=True).values
    update = GpuUpdate({"w": gradient}, [price], kind=SCORES["cwmp"])
    for share in (0.01, 0.5):
        limits, threshold = Limits.of(share * numel * price, None), float(scores[int(share * numel)])
        for deviations, fewest, most in ((4.0, 0, 0), (0.5, 5, 14)):
            missed = 0
            for draw in range(16):
                runs = sample_of(update, 0, draw)
                given = update.filled_in(limits, Bracket(least=0.0, most=math.inf), runs.weights)
                sheet = update.sheet.sent(given, update.device)
                expect(update, sheet, runs, deviations)
                filled = update.sheet.read(sheet)
                found = filled.score(gpu_sheet.LEAST), filled.score(gpu_sheet.MOST)
                assert 0 < found[0] <= found[1] < math.inf
                missed += not found[0] <= threshold <= found[1]
            assert fewest <= missed <= most, (share, deviations, missed)


def smallest() -> None:
    """The kernel that tells whether any runs."""
    run_a_kernel(torch.device("cpu"))


def range_of_squares() -> None:
    """Sums of squares that float32 cannot hold are those of the CPU."""
    for scale in (1e-30, 3e25):
        gradients = {"far": scale * normal(15, 5000), "near": normal(16, 4100)}
        check(gradients, {"far": 1.0, "near": 1.0}, 0.3, rules=("cwmp", "cwmp-l1"))


if __name__ == "__main__":
    globals()[sys.argv[1]]()
