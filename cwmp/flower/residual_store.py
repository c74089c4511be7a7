"""What a client has not sent, on its own disk: one file per run, client and round.

    <folder>/<run>/<client>-<round>.pt

The server says which of a client's rounds it has used last, and the client goes on from that one: an answer
that never arrived has changed nothing, and a round that is run again after a resume begins where it began
before. A file is written whole or not at all, and outlives the process and its node.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from calibration_data import InvalidFileError, UsageError
from cwmp.training.residuals import ResidualFiles

RUN_ID = re.compile(r"[0-9a-f]{32}")


class ResidualStore:
    """Residuals of one client in one run.

    Args:
        folder: of all runs on this machine.
        run: the run's id, 32 hexadecimal digits.
        client: its number.
        like: the network's parameters, whose names and shapes every residual must have.

    Raises:
        UsageError: the id is none; it would name a folder.
    """

    def __init__(self, folder: Path, run: str, client: int, like: Mapping[str, Tensor]) -> None:
        if not RUN_ID.fullmatch(run):
            raise UsageError("The server sent no id of a run.")
        self._folder = folder / run
        self._client = client
        self._like = like

    def after(self, round_index: int) -> Mapping[str, Tensor] | None:
        """What had not been sent after a round; None if it is lost. After round 0 all had."""
        if round_index == 0:
            return {}
        try:
            return self._files(round_index)[self._client]
        except InvalidFileError:
            return None

    def keep(self, round_index: int, residual: Mapping[str, Tensor], *, used: int) -> None:
        """Write what was not sent after a round, and remove what is older than the last one that was used.

        Raises:
            UsageError: the file cannot be written.
        """
        self._files(round_index).remembering(self._client, round_index, residual)
        for path in self._folder.glob(f"{self._client}-*.pt"):
            if int(path.stem.partition("-")[2]) < used:
                path.unlink()

    def _files(self, round_index: int) -> ResidualFiles:
        return ResidualFiles(self._folder, {self._client: round_index}, self._like)
