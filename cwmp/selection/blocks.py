"""``cwmp-block``: what to keep where neighbours share the cost of the line that they lie in.

    λ at which the budget ends on a sample of lines       a bracket
    one pass at the upper end                             what is surely kept
    one pass that lists the steps inside the bracket      sorted by λ; the longest affordable prefix is kept

A bracket that does not hold the budget is moved or halved. The choice is optimal for the joules that it
happens to spend, up to the one step that did not fit: the certificate bounds what that can cost. Where that
is not negligible, ``cwmp`` with its scalar prices may do better by luck; then its choice is taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import InvalidCostError, NonFiniteGradientError
from cwmp.pricing import BlockPrice
from cwmp.selection.exact import from_units, to_units
from cwmp.selection.limits import Limits
from cwmp.selection.lines import keep_largest, scan_lines, steps_between, weigh_lines
from cwmp.selection.mask_bits import Words, packed_bits
from cwmp.selection.result import Certificate, Selection, TensorMask
from cwmp.selection.update import Part, parts_of

SAMPLED_LINES = 1 << 13
BRACKET = 1.05
NEGLIGIBLE_GAP = 1e-6
"""Of the bound: above it the scalar rule is tried as well."""
SMALLEST_PRICE, LARGEST_PRICE = 1e-300, 1e150
HALVINGS = 64
"""Of a bracket; then two numbers of float64 are neighbours."""

Reals = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class _Priced:
    """A tensor, its price in two parts, and that price in exact units."""

    part: Part
    price: BlockPrice

    @property
    def open_units(self) -> int:
        return to_units(self.price.open_j)

    @property
    def element_units(self) -> int:
        return to_units(self.price.element_j)

    def units(self, lines: int, kept: int) -> int:
        return lines * self.open_units + kept * self.element_units

    def room(self) -> NDArray[np.int32]:
        return np.empty(self.price.line_coordinates, dtype=np.int32)


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Masks and what they cost and keep."""

    words: tuple[Words, ...]
    kept: tuple[int, ...]
    units: int
    retained: float


@dataclass(frozen=True, kw_only=True)
class _Steps:
    """Steps inside a bracket, in the order in which they are taken; arrays of shape (steps,)."""

    tensor: Indices
    price: Reals
    line: Indices
    count: Indices
    added: Indices
    opens: NDArray[np.bool_]


def select_blocks(
    gradients: Mapping[str, Tensor],
    prices: Mapping[str, BlockPrice],
    budget_j: float,
    *,
    scalar_prices_j: Mapping[str, float] | None = None,
) -> Selection:
    """Choose lines and coordinates by what they are worth together.

    Args:
        gradients: gradient by tensor name, float64, float32, bfloat16 or float16.
        prices: by tensor name, joules of a line with anything kept in it and of each kept coordinate, such
            as ``CostVector.tensors[name].block``.
        budget_j: joules for all lines and coordinates together.
        scalar_prices_j: joules per coordinate with which ``cwmp`` would rank; of an isolated one by default.

    Raises:
        EmptyNetworkError: there is no coordinate.
        NonFiniteGradientError: a gradient, or its square, is NaN or infinite.
        InvalidCostError: a price is negative or not finite, or a coordinate would cost nothing.
        UsageError: the budget is not a number, or a price is missing.
    """
    if math.isnan(budget_j):
        raise UsageError("The energy budget is not a number.", next_step="Give a budget in joules.")
    _check(prices)
    alone = {name: price.open_j + price.element_j for name, price in prices.items()}
    parts = parts_of(gradients, alone)
    priced = tuple(_Priced(part=part, price=prices[part.name]) for part in parts)
    limits = Limits.of(budget_j, None)
    total = _total(priced)
    choice, bound, price = _best(priced, limits)
    if bound - choice.retained > NEGLIGIBLE_GAP * bound:
        scalar = _by_scalar_prices(priced, {**alone, **(scalar_prices_j or {})}, limits)
        choice = max(choice, scalar, key=lambda candidate: candidate.retained)
    masks = {
        name: TensorMask(
            words=np.zeros(0, dtype=np.uint64), shape=gradient.shape, device=gradient.device, kept=0
        )
        for name, gradient in gradients.items()
    }
    for part, words, kept in zip(parts, choice.words, choice.kept, strict=True):
        masks[part.name] = replace(masks[part.name], words=words, kept=kept)
    return Selection(
        rule="cwmp-block",
        bitmasks=MappingProxyType(masks),
        budget_j=float(budget_j),
        spent_j=from_units(choice.units),
        kept=sum(choice.kept),
        coordinates=sum(part.numel for part in parts),
        retained_squared_norm=choice.retained,
        total_squared_norm=total,
        threshold=price,
        certificate=Certificate(
            measure="squared norm", bound=max(bound, choice.retained), achieved=choice.retained
        ),
        passes=None,
        warnings=() if any(choice.kept) else ("Nothing is affordable or not zero; nothing is kept.",),
    )


