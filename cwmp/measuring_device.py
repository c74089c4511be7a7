"""Whose sensors see the phases of training: chosen by name, or the device that the cost model describes."""

from __future__ import annotations

from pathlib import Path

from calibration_data import NoUsableSensorError, UsageError
from cost_models import CostModel
from profiler.device import Device
from profiler.devices import open_device


def find_device(name: str, model: CostModel, *, powercap_root: Path) -> Device | str:
    """Open the device, or say why there is none.

    Args:
        name: ``none``, ``auto`` for the device of the cost model, or as for ``open_device``.
        model: costs of elementary operations.
        powercap_root: root of the RAPL tree.

    Raises:
        UsageError: no device has such a name.
        NoUsableSensorError: a device that was named cannot be measured here.
        InvalidFileError: a simulated device's file breaks its schema.
    """
    if name == "none":
        return "no device was asked for"
    if name != "auto":
        return open_device(name, powercap_root=powercap_root)
    if model.device is None or model.provenance == "literature":
        return "the cost model is of no device here."
    try:
        return open_device(model.device.device, powercap_root=powercap_root)
    except (NoUsableSensorError, UsageError) as error:
        return error.message
