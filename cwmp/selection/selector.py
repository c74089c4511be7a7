"""Which gradient coordinates are worth their joules: scores, costs and a budget in, a Selection out.

Maximise Σ z_i·g_i² under Σ z_i·c_i ≤ B, z_i ∈ {0, 1}: a knapsack. Its linear relaxation is solved by sorting
on g²/c and taking a prefix (Dantzig, Operations Research 5 (1957) 266), which also bounds how far the prefix
can be from the best set: by less than the value of the first coordinate left out. Nothing is sorted here:
the prefix is everything above a threshold λ, which ``search`` finds in about one pass over the gradient:
on the host, or on the GPU that holds it.

Rules of this module:
- A ranked rule keeps the longest prefix of the non-zero coordinates of all tensors, by (score descending,
  index ascending), whose summed cost is within the budget. The index runs through the tensors in the order
  of the mapping, and through each tensor in row-major order.
- Scores are float64. The cost of a set is the sum of its float64 costs, rounded once, so it does not depend
  on the order of summation: equal sets cost the same, and k equal costs c cost k·c.
- Only ``dense`` keeps a gradient that is zero or spends more than the budget.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, cast, get_args

import torch
from torch import Tensor

from calibration_data import UsageError
from cwmp.errors import NonFiniteGradientError
from cwmp.selection.exact import from_units, sum_units
from cwmp.selection.limits import Limits
from cwmp.selection.mask_bits import all_bits
from cwmp.selection.norms import absolute_sums, cheapest_j
from cwmp.selection.on_gpu import passes_on_gpu
from cwmp.selection.result import BitMask, Certificate, DeviceMask, Selection, TensorMask
from cwmp.selection.rules import SCORED_RULES, SCORES, Rule, ScoredRule
from cwmp.selection.scan import Scanner, default_threads
from cwmp.selection.search import Found, ScannerPasses, find_prefix
from cwmp.selection.update import parts_of

if TYPE_CHECKING:
    from cwmp.selection.gpu.passes import GpuPasses

NonFinite = Literal["raise", "drop"]
"""What to do about gradients that are NaN, infinite or too large to be squared: refuse, or leave them out."""


def select(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float | Tensor],
    budget_j: float,
    *,
    rule: Rule,
    count: int | None = None,
    at_least: float | None = None,
    last_threshold: float | None = None,
    nonfinite: NonFinite = "raise",
    generator: torch.Generator | None = None,
    threads: int | None = None,
) -> Selection:
    """Choose the coordinates that the budget is spent on.

    Gradients of one format on one GPU, with one price per tensor, are selected from where they are, and the
    masks stay there (``on_gpu``); all others are copied to the host. The choice is the same.

    Args:
        gradients: gradient by tensor name, float64, float32, bfloat16 or float16.
        costs: joules per coordinate by tensor name: one number, or a tensor that broadcasts to the shape of
            the gradient. Names without a gradient are ignored.
        budget_j: joules for all coordinates together, fixed costs already taken off; infinite for none.
        rule: how coordinates are ranked; ``cwmp-block`` has a function of its own.
        count: most coordinates to keep: with an infinite budget, Top-K by count.
        at_least: lowest score to keep: with ``threshold``, which needs it, the smallest magnitude.
        last_threshold: λ of the last round's selection. Where it has changed by less than 0.5 %, selecting is
            faster; the result is the same.
        nonfinite: what to do about gradients that cannot be ranked.
        generator: random order of ``randomk``; torch's own generator by default.
        threads: that share the work; as many as torch uses by default.

    Raises:
        EmptyNetworkError: there is no coordinate.
        NonFiniteGradientError: a gradient, or its square, is NaN or infinite.
        InvalidCostError: a cost is zero, negative or not finite.
        UsageError: the rule is unknown, the budget or the count is no number of joules or coordinates, a cost
            is missing or has another shape, or a gradient is of no format that can be ranked.
    """
    _check(rule, budget_j, count, at_least, nonfinite, threads)
    limits = Limits.of(budget_j, count)
    passes = passes_on_gpu(gradients, costs, rule)
    if passes is None:
        seed = int(torch.randint(2**62, (), generator=generator)) if rule == "randomk" else 0
        parts = parts_of(gradients, costs)
        scored = cast(ScoredRule, "threshold" if rule == "dense" else rule)
        scanner = Scanner(parts, kind=SCORES[scored], seed=seed, threads=threads or default_threads())
        chosen = _on_host(scanner, limits, rule, at_least or 0.0, last_threshold)
    else:
        chosen = _on_gpu(passes, limits, at_least or 0.0, last_threshold)
    if any(chosen.found.wrong) and nonfinite == "raise":
        raise NonFiniteGradientError.of(dict(zip(chosen.masks, chosen.found.wrong, strict=True)))
    return _selection(gradients, chosen, rule, budget_j)


def retained_at(
    gradients: Mapping[str, Tensor],
    costs: Mapping[str, float | Tensor],
    budget_j: float,
    rule: Rule,
    *,
    generator: torch.Generator | None = None,
) -> float:
    """Share of the squared norm that a rule keeps of this update for these joules.

    No set that costs at most what ``cwmp`` spent keeps more than ``cwmp`` (Everett, Operations Research 11
    (1963) 399): give its ``spent_j`` as the budget to compare other rules with it at the same joules.

    Raises:
        UsageError: as ``select``.
    """
    return select(gradients, costs, budget_j, rule=rule, generator=generator).retained_fraction


def absolute_norms(gradients: Mapping[str, Tensor], selection: Selection) -> tuple[float, float]:
    """Σ |g| over the kept coordinates of an update, and over all; in one more pass.

    Args:
        gradients: that were selected from.
        selection: of them.

    Raises:
        UsageError: a gradient is of no format that can be ranked.
    """
    parts = parts_of(gradients, dict.fromkeys(gradients, 1.0))
    total, kept = absolute_sums(parts, [selection.bitmasks[part.name].words for part in parts])
    return kept, total


def _check(
    rule: str,
    budget_j: float,
    count: int | None,
    at_least: float | None,
    nonfinite: str,
    threads: int | None,
) -> None:
    if rule not in (*SCORED_RULES, "dense"):
        raise UsageError(
            f"{rule!r} is no selection rule of single coordinates.",
            next_step=f"Rules: {', '.join((*SCORED_RULES, 'dense'))}; cwmp-block is select_blocks.",
        )
    if math.isnan(budget_j):
        raise UsageError("The energy budget is not a number.", next_step="Give a budget in joules.")
    if count is not None and count < 0:
        raise UsageError(f"{count} coordinates cannot be kept.", next_step="Give a count of 0 or more.")
    if rule == "threshold" and at_least is None:
        raise UsageError(
            "The rule threshold needs the smallest magnitude to keep.", next_step="Give at_least."
        )
    if at_least is not None and not at_least >= 0:
        raise UsageError(f"{at_least} is no score.", next_step="Give a score of 0 or more.")
    check_nonfinite(nonfinite)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads cannot select.", next_step="Give 1 or more.")


def check_nonfinite(nonfinite: str) -> None:
    """Refuse what is no ``NonFinite``."""
    if nonfinite not in get_args(NonFinite):
        raise UsageError(
            f"{nonfinite!r} says nothing about gradients that are not finite.",
            next_step=f"Give one of {', '.join(get_args(NonFinite))}.",
        )


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """What a search found, on whichever hardware.

    Attributes:
        masks: of the tensors that hold anything.
        found: in the same order.
        absolute: Σ |g| of what is kept, when asked for.
        cheapest_j: joules of the cheapest coordinate that is not zero, when asked for; None if all are.
    """

    masks: Mapping[str, BitMask]
    found: Found
    absolute: Callable[[], float]
    cheapest_j: Callable[[], float | None]


def _on_host(
    scanner: Scanner, limits: Limits, rule: Rule, at_least: float, last_threshold: float | None
) -> _Chosen:
    if rule == "dense":
        found = _everything(scanner)
    else:
        found = find_prefix(ScannerPasses(scanner), limits, at_least=at_least, last=last_threshold)
    scanner.release()
    parts = scanner.parts
    masks = {
        part.name: TensorMask(words=words, shape=part.shape, device=part.device, kept=kept)
        for part, words, kept in zip(parts, scanner.words, found.kept, strict=True)
    }
    return _Chosen(
        masks=masks,
        found=found,
        absolute=lambda: absolute_sums(parts, scanner.words)[1],
        cheapest_j=lambda: cheapest_j(parts),
    )


def _on_gpu(passes: GpuPasses, limits: Limits, at_least: float, last_threshold: float | None) -> _Chosen:
    from cwmp.selection.gpu.attempt import find_on_gpu

    update = passes.update
    # Kernels start on the current GPU, which need not be the one that holds the gradient.
    with torch.cuda.device_of(update.words):  # type: ignore[no-untyped-call]
        found = find_on_gpu(passes, limits, at_least=at_least, last=last_threshold)
    masks = {
        name: DeviceMask(bits=update.words_of(number), shape=shape, kept=kept)
        for number, (name, shape, kept) in enumerate(
            zip(update.names, update.shapes, found.kept, strict=True)
        )
    }
    return _Chosen(masks=masks, found=found, absolute=lambda: passes.absolute, cheapest_j=update.cheapest_j)


def _everything(scanner: Scanner) -> Found:
    """Keep every coordinate that is finite."""
    result = scanner.scan(math.inf, math.inf, room=0)
    wrong = [0] * len(scanner.parts)
    for piece, scan in zip(scanner.pieces, result.scans, strict=True):
        wrong[piece.part] += scan.wrong
    units, kept = 0, []
    for part, words, dropped in zip(scanner.parts, scanner.words, wrong, strict=True):
        words[:] = all_bits(part.numel)
        units += sum_units(part.prices) * part.row
        if dropped:
            units -= sum_units(part.prices_at(part.clear_wrong(words)))
        kept.append(part.numel - dropped)
    squared = math.fsum(scan.squared for scan in result.scans)
    return Found(
        units=units,
        kept=tuple(kept),
        squared=squared,
        total_squared=squared,
        wrong=tuple(wrong),
        threshold=None,
        passes=1,
    )


def _selection(gradients: Mapping[str, Tensor], chosen: _Chosen, rule: Rule, budget_j: float) -> Selection:
    empty = all_bits(0)
    masks: dict[str, BitMask] = {
        name: TensorMask(words=empty, shape=gradient.shape, device=gradient.device, kept=0)
        for name, gradient in gradients.items()
    }
    masks.update(chosen.masks)
    found = chosen.found
    threshold = None if rule in ("randomk", "dense") else (found.threshold or 0.0)
    spent_j, kept = from_units(found.units), sum(found.kept)
    return Selection(
        rule=rule,
        bitmasks=MappingProxyType(masks),
        budget_j=float(budget_j),
        spent_j=spent_j,
        kept=kept,
        coordinates=sum(gradient.numel() for gradient in gradients.values()),
        retained_squared_norm=found.squared,
        total_squared_norm=found.total_squared,
        threshold=threshold,
        certificate=_certificate(chosen, rule, budget_j - spent_j),
        passes=found.passes,
        dropped=sum(found.wrong),
        warnings=_warnings(chosen, rule, budget_j, spent_j, kept),
    )


def _certificate(chosen: _Chosen, rule: Rule, rest_j: float) -> Certificate | None:
    """The rest of the budget, spent at the score of the first coordinate left out, is the most to gain."""
    if rule not in ("cwmp", "cwmp-l1"):
        return None
    squares, threshold = rule == "cwmp", chosen.found.threshold
    achieved = chosen.found.squared if squares else chosen.absolute()
    rest = threshold * max(rest_j, 0.0) if threshold else 0.0
    return Certificate(
        measure="squared norm" if squares else "absolute sum", bound=achieved + rest, achieved=achieved
    )


def left_out(wrong: int) -> list[str]:
    """The warning about gradients that cannot be ranked, if there are any."""
    return [f"{wrong} gradient coordinates are not finite and were left out."] if wrong else []


def _warnings(chosen: _Chosen, rule: Rule, budget_j: float, spent_j: float, kept: int) -> tuple[str, ...]:
    warnings = left_out(sum(chosen.found.wrong))
    if kept and spent_j > budget_j:
        warnings.append(
            f"{rule} keeps everything and spends {spent_j:.4g} J of a budget of {budget_j:.4g} J."
        )
    elif not kept:
        warnings.append(_why_nothing(chosen.cheapest_j(), rule, budget_j))
    return tuple(warnings)


def _why_nothing(lowest_j: float | None, rule: Rule, budget_j: float) -> str:
    if lowest_j is None:
        return "Every gradient is zero; nothing is kept."
    if budget_j <= 0:
        return f"The energy budget of {budget_j:.4g} J is not positive; nothing is kept."
    if budget_j < lowest_j:
        return (
            f"The energy budget of {budget_j:.4g} J is below the cheapest coordinate, {lowest_j:.4g} J; "
            "nothing is kept."
        )
    return (
        f"The coordinate that {rule} ranks first costs more than the energy budget of {budget_j:.4g} J, or "
        "none may be kept; nothing is kept."
    )
