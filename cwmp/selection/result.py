"""Selection: which coordinates are kept, what they cost, and how good the choice is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from calibration_data import UsageError
from cwmp.selection.mask_bits import (
    Words,
    coordinates_of,
    expanded,
    groups_with_bits,
    packed_bits,
    unpacked,
)
from cwmp.selection.rules import Rule


@dataclass(frozen=True, kw_only=True)
class TensorMask:
    """Which coordinates of one tensor are kept, one bit each.

    Attributes:
        words: coordinate i, in row-major order, is bit i % 64 of word i // 64; uint64.
        shape: of the tensor.
        device: of the tensor.
        kept: number of bits that are set.
    """

    words: Words
    shape: torch.Size
    device: torch.device
    kept: int

    def indices(self) -> Tensor:
        """The kept coordinates in row-major order, ascending, int64, shape (kept,)."""
        return torch.from_numpy(coordinates_of(self.words, self.kept)).to(self.device)

    def groups(self, size: int) -> int:
        """Number of groups of so many neighbours, in row-major order, with anything kept in them."""
        return groups_with_bits(self.words, size)

    def booleans(self) -> Tensor:
        """True where the coordinate is kept; shape and device of the tensor, one byte per coordinate."""
        return expanded(self.words, self.shape).to(self.device)


@dataclass(frozen=True, kw_only=True)
class DeviceMask:
    """The same of a tensor on a GPU; the bits stay there until ``words`` is asked for.

    Attributes:
        bits: coordinate i, in row-major order, is bit i % 32 of word i // 32; int32, on the device.
        shape: of the tensor.
        kept: number of bits that are set.
    """

    bits: Tensor
    shape: torch.Size
    kept: int

    @property
    def device(self) -> torch.device:
        """Of the tensor."""
        return self.bits.device

    @cached_property
    def words(self) -> Words:
        """On the host, as ``TensorMask`` has them."""
        words: Words = self.bits.cpu().numpy().view(np.uint64)
        return words

    def indices(self) -> Tensor:
        """The kept coordinates in row-major order, ascending, int64, shape (kept,)."""
        return self._flat().nonzero().squeeze(1)

    def groups(self, size: int) -> int:
        """Number of groups of so many neighbours, in row-major order, with anything kept in them."""
        return groups_with_bits(self.words, size)

    def booleans(self) -> Tensor:
        """True where the coordinate is kept; shape and device of the tensor, one byte per coordinate."""
        return self._flat().reshape(self.shape)

    def _flat(self) -> Tensor:
        return unpacked(self.bits, self.shape.numel())


BitMask = TensorMask | DeviceMask
Mask = Tensor | BitMask
"""Which coordinates of a tensor are kept: booleans in its shape, or bits."""


def as_bits(mask: Mask) -> BitMask:
    """A mask with a bit for each coordinate."""
    if not isinstance(mask, Tensor):
        return mask
    words = packed_bits(mask.reshape(-1).cpu().numpy())
    return TensorMask(words=words, shape=mask.shape, device=mask.device, kept=int(mask.count_nonzero()))


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """How far the choice can be from the best one within the budget.

    Attributes:
        measure: what the rule keeps as much as possible of: the squared norm, or the absolute sum.
        bound: what no selection within the budget can exceed: the optimum of the linear relaxation.
        achieved: what was kept.
    """

    measure: str
    bound: float
    achieved: float

    @property
    def gap(self) -> float:
        """Bound minus achieved."""
        return max(self.bound - self.achieved, 0.0)

    @property
    def relative_gap(self) -> float:
        """Gap as a share of the bound; 0 where nothing could be kept."""
        return self.gap / self.bound if self.bound else 0.0


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The coordinates to keep, what they cost, and how good the choice is.

    Attributes:
        rule: how they were ranked.
        bitmasks: kept coordinates by tensor.
        budget_j: joules that could be spent.
        spent_j: summed cost of the kept coordinates, in joules.
        kept: number of kept coordinates.
        coordinates: number of all coordinates.
        retained_squared_norm: Σ g² over the kept coordinates; of updates that are not small within 4e-6 and
            usually 1e-8, for runs of 64 squares are summed in the precision of the gradient.
        total_squared_norm: Σ g² over all, equally.
        threshold: λ, the score of the first ranked coordinate that was left out, 0 if none was: every kept
            score is at least λ, every other one at most. None for the rules without a score.
        certificate: None for the rules that promise nothing.
        passes: how often the gradient was read to find λ; None where that was not counted.
        dropped: coordinates that are NaN, infinite or too large to be squared, and were left out.
        warnings: what the caller must know.
    """

    rule: Rule
    bitmasks: Mapping[str, TensorMask | DeviceMask]
    budget_j: float
    spent_j: float
    kept: int
    coordinates: int
    retained_squared_norm: float
    total_squared_norm: float
    threshold: float | None
    certificate: Certificate | None
    passes: int | None
    dropped: int = 0
    warnings: tuple[str, ...] = ()

    @property
    def within_budget(self) -> bool:
        """Whether the selection costs no more than the budget; only ``dense`` can exceed it."""
        return self.spent_j <= max(self.budget_j, 0.0)

    @property
    def retained_fraction(self) -> float:
        """Kept share of the squared norm; 1 where every gradient is zero, because nothing is lost."""
        if not self.total_squared_norm:
            return 1.0
        return min(self.retained_squared_norm / self.total_squared_norm, 1.0)

    @property
    def density(self) -> float:
        """Kept fraction of all coordinates."""
        return self.kept / self.coordinates

    @property
    def kept_all_but_zeros(self) -> bool:
        """Whether nothing was left out but gradients that are zero, or too small for ``threshold``."""
        return self.threshold == 0 or self.rule == "dense"

    @cached_property
    def density_by_tensor(self) -> Mapping[str, float]:
        """Kept fraction of each tensor."""
        return MappingProxyType(
            {name: mask.kept / max(mask.shape.numel(), 1) for name, mask in self.bitmasks.items()}
        )

    @cached_property
    def masks(self) -> Mapping[str, Tensor]:
        """By tensor, True where the coordinate is kept; made when first asked for, a byte per coordinate."""
        return MappingProxyType({name: mask.booleans() for name, mask in self.bitmasks.items()})

    def sparse(self, gradients: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
        """Indices and values of the kept coordinates by tensor, both of shape (kept,).

        Raises:
            UsageError: a tensor that was selected from is missing or has another shape.
        """
        pairs = {}
        for name, mask in self.bitmasks.items():
            if name not in gradients or gradients[name].shape != mask.shape:
                raise UsageError(
                    f"There is no gradient of {name} with the shape {tuple(mask.shape)}.",
                    next_step="Give the gradients that were selected from.",
                )
            indices = mask.indices()
            pairs[name] = (indices, gradients[name].detach().reshape(-1)[indices])
        return pairs
