import pytest
import torch
from torch import Tensor, nn

from calibration_data import UsageError
from cwmp.networks import build_network
from cwmp.training.datasets import load_dataset
from cwmp.training.local_training import (
    DivergedError,
    LocalSettings,
    batches,
    evaluate,
    local_update,
    weights_of,
)

SETTINGS = LocalSettings(epochs=3, batch_size=16, learning_rate=0.1, momentum=0.9)


def samples(count: int = 50) -> tuple[Tensor, Tensor]:
    data = load_dataset("synthetic", seed=0)
    return data.train_x[:count], data.train_y[:count]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_local_update_is_torchs_sgd(momentum: float) -> None:
    network = build_network("mlp", sample_shape=(16,), classes=4, seed=1)
    x, y = samples()
    settings = LocalSettings(epochs=3, batch_size=16, learning_rate=0.1, momentum=momentum)
    start = weights_of(network)
    ours = local_update(network, start, x, y, settings, seed=9)

    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=momentum)
    torch.manual_seed(9)
    losses = 0.0
    for batch in batches(len(y), settings):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
        losses += loss.item() * len(batch)
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(ours.update[name], start[name] - parameter.detach(), rtol=1e-4, atol=1e-6)
    assert ours.mean_loss == pytest.approx(losses / (3 * len(y)), rel=1e-5)
    assert ours.samples == 50


def test_every_epoch_visits_every_sample_once() -> None:
    steps = list(batches(50, SETTINGS))
    assert [len(step) for step in steps] == [16, 16, 16, 2] * 3
    for epoch in range(3):
        assert sorted(torch.cat(steps[4 * epoch : 4 * epoch + 4]).tolist()) == list(range(50))


def test_training_is_a_pure_function() -> None:
    network = nn.Sequential(build_network("mlp", sample_shape=(16,), classes=4), nn.Dropout(0.2))
    weights = weights_of(network)
    before = {name: value.clone() for name, value in weights.items()}
    x, y = samples()
    first = local_update(network, weights, x, y, SETTINGS, seed=2)
    torch.manual_seed(12345)
    again = local_update(network, weights, x, y, SETTINGS, seed=2)
    other = local_update(network, weights, x, y, SETTINGS, seed=3)
    for name, value in before.items():
        assert torch.equal(weights[name], value)
        assert torch.equal(first.update[name], again.update[name])
    assert any(not torch.equal(first.update[name], other.update[name]) for name in before)


def test_a_client_without_samples_is_named() -> None:
    network = build_network("mlp", sample_shape=(16,), classes=4)
    x, y = samples(0)
    with pytest.raises(UsageError, match="Client 3 has no samples"):
        local_update(network, weights_of(network), x, y, SETTINGS, seed=0, client=3)


def test_a_diverged_update_is_named() -> None:
    network = build_network("mlp", sample_shape=(16,), classes=4)
    x, y = samples()
    wild = LocalSettings(epochs=5, batch_size=16, learning_rate=1e20)
    with pytest.raises(DivergedError, match="update of client 7 is not finite"):
        local_update(network, weights_of(network), x, y, wild, seed=0, client=7)


def test_evaluation_against_counting() -> None:
    network = build_network("mlp", sample_shape=(16,), classes=4)
    x, y = samples(40)
    accuracy, loss = evaluate(network, weights_of(network), x, y)
    logits = network(x).detach()
    right = sum(int(row.argmax()) == int(label) for row, label in zip(logits, y, strict=True))
    assert accuracy == right / 40
    probability = torch.softmax(logits.double(), 1)[torch.arange(40), y]
    assert loss == pytest.approx(float(-probability.log().mean()), rel=1e-5)


def test_a_layer_that_is_used_twice_is_tested_and_trained_on() -> None:
    layer = nn.Linear(16, 16)
    network = nn.Sequential(layer, nn.ReLU(), layer, nn.Linear(16, 4))
    x, y = samples(40)
    settings = LocalSettings(epochs=1, batch_size=16, learning_rate=0.1)
    first = local_update(network, weights_of(network), x, y, settings, seed=0)
    evaluate(network, {name: value + 1 for name, value in weights_of(network).items()}, x, y)
    again = local_update(network, weights_of(network), x, y, settings, seed=0)
    assert all(torch.equal(first.update[name], again.update[name]) for name in first.update)


@pytest.mark.parametrize("samples", [1, 499, 500, 501, 1234])
def test_a_test_in_batches_is_the_test_of_all_samples_together(samples: int) -> None:
    generator = torch.Generator().manual_seed(samples)
    x = torch.randn(samples, 16, generator=generator)
    y = torch.randint(0, 4, (samples,), generator=generator)
    network = build_network("mlp", sample_shape=(16,), classes=4)
    accuracy, loss = evaluate(network, weights_of(network), x, y)
    with torch.no_grad():
        output = network(x)
    assert accuracy == (output.argmax(1) == y).double().mean().item()
    together = nn.functional.cross_entropy(output, y).item()
    if samples <= 500:
        assert loss == together
    else:
        assert loss == pytest.approx(together, rel=1e-6)
