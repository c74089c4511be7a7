"""What is to be selected from: every tensor's elements as integers, and a price per run of neighbours.

Nothing is concatenated, and no price is expanded: a price that is constant over a tensor or over its rows
stays one number per tensor or row. Gradients that are not contiguous in row-major order, or live on another
device than the CPU, are copied.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import EmptyNetworkError, InvalidCostError
from cwmp.selection.compiled import compiled
from cwmp.selection.exact import to_units

FORMATS: Mapping[torch.dtype, tuple[torch.dtype, type[np.generic], type[np.generic]]] = {
    torch.float32: (torch.int32, np.int32, np.float32),
    torch.float64: (torch.int64, np.int64, np.float64),
    torch.bfloat16: (torch.int16, np.int16, np.float32),
    torch.float16: (torch.int16, np.uint16, np.float32),
}
"""By dtype: the integers of torch and of the kernels, and the precision of sums."""

LARGEST_SQUARABLE = math.sqrt(np.finfo(np.float64).max / 2**62)
"""The largest magnitude of which any number of squares can be added up in float64."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One tensor of an update.

    Attributes:
        name: of the tensor.
        shape: its shape.
        device: where its gradient lives.
        bits: its elements as integers, shape (numel,), in the form that the kernels read.
        precision: of sums over it.
        prices: joules per coordinate of each row, float64 (or float32 where each coordinate has its own).
        row: coordinates per price.
        offset: of its first coordinate among all.
    """

    name: str
    shape: torch.Size
    device: torch.device
    bits: NDArray[Any]
    precision: type[np.generic]
    prices: NDArray[Any]
    row: int
    offset: int

    @property
    def numel(self) -> int:
        """Number of coordinates."""
        return self.bits.size

    @property
    def words(self) -> int:
        """Number of 64-bit words of its mask."""
        return -(-self.numel // 64)

    @property
    def largest(self) -> float:
        """Magnitude beyond which a gradient is infinite or cannot be squared."""
        return LARGEST_SQUARABLE if self.precision is np.float64 else float(np.finfo(np.float32).max)

    @cached_property
    def price_units(self) -> int | None:
        """Its one price, exactly; None if there are several."""
        return to_units(float(self.prices[0])) if self.prices.size == 1 else None

    def prices_at(self, coordinates: NDArray[np.int64]) -> NDArray[np.float64]:
        """Joules of some coordinates."""
        if self.prices.size == 1:
            return np.full(coordinates.size, self.prices[0], dtype=np.float64)
        rows = coordinates if self.row == 1 else coordinates // self.row
        return self.prices[rows].astype(np.float64)

    def magnitudes_at(self, coordinates: NDArray[np.int64]) -> NDArray[np.float64]:
        """|g| of some coordinates."""
        bits = self.bits[coordinates]
        if self.bits.dtype == np.int16:
            return np.abs((bits.astype(np.int32) << 16).view(np.float32)).astype(np.float64)
        real = {np.dtype(np.uint16): np.float16, np.dtype(np.int32): np.float32}
        return np.abs(bits.view(real.get(self.bits.dtype, np.float64)).astype(np.float64))

    def finite_magnitudes(self) -> NDArray[np.float64]:
        """|g| of every coordinate, zero where it cannot be squared."""
        magnitudes = self.magnitudes_at(np.arange(self.numel))
        return np.where(magnitudes <= self.largest, magnitudes, 0.0)

    def clear_wrong(self, words: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Take what is not finite out of a mask; its coordinates."""
        magnitudes = self.magnitudes_at(np.arange(self.numel))
        wrong = np.flatnonzero(~(magnitudes <= self.largest))
        np.bitwise_and.at(words, wrong // 64, ~(np.uint64(1) << (wrong % 64).astype(np.uint64)))
        return wrong


def parts_of(gradients: Mapping[str, Tensor], costs: Mapping[str, float | Tensor]) -> tuple[Part, ...]:
    """Check an update and its costs, and look at both without copying what need not be copied.

    Raises:
        EmptyNetworkError: there is no coordinate.
        InvalidCostError: a cost is zero, negative or not finite.
        UsageError: a gradient is of no format that can be ranked, or a cost is missing or has another shape.
    """
    parts, offset = [], 0
    for name, gradient in present_in(gradients, costs).items():
        parts.append(_part(name, gradient, costs[name], offset))
        offset += gradient.numel()
    return tuple(parts)


def present_in(gradients: Mapping[str, Tensor], costs: Mapping[str, float | Tensor]) -> Mapping[str, Tensor]:
    """The tensors that hold anything, after a look at formats and names.

    Raises:
        EmptyNetworkError: there is no coordinate.
        UsageError: a gradient is of no format that can be ranked, or a cost is missing.
    """
    for name, gradient in gradients.items():
        problem = _why_unranked(gradient)
        if problem:
            raise UsageError(
                f"The gradient of {name} is no tensor that can be ranked: {problem}.",
                next_step=f"Give dense {', '.join(map(str, FORMATS))}; leave out what has no gradient.",
            )
    present = {name: gradient for name, gradient in gradients.items() if gradient.numel()}
    if not present:
        raise EmptyNetworkError(
            "There is no gradient coordinate to select from.",
            next_step="Give the gradients of at least one trainable parameter.",
        )
    missing = [name for name in present if name not in costs]
    if missing:
        raise UsageError(
            f"There is no cost for {', '.join(missing)}.",
            next_step="Make the cost vector from the same network as the gradients.",
        )
    return present


def _why_unranked(gradient: object) -> str | None:
    if not isinstance(gradient, Tensor):
        return type(gradient).__name__
    if gradient.dtype not in FORMATS:
        return str(gradient.dtype)
    if gradient.layout != torch.strided or gradient.is_meta:
        return "it has no values" if gradient.is_meta else str(gradient.layout)
    return None


def _part(name: str, gradient: Tensor, cost: float | Tensor, offset: int) -> Part:
    integers, read_as, precision = FORMATS[gradient.dtype]
    flat = gradient.detach().cpu().contiguous().reshape(-1)
    prices, row = prices_of(name, gradient, cost)
    return Part(
        name=name,
        shape=gradient.shape,
        device=gradient.device,
        bits=flat.view(integers).numpy().view(read_as),
        precision=precision,
        prices=prices,
        row=row,
        offset=offset,
    )


def prices_of(name: str, gradient: Tensor, cost: float | Tensor) -> tuple[NDArray[Any], int]:
    """Prices of rows that are as long as possible, and their length.

    Raises:
        InvalidCostError: a cost is zero, negative or not finite.
        UsageError: the cost has another shape.
    """
    if isinstance(cost, (int, float)):
        prices = np.array([cost], dtype=np.float64)
        _check(name, prices)
        return prices, gradient.numel()
    given = torch.as_tensor(cost).detach().cpu()
    if given.dtype != torch.float32:
        given = given.to(torch.float64)
    try:
        expanded = given.broadcast_to(gradient.shape)
    except RuntimeError as error:
        raise UsageError(
            f"The costs of {name} have shape {tuple(given.shape)}, its gradient {tuple(gradient.shape)}.",
            next_step="Give one cost, or costs that broadcast to the gradient.",
        ) from error
    row = 1
    while expanded.dim() and (expanded.stride(-1) == 0 or expanded.shape[-1] == 1):
        row *= expanded.shape[-1]
        expanded = expanded[..., 0]
    prices = expanded.contiguous().reshape(-1).numpy()
    if row > 1 or prices.size == 1:
        prices = prices.astype(np.float64, copy=False)
    _check(name, prices)
    return prices, row


def _check(name: str, prices: NDArray[Any]) -> None:
    wrong = _count_wrong(prices)
    if wrong:
        example = float(prices[~((prices > 0) & (prices < math.inf))][0])
        raise InvalidCostError(
            f"{wrong} costs of {name} are zero, negative or not finite, such as {example} J.",
            next_step="A coordinate that costs nothing has no place in a budget; check the cost model.",
        )


@compiled
def _count_wrong(prices: Any) -> int:
    wrong = 0
    for index in range(prices.size):
        wrong += not ((prices[index] > 0.0) & (prices[index] < np.inf))  # without a branch: in lanes
    return wrong
