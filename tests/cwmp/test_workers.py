import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import UsageError
from cost_models import save_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.training.federated import initial_state, run_round
from cwmp.training.federation import Federation, build_federation
from cwmp.training.fleet import Fleet
from cwmp.training.round_record import WALL_CLOCK_FIELDS
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, RESIDUALS, ROUNDS, read_rounds
from cwmp.training.tray import Tray
from cwmp.training.workers import WorkerEngine, WorkerError
from profiler.device import Device
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)


def config(**settings: Any) -> TrainingConfig:
    base: dict[str, Any] = {
        "dataset": "synthetic",
        "clients": 5,
        "rounds": 2,
        "selector": "randomk",
        "budget_fraction": 0.2,
        "error_feedback": True,
    }
    return training_config(**{**base, **settings})


def engine(federation: Federation, device: Device | None, workers: int) -> WorkerEngine:
    return WorkerEngine(
        federation.config,
        MODEL,
        device,
        fleet=Fleet(),
        data=federation.data,
        coordinates=federation.costs.coordinates,
        workers=workers,
    )


@pytest.mark.parametrize("size_bytes", [0, 100, 1000])
def test_a_tray_gives_back_what_was_put_in_it_and_can_be_used_again(size_bytes: int) -> None:
    """Whatever finds no room goes through the pipe, and nothing that was taken out changes afterwards."""
    tray = Tray(size_bytes)
    first = {1: {"a": torch.randn(5, 3).t(), "b": torch.tensor(2.0)}, 2: {"c": torch.arange(7)}}
    taken = tray.loads(tray.dumps(first))
    tray.loads(tray.dumps({"other": torch.zeros(250)}))
    assert {client: list(named) for client, named in taken.items()} == {1: ["a", "b"], 2: ["c"]}
    for client, named in first.items():
        for name, value in named.items():
            assert taken[client][name].dtype == value.dtype
            assert torch.equal(taken[client][name], value)


def test_two_workers_give_the_bits_of_one_process(tmp_path: Path) -> None:
    """Weights, residuals, ledger and reports, with a fleet and simulated joules."""
    save_cost_model(tmp_path / "edge.json", known_cost_model("edge-board", relative_u=0.05))
    path = tmp_path / "fleet.toml"
    path.write_text('[[group]]\nname = "boards"\nclients = "1-2"\ncost_model = "edge.json"\n')
    device = open_device("sim:server-cpu")
    alone, shared = (
        train(config(fleet=str(path)), MODEL, tmp_path / name, device=device, workers=workers)
        for name, workers in (("alone", 1), ("shared", 2))
    )
    assert shared.model_dump(exclude={"seconds"}) == alone.model_dump(exclude={"seconds"})
    reports = [
        [
            report.model_dump(exclude=set(WALL_CLOCK_FIELDS))
            for report in read_rounds(tmp_path / name / ROUNDS)
        ]
        for name in ("alone", "shared")
    ]
    assert reports[0] == reports[1]
    checkpoints = [
        torch.load(tmp_path / name / CHECKPOINT, weights_only=True) for name in ("alone", "shared")
    ]
    for name, value in checkpoints[0]["weights"].items():
        assert torch.equal(value, checkpoints[1]["weights"][name])
    residuals = sorted((tmp_path / "alone" / RESIDUALS).iterdir())
    assert len(residuals) == 5
    for file in residuals:
        assert (tmp_path / "shared" / RESIDUALS / file.name).read_bytes() == file.read_bytes()


def test_a_worker_that_dies_ends_the_run_with_a_next_step() -> None:
    federation = build_federation(config(), MODEL)
    with engine(federation, None, 1) as pool:
        os.kill(pool.processes[0].pid or 0, signal.SIGKILL)
        with pytest.raises(WorkerError, match=r"died \(exit code -9\).*--resume"):
            run_round(federation, initial_state(federation), pool)
    assert not any(process.is_alive() for process in pool.processes)


def test_an_error_of_a_worker_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that this process has and a new one does not find."""
    (tmp_path / "gone.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Sequential(nn.Linear(16, 4))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    federation = build_federation(config(network="gone:net"), MODEL)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path != str(tmp_path)])
    with (
        engine(federation, None, 1) as pool,
        pytest.raises(WorkerError, match="The network 'gone:net' cannot be built"),
    ):
        run_round(federation, initial_state(federation), pool)


def test_a_shared_counter_is_not_shared() -> None:
    class RealDevice:
        name = "cpu"

    federation = build_federation(config(), MODEL)
    with pytest.raises(UsageError, match="one client at a time"):
        engine(federation, RealDevice(), 2)  # type: ignore[arg-type]
