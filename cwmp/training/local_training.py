"""One client's training in one round.

Local SGD of federated averaging (McMahan et al., "Communication-Efficient Learning of Deep Networks from
Decentralized Data", AISTATS 2017, ClientUpdate in Algorithm 1); with momentum, the velocity starts at zero
in every round. What leaves is the pseudo-gradient global − local (Reddi et al., ICLR 2021), one number per
gradient coordinate.

One network object serves all clients; its parameters are exchanged for a client's, not copied into another
object. Plain ``torch.autograd.grad`` and one fused update: no optimizer or loader objects, which would cost
more than the arithmetic of a small network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from calibration_data import CalijouleError, UsageError

TEST_BATCH = 500
"""Samples that are tested at once, which bounds the memory: ResNet-18 holds 0.26 MB for each and layer."""


class DivergedError(CalijouleError):
    """Training produced numbers that are not finite."""


@dataclass(frozen=True, kw_only=True)
class LocalSettings:
    """How a client trains.

    Attributes:
        epochs: passes over the client's samples.
        batch_size: samples of one step; the last one of an epoch may be shorter.
        learning_rate: of SGD.
        momentum: of SGD.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LocalUpdate:
    """What a client has learned.

    Attributes:
        update: global − local by parameter name, in the parameters' shapes.
        samples: the client's samples, its weight in the average.
        mean_loss: mean cross-entropy of all its training samples over the round, before each step.
    """

    update: dict[str, Tensor]
    samples: int
    mean_loss: float


@contextmanager
def single_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums have one order and results repeat to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def weights_of(network: nn.Module) -> dict[str, Tensor]:
    """A copy of a network's parameters by name."""
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


def local_update(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    settings: LocalSettings,
    *,
    seed: int,
    client: int = 0,
) -> LocalUpdate:
    """Train from the global weights on one client's samples.

    A pure function of its arguments: neither ``weights`` nor ``network`` nor torch's random state change.

    Args:
        network: gives the computation; its own parameters are not used.
        weights: the global weights by name.
        x: the client's samples, shape (n, *sample_shape).
        y: their classes, shape (n,).
        settings: epochs, batch size, learning rate, momentum.
        seed: of the order of the samples, and of dropout.
        client: for messages.

    Raises:
        UsageError: the client has no samples.
        DivergedError: the update is not finite.
    """
    samples = len(y)
    require_samples(y, client)
    loss_sum = 0.0
    network.train()
    with parameters_from(network, weights) as local, torch.random.fork_rng(devices=[]):
        # torch.manual_seed would look for a GPU each time, which takes as long as a small network's epoch.
        torch.default_generator.manual_seed(seed)
        velocity = first_velocity(local, settings)
        for batch in batches(samples, settings):
            loss = sgd_step(network, local, velocity, x, y, batch, settings)
            loss_sum += loss.item() * len(batch)
        trained = torch._foreach_sub([weights[name] for name in weights], [local[name] for name in weights])
    update = {name: value.detach().contiguous() for name, value in zip(weights, trained, strict=True)}
    require_finite(update, client)
    return LocalUpdate(update=update, samples=samples, mean_loss=loss_sum / (samples * settings.epochs))


def require_samples(samples: Tensor, client: int) -> None:
    """Refuse to train on nothing.

    Raises:
        UsageError: the client has no samples.
    """
    if len(samples) == 0:
        raise UsageError(f"Client {client} has no samples.", next_step="Leave it out of the partition.")


def require_finite(update: Mapping[str, Tensor], client: int) -> None:
    """Refuse an update that no server could use.

    Raises:
        DivergedError: it is not finite.
    """
    # torch.isfinite takes ten times as long.
    if not all(np.isfinite(value.numpy()).all() for value in update.values()):
        raise DivergedError(
            f"The update of client {client} is not finite.", next_step="Try a smaller learning_rate."
        )


@contextmanager
def parameters_from(
    network: nn.Module, weights: Mapping[str, Tensor]
) -> Iterator[Mapping[str, nn.Parameter]]:
    """Let a network compute with a copy of some weights; afterwards it has its own parameters again.

    Yields:
        The network's parameters by name, to be trained in place.
    """
    copies = {}
    for name, value in weights.items():
        # Convolutions on CPUs are a fifth faster with channels last.
        layout = torch.channels_last if value.dim() == 4 else torch.contiguous_format
        copies[name] = value.detach().clone(memory_format=layout)
    with _holding(network, copies) as parameters:
        yield parameters


@contextmanager
def _holding(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[dict[str, nn.Parameter]]:
    """Let a network hold some values; ``functional_call`` does not restore a module that is used twice."""
    parameters = dict(network.named_parameters())
    own = {name: parameter.data for name, parameter in parameters.items()}
    for name, parameter in parameters.items():
        parameter.data = values[name]
    try:
        yield parameters
    finally:
        for name, parameter in parameters.items():
            parameter.data = own[name]


def first_velocity(local: Mapping[str, Tensor], settings: LocalSettings) -> list[Tensor]:
    """The velocity before the first step: zero; empty without momentum."""
    return [torch.zeros_like(value) for value in local.values()] if settings.momentum else []


def batches(
    samples: int, settings: LocalSettings, generator: torch.Generator | None = None
) -> Iterator[Tensor]:
    """Indices of every step's samples: a new order in each epoch, by default from torch's random state."""
    for _ in range(settings.epochs):
        yield from torch.split(torch.randperm(samples, generator=generator), settings.batch_size)


def sgd_step(
    network: nn.Module,
    local: Mapping[str, Tensor],
    velocity: list[Tensor],
    x: Tensor,
    y: Tensor,
    batch: Tensor,
    settings: LocalSettings,
) -> Tensor:
    """One step of SGD on ``local``, in place. Returns the loss.

    Args:
        network: that computes with ``local``, as inside ``parameters_from``.
        local: its parameters by name.
        velocity: from ``first_velocity`` or the step before, in place.
        x: samples.
        y: their classes.
        batch: indices of the samples of this step.
        settings: learning rate and momentum.
    """
    output = network(x.index_select(0, batch))
    loss = nn.functional.cross_entropy(output, y.index_select(0, batch))
    parameters: list[Tensor] = list(local.values())
    gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
    descend(parameters, velocity, gradients, settings)
    return loss.detach()


@torch.no_grad()
def descend(
    parameters: list[Tensor], velocity: list[Tensor], gradients: Sequence[Tensor], settings: LocalSettings
) -> None:
    """Change parameters, and their velocity if there is one, by a step along the gradients, in place."""
    if velocity:
        torch._foreach_mul_(velocity, settings.momentum)
        torch._foreach_add_(velocity, list(gradients))
        gradients = velocity
    torch._foreach_add_(parameters, list(gradients), alpha=-settings.learning_rate)


def evaluate(network: nn.Module, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> tuple[float, float]:
    """Accuracy in [0, 1] and mean cross-entropy of some weights on some samples, batch by batch in order."""
    network.eval()
    right, loss = 0, 0.0
    with torch.no_grad(), _holding(network, weights):
        for batch_x, batch_y in zip(torch.split(x, TEST_BATCH), torch.split(y, TEST_BATCH), strict=True):
            output = network(batch_x)
            loss += nn.functional.cross_entropy(output, batch_y).item() * (len(batch_y) / len(y))
            right += int((output.argmax(1) == batch_y).sum())
    return right / len(y), loss
