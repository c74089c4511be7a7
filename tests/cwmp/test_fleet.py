import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model
from fakes.page import read_page

from calibration_data import InvalidFileError, UsageError
from cost_models import save_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.report import write_report
from cwmp.training.federated import initial_state, run_round
from cwmp.training.federation import build_federation
from cwmp.training.fleet import load_fleet
from cwmp.training.run import train
from cwmp.training.run_files import FLEET, ROUNDS, SUMMARY, read_rounds
from profiler.devices import open_device

SERVER, BOARD = known_cost_model(relative_u=0.02), known_cost_model("edge-board", relative_u=0.05)

TWO_GROUPS = """
[[group]]
name = "boards"
clients = "1-2"
cost_model = "edge.json"
budget_fraction = 0.05

[[group]]
name = "radios"
clients = [4]
cost_model = "edge.json"
link = "wifi-2012"
"""


def fleet_file(folder: Path, text: str = TWO_GROUPS) -> Path:
    save_cost_model(folder / "edge.json", BOARD)
    path = folder / "fleet.toml"
    path.write_text(text)
    return path


def config(path: Path | None, **settings: Any) -> TrainingConfig:
    base: dict[str, Any] = {
        "dataset": "synthetic",
        "clients": 5,
        "rounds": 2,
        "selector": "cwmp",
        "budget_fraction": 0.2,
        "boundary": "update+uplink",
        "link": "lte-2012",
        "fleet": None if path is None else str(path),
    }
    return training_config(**{**base, **settings})


def test_every_client_has_the_prices_and_the_budget_of_its_group(tmp_path: Path) -> None:
    """Each client does what it would do in a run in which all are like it."""
    settings = config(fleet_file(tmp_path))
    federation = build_federation(settings, SERVER, open_device("sim:server-cpu"))
    _, report = run_round(federation, initial_state(federation))
    alone = {
        0: (SERVER, "sim:server-cpu", {}),
        1: (BOARD, "sim:edge-board", {"budget_fraction": 0.05}),
        4: (BOARD, "sim:edge-board", {"link": "wifi-2012"}),
    }
    for client, (model, device, changes) in alone.items():
        same = build_federation(config(None, **changes), model, open_device(device))
        _, expected = run_round(same, initial_state(same))
        assert report.clients[client] == expected.clients[client]
    joules = [client.predicted_j for client in report.clients]
    assert joules[1] == pytest.approx(joules[2], rel=0.1)
    assert joules[1] > 100 * joules[4]


def test_a_fleet_of_equals_is_no_fleet(tmp_path: Path) -> None:
    save_cost_model(tmp_path / "server.json", SERVER)
    path = tmp_path / "fleet.toml"
    path.write_text('[[group]]\nname = "all"\nclients = "0-4"\ncost_model = "server.json"\n')
    device = open_device("sim:server-cpu")
    with_fleet = build_federation(config(path), SERVER, device)
    without = build_federation(config(None), SERVER, device)
    (state, report), (same, same_report) = (
        run_round(federation, initial_state(federation)) for federation in (with_fleet, without)
    )
    assert all(torch.equal(state.weights[name], same.weights[name]) for name in same.weights)
    assert report.clients == same_report.clients


def test_a_run_says_which_devices_its_clients_are(tmp_path: Path) -> None:
    summary = train(
        config(fleet_file(tmp_path)), SERVER, tmp_path / "run", device=open_device("sim:server-cpu")
    )
    boards, radios = summary.identity.groups
    assert (boards.name, boards.clients, boards.cost_model_device) == ("boards", (1, 2), "sim:edge-board")
    assert (boards.measuring_device, boards.budget_fraction) == ("sim:edge-board", 0.05)
    assert (radios.link, radios.budget_fraction) == ("wifi-2012", 0.2)
    assert "The 2 clients of the group boards cost what sim:edge-board does (simulated)" in " ".join(
        summary.notes
    )
    clients = [client for report in read_rounds(tmp_path / "run" / ROUNDS) for client in report.clients]
    for group, members in zip(summary.groups, ((1, 2), (4,)), strict=True):
        own = [client for client in clients if client.client in members]
        assert group.boundary_j == pytest.approx(sum(client.predicted_j for client in own))
        assert {client.budget_j for client in own} == {group.budget_j}
        assert group.energy["pack"].measured_j is not None
    page = read_page(write_report(tmp_path / "run").read_text(encoding="utf-8"))
    assert "sim:edge-board" in page.with_id("training").text
    for group in ("boards", "radios"):
        (row,) = (row for row in page.with_id("training").all("tr") if f"run{group}" in row.text)
        assert "sim:edge-board" in row.text
    assert summary.granted_j == pytest.approx(sum(client.budget_j or 0.0 for client in clients))


