"""The kernels of the phase after backprop do what a cost vector counts for the same mask."""

from __future__ import annotations

import pytest
import torch

from calibration_data import MemoryHierarchy, Work
from cwmp.op_counts import apply_work, count_touched, pack_work, scan_work
from cwmp.tensors import TensorLayout, touched_groups
from profiler.microbenchmark import Microbenchmark, work_per_loop
from profiler.placement import sparse
from profiler.sparse_work import DENSITIES, FLOAT_BYTES, PAIR_BYTES, SparseKernel, chunk_size, kept_places

MEMORY = MemoryHierarchy(l1_bytes=1 << 15, l2_bytes=1 << 18, llc_bytes=1 << 20, line_bytes=64, cores=1)


def drawn(kernel: SparseKernel, density: float) -> tuple[Microbenchmark, TensorLayout, torch.Tensor]:
    point = sparse(kernel, MEMORY, 1, density)
    numel = (point.working_set_bytes or 0) // FLOAT_BYTES
    layout = TensorLayout(
        name="w", shape=(numel,), numel=numel, element_bytes=FLOAT_BYTES, flop_term="flop_fp32"
    )
    mask = torch.zeros(numel, dtype=torch.bool)
    mask.reshape(-1, chunk_size(density))[:, list(kept_places(density))] = True
    return point, layout, mask


@pytest.mark.parametrize("density", DENSITIES)
def test_sparse_update_is_apply_without_optimiser_and_the_list_it_reads(density: float) -> None:
    point, layout, mask = drawn("sparse-update", density)
    touched = count_touched(layout, MEMORY, mask)
    expected = apply_work(layout, "dram", MEMORY, touched, 0) + Work({"byte_l1": PAIR_BYTES * touched.kept})
    assert work_per_loop(point, MEMORY) == expected


@pytest.mark.parametrize("density", DENSITIES)
def test_compaction_is_scan_and_pack_and_a_sum_of_what_is_read_back(density: float) -> None:
    point, layout, mask = drawn("compaction", density)
    kept = int(mask.sum())
    scan = scan_work(layout, "dram", MEMORY)
    without_launches = Work({name: amount for name, amount in scan.items() if name != "launch"})
    expected = without_launches + pack_work(MEMORY, PAIR_BYTES) * kept + Work({"flop_fp32": kept})
    assert work_per_loop(point, MEMORY) == expected


@pytest.mark.parametrize("group", [1, 3, 8, 16, 24, 64, 100, 2048])
def test_touched_groups_are_those_that_counting_finds(group: int) -> None:
    generator = torch.Generator().manual_seed(group)
    for numel, density in ((1, 1.0), (7, 0.5), (64, 0.02), (1000, 0.1), (5000, 0.001), (4096, 0.0)):
        mask = torch.rand(numel, generator=generator) < density
        counted = len({index // group for index in mask.nonzero().flatten().tolist()})
        assert touched_groups(mask, group) == counted
        assert touched_groups(mask.reshape(-1, 1), group) == counted
