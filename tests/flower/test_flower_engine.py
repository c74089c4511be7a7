"""The engine against nodes in one process, of which some vanish, come late, or send anything."""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

pytest.importorskip("flwr", reason="the extra flower is not installed")

from fake_grid import FakeGrid, FakeTime, answering, failing, honest, silent
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, MetricRecord, RecordDict

from calibration_data import UsageError
from cost_models import save_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.flower.engine import FlowerEngine
from cwmp.flower.failure import read_failure
from cwmp.flower.messages import KEY, STYPE
from cwmp.flower.run_log import read_flower_rounds
from cwmp.flower.server import server_app
from cwmp.flower.settings import AppSettings
from cwmp.flower.train import MODULE, write_app
from cwmp.training.round_record import WALL_CLOCK_FIELDS, RoundReport
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, ROUNDS, read_rounds

MODEL = known_cost_model(relative_u=0.02)


def config(**settings: Any) -> TrainingConfig:
    base = {"dataset": "synthetic", "clients": 3, "rounds": 3, "selector": "cwmp", "budget_fraction": 0.2}
    return training_config(**{**base, **settings})


class Run:
    """A server and its nodes."""

    def __init__(self, folder: Path, settings: TrainingConfig, *, simulation: bool = False) -> None:
        self.folder, self.settings, self.out = folder, settings, folder / "run"
        save_cost_model(folder / "model.json", MODEL)
        app = AppSettings(
            config=settings, out=str(self.out), resume=False, round_timeout_s=60, simulation=simulation
        )
        self.app = write_app(folder / "app", app, MODEL) / MODULE
        self.grid, self.time = FakeGrid(), FakeTime()
        for client in range(settings.clients):
            self.grid.nodes[100 + client] = self.node(client)

    def node(self, client: int, **node_config: Any) -> Any:
        own = {"partition_id": client, "cost_model": str(self.folder / "model.json"), "device": "none"}
        return honest(self.app, **{**own, "state_dir": str(self.folder / "state"), **node_config})

    def change(self, client: int, change: Callable[[RecordDict], RecordDict | None]) -> None:
        self.grid.nodes[100 + client] = answering(self.node(client), change)

    def train(self, *, resume: bool = False, on_round: Callable[[RoundReport], None] | None = None) -> Any:
        engine = FlowerEngine(
            self.grid, self.out, round_timeout_s=60, clock=self.time.clock, sleep=self.time.sleep
        )
        return train(self.settings, MODEL, self.out, engine=engine, resume=resume, on_round=on_round)

    def weights(self) -> dict[str, torch.Tensor]:
        return torch.load(self.out / CHECKPOINT, weights_only=True)["weights"]

    def reports(self) -> list[RoundReport]:
        return read_rounds(self.out / ROUNDS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path, config())


def local(folder: Path, settings: TrainingConfig) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    train(settings, MODEL, folder)
    return told(read_rounds(folder / ROUNDS)), torch.load(folder / CHECKPOINT, weights_only=True)["weights"]


def told(reports: list[RoundReport]) -> list[dict[str, Any]]:
    return [report.model_dump(exclude=set(WALL_CLOCK_FIELDS)) for report in reports]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    "settings",
    [
        {"error_feedback": True, "participation": 0.7},
        {"selector": "dense", "budget_fraction": None},
        {"selector": "randomk", "boundary": "update+uplink", "link": "wifi-2012"},
    ],
)
def test_the_same_bits_as_here(tmp_path: Path, settings: dict[str, Any]) -> None:
    run = Run(tmp_path, config(**settings))
    run.train()
    reports, weights = local(tmp_path / "local", run.settings)
    assert told(run.reports()) == reports
    assert same(run.weights(), weights)


def test_a_simulation_knows_the_fleet(tmp_path: Path) -> None:
    """Clients 1 and 2 are boards, with a cost model and a budget of their own."""
    save_cost_model(tmp_path / "edge.json", known_cost_model("edge-board", relative_u=0.02))
    fleet = '[[group]]\nname = "boards"\nclients = "1-2"\ncost_model = "edge.json"\nbudget_fraction = 0.05\n'
    (tmp_path / "fleet.toml").write_text(fleet)
    run = Run(tmp_path, config(fleet=str(tmp_path / "fleet.toml")), simulation=True)
    summary = run.train()
    reports, weights = local(tmp_path / "local", run.settings)
    assert told(run.reports()) == reports
    assert same(run.weights(), weights)
    assert any(
        note.startswith("Clients 1, 2 chose by a simulated cost model of sim:edge") for note in summary.notes
    )


def test_a_run_that_was_interrupted_goes_on_with_the_residuals_of_its_last_round(tmp_path: Path) -> None:
    """The server dies after round 2 was answered and before it was kept: round 2 is run again."""

    class KilledError(Exception):
        pass

    def die(report: RoundReport) -> None:
        if report.round == 2:
            raise KilledError

    run = Run(tmp_path, config(error_feedback=True, rounds=4))
    before = None

    def remember(report: RoundReport) -> None:
        nonlocal before
        if report.round == 1:
            before = (run.out / CHECKPOINT).read_bytes()
        die(report)

    with pytest.raises(KilledError):
        run.train(on_round=remember)
    assert before is not None
    (run.out / CHECKPOINT).write_bytes(before)
    run.train(resume=True)
    reports, weights = local(tmp_path / "local", run.settings)
    assert told(run.reports()) == reports
    assert same(run.weights(), weights)


