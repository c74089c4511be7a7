"""Makes the runs of a comparison, one after the other or in several processes; the same bits either way.

    plans ─▶ finished on disk? ─▶ left as they are
          └▶ not yet           ─▶ worker: one torch thread, train(resume) ─▶ run folder
                                         └── after each round: a word to the parent

Rules of this module:
- All that a run leaves is in its folder. A kill at any moment costs what came after the last checkpoint.
- A run that fails is named with its reason, and the others go on; given again, it is tried again.
- A worker ends with its parent, so that two processes never write one folder.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing.queues import SimpleQueue
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from calibration_data import CalijouleError, UsageError
from calibration_data.files import read_bounded, read_model
from cost_models import CostModel, load_cost_model
from cwmp.comparison.last_dataset import LastDataset
from cwmp.comparison.plan import EngineName, PlannedRun
from cwmp.training.engine import BatchedEngine
from cwmp.training.local_training import single_thread
from cwmp.training.round_record import RoundReport
from cwmp.training.run import train
from cwmp.training.run_files import CONFIG, COST_MODEL, MAX_FILE_BYTES, ROUNDS, SUMMARY
from cwmp.training.run_record import RunIdentity
from profiler.device import Device

OpenDevice = Callable[[CostModel], Device | None]
"""Opens the device whose sensors see the phases; with several jobs it has to be a function of a module."""

POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Means:
    """What runs are made with; as arguments of ``make_runs``."""

    open_device: OpenDevice
    engine: EngineName = "local"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a comparison is.

    Attributes:
        run: that a round or an end came from.
        ended: whether it has ended.
        failure: why it failed, if it did.
        ended_runs: finished, found finished, or failed.
        runs: all of them.
        done_rounds: rounds that were run now.
        left_rounds: rounds that are still to be run.
        left_s: seconds that they will take at the speed so far; None before the first round.
    """

    run: PlannedRun
    ended: bool
    failure: str | None
    ended_runs: int
    runs: int
    done_rounds: int
    left_rounds: int
    left_s: float | None


OnProgress = Callable[[Progress], None]


class _Progress:
    """Counts rounds and runs, and tells."""

    def __init__(self, plans: Sequence[PlannedRun], left: Mapping[str, int], tell: OnProgress | None) -> None:
        self._plans = {plan.name: plan for plan in plans}
        self._left = dict(left)
        self._open = {name for name, rounds in left.items() if rounds}
        self._done = 0
        self._tell = tell
        self._started_s = time.monotonic()

    def round(self, name: str, report: RoundReport | None = None) -> None:
        """One round of a run is on the disk."""
        self._done += 1
        self._left[name] = max(self._left[name] - 1, 0)
        self._report(name, ended=False, failure=None)

    def end(self, name: str, failure: str | None) -> None:
        """A run is over."""
        self._left[name] = 0
        self._open.discard(name)
        self._report(name, ended=True, failure=failure)

    def _report(self, name: str, *, ended: bool, failure: str | None) -> None:
        if self._tell is None:
            return
        left = sum(self._left.values())
        elapsed_s = time.monotonic() - self._started_s
        self._tell(
            Progress(
                run=self._plans[name],
                ended=ended,
                failure=failure,
                ended_runs=len(self._plans) - len(self._open),
                runs=len(self._plans),
                done_rounds=self._done,
                left_rounds=left,
                left_s=elapsed_s * left / self._done if self._done else None,
            )
        )


def make_runs(
    plans: Sequence[PlannedRun],
    folder: Path,
    *,
    open_device: OpenDevice,
    engine: EngineName = "local",
    jobs: int = 1,
    on_progress: OnProgress | None = None,
) -> dict[str, str]:
    """Make every run that is not finished.

    Args:
        plans: the runs, in the order in which they begin.
        folder: of the runs, each of which has one of its own in it.
        open_device: opens the device whose sensors see the phases.
        engine: runs the clients.
        jobs: processes; 1 is this one.
        on_progress: called after each round and each run.

    Returns:
        Why runs failed, by name.

    Raises:
        UsageError: a folder holds another run, sensors cannot tell jobs apart, or a worker was killed.
    """
    means = Means(open_device=open_device, engine=engine)
    _check_folders(plans, folder, means, jobs)
    left = {plan.name: _rounds_left(plan, folder / plan.name) for plan in plans}
    # Whether a fleet is the one of a finished run is known to ``train`` alone.
    unfinished = [plan for plan in plans if left[plan.name] or plan.config.fleet is not None]
    progress = _Progress(plans, left, on_progress)
    if jobs == 1 or len(unfinished) < 2:
        return _in_this_process(unfinished, folder, means, progress)
    return _in_workers(unfinished, folder, means, min(jobs, len(unfinished)), progress)