def _check(prices: Mapping[str, BlockPrice]) -> None:
    for name, price in prices.items():
        amounts = (price.open_j, price.element_j)
        sound = all(0 <= amount < math.inf for amount in amounts) and sum(amounts) > 0
        if not sound or price.line_coordinates < 1:
            raise InvalidCostError(
                f"The lines of {name} cost {price.open_j} J to open and {price.element_j} J per coordinate.",
                next_step="Prices are finite and not negative, and a coordinate costs something.",
            )


def _total(priced: Sequence[_Priced]) -> float:
    """Σ g² of everything, which must be finite."""
    squared, wrong = [], {}
    for tensor in priced:
        _, _, _, total, bad = _scan(tensor, math.inf, np.zeros(tensor.part.words, dtype=np.uint64))
        squared.append(total)
        if bad:
            wrong[tensor.part.name] = bad
    if wrong:
        named = ", ".join(f"{name} ({count})" for name, count in wrong.items())
        raise NonFiniteGradientError(
            f"{sum(wrong.values())} gradient coordinates are NaN, infinite or too large to square: {named}.",
            next_step="Lower the learning rate or clip the gradients; no selection was made.",
        )
    return math.fsum(squared)


def _scan(tensor: _Priced, price: float, words: Words) -> tuple[int, int, float, float, int]:
    part, block = tensor.part, tensor.price
    if price == math.inf:  # infinity times a free coordinate would be no number
        price = 1e300 / max(block.open_j + block.element_j, 1e-8)
    result: tuple[int, int, float, float, int] = scan_lines(
        part.bits,
        0,
        part.numel,
        block.line_coordinates,
        block.open_j,
        block.element_j,
        price,
        part.largest,
        words,
        tensor.room(),
    )
    return result


def _at(priced: Sequence[_Priced], price: float) -> _Choice:
    """What is worth it at a price of the joule."""
    words, kept, units, retained = [], [], 0, []
    for tensor in priced:
        mask = np.zeros(tensor.part.words, dtype=np.uint64)
        lines, count, squares, _, _ = _scan(tensor, price, mask) if price < math.inf else (0, 0, 0.0, 0.0, 0)
        words.append(mask)
        kept.append(count)
        retained.append(squares)
        units += tensor.units(lines, count)
    return _Choice(words=tuple(words), kept=tuple(kept), units=units, retained=math.fsum(retained))