def test_an_answer_that_never_came_has_changed_nothing(tmp_path: Path) -> None:
    """Client 1's answer of round 2 is lost. It is asked who it is in round 3, and goes on from round 1."""
    run = Run(tmp_path, config(error_feedback=True, rounds=4))
    rounds: list[int] = []

    def lose_the_second(content: RecordDict) -> RecordDict | None:
        rounds.append(len(rounds) + 1)
        return None if len(rounds) == 2 else content

    run.change(1, lose_the_second)
    run.train()
    assert [len(report.clients) for report in run.reports()] == [3, 2, 2, 3]
    last = read_flower_rounds(run.out)[3].clients[1]
    assert (last.client, last.account.residual) == (1, "found")
    folders = list((tmp_path / "state").iterdir())
    assert len(folders) == 1
    assert (folders[0] / "1-1.pt").exists()


def test_a_client_that_lost_its_disk_goes_on_and_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path, config(error_feedback=True))

    def wipe(report: RoundReport) -> None:
        if report.round == 2:
            for path in (tmp_path / "state").glob("*/2-*.pt"):
                path.unlink()

    summary = run.train(on_round=wipe)
    assert len(run.reports()[2].clients) == 3
    assert "Client 2 had lost what it had not sent before round 3." in summary.notes


def test_nodes_that_vanish_come_late_or_are_not_fit_are_left_out_by_name(run: Run) -> None:
    late = run.grid.nodes.pop(100)
    run.grid.nodes[101] = silent
    run.grid.nodes[102] = run.node(2)

    def join(report: RoundReport) -> None:
        run.grid.nodes[100] = late

    summary = run.train(on_round=join)
    assert [[client.client for client in report.clients] for report in run.reports()] == [[2], [2], [0, 2]]
    first, *_ = run.reports()
    assert {client.client: client.cause for client in first.dropped} == {0: "vanished", 1: "vanished"}
    assert "5 clients gave no answer in a round" in " ".join(summary.notes)


@pytest.mark.parametrize(
    ("node_config", "reason"),
    [
        ({"cost_model": None}, "no cost model"),
        ({"cost_model": "missing.json"}, r"missing\.json"),
        ({"budget_j": 1e-30}, "does not cover"),
        ({"budget_j": 1.0, "budget_fraction": 0.5}, "exclude each other"),
        ({"device": "tpu"}, "no device 'tpu'"),
    ],
)
def test_a_node_that_is_not_set_up_says_what_is_missing(
    run: Run, node_config: dict[str, Any], reason: str
) -> None:
    own = {"partition_id": 1, "cost_model": str(run.folder / "model.json"), "device": "none", **node_config}
    run.grid.nodes[101] = honest(run.app, **{key: value for key, value in own.items() if value is not None})
    run.train()
    for report in run.reports():
        (dropped,) = report.dropped
        assert (dropped.client, dropped.cause) == (1, "invalid")
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(dropped.reason)


def test_a_node_may_have_a_budget_of_its_own(run: Run) -> None:
    run.grid.nodes[101] = run.node(1, budget_fraction=0.5)
    run.train()
    for report in run.reports():
        frugal, generous, _ = report.clients
        assert (generous.budget_j or 0) > (frugal.budget_j or 0)
        assert generous.kept > frugal.kept


def test_an_app_that_raises_costs_its_round_alone(run: Run) -> None:
    run.grid.nodes[102] = failing(run.node(2), 2, "Traceback ...\nZeroDivisionError: division by zero")
    run.train()
    for report in run.reports():
        (dropped,) = report.dropped
        assert "ZeroDivisionError: division by zero" in dropped.reason


def test_nobody_at_all_is_an_error_with_a_next_step(run: Run) -> None:
    run.grid.nodes.clear()
    with pytest.raises(UsageError, match="No node of a client was connected within 60 s"):
        run.train()
    assert 60 <= run.time.now < 65


def test_a_restarted_node_takes_the_place_of_the_one_before(run: Run) -> None:
    def restart(report: RoundReport) -> None:
        if report.round == 1:
            run.grid.nodes[100] = silent
            run.grid.nodes[200] = run.node(0)

    run.train(on_round=restart)
    assert [len(report.clients) for report in run.reports()] == [3, 2, 3]


@pytest.mark.parametrize("partition", [None, -1, 3, True, "1"])
def test_a_node_that_is_none_of_the_clients_gets_no_work(run: Run, partition: Any) -> None:
    config = {} if partition is None else {"partition_id": partition}
    run.grid.nodes[103] = honest(run.app, **config)
    run.train()
    assert [len(report.clients) for report in run.reports()] == [3, 3, 3]
    assert [kind for node, kind, _ in run.grid.asked if node == 103] == ["query"]


