"""Which updates are selected from on the GPU that holds them; all others are copied to the host.

The kernels need one format and one price per tensor, a score that grows with the magnitude, and Triton, which
comes with CUDA builds of torch. What they choose is what the host would.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from cwmp.selection.rules import RANDOM, SCORES, Rule
from cwmp.selection.update import present_in, prices_of

if TYPE_CHECKING:
    from cwmp.selection.gpu_passes import GpuPasses

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
    if not first.is_cuda or find_spec("triton") is None:
        return None
    return passes_if_ranked(present, costs, rule)


def passes_if_ranked(
    present: Mapping[str, Tensor], costs: Mapping[str, float | Tensor], rule: Rule
) -> GpuPasses | None:
    """The same wherever Triton's kernels run; None if the update or the rule is not of their kind."""
    kind = next((score for name, score in SCORES.items() if name == rule), RANDOM)
    first = next(iter(present.values()))
    alike = all(part.dtype == first.dtype and part.device == first.device for part in present.values())
    if kind == RANDOM or not alike or first.dtype not in FORMATS:
        return None
    prices = [prices_of(name, gradient, costs[name])[0] for name, gradient in present.items()]
    if any(price.size > 1 for price in prices):
        return None
    from cwmp.selection.gpu_passes import GpuPasses
    from cwmp.selection.gpu_update import GpuUpdate

    return GpuPasses(GpuUpdate(present, [float(price[0]) for price in prices], kind=kind))
