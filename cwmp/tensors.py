"""What pricing must know of a network: each trainable tensor's size, dtype, and where in memory it lives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from calibration_data import MemoryHierarchy, UsageError
from cwmp.errors import EmptyNetworkError

if TYPE_CHECKING:
    from cwmp.selection.result import Mask

FLOP_TERMS: Mapping[torch.dtype, str] = {
    torch.float64: "flop_fp64",
    torch.float32: "flop_fp32",
    torch.bfloat16: "flop_bf16",
    torch.float16: "flop_fp16",
}


@dataclass(frozen=True, kw_only=True)
class TensorLayout:
    """One trainable tensor; its gradient has the same shape and dtype.

    Attributes:
        name: as in ``named_parameters``.
        shape: lengths of its dimensions.
        numel: number of its gradient coordinates.
        element_bytes: size of one element.
        flop_term: term of the energy model for arithmetic in its dtype.
    """

    name: str
    shape: tuple[int, ...]
    numel: int
    element_bytes: int
    flop_term: str


def trainable_tensors(source: nn.Module | Mapping[str, Tensor]) -> tuple[TensorLayout, ...]:
    """Layouts of a network's trainable parameters, or of tensors by name, in their order.

    A parameter that two modules share counts once; one that needs no gradient has no coordinate.

    Raises:
        EmptyNetworkError: nothing is trainable.
        UsageError: a parameter is not initialised yet, or its dtype is none of the energy model.
    """
    named = source.named_parameters() if isinstance(source, nn.Module) else source.items()
    is_network = isinstance(source, nn.Module)
    tensors = {name: tensor for name, tensor in named if tensor.requires_grad or not is_network}
    for name, tensor in tensors.items():
        if is_lazy(tensor):
            raise UsageError(
                f"The parameter {name} has no shape yet.", next_step="Run the network once on a batch first."
            )
        if tensor.dtype not in FLOP_TERMS:
            raise UsageError(
                f"The parameter {name} has the dtype {tensor.dtype}, for which there is no term.",
                next_step=f"Use one of {', '.join(str(dtype) for dtype in FLOP_TERMS)}.",
            )
    layouts = tuple(_layout(name, tensor) for name, tensor in tensors.items() if tensor.numel())
    if not layouts:
        raise EmptyNetworkError(
            "The network has no trainable parameter.", next_step="Give a network that can be trained."
        )
    return layouts


def residence(layout: TensorLayout, memory: MemoryHierarchy, optimizer_streams: int) -> str:
    """The smallest level that holds the tensor's footprint: gradient, weight and optimiser state together.

    Tensors are processed one after the other, so each has the caches to itself; what backprop left in them
    is assumed to still be there. ``l1_bytes`` is of one core: a tensor that only all cores' first levels
    together could hold counts as living in the second.
    """
    footprint_bytes = (2 + optimizer_streams) * layout.numel * layout.element_bytes
    sizes = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes or 0}
    return next((level for level in memory.levels[:-1] if footprint_bytes <= sizes[level]), memory.levels[-1])


def expected_groups(numel: int, group: int, density: float) -> float:
    """Expected number of groups of neighbours that one kept coordinate opens, if all are equally likely kept.

    With p the density and m the group: (1 - (1 - p)^m)/(m p), the expected groups with anything kept in
    them over the expected coordinates kept; the last group may be shorter. 1 for an isolated coordinate,
    1/m for a dense tensor.

    Args:
        numel: coordinates of the tensor.
        group: coordinates of a group: of a cache line, or of a DRAM row.
        density: kept fraction, in (0, 1].
    """
    whole, rest = divmod(numel, group)
    opened = whole * (1 - (1 - density) ** group) + (1 - (1 - density) ** rest)
    return opened / (numel * density)


def touched_groups(mask: Mask, group: int) -> int:
    """Number of groups of neighbours, in row-major order, with anything kept in them."""
    if isinstance(mask, Tensor):
        from cwmp.selection.result import as_bits  # compiles kernels

        mask = as_bits(mask)
    return mask.groups(group)


def _layout(name: str, tensor: Tensor) -> TensorLayout:
    return TensorLayout(
        name=name,
        shape=tuple(tensor.shape),
        numel=tensor.numel(),
        element_bytes=tensor.element_size(),
        flop_term=FLOP_TERMS[tensor.dtype],
    )
