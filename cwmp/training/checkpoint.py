"""What a run needs to go on after its process was killed: one file, replaced at once or not at all.

History: 1 held the residuals of all clients; 2 names their files and holds the server optimiser's state.

A checkpoint is written to a temporary file, fsynced and renamed, so that a crash at any moment leaves the
old one or the new one. It holds tensors and plain types alone and is read with ``weights_only=True``: no
code in it is ever executed. Random state is not in it, since every draw has its own derived seed.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from calibration_data import InvalidFileError
from calibration_data.files import write_whole

CHECKPOINT_SCHEMA = "calijoule/checkpoint/2"

_NEXT_STEP = "Remove the run's folder and train again."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State of a run after some rounds.

    Attributes:
        finished_rounds: rounds that are in it; ``rounds.jsonl`` is cut to as many lines.
        weights: global weights by parameter name.
        optimizer: state of the server's optimiser: vectors of one number per coordinate.
        residual_rounds: round of the residual of each client that has one; its file has its name.
        ledger: joules so far, as ``EnergyLedger.state``.
    """

    finished_rounds: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    residual_rounds: Mapping[int, int]
    ledger: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint; when this returns, it is on the disk."""
    state = {
        "schema": CHECKPOINT_SCHEMA,
        "finished_rounds": checkpoint.finished_rounds,
        "weights": dict(checkpoint.weights),
        "optimizer": dict(checkpoint.optimizer),
        "residual_rounds": dict(checkpoint.residual_rounds),
        "ledger": dict(checkpoint.ledger),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(
    path: Path, like: Mapping[str, Tensor], optimizer: Mapping[str, Tensor] | None = None
) -> Checkpoint:
    """Read a checkpoint of a network.

    Args:
        path: the file.
        like: the network's parameters, whose names and shapes the checkpoint must have.
        optimizer: the first state of the server's optimiser, likewise; nothing without one.

    Raises:
        InvalidFileError: it cannot be read, or belongs to another network or version.
    """
    try:
        state = torch.load(path, weights_only=True)
        schema = state["schema"]
    except (
        OSError,
        RuntimeError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        pickle.UnpicklingError,
    ) as error:
        raise InvalidFileError(path, "it is no checkpoint", next_step=_NEXT_STEP) from error
    if schema != CHECKPOINT_SCHEMA:
        raise InvalidFileError(path, f"it is not of schema {CHECKPOINT_SCHEMA}", next_step=_NEXT_STEP)
    try:
        checkpoint = Checkpoint(
            finished_rounds=int(state["finished_rounds"]),
            weights=dict(state["weights"]),
            optimizer=dict(state["optimizer"]),
            residual_rounds={int(key): int(value) for key, value in state["residual_rounds"].items()},
            ledger=dict(state["ledger"]),
        )
        shapes = _shapes(checkpoint.weights), _shapes(checkpoint.optimizer)
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidFileError(path, "it is no checkpoint", next_step=_NEXT_STEP) from error
    if shapes != (_shapes(like), _shapes(optimizer or {})):
        raise InvalidFileError(path, "it belongs to another network", next_step=_NEXT_STEP)
    return checkpoint


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
