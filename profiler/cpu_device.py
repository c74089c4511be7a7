"""The CPU as a device: compiled kernels on pinned threads, and the sensors of its package.

A duty cycle below 1 runs in slices (``profiler.duty``), each followed by sleep until the fraction is met.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from calibration_data import UsageError
from profiler.cache_sizes import read_cpu_caches
from profiler.clock import Clock, MonotonicClock
from profiler.cpu_conditions import PROC_ROOT, SYS_ROOT, cpu_conditions, cpu_model_name, throttle_events
from profiler.device import Execution, Kernel
from profiler.duty import SlicedRuns, slice_seconds
from profiler.microbenchmark import Microbenchmark, work_per_loop
from profiler.sensors.base import Sensor
from profiler.sparse_work import ring_chunks
from profiler.workloads.cpu_loops import FLOAT_TYPES, make_loop
from profiler.workloads.generated_code import CHECKABLE, check_code
from profiler.workloads.idle import IdleKernel
from profiler.workloads.threads import PinnedThreads


class CpuDevice:
    """The cores of this machine that this process may use, as far as they are alike.

    Args:
        sensors: counters that contain the energy of these cores.
        clock: the clock of the sensors.
        sys_root: where sysfs is mounted.
        proc_root: where procfs is mounted.

    Raises:
        UsageError: the machine does not show its cache sizes.
    """

    name = "cpu"
    kind: Literal["cpu", "cuda", "simulated"] = "cpu"
    provenance: Literal["measured", "simulated"] = "measured"

    def __init__(
        self,
        sensors: Sequence[Sensor],
        clock: Clock | None = None,
        *,
        sys_root: Path = SYS_ROOT,
        proc_root: Path = PROC_ROOT,
    ) -> None:
        caches = read_cpu_caches(sys_root / "devices/system/cpu")
        self.sensors = tuple(sensors)
        self.clock = clock or MonotonicClock()
        self.memory = caches.memory
        self.cpus = caches.cpus
        self.model_name = cpu_model_name(proc_root)
        self._sys_root = sys_root
        self._proc_root = proc_root

    def supports(self, benchmark: Microbenchmark) -> bool:
        """Whether there are enough cores, the memory level, and the dtype in hardware."""
        arithmetic = benchmark.kernel in ("fma", "intensity")
        return (
            benchmark.threads <= self.memory.cores
            and (benchmark.level is None or benchmark.level in self.memory.levels)
            and (not arithmetic or benchmark.dtype in FLOAT_TYPES)
            and (benchmark.kernel != "compaction" or ring_chunks(benchmark.density, self.memory) is not None)
        )

    def prepare(self, benchmark: Microbenchmark) -> Kernel:
        """Start the threads, let each allocate its share, compile, walk everything once, look at the code.

        Raises:
            GeneratedCodeError: the compiled kernel does not do the work that is counted.
            UsageError: the device does not support it, or the working set has no equal shares.
        """
        if not self.supports(benchmark):
            raise UsageError(
                f"{self.model_name} cannot run {benchmark.point}.",
                next_step=f"It has {self.memory.cores} cores, the levels {', '.join(self.memory.levels)} and"
                f" the types {', '.join(FLOAT_TYPES)}.",
            )
        if benchmark.kernel == "idle":
            return IdleKernel(self.clock)
        make = partial(make_loop, benchmark, self.memory)
        if benchmark.shared:
            loop = make(seed=0)
            threads = PinnedThreads(self.cpus[: benchmark.threads], lambda index: loop, self.clock)
        else:
            threads = PinnedThreads(
                self.cpus[: benchmark.threads], lambda index: make(seed=index), self.clock
            )
        kernel = CpuKernel(self, benchmark, threads)
        try:
            threads.run(1)
            check_code(benchmark)
        except BaseException:
            kernel.close()
            raise
        return kernel

    def idle(self, seconds: float) -> None:
        """Do nothing for that long."""
        self.clock.sleep(seconds)

    def conditions(self) -> dict[str, str]:
        """Governor, clocks, temperature and other users of the machine, as far as they can be read."""
        conditions = cpu_conditions(self.cpus, sys_root=self._sys_root, proc_root=self._proc_root)
        return {**conditions, "generated_code": "checked" if CHECKABLE else "not checked on this machine"}

    def throttle_events(self) -> int:
        """Times that the cores ran slower for heat since boot."""
        return throttle_events(self.cpus, sys_root=self._sys_root)

    def close(self) -> None:
        """Release the sensors."""
        for sensor in self.sensors:
            sensor.close()


class CpuKernel:
    """A microbenchmark on its threads."""

    def __init__(self, device: CpuDevice, benchmark: Microbenchmark, threads: PinnedThreads) -> None:
        self.work_per_loop = work_per_loop(benchmark, device.memory)
        self._device = device
        self._threads = threads
        self._run: Callable[[int], Execution] = threads.run
        if benchmark.duty < 1:
            self._run = SlicedRuns(
                threads.run,
                duty=benchmark.duty,
                slice_s=slice_seconds(device.sensors),
                clock=device.clock,
            )

    def run(self, loops: int) -> Execution:
        """Run that many loops on every thread, duty cycle included."""
        events = self._device.throttle_events()
        execution = self._run(loops)
        return Execution(
            active_s=execution.active_s,
            busy_core_s=execution.busy_core_s,
            throttled=self._device.throttle_events() > events,
        )

    def close(self) -> None:
        """Stop the threads and free the data."""
        self._threads.close()
