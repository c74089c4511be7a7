"""CostVector: joules of keeping one gradient coordinate of each tensor, and of whole masks.

After backprop the gradient exists; computing it is sunk. What a client then does splits in two:

    fixed      scan every gradient, three launches per tensor, waking the link, a header: off the budget first
    marginal   pack, apply and send what is kept: the price of a coordinate

Three levels of detail: ``prices_j`` (one number per tensor at a stated density), ``block`` (open a line, then
each element), and ``evaluate`` (the lines that a mask really touches).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration_data import TERMS, Provenance, UsageError, Work
from cost_models import CostModel, Estimate
from cwmp.links import Link, named_link
from cwmp.op_counts import HEADER_BYTES, IndexCoding, Phase, Touched, count_touched, index_bytes
from cwmp.pricing import Boundary, Pricing, TensorCost, added, total_work
from cwmp.tensors import TensorLayout, trainable_tensors
from cwmp.work_table import UnitWork, WorkTable

if TYPE_CHECKING:
    from cwmp.selection.result import BitMask, Mask

_NOTHING = Touched(kept=0, lines=0, rows=0)


@dataclass(frozen=True, kw_only=True)
class MaskCost:
    """What keeping exactly these coordinates costs.

    Attributes:
        touched: coordinates, lines and rows of every tensor.
        works: exact work by phase, with its seconds, of each of them.
        marginal_work: their sum.
        pricing: of the cost vector.
        uplink_j: joules of sending all but the header, zero where the link is outside the boundary.
        total_j: joules of everything, what is fixed included.
        priced_j: Σ price·kept, to see how well the prices at their stated density describe this mask.
        payload_bytes: of the message; exactly its length if it is known for every tensor which coordinates
            are kept, expected where only their number is.
    """

    touched: Mapping[str, Touched]
    works: Mapping[Phase, WorkTable] = field(compare=False, repr=False)
    marginal_work: Work
    pricing: Pricing = field(repr=False)
    uplink_j: Estimate
    total_j: Estimate
    priced_j: float
    payload_bytes: float

    @property
    def kept(self) -> float:
        """Number of kept coordinates."""
        return sum(touched.kept for touched in self.touched.values())

    @cached_property
    def update_j(self) -> Estimate:
        """Joules of packing and applying."""
        return self.pricing.model.predict_j(self.marginal_work)

    @property
    def marginal_j(self) -> Estimate:
        """Those and the uplink's: what the prices approximate."""
        return added(self.update_j, self.uplink_j)

    @property
    def work(self) -> dict[str, dict[Phase, Work]]:
        """The works by tensor and phase."""
        return {
            name: {phase: table[place] for phase, table in self.works.items()}
            for place, name in enumerate(self.touched)
        }

    def phase_work(self, phase: Phase) -> Work:
        """Work of one phase over all tensors."""
        return self.works[phase].total


