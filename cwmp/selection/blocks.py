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
from dataclasses import replace
from types import MappingProxyType

import numpy as np
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import InvalidCostError, NonFiniteGradientError
from cwmp.pricing import BlockPrice
from cwmp.selection.exact import from_units
from cwmp.selection.limits import Limits
from cwmp.selection.line_scan import BlockChoice, LineScanner, Priced, Steps
from cwmp.selection.lines import keep_largest, weigh_lines
from cwmp.selection.mask_bits import packed_bits
from cwmp.selection.result import Certificate, Selection, TensorMask
from cwmp.selection.scan import default_threads
from cwmp.selection.selector import NonFinite, check_nonfinite, left_out
from cwmp.selection.update import parts_of

SAMPLED_LINES = 1 << 13
BRACKET = 1.05
NEGLIGIBLE_GAP = 1e-6
"""Of the bound: above it the scalar rule is tried as well."""
SMALLEST_PRICE, LARGEST_PRICE = 1e-300, 1e150
HALVINGS = 64
"""Of a bracket; then two numbers of float64 are neighbours."""


def select_blocks(
    gradients: Mapping[str, Tensor],
    prices: Mapping[str, BlockPrice],
    budget_j: float,
    *,
    scalar_prices_j: Mapping[str, float] | None = None,
    nonfinite: NonFinite = "raise",
    threads: int | None = None,
) -> Selection:
    """Choose lines and coordinates by what they are worth together.

    Args:
        gradients: gradient by tensor name, float64, float32, bfloat16 or float16.
        prices: by tensor name, joules of a line with anything kept in it and of each kept coordinate, such
            as ``CostVector.tensors[name].block``.
        budget_j: joules for all lines and coordinates together.
        scalar_prices_j: joules per coordinate with which ``cwmp`` would rank; of an isolated one by default.
        nonfinite: what to do about gradients that cannot be ranked.
        threads: that share the work; as many as torch uses by default.

    Raises:
        EmptyNetworkError: there is no coordinate.
        NonFiniteGradientError: a gradient, or its square, is NaN or infinite.
        InvalidCostError: a price is negative or not finite, or a coordinate would cost nothing.
        UsageError: the budget is not a number, or a price is missing.
    """
    if math.isnan(budget_j):
        raise UsageError("The energy budget is not a number.", next_step="Give a budget in joules.")
    check_nonfinite(nonfinite)
    _check(prices)
    alone = {name: price.open_j + price.element_j for name, price in prices.items()}
    parts = parts_of(gradients, alone)
    priced = tuple(Priced(part=part, price=prices[part.name]) for part in parts)
    limits = Limits.of(budget_j, None)
    scanner = LineScanner(priced, threads or default_threads())
    total, wrong = scanner.totals()
    if any(wrong.values()) and nonfinite == "raise":
        raise NonFiniteGradientError.of(wrong)
    choice, bound, price = _best(scanner, limits)
    if bound - choice.retained > NEGLIGIBLE_GAP * bound:
        scalar = _by_scalar_prices(priced, {**alone, **(scalar_prices_j or {})}, limits)
        choice = max(choice, scalar, key=lambda candidate: candidate.retained)
    warnings = left_out(sum(wrong.values()))
    if not any(choice.kept):
        warnings.append("Nothing is affordable or not zero; nothing is kept.")
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
        dropped=sum(wrong.values()),
        warnings=tuple(warnings),
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


