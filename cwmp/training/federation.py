"""What a federated run consists of before its first round: data, shares, network, prices, budget, meter."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from cost_models import CostModel
from cwmp.config import TrainingConfig
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.networks import build_network
from cwmp.seeding import derived_seed
from cwmp.selection.budgeted import RoundBudget, plan_budget
from cwmp.training.datasets import Dataset, load_dataset
from cwmp.training.local_training import LocalSettings
from cwmp.training.partition import Partition, configured_partition
from cwmp.training.phase_meter import PhaseMeter, phase_meter
from cwmp.training.training_work import TrainingWork
from profiler.device import Device


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What stays the same over all rounds.

    Attributes:
        config: the settings.
        data: samples of all clients, and those of the test.
        partition: who holds which of them.
        network: gives the computation; its own parameters are the initial weights.
        costs: prices of its coordinates.
        budget: what a client may spend in a round.
        training: work of the local steps.
        meter: sees the joules of each phase.
    """

    config: TrainingConfig
    data: Dataset
    partition: Partition
    network: nn.Module
    costs: CostVector
    budget: RoundBudget
    training: TrainingWork
    meter: PhaseMeter


def build_federation(config: TrainingConfig, model: CostModel, device: Device | None = None) -> Federation:
    """Load the data, share it out, build the network, price it, and resolve the budget.

    Args:
        config: the settings.
        model: costs of elementary operations on the clients' device.
        device: whose sensors measure the phases; None predicts only.

    Raises:
        UsageError: a setting names something that does not exist or cannot be done.
        MissingCoefficientError: the cost model lacks a cost that the prices need.
    """
    data = load_dataset(
        config.dataset,
        config.seed,
        data_dir=None if config.data_dir is None else Path(config.data_dir),
        train_samples=config.train_samples,
        test_samples=config.test_samples,
    )
    partition = configured_partition(config, data.train_y.numpy())
    network = build_network(
        config.network,
        sample_shape=data.sample_shape,
        classes=data.classes,
        seed=derived_seed(config.seed, "network"),
    )
    costs = cost_vector(
        network,
        model,
        boundary=config.boundary,
        density=1.0,
        link=config.link,
        index_coding="golomb",  # as sparse_update codes them
    )
    budget = plan_budget(
        costs,
        rule=config.selector,
        budget_j=config.budget_j,
        budget_fraction=config.budget_fraction,
        confidence=config.confidence,
    )
    training = TrainingWork(
        network,
        sample_shape=data.sample_shape,
        classes=data.classes,
        settings=local_settings(config),
        memory=costs.pricing.memory,
    )
    return Federation(
        config=config,
        data=data,
        partition=partition,
        network=network,
        costs=costs,
        budget=budget,
        training=training,
        meter=phase_meter(device, seed=config.seed),
    )


def local_settings(config: TrainingConfig) -> LocalSettings:
    """How each client trains."""
    return LocalSettings(
        epochs=config.local_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
    )
