"""The plan covers the model, its points are unique, and its work counts follow from the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import MemoryHierarchy
from calibration_data.families import TOGGLE_FAMILY, ZEROS_SUFFIX
from calibration_data.terms import POWER_TERMS
from profiler.devices import open_device
from profiler.microbenchmark import ELEMENT_BYTES, KernelName, Microbenchmark, traffic, work_per_loop
from profiler.network_work import NETWORK_KERNELS
from profiler.plan import PlanName, make_plan
from profiler.simulated_device import SimulatedDevice
from profiler.simulated_spec import shipped_names
from profiler.sparse_work import SPARSE_KERNELS, ring_chunks

CPU = MemoryHierarchy(l1_bytes=32768, l2_bytes=1 << 20, llc_bytes=1 << 25, line_bytes=64, cores=8)


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("plan_name", ["quick", "full"])
def test_every_term_of_a_device_is_exercised(name: str, plan_name: PlanName) -> None:
    device = open_device(f"sim:{name}")
    assert isinstance(device, SimulatedDevice)
    points = make_plan(device, plan_name).points
    exercised = set().union(*(work_per_loop(point, device.memory) for point in points))
    assert exercised == set(device.spec.operations())
    assert len({point.point for point in points}) == len(points)


@pytest.mark.parametrize("name", shipped_names())
def test_the_design_tells_all_terms_apart(name: str) -> None:
    """Relative columns at the device's own speeds: the scaled condition number decides, not the solver."""
    device = open_device(f"sim:{name}")
    assert isinstance(device, SimulatedDevice)
    truth = device.spec.truth
    rows = []
    for point in make_plan(device, "quick").points:
        kernel = device.prepare(point)
        start_ns = device.clock.now_ns()
        execution = kernel.run(1)
        work = kernel.work_per_loop.over(
            duration_s=(device.clock.now_ns() - start_ns) * 1e-9,
            active_s=execution.active_s,
            busy_core_s=execution.busy_core_s,
        )
        joules = sum(truth.get(term, 0.0) * amount for term, amount in work.items())
        rows.append([work[term] / joules for term in truth if term != "dram_idle_w"])
    columns = np.array(rows)
    assert np.linalg.cond(columns / np.linalg.norm(columns, axis=0)) <= 10


def test_order_depends_on_the_seed_and_nothing_else() -> None:
    device = open_device("sim:edge-board")
    assert make_plan(device, "quick", seed=1) == make_plan(device, "quick", seed=1)
    first, second = (make_plan(device, "quick", seed=seed).points for seed in (1, 2))
    assert first != second
    assert set(first) == set(second)


@pytest.mark.parametrize("name", shipped_names())
@pytest.mark.parametrize("plan_name", ["quick", "full"])
def test_working_sets_live_beyond_doubt_in_their_level(name: str, plan_name: PlanName) -> None:
    """Between twice the level before and half of the level itself; DRAM at four times the last cache."""
    device = open_device(f"sim:{name}")
    memory = device.memory
    capacity = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes or 0}
    last_cache = memory.levels[-2]
    for point in make_plan(device, plan_name).points:
        if point.kernel not in ("load", "store", "copy", "triad", "intensity"):
            continue
        assert point.working_set_bytes is not None
        assert point.level is not None
        share = point.working_set_bytes / (1 if point.shared else point.threads)
        if point.level == "dram":
            assert point.working_set_bytes >= 4 * memory.last_cache_bytes
            continue
        occupied = point.working_set_bytes if point.level == last_cache else share
        # Shares are rounded up to whole lines.
        assert occupied <= 0.501 * capacity[point.level]
        if point.level != "l1":
            before = memory.levels[memory.levels.index(point.level) - 1]
            assert share >= 2 * capacity[before]


