"""How fast selection is, how much memory it takes, and whether it is exact.

    python benchmarks/selection.py [--sizes 1e5 1e6 1e7 1e8] [--shares 0.001 0.01 0.1] [--threads 1 2]
                                   [--figure selection.png] [--cases 10000] [--blocks]

Times are multiples of one read of the gradient (``torch.sum`` of every tensor, with the same threads),
medians of ratios within one run, methods taking turns. A selection includes both norms and the certificate,
``warm`` is told the last λ. ``topk`` is ``torch.topk`` of |g| with the same count;
``sort`` is the greedy choice by sorting g²/c. Extra memory is what the process grows by at its peak while
selecting, per coordinate, the mask included. ``--cases`` compares the set with that of sorting on random and
pathological updates, and the gap with the best of all subsets on small ones.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from cwmp.pricing import BlockPrice
from cwmp.selection import Rule, Selection, select, select_blocks

SLOW_REPEATS = 1
LARGEST_SORT = 2 * 10**7

Update = tuple[dict[str, Tensor], dict[str, float]]


def drawn_update(size: int) -> Update:
    """Six tenths of the coordinates at one price, four tenths at two and a half."""
    generator = torch.Generator().manual_seed(size)
    sizes = {"cheap": size - size * 4 // 10, "costly": size * 4 // 10}
    gradients = {name: torch.randn(count, generator=generator) for name, count in sizes.items()}
    return gradients, {"cheap": 1.0, "costly": 2.5}


def seconds(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def greedy_by_sorting(gradients: dict[str, Tensor], costs: dict[str, float], budget_j: float) -> Tensor:
    score = torch.cat([part.double().square() / costs[name] for name, part in gradients.items()])
    cost = torch.cat([torch.full_like(part, costs[name]).double() for name, part in gradients.items()])
    order = torch.argsort(score, descending=True, stable=True)
    return order[: int(torch.searchsorted(cost[order].cumsum(0), budget_j, right=True))]


def topk_seconds(gradients: dict[str, Tensor], count: int, repeats: int) -> float:
    """``torch.topk`` alone: |g| in one tensor is there already."""
    flat = torch.cat([part.abs() for part in gradients.values()])
    return statistics.median(seconds(lambda: flat.topk(count)) for _ in range(repeats))


def measured(size: int, share: float, threads: int, repeats: int) -> dict[str, float]:
    torch.set_num_threads(threads)
    gradients, costs = drawn_update(size)
    budget_j = share * sum(costs[name] * part.numel() for name, part in gradients.items())

    def selected(last: float | None = None) -> Selection:
        return select(gradients, costs, budget_j, rule="cwmp", last_threshold=last)

    first = selected()
    methods: dict[str, Callable[[], object]] = {
        "cold": selected,
        "warm": lambda: selected(first.threshold),
        "with indices": lambda: selected().sparse(gradients),
    }
    ratios: dict[str, list[float]] = {name: [] for name in methods}
    reads = []
    for _ in range(repeats):
        for name, method in methods.items():
            read_s = seconds(lambda: [part.sum() for part in gradients.values()])
            reads.append(read_s)
            ratios[name].append(seconds(method) / read_s)
    read_s = statistics.median(reads)
    figures = {name: statistics.median(values) for name, values in ratios.items()}
    slow = SLOW_REPEATS if size > 10**6 else 5
    figures["topk"] = topk_seconds(gradients, first.kept, slow) / read_s
    if size <= LARGEST_SORT:
        sort_s = statistics.median(
            seconds(lambda: greedy_by_sorting(gradients, costs, budget_j)) for _ in range(slow)
        )
        figures["sort"] = sort_s / read_s
    figures |= {"read ms": 1e3 * read_s, "kept": first.kept / size, "gap": _gap(first)}
    figures["topk / cold"] = figures["topk"] / figures["cold"]
    return figures


def _gap(selection: Selection) -> float:
    return selection.certificate.relative_gap if selection.certificate else math.nan


def extra_bytes(size: int, share: float, threads: int) -> float:
    """Peak growth of a fresh process while it selects, per coordinate."""
    command = [sys.executable, __file__, "--memory", str(size), str(share), str(threads)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def print_extra_bytes(size: int, share: float, threads: int) -> None:
    torch.set_num_threads(threads)
    small, costs = drawn_update(100_000)
    select(small, costs, 1000.0, rule="cwmp")  # compiles
    gradients, costs = drawn_update(size)
    budget_j = share * sum(costs[name] * part.numel() for name, part in gradients.items())
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = peak_bytes()
    selection = select(gradients, costs, budget_j, rule="cwmp")
    sys.stdout.write(f"{(peak_bytes() - before) / selection.coordinates}\n")


def peak_bytes() -> int:
    """Largest resident size of this process so far, as Linux tells it."""
    line = next(part for part in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in part)
    return int(line.split()[1]) * 1024


def pathological_update(rng: np.random.Generator) -> tuple[dict[str, Tensor], dict[str, float | Tensor]]:
    gradients: dict[str, Tensor] = {}
    costs: dict[str, float | Tensor] = {}
    for name in ("a", "b", "c")[: rng.integers(1, 4)]:
        size = int(rng.choice([1, 2, 63, 64, 65, 1000, 40_000], p=[0.1, 0.1, 0.2, 0.2, 0.2, 0.17, 0.03]))
        values = rng.standard_normal(size) * 10.0 ** rng.choice([-30, -3, 0, 0, 0, 12])
        kind = rng.integers(6)
        if kind == 0:
            values[:] = values[0]
        elif kind == 1:
            values = np.round(values, 1)
        elif kind == 2:
            values[rng.random(size) < 0.7] = 0.0
        elif kind == 3:
            values *= np.exp(3 * rng.standard_normal(size))
        dtype = [torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.float16][rng.integers(5)]
        gradients[name] = torch.from_numpy(values).to(dtype).nan_to_num(0.0, 1.0, -1.0)
        if rng.random() < 0.7:
            costs[name] = float(10.0 ** rng.uniform(-12, 0))
        else:
            costs[name] = torch.from_numpy(10.0 ** rng.uniform(-12, 0, size))
    return gradients, costs


def compared_with_sorting(cases: int, console: Console) -> None:
    rng = np.random.default_rng(0)
    different = over = 0
    for _ in range(cases):
        gradients, costs = pathological_update(rng)
        g = np.concatenate([part.double().numpy() for part in gradients.values()])
        c = np.concatenate(
            [
                torch.as_tensor(costs[name], dtype=torch.float64).expand(part.shape).numpy()
                for name, part in gradients.items()
            ]
        )
        rule: Rule = ("cwmp", "cwmp-l1", "topk")[rng.integers(3)]
        budget_j = float(rng.choice([1e-4, 0.01, 0.1, 0.5, 1.0])) * math.fsum(c)
        score = {"cwmp": g * g / c, "cwmp-l1": abs(g) / c, "topk": abs(g)}[rule]
        order = np.argsort(-score, kind="stable")
        order = order[g[order] != 0]
        low, high = 0, order.size
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if math.fsum(c[order[:middle]]) <= budget_j else (low, middle - 1)
        expected = np.zeros(g.size, dtype=bool)
        expected[order[:low]] = True
        selection = select(gradients, costs, budget_j, rule=rule, last_threshold=rng.choice([0, 1e-3, 1.0]))
        mask = torch.cat([part.reshape(-1) for part in selection.masks.values()]).numpy()
        different += not np.array_equal(mask, expected)
        over += selection.spent_j > budget_j
    console.print(f"{cases} updates: {different} sets differ from sorting, {over} over budget.")


def compared_with_all_subsets(cases: int, console: Console) -> None:
    rng = np.random.default_rng(1)
    outside = 0
    worst = 0.0
    for _ in range(cases):
        size = int(rng.integers(1, 13))
        g, c = rng.standard_normal(size).astype(np.float32), 10.0 ** rng.uniform(-2, 0, size)
        budget_j = float(rng.uniform(0, 1) * c.sum())
        subsets = np.array(list(itertools.product([0.0, 1.0], repeat=size)))
        values = subsets @ np.square(g.astype(np.float64))
        best = float(values[subsets @ c <= budget_j].max())
        update, costs = {"w": torch.from_numpy(g)}, {"w": torch.from_numpy(c)}
        selection = select(update, costs, budget_j, rule="cwmp")
        certificate = selection.certificate
        assert certificate is not None
        gap = best - selection.retained_squared_norm
        outside += not -1e-12 <= gap <= certificate.gap + 1e-12
        worst = max(worst, gap / best if best else 0.0)
    console.print(
        f"{cases} small updates: {outside} gaps to the best of all subsets outside of the certificate; "
        f"largest gap {100 * worst:.0f} %."
    )


def compared_blocks(console: Console) -> None:
    """16 coordinates per line, a line 20 times as dear, Laplace gradients with line-correlated scale."""
    rng = np.random.default_rng(0)
    lines, line = 20_000, 16
    scale = rng.lognormal(0, 1, (lines, 1))
    gradient = torch.from_numpy((rng.laplace(size=(lines, line)) * scale).astype(np.float32))
    price = BlockPrice(line_coordinates=line, open_j=20.0, element_j=1.0)
    total = float(gradient.double().square().sum())
    table = Table("budget", "Top-K", "cwmp-block", "over Top-K", "relative gap", "ms")
    for share in (0.02, 0.05, 0.2):
        budget_j = share * lines * (price.open_j + line * price.element_j)
        low, high = 0, gradient.numel()
        order = gradient.abs().reshape(-1).argsort(descending=True)
        while low < high:
            middle = (low + high + 1) // 2
            opened = int(torch.unique(order[:middle] // line).numel())
            fits = opened * price.open_j + middle * price.element_j <= budget_j
            low, high = (middle, high) if fits else (low, middle - 1)
        topk = float(gradient.reshape(-1)[order[:low]].double().square().sum()) / total
        select_blocks({"w": gradient}, {"w": price}, budget_j)
        begin = time.perf_counter()
        selection = select_blocks({"w": gradient}, {"w": price}, budget_j)
        took_s = time.perf_counter() - begin
        block = selection.retained_fraction
        table.add_row(
            f"{100 * share:g} %",
            f"{topk:.3f}",
            f"{block:.3f}",
            f"{100 * (block / topk - 1):+.0f} %",
            f"{_gap(selection):.1e}",
            f"{1e3 * took_s:.0f}",
        )
    console.print(table)


def draw_figure(rows: list[tuple[int, float, int, dict[str, float]]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    cases = sorted({(share, threads) for _, share, threads, _ in rows})
    share, threads = cases[len(cases) // 2]
    chosen = [(size, figures) for size, of, on, figures in rows if (of, on) == (share, threads)]
    for name in ("topk", "sort", "with indices", "cold", "warm"):
        points = [(size, figures[name]) for size, figures in chosen if name in figures]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", label=name)
    axes.axhline(1, color="grey", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="coordinates", ylabel="time in reads of the gradient")
    axes.set_title(f"{100 * share:g} % of the joules, {threads} thread(s)")
    axes.legend()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=float, nargs="*", default=[1e5, 1e6, 1e7, 1e8])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.001, 0.01, 0.1])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--cases", type=int, default=0)
    parser.add_argument("--blocks", action="store_true")
    parser.add_argument("--memory", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_extra_bytes(int(options.memory[0]), float(options.memory[1]), int(options.memory[2]))
        return
    console = Console(width=140)
    if options.cases:
        compared_with_sorting(options.cases, console)
        compared_with_all_subsets(options.cases // 10, console)
    if options.blocks:
        compared_blocks(console)
    columns = ("kept", "read ms", "cold", "warm", "with indices", "topk", "sort", "topk / cold")
    table = Table("n", "budget", "threads", *columns, "gap", "bytes/n")
    rows = []
    for size, share, threads in itertools.product(map(int, options.sizes), options.shares, options.threads):
        figures = measured(size, share, threads, options.repeats)
        rows.append((size, share, threads, figures))
        cells = [f"{figures[name]:.3g}" if name in figures else "" for name in columns]
        bytes_each = f"{extra_bytes(size, share, threads):.2f}"
        table.add_row(
            f"{size:.0e}", f"{100 * share:g} %", str(threads), *cells, f"{figures['gap']:.1e}", bytes_each
        )
    if rows:
        console.print(table)
    if options.figure and rows:
        draw_figure(rows, options.figure)


if __name__ == "__main__":
    main()
