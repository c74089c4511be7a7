"""A run with everything on, ended at the worst moments: what it leaves is whole, and goes on to the bit."""

import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.known_costs import known_cost_model

from calibration_data import InvalidFileError, UsageError
from cost_models import save_cost_model
from cwmp.comparison.compare import COMPARISON, RUNS, compare
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
    names = {path.name for path in out.iterdir()}
    return {
        **found,
        "rounds": rounds,
        "table": table,
        "summary": summary,
        "state": state,
        "left": residuals,
        "names": names,
    }


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


def test_two_processes_never_train_into_one_folder(settings: TrainingConfig, tmp_path: Path) -> None:
    def again(report: RoundReport) -> None:
        with pytest.raises(UsageError, match="Another process trains"):
            run(settings, tmp_path / "run")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(settings, tmp_path / "run", again)
    run(settings, tmp_path / "run")


# Killed: SIGKILL, which nothing can catch, from outside or before the next change of a file.

STARTS = multiprocessing.get_context("forkserver")
STARTS.set_forkserver_preload(["cwmp.comparison.compare", "sklearn.model_selection"])
PATIENCE_S = 120

Start = Callable[[Connection], object]
"""Says a word through the pipe whenever it has come further; a function of a module, for it is pickled."""


def started(start: Start) -> tuple[BaseProcess, Connection]:
    """A process of its own, forked from one that has imported everything; and its words."""
    words, theirs = STARTS.Pipe(duplex=False)
    process = STARTS.Process(target=start, args=(theirs,))
    process.start()
    theirs.close()
    return process, words


def heard(words: Connection) -> bool:
    """Wait for a word; False where the process has ended."""
    assert words.poll(PATIENCE_S), "the process is alive and says nothing"
    try:
        words.recv()
    except EOFError:
        return False
    return True


def pace_of(start: Start) -> list[float]:
    """Seconds before each word of a start that nobody kills."""
    process, words = started(start)
    moments = [time.monotonic()]
    while heard(words):
        moments.append(time.monotonic())
    process.join()
    assert process.exitcode == 0
    return [after - before for before, after in pairwise(moments)]


def killed(start: Start, pace: Sequence[float], rng: random.Random) -> bool:
    """Start, wait for up to three words and then a random part of the way to the next; whether it died.

    The pace is that of this machine, so that kills come in time on a slow one and not too early.
    """
    process, words = started(start)
    number = rng.randrange(4)
    if all(heard(words) for _ in range(number)):
        process.join(rng.uniform(0, pace[number]))
    process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def trains(settings: TrainingConfig, out: Path, workers: int, words: Connection) -> None:
    train(
        settings,
        MODEL,
        out,
        device=open_device("sim:server-cpu"),
        workers=workers,
        resume=True,
        on_start=lambda *_: words.send("begun"),
        on_round=lambda report: words.send(report.round),
    )


@pytest.mark.slow
@pytest.mark.parametrize(("workers", "folders"), [(1, 3), (2, 1)])
def test_killed_again_and_again_it_arrives_at_the_same_end(
    settings: TrainingConfig, whole: dict[str, Any], tmp_path: Path, workers: int, folders: int
) -> None:
    """At random moments, whatever is being written or started, until it gets through."""
    pace = pace_of(partial(trains, settings, tmp_path / "pace", workers))
    assert content(tmp_path / "pace") == whole
    rng = random.Random(workers)
    for number in range(folders):
        out, kills = tmp_path / str(number), 0
        while not (out / SUMMARY).exists():
            kills += killed(partial(trains, settings, out, workers), pace, rng)
            assert kills < 100
        assert kills > 0
        run(settings, out)
        assert content(out) == whole


WRITES = os.O_WRONLY | os.O_RDWR


def dies(settings: TrainingConfig, out: Path, at: int, words: Connection) -> None:
    """Train until a file of the run is opened for writing, renamed or removed for the so-manieth time."""
    changes = 0

    def strike(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal changes
        if event in ("os.rename", "os.remove") or (event == "open" and arguments[2] & WRITES):
            changes += str(arguments[0]).startswith(str(out))
            if changes == at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(strike)
    trains(settings, out, 1, words)


@pytest.mark.slow
def test_killed_before_every_change_of_a_file_it_arrives_at_the_same_end(
    settings: TrainingConfig, tmp_path: Path
) -> None:
    """Before the first change, before the second of the next start, …, and anew from every new checkpoint."""
    settings = settings.model_copy(update={"rounds": 3})
    run(settings, tmp_path / "whole")
    out, at, deaths = tmp_path / "run", 0, 0
    began_from: list[bytes] = []
    while not (out / SUMMARY).exists():
        stands = [path.read_bytes() for path in (out / CONFIG, out / CHECKPOINT) if path.exists()]
        at, began_from = (at + 1 if stands == began_from else 1), stands
        process, _ = started(partial(dies, settings, out, at))
        process.join(PATIENCE_S)
        assert process.exitcode in (0, -signal.SIGKILL)
        deaths += process.exitcode != 0
    # Of every round: a line, three residuals and a checkpoint, opened, and all but the line renamed.
    assert deaths > 3 * 9
    assert content(out) == content(tmp_path / "whole")


def compares(out: Path, jobs: int, words: Connection) -> None:
    compare(
        COMPARED,
        MODEL,
        out,
        rules=("cwmp", "topk"),
        budgets=(0.1,),
        seeds=(0, 1),
        jobs=jobs,
        resume=True,
        on_progress=lambda progress: words.send(progress.run.name),
    )


COMPARED = training_config(dataset="synthetic", clients=2, rounds=3, selector="dense", error_feedback=True)


@pytest.mark.slow
def test_a_comparison_killed_again_and_again_has_the_same_tables(tmp_path: Path) -> None:
    """The parent of two workers dies at random moments; its workers end, and the next parent goes on."""
    whole, out, kills = tmp_path / "whole", tmp_path / "killed", 0
    pace = pace_of(partial(compares, whole, 2))
    rng = random.Random(0)
    while not (out / COMPARISON).exists():
        kills += killed(partial(compares, out, 2), pace, rng)
        assert kills < 100
    assert kills > 0
    compared = [*(f"{name}.{kind}" for name in ("comparison", "runs") for kind in ("csv", "parquet"))]
    finals = [str(path.relative_to(whole)) for path in whole.glob(f"{RUNS}/*/{CHECKPOINT}")]
    assert len(finals) == 4
    for name in (COMPARISON, *compared, *finals):
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
