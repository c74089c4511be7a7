"""GPU energy counters through NVML (the ``pynvml`` module of nvidia-ml-py).

Whether a GPU has the counter is asked of the GPU, not inferred from its architecture: a Tegra or a virtual
GPU has NVML and no counter. The counter is the whole board's, also where the GPU is split (MIG), and on a
GH200 it is the whole module's.
"""

from __future__ import annotations

import time
from typing import Any

from calibration_data import CounterSpec
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.sensors.base import Reading
from profiler.sensors.left_out import LeftOut

NVML_UPDATE_PERIOD_S = 0.1
"""About 100 ms on present GPUs (arXiv 2312.02741; 20 ms on Volta), so the longest is assumed."""

NVML_RESOLUTION_UJ = 1000.0
"""NVML counts millijoules (nvmlDeviceGetTotalEnergyConsumption)."""


class NvmlSensor:
    """Total-energy counters of all NVIDIA GPUs that have one.

    Attributes:
        left_out: GPUs without a counter, with the driver's reason.

    Raises:
        SensorMissingError: no library, no driver, no GPU, or no GPU with an energy counter.
        SensorPermissionError: the driver refuses this user.
    """

    def __init__(self) -> None:
        self._nvml = _started_nvml()
        self._open = True
        try:
            self._handles, self._specs, self.left_out = _probe(self._nvml)
        except self._nvml.NVMLError as error:
            self.close()
            raise SensorMissingError(f"NVML cannot list the GPUs: {error}.") from error
        if not self._specs:
            self.close()
            reasons = "; ".join(f"{item.source}: {item.reason}" for item in self.left_out)
            raise SensorMissingError(
                f"No NVIDIA GPU with an energy counter. {reasons}".rstrip(),
                next_step="Energy counters come with Volta and newer boards; Tegra has none.",
            )

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per GPU with a counter."""
        return self._specs

    def read(self) -> Reading:
        """All GPUs now; the time is the middle of the reads.

        Raises:
            SensorReadError: NVML returned an error.
        """
        started_ns = time.monotonic_ns()
        try:
            energy_uj = {
                domain: 1000 * self._nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
                for domain, handle in self._handles.items()
            }
        except self._nvml.NVMLError as error:
            raise SensorReadError(f"NVML could not read the energy of a GPU: {error}.") from error
        return Reading(time_ns=(started_ns + time.monotonic_ns()) // 2, energy_uj=energy_uj)

    def close(self) -> None:
        """Give NVML back; a second call does nothing."""
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()


def _started_nvml() -> Any:
    """The pynvml module, with NVML initialised."""
    try:
        import pynvml
    except ImportError as error:
        raise SensorMissingError(
            "The Python package nvidia-ml-py is not installed.", next_step="pip install nvidia-ml-py"
        ) from error
    if not hasattr(pynvml, "NVML_POWER_SCOPE_GPU"):
        raise SensorMissingError(
            "An old pynvml package shadows nvidia-ml-py (both install a module named pynvml).",
            next_step="pip uninstall -y pynvml nvidia-ml-py && pip install nvidia-ml-py",
        )
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_NoPermission as error:
        raise SensorPermissionError(
            f"NVML refuses this user: {error}.",
            next_step="Give your group access to /dev/nvidiactl and /dev/nvidia*.",
        ) from error
    except pynvml.NVMLError as error:
        raise SensorMissingError(
            f"NVML cannot be started: {error}.",
            next_step="GPUs are measured where an NVIDIA GPU and its driver are installed.",
        ) from error
    return pynvml


def _probe(nvml: Any) -> tuple[dict[str, Any], tuple[CounterSpec, ...], tuple[LeftOut, ...]]:
    """Handles and specs of the GPUs that answer, and why the others do not."""
    handles: dict[str, Any] = {}
    specs: list[CounterSpec] = []
    left_out: list[LeftOut] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        except nvml.NVMLError as error:
            left_out.append(LeftOut(source=f"gpu-{index}", reason=f"its energy counter answers: {error}"))
            continue
        domain = f"gpu-{index}"
        handles[domain] = handle
        specs.append(
            CounterSpec(
                domain=domain,
                interface="nvml",
                source=f"nvmlDeviceGetTotalEnergyConsumption of GPU {index}, {name}",
                resolution_uj=NVML_RESOLUTION_UJ,
                update_period_s=NVML_UPDATE_PERIOD_S,
            )
        )
    return handles, tuple(specs), tuple(left_out)
