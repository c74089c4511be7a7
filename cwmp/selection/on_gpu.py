"""Which updates are selected from on the GPU that holds them; all others are copied to the host.

The kernels need one format and one price per tensor, a score that grows with the magnitude, and Triton, which
comes with CUDA builds of torch, and a C compiler for it. What they choose is what the host would.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cwmp.selection.rules import RANDOM, SCORES, Rule
from cwmp.selection.update import present_in, prices_of

if TYPE_CHECKING:
    from cwmp.selection.gpu.passes import GpuPasses

logger = logging.getLogger(__name__)

FORMATS = (torch.float32, torch.bfloat16, torch.float16)


def passes_on_gpu(
    gradients: Mapping[str, Tensor], costs: Mapping[str, float | Tensor], rule: Rule
) -> GpuPasses | None:
    """Passes over an update where it lives; None if the host has to do it.

    Raises:
        EmptyNetworkError: there is no coordinate.
        InvalidCostError: a cost is zero, negative or not finite.
        UsageError: a gradient is of no format that can be ranked, or a cost is missing or has another shape.
    """
    present = present_in(gradients, costs)
    first = next(iter(present.values()))
    if not first.is_cuda or not _kernels_run(first.device):
        return None
    return passes_if_ranked(present, costs, rule)


@lru_cache
def _kernels_run(device: torch.device) -> bool:
    """Whether Triton can compile and start kernels for a GPU; looked at once, and said if not."""
    if find_spec("triton") is None:
        return False
    try:
        run_a_kernel(device)
    # Whatever a compiler or a driver may raise: the host chooses the same.
    except Exception as error:
        logger.warning("Triton does not run on %s, so selections are made on the host: %s", device, error)
        return False
    return True


def run_a_kernel(device: torch.device) -> None:
    """Compile and start the smallest kernel of the selection.

    Raises:
        RuntimeError: it wrote something else than it should.
        Exception: whatever Triton or the driver raise.
    """
    from cwmp.selection.gpu import triton_narrow

    words = torch.zeros(4, dtype=torch.int32, device=device)
    with torch.cuda.device_of(words):  # type: ignore[no-untyped-call]
        triton_narrow.finish[(1,)](words, torch.tensor([0, 33, 127], device=device), 3)
    if words.tolist() != [1, 2, 0, -(2**31)]:
        raise RuntimeError(f"a kernel wrote {words.tolist()}")


def passes_if_ranked(
    present: Mapping[str, Tensor], costs: Mapping[str, float | Tensor], rule: Rule
) -> GpuPasses | None:
    """The same wherever Triton's kernels run; None if the update or the rule is not of their kind."""
    kind = next((score for name, score in SCORES.items() if name == rule), RANDOM)
    first = next(iter(present.values()))
    alike = all(part.dtype == first.dtype and part.device == first.device for part in present.values())
    if kind == RANDOM or not alike or first.dtype not in FORMATS:
        return None
    prices = [_one_price(name, gradient, costs[name]) for name, gradient in present.items()]
    known = [price for price in prices if price is not None]
    if len(known) < len(prices):
        return None
    from cwmp.selection.gpu.passes import GpuPasses
    from cwmp.selection.gpu.update import GpuUpdate

    return GpuPasses(GpuUpdate(present, known, kind=kind))


def _one_price(name: str, gradient: Tensor, cost: float | Tensor) -> float | None:
    """The price of a whole tensor; None if it has several."""
    if isinstance(cost, float) and 0 < cost < math.inf:
        return cost
    prices, _ = prices_of(name, gradient, cost)
    return float(prices[0]) if prices.size == 1 else None
