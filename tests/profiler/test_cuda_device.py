"""The GPU device without a GPU: properties, counts, conditions and errors, on a driven counter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fakes.driven_counters import DrivenCounter, DrivenSensor, ReadingClock, Switched
from fakes.nvml_library import scripted_nvml

from calibration_data import MemoryHierarchy, UsageError
from profiler.campaign import run_campaign
from profiler.cuda_device import NOT_WRITTEN, CudaDevice
from profiler.cuda_properties import cuda_dtypes, cuda_memory, nvml_index
from profiler.devices import open_device
from profiler.measure import total_domains
from profiler.microbenchmark import Microbenchmark, work_per_loop
from profiler.network_work import ITEMS
from profiler.plan import make_plan
from profiler.schedule import slowest_tick_s
from profiler.sensors.nvml import NvmlSensor
from profiler.sensors.nvml_conditions import GpuConditions
from profiler.simulated_spec import load_spec
from profiler.sparse_work import DENSITIES, kept_places, period_bytes
from profiler.workloads.cuda_work import NETWORK_NUMBERS, cuda_work_per_loop

MEMORY = load_spec("datacenter-gpu").memory
ALL_TYPES = frozenset({"fp64", "fp32", "tf32", "bf16", "fp16", "int8"})
H100 = SimpleNamespace(major=9, minor=0, multi_processor_count=132, L2_cache_size=50 * 2**20)


class FakeGpu:
    """Runs a loop by letting time pass at a power, and reports scripted conditions."""

    def __init__(self, clock: ReadingClock, power: Switched) -> None:
        self.clock, self.power = clock, power
        self.looks: list[GpuConditions] = []
        self.unfinished_s = 0.0
        self.freed = 0

    def loop(self, benchmark: Microbenchmark, memory: MemoryHierarchy) -> Callable[[int], Any]:
        def launch(loops: int) -> None:
            self.unfinished_s += loops * 1e-3

        return launch

    def synchronize(self) -> None:
        """Only here does the work take its time: whoever forgets it sees none."""
        if self.unfinished_s:
            self.power.switch(300.0)
            self.clock.sleep(self.unfinished_s)
            self.power.switch(80.0)
            self.unfinished_s = 0.0

    def free(self) -> None:
        self.freed += 1

    def conditions(self) -> GpuConditions:
        return self.looks.pop(0) if self.looks else GpuConditions(sm_clock_mhz=1980, temperature_c=50)

    def versions(self) -> dict[str, str]:
        return {"driver": "580.0"}


@pytest.fixture
def device() -> CudaDevice:
    clock = ReadingClock()
    power = Switched(clock, 80.0)
    sensor = DrivenSensor(
        {"gpu-0": DrivenCounter(power, tick_s=0.1, quantum_uj=1000.0, range_uj=None)}, clock
    )
    gpu = FakeGpu(clock, power)
    return CudaDevice(
        gpu, (sensor,), name="cuda:0", model_name="fake", memory=MEMORY, dtypes=ALL_TYPES, clock=clock
    )


def point(kernel: str, level: str | None = None, *, threads: int = 108, **more: Any) -> Microbenchmark:
    return Microbenchmark(
        point=kernel,
        family=kernel,
        kernel=kernel,
        threads=threads,
        level=level,
        **more,  # type: ignore[arg-type]
    )


def test_without_a_gpu_one_clear_error() -> None:
    with pytest.raises(UsageError, match="no GPU cuda:3") as raised:
        open_device("cuda:3")
    assert "sim:datacenter-gpu" in raised.value.next_step


def test_other_spellings_are_no_devices() -> None:
    for name in ("cuda:", "cuda:-1", "cuda:x", "cuda:12345", "CUDA:0"):
        with pytest.raises(UsageError, match="There is no device"):
            open_device(name)


def test_importing_the_device_is_light() -> None:
    heavy = ("torch", "triton", "numba")
    code = f"import profiler.cuda_device, sys; print([name for name in {heavy} if name in sys.modules])"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert result.stdout.strip() == "[]"


def test_memory_of_a_known_board() -> None:
    memory = cuda_memory(H100)
    assert (memory.l1_bytes, memory.l2_bytes, memory.cores) == (256 * 1024, 50 * 2**20, 132)
    assert memory.levels == ("l1", "l2", "dram")


def test_an_unknown_capability_is_refused_not_guessed() -> None:
    with pytest.raises(UsageError, match=r"42\.0"):
        cuda_memory(SimpleNamespace(**{**vars(H100), "major": 42}))


def test_types_by_capability() -> None:
    assert cuda_dtypes(H100) == ALL_TYPES
    assert "bf16" not in cuda_dtypes(SimpleNamespace(major=7, minor=0))


def test_a_gpu_is_found_by_identity_not_by_order() -> None:
    uuids = {"a": b"GPU-1111", "b": "GPU-2222-ABCD"}
    nvml = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: "ab"[index],
        nvmlDeviceGetUUID=uuids.__getitem__,
    )
    assert nvml_index(nvml, "2222-abcd") == 1
    assert nvml_index(nvml, "3333") is None


def test_the_plan_of_a_simulated_gpu_runs_here(device: CudaDevice) -> None:
    """All but networks on a part of the multiprocessors, which torch's operators cannot do."""
    supported = {benchmark.kernel for benchmark in make_plan(device, "full").points}
    assert supported >= {
        "load",
        "store",
        "copy",
        "triad",
        "gather",
        "scatter",
        "sparse-update",
        "fma",
        "intensity",
        "launch",
        "spin",
        "idle",
    }
    written = set(ITEMS) - NOT_WRITTEN
    networks = {
        (point.kernel, point.level) for point in make_plan(device, "full").points if point.kernel in ITEMS
    }
    assert networks == {(kernel, level) for kernel in written for level in ("l2", "dram")}
    assert {point.kernel for point in make_plan(device, "quick").points} >= written
    assert not NOT_WRITTEN & supported
    names = [point.point for point in make_plan(device, "full").points]
    assert len(names) == len(set(names))
    types = {benchmark.dtype for benchmark in make_plan(device, "quick").points if benchmark.kernel == "fma"}
    assert types == ALL_TYPES


