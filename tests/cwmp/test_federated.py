import math
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model
from torch import Tensor, nn

from calibration_data import UsageError
from cwmp.config import TrainingConfig, training_config
from cwmp.links import named_link
from cwmp.networks import build_network
from cwmp.seeding import derived_seed
from cwmp.training.client_round import ClientResult, client_round
from cwmp.training.datasets import load_dataset
from cwmp.training.federated import FederatedState, initial_state, participants, run_round, server_step
from cwmp.training.federation import Federation, build_federation, local_settings
from cwmp.training.local_training import DivergedError, batches, local_update, weights_of
from cwmp.training.probe import expected_gain
from cwmp.training.round_record import WALL_CLOCK_FIELDS, RoundReport, accuracies_of
from cwmp.training.sparse_update import MeanUpdate, decode
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)


def config(**settings: Any) -> TrainingConfig:
    base = {"dataset": "synthetic", "clients": 3, "rounds": 2, "selector": "cwmp", "budget_fraction": 0.2}
    return training_config(**{**base, **settings})


def dense(**settings: Any) -> TrainingConfig:
    return config(selector="dense", budget_fraction=None, **settings)


def rounds(federation: Federation, count: int) -> tuple[FederatedState, list[RoundReport]]:
    state, reports = initial_state(federation), []
    for _ in range(count):
        state, report = run_round(federation, state)
        reports.append(report)
    return state, reports


def mean_of(result: ClientResult, weights: Any) -> Tensor:
    message = decode(result.message, weights)
    mean = MeanUpdate(message.coordinates)
    mean.add(message, result.report.samples)
    return mean.value


def same(first: dict[str, Tensor] | Any, second: dict[str, Tensor] | Any) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


def normalised() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 4), nn.BatchNorm1d(4, track_running_stats=False))


class Hollow(nn.Linear):
    """A layer with a parameter that has no element."""

    def __init__(self) -> None:
        super().__init__(16, 4)
        self.empty = nn.Parameter(torch.zeros(0))


def hollow() -> nn.Module:
    return Hollow()


def test_a_parameter_without_elements_is_trained_around() -> None:
    federation = build_federation(config(network=f"{__name__}:hollow", error_feedback=True), MODEL)
    assert expected_gain(federation).cwmp > 0
    state, (report, *_) = rounds(federation, 2)
    assert state.finished_rounds == 2
    assert 0 < report.clients[0].kept < 16 * 4 + 4


def test_a_single_sample_at_the_end_of_an_epoch_is_known_before_training() -> None:
    """Batch normalisation takes no single sample; a client has one if its samples are 1 modulo the batch."""
    settings = config(network=f"{__name__}:normalised")
    sizes = build_federation(settings, MODEL).partition.sizes
    leaves_one = settings.model_copy(update={"batch_size": min(sizes) - 1})
    with pytest.raises(UsageError, match=r"one at a time.*single sample here: choose another batch_size"):
        build_federation(leaves_one, MODEL)
    state, _ = rounds(build_federation(settings, MODEL), 1)
    assert state.finished_rounds == 1


@pytest.mark.parametrize("rule", ["cwmp", "randomk"])
def test_one_seed_gives_one_result(rule: str) -> None:
    def run(seed: int) -> tuple[FederatedState, list[dict[str, Any]]]:
        settings = config(selector=rule, error_feedback=True, participation=0.7, seed=seed)
        state, reports = rounds(build_federation(settings, MODEL, open_device("sim:server-cpu")), 2)
        return state, [report.model_dump(exclude=set(WALL_CLOCK_FIELDS)) for report in reports]

    (state, reports), (again, same_reports) = run(1), run(1)
    assert same(state.weights, again.weights)
    assert reports == same_reports
    assert not same(state.weights, run(2)[0].weights)


def test_one_client_that_sends_everything_is_plain_sgd() -> None:
    """McMahan et al. 2017 with K = 1: the server takes over what the client has learned."""
    settings = dense(clients=1, rounds=2, momentum=0.0)
    federation = build_federation(settings, MODEL)
    state, _ = rounds(federation, 2)

    data = load_dataset("synthetic", settings.seed)
    network = build_network("mlp", sample_shape=(16,), classes=4, seed=derived_seed(settings.seed, "network"))
    optimizer = torch.optim.SGD(network.parameters(), lr=settings.learning_rate)
    for number in (1, 2):
        torch.manual_seed(derived_seed(settings.seed, "local", round_index=number, client=0))
        for batch in batches(len(data.train_y), local_settings(settings)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(data.train_x[batch]), data.train_y[batch]).backward()
            optimizer.step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(state.weights[name], parameter.detach(), rtol=1e-4, atol=1e-5)


