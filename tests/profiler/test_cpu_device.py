from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from fakes.cpu_tree import FakeCache, private_caches, write, write_caches

from calibration_data import MemoryHierarchy, UsageError, Work
from profiler.cpu_conditions import cpu_conditions, cpu_model_name, throttle_events
from profiler.cpu_device import CpuDevice, CpuKernel
from profiler.device import Device
from profiler.duty import LONGEST_SLICE_S
from profiler.microbenchmark import FMA_PER_LOOP, LAUNCHES_PER_LOOP, KernelName, Microbenchmark, work_per_loop
from profiler.sensors.base import Reading
from profiler.workloads import cpu_arithmetic, cpu_kernels
from profiler.workloads.cpu_data import random_operands
from profiler.workloads.cpu_loops import make_loop, share_bytes
from profiler.workloads.idle import IDLE_LOOP_S
from profiler.workloads.threads import PinnedThreads

CPUS = sorted(os.sched_getaffinity(0))
KIB = 1024
SHARES = {"triad": 24 * KIB, "sparse-update": 40 * KIB, "compaction": 40 * KIB}
DTYPES = {"triad": "fp64", **dict.fromkeys(("fma", "intensity", "sparse-update", "compaction"), "fp32")}
MEMORY = MemoryHierarchy(l1_bytes=32 * KIB, l2_bytes=256 * KIB, llc_bytes=1 << 20, line_bytes=64, cores=1)


class SteppingClock:
    """Time that moves by a microsecond with every look at it, by every sleep and by scripted work."""

    def __init__(self) -> None:
        self.time_ns = 0
        self.sleeps_s: list[float] = []
        self.lock = threading.Lock()

    def now_ns(self) -> int:
        with self.lock:
            self.time_ns += 1000
            return self.time_ns

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.work(seconds)
        self.sleeps_s.append(seconds)

    def work(self, seconds: float) -> None:
        with self.lock:
            self.time_ns += round(seconds * 1e9)

    def every(self, period_s: float, action: Callable[[], None]) -> Callable[[], None]:
        raise AssertionError("a device starts nothing that recurs")


@pytest.fixture
def sys_root(tmp_path: Path) -> Path:
    """A machine with the CPUs that this process may use, each a core, and small caches."""
    caches = [
        *private_caches([[cpu] for cpu in CPUS], l1="32K", l2="256K"),
        FakeCache(3, "Unified", "1024K", CPUS),
    ]
    write_caches(tmp_path / "sys/devices/system/cpu", caches)
    return tmp_path / "sys"


@pytest.fixture
def device(sys_root: Path, tmp_path: Path) -> Iterator[CpuDevice]:
    write(tmp_path / "proc/cpuinfo", "processor\t: 0\nmodel name\t: Test CPU 3000\ncpu MHz\t\t: 2600.5")
    device = CpuDevice([], sys_root=sys_root, proc_root=tmp_path / "proc")
    yield device
    device.close()


def benchmark(
    kernel: KernelName, *, threads: int = 1, level: str = "l1", **changes: object
) -> Microbenchmark:
    sized = kernel not in ("idle", "spin", "fma", "launch")
    point = Microbenchmark(
        point=f"{kernel}-t{threads}",
        family=kernel,
        kernel=kernel,
        threads=threads,
        level=level if sized else None,  # type: ignore[arg-type]
        working_set_bytes=SHARES.get(kernel, 16 * KIB) * threads if sized else None,
        dtype=DTYPES.get(kernel),
        fma_per_element=2 if kernel == "intensity" else 0,
        density=0.1,
    )
    return replace(point, **changes)  # type: ignore[arg-type]


def test_it_is_a_device(device: CpuDevice) -> None:
    protocol: Device = device
    assert (protocol.name, protocol.kind, protocol.provenance) == ("cpu", "cpu", "measured")
    assert protocol.model_name == "Test CPU 3000"
    assert protocol.memory.cores == len(CPUS)
    assert device.cpus == tuple(CPUS)


@pytest.mark.parametrize("threads", sorted({1, len(CPUS)}))
@pytest.mark.parametrize(
    "kernel",
    [
        "spin",
        "load",
        "store",
        "copy",
        "triad",
        "gather",
        "scatter",
        "chase",
        "fma",
        "intensity",
        "launch",
        "sparse-update",
        "compaction",
    ],
)
def test_every_kernel_runs(device: CpuDevice, kernel: KernelName, threads: int) -> None:
    point = benchmark(kernel, threads=threads)
    assert device.supports(point)
    prepared = device.prepare(point)
    try:
        execution = prepared.run(2)
    finally:
        prepared.close()
    assert prepared.work_per_loop == work_per_loop(point, device.memory)
    assert execution.active_s > 0
    assert 0 <= execution.busy_core_s <= threads * execution.active_s
    assert not execution.throttled


