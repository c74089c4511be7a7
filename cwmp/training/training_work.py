"""Work of local training: what one step of SGD does on the device, counted from its own operators.

The step that is counted is the step that trains (``local_training.sgd_step``), run once on a copy; see
``cwmp.prediction`` for what is counted and how.
"""

from __future__ import annotations

import torch
from torch import nn

from calibration_data import MemoryHierarchy, Work
from cwmp.prediction import CountedWork, WorkCounter
from cwmp.training.local_training import (
    LocalSettings,
    first_velocity,
    parameters_from,
    sgd_step,
    single_thread,
    weights_of,
)


def step_work(
    network: nn.Module,
    *,
    sample_shape: tuple[int, ...],
    classes: int,
    batch_size: int,
    settings: LocalSettings,
    memory: MemoryHierarchy,
) -> CountedWork:
    """Work of one step of local SGD on a batch of ``batch_size`` samples.

    Args:
        network: float32 network; neither it nor torch's random state is changed.
        sample_shape: of one sample.
        classes: number of classes.
        batch_size: samples of the step.
        settings: with or without momentum.
        memory: of the device, decides at which level each operation's tensors fit.
    """
    x = torch.zeros(batch_size, *sample_shape)
    y = torch.arange(batch_size) % classes
    batch = torch.arange(batch_size)
    training = network.training
    network.train()
    with (
        single_thread(),
        torch.random.fork_rng(devices=[]),
        parameters_from(network, weights_of(network)) as local,
    ):
        velocity = first_velocity(local, settings)
        with WorkCounter(memory) as counter:
            sgd_step(network, local, velocity, x, y, batch, settings)
    network.train(training)
    return counter.counted


class TrainingWork:
    """Work of a client's whole training phase: steps times the work of one step.

    The last step of an epoch may be shorter and is counted in its own shape. Each shape is counted once.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        sample_shape: tuple[int, ...],
        classes: int,
        settings: LocalSettings,
        memory: MemoryHierarchy,
    ) -> None:
        self._network = network
        self._sample_shape = sample_shape
        self._classes = classes
        self._settings = settings
        self._memory = memory
        self._by_batch: dict[int, CountedWork] = {}

    def step(self, batch_size: int) -> CountedWork:
        """Work of one step on a batch of that size."""
        if batch_size not in self._by_batch:
            self._by_batch[batch_size] = step_work(
                self._network,
                sample_shape=self._sample_shape,
                classes=self._classes,
                batch_size=batch_size,
                settings=self._settings,
                memory=self._memory,
            )
        return self._by_batch[batch_size]

    def of_client(self, samples: int) -> Work:
        """Work of all epochs of a client with that many samples."""
        full, rest = divmod(samples, self._settings.batch_size)
        epoch = self.step(self._settings.batch_size).work * full if full else Work()
        if rest:
            epoch = epoch + self.step(rest).work
        return epoch * self._settings.epochs
