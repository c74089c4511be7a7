"""The folder of a run: made once, checked when the run goes on, and its state read and written."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from calibration_data import InvalidFileError, UsageError
from calibration_data.files import read_model, remove_unfinished, write_whole
from cost_models import CostModel, save_cost_model
from cwmp.budget import EnergyLedger
from cwmp.config import TrainingConfig
from cwmp.cost_document import costs_document, save_costs
from cwmp.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from cwmp.training.federated import FederatedState, initial_state
from cwmp.training.federation import Federation
from cwmp.training.fleet import Fleet, save_fleet
from cwmp.training.residuals import ResidualFiles
from cwmp.training.run_files import (
    CHECKPOINT,
    CONFIG,
    COST_MODEL,
    COSTS,
    FLEET,
    MAX_FILE_BYTES,
    RESIDUALS,
    ROUNDS,
    WRITTEN_WHOLE,
)
from cwmp.training.run_record import RunIdentity

NEXT_STEPS = {
    "samples_sha256": "The data set was changed, or another decoder reads its images: go on with those of the"
    " beginning."
}


def refuse_content(out: Path) -> None:
    """A new run begins in a folder that is empty, or not there.

    Raises:
        UsageError: it is neither.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists already.", next_step="Choose another folder, or go on with it: --resume."
        )


def open_folder(
    out: Path,
    identity: RunIdentity,
    federation: Federation,
    cost_model: CostModel,
    fleet: Fleet,
) -> None:
    """Begin a new run in a folder that is there, or check that it is the folder of this run.

    Raises:
        UsageError: it is of a run with other settings.
        InvalidFileError: a file of the run to resume is missing or broken.
    """
    if (out / CONFIG).exists():
        _check_same(out / CONFIG, identity)
        return
    if (out / ROUNDS).exists() or (out / CHECKPOINT).exists():
        raise InvalidFileError(out / CONFIG, "it is missing from a run that has begun")
    save_cost_model(out / COST_MODEL, cost_model)
    if fleet.groups:
        save_fleet(out / FLEET, fleet)
    created = datetime.now(UTC)
    save_costs(out / COSTS, costs_document(federation.budget.prices, created=created))
    write_whole(out / CONFIG, identity.model_dump_json(indent=1) + "\n")


def _check_same(path: Path, identity: RunIdentity) -> None:
    """A resumed run must be the same run.

    Raises:
        UsageError: it differs; the message names the first key that does.
    """
    before = read_model(path, RunIdentity, limit_bytes=MAX_FILE_BYTES)
    if before.samples_sha256 is None:
        identity = identity.model_copy(update={"samples_sha256": None})
    was, now = ({**run.model_dump(), **run.config.model_dump()} for run in (before, identity))
    for key in [*TrainingConfig.model_fields, *RunIdentity.model_fields]:
        if was[key] != now[key]:
            raise UsageError(
                f"{path.parent} was begun with {key} = {was[key]!r}, not {now[key]!r}.",
                next_step=NEXT_STEPS.get(
                    key, "Resume it with the settings in its config.json, or choose another folder."
                ),
            )


def state_on_disk(out: Path, federation: Federation) -> FederatedState:
    """Where the run stands: its checkpoint, or its beginning; what a kill left unfinished is removed.

    Raises:
        InvalidFileError: the checkpoint is broken.
    """
    for name in WRITTEN_WHOLE:
        remove_unfinished(out / name)
    start = initial_state(federation)
    if not (out / CHECKPOINT).exists():
        return replace(start, residuals=ResidualFiles(out / RESIDUALS, {}, start.weights))
    checkpoint = load_checkpoint(out / CHECKPOINT, start.weights, start.optimizer)
    residuals = ResidualFiles(out / RESIDUALS, checkpoint.residual_rounds, start.weights)
    residuals.remove_others()
    return FederatedState(
        finished_rounds=checkpoint.finished_rounds,
        weights=checkpoint.weights,
        optimizer=checkpoint.optimizer,
        residuals=residuals,
        ledger=EnergyLedger.from_state(checkpoint.ledger),
    )


def save_state(out: Path, state: FederatedState) -> None:
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
