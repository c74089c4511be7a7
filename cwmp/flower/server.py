"""The ServerApp: the round loop of every engine, with one that sends its tasks over Flower."""

from __future__ import annotations

import os
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from calibration_data import CalijouleError
from calibration_data.files import alone_in
from cost_models import load_cost_model
from cwmp.flower.engine import FlowerEngine
from cwmp.flower.failure import write_failure
from cwmp.flower.settings import COST_MODEL, AppSettings, read_settings
from cwmp.training.round_record import RoundReport
from cwmp.training.run import train
from profiler.devices import open_device


def server_app(folder: Path) -> ServerApp:
    """The ServerApp of a run.

    Args:
        folder: of the app's modules and settings.
    """
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        settings = read_settings(folder)
        try:
            _train(folder, settings, grid)
        except CalijouleError as error:
            if settings.failure is not None:
                write_failure(Path(settings.failure), error)
            raise

    return app


def _train(folder: Path, settings: AppSettings, grid: Grid) -> None:
    if settings.directory is not None:
        os.chdir(settings.directory)
    device = None
    if settings.device is not None:
        device = open_device(settings.device, powercap_root=Path(settings.powercap_root))
    out = Path(settings.out)
    # A server can outlive its SuperLink, and go on when that is back.
    with alone_in(
        out,
        other="Another server is at work",
        next_step="Wait for it, or end it: flwr list, flwr stop.",
    ):
        train(
            settings.config,
            load_cost_model(folder / COST_MODEL),
            out,
            device=device,
            engine=FlowerEngine(grid, out, round_timeout_s=settings.round_timeout_s),
            resume=settings.resume,
            on_round=_say,
        )


def _say(report: RoundReport) -> None:
    """Flower carries what its apps print to whoever follows the run."""
    print(f"{report.progress}, {len(report.clients)} updates", flush=True)
    for dropped in report.dropped:
        print(f"round {report.round}: client {dropped.client} left out: {dropped.reason}", flush=True)