def test_the_server_step_is_the_mean_weighted_by_samples() -> None:
    federation = build_federation(dense(), MODEL)
    start = initial_state(federation)
    state, report = run_round(federation, start)
    expected = {name: value.double().clone() for name, value in start.weights.items()}
    for client, indices in enumerate(federation.partition.indices):
        update = local_update(
            federation.network,
            start.weights,
            federation.data.train_x[torch.from_numpy(indices)],
            federation.data.train_y[torch.from_numpy(indices)],
            local_settings(federation.config),
            seed=derived_seed(0, "local", round_index=1, client=client),
        ).update
        for name in expected:
            expected[name] -= len(indices) / sum(federation.partition.sizes) * update[name].double()
    for name, value in expected.items():
        torch.testing.assert_close(state.weights[name].double(), value, rtol=0, atol=1e-6)
    assert [client.samples for client in report.clients] == list(federation.partition.sizes)


def test_only_what_was_kept_moves_the_weights() -> None:
    federation = build_federation(config(clients=1), MODEL)
    start = initial_state(federation)
    result = client_round(federation, start.weights, {}, 1, 0)
    after, _ = server_step(federation.config, start.weights, {}, mean_of(result, start.weights))
    moved = sum(int((after[name] != start.weights[name]).sum()) for name in after)
    assert 0 < moved <= result.report.kept < federation.costs.coordinates
    assert result.report.kept == decode(result.message, start.weights).values.numel()


def test_error_feedback_loses_nothing() -> None:
    """All that was sent plus what is remembered is all that was learned (Stich et al. 2018)."""
    federation = build_federation(config(clients=1, error_feedback=True), MODEL)
    weights = initial_state(federation).weights
    residual: dict[str, Tensor] = {}
    learned = {name: torch.zeros_like(value) for name, value in weights.items()}
    sent = {name: torch.zeros_like(value) for name, value in weights.items()}
    for number in (1, 2, 3):
        result = client_round(federation, weights, residual, number, 0)
        indices = torch.from_numpy(federation.partition.indices[0])
        update = local_update(
            federation.network,
            weights,
            federation.data.train_x[indices],
            federation.data.train_y[indices],
            local_settings(federation.config),
            seed=derived_seed(0, "local", round_index=number, client=0),
        ).update
        after, _ = server_step(federation.config, weights, {}, mean_of(result, weights))
        for name in learned:
            learned[name] += update[name]
            sent[name] += weights[name] - after[name]
        residual, weights = dict(result.residual), after
    for name, value in learned.items():
        torch.testing.assert_close(sent[name] + residual[name], value, rtol=0, atol=1e-5)
    assert any(bool(value.any()) for value in residual.values())


def test_without_error_feedback_nothing_is_remembered() -> None:
    state, _ = rounds(build_federation(config(), MODEL), 1)
    assert dict(state.residuals) == {}


def test_participants_are_a_seeded_sample() -> None:
    half = config(clients=10, participation=0.5)
    drawn = [participants(half, number) for number in range(1, 9)]
    assert all(len(set(clients)) == 5 and clients == sorted(clients) for clients in drawn)
    assert len({tuple(clients) for clients in drawn}) > 1
    assert drawn == [participants(half, number) for number in range(1, 9)]
    assert participants(config(clients=10), 1) == list(range(10))
    assert len(participants(config(clients=10, participation=0.01), 1)) == 1


def test_a_diverged_client_is_left_out_by_name() -> None:
    federation = build_federation(config(), MODEL)
    federation.data.train_x[torch.from_numpy(federation.partition.indices[1])] = float("inf")
    state, report = run_round(federation, initial_state(federation))
    assert [client.client for client in report.clients] == [0, 2]
    assert [(client.client, client.reason) for client in report.dropped] == [
        (1, "The update of client 1 is not finite.")
    ]
    assert all(bool(torch.isfinite(value).all()) for value in state.weights.values())


def test_a_round_without_a_finite_update_ends_the_run() -> None:
    federation = build_federation(config(learning_rate=1e30), MODEL)
    with pytest.raises(DivergedError, match="No client's update of round 1 is finite"):
        run_round(federation, initial_state(federation))


