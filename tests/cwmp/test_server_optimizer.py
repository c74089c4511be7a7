from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import UsageError
from cwmp.config import TrainingConfig, training_config
from cwmp.training.federated import initial_state, run_round
from cwmp.training.federation import build_federation
from cwmp.training.round_record import accuracies_of
from cwmp.training.server_optimizer import optimizer_state, optimizer_step

MEANS = torch.randn(6, 50, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def config(**settings: Any) -> TrainingConfig:
    return training_config(**{"dataset": "synthetic", "clients": 3, "selector": "dense", **settings})


def steps(settings: TrainingConfig, means: torch.Tensor) -> list[torch.Tensor]:
    """Where the weights are after each step, from zero."""
    state, weights, seen = optimizer_state(settings, means.shape[1]), torch.zeros(means.shape[1]).double(), []
    for mean in means:
        step, state = optimizer_step(settings, state, mean)
        weights = weights - step
        seen.append(weights)
    return seen


def test_sgd_and_momentum_are_torchs() -> None:
    for settings, momentum in (
        (config(server_learning_rate=0.7), 0.0),
        (config(server_optimizer="momentum", server_learning_rate=0.7, server_momentum=0.8), 0.8),
    ):
        weights = torch.zeros(50, dtype=torch.float64, requires_grad=True)
        theirs = torch.optim.SGD([weights], lr=0.7, momentum=momentum)
        for mean, ours in zip(MEANS, steps(settings, MEANS), strict=True):
            weights.grad = mean
            theirs.step()
            torch.testing.assert_close(ours, weights.detach(), rtol=1e-12, atol=1e-12)


def test_adam_of_a_constant_update_in_closed_form() -> None:
    """m = (1 − β₁^t)·Δ, v = β₂^t·τ² + (1 − β₂^t)·Δ²: no bias correction (Reddi et al., Algorithm 2)."""
    rate, beta, tau, delta = 0.1, 0.9, 0.01, 0.5
    settings = config(
        server_optimizer="adam", server_learning_rate=rate, server_momentum=beta, server_tau=tau
    )
    expected = 0.0
    for number, weights in enumerate(steps(settings, torch.full((6, 2), delta).double()), start=1):
        v = 0.99**number * tau**2 + (1 - 0.99**number) * delta**2
        expected -= rate * (1 - beta**number) * delta / (v**0.5 + tau)
        assert weights.tolist() == pytest.approx([expected, expected], rel=1e-12)


def test_what_nobody_sent_moves_by_its_momentum_alone() -> None:
    means = torch.zeros(3, 2, dtype=torch.float64)
    means[0, 0] = 1.0
    for name, moved in (("sgd", [1.0, 1.0, 1.0]), ("momentum", [1.0, 1.9, 2.71])):
        weights = steps(config(server_optimizer=name), means)
        assert [-value[0].item() for value in weights] == pytest.approx(moved)
        assert all(value[1] == 0 for value in weights)


def test_federated_averaging_is_the_server_that_takes_the_mean() -> None:
    """The update of one client alone, with rate 1, is where that client has come."""
    federation = build_federation(config(clients=1), known_cost_model())
    state, _ = run_round(federation, initial_state(federation))
    half = build_federation(config(clients=1, server_learning_rate=0.5), known_cost_model())
    halfway, _ = run_round(half, initial_state(half))
    for name, start in initial_state(federation).weights.items():
        torch.testing.assert_close(halfway.weights[name], (start + state.weights[name]) / 2)


@pytest.mark.parametrize("name", ["momentum", "adam"])
def test_the_state_goes_from_round_to_round(name: str) -> None:
    rate = 1.0 if name == "momentum" else 0.02
    federation = build_federation(
        config(server_optimizer=name, server_learning_rate=rate, server_momentum=0.5, rounds=6),
        known_cost_model(),
    )
    state, reports = initial_state(federation), []
    for _ in range(6):
        state, report = run_round(federation, state)
        reports.append(report)
    assert all(bool(value.abs().sum() > 0) for value in state.optimizer.values())
    assert max(accuracies_of(reports)) > 0.9


def test_tests_every_third_round_and_after_the_last() -> None:
    federation = build_federation(config(evaluate_every=3, rounds=4), known_cost_model())
    state, reports = initial_state(federation), []
    for _ in range(4):
        state, report = run_round(federation, state)
        reports.append(report)
    assert [report.test_accuracy is not None for report in reports] == [False, False, True, True]
    assert [report.test_loss is not None for report in reports] == [False, False, True, True]
    assert reports[0].progress == "round 1"
    assert reports[3].progress == f"round 4: {accuracies_of(reports)[-1]:.1%} right"
    assert reports[0].row()["test_accuracy"] is None


def test_settings_of_the_server_are_checked() -> None:
    with pytest.raises(UsageError, match="server_momentum"):
        config(server_momentum=1.0)
    with pytest.raises(UsageError, match="server_tau"):
        config(server_tau=0.0)
