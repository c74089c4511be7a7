import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import InvalidFileError, UsageError
from cost_models import load_cost_model, save_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.cost_document import load_costs
from cwmp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cwmp.training.datasets import Dataset, load_dataset
from cwmp.training.round_record import WALL_CLOCK_FIELDS, RoundReport
from cwmp.training.run import train
from cwmp.training.run_files import (
    CHECKPOINT,
    CONFIG,
    COST_MODEL,
    COSTS,
    RESIDUALS,
    ROUNDS,
    SUMMARY,
    TABLE,
    read_rounds,
)
from cwmp.training.run_record import RunReport
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)
ROUND_COUNT = 4


class Killed(BaseException):
    """Ends a run like a signal does: nothing that runs afterwards is of the run."""


def config(**settings: Any) -> TrainingConfig:
    base: dict[str, Any] = {
        "dataset": "synthetic",
        "clients": 3,
        "rounds": ROUND_COUNT,
        "selector": "cwmp",
        "budget_fraction": 0.2,
        "error_feedback": True,
        "participation": 0.7,
    }
    return training_config(**{**base, **settings})


def run(out: Path, *, resume: bool = False, stop_after: int | None = None, **settings: Any) -> RunReport:
    def on_round(report: RoundReport) -> None:
        if report.round == stop_after:
            raise Killed

    device = open_device("sim:server-cpu")
    return train(config(**settings), MODEL, out, device=device, resume=resume, on_round=on_round)


def without_wall_clock(path: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in WALL_CLOCK_FIELDS} for line in lines]