def test_what_a_round_reports() -> None:
    federation = build_federation(config(), MODEL, open_device("sim:server-cpu"))
    state, reports = rounds(federation, 2)
    for client in (client for report in reports for client in report.clients):
        assert client.budget_j is not None
        assert client.fixed_j + client.marginal_j == pytest.approx(client.predicted_j, rel=1e-9)
        assert client.predicted_j <= client.upper_j <= client.budget_j
        assert client.retained_squared_norm <= client.cwmp_retained_squared_norm <= client.squared_norm
        assert client.topk_retained_squared_norm <= client.cwmp_retained_squared_norm * (1 + 1e-3)
        assert client.payload_bytes < 24 + 5.3 * client.kept
        limited = sum(client.energy[phase].predicted_j or 0.0 for phase in ("select", "pack", "apply"))
        assert limited == pytest.approx(client.predicted_j, rel=1e-9)
        assert client.energy["train"].provenance == "simulated"
        assert client.energy["uplink"].reason is not None
    total = sum(report.energy[phase].predicted_j or 0.0 for report in reports for phase in report.energy)
    assert reports[-1].cumulative_predicted_j == pytest.approx(total, rel=1e-12)
    assert reports[-1].cumulative_boundary_j == state.ledger.charged_j
    packed = sum(report.energy["pack"].measured_j or 0.0 for report in reports)
    assert reports[-1].cumulative_measured_j["pack"] == pytest.approx(packed, rel=1e-12)
    assert "uplink" not in reports[-1].cumulative_measured_j
    assert state.ledger.granted_j == pytest.approx(6 * (federation.budget.budget_j or 0.0))


def test_the_link_is_paid_for_the_bytes_that_are_sent() -> None:
    settings = config(boundary="update+uplink", link="wifi-2012", budget_fraction=0.05)
    _, (report,) = rounds(build_federation(settings, MODEL), 1)
    link = named_link("wifi-2012")
    for client in report.clients:
        assert client.energy["uplink"].predicted_j == pytest.approx(
            link.uplink_j(client.payload_bytes) + (link.wake_j or 0.0), rel=1e-12
        )
        phases = ("select", "pack", "uplink", "apply")
        assert client.predicted_j == pytest.approx(sum(client.energy[p].predicted_j or 0 for p in phases))
        assert client.budget_j is not None
        assert client.upper_j <= client.budget_j


def test_the_ablation_trains_as_topk_does_and_says_what_prices_would_have_kept() -> None:
    common: dict[str, Any] = {"dataset": "digits", "budget_fraction": 0.05, "local_epochs": 1}
    ablation, (report,) = rounds(build_federation(config(equal_prices=True, **common), MODEL), 1)
    topk, (same_report,) = rounds(build_federation(config(selector="topk", **common), MODEL), 1)
    assert same(ablation.weights, topk.weights)
    for client, other in zip(report.clients, same_report.clients, strict=True):
        assert client == other.model_copy(update={"rule": "cwmp"})
        assert client.retained_squared_norm == client.topk_retained_squared_norm
        assert client.retained_squared_norm < client.cwmp_retained_squared_norm


@pytest.mark.parametrize(("rule", "more"), [("cwmp-block", {}), ("threshold", {"at_least": 1e-3})])
def test_blocks_and_thresholds_are_rules_of_a_run(rule: str, more: dict[str, float]) -> None:
    federation = build_federation(config(selector=rule, **more), MODEL, open_device("sim:server-cpu"))
    _, (report,) = rounds(federation, 1)
    for client in report.clients:
        assert client.rule == rule
        assert 0 < client.kept < 2692
        assert client.predicted_j <= client.upper_j <= (client.budget_j or 0.0)
        assert client.retained_squared_norm <= client.cwmp_retained_squared_norm * (1 + 1e-3)


def test_dense_ignores_the_budget_and_says_so() -> None:
    _, (report,) = rounds(build_federation(dense(), MODEL), 1)
    for client in report.clients:
        assert client.budget_j is None
        assert client.kept == 2692
        assert client.retained_squared_norm == client.squared_norm == client.cwmp_retained_squared_norm
        assert client.payload_bytes == 24 + 4 * client.kept


def test_digits_are_learned_without_pruning() -> None:
    federation = build_federation(dense(dataset="digits", clients=10), MODEL)
    _, reports = rounds(federation, 12)
    accuracies = accuracies_of(reports)
    assert max(accuracies[-3:]) > 0.9
    assert not math.isclose(accuracies[0], accuracies[-1], abs_tol=0.1)


def test_networks_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_networks.py").write_text(
        "from torch import nn\ndef small():\n    return nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 4))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    federation = build_federation(config(network="own_networks:small", learning_rate=0.05), MODEL)
    assert federation.costs.coordinates == 68
    state, _ = rounds(federation, 2)
    assert not same(state.weights, weights_of(federation.network))
