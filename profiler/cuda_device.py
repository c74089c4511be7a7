"""An NVIDIA GPU as a device: Triton kernels and torch operators, and its board's energy by NVML.

    run(loops)   conditions ─ synchronise ─┬─ launch ═ work ═ synchronise ─┬─ conditions
                                           └────────── active ────────────┘

A kernel's ``threads`` are multiprocessors, each with one program. A look at the conditions on both sides
tells what held the clock down in between: heat or the hardware itself makes a run not count; the power limit
is noted, since work that reaches it reaches it always.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Literal, Protocol

from calibration_data import MemoryHierarchy, UsageError
from profiler.clock import Clock, MonotonicClock
from profiler.cuda_properties import cuda_dtypes, cuda_memory, cuda_versions, nvml_index
from profiler.device import Execution, Kernel
from profiler.duty import SlicedRuns, slice_seconds
from profiler.microbenchmark import Microbenchmark
from profiler.network_work import NETWORK_KERNELS
from profiler.sensors.base import Sensor
from profiler.sensors.nvml import NvmlSensor, started_nvml
from profiler.sensors.nvml_conditions import GpuConditions, gpu_conditions
from profiler.workloads.cuda_work import cuda_work_per_loop
from profiler.workloads.idle import IdleKernel

LONGEST_SLICE_S = 2.5e-3
"""Of a duty cycle: many slices in the 25 of each 100 ms that the sensor of a data-centre board sees (arXiv
2312.02741), which no counter tells."""

NOT_WRITTEN = frozenset({"chase", "matmul", "compaction"})
"""Kernels that only CPUs have; a GPU's plan is without them."""

LOST_TO = frozenset({"heat", "heat (hardware)", "hardware slowdown", "power brake", "board limit"})
"""What makes a run not count."""


class Gpu(Protocol):
    """What runs on a GPU, and what it says of itself."""

    def loop(self, benchmark: Microbenchmark, memory: MemoryHierarchy) -> Callable[[int], Any]:
        """A function of a number of loops, with its data allocated."""
        ...

    def synchronize(self) -> None:
        """Wait until everything that was launched is done."""
        ...

    def free(self) -> None:
        """Give memory back that no kernel uses."""
        ...

    def conditions(self) -> GpuConditions:
        """State that can change."""
        ...

    def versions(self) -> dict[str, str]:
        """Of driver, CUDA, torch and Triton."""
        ...


def open_cuda_device(index: int) -> CudaDevice:
    """Open a GPU by torch's number of it.

    Raises:
        UsageError: torch sees no such GPU, or Triton is missing.
        NoUsableSensorError: NVML does not tell its energy.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if index >= count:
        build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        raise UsageError(
            f"There is no GPU cuda:{index}: this PyTorch ({torch.__version__}, built with {build}) sees"
            f" {count} of them.",
            next_step="Run where an NVIDIA GPU, its driver and a CUDA build of PyTorch are installed, or"
            " profile a simulated GPU: --device sim:datacenter-gpu.",
        )
    if find_spec("triton") is None:
        raise UsageError(
            "The kernels of a GPU need Triton, which is not installed.", next_step="pip install triton"
        )
    properties = torch.cuda.get_device_properties(index)
    memory = cuda_memory(properties)
    nvml = started_nvml()
    try:
        number = nvml_index(nvml, str(properties.uuid))
    finally:
        nvml.nvmlShutdown()
    if number is None:
        raise UsageError(
            f"NVML shows no GPU with the identity of cuda:{index}, so its joules cannot be told.",
            next_step="Compare nvidia-smi -L with CUDA_VISIBLE_DEVICES; a slice of MIG has no counter.",
        )
    sensor = NvmlSensor(index=number)
    gpu = TorchGpu(index, sensor.gpus[0].nvml, sensor.gpus[0].handle)
    return CudaDevice(
        gpu,
        (sensor,),
        name=f"cuda:{index}",
        model_name=properties.name,
        memory=memory,
        dtypes=cuda_dtypes(properties),
    )


class TorchGpu:
    """A real GPU through torch, Triton and NVML."""

    def __init__(self, index: int, nvml: Any, handle: Any) -> None:
        import torch

        self._torch = torch
        self._index = index
        self._nvml = nvml
        self._handle = handle
        torch.cuda.set_device(index)

    def loop(self, benchmark: Microbenchmark, memory: MemoryHierarchy) -> Callable[[int], Any]:
        """Bind the kernel to data on this GPU."""
        from profiler.workloads.cuda_loops import make_loop

        return make_loop(benchmark, memory, where=f"cuda:{self._index}")

    def synchronize(self) -> None:
        """Wait for every stream."""
        self._torch.cuda.synchronize(self._index)

    def free(self) -> None:
        """Empty torch's cache of freed blocks."""
        self._torch.cuda.empty_cache()

    def conditions(self) -> GpuConditions:
        """By NVML."""
        return gpu_conditions(self._nvml, self._handle)

    def versions(self) -> dict[str, str]:
        """Of driver, CUDA, torch and Triton."""
        return cuda_versions(self._nvml, self._torch)


