"""What travels with the app to server and nodes: one file beside the thin modules that import us.

    calijoule_app/settings.json      AppSettings
    calijoule_app/cost_model.json    the run's cost model

In a simulation the run's cost model, fleet and device stand for those of the clients, which have none of
their own. On real nodes each has its own, and names it in its node config.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat

from calibration_data.files import read_model
from cwmp.config import TrainingConfig
from profiler.sensors import POWERCAP_ROOT

SETTINGS = "settings.json"
COST_MODEL = "cost_model.json"

MAX_SETTINGS_BYTES = 1_000_000

Name = Annotated[str, Field(max_length=4000)]


class AppSettings(BaseModel):
    """A run as the app knows it.

    Attributes:
        config: the settings of the training, the same as on any engine.
        out: folder of the run on the server's machine, absolute.
        resume: go on with the run in that folder.
        round_timeout_s: how long the server waits for the answers of a round, and for nodes.
        simulation: clients run on this machine and share the run's cost model, fleet and device.
        directory: where a simulation was started; relative paths in the settings begin there.
        device: name of the device that accounts the joules of a simulation; None predicts only.
        powercap_root: root of its RAPL tree.
        failure: where a simulation leaves the error that ended it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    config: TrainingConfig
    out: Name
    resume: bool
    round_timeout_s: PositiveFloat
    simulation: bool = False
    directory: Name | None = None
    device: Name | None = None
    powercap_root: Name = str(POWERCAP_ROOT)
    failure: Name | None = None


def read_settings(folder: Path) -> AppSettings:
    """The settings beside the app's modules.

    Raises:
        InvalidFileError: they are missing or broken.
    """
    return read_model(folder / SETTINGS, AppSettings, limit_bytes=MAX_SETTINGS_BYTES)
