"""Federated averaging in which every client has an energy budget for its update.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
algorithm 1, with a choice of coordinates between the client and the server, and error feedback around it
(Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, algorithm 1):

    for each round t:
        S ← some clients
        for each client k in S, one at a time:
            u ← w − local SGD from w on the samples of k               train
            u ← u + e_k                                                error feedback
            z ← coordinates of u that the budget affords               select
            m ← (indices, values) of z·u                               pack, uplink
            e_k ← u − z·u
        w ← w − Σ_k n_k·m_k / Σ_k n_k    zeros where k sent nothing    aggregate, apply

Clients run one after the other, so that their joules can be told apart. Every draw has a seed of its own, and
sums have one order: the same seed gives the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cost_models import CostModel
from cwmp.budget import EnergyLedger, Phase
from cwmp.budgeted_selection import Choice, RoundBudget, plan_budget, select_within
from cwmp.config import TrainingConfig
from cwmp.cost_vector import CostVector, cost_vector
from cwmp.datasets import Dataset, load_dataset
from cwmp.error_feedback import ErrorFeedback
from cwmp.errors import NonFiniteGradientError
from cwmp.local_training import (
    DivergedError,
    LocalSettings,
    LocalUpdate,
    evaluate,
    local_update,
    single_thread,
    weights_of,
)
from cwmp.networks import build_network
from cwmp.partition import Partition, dirichlet_partition
from cwmp.phase_meter import PhaseMeter, Seen, SeeWork, Works, phase_meter
from cwmp.phases import client_energy, client_works
from cwmp.run_record import ClientReport, DroppedClient, PhaseEnergy, RoundReport, summed_energy
from cwmp.seeding import derived_seed
from cwmp.selector import Rule, select
from cwmp.sparse_update import SparseUpdate, add_to, average, flatten, pack, unflatten
from cwmp.training_work import TrainingWork
from profiler.device import Device

Weights = Mapping[str, Tensor]


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


@dataclass(frozen=True, kw_only=True)
class FederatedState:
    """What a round changes.

    Attributes:
        finished_rounds: rounds so far.
        weights: global weights by parameter name.
        residuals: error feedback of the clients that have one.
        ledger: joules so far.
    """

    finished_rounds: int
    weights: Weights
    residuals: Mapping[int, Weights]
    ledger: EnergyLedger


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """What leaves a client after a round, and what stays there.

    Attributes:
        message: goes to the server.
        report: what it did and what that cost.
        residual: what it did not send; empty without error feedback.
    """

    message: SparseUpdate
    report: ClientReport
    residual: Weights


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
    data = load_dataset(config.dataset, config.seed)
    partition = dirichlet_partition(
        data.train_y.numpy(),
        clients=config.clients,
        alpha=config.alpha,
        min_samples=config.min_client_samples,
        seed=derived_seed(config.seed, "partition"),
    )
    network = build_network(
        config.network,
        features=data.features,
        classes=data.classes,
        seed=derived_seed(config.seed, "network"),
    )
    costs = cost_vector(network, model, boundary=config.boundary, density=1.0, link=config.link)
    budget = plan_budget(
        costs,
        rule=config.selector,
        budget_j=config.budget_j,
        budget_fraction=config.budget_fraction,
        confidence=config.confidence,
    )
    training = TrainingWork(
        network,
        features=data.features,
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


def initial_state(federation: Federation) -> FederatedState:
    """The state before the first round."""
    granted_j = None if federation.budget.budget_j is None else 0.0
    return FederatedState(
        finished_rounds=0,
        weights=weights_of(federation.network),
        residuals={},
        ledger=EnergyLedger(granted_j=granted_j),
    )


def run_round(federation: Federation, state: FederatedState) -> tuple[FederatedState, RoundReport]:
    """One round: the new state, and what happened.

    A client whose update is not finite is left out and named in the report.

    Raises:
        DivergedError: no client's update is finite.
    """
    started = time.perf_counter()
    number = state.finished_rounds + 1
    results: list[ClientResult] = []
    dropped: list[DroppedClient] = []
    with single_thread():
        for client in participants(federation.config, number):
            try:
                residual = state.residuals.get(client, {})
                results.append(client_round(federation, state.weights, residual, number, client))
            except (DivergedError, NonFiniteGradientError) as error:
                dropped.append(DroppedClient(client=client, reason=error.message))
        if not results:
            raise DivergedError(
                f"No client's update of round {number} is finite.", next_step="Try a smaller learning_rate."
            )
        weights = server_step(state.weights, results)
        accuracy, loss = evaluate(federation.network, weights, federation.data.test_x, federation.data.test_y)
    residuals = {result.report.client: result.residual for result in results if result.residual}
    ledger = _booked(state.ledger, results)
    report = RoundReport(
        round=number,
        clients=tuple(result.report for result in results),
        dropped=tuple(dropped),
        test_accuracy=accuracy,
        test_loss=loss if math.isfinite(loss) else None,
        energy=summed_energy(result.report.energy for result in results),
        cumulative_predicted_j=ledger.total_predicted_j,
        cumulative_boundary_j=ledger.charged_j,
        cumulative_measured_j=ledger.seen_j,
        seconds=time.perf_counter() - started,
    )
    new_state = FederatedState(
        finished_rounds=number,
        weights=weights,
        residuals={**state.residuals, **residuals},
        ledger=ledger,
    )
    return new_state, report


def participants(config: TrainingConfig, round_index: int) -> list[int]:
    """Clients of a round in ascending order: a seeded sample of ``participation`` of them, at least one."""
    count = max(1, round(config.participation * config.clients))
    rng = np.random.default_rng(derived_seed(config.seed, "participants", round_index=round_index))
    return sorted(int(client) for client in rng.choice(config.clients, size=count, replace=False))


def client_round(
    federation: Federation, weights: Weights, residual: Weights, round_index: int, client: int
) -> ClientResult:
    """What one client does in a round: train, select, pack.

    Raises:
        DivergedError: its update is not finite.
    """
    config, meter = federation.config, federation.meter
    see: dict[Phase, SeeWork] = {}
    meter.begin_client(round_index, client)
    trained, see["train"] = meter.run(lambda: _train(federation, weights, round_index, client))
    memory = ErrorFeedback()
    memory.load_state_dict(residual)
    wanted = memory.corrected(trained.update) if config.error_feedback else trained.update

    seed = derived_seed(config.seed, "randomk", round_index=round_index, client=client)
    choice = select_within(wanted, federation.budget, rule=config.selector, seed=seed)
    masks = choice.selection.masks
    see["select"] = meter.replay(lambda: _select_again(choice, wanted, seed))
    message, see["pack"] = meter.run(lambda: pack(wanted, masks))
    see["aggregate"] = meter.replay(_adding(message, torch.float64))
    see["apply"] = meter.replay(_adding(message, torch.float32))
    see["uplink"] = _link_is_not_seen

    if config.error_feedback:
        memory.remember(wanted, {name: value * masks[name] for name, value in wanted.items()})
    works = client_works(
        federation.costs,
        choice.cost,
        masks,
        federation.training.of_client(trained.samples),
        message.payload_bytes,
    )
    seen = {phase: see[phase](works[phase]) for phase in works}
    energy = client_energy(federation.costs, choice.cost, works, seen)
    return ClientResult(
        message=message,
        report=_client_report(federation, client, trained, wanted, choice, message, energy),
        residual=memory.state_dict(),
    )


def server_step(weights: Weights, results: list[ClientResult]) -> dict[str, Tensor]:
    """The weights after the weighted mean of all messages is taken off them; in float64, in one order."""
    flat = flatten(weights)
    mean = average(
        [result.message for result in results],
        [result.report.samples for result in results],
        flat.numel(),
    )
    return {
        name: value.clone()
        for name, value in unflatten((flat.double() - mean).to(flat.dtype), weights).items()
    }


def local_settings(config: TrainingConfig) -> LocalSettings:
    """How each client trains."""
    return LocalSettings(
        epochs=config.local_epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        momentum=config.momentum,
    )


def _train(federation: Federation, weights: Weights, round_index: int, client: int) -> LocalUpdate:
    indices = torch.from_numpy(federation.partition.indices[client])
    return local_update(
        federation.network,
        weights,
        federation.data.train_x[indices],
        federation.data.train_y[indices],
        local_settings(federation.config),
        seed=derived_seed(federation.config.seed, "local", round_index=round_index, client=client),
        client=client,
    )


def _select_again(choice: Choice, wanted: Weights, seed: int) -> None:
    """The one scan that is priced: the selection at its final prices."""
    rule = choice.selection.rule
    generator = torch.Generator().manual_seed(seed) if rule == "randomk" else None
    select(wanted, choice.prices_j, choice.selection.budget_j, rule=rule, generator=generator)


def _adding(message: SparseUpdate, dtype: torch.dtype) -> Callable[[], None]:
    """Add a message to a vector of its own, as the server and then the client would."""
    vector = torch.zeros(message.coordinates, dtype=dtype)
    return lambda: add_to(vector, message, 1.0)


def _link_is_not_seen(works: Works) -> Seen:
    return Seen(reason="no sensor sees the link: its joules are counted bytes times a literature figure")


def _client_report(
    federation: Federation,
    client: int,
    trained: LocalUpdate,
    wanted: Weights,
    choice: Choice,
    message: SparseUpdate,
    energy: dict[Phase, PhaseEnergy],
) -> ClientReport:
    selection, budget = choice.selection, federation.budget
    predicted_j = choice.cost.total_j.value
    return ClientReport(
        client=client,
        samples=trained.samples,
        training_loss=trained.mean_loss if math.isfinite(trained.mean_loss) else None,
        rule=federation.config.selector,
        budget_j=budget.budget_j,
        fixed_j=budget.fixed_j,
        marginal_j=choice.cost.marginal_j.value,
        predicted_j=predicted_j,
        upper_j=choice.upper_j,
        priced_j=selection.spent_j,
        kept=selection.kept,
        density=dict(selection.density_by_tensor),
        selections=choice.selections,
        squared_norm=selection.total_squared_norm,
        retained_squared_norm=selection.retained_squared_norm,
        topk_retained_squared_norm=_retained_by("topk", choice, wanted),
        cwmp_retained_squared_norm=_retained_by("cwmp", choice, wanted),
        payload_bytes=message.payload_bytes,
        energy=energy,
    )


def _retained_by(rule: Rule, choice: Choice, wanted: Weights) -> float:
    """Squared norm that a rule keeps of this update for the joules that the choice spent at its prices."""
    selection = choice.selection
    if selection.rule in (rule, "dense"):
        return selection.retained_squared_norm
    return select(wanted, choice.prices_j, selection.spent_j, rule=rule).retained_squared_norm


def _booked(ledger: EnergyLedger, results: list[ClientResult]) -> EnergyLedger:
    for result in results:
        report = result.report
        ledger = ledger.grant(report.budget_j, charged_j=report.predicted_j)
        for phase, energy in report.energy.items():
            ledger = ledger.charge(phase, predicted_j=energy.predicted_j, measured_j=energy.measured_j)
    return ledger