def _best(scanner: LineScanner, limits: Limits) -> tuple[BlockChoice, float, float]:
    """The longest affordable prefix of all steps, the bound, and λ of the first step not taken."""
    priced = scanner.priced
    guess = _price_on_sample(priced, limits)
    low, high, widening = guess / BRACKET, guess * BRACKET, BRACKET**4
    sure = scanner.at(high)
    while not limits.allow(sure.units, 0):
        low = high
        high = max(high, SMALLEST_PRICE) * widening if high < LARGEST_PRICE else math.inf
        widening = min(widening**2, LARGEST_PRICE)
        sure = scanner.at(high)
    while low > 0:
        below = scanner.at(low)
        if not limits.allow(below.units, 0):
            break
        low, high, sure = (low / widening if low > SMALLEST_PRICE else 0.0), low, below
        widening = min(widening**2, LARGEST_PRICE)
    room = 4096 + sum(part.part.numel for part in priced) // 16
    for _ in range(HALVINGS):
        steps, complete = scanner.steps(low, high, room)
        middle = (low + high) / 2 if high < math.inf else max(2 * low, 1.0)
        if complete or not low < middle < high:
            break
        at_middle = scanner.at(middle)
        if limits.allow(at_middle.units, 0):
            high, sure = middle, at_middle
        else:
            low = middle
    if not complete:
        steps, _ = scanner.steps(low, high, sum(part.part.numel for part in priced))
    return _with_prefix(priced, sure, steps, limits)


def _with_prefix(
    priced: Sequence[Priced], sure: BlockChoice, steps: Steps, limits: Limits
) -> tuple[BlockChoice, float, float]:
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


def _longest(priced: Sequence[Priced], units: int, steps: Steps, limits: Limits) -> int:
    low, high = 0, steps.price.size
    while low < high:
        middle = (low + high + 1) // 2
        lines = np.bincount(steps.tensor[:middle], weights=steps.opens[:middle], minlength=len(priced))
        kept = np.bincount(steps.tensor[:middle], weights=steps.added[:middle], minlength=len(priced))
        spent = sum(tensor.units(int(a), int(b)) for tensor, a, b in zip(priced, lines, kept, strict=True))
        low, high = (middle, high) if limits.allow(units + spent, 0) else (low, middle - 1)
    return low


def _taken(priced: Sequence[Priced], sure: BlockChoice, steps: Steps, length: int) -> BlockChoice:
    """What is surely kept and a prefix of the steps, weighed again as a whole."""
    words = tuple(mask.copy() for mask in sure.words)
    kept, units, retained = [], 0, []
    for number, (tensor, mask) in enumerate(zip(priced, words, strict=True)):
        mine = np.flatnonzero(steps.tensor[:length] == number)
        # Of a line's steps the last one counts.
        lines, last = np.unique(steps.line[:length][mine][::-1], return_index=True)
        counts = steps.count[:length][mine][::-1][last]
        line = tensor.price.line_coordinates
        keep_largest(tensor.part.bits, line, tensor.part.largest, lines, counts, mask, tensor.room())
        opened, count, squares = weigh_lines(tensor.part.bits, line, mask, tensor.room())
        kept.append(count)
        retained.append(squares)
        units += tensor.units(opened, count)
    return BlockChoice(words=words, kept=tuple(kept), units=units, retained=math.fsum(retained))


def _price_on_sample(priced: Sequence[Priced], limits: Limits) -> float:
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
            part, block = tensor.part, tensor.price
            counts = tensor.scan(0, part.numel, price, np.zeros(part.words, dtype=np.uint64))
            total += weight * (counts.lines * block.open_j + counts.kept * block.element_j)
        return total

    low, high = 1e-300, 1e300
    if spent_j(low) <= limits.budget_j:
        return 0.0
    while high / low > 1.001:
        middle = math.sqrt(low) * math.sqrt(high)
        low, high = (middle, high) if spent_j(middle) > limits.budget_j else (low, middle)
    return high


def _by_scalar_prices(priced: Sequence[Priced], prices_j: Mapping[str, float], limits: Limits) -> BlockChoice:
    """The longest prefix of the order of ``cwmp`` that is affordable by lines and coordinates."""
    squares = [np.square(tensor.part.finite_magnitudes()) for tensor in priced]
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
    return BlockChoice(
        words=tuple(packed_bits(part) for part in masks),
        kept=tuple(int(part.sum()) for part in masks),
        units=units(low),
        retained=math.fsum(float(square[part].sum()) for square, part in zip(squares, masks, strict=True)),
    )
