"""A prediction as tables and sentences, and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Column, Table

from cost_models import Estimate
from cwmp.prediction.command import Answer
from cwmp.prediction.energy import Prediction, Share
from cwmp.training.phase_meter import Seen


def shares_table(title: str, shares: Iterable[Share]) -> Table:
    """Calls, FLOP, bytes and joules of operators or layers."""
    table = Table(Column(title, overflow="fold"), "calls", "FLOP", "bytes", "J net", "95 %")
    for share in shares:
        table.add_row(
            share.name,
            str(share.calls),
            f"{share.torch_flop:.4g}",
            f"{share.work['byte_l1']:.4g}",
            f"{share.net_j.value:.4g}",
            _half_width(share.net_j),
        )
    return table


def sentences(answer: Answer) -> Iterator[str]:
    """What the joules are, where they come from, and what is not in them."""
    prediction = answer.prediction
    yield f"The step: {answer.step}."
    limit = "at least " if prediction.not_covered else ""
    low, high = interval_j(prediction.net_j)
    yield (
        f"It takes {limit}{prediction.net_j.value:.4g} J net ({low:.4g} … {high:.4g}, 95 %),"
        f" {prediction.gross_j.value:.4g} J with idle power, in {prediction.duration_s:.3g} s."
    )
    yield f"Joules are {prediction.provenance}, of {prediction.device}."
    if answer.seen is not None:
        yield _account(prediction, answer.seen)
    yield f"FLOP as torch's FlopCounterMode counts them: {prediction.torch_flop}."
    for (operator, reason), flop in prediction.flop_differences.items():
        yield f"FLOP of {operator} in the joules: {flop:+.4g} ({reason})."
    for item in prediction.not_covered:
        amount = "an unknown amount" if item.amount is None else f"{item.amount:.4g} {item.unit}"
        yield f"Not covered: {item.what}, {amount} in {item.calls} calls ({item.reason})."
    if prediction.without_formula:
        yield _without_formula(prediction)
    for note in prediction.notes:
        yield f"Note: {note}"


def interval_j(estimate: Estimate) -> tuple[float, float]:
    """95 % interval of joules, which are never negative."""
    low, high = estimate.interval95
    return max(low, 0.0), high


def answer_json(answer: Answer) -> dict[str, Any]:
    """The answer as JSON; names carry the units."""
    prediction, seen = answer.prediction, answer.seen
    return {
        "schema": "calijoule/prediction",
        "schema_version": 1,
        "step": answer.step,
        "provenance": prediction.provenance,
        "device": prediction.device,
        "net_j": _joules(prediction.net_j),
        "gross_j": _joules(prediction.gross_j),
        "lower_limit": bool(prediction.not_covered),
        "duration_s": prediction.duration_s,
        "torch_flop": prediction.torch_flop,
        "work": dict(prediction.work),
        "operators": [_share(share) for share in prediction.operators],
        "layers": [_share(share) for share in prediction.layers],
        "not_covered": [
            {
                "what": item.what,
                "calls": item.calls,
                "amount": item.amount,
                "unit": item.unit,
                "reason": item.reason,
            }
            for item in prediction.not_covered
        ],
        "without_formula": dict(prediction.without_formula),
        "without_formula_j": prediction.without_formula_j,
        "flop_differences": [
            {"operator": operator, "reason": reason, "flop": flop}
            for (operator, reason), flop in prediction.flop_differences.items()
        ],
        "account": None
        if seen is None
        else {
            "net_j": seen.energy_j,
            "standard_uncertainty_j": seen.standard_uncertainty_j,
            "provenance": seen.provenance,
            "replays": seen.replays,
            "reason": seen.reason,
        },
        "notes": list(prediction.notes),
    }


def _account(prediction: Prediction, seen: Seen) -> str:
    if seen.energy_j is None or seen.standard_uncertainty_j is None:
        return f"The device accounts nothing for it: {seen.reason}"
    error = (prediction.net_j.value - seen.energy_j) / seen.energy_j if seen.energy_j > 0 else float("nan")
    return (
        f"The device itself accounts {seen.energy_j:.4g} J net, u = {seen.standard_uncertainty_j:.2g} J"
        f" ({seen.provenance}, {seen.replays} steps); the prediction is off by {error:+.1%}."
    )


def _half_width(estimate: Estimate) -> str:
    low, high = estimate.interval95
    return f"±{(high - low) / 2 / estimate.value:.1%}" if estimate.value else "-"


def _without_formula(prediction: Prediction) -> str:
    names = ", ".join(f"{name} ({calls})" for name, calls in prediction.without_formula.items())
    text = f"Arithmetic without a FLOP formula, by calls: {names}. Bytes, launches and seconds are counted"
    if prediction.without_formula_j is None:
        return f"{text}; the arithmetic is not."
    added = prediction.without_formula_j
    share = added / prediction.net_j.value if prediction.net_j.value else 0.0
    return f"{text}; one FLOP for each result would add {added:.2g} J ({share:.1%})."


def _share(share: Share) -> dict[str, Any]:
    return {
        "name": share.name,
        "calls": share.calls,
        "torch_flop": share.torch_flop,
        "work": dict(share.work),
        "net_j": _joules(share.net_j),
    }


def _joules(estimate: Estimate) -> dict[str, Any]:
    return {
        "value": estimate.value,
        "standard_uncertainty": estimate.standard_uncertainty,
        "ci95": list(interval_j(estimate)),
    }
