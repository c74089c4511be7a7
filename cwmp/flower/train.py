"""Training on Flower from the command line: writes the app, has it run, and reads what came out."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from calibration_data import UsageError
from calibration_data.files import write_whole
from cost_models import CostModel, save_cost_model
from cwmp.config import TrainingConfig
from cwmp.flower.failure import read_failure
from cwmp.flower.launch import FlowerError, check_installed, deploy, simulate
from cwmp.flower.settings import COST_MODEL, SETTINGS, AppSettings
from cwmp.training.run_files import SUMMARY, read_summary
from cwmp.training.run_record import RunReport
from profiler.sensors import POWERCAP_ROOT

APP = Path(__file__).parent / "app"
MODULE = "calijoule_app"


def train_simulated(
    config: TrainingConfig,
    cost_model: CostModel,
    out: Path,
    *,
    device: str | None = None,
    powercap_root: Path = POWERCAP_ROOT,
    at_once: int = 1,
    round_timeout_s: float = 86_400.0,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> RunReport:
    """Run federated training in Flower's simulation: what ``train`` does, with the same arguments.

    Args:
        config: the settings.
        cost_model: costs of elementary operations on the clients' device.
        out: folder of the run.
        device: name of the device that accounts the joules; None predicts only.
        powercap_root: root of its RAPL tree.
        at_once: clients that may work at the same time; measured ones wait for each other in any case.
        round_timeout_s: how long the server waits for the answers of a round.
        resume: go on with an interrupted run.
        say: gets what Flower prints, line by line.

    Raises:
        CalijouleError: as ``train``, or the extra is missing, or a program of Flower's failed.
    """
    check_installed(simulation=True)
    with tempfile.TemporaryDirectory(prefix="calijoule-flower-") as folder:
        home = Path(folder) / "home"
        home.mkdir()
        settings = AppSettings(
            config=config,
            out=str(out.absolute()),
            resume=resume,
            round_timeout_s=round_timeout_s,
            simulation=True,
            directory=str(Path.cwd()),
            device=device,
            powercap_root=str(powercap_root.absolute()),
            failure=str(Path(folder) / "failure.json"),
        )
        app = write_app(Path(folder) / "app", settings, cost_model)
        error = None
        try:
            simulate(app, home, clients=config.clients, at_once=at_once, say=say)
        except FlowerError as caught:
            error = caught
        return _result(out, Path(folder) / "failure.json", error)


def train_deployed(
    config: TrainingConfig,
    cost_model: CostModel,
    out: Path,
    connection: str,
    *,
    round_timeout_s: float = 600.0,
    resume: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Run federated training on the nodes of a SuperLink; the run's folder is on its machine.

    Args:
        config: the settings.
        cost_model: of the server's own predictions; every node chooses by its own.
        out: folder of the run there, absolute.
        connection: name of the SuperLink in Flower's config.toml.
        round_timeout_s: how long the server waits for the answers of a round.
        resume: go on with an interrupted run.
        say: gets what Flower prints, line by line.

    Raises:
        UsageError: a fleet file is given, or the extra is missing.
        FlowerError: a program of Flower's failed.
    """
    check_installed(simulation=False)
    if config.fleet is not None:
        raise UsageError(
            "A fleet file describes clients that are simulated.",
            next_step="Give each node its own cost-model and budget in its node config.",
        )
    settings = AppSettings(
        config=config, out=str(out.absolute()), resume=resume, round_timeout_s=round_timeout_s
    )
    with tempfile.TemporaryDirectory(prefix="calijoule-flower-") as folder:
        deploy(write_app(Path(folder) / "app", settings, cost_model), connection, say=say)


def write_app(folder: Path, settings: AppSettings, cost_model: CostModel) -> Path:
    """Write the app that Flower carries: our thin modules, the settings, and the cost model.

    Returns:
        The folder.
    """
    shutil.copytree(APP, folder, ignore=shutil.ignore_patterns("__pycache__"))
    write_whole(folder / MODULE / SETTINGS, settings.model_dump_json())
    save_cost_model(folder / MODULE / COST_MODEL, cost_model)
    return folder


def _result(out: Path, failure: Path, error: FlowerError | None) -> RunReport:
    if failure.exists():
        raise read_failure(failure)
    if error is not None:
        raise error
    if not (out / SUMMARY).exists():
        raise FlowerError(
            "The run ended before its last round.",
            next_step="Look at what Flower printed, and go on with it: --resume.",
        )
    return read_summary(out / SUMMARY)
