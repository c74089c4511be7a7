"""Work of local training: what one step of SGD does on the device, counted from its own operations.

The step that is counted is the step that trains (``local_training.sgd_step``), run once on a copy:

- FLOP: the formulas of ``torch.utils.flop_counter`` for matrix products, convolutions and attention.
  Operations without a formula are named, not guessed; element-wise arithmetic is small against its bytes.
- Bytes: each aten operation reads its inputs and writes its outputs at the level where they fit together;
  a cached store first reads the line that it will overwrite. A gather reads as many bytes as it returns.
- Launches: one for each aten operation. Views and uninitialised allocations cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from calibration_data import MemoryHierarchy, Work
from cwmp.local_training import LocalSettings, sgd_step, single_thread, weights_of
from profiler.microbenchmark import traffic

_ALLOCATIONS = {"aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty"}
_GATHERS = {"aten::index_select", "aten::index", "aten::gather", "aten::embedding"}


@dataclass(frozen=True, kw_only=True)
class StepWork:
    """What one training step does.

    Attributes:
        work: FLOP, bytes by level, and launches.
        without_flop_formula: operations that ran and whose arithmetic is not counted, sorted.
    """

    work: Work
    without_flop_formula: tuple[str, ...]


def step_work(
    network: nn.Module,
    *,
    features: int,
    classes: int,
    batch_size: int,
    settings: LocalSettings,
    memory: MemoryHierarchy,
) -> StepWork:
    """Work of one step of local SGD on a batch of ``batch_size`` samples.

    Args:
        network: float32 network; neither it nor torch's random state is changed.
        features: numbers in one sample.
        classes: number of classes.
        batch_size: samples of the step.
        settings: with or without momentum.
        memory: of the device, decides at which level each operation's tensors fit.
    """
    local = {name: value.requires_grad_() for name, value in weights_of(network).items()}
    velocity = [torch.zeros_like(value) for value in local.values()] if settings.momentum else []
    x = torch.zeros(batch_size, features)
    y = torch.arange(batch_size) % classes
    batch = torch.arange(batch_size)
    training = network.training
    network.train()
    counter = _WorkCounter(memory)
    with single_thread(), torch.random.fork_rng(devices=[]), counter:
        sgd_step(network, local, velocity, x, y, batch, settings)
    network.train(training)
    return StepWork(work=counter.work, without_flop_formula=tuple(sorted(counter.without_flop_formula)))


class TrainingWork:
    """Work of a client's whole training phase: steps times the work of one step.

    The last step of an epoch may be shorter and is counted in its own shape. Each shape is counted once.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        features: int,
        classes: int,
        settings: LocalSettings,
        memory: MemoryHierarchy,
    ) -> None:
        self._network = network
        self._features = features
        self._classes = classes
        self._settings = settings
        self._memory = memory
        self._by_batch: dict[int, StepWork] = {}

    def step(self, batch_size: int) -> StepWork:
        """Work of one step on a batch of that size."""
        if batch_size not in self._by_batch:
            self._by_batch[batch_size] = step_work(
                self._network,
                features=self._features,
                classes=self._classes,
                batch_size=batch_size,
                settings=self._settings,
                memory=self._memory,
            )
        return self._by_batch[batch_size]

    def of_client(self, samples: int) -> Work:
        """Work of all epochs of a client with that many samples."""
        full, rest = divmod(samples, self._settings.batch_size)
        epoch = self.step(self._settings.batch_size).work * full if full else Work()
        if rest:
            epoch = epoch + self.step(rest).work
        return epoch * self._settings.epochs


class _WorkCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sums FLOP, bytes by level, and launches of every aten operation that runs under it."""

    def __init__(self, memory: MemoryHierarchy) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.work = Work()
        self.without_flop_formula: set[str] = set()
        self._memory = memory

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
        output = func(*args, **kwargs)
        inputs = _tensors((args, kwargs))
        outputs = _tensors(output)
        name = func._schema.name
        if name not in _ALLOCATIONS and not _is_view(func, inputs, outputs):
            self.work = self.work + self._traffic(func, args, inputs, outputs) + Work({"launch": 1})
            formula = flop_registry.get(func.overloadpacket)
            if formula is None:
                self.without_flop_formula.add(name)
            else:
                self.work = self.work + Work({"flop_fp32": formula(*args, **kwargs, out_val=output)})
        return output

    def _traffic(
        self, func: OpOverload, args: tuple[Any, ...], inputs: list[Tensor], outputs: list[Tensor]
    ) -> Work:
        mutated = _tensors(
            [
                value
                for argument, value in zip(func._schema.arguments, args, strict=False)
                if argument.alias_info is not None and argument.alias_info.is_write
            ]
        )
        known = {_storage(tensor) for tensor in inputs}
        fresh_bytes = sum(_bytes(tensor) for tensor in outputs if _storage(tensor) not in known)
        read_bytes = sum(_bytes(tensor) for tensor in inputs)
        if func._schema.name in _GATHERS:
            read_bytes += fresh_bytes - _bytes(inputs[0])
        written_bytes = fresh_bytes + sum(_bytes(tensor) for tensor in mutated)
        return traffic(
            self._memory,
            level_of(read_bytes + fresh_bytes, self._memory),
            element_bytes=read_bytes + written_bytes,
            read_bytes=read_bytes + fresh_bytes,
            written_bytes=written_bytes,
        )


def level_of(working_set_bytes: int, memory: MemoryHierarchy) -> str:
    """The nearest memory level that holds that many bytes."""
    sizes = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes}
    for level in memory.levels:
        size = sizes.get(level)
        if size is not None and working_set_bytes <= size:
            return level
    return "dram"


def _tensors(tree: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _is_view(func: OpOverload, inputs: list[Tensor], outputs: list[Tensor]) -> bool:
    """Whether an operation only gives an input another shape."""
    if func._schema.is_mutable or not outputs:
        return False
    known = {_storage(tensor) for tensor in inputs}
    return all(_storage(tensor) in known for tensor in outputs)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _bytes(tensor: Tensor) -> int:
    """Bytes that a tensor moves; an expanded one no more than its storage holds."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
