from __future__ import annotations

from pathlib import Path

import pytest
from fakes.cpu_tree import FakeCache, private_caches, write_caches
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import MemoryHierarchy, UsageError
from profiler.cache_sizes import parse_cpu_list, read_cpu_caches

KIB, MIB = 1024, 1024**2


def test_two_cores_with_a_common_last_level(tmp_path: Path) -> None:
    write_caches(tmp_path, [*private_caches([[0], [1]]), FakeCache(3, "Unified", "32768K", [0, 1])])
    caches = read_cpu_caches(tmp_path, allowed=[0, 1])
    assert caches.memory == MemoryHierarchy(
        l1_bytes=32 * KIB, l2_bytes=MIB, llc_bytes=32 * MIB, line_bytes=64, cores=2
    )
    assert caches.cpus == (0, 1)


def test_hardware_threads_of_a_core_count_once(tmp_path: Path) -> None:
    cores = [[0, 4], [1, 5], [2, 6], [3, 7]]
    write_caches(tmp_path, [*private_caches(cores, l1="48K"), FakeCache(3, "Unified", "36M", range(8))])
    caches = read_cpu_caches(tmp_path, allowed=range(8))
    assert caches.cpus == (0, 1, 2, 3)
    assert caches.memory.cores == 4
    assert caches.memory.l2_bytes == MIB, "a core's second level is not halved by its own hardware threads"
    assert read_cpu_caches(tmp_path, allowed=[1, 5, 6]).cpus == (1, 6)


def test_of_several_chiplets_only_the_first_allowed_is_the_device(tmp_path: Path) -> None:
    chiplets = [FakeCache(3, "Unified", "32768K", range(8 * n, 8 * n + 8)) for n in range(4)]
    write_caches(tmp_path, [*private_caches([[cpu] for cpu in range(32)]), *chiplets])
    assert read_cpu_caches(tmp_path, allowed=range(32)).cpus == tuple(range(8))
    assert read_cpu_caches(tmp_path, allowed=range(8, 32)).cpus == tuple(range(8, 16))


def test_cores_of_another_kind_are_left_out(tmp_path: Path) -> None:
    fast = private_caches([[0, 1], [2, 3]], l1="48K", l2="2048K")
    slow = [FakeCache(1, "Data", "32K", [cpu]) for cpu in range(4, 8)]
    cluster = FakeCache(2, "Unified", "4096K", range(4, 8))
    write_caches(tmp_path, [*fast, *slow, cluster, FakeCache(3, "Unified", "24576K", range(8))])
    assert read_cpu_caches(tmp_path, allowed=range(8)).cpus == (0, 2)
    efficient = read_cpu_caches(tmp_path, allowed=range(4, 8))
    assert efficient.cpus == (4, 5, 6, 7)
    assert efficient.memory.l2_bytes == MIB, "four cores share the cluster's second level"


def test_a_second_level_that_is_the_last_is_whole(tmp_path: Path) -> None:
    first = [FakeCache(1, "Data", "32K", [cpu]) for cpu in range(4)]
    write_caches(tmp_path, [*first, FakeCache(2, "Unified", "1024K", range(4))])
    memory = read_cpu_caches(tmp_path, allowed=range(4)).memory
    assert memory.levels == ("l1", "l2", "dram")
    assert memory.last_cache_bytes == MIB


@pytest.mark.parametrize(
    "caches",
    [
        [],
        [FakeCache(1, "Data", "32K", [0])],
        [FakeCache(1, "Data", "", [0]), FakeCache(2, "Unified", "1024K", [0])],
        [FakeCache(1, "Data", "32 KiB", [0]), FakeCache(2, "Unified", "1024K", [0])],
    ],
    ids=["no tree", "no second level", "empty size", "strange size"],
)
def test_a_tree_without_sizes_is_refused_with_a_remedy(tmp_path: Path, caches: list[FakeCache]) -> None:
    write_caches(tmp_path, caches)
    with pytest.raises(UsageError, match="cache level") as caught:
        read_cpu_caches(tmp_path, allowed=[0])
    assert "/sys" in caught.value.next_step
    assert str(tmp_path / "cpu0") in caught.value.message


@given(st.sets(st.integers(0, 300), min_size=1))
def test_cpu_lists_are_read_as_the_kernel_writes_them(cpus: set[int]) -> None:
    runs: list[list[int]] = []
    for cpu in sorted(cpus):
        if runs and cpu == runs[-1][-1] + 1:
            runs[-1].append(cpu)
        else:
            runs.append([cpu])
    text = ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    assert parse_cpu_list(text + "\n") == cpus
