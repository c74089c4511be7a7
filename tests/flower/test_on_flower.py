"""The same training on Flower: in its simulation, and on a SuperLink with SuperNodes of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from deployment import Deployment, kill, wait_for_lines
from fakes.known_costs import known_cost_model

from cost_models import save_cost_model
from cwmp.config import training_config
from cwmp.flower.run_log import read_flower_rounds
from cwmp.flower.train import train_simulated
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, ROUNDS, SUMMARY, read_rounds, read_summary
from cwmp.training.run_record import WALL_CLOCK_FIELDS
from profiler.devices import open_device

pytest.importorskip("flwr", reason="the extra flower is not installed")

DEVICES = ("server-cpu", "edge-board", "datacenter-gpu")


def reports(out: Path) -> list[dict[str, Any]]:
    return [report.model_dump(exclude=set(WALL_CLOCK_FIELDS)) for report in read_rounds(out / ROUNDS)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / CHECKPOINT, weights_only=True)["weights"]


def test_a_simulation_is_the_local_engine_to_the_bit(tmp_path: Path) -> None:
    """Selections, joules and weights of 10 clients on digits, with residuals on the clients' own disks."""
    config = training_config(
        dataset="digits", clients=10, rounds=3, selector="cwmp", budget_fraction=0.1, error_feedback=True
    )
    model = known_cost_model(relative_u=0.02)
    here, there = tmp_path / "local", tmp_path / "flower"
    train(config, model, here, device=open_device("sim:server-cpu"))
    summary = train_simulated(config, model, there, device="sim:server-cpu", at_once=2)
    assert reports(there) == reports(here)
    assert all(torch.equal(value, weights(here)[name]) for name, value in weights(there).items())
    assert summary.identity.engine == "flower"
    assert any("chose by a simulated cost model of sim:server-cpu" in note for note in summary.notes)
    for done in read_flower_rounds(there):
        assert [client.client for client in done.clients] == list(range(10))
        assert {client.account.residual for client in done.clients} == {
            "none" if done.round == 1 else "found"
        }


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    started = Deployment(tmp_path / "deployment")
    yield started
    started.end()


def test_three_nodes_of_which_one_is_killed(deployment: Deployment) -> None:
    """Each chooses by its own device; the round that loses one goes on with the others, and says so."""
    folder = deployment.folder
    for name in DEVICES:
        save_cost_model(folder / f"{name}.json", known_cost_model(name, relative_u=0.02))
    (folder / "run.toml").write_text(
        'dataset = "digits"\nclients = 3\nrounds = 5\nselector = "cwmp"\nbudget_fraction = 0.1\n'
        "error_feedback = true\n"
    )
    deployment.super_link("--insecure")
    nodes = [
        deployment.super_node(
            f"node{number}",
            f'partition-id={number} cost-model="{name}.json" state-dir="state{number}"',
            "--insecure",
        )
        for number, name in enumerate(DEVICES)
    ]
    deployment.connection("insecure = true")
    run = deployment.train(
        *("--config", "run.toml", "--cost-model", "server-cpu.json", "--out", "run"),
        *("--round-timeout-s", "40"),
    )
    out = folder / "run"
    wait_for_lines(out / ROUNDS, 2, run, 120)
    kill(nodes[2])
    run.wait(120)
    summary = read_summary(out / SUMMARY)
    assert summary.rounds == 5
    rounds = read_rounds(out / ROUNDS)
    assert [[client.client for client in report.clients] for report in rounds[:3]] == [[0, 1, 2]] * 2 + [
        [0, 1]
    ]
    for report in rounds[2:]:
        assert [(client.client, client.cause) for client in report.dropped] == [(2, "vanished")]
    assert any("3 clients gave no answer in a round" in note for note in summary.notes)
    for number, name in enumerate(DEVICES):
        chosen = f"Clients {number} chose by a simulated cost model of sim:{name}"
        assert any(note.startswith(chosen) for note in summary.notes)
    assert all(
        client.account.residual == "found" for done in read_flower_rounds(out)[1:] for client in done.clients
    )