class CudaDevice:
    """The multiprocessors of one GPU.

    Args:
        gpu: runs the kernels.
        sensors: counters of its energy.
        name: ``cuda:0``.
        model_name: the maker's name of the board.
        memory: its levels, and the number of multiprocessors.
        dtypes: that its units do.
        clock: the clock of the sensors.
    """

    kind: Literal["cpu", "cuda", "simulated"] = "cuda"
    provenance: Literal["measured", "simulated"] = "measured"

    def __init__(
        self,
        gpu: Gpu,
        sensors: Sequence[Sensor],
        *,
        name: str,
        model_name: str,
        memory: MemoryHierarchy,
        dtypes: frozenset[str],
        clock: Clock | None = None,
    ) -> None:
        self.gpu = gpu
        self.sensors = tuple(sensors)
        self.name = name
        self.model_name = model_name
        self.memory = memory
        self.dtypes = dtypes
        self.clock = clock or MonotonicClock()
        self._versions = gpu.versions()
        self._slowed_by: dict[str, None] = {}

    def supports(self, benchmark: Microbenchmark) -> bool:
        """Whether there are enough multiprocessors, the level, the type in hardware, and a kernel.

        Torch's operators take the whole GPU, so networks run on all multiprocessors or not at all.
        """
        vector_only = benchmark.kernel == "intensity" and benchmark.dtype not in ("fp32", "fp64")
        return (
            benchmark.threads <= self.memory.cores
            and (benchmark.level is None or benchmark.level in self.memory.levels)
            and (benchmark.kernel not in ("fma", "intensity") or benchmark.dtype in self.dtypes)
            and not (vector_only or benchmark.kernel in NOT_WRITTEN)
            and (benchmark.kernel not in NETWORK_KERNELS or benchmark.threads == self.memory.cores)
        )

    def prepare(self, benchmark: Microbenchmark) -> Kernel:
        """Allocate, compile, run one loop, and look at the code of what runs as one kernel.

        Raises:
            GeneratedPtxError: the compiled kernel does not do the work that is counted.
            UsageError: the device does not support it, or the working set has no equal shares.
        """
        if not self.supports(benchmark):
            raise UsageError(
                f"{self.model_name} cannot run {benchmark.point}.",
                next_step=f"It has {self.memory.cores} multiprocessors, the levels"
                f" {', '.join(self.memory.levels)} and the types {', '.join(sorted(self.dtypes))};"
                " networks run on all multiprocessors.",
            )
        if benchmark.kernel == "idle":
            return IdleKernel(self.clock)
        kernel = CudaKernel(self, benchmark)
        try:
            kernel.check()
        except BaseException:
            kernel.close()
            raise
        return kernel

    def idle(self, seconds: float) -> None:
        """Do nothing for that long."""
        self.clock.sleep(seconds)

    def conditions(self) -> dict[str, str]:
        """Clock, temperature, limit and versions, and what has held the clock down since the last call."""
        now = self.gpu.conditions()
        found = {
            "sm_clock_mhz": now.sm_clock_mhz,
            "temperature_c": now.temperature_c,
            "power_limit_w": now.power_limit_w,
            "slowed_by": ", ".join(self._slowed_by) or "nothing",
        }
        self._slowed_by = {}
        shown = {name: str(value) for name, value in found.items() if value is not None}
        return {**shown, **self._versions, "generated_code": "checked"}

    def close(self) -> None:
        """Release the sensors."""
        for sensor in self.sensors:
            sensor.close()

    def lost_between(self, before: GpuConditions, after: GpuConditions) -> bool:
        """Whether what held the clock down in between makes a run not count; all of it is remembered."""
        reasons = after.slowed_since(before)
        self._slowed_by.update(dict.fromkeys(reasons))
        return not LOST_TO.isdisjoint(reasons)


class CudaKernel:
    """A microbenchmark on a GPU."""

    def __init__(self, device: CudaDevice, benchmark: Microbenchmark) -> None:
        self.work_per_loop = cuda_work_per_loop(benchmark, device.memory)
        self._device = device
        self._benchmark = benchmark
        self._loop: Callable[[int], Any] | None = device.gpu.loop(benchmark, device.memory)
        # An empty kernel holds a multiprocessor too briefly to count: its cost contains that.
        self._busy_cores = 0 if benchmark.kernel == "launch" else benchmark.threads
        self._run: Callable[[int], Execution] = self._run_at_once
        if benchmark.duty < 1:
            slice_s = min(LONGEST_SLICE_S, slice_seconds(device.sensors))
            self._run = SlicedRuns(
                self._run_at_once, duty=benchmark.duty, slice_s=slice_s, clock=device.clock
            )

    def check(self) -> None:
        """Run one loop, which compiles it, and look at the code.

        Raises:
            GeneratedPtxError: the compiled kernel does not do the work that is counted.
        """
        from profiler.workloads.ptx import check_ptx

        compiled = self._launched(1)
        self._device.gpu.synchronize()
        if compiled is not None:
            check_ptx(self._benchmark, compiled.asm["ptx"])

    def run(self, loops: int) -> Execution:
        """Run that many loops, duty cycle included."""
        before = self._device.gpu.conditions()
        execution = self._run(loops)
        lost = self._device.lost_between(before, self._device.gpu.conditions())
        return Execution(active_s=execution.active_s, busy_core_s=execution.busy_core_s, throttled=lost)

    def close(self) -> None:
        """Free the data."""
        self._loop = None
        self._device.gpu.free()

    def _run_at_once(self, loops: int) -> Execution:
        clock = self._device.clock
        self._device.gpu.synchronize()
        began_ns = clock.now_ns()
        self._launched(loops)
        self._device.gpu.synchronize()
        active_s = (clock.now_ns() - began_ns) * 1e-9
        return Execution(active_s=active_s, busy_core_s=active_s * self._busy_cores)

    def _launched(self, loops: int) -> Any:
        if self._loop is None:
            raise ValueError("the kernel is closed")
        return self._loop(loops)
