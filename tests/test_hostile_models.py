"""Hostile cost models before every command that reads one: taken as valid, or refused in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
PEAK_MB = 500


def reports(folder: Path, *options: str) -> list[dict[str, Any]]:
    """What every command did with every case, all in one process whose memory is watched."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-m", "fakes.hostile_models", str(folder), *options]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize(
    "options", [("25", "3"), pytest.param(("500", "11", "heavy"), marks=pytest.mark.slow)], ids=["few", "500"]
)
def test_every_file_is_valid_or_refused_in_one_line(options: tuple[str, ...], tmp_path: Path) -> None:
    found = reports(tmp_path, *options)
    codes: dict[str, set[int]] = defaultdict(set)
    for report in found:
        told = f"{report['case']}: {report['arguments'][0]}"
        assert not report["escaped"], told
        assert "\x1b" not in report["out"] + report["err"], told
        if report["code"] == 0:
            assert report["err"] == "", told
        else:
            (line,) = report["err"].splitlines()
            assert line.startswith("Error: "), told
            assert len(line) < 2500, told
        codes[report["case"]].add(report["code"])
    # Refused as a file by one command is refused by all; 2: read, but it lacks what the command needs.
    assert {frozenset(seen) for seen in codes.values()} <= {
        frozenset(seen) for seen in ({0}, {0, 2}, {2}, {4})
    }
    assert len(codes) > int(options[0])
    assert sum(0 in seen for seen in codes.values()) > int(options[0]) / 20
    assert max(report["peak_mb"] for report in found) < PEAK_MB
