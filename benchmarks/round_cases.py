"""What ``rounds.py`` times: networks with the samples of 20 clients, and the training of a plain loop."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cwmp.networks import build_network
from cwmp.training.datasets import Dataset, load_dataset

CLIENTS = 20
LEARNING_RATE, MOMENTUM = 0.05, 0.9
IMAGES_PER_CLIENT = 200
BATCH = {"mlp": 8}
IMAGE_BATCH = 25


@dataclass(frozen=True, kw_only=True)
class Case:
    """One network with its samples.

    Attributes:
        network: name of it.
        data: samples of all clients.
        batch_size: of a local step.
    """

    network: str
    data: Dataset
    batch_size: int

    def shares(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Samples of each client, as many for each."""
        count = len(self.data.train_y) // CLIENTS
        return [
            (self.data.train_x[k * count : (k + 1) * count], self.data.train_y[k * count : (k + 1) * count])
            for k in range(CLIENTS)
        ]

    def module(self) -> nn.Module:
        """The network with its initial weights."""
        return build_network(self.network, sample_shape=self.data.sample_shape, classes=10)


def images(samples: int) -> Dataset:
    """Random 3x32x32 images, so that no data set is needed."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, 3, 32, 32, generator=generator)
    y = torch.arange(samples) % 10
    return Dataset(name="images", train_x=x, train_y=y, test_x=x[:10], test_y=y[:10], classes=10)


def case(network: str) -> Case:
    """The samples that a network is timed with."""
    data = load_dataset("digits", 0) if network == "mlp" else images(CLIENTS * IMAGES_PER_CLIENT)
    return Case(network=network, data=data, batch_size=BATCH.get(network, IMAGE_BATCH))


def plain_training(network: nn.Module, x: torch.Tensor, y: torch.Tensor, batch_size: int) -> None:
    """One epoch as a tutorial writes it."""
    optimizer = torch.optim.SGD(network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    for batch_x, batch_y in DataLoader(TensorDataset(x, y), batch_size=batch_size, shuffle=True):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(batch_x), batch_y).backward()
        optimizer.step()
