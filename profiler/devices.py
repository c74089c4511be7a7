"""Opens a device by the name that a user gives: ``cpu``, ``cuda:N``, ``sim:NAME`` or ``sim:FILE.json``."""

from __future__ import annotations

import re
from pathlib import Path

from calibration_data import UsageError
from profiler.device import Device
from profiler.sensors import POWERCAP_ROOT, open_sensors


def open_device(name: str, *, powercap_root: Path = POWERCAP_ROOT, seed: int = 0) -> Device:
    """Open a device with its sensors.

    Args:
        name: ``cpu``, ``cuda:0``, ``sim:NAME`` of a shipped simulated device, or ``sim:FILE.json``.
        powercap_root: root of the RAPL tree; containers mount the host's elsewhere.
        seed: of a simulated device's noise; other devices bring their own.

    Raises:
        UsageError: no device has such a name.
        NoUsableSensorError: the device exists and nothing here can measure it.
        InvalidFileError: the simulated device's file breaks its schema.
    """
    if name.startswith("sim:"):
        from profiler.simulated_device import SimulatedDevice
        from profiler.simulated_spec import load_spec

        return SimulatedDevice(load_spec(name.removeprefix("sim:")), name=name, seed=seed)
    if name == "cpu":
        from profiler.cpu_device import CpuDevice

        return CpuDevice(open_sensors(powercap_root=powercap_root, gpus=False))
    if re.fullmatch(r"cuda(:\d{1,4})?", name, re.ASCII):
        from profiler.cuda_device import open_cuda_device

        return open_cuda_device(int(name.partition(":")[2] or 0))
    raise UsageError(
        f"There is no device {name!r}.",
        next_step="Give cpu, cuda:0, sim:NAME or sim:FILE.json; see: calijoule devices.",
    )
