"""Counts of the network kernels against their own source, run on numbers that count."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration_data import MemoryHierarchy
from calibration_data.families import HELD_OUT_FAMILIES
from profiler.microbenchmark import Microbenchmark, work_per_loop
from profiler.network_work import HEAD, ITEMS, NETWORK_KERNELS, POSITIONS, ROW, SIDE
from profiler.sparse_work import SPARSE_KERNELS
from profiler.workloads import cpu_network
from profiler.workloads.cpu_network_loops import network_arrays, network_loop

TESTS = Path(__file__).parents[1]
MEMORY = MemoryHierarchy(l1_bytes=32768, l2_bytes=1 << 20, llc_bytes=1 << 25, line_bytes=64, cores=2)


def test_the_kernels_are_the_families_that_no_fit_uses() -> None:
    assert tuple(ITEMS) == NETWORK_KERNELS
    assert (*NETWORK_KERNELS, *SPARSE_KERNELS) == HELD_OUT_FAMILIES


def test_counts_are_those_of_the_source_run_on_counting_numbers() -> None:
    """FLOP and accesses one by one, and lines through a cache of 32 KiB (tests/fakes/counting.py)."""
    path = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    done = subprocess.run(
        [sys.executable, str(TESTS / "fakes" / "counting.py"), *NETWORK_KERNELS],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        check=True,
        text=True,
    )
    counted: dict[str, dict[str, float]] = json.loads(done.stdout)
    for kernel, found in counted.items():
        item = ITEMS[kernel]
        assert found == {
            "flop": item.flop,
            "element_bytes": item.element_bytes,
            "read_bytes": item.read_bytes,
            "written_bytes": item.written_bytes,
        }, kernel


@pytest.mark.parametrize("kernel", NETWORK_KERNELS)
def test_work_is_that_of_whole_items_on_their_way_from_their_level(kernel: Any) -> None:
    item = ITEMS[kernel]
    benchmark = Microbenchmark(
        point="p", family=kernel, kernel=kernel, level="dram", working_set_bytes=3 * item.size_bytes
    )
    work = work_per_loop(benchmark, MEMORY)
    assert work["flop_fp32"] == 3 * item.flop
    assert work["byte_l1"] == 3 * item.element_bytes
    assert work["byte_l2"] == work["byte_llc"] == 3 * (item.read_bytes + item.written_bytes)
    assert (work["byte_dram_read"], work["byte_dram_write"]) == (3 * item.read_bytes, 3 * item.written_bytes)
    assert item.size_bytes % MEMORY.line_bytes == 0


def test_softmax_and_layernorm_are_those_of_numpy() -> None:
    for kernel in ("softmax", "layernorm"):
        function, arrays, sizes = network_arrays(kernel, ITEMS[kernel].size_bytes, alignment=64, seed=1)
        source = arrays[0][:ROW].astype(np.float64)
        function(*arrays, 1, *sizes)
        expected = np.exp(source) / np.exp(source).sum()
        if kernel == "layernorm":
            expected = (source - source.mean()) / source.std()
        np.testing.assert_allclose(arrays[0][ROW:], expected, rtol=3e-4, atol=1e-6)


def test_matmul_is_that_of_numpy() -> None:
    function, arrays, sizes = network_arrays("matmul", ITEMS["matmul"].size_bytes, alignment=64, seed=6)
    function(*arrays, 2, *sizes)
    a, b, product = (part.reshape(SIDE, SIDE).astype(np.float64) for part in np.split(arrays[0], 3))
    np.testing.assert_allclose(product, a @ b, rtol=1e-4, atol=1e-5)


def test_attention_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    function, arrays, sizes = network_arrays("attention", ITEMS["attention"].size_bytes, alignment=64, seed=2)
    q, k, v, _ = (part.copy() for part in np.split(arrays[0], 4))
    function(*arrays, 1, *sizes)
    query, value = (torch.from_numpy(part.reshape(1, POSITIONS, HEAD)) for part in (q, v))
    key = torch.from_numpy(np.ascontiguousarray(k.reshape(HEAD, POSITIONS).T).reshape(1, POSITIONS, HEAD))
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value).numpy().ravel()
    np.testing.assert_allclose(np.split(arrays[0], 4)[3], expected, rtol=1e-3, atol=1e-4)


def test_convolution_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    size = ITEMS["convolution"].size_bytes
    function, arrays, (channels, image, width) = network_arrays("convolution", size, alignment=64, seed=3)
    inputs = channels * image * image
    source = torch.from_numpy(arrays[0][:inputs].reshape(1, channels, image, image).copy())
    weights = torch.from_numpy(arrays[1].reshape(channels, channels, width, width))
    function(*arrays, 1, channels, image, width)
    expected = torch.nn.functional.conv2d(source, weights).numpy().ravel()
    np.testing.assert_allclose(arrays[0][inputs:], expected, rtol=1e-4, atol=1e-4)


def test_the_gradient_of_the_training_step_is_that_of_torch() -> None:
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(4)
    samples, inputs, hidden = 4, 3, 5
    weights, x, target = (
        rng.standard_normal(n).astype(np.float32)
        for n in (2 * inputs * hidden, samples * inputs, samples * inputs)
    )
    scratch = np.zeros(2 * samples * hidden + samples * inputs + weights.size, np.float32)
    cpu_network.network_step(weights, x, target, scratch, inputs, hidden, np.float32(1))
    first = torch.tensor(weights[: inputs * hidden].reshape(inputs, hidden), requires_grad=True)
    second = torch.tensor(weights[inputs * hidden :].reshape(hidden, inputs), requires_grad=True)
    y = torch.relu(torch.from_numpy(x.reshape(samples, inputs)) @ first) @ second
    ((y - torch.from_numpy(target.reshape(samples, inputs))) ** 2 / 2).sum().backward()
    expected = np.concatenate([first.grad.numpy().ravel(), second.grad.numpy().ravel()])
    np.testing.assert_allclose(scratch[-weights.size :], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", NETWORK_KERNELS)
def test_numbers_stay_finite_over_many_loops(kernel: str) -> None:
    loop = network_loop(kernel, 2 * ITEMS[kernel].size_bytes, alignment=64, seed=5)
    loop(300)
    function, arrays, sizes = network_arrays(kernel, 2 * ITEMS[kernel].size_bytes, alignment=64, seed=5)
    function(*arrays, 300, *sizes)
    assert all(np.isfinite(array).all() for array in arrays)
