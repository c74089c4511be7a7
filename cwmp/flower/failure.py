"""An error that ends a run in another process, handed through a file to the command that waits for it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from calibration_data import CalijouleError
from calibration_data.files import read_model, write_whole

MAX_FAILURE_BYTES = 100_000


class Failure(BaseModel):
    """An error as it leaves its process."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    message: str
    next_step: str
    exit_code: Annotated[int, Field(ge=1, le=255)]


class RunFailedError(CalijouleError):
    """What ended a run in another process, with the exit code that it had there."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message, next_step=failure.next_step)
        self.exit_code = failure.exit_code


def write_failure(path: Path, error: CalijouleError) -> None:
    """Leave an error for the command that waits."""
    failure = Failure(message=error.message, next_step=error.next_step, exit_code=error.exit_code)
    write_whole(path, failure.model_dump_json())


def read_failure(path: Path) -> RunFailedError:
    """The error that another process has left.

    Raises:
        InvalidFileError: the file is broken.
    """
    return RunFailedError(read_model(path, Failure, limit_bytes=MAX_FAILURE_BYTES))
