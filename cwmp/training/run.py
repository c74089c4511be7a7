"""Trains into a folder, from the beginning or from where it was interrupted.

The order of writing makes every moment a good one to be killed in:

    config.json ─▶ ┌ rounds.jsonl gets a line ─▶ checkpoint.pt is replaced ┐ ─▶ rounds.csv ─▶ summary.json
                   └───────────────────── next round ◀────────────────────┘

A line without its checkpoint is cut off and run again, which gives the same line.
"""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from calibration_data import InvalidFileError, UsageError, __version__
from calibration_data.files import read_model, write_whole
from cost_models import CostModel, save_cost_model
from cwmp.budget import EnergyLedger
from cwmp.config import TrainingConfig
from cwmp.cost_document import costs_document, save_costs
from cwmp.predicted_gain import Gain
from cwmp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cwmp.training.engine import Engine, LocalEngine
from cwmp.training.federated import FederatedState, initial_state, run_round
from cwmp.training.federation import Federation, build_federation
from cwmp.training.probe import expected_gain
from cwmp.training.residuals import ResidualFiles
from cwmp.training.run_files import (
    CHECKPOINT,
    CONFIG,
    COST_MODEL,
    COSTS,
    MAX_FILE_BYTES,
    RESIDUALS,
    ROUNDS,
    SUMMARY,
    TABLE,
    append_round,
    cut_rounds,
    read_rounds,
    read_summary,
    write_csv,
)
from cwmp.training.run_record import (
    Cause,
    ClientReport,
    PartitionReport,
    RoundReport,
    RunIdentity,
    RunReport,
    accuracies_of,
    summed_energy,
)
from profiler.device import Device

LEFT_OUT: Mapping[Cause, str] = {
    "diverged": "updates were not finite and were left out",
    "vanished": "clients gave no answer in a round",
    "invalid": "messages were not valid and were left out",
}
MAX_LISTED = 10
TAIL_FRACTION = 0.2
"""Share of the last rounds whose mean accuracy is reported."""


