"""The same training on Flower: in its simulation, and on a SuperLink with SuperNodes of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
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
from cwmp.training.round_record import WALL_CLOCK_FIELDS
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, ROUNDS, SUMMARY, read_rounds, read_summary
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
    deployment.super_link("--insecure")
    deployment.connection("insecure = true")
    nodes = [start_node(deployment, number, "--insecure") for number in range(3)]
    trained_with_one_killed(deployment, nodes)


@pytest.mark.slow
def test_three_nodes_with_tls_and_keys(deployment: Deployment) -> None:
    """The same, with certificates and registered node keys as the page in docs makes them."""
    folder = deployment.folder
    for command in CERTIFICATES:
        subprocess.run(["bash", "-c", command], cwd=folder, check=True, capture_output=True)
    own = ["--ssl-ca-certfile", "ca.crt", "--ssl-certfile", "server.crt", "--ssl-keyfile", "server.key"]
    deployment.super_link(*own, "--enable-supernode-auth")
    deployment.connection(f'root-certificates = "{folder / "ca.crt"}"')
    stranger = start_node(deployment, 0, "--root-certificates", "ca.crt", *own, name="stranger")
    nodes = []
    for number in range(3):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-f", f"node{number}"], cwd=folder
        )
        register = deployment.start(
            f"register{number}", ["flwr", "supernode", "register", f"node{number}.pub", "ours"]
        )
        assert register.wait(60) == 0, deployment.log(f"register{number}")
        key = ["--auth-supernode-private-key", f"node{number}"]
        nodes.append(start_node(deployment, number, "--root-certificates", "ca.crt", *key, *own))
    trained_with_one_killed(deployment, nodes)
    assert stranger.poll() is not None, "a node without a key was let in"


CERTIFICATES = (
    "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -days 365"
    " -keyout ca.key -out ca.crt -subj '/CN=calijoule'",
    "openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes"
    " -keyout server.key -out server.csr -subj '/CN=superlink'",
    "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 365"
    " -extfile <(echo subjectAltName=DNS:localhost,IP:127.0.0.1) -out server.crt",
)


def start_node(
    deployment: Deployment, number: int, *options: str, name: str | None = None
) -> subprocess.Popen[bytes]:
    """A SuperNode with the cost model of its own device."""
    device = DEVICES[number]
    save_cost_model(deployment.folder / f"{device}.json", known_cost_model(device, relative_u=0.02))
    node_config = f'partition-id={number} cost-model="{device}.json" state-dir="state{number}"'
    return deployment.super_node(name or f"node{number}", node_config, *options)


def trained_with_one_killed(deployment: Deployment, nodes: Sequence[subprocess.Popen[bytes]]) -> None:
    folder = deployment.folder
    (folder / "run.toml").write_text(
        'dataset = "digits"\nclients = 3\nrounds = 5\nselector = "cwmp"\nbudget_fraction = 0.1\n'
        "error_feedback = true\n"
    )
    run = deployment.train(
        *("--config", "run.toml", "--cost-model", "server-cpu.json", "--out", "run"),
        *("--round-timeout-s", "40"),
    )
    out = folder / "run"
    wait_for_lines(out / ROUNDS, 2, run, 120)
    kill(nodes[2])
    assert run.wait(120) == 0, deployment.log("train")
    summary, rounds = read_summary(out / SUMMARY), read_rounds(out / ROUNDS)
    assert summary.rounds == 5
    assert [[client.client for client in report.clients] for report in rounds] == [[0, 1, 2]] * 2 + [
        [0, 1]
    ] * 3
    for report in rounds[2:]:
        assert [(client.client, client.cause) for client in report.dropped] == [(2, "vanished")]
    assert any("3 clients gave no answer in a round" in note for note in summary.notes)
    for number, name in enumerate(DEVICES):
        chosen = f"Client {number} chose by a simulated cost model of sim:{name}"
        assert any(note.startswith(chosen) for note in summary.notes)
    for done in read_flower_rounds(out)[1:]:
        assert {client.account.residual for client in done.clients} == {"found"}
    assert all(
        client.energy["train"].provenance == "simulated" for report in rounds for client in report.clients
    )