def assert_same_run(first: Path, second: Path) -> None:
    assert without_wall_clock(first / ROUNDS) == without_wall_clock(second / ROUNDS)
    states = [torch.load(folder / CHECKPOINT, weights_only=True) for folder in (first, second)]
    for name, value in states[0]["weights"].items():
        assert torch.equal(value, states[1]["weights"][name])
    assert states[0]["ledger"] == states[1]["ledger"]
    assert states[0]["residual_rounds"] == states[1]["residual_rounds"]
    named = sorted(f"{client}-{number}.pt" for client, number in states[0]["residual_rounds"].items())
    files = [sorted(path.name for path in (folder / RESIDUALS).glob("*")) for folder in (first, second)]
    assert files == [named, named]
    for name in files[0]:
        assert (first / RESIDUALS / name).read_bytes() == (second / RESIDUALS / name).read_bytes()
    summaries = [json.loads((folder / SUMMARY).read_text()) for folder in (first, second)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(out)
    return out


def test_a_run_leaves_everything_behind(uninterrupted: Path) -> None:
    assert {path.name for path in uninterrupted.iterdir()} == {
        CONFIG,
        COST_MODEL,
        COSTS,
        ROUNDS,
        TABLE,
        SUMMARY,
        CHECKPOINT,
        RESIDUALS,
    }
    assert load_cost_model(uninterrupted / COST_MODEL).document == MODEL.document
    assert load_costs(uninterrupted / COSTS).boundary == "update"
    rounds = read_rounds(uninterrupted / ROUNDS)
    summary = RunReport.model_validate_json((uninterrupted / SUMMARY).read_text())
    assert summary.rounds == len(rounds) == ROUND_COUNT
    assert summary.final_accuracy == rounds[-1].test_accuracy
    assert summary.predicted_j == rounds[-1].cumulative_predicted_j
    assert summary.boundary_j == pytest.approx(
        sum(client.predicted_j for report in rounds for client in report.clients), rel=1e-12
    )
    assert summary.granted_j is not None
    assert summary.boundary_j <= summary.granted_j
    assert summary.energy["train"].provenance == "simulated"
    assert summary.energy["uplink"].measured_j is None
    assert summary.identity.partition.scheme == "dirichlet-by-class/niid-bench"
    assert "aten::relu" in summary.not_counted
    table = (uninterrupted / TABLE).read_text().splitlines()
    assert len(table) == ROUND_COUNT + 1
    assert table[0].startswith("round,test_accuracy")


@pytest.mark.parametrize("stop_after", range(1, ROUND_COUNT + 1))
def test_resumed_after_any_round_is_uninterrupted(
    uninterrupted: Path, tmp_path: Path, stop_after: int
) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(out, stop_after=stop_after)
    assert not (out / SUMMARY).exists()
    run(out, resume=True)
    assert_same_run(uninterrupted, out)


def test_what_came_after_the_checkpoint_is_run_again(uninterrupted: Path, tmp_path: Path) -> None:
    """Killed between the line of round 3 and its checkpoint, in the middle of the line of round 4."""
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(out, stop_after=2)
    before = tmp_path / "before"
    shutil.copytree(out, before)
    with pytest.raises(Killed):
        run(out, resume=True, stop_after=3)
    shutil.copy(before / CHECKPOINT, out / CHECKPOINT)
    shutil.copytree(before / RESIDUALS, out / RESIDUALS, dirs_exist_ok=True)
    with open(out / ROUNDS, "ab") as file:
        file.write(b'{"round":4,"clients":[{"cli')
    (out / "checkpoint.pt.tmp").write_bytes(b"half a checkpoint")
    run(out, resume=True)
    assert_same_run(uninterrupted, out)


def test_killed_before_the_first_round(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Killed):
        run(out, stop_after=1)
    (out / CHECKPOINT).unlink()
    run(out, resume=True)
    assert_same_run(uninterrupted, out)
    empty = tmp_path / "empty"
    empty.mkdir()
    run(empty, resume=True)
    assert_same_run(uninterrupted, empty)


SCRIPT = """
import sys
from pathlib import Path
from cost_models import load_cost_model
from cwmp.config import TrainingConfig
from cwmp.training.run import train
from profiler.devices import open_device
config = TrainingConfig.model_validate_json(sys.argv[1])
device = open_device("sim:server-cpu")
train(config, load_cost_model(Path(sys.argv[2])), Path(sys.argv[3]), device=device,
      on_round=lambda report: print(report.round, flush=True))
"""


def test_a_killed_process_leaves_a_run_that_resumes(uninterrupted: Path, tmp_path: Path) -> None:
    out, model = tmp_path / "run", tmp_path / "model.json"
    save_cost_model(model, MODEL)
    command = [sys.executable, "-c", SCRIPT, config().model_dump_json(), str(model), str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    run(out, resume=True)
    assert_same_run(uninterrupted, out)


def test_a_finished_run_is_left_as_it_is(uninterrupted: Path) -> None:
    before = {path.name: path.read_bytes() for path in uninterrupted.rglob("*.*")}
    summary = run(uninterrupted, resume=True)
    assert summary == RunReport.model_validate_json(before[SUMMARY])
    assert {path.name: path.read_bytes() for path in uninterrupted.rglob("*.*")} == before


def test_a_folder_in_use_is_not_overwritten(uninterrupted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"exists already.*--resume"):
        run(uninterrupted)
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="exists already"):
        run(file)
    with pytest.raises(UsageError, match="cannot be made"):
        run(file / "run", resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [("learning_rate", 0.2), ("seed", 1), ("rounds", 5), ("budget_fraction", 0.3), ("alpha", 1.0)],
)
def test_another_config_is_refused_by_its_key(uninterrupted: Path, key: str, value: float) -> None:
    with pytest.raises(UsageError, match=f"was begun with {key} = .*, not {value}"):
        run(uninterrupted, resume=True, **{key: value})


def test_another_cost_model_or_device_is_refused(uninterrupted: Path) -> None:
    other = known_cost_model(relative_u=0.03)
    with pytest.raises(UsageError, match="cost_model_sha256"):
        train(config(), other, uninterrupted, device=open_device("sim:server-cpu"), resume=True)
    with pytest.raises(UsageError, match="measuring_device = 'sim:server-cpu', not None"):
        train(config(), MODEL, uninterrupted, resume=True)


def with_one_other_bit(data: Dataset) -> Dataset:
    """As another decoder may read an image."""
    train_x = data.train_x.clone()
    train_x.view(torch.uint8)[0, 0] ^= 1
    return replace(data, train_x=train_x)


def test_a_run_goes_on_with_the_samples_that_it_was_begun_with(tmp_path: Path) -> None:
    data = load_dataset("synthetic", seed=0)
    with pytest.raises(Killed):
        run(tmp_path / "run", stop_after=1)
    device = open_device("sim:server-cpu")
    other = with_one_other_bit(data)
    with pytest.raises(UsageError, match=r"samples_sha256 = .*another decoder reads its images"):
        train(config(), MODEL, tmp_path / "run", device=device, data=other, resume=True)
    # A run that was begun before the digest was kept goes on.
    identity = json.loads((tmp_path / "run" / CONFIG).read_text())
    assert identity.pop("samples_sha256") == data.sha256
    (tmp_path / "run" / CONFIG).write_text(json.dumps(identity))
    assert run(tmp_path / "run", resume=True).rounds == ROUND_COUNT


def test_a_bad_budget_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not cover the fixed"):
        run(tmp_path / "run", budget_fraction=None, budget_j=1e-9)
    assert not (tmp_path / "run").exists()


# the file itself


def checkpoint() -> Checkpoint:
    weights = {"a": torch.randn(2, 3), "b": torch.zeros(1)}
    return Checkpoint(
        finished_rounds=3,
        weights=weights,
        optimizer={"m": torch.ones(7, dtype=torch.float64)},
        residual_rounds={5: 2},
        ledger={"granted_j": 1.5, "predicted_j": {"pack": 0.1}},
    )


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path, saved = tmp_path / "checkpoint.pt", checkpoint()
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path, saved.weights, saved.optimizer)
    assert (loaded.finished_rounds, loaded.ledger) == (3, saved.ledger)
    assert torch.equal(loaded.weights["a"], saved.weights["a"])
    assert torch.equal(loaded.optimizer["m"], saved.optimizer["m"])
    assert loaded.residual_rounds == {5: 2}
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def test_a_hostile_checkpoint_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "checkpoint.pt"
    torch.save({"schema": Hostile()}, path)
    with pytest.raises(InvalidFileError, match="it is no checkpoint"):
        load_checkpoint(path, {})
    path.write_bytes(pickle.dumps(Hostile(), protocol=2))
    with pytest.raises(InvalidFileError, match="it is no checkpoint"):
        load_checkpoint(path, {})
    assert not (tmp_path / "executed").exists()


