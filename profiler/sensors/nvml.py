"""GPU energy through NVML (the ``pynvml`` module of nvidia-ml-py).

A GPU with an energy counter is read by it; one without, such as a Tegra or a virtual GPU, by integrating its
power. The numbers are the whole board's, also where the GPU is split (MIG), and on a GH200 may be the whole
module's; ``notes`` says so where it is so.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from calibration_data import CounterSpec
from profiler.clock import Clock, MonotonicClock
from profiler.errors import SensorMissingError, SensorPermissionError, SensorReadError
from profiler.sensors.base import Reading
from profiler.sensors.left_out import LeftOut
from profiler.sensors.nvml_gpu import Gpu, find_gpu
from profiler.sensors.power_integral import POLL_PERIOD_S, integral_of


class NvmlSensor:
    """NVIDIA GPUs whose energy can be told.

    Args:
        index: NVML's number of the one to read; None for all.
        clock: drives the poller of GPUs whose power is integrated; no poller runs where there are none.

    Attributes:
        gpus: the GPUs that are read.
        left_out: GPUs that tell neither energy nor power, with the driver's reason.
        notes: what the numbers contain or do not tell apart.

    Raises:
        SensorMissingError: no library, no driver, no GPU, or no GPU that tells energy or power.
        SensorPermissionError: the driver refuses this user.
    """

    def __init__(self, *, index: int | None = None, clock: Clock | None = None) -> None:
        self._nvml = started_nvml()
        self._open = True
        self._stop_polling: Callable[[], None] | None = None
        try:
            wanted = range(self._nvml.nvmlDeviceGetCount()) if index is None else (index,)
            found = [find_gpu(self._nvml, number) for number in wanted]
        except self._nvml.NVMLError as error:
            self.close()
            raise SensorMissingError(f"NVML cannot list the GPUs: {error}.") from error
        self.gpus = tuple(gpu for gpu in found if isinstance(gpu, Gpu))
        self.left_out = tuple(gpu for gpu in found if isinstance(gpu, LeftOut))
        self.notes = tuple(note for gpu in self.gpus for note in gpu.notes)
        if not self.gpus:
            self.close()
            reasons = "; ".join(f"{item.source}: {item.reason}" for item in self.left_out)
            raise SensorMissingError(
                f"No NVIDIA GPU with an energy counter or a power reading. {reasons}".rstrip(),
                next_step="Energy counters come with Volta and newer boards; a Jetson has rails under hwmon.",
            )
        self._integrals = {spec.domain: integral_of(spec) for spec in self.specs if spec.kind == "power"}
        if self._integrals:
            self._poll()
            self._stop_polling = (clock or MonotonicClock()).every(POLL_PERIOD_S, self._poll)

    @property
    def specs(self) -> tuple[CounterSpec, ...]:
        """One spec per domain: each GPU, and the memory of those that tell it apart."""
        return tuple(spec for gpu in self.gpus for spec in gpu.specs)

    def read(self) -> Reading:
        """All GPUs now; the time is the middle of the reads.

        Raises:
            SensorReadError: NVML returned an error, or integrated power has a gap.
        """
        energy_uj: dict[str, int] = {}
        started_ns = time.monotonic_ns()
        for gpu in self.gpus:
            # Also where there is no counter: then a tick is seen when it comes, not at the next poll.
            energy_mj = self._take(gpu)
            if gpu.has_counter:
                energy_uj[gpu.domain] = 1000 * energy_mj
            for domain in gpu.integrated:
                energy_uj[domain] = self._integrals[domain].energy_uj(time.monotonic_ns())
        ended_ns = time.monotonic_ns()
        return Reading(
            time_ns=(started_ns + ended_ns) // 2, energy_uj=energy_uj, read_ns=ended_ns - started_ns
        )

    def close(self) -> None:
        """Stop the poller and give NVML back; a second call does nothing."""
        if self._stop_polling is not None:
            self._stop_polling()
            self._stop_polling = None
        if self._open:
            self._open = False
            self._nvml.nvmlShutdown()

    def _take(self, gpu: Gpu) -> int:
        """Sample a GPU and feed what is integrated; its counter in mJ, 0 where it has none."""
        sample = gpu.sample()
        for domain, power_mw in sample.power_mw.items():
            self._integrals[domain].add(sample.time_ns, 1000 * power_mw)
        return sample.energy_mj or 0

    def _poll(self) -> None:
        for gpu in self.gpus:
            if gpu.integrated:
                try:
                    self._take(gpu)
                except SensorReadError as error:
                    # Kept until the next read, which raises it.
                    for domain in gpu.integrated:
                        self._integrals[domain].fail(error)


def started_nvml() -> Any:
    """The pynvml module, with NVML initialised.

    Raises:
        SensorMissingError: no module, an old one, no library or no driver.
        SensorPermissionError: the driver refuses this user.
    """
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
