"""Trains into a folder, from the beginning or from where it was interrupted.

The order of writing makes every moment a good one to be killed in:

    config.json ─▶ ┌ rounds.jsonl gets a line ─▶ checkpoint.pt is replaced ┐ ─▶ rounds.csv ─▶ summary.json
                   └───────────────────── next round ◀────────────────────┘

A line without its checkpoint is cut off and run again, which gives the same line.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from calibration_data.files import alone_in, write_whole
from cost_models import CostModel
from cwmp.config import TrainingConfig
from cwmp.predicted_gain import Gain
from cwmp.training.datasets import Dataset
from cwmp.training.engine import BatchedEngine, Engine, LocalEngine
from cwmp.training.federated import run_round
from cwmp.training.federation import build_federation
from cwmp.training.fleet import fleet_of_run
from cwmp.training.probe import expected_gain
from cwmp.training.round_record import RoundReport
from cwmp.training.run_files import (
    FLEET,
    ROUNDS,
    SUMMARY,
    TABLE,
    append_round,
    cut_rounds,
    read_rounds,
    read_summary,
    write_csv,
)
from cwmp.training.run_folder import open_folder, refuse_content, save_state, state_on_disk
from cwmp.training.run_record import RunReport
from cwmp.training.run_summary import run_identity, run_report
from cwmp.training.workers import WorkerEngine
from profiler.device import Device

PATIENCE_S = 2.0


def train(
    config: TrainingConfig,
    cost_model: CostModel,
    out: Path,
    *,
    device: Device | None = None,
    engine: Engine | None = None,
    workers: int = 1,
    batched: bool = False,
    data: Dataset | None = None,
    resume: bool = False,
    on_start: Callable[[float, Gain], None] | None = None,
    on_round: Callable[[RoundReport], None] | None = None,
) -> RunReport:
    """Run federated training into a folder.

    Args:
        config: the settings.
        cost_model: costs of elementary operations on the clients' device; a copy is kept with the run.
        out: folder of the run, made if it is not there.
        device: whose sensors see the phases; a simulated one executes their counted work. None only predicts.
        engine: runs the clients, and whoever has it keeps others out of the folder; without one, this process
            and its workers do.
        workers: processes that run clients, which gives the same bits; with 1, this process does.
        batched: train the clients of a small dense network in groups, which is faster and agrees to rounding;
            the run's record names its engine ``local-batched``.
        data: samples that the settings name, where they are read already.
        resume: go on with an interrupted run, which gives what an uninterrupted one would have given; a
            finished one is left as it is.
        on_start: called before the first round that is run now with Var(ln c) and with what each rule is
            expected to keep of an update.
        on_round: called after each round that is run now, once it is on the disk.

    Returns:
        The summary, as it is in ``summary.json``.

    Raises:
        UsageError: the folder is in use, the run to resume has other settings, or a setting cannot be met.
        InvalidFileError: a file of the run to resume is broken.
        MissingCoefficientError: the cost model lacks a cost that the prices need.
        DivergedError: in some round no client's update was finite.
        WorkerError: a worker process failed or died.
    """
    fleet = fleet_of_run(config.fleet, out / FLEET, clients=config.clients, assumed=cost_model.assumed)
    federation = build_federation(config, cost_model, device, fleet=fleet, data=data)
    running = engine or (BatchedEngine(federation) if batched else LocalEngine(federation))
    identity = run_identity(federation, cost_model, device, engine=running.name)
    if not resume:
        refuse_content(out)
    with ExitStack() as stack:
        if engine is None:
            stack.enter_context(_alone(out))
        open_folder(out, identity, federation, cost_model, fleet)
        if (out / SUMMARY).exists():
            return read_summary(out / SUMMARY)
        gain = expected_gain(federation)
        if on_start is not None:
            on_start(federation.of_client(0).budget.prices.var_ln_c, gain)
        state = state_on_disk(out, federation)
        cut_rounds(out / ROUNDS, state.finished_rounds)
        if engine is None and workers > 1:
            pool = WorkerEngine(
                config,
                cost_model,
                device,
                fleet=fleet,
                data=federation.data,
                coordinates=federation.costs.coordinates,
                workers=workers,
                batched=batched,
            )
            running = stack.enter_context(pool)
        while state.finished_rounds < config.rounds:
            state, report = run_round(federation, state, running)
            append_round(out / ROUNDS, report)
            save_state(out, state)
            if on_round is not None:
                on_round(report)
        rounds = read_rounds(out / ROUNDS)
        write_csv(out / TABLE, [report.row() for report in rounds])
        summary = run_report(identity, federation, state.ledger, rounds, gain)
        summary = summary.model_copy(update={"notes": (*summary.notes, *running.notes())})
        write_whole(out / SUMMARY, summary.model_dump_json(by_alias=True, indent=1) + "\n")
        return summary


def _alone(out: Path) -> AbstractContextManager[None]:
    """Keep others out of the folder of a run; a worker whose comparison was killed needs a moment to end."""
    return alone_in(
        out,
        other="Another process trains",
        next_step="Wait for it, or choose another folder.",
        patience_s=PATIENCE_S,
    )
