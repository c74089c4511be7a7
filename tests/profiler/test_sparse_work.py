"""Counts of the phase after backprop against their own source, and what its kernels leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from calibration_data import MemoryHierarchy
from profiler.microbenchmark import Microbenchmark, work_per_loop
from profiler.placement import sparse
from profiler.sparse_work import (
    DENSITIES,
    KEPT,
    SPARSE_KERNELS,
    chunk_parts,
    chunk_size,
    kept_places,
    period_bytes,
    ring_chunks,
    row_bytes,
)
from profiler.workloads import cpu_sparse

TESTS = Path(__file__).parents[1]
SIZE = 4 * 204_800
MEMORY = MemoryHierarchy(l1_bytes=1 << 15, l2_bytes=1 << 18, llc_bytes=1 << 20, line_bytes=64, cores=1)


def benchmark(kernel: str, density: float, size: int) -> Microbenchmark:
    return Microbenchmark(
        point="p",
        family=kernel,
        kernel=kernel,  # type: ignore[arg-type]
        level="dram",
        working_set_bytes=size,
        dtype="fp32",
        density=density,
    )


def test_counts_are_those_of_the_source_run_on_counting_numbers() -> None:
    """FLOP and accesses one by one, and lines through caches of 32 and 256 KiB (tests/fakes/counting.py)."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    # What is touched is more than the second level; whole rounds of the buffer of compaction.
    sizes = {(kernel, density): 2 * 204_800 for kernel in SPARSE_KERNELS for density in DENSITIES[:2]}
    sizes["sparse-update", 0.01] *= 6
    sizes |= {(kernel, 1.0): 360 * 1024 for kernel in SPARSE_KERNELS}
    names = [f"{kernel}@{density}@{size}" for (kernel, density), size in sizes.items()]
    done = subprocess.run(
        [sys.executable, str(TESTS / "fakes" / "counting.py"), *names],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=True,
        text=True,
    )
    found: dict[str, dict[str, float]] = json.loads(done.stdout)
    for name, (kernel, density), size in zip(names, sizes, sizes.values(), strict=True):
        work = work_per_loop(benchmark(kernel, density, size), MEMORY)
        assert {term: work[term] for term in found[name]} == found[name], name
        assert work["byte_dram_read"] + work["byte_dram_write"] == work["byte_llc"]


@pytest.mark.parametrize("density", DENSITIES)
def test_every_chunk_keeps_the_stated_part(density: float) -> None:
    assert len(set(kept_places(density))) == KEPT
    assert chunk_size(density) * density == pytest.approx(KEPT)
    assert max(kept_places(density)) < chunk_size(density)
    assert chunk_size(density) % chunk_parts(density) == 0


@pytest.mark.parametrize("density", DENSITIES)
def test_sparse_update_steps_the_kept_weights_and_no_others(density: float) -> None:
    weights, indices, gradients = cpu_sparse.update_arrays(density, SIZE, alignment=64, seed=3)
    before = weights.copy()
    cpu_sparse.sparse_update(weights, indices, gradients, 1, chunk_size(density))
    expected = before.reshape(-1, chunk_size(density)).copy()
    expected[:, list(kept_places(density))] += -cpu_sparse.RATE * gradients
    np.testing.assert_allclose(weights, expected.ravel(), rtol=1e-6)
    assert (weights != before).sum() > 0.99 * density * weights.size


@pytest.mark.parametrize("density", DENSITIES)
def test_compaction_packs_what_is_not_below_the_threshold(density: float) -> None:
    gradients, values, indices = cpu_sparse.compaction_arrays(density, SIZE, MEMORY, seed=4)
    kept = np.flatnonzero(np.abs(gradients) >= cpu_sparse.THRESHOLD)
    assert kept.size == gradients.size // chunk_size(density) * KEPT
    sent, addresses = cpu_sparse.compaction(
        gradients, values, indices, 1, chunk_size(density), chunk_parts(density), cpu_sparse.THRESHOLD
    )
    assert addresses == kept.sum()
    scale = float(np.abs(gradients[kept]).sum())
    assert sent == pytest.approx(gradients[kept].astype(np.float64).sum(), abs=1e-5 * scale)
    # The buffer holds the last pairs.
    assert set(zip(indices.tolist(), values.tolist(), strict=True)) <= set(
        zip(kept.tolist(), gradients[kept].tolist(), strict=True)
    )


@given(
    l1=st.sampled_from([1 << 14, 1 << 15, 3 << 14, 1 << 16, 1 << 17]),
    l2=st.sampled_from([1 << 18, 1 << 19, 1 << 20, 5 << 18, 1 << 21]),
    density=st.sampled_from(DENSITIES),
)
def test_the_buffer_lives_in_the_second_level_or_nowhere(l1: int, l2: int, density: float) -> None:
    memory = MemoryHierarchy(l1_bytes=l1, l2_bytes=max(l1, l2), llc_bytes=1 << 25, line_bytes=64, cores=4)
    chunks = ring_chunks(density, memory)
    if chunks is None:
        assert memory.l2_bytes <= 8 * l1 or l1 < 1 << 15
        return
    between = chunks * (4 * chunk_size(density) + 8 * KEPT)
    assert 2 * l1 <= between <= memory.l2_bytes // 2


@pytest.mark.parametrize("kernel", SPARSE_KERNELS)
@pytest.mark.parametrize("density", DENSITIES)
@pytest.mark.parametrize("threads", [1, 3, 192])
def test_a_point_is_whole_chunks_and_rows_for_each_thread(kernel: str, density: float, threads: int) -> None:
    memory = MemoryHierarchy(l1_bytes=1 << 15, l2_bytes=1 << 20, llc_bytes=1 << 25, line_bytes=64, cores=192)
    point = sparse(kernel, memory, threads, density)  # type: ignore[arg-type]
    assert point.working_set_bytes is not None
    work = work_per_loop(point, memory)
    assert work["byte_dram_read"] >= 4 * memory.last_cache_bytes, "what is touched passes by the last cache"
    share = point.working_set_bytes // threads
    assert share % (4 * chunk_size(density)) == share % row_bytes(memory) == 0
    assert share % period_bytes(density, memory) == 0
