"""Errors, by whose fault they are.

    CalijouleError                 everything that we raise on purpose
    ├── UsageError            2    the call asks for something that cannot be done
    ├── NoUsableSensorError   3    nothing here can measure joules
    ├── InvalidFileError      4    a file is not what it should be
    └── MeasurementError      5    a measurement was taken and cannot be trusted

The number is the exit code of the command line. Every error says what happened in one sentence and
names the next step in a second one.
"""

from __future__ import annotations

from pathlib import Path


class CalijouleError(Exception):
    """An error with a next step; ``exit_code`` is what the command line returns for it."""

    exit_code = 1

    def __init__(self, message: str, *, next_step: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.next_step = next_step

    def __str__(self) -> str:
        return f"{self.message} {self.next_step}".strip()


class UsageError(CalijouleError):
    """The call asks for something that cannot be done as asked."""

    exit_code = 2


class NoUsableSensorError(CalijouleError):
    """No sensor on this machine can measure joules (missing, or not permitted)."""

    exit_code = 3


class InvalidFileError(CalijouleError):
    """A file is empty, torn, hostile, of another version, or breaks its schema."""

    exit_code = 4

    def __init__(self, path: Path | str, problem: str, *, next_step: str = "") -> None:
        super().__init__(f"{path}: {problem}.", next_step=next_step)
        self.path = Path(path)
        self.problem = problem


class MeasurementError(CalijouleError):
    """A measurement was taken and cannot be trusted; no joules are reported for it."""

    exit_code = 5
