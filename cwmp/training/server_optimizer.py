"""What the server does with the mean update Δ of a round; w are the weights, η is its learning rate.

    sgd        w ← w − η·Δ                                              FedAvg with η = 1
    momentum   m ← β·m + Δ;  w ← w − η·m                                FedAvgM (Hsu, Qi and Brown 2019)
    adam       m ← β₁·m + (1 − β₁)·Δ;  v ← β₂·v + (1 − β₂)·Δ²
               w ← w − η·m / (√v + τ),  v starts at τ²                  FedAdam (Reddi et al., ICLR 2021)

FedAdam is Algorithm 2 of "Adaptive Federated Optimization", whose Δ points the other way (local − global): it
has no bias correction, and its v₋₁ ≥ τ² is τ² here. A coordinate that nobody sent has Δ = 0, and still moves
by its momentum. Everything is float64 in one order, so that a resumed run has the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from cwmp.config import TrainingConfig

BETA_2 = 0.99
"""Of ``adam``, as in the experiments of Reddi et al. 2021."""

STATE = {"sgd": (), "momentum": ("m",), "adam": ("m", "v")}
"""What each optimiser remembers: names of vectors of one number per coordinate."""


def optimizer_state(config: TrainingConfig, coordinates: int) -> dict[str, Tensor]:
    """The state before the first round, float64, each of shape (coordinates,)."""
    first = {"m": 0.0, "v": config.server_tau**2}
    return {
        name: torch.full((coordinates,), first[name], dtype=torch.float64)
        for name in STATE[config.server_optimizer]
    }


def optimizer_step(
    config: TrainingConfig, state: Mapping[str, Tensor], mean: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """What is taken off the weights, and the next state; arguments stay as they are.

    Args:
        config: which optimiser, and its settings.
        state: from ``optimizer_state`` or the step before.
        mean: Δ, global − local, float64, shape (coordinates,).
    """
    rate, beta = config.server_learning_rate, config.server_momentum
    if config.server_optimizer == "sgd":
        return rate * mean, {}
    if config.server_optimizer == "momentum":
        m = beta * state["m"] + mean
        return rate * m, {"m": m}
    m = beta * state["m"] + (1 - beta) * mean
    v = BETA_2 * state["v"] + (1 - BETA_2) * mean.square()
    return rate * m / (v.sqrt() + config.server_tau), {"m": m, "v": v}