@dataclass(frozen=True, kw_only=True)
class CostVector:
    """Prices of a network's gradient coordinates on one device.

    Attributes:
        tensors: cost by tensor name, in the order of the network.
        pricing: everything but the network that decides the prices.
        units: what ``Pricing.marginal_work`` multiplies.
        fixed_work: work that is done whatever is kept, with its seconds.
        fixed_j: its joules and those of waking the link.
    """

    tensors: Mapping[str, TensorCost]
    pricing: Pricing
    units: UnitWork = field(compare=False, repr=False)
    fixed_work: Work
    fixed_j: Estimate

    @cached_property
    def var_ln_c(self) -> float:
        """Variance of ln(price) over all coordinates: how much there is to gain from prices."""
        return _variance_of_log(self.tensors.values())

    @cached_property
    def provenance(self) -> Provenance:
        """The worst of the parts."""
        return self.pricing.provenance(self._works())

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        return self.pricing.notes(self._works())

    @property
    def boundary(self) -> Boundary:
        """What is inside the joules."""
        return self.pricing.boundary

    @property
    def link(self) -> Link | None:
        """What sends, if sending is inside the boundary."""
        return self.pricing.link

    @property
    def prices_j(self) -> dict[str, float]:
        """Joules per kept coordinate by tensor: the costs that ``select`` takes."""
        return {name: cost.value_j for name, cost in self.tensors.items()}

    @cached_property
    def layouts(self) -> tuple[TensorLayout, ...]:
        """The tensors without their prices."""
        return tuple(cost.layout for cost in self.tensors.values())

    @cached_property
    def coordinates(self) -> int:
        """Number of gradient coordinates."""
        return sum(layout.numel for layout in self.layouts)

    def at_density(self, density: float | Mapping[str, float]) -> CostVector:
        """The same network priced at another density, such as the one that a selection realised.

        Raises:
            UsageError: a density is not in (0, 1], or is missing for a tensor.
        """
        fixed_works = [cost.fixed_work for cost in self.tensors.values()]
        tensors = _tensor_costs(self.layouts, self.pricing, self.units, density, fixed_works)
        return replace(self, tensors=tensors)

    def evaluate(self, kept: Mapping[str, Mask | Touched]) -> MaskCost:
        """Joules of exactly these coordinates, by the lines that they touch.

        Args:
            kept: by tensor name a mask in the tensor's shape, as booleans or as a selection has it, or counts
                of coordinates, lines and rows. A tensor without either keeps nothing.

        Raises:
            UsageError: a name is unknown, a mask has another shape, or a count is impossible.
        """
        from cwmp.selection.result import as_bits  # compiles kernels

        # A tensor of no element has no coordinate, and no cost here.
        parts = {
            name: part if isinstance(part, Touched) else as_bits(part)
            for name, part in kept.items()
            if isinstance(part, Touched) or part.shape.numel()
        }
        given = {name: self._touched(name, part) for name, part in parts.items()}
        touched = {name: given.get(name, _NOTHING) for name in self.tensors}
        full = sum(part.kept for part in touched.values()) == self.coordinates
        counted = any(isinstance(part, Touched) for part in parts.values())
        if full and not counted and list(parts) == list(self.tensors):
            return self._cost_of_everything
        return self._cost(touched, 0.0 if full else self._index_bytes(parts, touched), full=full)

    @cached_property
    def _cost_of_everything(self) -> MaskCost:
        masks = {name: torch.ones(cost.layout.shape, dtype=torch.bool) for name, cost in self.tensors.items()}
        touched = {name: self._touched(name, mask) for name, mask in masks.items()}
        return self._cost(touched, 0.0, full=True)

    def _cost(self, touched: Mapping[str, Touched], coded_bytes: float, *, full: bool) -> MaskCost:
        """What touching so much costs, with so many bytes of indices."""
        pricing = self.pricing
        parts, costs = list(touched.values()), list(self.tensors.values())
        densities = [
            part.kept / cost.layout.numel or cost.density for part, cost in zip(parts, costs, strict=True)
        ]
        works = pricing.marginal_work(self.layouts, self.units, parts, densities, full_message=full)
        # Pack and apply of one tensor after the other.
        in_order = np.stack([works["pack"].amounts, works["apply"].amounts], axis=1)
        marginal_work = WorkTable(in_order.reshape(-1, len(TERMS))).total
        content_bytes = self._value_bytes(touched) + coded_bytes
        uplink_j, fixed_link_j = pricing.uplink_j(content_bytes), pricing.fixed_link_j()
        on_device_j = pricing.model.predict_j(self.fixed_work + marginal_work)
        link_j = Estimate(
            value=uplink_j.value + fixed_link_j.value,
            # One figure scales both, so their uncertainties add.
            standard_uncertainty=uplink_j.standard_uncertainty + fixed_link_j.standard_uncertainty,
        )
        return MaskCost(
            touched=MappingProxyType(touched),
            works=MappingProxyType(works),
            marginal_work=marginal_work,
            pricing=pricing,
            uplink_j=uplink_j,
            total_j=added(on_device_j, link_j),
            priced_j=sum(part.kept * cost.value_j for part, cost in zip(parts, costs, strict=True)),
            payload_bytes=HEADER_BYTES[pricing.index_coding] + content_bytes,
        )

    def _works(self) -> list[Work]:
        return [self.fixed_work, *(work for cost in self.tensors.values() for work in cost.work.values())]

    def _value_bytes(self, touched: Mapping[str, Touched]) -> float:
        return sum(part.kept * self.tensors[name].layout.element_bytes for name, part in touched.items())

    def _index_bytes(self, kept: Mapping[str, BitMask | Touched], touched: Mapping[str, Touched]) -> float:
        """Bytes of the indices of a message that is not full."""
        coding = self.pricing.index_coding
        masks = {name: mask for name, mask in kept.items() if not isinstance(mask, Touched)}
        if coding == "golomb" and len(masks) == len(kept):
            from cwmp.index_coding import coded_bytes  # compiles kernels

            return coded_bytes(self._numbers(masks))
        return sum(
            part.kept * index_bytes(coding, part.kept / self.tensors[name].layout.numel)
            for name, part in touched.items()
            if part.kept
        )

    def _numbers(self, masks: Mapping[str, BitMask]) -> NDArray[np.int64]:
        """Numbers of the kept coordinates, ascending through the network."""
        from cwmp.selection.mask_bits import coordinates_of  # compiles kernels

        parts, before = [np.empty(0, dtype=np.int64)], 0
        for layout in self.layouts:
            if layout.name in masks:
                bits = masks[layout.name]
                parts.append(coordinates_of(bits.words, bits.kept) + before)
            before += layout.numel
        return np.concatenate(parts)

    def _touched(self, name: str, kept: Mask | Touched) -> Touched:
        if name not in self.tensors:
            raise UsageError(
                f"The cost vector has no tensor {name}.",
                next_step="Use a cost vector of the same network as the masks.",
            )
        layout = self.tensors[name].layout
        if isinstance(kept, Touched):
            if not 0 <= kept.kept <= layout.numel:
                raise UsageError(
                    f"{name} has {layout.numel} coordinates, so {kept.kept} cannot be kept.",
                    next_step="Use a cost vector of the same network as the counts.",
                )
            return kept
        if tuple(kept.shape) != layout.shape:
            raise UsageError(
                f"The mask of {name} has shape {tuple(kept.shape)}, the tensor {layout.shape}.",
                next_step="Use a cost vector of the same network as the masks.",
            )
        return count_touched(layout, self.pricing.memory, kept)


