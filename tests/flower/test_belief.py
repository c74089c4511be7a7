"""What the server believes, and joules of clients that shared a counter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fakes.known_costs import known_cost_model

from calibration_data import UsageError
from cwmp.config import training_config
from cwmp.flower.belief import MAX_ANSWER_CHARACTERS, Expected, believed
from cwmp.flower.node import serve
from cwmp.flower.protocol import Answer, Refusal, Task
from cwmp.flower.settings import AppSettings
from cwmp.flower.shared_counters import REASON, host_energies, told_apart
from cwmp.flower.train import MODULE, write_app
from cwmp.flower.windows import HostWindow
from cwmp.training.federated import initial_state
from cwmp.training.federation import build_federation
from cwmp.training.run_record import RunIdentity
from cwmp.training.run_summary import run_identity
from cwmp.training.sparse_update import SparseUpdate, encode, flatten
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)
CONFIG = training_config(
    dataset="synthetic", clients=2, rounds=1, selector="cwmp", budget_fraction=0.2, error_feedback=True
)


class Exchange:
    """A server that knows a run, and the app that its clients have."""

    def __init__(self, folder: Path) -> None:
        settings = AppSettings(
            config=CONFIG,
            out=str(folder / "run"),
            resume=False,
            round_timeout_s=1,
            simulation=True,
            device="sim:server-cpu",
        )
        self.app = write_app(folder / "app", settings, MODEL) / MODULE
        device = open_device("sim:server-cpu")
        federation = build_federation(CONFIG, MODEL, device)
        self.identity: RunIdentity = run_identity(federation, MODEL, device)
        self.weights = initial_state(federation).weights

    def expected(self, client: int) -> Expected:
        return Expected(client=client, identity=self.identity, network=self.weights)

    def ask(self, node: int, **changes: Any) -> tuple[Answer, bytes] | Refusal:
        flat = flatten(self.weights)
        task = Task(
            run="0" * 32,
            round=1,
            client=node,
            used_round=0,
            partition_sha256=self.identity.partition.sha256,
        ).model_copy(update=changes)
        weights = encode(SparseUpdate(indices=None, values=flat, coordinates=flat.numel()), self.weights)
        return serve(self.app, {"partition-id": node}, task, weights)


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    return Exchange(tmp_path)


def answer_of(exchange: Exchange, client: int) -> tuple[Answer, bytes]:
    answered = exchange.ask(client)
    assert not isinstance(answered, Refusal)
    return answered


def test_an_honest_answer_is_believed(exchange: Exchange) -> None:
    answer, message = answer_of(exchange, 1)
    result, account = believed(answer.model_dump_json(), message, exchange.expected(1))
    assert result.report == answer.report
    assert result.message == message
    assert account.startup_s >= 0
    assert account.measuring_device == account.device == "sim:server-cpu"
    assert account.windows == ()
    assert account.residual == "none"


def test_an_answer_of_another_client_is_not(exchange: Exchange) -> None:
    answer, message = answer_of(exchange, 1)
    with pytest.raises(UsageError, match="says client 1, and it is 0"):
        believed(answer.model_dump_json(), message, exchange.expected(0))


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ("samples", 10**6, "says samples 1000000"),
        ("rule", "topk", "says rule 'topk'"),
        ("kept", 1, "says kept 1"),
        ("payload_bytes", 1, "says payload_bytes 1"),
        ("density", {}, "says density of"),
        ("energy", {}, "says energy of"),
        ("budget_j", None, "budget of None J under the rule cwmp"),
        ("predicted_j", 1e3, "charges 1000 J to a budget"),
        ("squared_norm", 0.0, "keeps more than there is"),
        ("priced_j", 1e61, "says priced_j"),
    ],
)
def test_figures_that_cannot_be_are_refused(exchange: Exchange, field: str, value: Any, problem: str) -> None:
    answer, message = answer_of(exchange, 0)
    changed = json.loads(answer.model_dump_json())
    changed["report"][field] = value
    with pytest.raises(UsageError, match=problem):
        believed(json.dumps(changed), message, exchange.expected(0))


def test_a_report_without_end_is_not_read(exchange: Exchange) -> None:
    _, message = answer_of(exchange, 0)
    with pytest.raises(UsageError, match="characters"):
        believed(" " * (MAX_ANSWER_CHARACTERS + 1), message, exchange.expected(0))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"partition_sha256": "0" * 64}, "shared out in another way"),
        ({"client": 1}, "This node is not client 1"),
        ({"run": "../../etc/passwd"}, "no id of a run"),
    ],
)
def test_a_client_refuses_a_task_that_is_not_for_it(
    exchange: Exchange, changes: dict[str, Any], reason: str
) -> None:
    refusal = exchange.ask(0, **changes)
    assert isinstance(refusal, Refusal)
    assert refusal.cause == "invalid"
    assert reason in refusal.reason


def window(start_ns: int, end_ns: int, host: str = "a") -> HostWindow:
    return HostWindow(
        host=host, domain="package-0", start_ns=start_ns, end_ns=end_ns, start_uj=start_ns, end_uj=end_ns
    )


@pytest.mark.parametrize(
    ("second", "energy_j", "told"),
    [
        (window(2000, 4000), [4e-3], False),
        (window(3000, 4000), [4e-3], True),
        (window(0, 3000, "b"), [3e-3, 3e-3], True),
    ],
)
def test_joules_of_one_counter_are_never_booked_twice(
    exchange: Exchange, second: HostWindow, energy_j: list[float], told: bool
) -> None:
    answers = [answer_of(exchange, client)[0] for client in (0, 1)]
    accounts = [
        answer.account.model_copy(update={"windows": (seen,)})
        for answer, seen in zip(answers, (window(0, 3000), second), strict=True)
    ]
    assert [host.energy_j for host in host_energies(accounts)] == pytest.approx(energy_j)
    for before, after in zip(answers, told_apart([a.report for a in answers], accounts), strict=True):
        train = after.energy["train"]
        assert train.predicted_j == before.report.energy["train"].predicted_j
        assert train.measured_j == (before.report.energy["train"].measured_j if told else None)
        assert told or train.reason == REASON


def test_counters_that_contradict_each_other_give_no_joules(exchange: Exchange) -> None:
    answer, _ = answer_of(exchange, 0)
    fell = HostWindow(host="a", domain="package-0", start_ns=2000, end_ns=5000, start_uj=0, end_uj=10)
    account = answer.account.model_copy(update={"windows": (window(0, 3000), fell)})
    assert host_energies([account]) == ()
