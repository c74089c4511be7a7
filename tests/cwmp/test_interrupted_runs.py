"""A run with everything on, ended at the worst moments: what it leaves is whole, and goes on to the bit."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import InvalidFileError, UsageError
from cost_models import save_cost_model
from cwmp.config import TrainingConfig, training_config
from cwmp.training.round_record import RoundReport
from cwmp.training.run import train
from cwmp.training.run_files import CHECKPOINT, CONFIG, RESIDUALS, ROUNDS, SUMMARY, TABLE
from profiler.devices import open_device

MODEL = known_cost_model(relative_u=0.02)


def config(folder: Path) -> TrainingConfig:
    """A fleet, a server optimiser with two vectors of state, error feedback, rounds without a test."""
    save_cost_model(folder / "edge.json", known_cost_model("edge-board", relative_u=0.05))
    save_cost_model(folder / "server.json", MODEL)
    fleet = folder / "fleet.toml"
    fleet.write_text('[[group]]\nname = "boards"\nclients = "1-2"\ncost_model = "edge.json"\n')
    return training_config(
        dataset="synthetic",
        clients=4,
        participation=0.75,
        rounds=6,
        selector="cwmp",
        budget_fraction=0.2,
        error_feedback=True,
        server_optimizer="adam",
        server_learning_rate=0.02,
        evaluate_every=2,
        fleet=str(fleet),
    )


def run(settings: TrainingConfig, out: Path, on_round: Any = None, *, resume: bool = True) -> None:
    train(settings, MODEL, out, device=open_device("sim:server-cpu"), resume=resume, on_round=on_round)


def content(out: Path) -> dict[str, Any]:
    """All that a run leaves, without its wall clock."""
    found: dict[str, Any] = {name: (out / name).read_bytes() for name in (CONFIG,)}
    rounds = [json.loads(line) for line in (out / ROUNDS).read_text().splitlines()]
    table = [line.rsplit(",", 1)[0] for line in (out / TABLE).read_text().splitlines()]
    summary = json.loads((out / SUMMARY).read_text())
    for part in (*rounds, summary):
        del part["seconds"]
    state = torch.load(out / CHECKPOINT, weights_only=True)
    for part in ("weights", "optimizer"):
        state[part] = {name: value.numpy().tobytes() for name, value in state[part].items()}
    residuals = {path.name: path.read_bytes() for path in (out / RESIDUALS).iterdir()}
    return {**found, "rounds": rounds, "table": table, "summary": summary, "state": state, "left": residuals}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    return config(tmp_path_factory.mktemp("settings"))


@pytest.fixture(scope="module")
def whole(settings: TrainingConfig, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("runs") / "whole"
    run(settings, out)
    return content(out)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to make any file larger, as it does on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("full", [CHECKPOINT, ROUNDS, RESIDUALS])
def test_a_full_disk_leaves_the_previous_checkpoint_whole(
    settings: TrainingConfig, whole: dict[str, Any], tmp_path: Path, full: str
) -> None:
    """No room for the checkpoint, in the middle of a line, or for a residual."""
    out = tmp_path / "run"

    class Stopped(BaseException):
        pass

    def stop(report: RoundReport) -> None:
        if report.round == 3:
            raise Stopped

    with pytest.raises(Stopped):
        run(settings, out, stop)
    before = (out / CHECKPOINT).read_bytes()
    room = {
        CHECKPOINT: len(before) - 1000,
        ROUNDS: (out / ROUNDS).stat().st_size + 1000,
        RESIDUALS: 5000,
    }
    with files_of_at_most(room[full]), pytest.raises(UsageError, match=f"{full}.* cannot be written"):
        run(settings, out)
    assert (out / CHECKPOINT).read_bytes() == before
    run(settings, out)
    assert content(out) == whole


def test_a_broken_residual_is_named(settings: TrainingConfig, whole: dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "run"

    class Stopped(BaseException):
        pass

    def stop(report: RoundReport) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        run(settings, out, stop)
    residual = next((out / RESIDUALS).iterdir())
    good = residual.read_bytes()
    residual.write_bytes(good[: len(good) // 2])
    with pytest.raises(InvalidFileError, match=r"residuals/\d-1.pt: it is no residual"):
        run(settings, out)
    torch.save({"a": torch.zeros(3)}, residual)
    with pytest.raises(InvalidFileError, match="it belongs to another network"):
        run(settings, out)
    residual.write_bytes(good)
    run(settings, out)
    assert content(out) == whole


SCRIPT = """
import sys
from pathlib import Path
from cost_models import load_cost_model
from cwmp.config import TrainingConfig
from cwmp.training.run import train
from profiler.devices import open_device
config = TrainingConfig.model_validate_json(sys.argv[1])
device = open_device("sim:server-cpu")
train(config, load_cost_model(Path(sys.argv[2])), Path(sys.argv[3]), device=device, resume=True,
      workers=int(sys.argv[4]), on_start=lambda *_: print("begun", flush=True))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_again_and_again_it_arrives_at_the_same_end(
    settings: TrainingConfig, whole: dict[str, Any], tmp_path: Path, workers: int
) -> None:
    """SIGKILL at random moments after the start, whatever is being written, until it gets through."""
    out, model = tmp_path / "run", Path(settings.fleet or "").with_name("server.json")
    command = [sys.executable, "-c", SCRIPT, settings.model_dump_json(), str(model), str(out), str(workers)]
    rng = random.Random(workers)
    kills = 0
    while not (out / SUMMARY).exists():
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            process.stdout.readline()
            # Fewer kills come in time, the later they are; some run on for several rounds.
            time.sleep(rng.uniform(0, 0.6 if workers == 1 else 6))
            process.poll()
            if process.returncode is None:
                os.kill(process.pid, signal.SIGKILL)
                kills += 1
        assert process.returncode in (0, -signal.SIGKILL)
        assert kills < 200
    run(settings, out)
    assert kills > 0
    assert content(out) == whole