def _best(priced: Sequence[_Priced], limits: Limits) -> tuple[_Choice, float, float]:
    """The longest affordable prefix of all steps, the bound, and λ of the first step not taken."""
    guess = _price_on_sample(priced, limits)
    low, high, widening = guess / BRACKET, guess * BRACKET, BRACKET**4
    sure = _at(priced, high)
    while not limits.allow(sure.units, 0):
        low = high
        high = max(high, SMALLEST_PRICE) * widening if high < LARGEST_PRICE else math.inf
        widening = min(widening**2, LARGEST_PRICE)
        sure = _at(priced, high)
    while low > 0:
        below = _at(priced, low)
        if not limits.allow(below.units, 0):
            break
        low, high, sure = (low / widening if low > SMALLEST_PRICE else 0.0), low, below
        widening = min(widening**2, LARGEST_PRICE)
    room = 4096 + sum(part.part.numel for part in priced) // 16
    for _ in range(HALVINGS):
        steps, complete = _steps(priced, low, high, room)
        middle = (low + high) / 2 if high < math.inf else max(2 * low, 1.0)
        if complete or not low < middle < high:
            break
        at_middle = _at(priced, middle)
        if limits.allow(at_middle.units, 0):
            high, sure = middle, at_middle
        else:
            low = middle
    if not complete:
        steps, _ = _steps(priced, low, high, sum(part.part.numel for part in priced))
    return _with_prefix(priced, sure, steps, limits)


def _with_prefix(
    priced: Sequence[_Priced], sure: _Choice, steps: _Steps, limits: Limits
) -> tuple[_Choice, float, float]:
    length = _longest(priced, sure.units, steps, limits)
    while True:
        choice = _taken(priced, sure, steps, length)
        if limits.allow(choice.units, 0) or length == 0:
            break
        length -= 1  # a step on the edge of the bracket was counted by the pass and in the list
    if length == steps.price.size:
        return choice, choice.retained, 0.0
    price = float(steps.price[length])
    rest_j = limits.budget_j - from_units(choice.units)
    return choice, choice.retained + price * max(rest_j, 0.0), price


def _longest(priced: Sequence[_Priced], units: int, steps: _Steps, limits: Limits) -> int:
    low, high = 0, steps.price.size
    while low < high:
        middle = (low + high + 1) // 2
        lines = np.bincount(steps.tensor[:middle], weights=steps.opens[:middle], minlength=len(priced))
        kept = np.bincount(steps.tensor[:middle], weights=steps.added[:middle], minlength=len(priced))
        spent = sum(tensor.units(int(a), int(b)) for tensor, a, b in zip(priced, lines, kept, strict=True))
        low, high = (middle, high) if limits.allow(units + spent, 0) else (low, middle - 1)
    return low


def _taken(priced: Sequence[_Priced], sure: _Choice, steps: _Steps, length: int) -> _Choice:
    """What is surely kept and a prefix of the steps, weighed again as a whole."""
    words = tuple(mask.copy() for mask in sure.words)
    kept, units, retained = [], 0, []
    for number, (tensor, mask) in enumerate(zip(priced, words, strict=True)):
        mine = np.flatnonzero(steps.tensor[:length] == number)
        # Of a line's steps the last one counts.
        lines, last = np.unique(steps.line[:length][mine][::-1], return_index=True)
        counts = steps.count[:length][mine][::-1][last]
        line = tensor.price.line_coordinates
        keep_largest(tensor.part.bits, line, lines, counts, mask, tensor.room())
        opened, count, squares = weigh_lines(tensor.part.bits, line, tensor.part.largest, mask, tensor.room())
        kept.append(count)
        retained.append(squares)
        units += tensor.units(opened, count)
    return _Choice(words=words, kept=tuple(kept), units=units, retained=math.fsum(retained))


def _steps(priced: Sequence[_Priced], low: float, high: float, room: int) -> tuple[_Steps, bool]:
    """Steps with λ in (low, high], sorted; whether there was room for all."""
    columns: list[tuple[Any, ...]] = []
    complete = True
    for number, tensor in enumerate(priced):
        size = min(room, tensor.part.numel)
        price, opens = np.empty(size), np.empty(size, dtype=np.bool_)
        line, count, added = (np.empty(size, dtype=np.int64) for _ in range(3))
        found = steps_between(
            tensor.part.bits,
            tensor.price.line_coordinates,
            tensor.price.open_j,
            tensor.price.element_j,
            low,
            high,
            tensor.part.largest,
            price,
            line,
            count,
            added,
            opens,
            tensor.room(),
        )
        complete = complete and found <= size
        columns.append((np.full(size, number), price, line, count, added, opens))
        columns[-1] = tuple(column[: min(found, size)] for column in columns[-1])
    joined = [np.concatenate(column) for column in zip(*columns, strict=True)]
    order = np.argsort(-joined[1], kind="stable")
    tensor_of, price, line, count, added, opens = (column[order] for column in joined)
    steps = _Steps(tensor=tensor_of, price=price, line=line, count=count, added=added, opens=opens)
    return steps, complete


