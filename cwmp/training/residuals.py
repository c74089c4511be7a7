"""Where the server keeps the residuals of error feedback: one dense vector per client, so not in the memory.

    residuals/<client>-<round>.pt    what a client had not sent after that round

A file is written whole before the checkpoint that names it, and removed after the next checkpoint has taken
its place: whenever the process is killed, every file that the checkpoint names is there, as it was.
"""

from __future__ import annotations

import io
import pickle
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from calibration_data import InvalidFileError
from calibration_data.files import write_whole

Weights = Mapping[str, Tensor]

_UNREADABLE = (
    OSError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    pickle.UnpicklingError,
)
_NEXT_STEP = "Remove the run's folder and train again."


class Residuals(Mapping[int, Weights]):
    """Residuals by client; a value, of which ``remembering`` returns the next one."""

    @abstractmethod
    def remembering(self, client: int, round_index: int, residual: Weights) -> Residuals:
        """These residuals with another one of a client."""


class ResidualsInMemory(Residuals):
    """As many residuals as the memory holds."""

    def __init__(self, residuals: Mapping[int, Weights] | None = None) -> None:
        self._residuals = dict(residuals or {})

    def __getitem__(self, client: int) -> Weights:
        return self._residuals[client]

    def __iter__(self) -> Iterator[int]:
        return iter(self._residuals)

    def __len__(self) -> int:
        return len(self._residuals)

    def remembering(self, client: int, round_index: int, residual: Weights) -> ResidualsInMemory:
        """These residuals with another one of a client."""
        return ResidualsInMemory({**self._residuals, client: residual})


class ResidualFiles(Residuals):
    """Residuals on the disk; each is read when it is asked for.

    Args:
        folder: where the files are.
        rounds: round of the newest residual of every client that has one.
        like: the network's parameters, whose names and shapes every residual must have.
    """

    def __init__(self, folder: Path, rounds: Mapping[int, int], like: Weights) -> None:
        self._folder = folder
        self._like = like
        self.rounds = dict(rounds)

    def __getitem__(self, client: int) -> Weights:
        path = self._path(client, self.rounds[client])
        try:
            residual = torch.load(path, weights_only=True)
            shapes = {name: value.shape for name, value in residual.items()}
        except _UNREADABLE as error:
            raise InvalidFileError(path, "it is no residual", next_step=_NEXT_STEP) from error
        if shapes != {name: value.shape for name, value in self._like.items()}:
            raise InvalidFileError(path, "it belongs to another network", next_step=_NEXT_STEP)
        return dict(residual)

    def __iter__(self) -> Iterator[int]:
        return iter(self.rounds)

    def __len__(self) -> int:
        return len(self.rounds)

    def remembering(self, client: int, round_index: int, residual: Weights) -> ResidualFiles:
        """Write a residual to the disk; the file of an earlier round stays."""
        buffer = io.BytesIO()
        torch.save({name: value.contiguous() for name, value in residual.items()}, buffer)
        write_whole(self._path(client, round_index), buffer.getvalue())
        return ResidualFiles(self._folder, {**self.rounds, client: round_index}, self._like)

    def remove_others(self) -> None:
        """Remove the files that are not of these residuals, once a checkpoint has named these."""
        mine = {self._path(client, number) for client, number in self.rounds.items()}
        for path in self._folder.glob("*"):
            if path not in mine:
                path.unlink()

    def _path(self, client: int, round_index: int) -> Path:
        return self._folder / f"{client}-{round_index}.pt"
