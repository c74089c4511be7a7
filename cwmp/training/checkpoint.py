"""What a run needs to go on after its process was killed: one file, replaced at once or not at all.

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

CHECKPOINT_SCHEMA = "calijoule/checkpoint/1"

_UNREADABLE = (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError)
_NEXT_STEP = "Remove the run's folder and train again."


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """State of a run after some rounds.

    Attributes:
        finished_rounds: rounds that are in it; ``rounds.jsonl`` is cut to as many lines.
        weights: global weights by parameter name.
        residuals: error feedback of each client that has one, by parameter name.
        ledger: joules so far, as ``EnergyLedger.state``.
    """

    finished_rounds: int
    weights: Mapping[str, Tensor]
    residuals: Mapping[int, Mapping[str, Tensor]]
    ledger: Mapping[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Replace the checkpoint; when this returns, it is on the disk."""
    state = {
        "schema": CHECKPOINT_SCHEMA,
        "finished_rounds": checkpoint.finished_rounds,
        "weights": dict(checkpoint.weights),
        "residuals": {client: dict(residual) for client, residual in checkpoint.residuals.items()},
        "ledger": dict(checkpoint.ledger),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_whole(path, buffer.getvalue())


def load_checkpoint(path: Path, like: Mapping[str, Tensor]) -> Checkpoint:
    """Read a checkpoint of a network.

    Args:
        path: the file.
        like: the network's parameters, whose names and shapes the checkpoint must have.

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
            residuals={int(client): dict(residual) for client, residual in state["residuals"].items()},
            ledger=dict(state["ledger"]),
        )
        tensors = [_shapes(checkpoint.weights), *map(_shapes, checkpoint.residuals.values())]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InvalidFileError(path, "it is no checkpoint", next_step=_NEXT_STEP) from error
    if any(shapes != _shapes(like) for shapes in tensors):
        raise InvalidFileError(path, "it belongs to another network", next_step=_NEXT_STEP)
    return checkpoint


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}
