"""Starting Flower from the command line, and what the user is told when that cannot be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from fakes.known_costs import known_cost_model
from typer.testing import CliRunner

from calibration_data import UsageError
from cost_models import load_cost_model, save_cost_model
from cwmp.__main__ import app as calijoule
from cwmp.config import training_config
from cwmp.flower import launch, train
from cwmp.flower.failure import Failure, write_failure
from cwmp.flower.settings import COST_MODEL, AppSettings, read_settings

MODEL = known_cost_model()
CONFIG = training_config(dataset="synthetic", clients=2, rounds=1, selector="dense")


@pytest.mark.parametrize("missing", ["flwr", "ray"])
def test_a_missing_extra_is_called_by_its_name(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str) -> ModuleSpec | None:
        return None if name == missing else ModuleSpec(name, None)

    monkeypatch.setattr(launch, "find_spec", find)
    with pytest.raises(UsageError, match="needs the extra flower") as caught:
        launch.check_installed(simulation=True)
    assert missing in caught.value.message
    assert caught.value.next_step == "In the checkout: pip install -c constraints.txt '.[flower]'"


def test_the_app_carries_names_settings_and_costs_and_depends_on_nothing(tmp_path: Path) -> None:
    settings = AppSettings(config=CONFIG, out=str(tmp_path / "run"), resume=True, round_timeout_s=9)
    app = train.write_app(tmp_path / "app", settings, MODEL)
    assert read_settings(app / train.MODULE) == settings
    assert load_cost_model(app / train.MODULE / COST_MODEL).document == MODEL.document
    assert "dependencies = []" in (app / "pyproject.toml").read_text()
    assert sorted(path.name for path in app.rglob("*.py")) == ["__init__.py", "client.py", "server.py"]
    assert all(len(path.read_text().splitlines()) < 10 for path in app.rglob("*.py"))


def train_command(tmp_path: Path, *options: str) -> Any:
    save_cost_model(tmp_path / "model.json", MODEL)
    fixed = ["--cost-model", str(tmp_path / "model.json"), "--out", str(tmp_path / "run"), "--device", "none"]
    settings = ["--set", "dataset=synthetic", "--set", "clients=2", "--selector", "dense", "--rounds", "1"]
    return CliRunner().invoke(calijoule, ["train", *fixed, *settings, *options], catch_exceptions=True)


def test_an_error_on_the_server_is_the_commands_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(app: Path, home: Path, **_: Any) -> None:
        settings = read_settings(app / train.MODULE)
        assert settings.failure is not None
        assert settings.simulation
        assert Path(settings.out) == tmp_path / "run"
        write_failure(Path(settings.failure), UsageError("It is full.", next_step="Choose another folder."))

    monkeypatch.setattr(train, "simulate", simulate)
    monkeypatch.setattr(train, "check_installed", lambda simulation: None)
    result = train_command(tmp_path, "--engine", "flower")
    assert str(result.exception) == "It is full. Choose another folder."
    assert result.exception.exit_code == 2


def test_a_run_that_stops_early_is_said_to_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "simulate", lambda *args, **kwargs: None)
    monkeypatch.setattr(train, "check_installed", lambda simulation: None)
    result = train_command(tmp_path, "--engine", "flower")
    assert "ended before its last round" in str(result.exception)


def test_real_nodes_have_models_of_their_own_and_no_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployed: list[tuple[AppSettings, str]] = []
    monkeypatch.setattr(
        train,
        "deploy",
        lambda app, connection, **_: deployed.append((read_settings(app / train.MODULE), connection)),
    )
    monkeypatch.setattr(train, "check_installed", lambda simulation: None)
    result = train_command(tmp_path, "--engine", "flower", "--superlink", "ours", "--round-timeout-s", "7")
    assert result.exit_code == 0, result.exception
    ((settings, connection),) = deployed
    assert (settings.simulation, settings.round_timeout_s, connection) == (False, 7, "ours")
    refused = train_command(
        tmp_path, "--engine", "flower", "--superlink", "ours", "--set", "fleet=boards.toml"
    )
    assert "A fleet file describes clients that are simulated" in str(refused.exception)


def test_a_superlink_is_flowers(tmp_path: Path) -> None:
    assert "--superlink is for --engine flower" in str(train_command(tmp_path, "--superlink", "x").exception)


def test_a_failure_file_is_bounded_like_any_other() -> None:
    with pytest.raises(ValueError, match="exit_code"):
        Failure.model_validate(json.loads('{"message": "", "next_step": "", "exit_code": 0}'))


def test_a_superlink_that_does_not_start_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "flower-superlink").write_text("#!/bin/sh\necho no such flag >&2\nexit 2\n")
    (programs / "flower-superlink").chmod(0o755)
    monkeypatch.setattr(launch.sys, "executable", str(programs / "python"))
    with pytest.raises(launch.FlowerError, match="did not start: no such flag"):
        launch.simulate(tmp_path, tmp_path, clients=1, at_once=1, say=print)


DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(flush=True)
time.sleep(60)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", {DEAF!r}], start_new_session=True, stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""


def test_whatever_was_started_is_ended() -> None:
    """A child in a session of its own, which does not care for SIGTERM."""
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert launch.lives(child)
        launch.end(parent, patience_s=0.3)
        assert parent.returncode == -signal.SIGTERM
    assert not launch.lives(child)