def train(
    config: TrainingConfig,
    cost_model: CostModel,
    out: Path,
    *,
    device: Device | None = None,
    engine: Engine | None = None,
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
        engine: runs the clients; without one, in this process.
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
    """
    federation = build_federation(config, cost_model, device)
    clients_run_by = engine or LocalEngine(federation)
    identity = run_identity(federation, cost_model, device, engine=clients_run_by.name)
    _open_folder(out, identity, federation, cost_model, resume=resume)
    if (out / SUMMARY).exists():
        return read_summary(out / SUMMARY)
    gain = expected_gain(federation)
    if on_start is not None:
        on_start(federation.budget.prices.var_ln_c, gain)
    state = _state_on_disk(out, federation)
    cut_rounds(out / ROUNDS, state.finished_rounds)
    while state.finished_rounds < config.rounds:
        state, report = run_round(federation, state, clients_run_by)
        append_round(out / ROUNDS, report)
        _save(out, state)
        if on_round is not None:
            on_round(report)
    rounds = read_rounds(out / ROUNDS)
    write_csv(out / TABLE, [report.row() for report in rounds])
    summary = run_report(identity, federation, state.ledger, rounds, gain)
    write_whole(out / SUMMARY, summary.model_dump_json(by_alias=True, indent=1) + "\n")
    return summary


def run_identity(
    federation: Federation, cost_model: CostModel, device: Device | None, *, engine: str = LocalEngine.name
) -> RunIdentity:
    """What a run is before its first round."""
    document = cost_model.document
    partition, data = federation.partition, federation.data
    class_counts = partition.class_counts(data.train_y.numpy(), data.classes)
    return RunIdentity(
        config=federation.config,
        cost_model_sha256=hashlib.sha256(document.model_dump_json(by_alias=True).encode()).hexdigest(),
        cost_model_provenance=document.provenance,
        cost_model_device="literature" if document.device is None else document.device.device,
        measuring_device=None if device is None else device.name,
        partition=PartitionReport(
            scheme=partition.scheme,
            balancing=partition.balancing,
            alpha=partition.alpha,
            shards_per_client=partition.shards_per_client,
            min_samples=partition.min_samples,
            seed=partition.seed,
            sizes=partition.sizes,
            class_counts=tuple(map(tuple, class_counts.tolist())),
            sha256=partition.sha256,
        ),
        coordinates=federation.costs.coordinates,
        engine=engine,
    )


def run_report(
    identity: RunIdentity,
    federation: Federation,
    ledger: EnergyLedger,
    rounds: Sequence[RoundReport],
    expected: Gain,
) -> RunReport:
    """The summary of a finished run."""
    accuracies = accuracies_of(rounds)
    tail = accuracies_of(rounds[-max(1, round(TAIL_FRACTION * len(rounds))) :])
    clients = [client for report in rounds for client in report.clients]
    config, prices = federation.config, federation.budget.prices
    return RunReport(
        identity=identity,
        rounds=len(rounds),
        final_accuracy=accuracies[-1],
        best_accuracy=max(accuracies),
        tail_accuracy=sum(tail) / len(tail),
        final_loss=rounds[-1].test_loss,
        budget_j=federation.budget.budget_j,
        budget_ignored=config.selector == "dense",
        fixed_j=federation.budget.fixed_j,
        dense_j=federation.budget.dense_j,
        energy=summed_energy(report.energy for report in rounds),
        predicted_j=ledger.total_predicted_j,
        boundary_j=ledger.charged_j,
        granted_j=ledger.granted_j,
        retained_fraction=_share(clients, [client.retained_squared_norm for client in clients]),
        topk_retained_fraction=_share(clients, [client.topk_retained_squared_norm for client in clients]),
        cwmp_retained_fraction=_share(clients, [client.cwmp_retained_squared_norm for client in clients]),
        var_ln_c=prices.var_ln_c,
        predicted_gain=expected.over_topk,
        price_provenance=prices.provenance,
        not_counted=tuple(federation.training.step(config.batch_size).without_formula),
        notes=_notes(identity, federation, rounds),
        seconds=sum(report.seconds for report in rounds),
        software={
            "calijoule": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    )


def _notes(identity: RunIdentity, federation: Federation, rounds: Sequence[RoundReport]) -> tuple[str, ...]:
    notes = list(federation.budget.prices.notes)
    if federation.config.selector == "dense":
        notes.append("The rule dense keeps everything and knows no budget.")
    if identity.measuring_device not in (None, identity.cost_model_device):
        notes.append(
            f"Joules are predicted for {identity.cost_model_device} and seen on {identity.measuring_device}."
        )
    dropped = Counter(client.cause for report in rounds for client in report.dropped)
    for cause, words in LEFT_OUT.items():
        if dropped[cause]:
            notes.append(f"{dropped[cause]} {words}; the joules of their training were left out too.")
    idle = [report.round for report in rounds if not report.clients]
    if idle:
        notes.append(f"No client answered in {len(idle)} rounds, which changed nothing: {_listed(idle)}.")
    return tuple(notes)


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_LISTED]))
    return shown if len(numbers) <= MAX_LISTED else f"{shown}, …"


def _share(clients: Sequence[ClientReport], retained: Sequence[float]) -> float:
    total = sum(client.squared_norm for client in clients)
    return sum(retained) / total if total else 1.0


def _open_folder(
    out: Path, identity: RunIdentity, federation: Federation, cost_model: CostModel, *, resume: bool
) -> None:
    """Make the folder of a new run, or check that it is the folder of this run."""
    if out.exists() and not resume and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists already.", next_step="Choose another folder, or go on with it: --resume."
        )
    if (out / CONFIG).exists():
        _check_same(out / CONFIG, identity)
        return
    if (out / ROUNDS).exists() or (out / CHECKPOINT).exists():
        raise InvalidFileError(out / CONFIG, "it is missing from a run that has begun")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{out} cannot be made ({error.strerror}).", next_step="Choose another folder."
        ) from error
    save_cost_model(out / COST_MODEL, cost_model)
    created = datetime.now(UTC)
    save_costs(out / COSTS, costs_document(federation.budget.prices, created=created))
    write_whole(out / CONFIG, identity.model_dump_json(indent=1) + "\n")


def _check_same(path: Path, identity: RunIdentity) -> None:
    """A resumed run must be the same run.

    Raises:
        UsageError: it differs; the message names the first key that does.
    """
    before = read_model(path, RunIdentity, limit_bytes=MAX_FILE_BYTES)
    was, now = ({**run.model_dump(), **run.config.model_dump()} for run in (before, identity))
    for key in [*TrainingConfig.model_fields, *RunIdentity.model_fields]:
        if was[key] != now[key]:
            raise UsageError(
                f"{path.parent} was begun with {key} = {was[key]!r}, not {now[key]!r}.",
                next_step="Resume it with the settings in its config.json, or choose another folder.",
            )


def _state_on_disk(out: Path, federation: Federation) -> FederatedState:
    start = initial_state(federation)
    if not (out / CHECKPOINT).exists():
        return replace(start, residuals=ResidualFiles(out / RESIDUALS, {}, start.weights))
    checkpoint = load_checkpoint(out / CHECKPOINT, start.weights, start.optimizer)
    return FederatedState(
        finished_rounds=checkpoint.finished_rounds,
        weights=checkpoint.weights,
        optimizer=checkpoint.optimizer,
        residuals=ResidualFiles(out / RESIDUALS, checkpoint.residual_rounds, start.weights),
        ledger=EnergyLedger.from_state(checkpoint.ledger),
    )


def _save(out: Path, state: FederatedState) -> None:
    """Replace the checkpoint, then remove what the one before it needed."""
    residuals = state.residuals
    rounds = residuals.rounds if isinstance(residuals, ResidualFiles) else {}
    checkpoint = Checkpoint(
        finished_rounds=state.finished_rounds,
        weights=state.weights,
        optimizer=state.optimizer,
        residual_rounds=rounds,
        ledger=state.ledger.state(),
    )
    save_checkpoint(out / CHECKPOINT, checkpoint)
    if isinstance(residuals, ResidualFiles):
        residuals.remove_others()
