"""Which layer an operator belongs to, forward and backward.

Forward, it is the innermost module that is running. Backward, it is the module whose forward made the node
that is running now: autograd numbers its nodes in the order in which they are made, and the tracker notes
at which number each module began and ended. A gradient that is added up belongs to the parameter's owner.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.optim.optimizer import (
    Optimizer,
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

OUTSIDE = "outside modules"


class LayerTracker:
    """Context manager that knows the layer that is running.

    Layers are named as by torch's own tools: the class of the outermost module, then the path in it
    (``ResNet.layer1.0.conv1``); an optimiser's step by its class (``Adam step``).
    """

    def __init__(self) -> None:
        self._names: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
        self._roots: Counter[str] = Counter()
        self._owners: dict[int, str] = {}
        self._running: list[str] = []
        self._numbers: list[int] = [0]
        self._layers: list[str] = [OUTSIDE]
        self._hooks = ExitStack()

    def __enter__(self) -> LayerTracker:
        handles = (
            register_module_forward_pre_hook(self._begin_module),
            register_module_forward_hook(self._end_module, always_call=True),
            register_optimizer_step_pre_hook(self._begin_step),
            register_optimizer_step_post_hook(self._end_step),
        )
        for handle in handles:
            self._hooks.callback(handle.remove)
        self._mark()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hooks.close()
        self._running.clear()

    @property
    def layer(self) -> str:
        """The layer that the operator which is running now belongs to."""
        if self._running:
            return self._running[-1]
        node = torch._C._current_autograd_node()
        if node is None:
            return OUTSIDE
        # The node that adds up a parameter's gradient is made once, not in its place in the order.
        parameter = getattr(node, "variable", None)
        if parameter is not None:
            return self._owners.get(id(parameter), OUTSIDE)
        return self._layers[bisect_right(self._numbers, node._sequence_nr()) - 1]

    def _begin_module(self, module: nn.Module, inputs: Any) -> None:
        if module not in self._names:
            self._name(module)
        self._running.append(self._names[module])
        self._mark()

    def _end_module(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if self._running:  # not one that had begun before the tracker
            self._running.pop()
        self._mark()

    def _begin_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        self._running.append(f"{type(optimizer).__name__} step")

    def _end_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        if self._running:
            self._running.pop()

    def _name(self, module: nn.Module) -> None:
        """Name a module and what is in it; one met first inside another was made there."""
        name = type(module).__name__
        if self._running:
            name = f"{self._running[-1]}.{name}"
        self._roots[name] += 1
        if self._roots[name] > 1:
            name = f"{name}#{self._roots[name]}"
        for path, part in module.named_modules(prefix=name):
            self._names.setdefault(part, path)
            for parameter in part.parameters(recurse=False):
                self._owners.setdefault(id(parameter), self._names[part])

    def _mark(self) -> None:
        """From the next node on, nodes belong to the layer that is running now."""
        number = torch._C._autograd._get_sequence_nr()
        if self._numbers[-1] == number:
            self._layers[-1] = self._running[-1] if self._running else OUTSIDE
        else:
            self._numbers.append(number)
            self._layers.append(self._running[-1] if self._running else OUTSIDE)