def test_a_run_is_resumed_without_the_originals(tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(report: Any) -> None:
        raise Killed

    originals = tmp_path / "originals"
    originals.mkdir()
    settings = config(fleet_file(originals))
    device = open_device("sim:server-cpu")
    whole = train(settings, SERVER, tmp_path / "whole", device=device)
    with pytest.raises(Killed):
        train(settings, SERVER, tmp_path / "run", device=device, on_round=kill)
    shutil.rmtree(originals)
    resumed = train(settings, SERVER, tmp_path / "run", device=device, resume=True)
    assert (tmp_path / "run" / FLEET).exists()
    assert resumed.model_dump(exclude={"seconds"}) == whole.model_dump(exclude={"seconds"})


def test_a_changed_fleet_is_another_run(tmp_path: Path) -> None:
    path = fleet_file(tmp_path)
    train(config(path), SERVER, tmp_path / "run")
    (tmp_path / "run" / SUMMARY).unlink()
    path.write_text(TWO_GROUPS.replace("0.05", "0.06"))
    with pytest.raises(UsageError, match="begun with groups"):
        train(config(path), SERVER, tmp_path / "run", resume=True)


def test_what_was_assumed_for_the_run_holds_for_the_fleet(tmp_path: Path) -> None:
    path = fleet_file(tmp_path)
    assumed = {"launch": 3e-6}
    federation = build_federation(config(path), SERVER.with_assumed(assumed))
    for group in federation.groups:
        assert group.model.coefficients["launch"].value == 3e-6
    assert SERVER.with_assumed(assumed).assumed == assumed
    assert SERVER.assumed == {}


def test_a_device_here_does_not_stand_for_another(tmp_path: Path) -> None:
    """The joules of a group are accounted by its own device or by none."""
    board = BOARD.document
    assert board.device is not None
    elsewhere = board.model_copy(update={"device": board.device.model_copy(update={"device": "cpu"})})
    path = fleet_file(tmp_path)
    save_cost_model(tmp_path / "edge.json", type(BOARD)(elsewhere))
    federation = build_federation(config(path), SERVER, open_device("sim:server-cpu"))
    _, report = run_round(federation, initial_state(federation))
    assert report.clients[0].energy["pack"].provenance == "simulated"
    packed = report.clients[1].energy["pack"]
    assert packed.measured_j is None
    assert packed.reason == "clients of the group boards are cpu, not sim:server-cpu"


GROUP = {"name": "a", "clients": [0], "cost_model": "edge.json"}


@pytest.mark.parametrize(
    ("groups", "problem"),
    [
        ([GROUP, {**GROUP, "name": "b"}], "client 0 is in a and again in b"),
        ([GROUP, {**GROUP, "clients": [1]}], "two groups are called a"),
        ([{**GROUP, "clients": [0, 5]}], "the group a has client 5, and there are 5, from 0 on"),
        ([{**GROUP, "clients": [1, 1]}], "client 1 is in a and again in a"),
        ([{**GROUP, "clients": []}], "the group a has no clients"),
        ([{**GROUP, "clients": "4-2"}], "'4-2' names no clients"),
        ([{**GROUP, "clients": "0-999999"}], "names no clients"),
        ([{**GROUP, "clients": "all"}], "'all' names no clients"),
        ([{**GROUP, "clients": -1}], "clients"),
        ([{**GROUP, "name": "../a"}], "name"),
        ([{**GROUP, "budget_j": 1.0, "budget_fraction": 0.1}], "exclude each other"),
        ([{**GROUP, "device": "cpu"}], "device"),
        ([{**GROUP, "bugdet_j": 1.0}], "bugdet_j"),
        ([{**GROUP, "cost_model": "missing.json"}], "missing.json: cannot be read"),
        ([], "group"),
    ],
)
def test_a_wrong_fleet_is_named(tmp_path: Path, groups: list[dict[str, object]], problem: str) -> None:
    save_cost_model(tmp_path / "edge.json", BOARD)
    path = tmp_path / "fleet.json"
    path.write_text(json.dumps({"group": groups}))
    with pytest.raises(InvalidFileError, match=problem):
        load_fleet(path, clients=5, assumed={})


def test_a_fleet_that_does_not_fit_the_run_is_named(tmp_path: Path) -> None:
    path = fleet_file(tmp_path)
    with pytest.raises(UsageError, match="Group radios: A link costs nothing inside the boundary update"):
        build_federation(config(path, boundary="update", link=None), SERVER)
    path.write_text(TWO_GROUPS.replace("budget_fraction = 0.05", "budget_j = 1e-12"))
    with pytest.raises(UsageError, match="Group boards: The budget of 1e-12 J does not cover"):
        build_federation(config(path), SERVER)
    path.write_text("[[group]\n")
    with pytest.raises(InvalidFileError, match="no TOML"):
        build_federation(config(path), SERVER)
