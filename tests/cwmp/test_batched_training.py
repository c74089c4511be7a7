"""Clients that train together learn what each of them learns alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model
from torch import Tensor, nn

from calibration_data import UsageError
from cwmp.config import TrainingConfig, training_config
from cwmp.training.batched_training import (
    CLIENTS_AT_ONCE,
    Share,
    groups_of,
    is_dense,
    trains_together,
    updates_together,
)
from cwmp.training.engine import BatchedEngine
from cwmp.training.federated import initial_state, run_round
from cwmp.training.federation import build_federation
from cwmp.training.local_training import LocalSettings, LocalUpdate, local_update, weights_of
from cwmp.training.round_record import WALL_CLOCK_FIELDS
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, ROUNDS, read_rounds
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)
SIZES = (7, 40, 23, 40, 1)
"""Fewer samples than a batch, equal ones, one alone."""

ROUNDING = 2e-6
"""Of updates below 1 after some dozen float32 steps; a step that was left out would show at 1e-3."""


def network(*, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(12, 16, bias=bias), nn.Tanh(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 4)
    )


def samples() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    count = sum(SIZES)
    return torch.randn(count, 3, 4, generator=generator), torch.randint(4, (count,), generator=generator)


def shares() -> list[Share]:
    order = torch.randperm(sum(SIZES), generator=torch.Generator().manual_seed(6))
    parts = torch.split(order, list(SIZES))
    return [Share(client=k, indices=part, seed=1000 + k) for k, part in enumerate(parts)]


def alone(net: nn.Module, share: Share, settings: LocalSettings) -> LocalUpdate:
    x, y = samples()
    return local_update(net, weights_of(net), x[share.indices], y[share.indices], settings, seed=share.seed)


def together(net: nn.Module, some: list[Share], settings: LocalSettings) -> list[LocalUpdate]:
    return updates_together(net, weights_of(net), *samples(), some, settings)


@pytest.mark.parametrize(
    "settings",
    [
        LocalSettings(epochs=1, batch_size=8, learning_rate=0.1),
        LocalSettings(epochs=3, batch_size=8, learning_rate=0.1, momentum=0.9),
        LocalSettings(epochs=2, batch_size=1000, learning_rate=0.1, momentum=0.5),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_together_as_alone(settings: LocalSettings, bias: bool) -> None:
    net = network(bias=bias)
    for share, update in zip(shares(), together(net, shares(), settings), strict=True):
        expected = alone(net, share, settings)
        assert update.samples == expected.samples
        assert update.mean_loss == pytest.approx(expected.mean_loss, rel=1e-5)
        assert list(update.update) == list(expected.update)
        for name, value in update.update.items():
            assert expected.update[name].abs().max() > 1e-3
            torch.testing.assert_close(value, expected.update[name], atol=ROUNDING, rtol=0)


def test_nothing_else_changes_and_the_order_of_clients_does_not_matter() -> None:
    net, settings = network(), LocalSettings(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.9)
    own, state = weights_of(net), torch.random.get_rng_state()
    first = together(net, shares(), settings)
    again = together(net, shares(), settings)
    backwards = together(net, shares()[::-1], settings)[::-1]
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in own.items():
        assert torch.equal(value, net.get_parameter(name))
        for one, same, other in zip(first, again, backwards, strict=True):
            assert torch.equal(one.update[name], same.update[name])
            torch.testing.assert_close(one.update[name], other.update[name], atol=ROUNDING, rtol=0)


def test_one_client_that_diverges_leaves_the_others_alone() -> None:
    net, settings = network(), LocalSettings(epochs=2, batch_size=8, learning_rate=0.1, momentum=0.9)
    x, y = samples()
    x[shares()[1].indices[0]] = torch.inf
    updates = updates_together(net, weights_of(net), x, y, shares(), settings)
    finite = [bool(torch.isfinite(update.update["1.weight"]).all()) for update in updates]
    assert finite == [True, False, True, True, True]


def test_what_is_dense() -> None:
    tied = nn.Linear(4, 4)
    frozen = network()
    frozen[1].requires_grad_(False)
    others = [
        nn.Sequential(nn.Conv2d(3, 6, 5), nn.Flatten()),
        nn.Sequential(nn.Linear(4, 4), nn.Dropout()),
        nn.Sequential(nn.Linear(4, 4), nn.Softmax(1)),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        nn.Sequential(nn.Flatten(2), nn.Linear(4, 4)),
        nn.Sequential(tied, nn.ReLU(), tied),
        nn.Sequential(),
        nn.Linear(4, 4),
        frozen,
    ]
    assert is_dense(network())
    assert not any(map(is_dense, others))
    assert is_dense(nn.Sequential(nn.Linear(300, 300)))
    assert not trains_together(nn.Sequential(nn.Linear(300, 300)))


def test_groups_do_not_depend_on_where_they_train() -> None:
    groups = groups_of(list(range(2 * CLIENTS_AT_ONCE + 1)))
    assert [len(group) for group in groups] == [CLIENTS_AT_ONCE, CLIENTS_AT_ONCE, 1]
    assert all(groups_of(group) == [group] for group in groups)


def config(**settings: Any) -> TrainingConfig:
    base: dict[str, Any] = {
        "dataset": "synthetic",
        "clients": CLIENTS_AT_ONCE + 3,
        "rounds": 2,
        "selector": "cwmp",
        "budget_fraction": 0.2,
        "error_feedback": True,
    }
    return training_config(**{**base, **settings})


def reports(folder: Path) -> list[dict[str, Any]]:
    return [report.model_dump(exclude=set(WALL_CLOCK_FIELDS)) for report in read_rounds(folder / ROUNDS)]


def test_workers_and_a_resumed_run_give_the_same_bits(tmp_path: Path) -> None:
    def stop(report: Any) -> None:
        raise KeyboardInterrupt

    device = open_device("sim:server-cpu")
    summary = train(config(), MODEL, tmp_path / "whole", device=device, batched=True)
    train(config(), MODEL, tmp_path / "shared", device=device, batched=True, workers=2)
    with pytest.raises(KeyboardInterrupt):
        train(config(), MODEL, tmp_path / "killed", device=device, batched=True, on_round=stop)
    with pytest.raises(UsageError, match="engine = 'local-batched', not 'local'"):
        train(config(), MODEL, tmp_path / "killed", device=device, resume=True)
    train(config(), MODEL, tmp_path / "killed", device=device, batched=True, resume=True)
    assert summary.identity.engine == "local-batched"
    whole = torch.load(tmp_path / "whole" / CHECKPOINT, weights_only=True)
    for name in ("shared", "killed"):
        assert reports(tmp_path / name) == reports(tmp_path / "whole")
        weights = torch.load(tmp_path / name / CHECKPOINT, weights_only=True)["weights"]
        assert all(torch.equal(value, whole["weights"][key]) for key, value in weights.items())


def test_only_the_training_differs_from_one_by_one() -> None:
    """Joules of training are counted per client, whoever trains beside it."""
    federation = build_federation(config(), MODEL, open_device("sim:server-cpu"))
    state, one_by_one = run_round(federation, initial_state(federation))
    batched, report = run_round(federation, initial_state(federation), BatchedEngine(federation))
    for client, other in zip(report.clients, one_by_one.clients, strict=True):
        assert client.energy["train"] == other.energy["train"]
        assert client.kept == pytest.approx(other.kept, abs=3)
    for name, value in state.weights.items():
        torch.testing.assert_close(batched.weights[name], value, atol=1e-2, rtol=0)


def test_it_is_refused_where_it_cannot_be() -> None:
    with pytest.raises(UsageError, match="network cnn do not train together"):
        BatchedEngine(build_federation(config(dataset="digits", network="cnn"), MODEL))