@pytest.mark.parametrize("plan_name", ["quick", "full"])
def test_every_level_is_read_by_all_cores(plan_name: PlanName) -> None:
    """Rates with all cores are what durations are predicted from."""
    for name in shipped_names():
        device = open_device(f"sim:{name}")
        loads = [point for point in make_plan(device, plan_name).points if point.kernel == "load"]
        all_cores = {point.level for point in loads if point.threads == device.memory.cores}
        assert all_cores == set(device.memory.levels)


def test_random_walks_have_a_power_of_two_of_lines_for_each_thread() -> None:
    for point in make_plan(open_device("sim:server-cpu"), "full").points:
        if point.kernel in ("gather", "scatter", "chase"):
            assert point.working_set_bytes is not None
            lines = point.working_set_bytes // point.threads // CPU.line_bytes
            assert lines & (lines - 1) == 0


@pytest.mark.parametrize("name", shipped_names())
def test_a_full_plan_has_every_kernel(name: str) -> None:
    device = open_device(f"sim:{name}")
    kernels = {point.kernel for point in make_plan(device, "full").points}
    possible = set(get_args(KernelName.__args__[0])) | set(NETWORK_KERNELS) | set(SPARSE_KERNELS)
    if ring_chunks(0.1, device.memory) is None:
        possible.remove("compaction")
    assert kernels == possible


@pytest.mark.parametrize("name", shipped_names())
def test_work_on_zeros_has_a_partner_on_random_data(name: str) -> None:
    points = {point.point: point for point in make_plan(open_device(f"sim:{name}"), "full").points}
    on_zeros = [point for point in points.values() if point.data == "zeros"]
    assert {point.kernel for point in on_zeros} == {"load", "fma"}
    for point in on_zeros:
        partner = points[point.point.removesuffix(ZEROS_SUFFIX)]
        assert point.family == TOGGLE_FAMILY
        assert replace(point, point=partner.point, family=partner.family, data="random") == partner


@given(
    level=st.sampled_from(["l1", "l2", "llc", "dram"]),
    read=st.integers(0, 10**9),
    written=st.integers(0, 10**9),
)
def test_a_byte_pays_every_level_that_it_passes(level: str, read: int, written: int) -> None:
    work = traffic(CPU, level, element_bytes=read + written, read_bytes=read, written_bytes=written)
    passed = CPU.levels[: CPU.levels.index(level) + 1]
    for cache in ("l1", "l2", "llc"):
        assert work[f"byte_{cache}"] == (read + written if cache in passed else 0)
    assert work["byte_dram_read"] == (read if level == "dram" else 0)
    assert work["byte_dram_write"] == (written if level == "dram" else 0)


def test_counts_of_kernels_against_hand_counts() -> None:
    def counts(kernel: str, size: int = 6400, **kwargs: object) -> dict[str, float]:
        benchmark = Microbenchmark(
            point="p", family="f", kernel=kernel, level="dram", working_set_bytes=size, **kwargs
        )
        return dict(work_per_loop(benchmark, CPU))

    cached = {"byte_l1": 6400, "byte_l2": 6400, "byte_llc": 6400}
    assert counts("load") == {**cached, "byte_dram_read": 6400}
    shared = {name: 4 * amount for name, amount in counts("load").items()}
    assert counts("load", threads=4, shared=True) == shared
    twice = {"byte_l1": 6400, "byte_l2": 12800, "byte_llc": 12800}
    assert counts("store") == {**twice, "byte_dram_read": 6400, "byte_dram_write": 6400}
    gather = counts("gather")
    assert gather["line_random_dram"] == 100
    assert gather["byte_l1"] == 100 * ELEMENT_BYTES
    assert gather["byte_dram_read"] == 6400
    assert counts("intensity", dtype="fp32", fma_per_element=4)["flop_fp32"] == 9 * 1600


def test_the_work_of_a_loop_has_no_time_in_it() -> None:
    for point in make_plan(open_device("sim:server-cpu"), "full").points:
        assert not set(work_per_loop(point, CPU)) & set(POWER_TERMS)
