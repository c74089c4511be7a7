"""Joules of counted work by operator, by layer and of the whole step, with intervals.

Each call takes as long as its slowest resource (roofline), keeps all cores busy for that long, and the calls
follow each other. Net joules leave the idle power out, which the device draws anyway; gross joules have it.
What the model has no cost or no rate for is left out of the joules and named: they are then a lower limit.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from calibration_data import TERMS, MemoryHierarchy, Provenance, Work
from cost_models import CostModel, Estimate
from cwmp.prediction.work_counter import CountedWork, OperatorCalls, WorkCounter
from cwmp.pricing import device_of, worst_provenance

IDLE_TERMS = ("idle_w", "dram_idle_w")


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one operator or one layer takes of the step.

    Attributes:
        name: of the operator or of the layer.
        calls: operators that ran.
        torch_flop: FLOP by torch's counter.
        work: FLOP, bytes, launches and seconds.
        net_j: joules without idle power.
    """

    name: str
    calls: int
    torch_flop: int
    work: Work
    net_j: Estimate


@dataclass(frozen=True, kw_only=True)
class NotCovered:
    """Something that is left out of the joules.

    Attributes:
        what: as in ``bytes of aten::bmm`` or ``launch``.
        calls: operator calls that it concerns.
        amount: how much, in ``unit``; None where that is not known either.
        unit: of the amount.
        reason: why it is left out.
    """

    what: str
    calls: int
    amount: float | None
    unit: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Joules of one step.

    Attributes:
        net_j: without idle power; a lower limit if ``not_covered`` is not empty.
        gross_j: with the idle power while the step runs.
        duration_s: sum of the shortest times of the operators.
        torch_flop: FLOP as torch's ``FlopCounterMode`` counts them.
        work: everything that the joules are for; its FLOP follow ``flop_differences``.
        operators: shares of the operators, the most expensive first.
        layers: shares of the layers, in the order in which they ran.
        not_covered: what has no place in the joules, by name.
        without_formula: calls by operator whose bytes, launches and seconds are in the joules and whose own
            arithmetic is not, because no formula counts it.
        without_formula_j: what that arithmetic would add at one FLOP for each result; None if the model does
            not know a FLOP.
        flop_differences: FLOP beyond torch's (or short of them) by operator and reason.
        provenance: of the joules, the worst of everything that they rest on.
        device: what they are of.
        notes: what a reader must know.
    """

    net_j: Estimate
    gross_j: Estimate
    duration_s: float
    torch_flop: int
    work: Work
    operators: tuple[Share, ...]
    layers: tuple[Share, ...]
    not_covered: tuple[NotCovered, ...]
    without_formula: Mapping[str, int]
    without_formula_j: float | None
    flop_differences: Mapping[tuple[str, str], float]
    provenance: Provenance
    device: str
    notes: tuple[str, ...]


class EnergyCounterMode(WorkCounter):
    """Context manager that predicts the joules of what runs under it, as ``FlopCounterMode`` counts FLOP.

        with EnergyCounterMode(model) as counter:
            loss_function(network(x), y).backward()
            optimizer.step()
        counter.prediction.net_j  # Estimate

    Args:
        model: costs of elementary operations on the device.

    Raises:
        UnknownMemoryError: the model does not say how large the caches are.
    """

    def __init__(self, model: CostModel) -> None:
        super().__init__(device_of(model).memory)
        self._model = model

    @property
    def prediction(self) -> Prediction:
        """Joules of what ran since the context was entered."""
        return predict(self.counted, self._model)


def predict(counted: CountedWork, model: CostModel, *, depth: int | None = None) -> Prediction:
    """Joules of counted work.

    Args:
        counted: with the memory of the model's device.
        model: costs of elementary operations.
        depth: levels of modules that are layers of their own, the outermost being the first; None for all.

    Raises:
        UnknownMemoryError: the model does not describe a device.
    """
    device = device_of(model)
    timed = [(item, _timed(item.work, model, device.memory) * item.calls) for item in counted.calls]
    work = sum((part for _, part in timed), start=Work())
    known = _known(work, model)
    return Prediction(
        net_j=model.predict_j(_net(known)),
        gross_j=model.predict_j(known),
        duration_s=sum(model.duration_s(_rated(item.work, model)) * item.calls for item in counted.calls),
        torch_flop=counted.torch_flop,
        work=work,
        operators=tuple(
            sorted(
                _shares(timed, model, lambda item: item.operator),
                key=lambda share: share.net_j.value,
                reverse=True,
            )
        ),
        layers=tuple(_shares(timed, model, lambda item: ".".join(item.layer.split(".")[:depth]))),
        not_covered=(*_gaps(counted), *_unpriced(timed, model)),
        without_formula=counted.without_formula,
        without_formula_j=_one_flop_each(counted, model),
        flop_differences=_differences(counted),
        provenance=worst_provenance(model, known),
        device=device.device,
        notes=_notes(known, model),
    )


def _timed(work: Work, model: CostModel, memory: MemoryHierarchy) -> Work:
    """The work with its seconds, as far as the model charges power to time."""
    attribution = model.document.time_attribution
    duration_s = model.duration_s(_rated(work, model))
    seconds = {} if attribution == "none" else dict.fromkeys(IDLE_TERMS, duration_s)
    if attribution == "active":
        seconds |= {"awake_w": duration_s, "core_w": duration_s * memory.cores}
    return work + Work(seconds)


def _rated(work: Work, model: CostModel) -> Work:
    """The operations whose rate the model knows."""
    return Work({name: amount for name, amount in work.items() if name in model.document.throughput})


def _known(work: Work, model: CostModel) -> Work:
    """The part of some work that the model has a cost for."""
    costs = model.coefficients
    return Work({name: n for name, n in work.items() if name in costs and costs[name].status != "refused"})


def _net(work: Work) -> Work:
    return Work({name: amount for name, amount in work.items() if name not in IDLE_TERMS})


def _shares(
    timed: Iterable[tuple[OperatorCalls, Work]], model: CostModel, name_of: Callable[[OperatorCalls], str]
) -> list[Share]:
    works: defaultdict[str, Work] = defaultdict(Work)
    calls: Counter[str] = Counter()
    flop: Counter[str] = Counter()
    for item, work in timed:
        name = name_of(item)
        works[name] = works[name] + work
        calls[name] += item.calls
        flop[name] += item.torch_flop * item.calls
    return [
        Share(
            name=name,
            calls=calls[name],
            torch_flop=flop[name],
            work=work,
            net_j=model.predict_j(_net(_known(work, model))),
        )
        for name, work in works.items()
    ]


def _gaps(counted: CountedWork) -> list[NotCovered]:
    """What could not be counted, by operator."""
    calls: Counter[tuple[str, str, str]] = Counter()
    amounts: Counter[tuple[str, str, str]] = Counter()
    unknown = set()
    for item in counted.calls:
        for gap in item.gaps:
            key = (gap.what, item.operator, gap.reason)
            calls[key] += item.calls
            amounts[key] += round((gap.amount or 0) * item.calls)
            if gap.amount is None:
                unknown.add(key)
    return [
        NotCovered(
            what=f"{what} of {operator}",
            calls=calls[what, operator, reason],
            amount=None if (what, operator, reason) in unknown else amounts[what, operator, reason],
            unit="FLOP" if what == "FLOP" else "B",
            reason=reason,
        )
        for what, operator, reason in calls
    ]


def _unpriced(timed: Iterable[tuple[OperatorCalls, Work]], model: CostModel) -> list[NotCovered]:
    """Terms that the model has no cost for, and operations that it has no rate for."""
    calls: Counter[tuple[str, str]] = Counter()
    amounts: defaultdict[tuple[str, str], float] = defaultdict(float)
    for item, work in timed:
        keys = [(name, _why_missing(name, model)) for name in model.missing(work)]
        if model.document.time_attribution != "none":
            keys += [
                (name, "the cost model has no throughput for it, so its seconds are not known")
                for name in item.work
                if name not in model.document.throughput
            ]
        for key in keys:
            calls[key] += item.calls
            amounts[key] += work[key[0]]
    return [
        NotCovered(
            what=name,
            calls=calls[name, reason],
            amount=amounts[name, reason],
            unit=TERMS[name].amount_unit,
            reason=reason,
        )
        for name, reason in calls
    ]


def _why_missing(name: str, model: CostModel) -> str:
    if name not in model.coefficients:
        return "the cost model has no such cost"
    return f"the cost model refuses it: {model.coefficients[name].reason}"


def _one_flop_each(counted: CountedWork, model: CostModel) -> float | None:
    work = Work({"flop_fp32": sum(item.elements * item.calls for item in counted.calls)})
    return None if model.missing(work) else model.predict_j(work).value


def _differences(counted: CountedWork) -> dict[tuple[str, str], float]:
    found: defaultdict[tuple[str, str], float] = defaultdict(float)
    for item in counted.calls:
        if item.difference:
            flop = sum(amount for name, amount in item.work.items() if name.startswith("flop_"))
            found[item.operator, item.difference] += (flop - item.torch_flop) * item.calls
    return dict(found)


def _notes(work: Work, model: CostModel) -> tuple[str, ...]:
    notes = [
        "Seconds are the shortest that the rates of the cost model allow; their uncertainty is not in the"
        " intervals."
    ]
    if model.document.time_attribution == "none":
        notes = ["The cost model charges no power to time; net and gross joules are the same."]
    elif model.document.time_attribution == "idle":
        notes.append("The cost model has no awake power of its own; time is charged at idle power alone.")
    bounded = [name for name in work if model.coefficients[name].status == "bounded"]
    if bounded:
        notes.append(f"Only limits are known of {', '.join(bounded)}; the middle counts.")
    return tuple(notes)
