"""What every part knows: where results go, what is measured, how long there is; and files that resume."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration_data import CalijouleError


class OutOfTimeError(CalijouleError):
    """The minutes of this command are over; everything so far is kept."""

    def __init__(self) -> None:
        super().__init__("The minutes are over; all so far is kept.", next_step="Run the same command again.")


class SomeFailedError(CalijouleError):
    """Some rows could not be measured; the others are kept."""

    def __init__(self, failures: Mapping[str, str]) -> None:
        why = "; ".join(f"{key}: {reason}" for key, reason in failures.items())
        super().__init__(
            f"{len(failures)} could not be measured. {why}",
            next_step="All others are kept; the same command tries these again.",
        )


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of one command.

    Attributes:
        out: folder of results.
        device_name: as ``open_device`` takes it.
        dry_run: small sizes, no kernels.
        seconds: after which a part stops at its next step.
        started_s: when the command began.
    """

    out: Path
    device_name: str
    dry_run: bool
    seconds: float
    started_s: float = field(default_factory=time.monotonic)

    def keep_time(self) -> None:
        """Raise OutOfTimeError once the minutes are over; called between steps."""
        if time.monotonic() - self.started_s > self.seconds:
            raise OutOfTimeError

    def file(self, name: str) -> Path:
        """A file of results."""
        self.out.mkdir(parents=True, exist_ok=True)
        return self.out / name


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a whole file or none."""
    part = path.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
    os.replace(part, path)


class Rows:
    """Results as JSON lines with a key each; those of earlier commands are not measured again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.rows: list[dict[str, Any]] = []
        for line in lines:
            try:
                self.rows.append(json.loads(line))
            except json.JSONDecodeError:
                # A command that was killed while it wrote; its row is measured again.
                continue
        self._done = {row["key"] for row in self.rows}
        self._failures: dict[str, str] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._done

    def add(self, key: str, values: Mapping[str, Any]) -> None:
        """Append a row, on disk before the next begins."""
        row = {"key": key, **values}
        text = json.dumps(row, allow_nan=False)
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        with self._path.open("a") as file:
            file.write(("\n" if torn else "") + text + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.rows.append(row)
        self._done.add(key)

    def attempt(self, key: str, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Append what is measured; where that fails, remember why, and let the next have its turn."""
        try:
            values = measure()
        # Whatever a driver or a compiler may raise: one row must not take the others along.
        except Exception as error:
            reason = str(error).partition("\n")[0]
            self._failures[key] = f"{type(error).__name__}: {reason}"
            print(f"{key}: {self._failures[key]}", flush=True)
        else:
            self.add(key, values)

    def see_failures(self) -> None:
        """Raise SomeFailedError if an attempt failed."""
        if self._failures:
            raise SomeFailedError(self._failures)