def test_active_time_is_that_of_the_work_not_of_the_launch(device: CudaDevice) -> None:
    kernel = device.prepare(point("load", "dram", working_set_bytes=108 * 64))
    execution = kernel.run(500)
    assert execution.active_s == pytest.approx(0.5, rel=1e-3)
    assert execution.busy_core_s == pytest.approx(108 * 0.5, rel=1e-3)
    assert not execution.throttled
    kernel.close()
    assert device.gpu.freed == 1  # type: ignore[attr-defined]


def test_a_duty_cycle_works_that_fraction_of_the_time(device: CudaDevice) -> None:
    kernel = device.prepare(point("fma", dtype="fp32", duty=0.25))
    began_ns = device.clock.now_ns()
    execution = kernel.run(400)
    passed_s = (device.clock.now_ns() - began_ns) * 1e-9
    assert execution.active_s == pytest.approx(0.4, rel=1e-6)
    assert execution.active_s / passed_s == pytest.approx(0.25, rel=0.02)


def test_empty_kernels_hold_no_multiprocessor(device: CudaDevice) -> None:
    execution = device.prepare(point("launch")).run(100)
    assert execution.active_s > 0
    assert execution.busy_core_s == 0


@pytest.mark.parametrize(("reason", "lost"), [("heat", True), ("power brake", True), ("power limit", False)])
def test_what_held_the_clock_down_is_noted_and_heat_costs_the_run(
    device: CudaDevice, reason: str, lost: bool
) -> None:
    kernel = device.prepare(point("fma", dtype="fp32"))
    device.gpu.looks = [  # type: ignore[attr-defined]
        GpuConditions(policy_times={reason: 5}),
        GpuConditions(policy_times={reason: 9}),
    ]
    assert kernel.run(10).throttled is lost
    assert device.conditions()["slowed_by"] == reason
    assert device.conditions()["slowed_by"] == "nothing"


def test_what_it_cannot_run_is_refused(device: CudaDevice) -> None:
    size = ITEMS["softmax"].size_bytes
    for wrong in (
        point("load", "llc", working_set_bytes=64),
        point("fma", dtype="fp8"),
        point("spin", threads=109),
        point("intensity", "dram", working_set_bytes=64, dtype="bf16", fma_per_element=1),
        point("softmax", "dram", working_set_bytes=size, threads=54),
    ):
        with pytest.raises(UsageError, match="cannot run"):
            device.prepare(wrong)


def test_a_store_reads_nothing_and_always_reaches_the_second_level() -> None:
    size = 1 << 20
    stored = cuda_work_per_loop(point("store", "dram", working_set_bytes=size), MEMORY)
    assert dict(stored) == {"byte_l1": size, "byte_l2": size, "byte_dram_write": size}
    in_first = cuda_work_per_loop(point("store", "l1", working_set_bytes=size), MEMORY)
    assert dict(in_first) == {"byte_l1": size, "byte_l2": size}


def test_a_copy_reads_and_writes_half() -> None:
    copied = cuda_work_per_loop(point("copy", "dram", working_set_bytes=4096), MEMORY)
    assert (copied["byte_dram_read"], copied["byte_dram_write"], copied["byte_l2"]) == (2048, 2048, 4096)


def test_a_triad_reads_two_thirds_and_steps_the_third() -> None:
    work = cuda_work_per_loop(point("triad", "dram", working_set_bytes=108 * 96, dtype="fp64"), MEMORY)
    third = 108 * 32
    assert (work["byte_dram_read"], work["byte_dram_write"]) == (2 * third, third)
    assert work["flop_fp64"] == 2 * third // 8