def test_broken_checkpoints_are_named(tmp_path: Path) -> None:
    path, saved = tmp_path / "checkpoint.pt", checkpoint()
    save_checkpoint(path, saved)
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], b"", b"something else"):
        path.write_bytes(broken)
        with pytest.raises(InvalidFileError, match="it is no checkpoint"):
            load_checkpoint(path, saved.weights)
    path.write_bytes(whole)
    with pytest.raises(InvalidFileError, match="another network"):
        load_checkpoint(path, {"a": torch.zeros(3, 2), "b": torch.zeros(1)})
    with pytest.raises(InvalidFileError, match="another network"):
        load_checkpoint(path, saved.weights, {"m": torch.ones(7), "v": torch.ones(7)})
    torch.save({"schema": "calijoule/checkpoint/1"}, path)
    with pytest.raises(InvalidFileError, match="not of schema"):
        load_checkpoint(path, saved.weights)
    torch.save({"schema": "calijoule/checkpoint/2", "weights": 3}, path)
    with pytest.raises(InvalidFileError, match="it is no checkpoint"):
        load_checkpoint(path, saved.weights)


def test_rounds_that_are_missing_from_the_file_are_noticed(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    (out / SUMMARY).unlink()
    lines = (out / ROUNDS).read_bytes().splitlines(keepends=True)
    (out / ROUNDS).write_bytes(b"".join(lines[:2]))
    with pytest.raises(InvalidFileError, match="it has 2 rounds and the checkpoint 4"):
        run(out, resume=True)
    (out / ROUNDS).write_bytes(b"{}\n" * 4)
    with pytest.raises(InvalidFileError, match=r"line 1: field 'round'"):
        run(out, resume=True)
