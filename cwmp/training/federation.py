"""What a federated run consists of before its first round: data, shares, network, prices, budget, meter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from calibration_data import UsageError
from cost_models import CostModel
from cwmp.config import TrainingConfig
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.networks import build_network
from cwmp.seeding import derived_seed
from cwmp.selection.budgeted import RoundBudget, plan_budget
from cwmp.training.datasets import Dataset, load_dataset
from cwmp.training.fleet import Fleet, GroupSettings, load_fleet
from cwmp.training.local_training import TEST_BATCH, LocalSettings
from cwmp.training.partition import Partition, configured_partition
from cwmp.training.phase_meter import NoMeter, PhaseMeter, phase_meter
from cwmp.training.training_work import TrainingWork
from profiler.device import Device
from profiler.devices import open_device


@dataclass(frozen=True, kw_only=True)
class Federation:
    """What stays the same over all rounds; prices, budget, work and meter are those of one kind of client.

    Attributes:
        config: the settings.
        data: samples of all clients, and those of the test.
        partition: who holds which of them.
        network: gives the computation; its own parameters are the initial weights.
        costs: prices of its coordinates.
        budget: what a client may spend in a round.
        training: work of the local steps.
        meter: sees the joules of each phase.
        groups: clients that are other devices.
    """

    config: TrainingConfig
    data: Dataset
    partition: Partition
    network: nn.Module
    costs: CostVector
    budget: RoundBudget
    training: TrainingWork
    meter: PhaseMeter
    groups: tuple[Group, ...] = ()

    def of_client(self, client: int) -> Federation:
        """The federation as one client sees it: with its own prices, budget, work and meter."""
        return next((group.federation for group in self.groups if client in group.clients), self)


@dataclass(frozen=True, kw_only=True)
class Group:
    """Clients of one kind of device.

    Attributes:
        name: as in the fleet file.
        clients: their numbers.
        model: costs of elementary operations on their device.
        measuring_device: name of the device that accounts their joules; None without one.
        settings: their part of the fleet file.
        federation: as they see it.
    """

    name: str
    clients: frozenset[int]
    model: CostModel
    measuring_device: str | None
    settings: GroupSettings
    federation: Federation


def build_federation(
    config: TrainingConfig,
    model: CostModel,
    device: Device | None = None,
    *,
    fleet: Fleet | None = None,
    data: Dataset | None = None,
) -> Federation:
    """Load the data, share it out, build the network, price it, and resolve the budget.

    Args:
        config: the settings.
        model: costs of elementary operations on the clients' device.
        device: whose sensors measure the phases; None predicts only.
        fleet: clients that are other devices; read from the config's file without it.
        data: loaded already.

    Raises:
        UsageError: a setting names something that does not exist or cannot be done.
        InvalidFileError: the fleet file or a cost model in it is broken.
        MissingCoefficientError: the cost model lacks a cost that the prices need.
    """
    if fleet is None and config.fleet is not None:
        fleet = load_fleet(Path(config.fleet), clients=config.clients, assumed=model.assumed)
    data = data or configured_dataset(config)
    partition = configured_partition(config, data.train_y.numpy())
    network = build_network(
        config.network,
        sample_shape=data.sample_shape,
        classes=data.classes,
        smallest_batch=_smallest_batch(config, data, partition),
        seed=derived_seed(config.seed, "network"),
    )
    costs = _prices(config, network, model, config.link)
    own = Federation(
        config=config,
        data=data,
        partition=partition,
        network=network,
        costs=costs,
        budget=_budget(config, costs),
        training=_training_work(config, data, network, costs),
        meter=phase_meter(device, seed=config.seed),
    )
    fleet = fleet or Fleet()
    groups = tuple(_group(own, settings, fleet.models[settings.name], device) for settings in fleet.groups)
    return replace(own, groups=groups)


def configured_dataset(config: TrainingConfig) -> Dataset:
    """The data that the settings name.

    Raises:
        UsageError: there is no such data set, or it is not where it is said to be.
        InvalidFileError: a file of the data set is broken.
    """
    return load_dataset(
        config.dataset,
        config.seed,
        data_dir=None if config.data_dir is None else Path(config.data_dir),
        train_samples=config.train_samples,
        test_samples=config.test_samples,
    )


def local_settings(config: TrainingConfig) -> LocalSettings:
    """How each client trains."""
    return LocalSettings(
        epochs=config.local_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
    )


def _smallest_batch(config: TrainingConfig, data: Dataset, partition: Partition) -> int:
    """Samples of the smallest batch in training or in the test: the last ones may be shorter."""
    batches = [(samples, config.batch_size) for samples in partition.sizes]
    return min(samples % full or full for samples, full in (*batches, (len(data.test_y), TEST_BATCH)))


def _group(own: Federation, settings: GroupSettings, model: CostModel, device: Device | None) -> Group:
    config = own.config
    if settings.budget_j is not None or settings.budget_fraction is not None:
        budgets = {"budget_j": settings.budget_j, "budget_fraction": settings.budget_fraction}
        config = config.model_copy(update=budgets)
    seen_by = _device_of_group(settings, model, own, device)
    try:
        costs = _prices(config, own.network, model, settings.link or config.link)
        budget = _budget(config, costs)
    except UsageError as error:
        raise UsageError(f"Group {settings.name}: {error.message}", next_step=error.next_step) from error
    return Group(
        name=settings.name,
        clients=frozenset(settings.clients),
        model=model,
        measuring_device=None if isinstance(seen_by, str) else seen_by.name,
        settings=settings,
        federation=replace(
            own,
            config=config,
            costs=costs,
            budget=budget,
            training=_training_work(config, own.data, own.network, costs),
            meter=NoMeter(reason=seen_by)
            if isinstance(seen_by, str)
            else phase_meter(seen_by, seed=config.seed),
        ),
    )


def _device_of_group(
    settings: GroupSettings, model: CostModel, own: Federation, device: Device | None
) -> Device | str:
    """What accounts the joules of a group, or why nothing does: a device here cannot stand for another."""
    if device is None:
        return NoMeter().reason
    described = None if model.device is None else model.device.device
    wanted = settings.device or described
    if wanted == device.name:
        return device
    if wanted is not None and wanted.startswith("sim:"):
        return open_device(wanted)
    return f"clients of the group {settings.name} are {described or 'of no known device'}, not {device.name}"


def _prices(config: TrainingConfig, network: nn.Module, model: CostModel, link: str | None) -> CostVector:
    return cost_vector(
        network,
        model,
        boundary=config.boundary,
        density=1.0,
        link=link,
        index_coding="golomb",  # as sparse_update codes them
    )


def _budget(config: TrainingConfig, costs: CostVector) -> RoundBudget:
    return plan_budget(
        costs,
        rule=config.selector,
        budget_j=config.budget_j,
        budget_fraction=config.budget_fraction,
        confidence=config.confidence,
        at_least=config.at_least,
    )


def _training_work(
    config: TrainingConfig, data: Dataset, network: nn.Module, costs: CostVector
) -> TrainingWork:
    return TrainingWork(
        network,
        sample_shape=data.sample_shape,
        classes=data.classes,
        settings=local_settings(config),
        memory=costs.pricing.memory,
    )