def _in_this_process(
    plans: Sequence[PlannedRun], folder: Path, means: Means, progress: _Progress
) -> dict[str, str]:
    failures, data = {}, LastDataset()
    with single_thread():
        for plan in plans:
            failure = _run(plan, folder, means, data, partial(progress.round, plan.name))
            if failure is not None:
                failures[plan.name] = failure
            progress.end(plan.name, failure)
    return failures


def _in_workers(
    plans: Sequence[PlannedRun], folder: Path, means: Means, jobs: int, progress: _Progress
) -> dict[str, str]:
    context = multiprocessing.get_context("spawn")
    words: SimpleQueue[str] = context.SimpleQueue()
    stop = context.Event()
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(words, stop))
    failures = {}
    try:
        pending = {pool.submit(_run_in_worker, plan, folder, means): plan.name for plan in plans}
        while pending:
            for future in _told(words, pending, progress):
                name = pending.pop(future)
                failure = future.result()
                if failure is not None:
                    failures[name] = failure
                progress.end(name, failure)
    except BrokenProcessPool as error:
        raise UsageError(
            "A worker of the comparison was killed; often the memory was not enough.",
            next_step="Go on with --resume, with fewer --jobs.",
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
    return failures


def _told(
    words: SimpleQueue[str], pending: Mapping[Future[str | None], str], progress: _Progress
) -> set[Future[str | None]]:
    """Wait a moment, pass on what the workers have said, and return the runs that are over."""
    over, _ = wait(pending, timeout=POLL_S, return_when=FIRST_COMPLETED)
    while not words.empty():
        progress.round(words.get())
    return over


@dataclass(frozen=True, kw_only=True)
class _Worker:
    words: SimpleQueue[str]
    stop: Event
    data: LastDataset


_workers: list[_Worker] = []
"""In a worker: what connects it to its parent, and the samples of its last run."""


class _StoppedError(CalijouleError):
    """The parent has asked for an end; what is done is in the checkpoint."""


def _begin_worker(words: SimpleQueue[str], stop: Event) -> None:
    torch.set_num_threads(1)
    _workers.append(_Worker(words=words, stop=stop, data=LastDataset()))
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _run_in_worker(plan: PlannedRun, folder: Path, means: Means) -> str | None:
    (worker,) = _workers

    def tell(report: RoundReport) -> None:
        worker.words.put(plan.name)
        if worker.stop.is_set():
            raise _StoppedError("The comparison was stopped.")

    return _run(plan, folder, means, worker.data, tell)


def _run(
    plan: PlannedRun, folder: Path, means: Means, data: LastDataset, on_round: Callable[[RoundReport], None]
) -> str | None:
    """Make one run; returns why it failed, if it did."""
    try:
        train(
            plan.config,
            plan.cost_model,
            folder / plan.name,
            device=means.open_device(plan.cost_model),
            data=data.of(plan.config),
            batched=means.engine == BatchedEngine.name,
            resume=True,
            on_round=on_round,
        )
    except CalijouleError as error:
        return str(error)
    return None


def _check_folders(plans: Sequence[PlannedRun], folder: Path, means: Means, jobs: int) -> None:
    devices = {id(plan.cost_model): means.open_device(plan.cost_model) for plan in plans}
    if jobs > 1 and any(
        device is not None and device.provenance == "measured" for device in devices.values()
    ):
        raise UsageError(
            "Runs that share sensors cannot be told apart, so they are measured one at a time.",
            next_step="Give --jobs 1, or --device none to predict only.",
        )
    for plan in plans:
        if (folder / plan.name / CONFIG).exists():
            device = devices[id(plan.cost_model)]
            _check_same(folder / plan.name, plan, None if device is None else device.name, means.engine)


def _check_same(run: Path, plan: PlannedRun, device: str | None, engine: EngineName) -> None:
    """A folder that is there already must be of this run.

    Raises:
        UsageError: it is of another; the message names what differs.
    """
    identity = read_model(run / CONFIG, RunIdentity, limit_bytes=MAX_FILE_BYTES)
    was = {
        **identity.config.model_dump(),
        "measuring_device": identity.measuring_device,
        "engine": identity.engine,
    }
    now = {**plan.config.model_dump(), "measuring_device": device, "engine": engine}
    differing = [f"{key} = {was[key]!r}, not {now[key]!r}" for key in now if was[key] != now[key]]
    if load_cost_model(run / COST_MODEL).document != plan.cost_model.document:
        differing.append("another cost model")
    if differing:
        raise UsageError(
            f"{run} was begun with {differing[0]}.",
            next_step="Resume the comparison as it was begun, or choose another folder.",
        )


def _rounds_left(plan: PlannedRun, run: Path) -> int:
    """Rounds that are not on the disk; at least one unless the run is finished."""
    if (run / SUMMARY).exists():
        return 0
    done = read_bounded(run / ROUNDS, MAX_FILE_BYTES).count(b"\n") if (run / ROUNDS).exists() else 0
    return max(plan.config.rounds - done, 1)
