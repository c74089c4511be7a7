"""Sparse updates in one process: a torch optimizer whose every step stays within an energy budget.

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    sparse_steps(optimizer, network, BudgetedGradients(costs, budget_fraction=0.05))

The optimizer is still itself: schedulers of the learning rate work, and its ``state_dict`` holds the residual
and the ledger.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from calibration_data import UsageError
from cwmp.budgeted_gradients import BudgetedGradients

STATE_KEY = "calijoule"


def sparse_steps(optimizer: torch.optim.SGD, network: nn.Module, gradients: BudgetedGradients) -> None:
    """Let each step of an optimizer apply only the gradients that its budget affords.

    Args:
        optimizer: plain SGD, at every step. Momentum, weight decay and adaptive optimisers write coordinates
            whose gradient is zero too, so their steps would cost more than the budget says. A step with such
            settings is refused before it changes anything.
        network: whose parameters it updates.
        gradients: the budget, and what is remembered.

    Raises:
        UsageError: the optimizer is not plain SGD, or updates parameters that the network does not have.
    """
    parameters = {name: value for name, value in network.named_parameters() if value.requires_grad}
    _require_plain_sgd(optimizer)
    _require_same_parameters(optimizer, parameters)

    def before_step(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        _, *arguments = args
        if any(argument is not None for argument in (*arguments, *kwargs.values())):
            raise UsageError(
                "A closure makes gradients within the step, where they cannot be chosen.",
                next_step="Call loss.backward() first, then step() without a closure.",
            )
        # A scheduler, a loaded state or another group may have changed them since.
        _require_plain_sgd(optimizer)
        _require_same_parameters(optimizer, parameters)
        found = {
            name: torch.zeros_like(value) if value.grad is None else value.grad
            for name, value in parameters.items()
        }
        for name, kept in gradients.keep(found).items():
            parameters[name].grad = kept

    def save(_: Any, state: dict[str, Any]) -> None:
        state[STATE_KEY] = gradients.state_dict()

    def load(_: Any, state: dict[str, Any]) -> None:
        if STATE_KEY not in state:
            raise UsageError(
                "The optimizer's state has no residual and no ledger.",
                next_step="Load a state that was saved with sparse_steps.",
            )
        gradients.load_state_dict(state.pop(STATE_KEY))

    optimizer.register_step_pre_hook(before_step)
    optimizer.register_state_dict_post_hook(save)
    optimizer.register_load_state_dict_pre_hook(load)


def _require_same_parameters(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> None:
    updated = {id(value) for group in optimizer.param_groups for value in group["params"]}
    if updated != {id(value) for value in parameters.values()}:
        raise UsageError(
            "The optimizer does not update exactly the network's trainable parameters.",
            next_step="Give it network.parameters().",
        )


def _require_plain_sgd(optimizer: torch.optim.Optimizer) -> None:
    kind = type(optimizer).__name__
    plain = isinstance(optimizer, torch.optim.SGD) and not any(
        group["momentum"] or group["weight_decay"] for group in optimizer.param_groups
    )
    if not plain:
        raise UsageError(
            f"{kind} with these settings writes coordinates that were not kept.",
            next_step="Use torch.optim.SGD without momentum and weight decay, and schedulers that leave both"
            " alone (cycle_momentum=False).",
        )