def cost_vector(
    source: nn.Module | Mapping[str, Tensor],
    model: CostModel,
    *,
    boundary: Boundary,
    density: float | Mapping[str, float],
    link: Link | str | None = None,
    optimizer_streams: int = 0,
    index_coding: IndexCoding = "raw32",
) -> CostVector:
    """Price the gradient coordinates of a network.

    Args:
        source: any network with trainable parameters, or tensors by name.
        model: costs of elementary operations on the device.
        boundary: what is inside the joules; ``update+uplink`` needs a link.
        density: expected kept fraction, in (0, 1], for all tensors or by tensor name; neighbours share lines.
        link: what sends, or the name of one in ``LINKS``.
        optimizer_streams: optimiser states per weight: 0 SGD, 1 momentum, 2 Adam, 3 AMSGrad.
        index_coding: how the message says which coordinate a value belongs to.

    Raises:
        EmptyNetworkError: nothing is trainable.
        MissingCoefficientError: the model does not know a cost or a rate that is needed.
        UnknownMemoryError: the model does not say how large the caches are.
        InvalidCostError: a coordinate would cost nothing.
        UsageError: boundary and link do not fit, or a density, the coding or the optimiser is impossible.
    """
    pricing = Pricing(
        model=model,
        boundary=boundary,
        link=named_link(link) if isinstance(link, str) else link,
        index_coding=index_coding,
        optimizer_streams=optimizer_streams,
    )
    layouts = trainable_tensors(source)
    units = pricing.unit_work(layouts)
    fixed_works = [pricing.fixed_work(layout) for layout in layouts]
    fixed_work = total_work(fixed_works)
    return CostVector(
        tensors=_tensor_costs(layouts, pricing, units, density, fixed_works),
        pricing=pricing,
        units=units,
        fixed_work=fixed_work,
        fixed_j=added(pricing.model.predict_j(fixed_work), pricing.fixed_link_j()),
    )


def _tensor_costs(
    layouts: Sequence[TensorLayout],
    pricing: Pricing,
    units: UnitWork,
    density: float | Mapping[str, float],
    fixed_works: Sequence[Work],
) -> Mapping[str, TensorCost]:
    densities = list(_densities(layouts, density).values())
    costs = pricing.tensor_costs(layouts, densities, units=units, fixed_works=fixed_works)
    return MappingProxyType({cost.layout.name: cost for cost in costs})


def _densities(layouts: Sequence[TensorLayout], density: float | Mapping[str, float]) -> dict[str, float]:
    densities = {
        layout.name: density.get(layout.name) if isinstance(density, Mapping) else density
        for layout in layouts
    }
    known = {name: value for name, value in densities.items() if value is not None and 0 < value <= 1}
    wrong = [name for name in densities if name not in known]
    if wrong:
        raise UsageError(
            f"The density of {wrong[0]} must be above 0 and at most 1, got {densities[wrong[0]]}.",
            next_step="Give the fraction of its coordinates that will be kept, such as 0.01.",
        )
    return known


def _variance_of_log(costs: Iterable[TensorCost]) -> float:
    """Variance of ln(price) over coordinates, every coordinate counting once."""
    prices = [(cost.layout.numel, cost.value_j) for cost in costs]
    # Relative to one of them, so that equal prices give exactly zero.
    items = [(numel, math.log(price / prices[0][1])) for numel, price in prices]
    count = sum(numel for numel, _ in items)
    mean = sum(numel * value for numel, value in items) / count
    return sum(numel * (value - mean) ** 2 for numel, value in items) / count