def test_idle_sleeps_and_keeps_nothing_awake(sys_root: Path) -> None:
    clock = SteppingClock()
    device = CpuDevice([], clock, sys_root=sys_root)
    kernel = device.prepare(benchmark("idle", threads=0))
    execution = kernel.run(50)
    kernel.close()
    assert (execution.active_s, execution.busy_core_s) == (0, 0)
    assert clock.sleeps_s == [pytest.approx(50 * IDLE_LOOP_S)]
    assert kernel.work_per_loop == Work()
    device.idle(2.0)
    assert clock.sleeps_s[1:] == [2.0]


def scripted_kernel(
    sys_root: Path, clock: SteppingClock, loop: Callable[[int], object], *, duty: float
) -> CpuKernel:
    """A kernel whose work is a function of the test."""
    device = CpuDevice([], clock, sys_root=sys_root)
    return CpuKernel(device, benchmark("spin", duty=duty), PinnedThreads(CPUS[:1], lambda _: loop, clock))


@pytest.mark.parametrize("duty", [0.25, 0.5, 0.75])
@pytest.mark.parametrize("loop_s", [1e-5, 1e-3, 0.1])
def test_a_duty_cycle_is_met_in_short_slices(sys_root: Path, duty: float, loop_s: float) -> None:
    clock = SteppingClock()
    kernel = scripted_kernel(sys_root, clock, lambda loops: clock.work(loops * loop_s), duty=duty)
    loops = max(20, round(1.0 / loop_s))
    began_ns = clock.time_ns
    execution = kernel.run(loops)
    elapsed_s = (clock.time_ns - began_ns) * 1e-9
    kernel.close()
    assert execution.active_s == pytest.approx(loops * loop_s, rel=1e-3), "all loops, and no pause"
    assert execution.active_s == pytest.approx(duty * elapsed_s, rel=1e-3)
    slice_s = max(LONGEST_SLICE_S, loop_s)
    assert len(clock.sleeps_s) == pytest.approx(execution.active_s / slice_s, rel=0.15, abs=3)
    assert max(clock.sleeps_s) <= 2.1 * slice_s * (1 / duty - 1)
    if loop_s < LONGEST_SLICE_S / 10:
        assert min(clock.sleeps_s[1:-1]) < 0.7 * max(clock.sleeps_s), "no rhythm that a sensor could follow"


def test_a_full_duty_never_sleeps(sys_root: Path) -> None:
    clock = SteppingClock()
    kernel = scripted_kernel(sys_root, clock, lambda loops: clock.work(loops * 0.1), duty=1)
    assert kernel.run(100).active_s == pytest.approx(10.0, rel=1e-3)
    kernel.close()
    assert clock.sleeps_s == []


@pytest.mark.parametrize(
    "changes",
    [
        {"threads": len(CPUS) + 1, "working_set_bytes": 16 * KIB * (len(CPUS) + 1)},
        {"level": "l4"},
        {"kernel": "fma", "dtype": "int8"},
        {"kernel": "fma", "dtype": None},
        {"kernel": "intensity", "dtype": "bf16"},
    ],
    ids=["too many threads", "no such level", "no such dtype", "no dtype", "no such dtype to load"],
)
def test_what_the_machine_lacks_is_refused(device: CpuDevice, changes: dict[str, object]) -> None:
    point = replace(benchmark("load"), **changes)  # type: ignore[arg-type]
    assert not device.supports(point)
    with pytest.raises(UsageError, match="cannot run") as caught:
        device.prepare(point)
    assert str(len(CPUS)) in caught.value.next_step


@pytest.mark.parametrize(
    ("kernel", "threads", "size"),
    [
        ("load", 1, 0),
        ("load", 1, 100),
        ("load", 3, 64 * 4),
        ("copy", 1, 64 * 3),
        ("gather", 1, 64 * 3),
        ("scatter", 2, 64 * 12),
        ("chase", 1, 64 * 3),
        ("triad", 1, 64 * 4),
        ("sparse-update", 1, 4 * 2560),
        ("compaction", 1, 64 * 1024),
    ],
)
def test_shares_that_cannot_be_counted_exactly_are_refused(
    kernel: KernelName, threads: int, size: int
) -> None:
    with pytest.raises(UsageError, match="counted exactly"):
        share_bytes(benchmark(kernel, threads=threads, working_set_bytes=size), MEMORY)


