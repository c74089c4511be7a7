"""``calijoule profile``: the schedule before anything is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from calibration_data import UsageError
from cwmp.__main__ import app


def test_a_dry_run_tells_the_minutes_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["profile", "--device", "sim:server-cpu", "--dry-run"]
    shown = CliRunner().invoke(app, [*arguments, "--plan", "full"])
    assert shown.exit_code == 0
    assert "configurations, about" in shown.stderr
    for family in ("load", "store", "fma", "launch", "training-step"):
        assert family in shown.stdout
    quick, full = (
        json.loads(CliRunner().invoke(app, [*arguments, "--plan", plan, "--json"]).stdout)
        for plan in ("quick", "full")
    )
    assert 0 < quick["expected_s"] <= quick["longest_s"] <= 600
    assert quick["expected_s"] < full["expected_s"] <= full["longest_s"] <= 75 * 60
    assert not list(tmp_path.iterdir())


def test_records_need_a_file() -> None:
    result = CliRunner().invoke(app, ["profile", "--device", "sim:server-cpu"])
    assert isinstance(result.exception, UsageError)
