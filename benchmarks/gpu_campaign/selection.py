"""How fast torch selects on the GPU: ``topk`` of 1 % at 1e6 to 1e9 coordinates, in reads of the gradient."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from benchmarks.gpu_campaign.settings import Rows, Settings

COUNTS = (10**6, 10**7, 10**8, 10**9)
KEPT = 0.01
REPEATS = 7


def run(settings: Settings) -> None:
    """Times only; each count is a row."""
    import torch

    where = "cpu" if settings.dry_run else settings.device_name
    rows = Rows(settings.file("selection.jsonl"))
    for count in (10**4, 10**5) if settings.dry_run else COUNTS:
        key = f"{count}"
        if key in rows:
            continue
        settings.keep_time()
        print(f"topk of {count:.0e}", flush=True)
        gradient = torch.randn(count, device=where)
        kept = round(KEPT * count)
        row: dict[str, object] = {"kept": kept, "triton_selection": "absent"}
        try:
            row["read_s"] = _median_s(lambda g=gradient: g.sum(), where)
            row["topk_s"] = _median_s(lambda g=gradient, k=kept: torch.topk(g.abs(), k, sorted=False), where)
            row["topk_in_reads"] = row["topk_s"] / row["read_s"]  # type: ignore[operator]
        except torch.cuda.OutOfMemoryError as error:
            row["refused"] = str(error).splitlines()[0]
        rows.add(key, row)
        del gradient


def _median_s(call: Callable[[], object], where: str) -> float:
    import torch

    def finish() -> None:
        if where.startswith("cuda"):
            torch.cuda.synchronize()

    call()
    finish()
    seconds = []
    for _ in range(REPEATS):
        started_s = time.perf_counter()
        call()
        finish()
        seconds.append(time.perf_counter() - started_s)
    return statistics.median(seconds)