def test_shares_add_up_to_the_working_set() -> None:
    for threads, lines in [(1, 1), (3, 4), (7, 1024)]:
        point = benchmark("load", threads=threads, working_set_bytes=64 * lines * threads)
        assert share_bytes(point, MEMORY) * threads == point.working_set_bytes


def test_a_shared_working_set_is_walked_whole_by_every_thread(device: CpuDevice) -> None:
    point = benchmark("load", threads=len(CPUS), working_set_bytes=16 * KIB, shared=True)
    assert share_bytes(point, MEMORY) == 16 * KIB
    prepared = device.prepare(point)
    try:
        execution = prepared.run(2)
    finally:
        prepared.close()
    assert execution.active_s > 0
    assert prepared.work_per_loop["byte_l1"] == 16 * KIB * len(CPUS)


def test_threads_have_different_operands_and_the_same_thread_the_same() -> None:
    sums = [make_loop(benchmark("load"), MEMORY, seed=seed)(1) for seed in (0, 1, 0)]
    assert sums[0] == sums[2] != sums[1]


def test_one_loop_of_fma_is_as_many_steps_as_are_counted() -> None:
    state = random_operands(cpu_arithmetic.chain_elements(4), np.float32, seed=5, alignment=64)
    cpu_arithmetic.fma(state, 3 * FMA_PER_LOOP // state.size)
    looped = make_loop(benchmark("fma"), MEMORY, seed=5)(3)
    assert looped.tolist() == state.tolist()  # type: ignore[attr-defined]


def test_work_on_zeros_is_on_zeros(device: CpuDevice) -> None:
    """And what is counted is the same."""
    for kernel in ("load", "fma"):
        point = benchmark(kernel, data="zeros")  # type: ignore[arg-type]
        device.prepare(point).close()
        assert work_per_loop(point, MEMORY) == work_per_loop(benchmark(kernel), MEMORY)  # type: ignore[arg-type]
        assert not np.any(make_loop(point, MEMORY, seed=1)(2))


def test_a_chase_goes_on_where_it_stopped() -> None:
    at_once, twice = (make_loop(benchmark("chase"), MEMORY, seed=1) for _ in range(2))
    twice(2)
    assert at_once(5) == twice(3)


def test_launches_are_calls_of_a_compiled_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count()
    monkeypatch.setattr(cpu_kernels, "empty", lambda: next(calls))
    make_loop(benchmark("launch"), MEMORY, seed=0)(2)
    assert next(calls) == 2 * LAUNCHES_PER_LOOP


# Threads


def test_each_thread_is_made_once_and_stays_on_its_core() -> None:
    places: list[set[tuple[int, frozenset[int]]]] = [set() for _ in CPUS]

    def make_loop_of(index: int) -> Callable[[int], object]:
        def loop(loops: int) -> None:
            places[index].add((threading.get_ident(), frozenset(os.sched_getaffinity(0))))

        return loop

    threads = PinnedThreads(CPUS, make_loop_of, SteppingClock())
    for loops in range(3):
        threads.run(loops)
    threads.close()
    assert all(len(place) == 1 for place in places)
    assert [next(iter(place))[1] for place in places] == [frozenset({cpu}) for cpu in CPUS]
    assert sorted(os.sched_getaffinity(0)) == CPUS, "the caller is not pinned"


def test_every_thread_does_all_loops() -> None:
    done: list[tuple[int, int]] = []
    threads = PinnedThreads(CPUS, lambda index: lambda loops: done.append((index, loops)), SteppingClock())
    threads.run(7)
    threads.close()
    assert sorted(done) == [(index, 7) for index in range(len(CPUS))]


def test_active_is_from_the_first_start_to_the_last_end() -> None:
    clock = SteppingClock()
    threads = PinnedThreads(CPUS[:1], lambda index: lambda loops: clock.work(2.0), clock)
    assert threads.run(1).active_s == pytest.approx(2.0, abs=1e-3)
    threads.close()


def test_a_failing_loop_is_not_swallowed() -> None:
    def make_failing(index: int) -> Callable[[int], object]:
        def loop(loops: int) -> None:
            raise MemoryError("out of memory")

        return loop

    threads = PinnedThreads(CPUS[:1], make_failing, SteppingClock())
    with pytest.raises(MemoryError):
        threads.run(1)
    threads.close()


def test_threads_that_cannot_begin_are_stopped() -> None:
    before = threading.active_count()

    def make_failing(index: int) -> Callable[[int], object]:
        raise MemoryError("out of memory")

    with pytest.raises(MemoryError):
        PinnedThreads(CPUS, make_failing, SteppingClock())
    assert threading.active_count() == before


# Conditions


def test_conditions_are_read_where_the_machine_shows_them(tmp_path: Path) -> None:
    cpu_root = tmp_path / "sys/devices/system/cpu"
    for cpu, kilohertz in ((0, 2_000_000), (1, 3_500_000), (2, 9_000_000)):
        write(cpu_root / f"cpu{cpu}/cpufreq/scaling_governor", "performance")
        write(cpu_root / f"cpu{cpu}/cpufreq/scaling_cur_freq", str(kilohertz))
    write(cpu_root / "intel_pstate/no_turbo", "1")
    write(cpu_root / "smt/control", "on")
    write(tmp_path / "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never")
    write(tmp_path / "sys/class/hwmon/hwmon0/name", "nvme")
    write(tmp_path / "sys/class/hwmon/hwmon0/temp1_input", "99000")
    write(tmp_path / "sys/class/hwmon/hwmon1/name", "coretemp")
    write(tmp_path / "sys/class/hwmon/hwmon1/temp1_input", "54500")
    write(tmp_path / "proc/loadavg", "0.50 0.40 0.30 3/420 12345")
    assert cpu_conditions([0, 1], sys_root=tmp_path / "sys", proc_root=tmp_path / "proc") == {
        "governor": "performance",
        "frequency_mhz": "2000-3500",
        "turbo": "off",
        "smt": "on",
        "huge_pages": "madvise",
        "temperature_c": "54.5",
        "load_average_1min": "0.50",
        "other_running_tasks": "2",
    }


def test_conditions_that_are_missing_are_left_out(tmp_path: Path) -> None:
    assert cpu_conditions([0], sys_root=tmp_path, proc_root=tmp_path) == {}
    write(tmp_path / "cpuinfo", "cpu MHz\t: 2600.5\n\ncpu MHz\t: 2700.4")
    assert cpu_conditions([0], sys_root=tmp_path, proc_root=tmp_path) == {"frequency_mhz": "2600-2700"}


def test_the_model_name_is_the_makers(tmp_path: Path) -> None:
    assert cpu_model_name(tmp_path) == "unknown CPU"
    write(tmp_path / "cpuinfo", "processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t\t: Raspberry Pi 4 Model B")
    assert cpu_model_name(tmp_path) == "Raspberry Pi 4 Model B"
    write(tmp_path / "cpuinfo", "model\t\t: 17\nmodel name\t: AMD EPYC 9354\ncpu MHz\t: 3250.0")
    assert cpu_model_name(tmp_path) == "AMD EPYC 9354"


def test_a_run_in_which_the_cores_throttled_says_so(sys_root: Path) -> None:
    cpu_root = sys_root / "devices/system/cpu"
    core = cpu_root / f"cpu{CPUS[0]}/thermal_throttle/core_throttle_count"
    package = cpu_root / f"cpu{CPUS[0]}/thermal_throttle/package_throttle_count"
    write(core, "3")
    write(package, "4")
    assert throttle_events(CPUS, sys_root=sys_root) == 7

    counts = iter(["3", "5", "5"])
    kernel = scripted_kernel(sys_root, SteppingClock(), lambda loops: write(core, next(counts)), duty=1)
    assert [kernel.run(1).throttled for _ in range(3)] == [False, True, False]
    kernel.close()


def test_closing_releases_the_sensors(sys_root: Path) -> None:
    class ClosedSensor:
        specs = ()
        closed = False

        def read(self) -> Reading:
            return Reading(time_ns=0, energy_uj={})

        def close(self) -> None:
            self.closed = True

    sensor = ClosedSensor()
    CpuDevice([sensor], sys_root=sys_root).close()
    assert sensor.closed


def test_the_package_does_not_import_the_compiler() -> None:
    code = "import sys, profiler, profiler.devices, profiler.plan; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