@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("level", ["l2", "dram"])
def test_a_sparse_update_counts_the_sectors_and_rows_that_its_places_touch(
    density: float, level: str
) -> None:
    size = 3 * period_bytes(density, MEMORY)
    work = cuda_work_per_loop(
        point("sparse-update", level, working_set_bytes=size, dtype="fp32", density=density), MEMORY
    )
    kept = np.zeros(size // 4, dtype=bool)
    kept.reshape(-1, round(256 / density))[:, list(kept_places(density))] = True
    sectors = 32 * int(kept.reshape(-1, 8).any(axis=1).sum())
    assert work["flop_fp32"] == 2 * kept.sum()
    assert work["byte_l1"] == 8 * kept.sum()
    assert work["byte_l2"] == 2 * sectors
    if level == "dram":
        assert work["byte_dram_read"] == work["byte_dram_write"] == sectors
        assert work["line_random_dram"] == kept.reshape(-1, 256).any(axis=1).sum()
    else:
        assert not {"byte_dram_read", "line_random_dram"} & set(work)


@pytest.mark.parametrize("kernel", ["load", "gather"])
def test_what_only_reads_counts_as_on_simulated_devices(kernel: str) -> None:
    benchmark = point(kernel, "dram", working_set_bytes=108 * 64)
    assert cuda_work_per_loop(benchmark, MEMORY) == work_per_loop(benchmark, MEMORY)


@pytest.mark.parametrize("share", [8, 100, 16384, 20000])
def test_lanes_beyond_a_share_are_counted_where_they_are_stepped(share: int) -> None:
    benchmark = point("intensity", "dram", working_set_bytes=4 * share * 108, dtype="fp32", fma_per_element=4)
    work = cuda_work_per_loop(benchmark, MEMORY)
    block = 16384
    while block > share:
        block //= 2
    blocks = (share + block - 1) // block
    assert work["flop_fp32"] == 9 * 108 * blocks * block
    assert work["byte_dram_read"] == 4 * share * 108


@pytest.mark.parametrize("kernel", sorted(NETWORK_NUMBERS))
def test_networks_have_the_flop_of_simulated_devices_and_count_operators(kernel: str) -> None:
    benchmark = point(kernel, "dram", working_set_bytes=20 * ITEMS[kernel].size_bytes, dtype="fp32")
    on_gpu, simulated = cuda_work_per_loop(benchmark, MEMORY), work_per_loop(benchmark, MEMORY)
    assert on_gpu["flop_fp32"] == simulated["flop_fp32"]
    assert on_gpu["launch"] >= 1
    assert on_gpu["byte_l2"] == on_gpu["byte_dram_read"] + on_gpu["byte_dram_write"]


def test_a_campaign_writes_records_of_a_gpu(device: CudaDevice, tmp_path: Path) -> None:
    """Some configurations of the quick plan, from the schedule to records with the counted work."""
    plan = make_plan(device, "quick")
    wanted = ("idle", "spin-t108", "store-dram-t108", "launch-t108", "softmax-dram-t108", "spin-t108-duty25")
    few = tuple(benchmark for benchmark in plan.points if benchmark.point in wanted)
    assert len(few) == len(wanted)
    records = run_campaign(device, replace(plan, points=few), tmp_path / "records.jsonl")
    assert {record.point for record in records} == set(wanted)
    for record in records:
        assert record.device.kind == "cuda"
        assert record.provenance == "measured"
        assert record.conditions["driver"] == "580.0"
        assert record.software["calijoule"]
    store = next(record for record in records if record.point == "store-dram-t108")
    assert "byte_dram_read" not in store.work_per_loop
    powers_w = [window.energy_j["gpu-0"] / window.duration_s for window in store.replicates]
    assert powers_w == pytest.approx([300.0] * len(powers_w), rel=0.01)


def test_power_averaged_over_a_second_does_not_decide_the_windows(device: CudaDevice) -> None:
    """Memory power is shown beside the total: its period of a second would make windows ten times longer."""
    clock = ReadingClock()
    memory_w = DrivenSensor(
        {"gpumem-0": DrivenCounter(Switched(clock, 30.0), tick_s=1.0, range_uj=None)}, clock
    )
    both = SimpleNamespace(sensors=(*device.sensors, memory_w))
    assert slowest_tick_s(both) == slowest_tick_s(device) == 0.1  # type: ignore[arg-type]


def test_only_the_gpu_that_works_is_read() -> None:
    with scripted_nvml() as nvml:
        nvml.script(gpus=3)
        sensor = NvmlSensor(index=1)
        assert [spec.domain for spec in sensor.specs] == ["gpu-1"]
        sensor.close()


def test_its_joules_are_a_total(device: CudaDevice) -> None:
    assert total_domains([spec.domain for sensor in device.sensors for spec in sensor.specs]) == ("gpu-0",)
