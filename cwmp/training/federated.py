"""Federated averaging in which every client has an energy budget for its update.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", AISTATS 2017,
algorithm 1, with a choice of coordinates between the client and the server, and error feedback around it
(Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018, algorithm 1):

    for each round t:
        S ← some clients
        for each client k in S, wherever the engine runs it:
            u ← w − local SGD from w on the samples of k               train
            u ← u + e_k                                                error feedback
            z ← coordinates of u that the budget affords               select
            m ← (indices, values) of z·u                               pack, uplink
            e_k ← u − z·u
        Δ ← Σ_k n_k·m_k / Σ_k n_k        zeros where k sent nothing    aggregate
        w ← server optimiser(w, Δ)       w − Δ for FedAvg              apply

Where the clients run is the engine's business (``cwmp.training.engine``). Every draw has a seed of its own,
and sums have one order: the same seed gives the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from cwmp.budget import EnergyLedger
from cwmp.config import TrainingConfig
from cwmp.seeding import derived_seed
from cwmp.training.client_round import ClientResult, Weights
from cwmp.training.engine import Engine, LocalEngine
from cwmp.training.federation import Federation
from cwmp.training.local_training import DivergedError, evaluate, single_thread, weights_of
from cwmp.training.phase_energy import summed_energy
from cwmp.training.residuals import Residuals, ResidualsInMemory
from cwmp.training.round_record import ClientReport, DroppedClient, RoundReport
from cwmp.training.server_optimizer import optimizer_state, optimizer_step
from cwmp.training.sparse_update import MeanUpdate, decode, flatten, unflatten


@dataclass(frozen=True, kw_only=True)
class FederatedState:
    """What a round changes.

    Attributes:
        finished_rounds: rounds so far.
        weights: global weights by parameter name.
        optimizer: state of the server's optimiser, as ``server_optimizer.optimizer_state``.
        residuals: error feedback of the clients that have one.
        ledger: joules so far.
    """

    finished_rounds: int
    weights: Weights
    optimizer: Mapping[str, Tensor]
    residuals: Residuals
    ledger: EnergyLedger


def initial_state(federation: Federation) -> FederatedState:
    """The state before the first round."""
    granted_j = None if federation.budget.budget_j is None else 0.0
    return FederatedState(
        finished_rounds=0,
        weights=weights_of(federation.network),
        optimizer=optimizer_state(federation.config, federation.costs.coordinates),
        residuals=ResidualsInMemory(),
        ledger=EnergyLedger(granted_j=granted_j),
    )


def run_round(
    federation: Federation, state: FederatedState, engine: Engine | None = None
) -> tuple[FederatedState, RoundReport]:
    """One round: the new state, and what happened.

    A client whose update cannot be used is left out and named in the report. A round in which no client
    answered is recorded and leaves the weights as they were: the clients may come back.

    Args:
        federation: of the server.
        state: before the round.
        engine: runs the clients; without one, in this process.

    Raises:
        DivergedError: clients answered, and no update is finite: the next round would be no better.
    """
    started = time.perf_counter()
    number = state.finished_rounds + 1
    clients = participants(federation.config, number)
    answers = (engine or LocalEngine(federation)).run_clients(state.weights, state.residuals, number, clients)
    booked = _booked(federation, state, number, answers)
    if not booked.clients and all(client.cause == "diverged" for client in booked.dropped):
        raise DivergedError(
            f"No client's update of round {number} is finite.", next_step="Try a smaller learning_rate."
        )
    weights, optimizer = state.weights, state.optimizer
    if booked.clients:
        weights, optimizer = server_step(federation.config, weights, optimizer, booked.mean)
    accuracy, loss = _tested(federation, weights, number)
    report = RoundReport(
        round=number,
        clients=booked.clients,
        dropped=booked.dropped,
        test_accuracy=accuracy,
        test_loss=loss,
        energy=summed_energy(client.energy for client in booked.clients),
        cumulative_predicted_j=booked.ledger.total_predicted_j,
        cumulative_boundary_j=booked.ledger.charged_j,
        cumulative_measured_j=booked.ledger.seen_j,
        seconds=time.perf_counter() - started,
    )
    new_state = FederatedState(
        finished_rounds=number,
        weights=weights,
        optimizer=optimizer,
        residuals=booked.residuals,
        ledger=booked.ledger,
    )
    return new_state, report


@dataclass(frozen=True, kw_only=True)
class _Booked:
    """What is left of the answers of a round: no message and no residual is held."""

    clients: tuple[ClientReport, ...]
    dropped: tuple[DroppedClient, ...]
    mean: Tensor
    residuals: Residuals
    ledger: EnergyLedger


def _booked(
    federation: Federation,
    state: FederatedState,
    number: int,
    answers: Iterable[ClientResult | DroppedClient],
) -> _Booked:
    mean = MeanUpdate(federation.costs.coordinates)
    reports: list[ClientReport] = []
    dropped: list[DroppedClient] = []
    residuals, ledger = state.residuals, state.ledger
    for answer in answers:
        if isinstance(answer, DroppedClient):
            dropped.append(answer)
            continue
        mean.add(decode(answer.message, state.weights), answer.report.samples)
        if answer.residual:
            residuals = residuals.remembering(answer.report.client, number, answer.residual)
        ledger = _charged(ledger, answer.report)
        reports.append(answer.report)
    return _Booked(
        clients=tuple(reports),
        dropped=tuple(dropped),
        mean=mean.value,
        residuals=residuals,
        ledger=ledger,
    )


def participants(config: TrainingConfig, round_index: int) -> list[int]:
    """Clients of a round in ascending order: a seeded sample of ``participation`` of them, at least one."""
    count = max(1, round(config.participation * config.clients))
    rng = np.random.default_rng(derived_seed(config.seed, "participants", round_index=round_index))
    return sorted(int(client) for client in rng.choice(config.clients, size=count, replace=False))


def server_step(
    config: TrainingConfig, weights: Weights, optimizer: Mapping[str, Tensor], mean: Tensor
) -> tuple[Weights, Mapping[str, Tensor]]:
    """The weights after the server's optimiser has used the mean of all messages, and its next state.

    Args:
        config: which optimiser, and its settings.
        weights: before the step.
        optimizer: its state before the step.
        mean: of the updates, float64, shape (coordinates,).
    """
    step, next_optimizer = optimizer_step(config, optimizer, mean)
    flat = flatten(weights)
    stepped = unflatten((flat.double() - step).to(flat.dtype), weights)
    return {name: value.clone() for name, value in stepped.items()}, next_optimizer


def _tested(federation: Federation, weights: Weights, number: int) -> tuple[float | None, float | None]:
    """Accuracy and loss where the round is tested; the loss only if it is finite."""
    config, data = federation.config, federation.data
    if number % config.evaluate_every and number != config.rounds:
        return None, None
    with single_thread():
        accuracy, loss = evaluate(federation.network, weights, data.test_x, data.test_y)
    return accuracy, loss if math.isfinite(loss) else None


def _charged(ledger: EnergyLedger, report: ClientReport) -> EnergyLedger:
    ledger = ledger.grant(report.budget_j, charged_j=report.predicted_j)
    for phase, energy in report.energy.items():
        ledger = ledger.charge(phase, predicted_j=energy.predicted_j, measured_j=energy.measured_j)
    return ledger
