"""What the algorithm expects of an engine, whichever it is."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import UsageError
from cwmp.config import TrainingConfig, training_config
from cwmp.training.client_round import ClientResult, Weights
from cwmp.training.engine import LocalEngine, attempt
from cwmp.training.federated import initial_state, run_round
from cwmp.training.federation import Federation, build_federation
from cwmp.training.round_record import WALL_CLOCK_FIELDS, DroppedClient
from cwmp.training.run import train

MODEL = known_cost_model(relative_u=0.02)


def config(**settings: Any) -> TrainingConfig:
    base = {"dataset": "synthetic", "clients": 3, "rounds": 2, "selector": "cwmp", "budget_fraction": 0.2}
    return training_config(**{**base, **settings})


class Distant:
    """Clients that build their own federation, keep their residuals, and of whom some do not answer."""

    name = "distant"

    def __init__(self, settings: TrainingConfig, silent: Mapping[int, str]) -> None:
        self._federations = [build_federation(settings, MODEL) for _ in range(settings.clients)]
        self._residuals: dict[int, Weights] = {}
        self._silent = silent

    def run_clients(
        self, weights: Weights, residuals: Mapping[int, Weights], round_index: int, clients: Sequence[int]
    ) -> Iterator[ClientResult | DroppedClient]:
        assert not residuals
        for client in clients:
            cause = self._silent.get(client)
            if cause is not None:
                yield DroppedClient(client=client, cause=cause, reason="For the test.")
                continue
            residual = self._residuals.get(client, {})
            result = attempt(self._federations[client], weights, residual, round_index, client)
            assert isinstance(result, ClientResult)
            self._residuals[client] = result.residual
            yield replace(result, residual={})

    def notes(self) -> tuple[str, ...]:
        return ("Clients ran in the distance.",)


def weights_after(federation: Federation, engine: Any, rounds: int) -> tuple[Weights, list[dict[str, Any]]]:
    state, reports = initial_state(federation), []
    for _ in range(rounds):
        state, report = run_round(federation, state, engine)
        reports.append(report.model_dump(exclude=set(WALL_CLOCK_FIELDS)))
    return state.weights, reports


def test_clients_elsewhere_give_the_same_bits() -> None:
    """A client needs nothing of the server but the weights, the round and its number."""
    settings = config(error_feedback=True)
    federation = build_federation(settings, MODEL)
    here, reports = weights_after(federation, LocalEngine(federation), 3)
    there, same_reports = weights_after(federation, Distant(settings, {}), 3)
    assert all(torch.equal(here[name], there[name]) for name in here)
    assert reports == same_reports


def test_a_round_goes_on_without_those_who_do_not_answer() -> None:
    federation = build_federation(config(), MODEL)
    state, report = run_round(
        federation, initial_state(federation), Distant(config(), {0: "vanished", 2: "invalid"})
    )
    assert [client.client for client in report.clients] == [1]
    assert [(client.client, client.cause) for client in report.dropped] == [(0, "vanished"), (2, "invalid")]
    assert state.ledger.granted_j == federation.budget.budget_j


def test_a_round_without_an_answer_changes_nothing(tmp_path: Path) -> None:
    settings = config()
    federation = build_federation(settings, MODEL)
    nobody = Distant(settings, {0: "vanished", 1: "vanished", 2: "diverged"})
    start = initial_state(federation)
    state, report = run_round(federation, start, nobody)
    assert state.finished_rounds == 1
    assert all(torch.equal(start.weights[name], state.weights[name]) for name in start.weights)
    assert report.clients == ()
    assert report.cumulative_predicted_j == 0

    summary = train(settings, MODEL, tmp_path / "run", engine=nobody)
    assert "4 clients gave no answer in a round; the joules of their training were left out too." in (
        summary.notes
    )
    assert "No client answered in 2 rounds, which changed nothing: 1, 2." in summary.notes
    assert summary.notes[-1] == "Clients ran in the distance."


def test_a_run_is_resumed_by_the_engine_that_began_it(tmp_path: Path) -> None:
    settings = config(rounds=1)
    summary = train(settings, MODEL, tmp_path / "run", engine=Distant(settings, {}))
    assert summary.identity.engine == "distant"
    with pytest.raises(UsageError, match="engine = 'distant', not 'local'"):
        train(settings, MODEL, tmp_path / "run", resume=True)
