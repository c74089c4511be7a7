"""How fast the GPU selects: beside ``torch.topk`` of as many coordinates, and in reads of the gradient.

    cold      a sample finds the bracket                      the first round
    warm      with the threshold of the last selection        every round after it
    read      one ``sum`` over the gradient, and its bytes over the bandwidth of a measured copy

Seconds are those of the host, from the call to the end of the last kernel: Python is part of what a user
waits for. By turns over several gradients, so that none is in the second level. Up to 1e8 coordinates the
choice is compared with that of the CPU, bit by bit. At 1e8 the profiler tells how long each kernel took.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from typing import Any

from benchmarks.gpu_campaign.settings import Rows, Settings

COUNTS = (10**6, 10**7, 10**8, 10**9)
COMPARED = 10**8
"""Up to so many coordinates the CPU selects as well."""
DTYPES = ("float32", "bfloat16")
PROFILED = 10**8
KEPT = 0.01
REPEATS = 15
TOGETHER_BYTES = 1 << 29
"""Gradients are as many as this holds, at least one: more than a second level."""
PRICE_J = 1e-9


def run(settings: Settings) -> None:
    """Each number and format of coordinates is a row."""
    where = "cpu" if settings.dry_run else settings.device_name
    rows = Rows(settings.file("selection.jsonl"))
    for count in (10**4, 10**5) if settings.dry_run else COUNTS:
        for dtype in DTYPES:
            key = f"{count} {dtype}"
            if key in rows:
                continue
            settings.keep_time()
            print(key, flush=True)
            rows.attempt(key, partial(_row, count, dtype, where))
    rows.see_failures()


def _row(count: int, dtype: str, where: str) -> dict[str, Any]:
    import torch

    try:
        return _measured(count, dtype, where)
    except torch.cuda.OutOfMemoryError as error:
        return {"refused": str(error).splitlines()[0]}
    finally:
        if where != "cpu":
            torch.cuda.empty_cache()


def _measured(count: int, dtype: str, where: str) -> dict[str, Any]:
    import torch

    from cwmp.selection import Selection, select

    kind = getattr(torch, dtype)
    size = count * kind.itemsize
    generator = torch.Generator(where).manual_seed(0)
    gradients = [
        torch.randn(count, device=where, dtype=kind, generator=generator)
        for _ in range(max(TOGETHER_BYTES // size, 1) if where != "cpu" else 2)
    ]
    kept = round(KEPT * count)

    def chosen(gradient: Any, last: float | None = None) -> Selection:
        return select({"w": gradient}, {"w": PRICE_J}, kept * PRICE_J, rule="cwmp", last_threshold=last)

    first = chosen(gradients[0])
    row: dict[str, Any] = {
        "kept": first.kept,
        "passes_cold": first.passes,
        "passes_warm": chosen(gradients[-1], first.threshold).passes,
        "on_device": type(first.bitmasks["w"]).__name__ == "DeviceMask",
        "as_on_cpu": _as_on_cpu(first, gradients[0]) if count <= COMPARED else None,
    }
    bytes_per_s = _copy_bytes_per_s(gradients, where)
    row |= {
        "read_at_bandwidth_s": size / bytes_per_s,
        "copy_bytes_per_s": bytes_per_s,
        "sum_s": _median_s(lambda gradient: gradient.sum(), gradients, where),
        "cold_s": _median_s(chosen, gradients, where),
        "warm_s": _median_s(lambda gradient: chosen(gradient, first.threshold), gradients, where),
        "topk_s": _median_s(
            lambda gradient: torch.topk(gradient.abs(), kept, sorted=False), gradients, where
        ),
    }
    if count == PROFILED:
        row["kernels_cold"] = _kernels(lambda: chosen(gradients[0]))
        row["kernels_warm"] = _kernels(lambda: chosen(gradients[0], first.threshold))
    for name in ("cold", "warm"):
        row[f"{name}_in_reads"] = row[f"{name}_s"] / row["read_at_bandwidth_s"]
        row[f"topk_over_{name}"] = row["topk_s"] / row[f"{name}_s"]
    return row


def _kernels(call: Callable[[], object]) -> dict[str, Any]:
    """Microseconds on the GPU by kernel and copy, of one call; the reason where the profiler is refused."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    try:
        with profile(activities=[ProfilerActivity.CUDA]) as profiled:
            call()
            torch.cuda.synchronize()
        return {
            event.key[:60]: {"calls": event.count, "us": event.device_time_total}
            for event in profiled.key_averages()
        }
    # The counters of a GPU may be closed to users, and the profiler says so in many ways.
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}"}


def _copy_bytes_per_s(gradients: Sequence[Any], where: str) -> float:
    """Read and written, of arrays too large for a second level."""
    import torch

    source = gradients[0] if len(gradients) == 1 else torch.cat(list(gradients))
    target = torch.empty_like(source)
    return 2 * source.nbytes / _median_s(lambda one: target.copy_(one), [source], where)


def _as_on_cpu(selection: Any, gradient: Any) -> bool:
    from cwmp.selection import select

    other = select({"w": gradient.cpu()}, {"w": PRICE_J}, selection.budget_j, rule="cwmp")
    same = (selection.bitmasks["w"].words == other.bitmasks["w"].words).all()
    return bool(same) and selection.threshold == other.threshold and selection.spent_j == other.spent_j


def _median_s(call: Callable[[Any], object], arguments: Sequence[Any], where: str) -> float:
    import torch

    def finish() -> None:
        if where.startswith("cuda"):
            torch.cuda.synchronize()

    turns: Iterator[Any] = cycle(arguments)
    seconds = []
    for _ in range(REPEATS + 1):
        argument = next(turns)
        finish()
        started_s = time.perf_counter()
        call(argument)
        finish()
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds[1:])
