"""Clients of a dense network that train together: their weights stacked, one product for all of them.

The arithmetic of a small perceptron takes less time than calling it, so a step of many clients costs little
more than a step of one:

    weights   (clients, out, in)    one ``baddbmm`` for each layer and step
    samples   (clients, batch, in)  step s of each client is its own s-th batch
    active    clients with most steps first, so that those who still train are the first ones

Every client sees the batches of ``local_training`` in the same order, from the same seed, and its velocity
starts at zero. A shorter batch is filled up with samples that weigh nothing. Sums have another order than one
by one, so updates agree to rounding and not to the bit; the engine's name tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cwmp.training.local_training import (
    LocalSettings,
    LocalUpdate,
    batches,
    descend,
    first_velocity,
    require_samples,
)

POINTWISE = (
    nn.ReLU,
    nn.LeakyReLU,
    nn.ELU,
    nn.GELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Tanh,
    nn.Softplus,
    nn.Hardtanh,
    nn.Identity,
)
"""Layers that treat every number by itself, none of them at random."""

CLIENTS_AT_ONCE = 10
"""Twenty would be a fifth faster; ten give two workers something to share."""

MOST_COORDINATES = 65_536
"""Larger networks no longer gain: the weights of ten clients leave the caches, those of one stay."""


@dataclass(frozen=True, kw_only=True)
class Share:
    """What one client trains with.

    Attributes:
        client: its number, for messages.
        indices: of its samples, int64, shape (samples,).
        seed: of their order.
    """

    client: int

    indices: Tensor
    seed: int


def trains_together(network: nn.Module) -> bool:
    """Whether clients of a network train together, and faster: a small one that ``is_dense``."""
    return is_dense(network) and sum(value.numel() for value in network.parameters()) <= MOST_COORDINATES


def groups_of(clients: Sequence[int]) -> list[Sequence[int]]:
    """Those that train together: the same ones wherever they do, for their number decides the bits."""
    return [clients[first : first + CLIENTS_AT_ONCE] for first in range(0, len(clients), CLIENTS_AT_ONCE)]


def is_dense(network: nn.Module) -> bool:
    """Whether a network is a plain sequence of linear layers and pointwise ones, all of it trained."""
    if type(network) is not nn.Sequential:
        return False
    layers = list(network)
    if layers and _flattens(layers[0]):
        layers = layers[1:]
    own = [parameter for layer in layers for parameter in layer.parameters()]
    return (
        all(type(layer) is nn.Linear or type(layer) in POINTWISE for layer in layers)
        and bool(own)
        and all(parameter.requires_grad for parameter in own)
        and len(set(own)) == len(own)
    )


def updates_together(
    network: nn.Module,
    weights: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    shares: Sequence[Share],
    settings: LocalSettings,
) -> list[LocalUpdate]:
    """Train some clients from the same global weights, each on its own samples.

    A pure function of its arguments, as ``local_update`` is.

    Args:
        network: for which ``is_dense``; gives the computation.
        weights: the global weights by name.
        x: samples of all clients, shape (n, *sample_shape).
        y: their classes, shape (n,).
        shares: of each client.
        settings: epochs, batch size, learning rate, momentum.

    Returns:
        What each client has learned, in the order given; it need not be finite.

    Raises:
        UsageError: a client has no samples.
    """
    for share in shares:
        require_samples(share.indices, share.client)
    longest_first = sorted(range(len(shares)), key=lambda place: -len(shares[place].indices))
    plan = _plan([shares[place] for place in longest_first], settings)
    local = {
        name: value.detach().expand(len(shares), *value.shape).clone() for name, value in weights.items()
    }
    velocity = first_velocity(local, settings)
    loss_sums = torch.zeros(len(shares), dtype=torch.float64)
    for step in plan:
        active = len(step.lengths)
        losses = _step(
            network,
            {name: value[:active] for name, value in local.items()},
            [value[:active] for value in velocity],
            x[step.indices],
            y[step.indices],
            step.lengths,
            settings,
        )
        loss_sums[:active] += losses
    updates: list[LocalUpdate | None] = [None] * len(shares)
    for row, place in enumerate(longest_first):
        samples = len(shares[place].indices)
        updates[place] = LocalUpdate(
            update={name: value - local[name][row] for name, value in weights.items()},
            samples=samples,
            mean_loss=float(loss_sums[row]) / (samples * settings.epochs),
        )
    return [update for update in updates if update is not None]


@dataclass(frozen=True)
class _Batches:
    """Batches of one step of many clients, or of many steps of one.

    Attributes:
        indices: of the samples, filled up to the same number, int64, shape (batches, width).
        lengths: how many of them are the batch, shape (batches, 1).
    """

    indices: Tensor
    lengths: Tensor


def _plan(shares: Sequence[Share], settings: LocalSettings) -> list[_Batches]:
    """The steps of some clients, those with most samples first."""
    width = min(settings.batch_size, len(shares[0].indices))
    filled = [_filled_batches(share, settings, width) for share in shares]
    # Steps first; clients that have finished are the last ones, and are cut off.
    indices = nn.utils.rnn.pad_sequence([of_client.indices for of_client in filled])
    lengths = nn.utils.rnn.pad_sequence([of_client.lengths for of_client in filled])
    active = lengths.count_nonzero(1).flatten().tolist()
    return [_Batches(indices[step, :clients], lengths[step, :clients]) for step, clients in enumerate(active)]


def _filled_batches(share: Share, settings: LocalSettings, width: int) -> _Batches:
    """Each batch of one client, filled up with its own first sample."""
    generator = torch.Generator().manual_seed(share.seed)
    rows, lengths = [], []
    for batch in batches(len(share.indices), settings, generator):
        lengths.append([len(batch)])
        rows.append(batch)
        if len(batch) < width:
            rows.append(batch[:1].expand(width - len(batch)))
    return _Batches(share.indices[torch.cat(rows).view(-1, width)], torch.tensor(lengths))


def _step(
    network: nn.Module,
    local: Mapping[str, Tensor],
    velocity: list[Tensor],
    x: Tensor,
    y: Tensor,
    lengths: Tensor,
    settings: LocalSettings,
) -> Tensor:
    """One step of SGD of every client, in place; the summed loss of each client's batch, shape (active,)."""
    parameters = [value.detach().requires_grad_() for value in local.values()]
    output = _computed(network, dict(zip(local, parameters, strict=True)), x)
    losses = nn.functional.cross_entropy(output.flatten(0, 1), y.flatten(), reduction="none").view_as(y)
    counted = losses * (torch.arange(y.shape[1]) < lengths)
    gradients = torch.autograd.grad((counted / lengths).sum(), parameters)
    descend(parameters, velocity, gradients, settings)
    return counted.detach().sum(1)


def _computed(network: nn.Module, local: Mapping[str, Tensor], x: Tensor) -> Tensor:
    """Output of each client's network on its own samples, shape (active, batch, classes)."""
    for name, layer in network.named_children():
        if isinstance(layer, nn.Flatten):
            x = x.flatten(2)
        elif isinstance(layer, nn.Linear):
            weight, bias = local[f"{name}.weight"].transpose(1, 2), local.get(f"{name}.bias")
            x = torch.bmm(x, weight) if bias is None else torch.baddbmm(bias.unsqueeze(1), x, weight)
        else:
            x = layer(x)
    return x


def _flattens(layer: nn.Module) -> bool:
    return type(layer) is nn.Flatten and (layer.start_dim, layer.end_dim) == (1, -1)