def serve(run: Run, **settings: Any) -> None:
    """What Flower does with the ServerApp."""
    path = run.app / "settings.json"
    changed = AppSettings.model_validate_json(path.read_text()).model_copy(update=settings)
    path.write_text(changed.model_dump_json())
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={})
    server_app(run.app)(run.grid, context)


def test_the_server_app_trains(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    serve(run)
    assert [len(report.clients) for report in run.reports()] == [3, 3, 3]
    assert capsys.readouterr().out.count(", 3 updates") == 3


def test_a_second_server_is_kept_out(run: Run, tmp_path: Path) -> None:
    run.out.mkdir()
    descriptor = os.open(run.out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="Another server is at work"):
        serve(run, failure=str(tmp_path / "failure.json"))
    assert read_failure(tmp_path / "failure.json").exit_code == 2
    os.close(descriptor)
    serve(run)
    assert len(run.reports()) == 3


def hostile(rng: random.Random, content: RecordDict) -> RecordDict:
    """A valid answer with something wrong in it."""
    update, answer = content["update"][KEY], content["answer"]["json"]
    data = update.data

    def with_update(other: bytes, *, stype: str = STYPE) -> RecordDict:
        array = ArrayRecord({KEY: Array("uint8", (len(other),), stype, other)})
        return RecordDict({"answer": content["answer"], "update": array})

    def with_answer(text: Any) -> RecordDict:
        return RecordDict({"answer": ConfigRecord({"json": text}), "update": content["update"]})

    def number(field: str, value: str) -> RecordDict:
        before, _, rest = answer.partition(f'"{field}":')
        end = min(rest.index(mark) for mark in ",}" if mark in rest)
        return with_answer(f'{before}"{field}":{value}{rest[end:]}')

    place, kept = rng.randrange(len(data)), int.from_bytes(data[16:24], "little")
    nan = bytes.fromhex(rng.choice(["0000c07f", "0000807f", "000080ff"]))
    value = 24 + 4 * rng.randrange(max(kept, 1))
    choices = [
        lambda: with_update(data[:place]),
        lambda: with_update(data + rng.randbytes(rng.randrange(1, 50))),
        lambda: with_update(data + bytes(100_000)),
        lambda: with_update(rng.randbytes(rng.randrange(200))),
        lambda: with_update(b""),
        lambda: with_update(data[:value] + nan + data[value + 4 :]),
        lambda: with_update(data[:8] + rng.randbytes(8) + data[16:]),
        lambda: with_update(data[:4] + bytes([rng.choice([0, 2, 9])]) + data[5:]),
        lambda: with_update(
            data[:16] + rng.choice([2**63, kept + 1, 2**40]).to_bytes(8, "little") + data[24:]
        ),
        lambda: with_update(data[: 24 + 4 * kept] + b"\x3f" + data[24 + 4 * kept + 1 :] + b"\xff"),
        lambda: with_update(data, stype="numpy.ndarray"),
        lambda: with_answer(answer[:place]),
        lambda: with_answer("[" * 100_000),
        lambda: with_answer(rng.choice([b"bytes", 3, "", "null", "{}", '{"report": 1e999}'])),
        lambda: number("samples", rng.choice(["1000000", "0", "-1", "1e3", "99999999999999999999"])),
        lambda: number("client", rng.choice(["0", "2", "true", '"1"', "-1"])),
        lambda: number("payload_bytes", str(len(data) + 1)),
        lambda: number("kept", str(kept + 1)),
        lambda: number("predicted_j", rng.choice(["1e9", "-1", "NaN", "1e308", "null"])),
        lambda: number("squared_norm", rng.choice(["1e308", "-1", "Infinity"])),
        lambda: number("measured_j", rng.choice(["1e300", "Infinity", '"much"'])),
        lambda: number("budget_j", rng.choice(["null", "-5", "1e300"])),
        lambda: number("startup_s", rng.choice(["-1", "NaN"])),
        lambda: RecordDict({"answer": content["answer"]}),
        lambda: RecordDict({"update": content["update"]}),
        lambda: RecordDict({"answer": MetricRecord({"json": 1}), "update": content["update"]}),
        lambda: RecordDict({"refusal": ConfigRecord({"json": rng.choice(["", "{}", "x" * 5000])})}),
        lambda: RecordDict(),
    ]
    return rng.choice(choices)()


def test_hostile_answers_change_nothing_and_stop_nothing(tmp_path: Path) -> None:
    """200 answers of client 1, none of them used: the weights are those of a run in which it is silent."""
    settings = config(clients=2, rounds=200, local_epochs=1, batch_size=256, evaluate_every=50)
    rng = random.Random(7)
    run = Run(tmp_path / "hostile", settings, simulation=True)
    run.change(1, lambda content: hostile(rng, content))
    summary = run.train()
    assert summary.rounds == 200
    for report in run.reports():
        assert [client.client for client in report.clients] == [0]
        (dropped,) = report.dropped
        assert (dropped.client, dropped.cause) == (1, "invalid"), dropped.reason
        assert dropped.reason
    quiet = Run(tmp_path / "quiet", settings, simulation=True)
    quiet.change(1, lambda content: None)
    quiet.train()
    assert same(run.weights(), quiet.weights())
