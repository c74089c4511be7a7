"""Counts the work of everything that torch dispatches: FLOP, bytes by memory level, and launches.

    with WorkCounter(memory) as counter:
        network(x).sum().backward()
    counter.counted.work        # calibration_data.Work
    counter.counted.torch_flop  # what torch.utils.flop_counter.FlopCounterMode says

In the manner of ``FlopCounterMode``, and composite operators are taken apart by the same rule, so that both
see the same operators. Each operator is one launch; views and uninitialised allocations cost nothing. What
cannot be counted is a gap with a reason, never a zero.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any, Self

from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode

from calibration_data import MemoryHierarchy, Work
from cwmp.prediction.arithmetic import arithmetic
from cwmp.prediction.layers import LayerTracker
from cwmp.prediction.moved_bytes import moved_work
from cwmp.prediction.operands import Operands, operands


@dataclass(frozen=True)
class Gap:
    """Something that an operator does and that could not be counted.

    Attributes:
        what: ``FLOP`` or ``bytes``.
        amount: how much of it, where that is known; None otherwise.
        reason: why it is not in the work.
    """

    what: str
    amount: float | None
    reason: str


@dataclass(frozen=True, kw_only=True)
class OperatorCalls:
    """Equal calls of one operator in one layer.

    Attributes:
        operator: as in ``aten::addmm``.
        layer: as in ``ResNet.layer1.0.conv1``.
        calls: how many.
        work: of one call, without seconds.
        torch_flop: of one call by torch's counter.
        difference: why the work has another number of FLOP; empty if it has not.
        elements: results of one call whose arithmetic has no formula; their bytes and launch are counted.
        gaps: what else of one call is not in the work.
    """

    operator: str
    layer: str
    calls: int
    work: Work
    torch_flop: int
    difference: str
    elements: int
    gaps: tuple[Gap, ...]


@dataclass(frozen=True)
class CountedWork:
    """Everything that ran under a counter.

    Attributes:
        calls: by operator, layer and work, in the order in which they were first seen.
    """

    calls: tuple[OperatorCalls, ...]

    @cached_property
    def work(self) -> Work:
        """FLOP, bytes and launches together."""
        return sum((item.work * item.calls for item in self.calls), start=Work())

    @cached_property
    def torch_flop(self) -> int:
        """FLOP by torch's counter."""
        return sum(item.torch_flop * item.calls for item in self.calls)

    @cached_property
    def without_formula(self) -> dict[str, int]:
        """Calls by operator whose arithmetic is not counted, by name."""
        found: Counter[str] = Counter()
        for item in self.calls:
            if item.elements:
                found[item.operator] += item.calls
        return dict(sorted(found.items()))


class WorkCounter:
    """Context manager that counts the work of what runs under it; entering starts anew.

    Higher-order operators (``torch.cond``) hide what they run; torch refuses them under it.

    Args:
        memory: of the device, decides at which level each operator's tensors fit.
    """

    def __init__(self, memory: MemoryHierarchy) -> None:
        self.memory = memory
        self._counts: Counter[tuple[Any, ...]] = Counter()
        self._tracker = LayerTracker()
        self._mode = _CountingMode(self._count)

    @property
    def counted(self) -> CountedWork:
        """What ran since the context was entered."""
        return CountedWork(
            tuple(
                OperatorCalls(
                    operator=operator,
                    layer=layer,
                    calls=calls,
                    work=Work(dict(amounts)),
                    torch_flop=torch_flop,
                    difference=difference,
                    elements=elements,
                    gaps=gaps,
                )
                for (operator, layer, amounts, torch_flop, difference, elements, gaps), calls in (
                    self._counts.items()
                )
            )
        )

    def __enter__(self) -> Self:
        self._counts.clear()
        self._tracker = LayerTracker()
        self._tracker.__enter__()
        self._mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._mode.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]
        self._tracker.__exit__(kind, error, trace)

    def _count(self, func: OpOverload, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> None:
        given = operands(func, args, kwargs, output)
        if given is None:
            return
        name = func._schema.name
        done = arithmetic(func, args, kwargs, output, given)
        gaps = [gap for gap in (_unseen(given), _unlinked(given)) if gap is not None]
        work = Work({"launch": 1}) if gaps else Work({"launch": 1}) + moved_work(name, given, self.memory)
        if done.term:
            work = work + Work({done.term: done.flop})
        elif done.flop:
            gaps.append(Gap("FLOP", done.flop, f"no term of the energy model is for {done.dtype}"))
        amounts = tuple(work.items())
        layer = self._tracker.layer
        key = (name, layer, amounts, done.torch_flop, done.difference, done.elements, tuple(gaps))
        self._counts[key] += 1


def _unseen(given: Operands) -> Gap | None:
    return Gap("bytes", None, "the memory of its tensors cannot be seen") if given.opaque else None


def _unlinked(given: Operands) -> Gap | None:
    """Bytes between host and device have no term in the energy model; single numbers are no traffic."""
    devices = sorted({tensor.device.type for tensor in given.all if tensor.dim()})
    if len(devices) < 2:
        return None
    moved_bytes = sum(tensor.numel() * tensor.element_size() for tensor in given.made + given.overwritten)
    return Gap(
        "bytes", moved_bytes, f"no term of the energy model is for copies between {' and '.join(devices)}"
    )


class _CountingMode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Hands every operator that really runs to a counter."""

    def __init__(self, count: Callable[[OpOverload, tuple[Any, ...], Mapping[str, Any], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._count = count

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled under this mode; the guard against it would import the compiler for seconds.
        return False

    def __torch_dispatch__(
        self,
        func: OpOverload,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if any("Tensor" in str(result.type) for result in func._schema.returns):
            with self:
                output = func.decompose(*args, **kwargs)
            if output is not NotImplemented:
                return output
        output = func(*args, **kwargs)
        self._count(func, args, kwargs, output)
        return output
