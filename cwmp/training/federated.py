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
        w ← w − Σ_k n_k·m_k / Σ_k n_k    zeros where k sent nothing    aggregate, apply

Where the clients run is the engine's business (``cwmp.training.engine``). Every draw has a seed of its own,
and sums have one order: the same seed gives the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
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
from cwmp.training.run_record import DroppedClient, RoundReport, summed_energy
from cwmp.training.sparse_update import average, decode, flatten, unflatten


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


def initial_state(federation: Federation) -> FederatedState:
    """The state before the first round."""
    granted_j = None if federation.budget.budget_j is None else 0.0
    return FederatedState(
        finished_rounds=0,
        weights=weights_of(federation.network),
        residuals={},
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
    results, dropped = _told_apart(answers)
    if not results and all(client.cause == "diverged" for client in dropped):
        raise DivergedError(
            f"No client's update of round {number} is finite.", next_step="Try a smaller learning_rate."
        )
    weights = server_step(state.weights, results) if results else state.weights
    with single_thread():
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


def _told_apart(
    answers: Iterable[ClientResult | DroppedClient],
) -> tuple[list[ClientResult], list[DroppedClient]]:
    results: list[ClientResult] = []
    dropped: list[DroppedClient] = []
    for answer in answers:
        if isinstance(answer, DroppedClient):
            dropped.append(answer)
        else:
            results.append(answer)
    return results, dropped


def participants(config: TrainingConfig, round_index: int) -> list[int]:
    """Clients of a round in ascending order: a seeded sample of ``participation`` of them, at least one."""
    count = max(1, round(config.participation * config.clients))
    rng = np.random.default_rng(derived_seed(config.seed, "participants", round_index=round_index))
    return sorted(int(client) for client in rng.choice(config.clients, size=count, replace=False))


def server_step(weights: Weights, results: Sequence[ClientResult]) -> dict[str, Tensor]:
    """The weights after the weighted mean of all messages is taken off them; in float64, in one order."""
    flat = flatten(weights)
    mean = average(
        (decode(result.message, weights) for result in results),
        [result.report.samples for result in results],
        flat.numel(),
    )
    return {
        name: value.clone()
        for name, value in unflatten((flat.double() - mean).to(flat.dtype), weights).items()
    }


def _booked(ledger: EnergyLedger, results: Sequence[ClientResult]) -> EnergyLedger:
    for result in results:
        report = result.report
        ledger = ledger.grant(report.budget_j, charged_j=report.predicted_j)
        for phase, energy in report.energy.items():
            ledger = ledger.charge(phase, predicted_j=energy.predicted_j, measured_j=energy.measured_j)
    return ledger
