"""The look at the machine code passes what does the work, and catches what does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numba
import numpy as np
import pytest

from calibration_data import MemoryHierarchy
from profiler.microbenchmark import Microbenchmark
from profiler.workloads import cpu_kernels, generated_code
from profiler.workloads.cpu_data import random_operands
from profiler.workloads.cpu_loops import make_loop
from profiler.workloads.generated_code import GeneratedCodeError, check_code

MEMORY = MemoryHierarchy(l1_bytes=1 << 15, l2_bytes=1 << 20, llc_bytes=1 << 25, line_bytes=64, cores=1)

KERNELS: list[dict[str, Any]] = [
    {"kernel": "load"},
    {"kernel": "store"},
    {"kernel": "copy"},
    {"kernel": "triad", "dtype": "fp64"},
    {"kernel": "chase"},
    {"kernel": "gather"},
    {"kernel": "scatter"},
    {"kernel": "fma", "dtype": "fp32"},
    {"kernel": "fma", "dtype": "fp64"},
    {"kernel": "fma", "dtype": "fp32", "data": "zeros"},
    {"kernel": "sparse-update", "dtype": "fp32", "density": 0.1},
    {"kernel": "compaction", "dtype": "fp32", "density": 0.1},
    *({"kernel": "intensity", "dtype": d, "fma_per_element": n} for d in ("fp32", "fp64") for n in (2, 16)),
    *(
        {"kernel": kernel, "dtype": "fp32", "working_set_bytes": 2**11 * 9280 * 7}
        for kernel in ("softmax", "layernorm", "convolution", "attention", "adam", "training-step", "matmul")
    ),
]


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    generated_code._check.cache_clear()
    yield
    generated_code._check.cache_clear()


@pytest.mark.parametrize("options", KERNELS, ids=lambda o: "-".join(map(str, o.values())))
def test_every_kernel_of_the_plan_does_its_work_here(options: dict[str, Any]) -> None:
    from profiler.network_work import ITEMS

    size = {"triad": 3 << 13, "sparse-update": 40_960, "compaction": 40_960}.get(options["kernel"], 1 << 14)
    if options["kernel"] in ITEMS:
        size = 2 * ITEMS[options["kernel"]].size_bytes
    benchmark = Microbenchmark(
        **{"point": "p", "family": "f", "level": "l1", **options, "working_set_bytes": size}
    )
    make_loop(benchmark, MEMORY, seed=1)(1)
    check_code(benchmark)


def broken_load(elements: Any, loops: Any) -> Any:
    """The same value read again and again: the loop over loops can be left out."""
    return elements[0] * np.uint64(loops)


def broken_store(elements: Any, loops: Any) -> Any:
    """The same value in every loop: a library call."""
    for _ in range(loops):
        elements[:] = np.uint64(0)
    return elements[0]


def broken_chase(elements: Any, start: Any, steps: Any) -> Any:
    """Places that are known before the loads come."""
    total = np.uint64(start)
    for index in range(steps):
        total += elements[index]
    return total


def scalar_load(elements: Any, loops: Any) -> Any:
    """Every step waits for the one before."""
    total = np.uint64(0)
    for _ in range(loops):
        for index in range(elements.size):
            total = (total ^ elements[index]) * np.uint64(3)
    return total


@pytest.mark.parametrize(
    ("kernel", "broken"), [("load", broken_load), ("store", broken_store), ("load", scalar_load)]
)
def test_work_that_is_not_done_is_noticed(monkeypatch: pytest.MonkeyPatch, kernel: Any, broken: Any) -> None:
    compiled: Any = numba.njit(nogil=True)(broken)
    compiled(random_operands(64, np.float64, seed=1, alignment=64).view(np.uint64), 1)
    monkeypatch.setattr(cpu_kernels, kernel, compiled)
    with pytest.raises(GeneratedCodeError, match="does not do the work that is counted"):
        check_code(Microbenchmark(point="p", family="f", kernel=kernel, level="l1"))


def test_a_kernel_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    monkeypatch.setattr(generated_code, "_problem", lambda kernel, *_: reads.append(kernel) or "")
    for _ in range(3):
        check_code(Microbenchmark(point="p", family="f", kernel="load", level="l1"))
    assert reads == ["load"]