def _price_on_sample(priced: Sequence[_Priced], limits: Limits) -> float:
    """λ at which a sample of lines would spend its share of the budget; 0 if it never does."""
    sampled, weights = [], []
    numel = sum(tensor.part.numel for tensor in priced)
    for tensor in priced:
        line = tensor.price.line_coordinates
        lines = max(tensor.part.numel // line, 1)
        wanted = min(lines, max(SAMPLED_LINES * tensor.part.numel // numel, 16))
        starts = np.linspace(0, lines, wanted, endpoint=False).astype(np.int64) * line
        places = (starts[:, None] + np.arange(line)).reshape(-1)
        places = places[places < tensor.part.numel]
        bits = np.ascontiguousarray(tensor.part.bits[places])
        sampled.append(replace(tensor, part=replace(tensor.part, bits=bits)))
        weights.append(tensor.part.numel / places.size)

    def spent_j(price: float) -> float:
        total = 0.0
        for tensor, weight in zip(sampled, weights, strict=True):
            lines, kept, *_ = _scan(tensor, price, np.zeros(tensor.part.words, dtype=np.uint64))
            total += weight * (lines * tensor.price.open_j + kept * tensor.price.element_j)
        return total

    low, high = 1e-300, 1e300
    if spent_j(low) <= limits.budget_j:
        return 0.0
    while high / low > 1.001:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (middle, high) if spent_j(middle) > limits.budget_j else (low, middle)
    return high


def _by_scalar_prices(priced: Sequence[_Priced], prices_j: Mapping[str, float], limits: Limits) -> _Choice:
    """The longest prefix of the order of ``cwmp`` that is affordable by lines and coordinates."""
    squares = [
        np.square(tensor.part.magnitudes_at(np.arange(tensor.part.numel, dtype=np.int64)))
        for tensor in priced
    ]
    score = np.concatenate(
        [square / prices_j[tensor.part.name] for square, tensor in zip(squares, priced, strict=True)]
    )
    tensor_of = np.repeat(np.arange(len(priced)), [square.size for square in squares])
    first_line = np.cumsum(
        [0] + [-(-tensor.part.numel // tensor.price.line_coordinates) for tensor in priced]
    )
    line_of = np.concatenate(
        [
            first_line[number] + np.arange(tensor.part.numel) // tensor.price.line_coordinates
            for number, tensor in enumerate(priced)
        ]
    )
    order = np.argsort(-score, kind="stable")
    order = order[np.concatenate(squares)[order] > 0]
    opens = np.zeros(order.size, dtype=np.bool_)
    opens[np.unique(line_of[order], return_index=True)[1]] = True

    def units(length: int) -> int:
        lines = np.bincount(tensor_of[order[:length]], weights=opens[:length], minlength=len(priced))
        kept = np.bincount(tensor_of[order[:length]], minlength=len(priced))
        return sum(tensor.units(int(a), int(b)) for tensor, a, b in zip(priced, lines, kept, strict=True))

    low, high = 0, order.size
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if limits.allow(units(middle), 0) else (low, middle - 1)
    mask = np.zeros(tensor_of.size, dtype=np.bool_)
    mask[order[:low]] = True
    masks = np.split(mask, np.cumsum([square.size for square in squares])[:-1])
    return _Choice(
        words=tuple(packed_bits(part) for part in masks),
        kept=tuple(int(part.sum()) for part in masks),
        units=units(low),
        retained=math.fsum(float(square[part].sum()) for square, part in zip(squares, masks, strict=True)),
    )
