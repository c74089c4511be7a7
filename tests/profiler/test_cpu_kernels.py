"""Each kernel does exactly the work that is counted: by its result, and by the code that was generated."""

from __future__ import annotations

import platform
import re
from fractions import Fraction
from typing import Any

import llvmlite.binding
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from profiler.microbenchmark import FMA_PER_LOOP
from profiler.workloads import cpu_arithmetic, cpu_kernels
from profiler.workloads.cpu_data import aligned_empty, random_operands, zeros
from profiler.workloads.generated_code import assembly, loops

FEATURES = llvmlite.binding.get_host_cpu_features()
X86 = platform.machine() == "x86_64"
FUSED = FEATURES.get("fma", False) or platform.machine() == "aarch64"
MODULUS = 2**64
WEYL = int(cpu_kernels.WEYL)
DTYPES = (np.float32, np.float64)


def words(count: int, seed: int = 1) -> NDArray[np.uint64]:
    values: NDArray[np.uint64] = random_operands(count, np.float64, seed=seed, alignment=64).view(np.uint64)
    return values


def exact_step(x: Any) -> Any:
    """One multiply-add with a single rounding, or with two where the CPU has no fused one."""
    addend = type(x)(cpu_arithmetic.ADDEND)
    if not FUSED:
        return x * x + addend
    return type(x)(float(Fraction(float(x)) ** 2 + Fraction(float(addend))))


# Data


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_have_random_signs_and_uniform_mantissas(dtype: type[Any]) -> None:
    operands = random_operands(100_000, dtype, seed=3, alignment=64)
    assert operands.ctypes.data % 64 == 0
    magnitudes = np.abs(operands.astype(np.float64))
    assert magnitudes.min() >= 0.5
    assert magnitudes.max() < 1
    assert abs(np.signbit(operands).mean() - 0.5) < 0.01
    counts, _ = np.histogram(magnitudes, bins=16, range=(0.5, 1))
    expected = operands.size / 16
    assert ((counts - expected) ** 2 / expected).sum() < 60, "chi-square, 15 degrees of freedom"
    lowest_bits = operands.view(f"u{operands.itemsize}") & 1
    assert abs(lowest_bits.mean() - 0.5) < 0.01, "the last bit of the mantissa is as random as the first"


def test_operands_follow_the_seed() -> None:
    first = random_operands(1000, np.float64, seed=1, alignment=64)
    assert np.array_equal(first, random_operands(1000, np.float64, seed=1, alignment=64))
    assert not np.array_equal(first, random_operands(1000, np.float64, seed=2, alignment=64))


@given(st.integers(1, 500), st.sampled_from([16, 64, 128, 4096]))
def test_arrays_are_aligned(count: int, alignment: int) -> None:
    array = aligned_empty(count, np.uint64, alignment=alignment)
    assert array.shape == (count,)
    assert array.ctypes.data % alignment == 0
    assert array.flags.c_contiguous


# Moving data


@pytest.mark.parametrize(("count", "loops"), [(8, 1), (2048, 3), (1003, 5)])
def test_load_reads_every_element_in_every_loop(count: int, loops: int) -> None:
    elements = words(count)
    assert int(cpu_kernels.load(elements, loops)) == loops * sum(map(int, elements)) % MODULUS


@pytest.mark.parametrize(("count", "loops"), [(8, 1), (2048, 3), (1003, 5)])
def test_store_writes_every_element_with_another_value(count: int, loops: int) -> None:
    elements = words(count)
    after_last = int(cpu_kernels.store(elements, loops))
    from_the_end = [(after_last - WEYL * step) % MODULUS for step in range(count, 0, -1)]
    assert elements.tolist() == from_the_end
    first = words(count)
    before_first = int(cpu_kernels.store(first, 0))
    assert (after_last - before_first) % MODULUS == WEYL * count * loops % MODULUS
    assert len(set(from_the_end)) == count


@pytest.mark.parametrize(("count", "loops"), [(8, 1), (1024, 3), (1003, 2)])
def test_copy_writes_what_it_read_changed_by_the_loop(count: int, loops: int) -> None:
    source, target = words(count, seed=1), words(count, seed=2)
    before = source.copy()
    key = int(cpu_kernels.copy(source, target, loops))
    assert np.array_equal(source, before)
    assert target.tolist() == [int(value) ^ key for value in before]


@given(bits=st.integers(0, 12), multiplier=st.integers(0, 2**63 - 1))
def test_a_random_order_has_every_line_once(bits: int, multiplier: int) -> None:
    lines = 2**bits
    shift, mask = np.uint64(max(1, bits // 2)), np.uint64(lines - 1)
    odd = np.uint64(2 * multiplier + 1)
    order = [int(cpu_kernels.random_line(np.uint64(index), odd, shift, mask)) for index in range(lines)]
    assert sorted(order) == list(range(lines))


def test_a_random_order_looks_random() -> None:
    lines, loop_multipliers = 2**16, [WEYL**2 % MODULUS, WEYL**3 % MODULUS]
    orders = [
        np.array(
            [
                cpu_kernels.random_line(
                    np.uint64(index), np.uint64(multiplier), np.uint64(8), np.uint64(lines - 1)
                )
                for index in range(lines)
            ],
            dtype=np.int64,
        )
        for multiplier in loop_multipliers
    ]
    for order in orders:
        steps = np.abs(np.diff(order))
        # Two random places are on average a third of the range apart, and rarely in one 4 KiB page.
        assert 0.30 < steps.mean() / lines < 0.37
        assert (steps < 64).mean() < 4 * 128 / lines
        assert np.unique(steps).size > lines / 8, "a prefetcher finds no stride"
    assert (orders[0] == orders[1]).mean() < 0.01, "loops differ"


@pytest.mark.parametrize("lines", [1, 2, 64, 1024])
@pytest.mark.parametrize("per_line", [8, 16])
def test_gather_reads_one_element_of_every_line(lines: int, per_line: int) -> None:
    elements = words(lines * per_line)
    shift = max(1, lines.bit_length() // 2)
    expected = 3 * sum(map(int, elements[::per_line])) % MODULUS
    assert int(cpu_kernels.gather(elements, 3, per_line, shift)) == expected


@pytest.mark.parametrize("lines", [1, 2, 64, 1024])
@pytest.mark.parametrize("per_line", [8, 16])
def test_scatter_changes_one_element_of_every_line_and_nothing_else(lines: int, per_line: int) -> None:
    elements = words(lines * per_line)
    expected = elements.copy()
    expected[::per_line] += np.uint64(5 * WEYL % MODULUS)
    cpu_kernels.scatter(elements, 5, per_line, max(1, lines.bit_length() // 2))
    assert np.array_equal(elements, expected)


@pytest.mark.parametrize("lines", [1, 2, 64, 1024])
@pytest.mark.parametrize("per_line", [8, 16])
def test_chase_comes_to_every_line_once_before_it_is_back(lines: int, per_line: int) -> None:
    elements = words(lines * per_line)
    untouched = elements.copy()
    cpu_kernels.link(elements, per_line, max(1, lines.bit_length() // 2))
    visited, place = [], int(elements[0])
    for _ in range(lines):
        visited.append(place)
        place = int(cpu_kernels.chase(elements, place, 1))
    assert place == visited[0]
    assert sorted(visited) == list(range(0, lines * per_line, per_line))
    assert int(cpu_kernels.chase(elements, visited[0], 3 * lines - 1)) == visited[-1]
    inside = np.arange(elements.size) % per_line != 0
    assert np.array_equal(elements[inside], untouched[inside])


@pytest.mark.parametrize(("count", "loops"), [(8, 1), (1024, 3), (1003, 2)])
def test_triad_adds_a_multiple_of_changing_sign(count: int, loops: int) -> None:
    source, other, target = (random_operands(count, np.float64, seed=s, alignment=64) for s in (1, 2, 3))
    before = source.copy(), other.copy()
    after = cpu_kernels.triad(source, other, target, loops)
    assert after == cpu_kernels.TRIAD_FACTOR * (-1) ** loops
    np.testing.assert_allclose(target, source - after * other, rtol=1e-13, atol=1e-15)
    assert np.array_equal(source, before[0])
    assert np.array_equal(other, before[1])


def test_spin_takes_every_step() -> None:
    state = 0x2545F4914F6CDD1D
    for _ in range(cpu_kernels.SPIN_STEPS):
        state ^= state << 13 & (MODULUS - 1)
        state ^= state >> 7
        state ^= state << 17 & (MODULUS - 1)
    assert int(cpu_kernels.spin(1)) == state


# Arithmetic


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("steps", [0, 1, 2, 25])
def test_fma_steps_every_element_exactly(dtype: type[Any], steps: int) -> None:
    state = random_operands(
        cpu_arithmetic.chain_elements(np.dtype(dtype).itemsize), dtype, seed=4, alignment=64
    )
    expected = state.copy()
    for _ in range(steps):
        expected = np.array([exact_step(x) for x in expected], dtype=dtype)
    cpu_arithmetic.fma(state, steps)
    # The map doubles a difference in almost every step: equal bits mean equal operations.
    assert np.array_equal(state, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_zeros_stay_zeros_and_other_addends_are_added(dtype: type[Any]) -> None:
    count = cpu_arithmetic.chain_elements(np.dtype(dtype).itemsize)
    state = zeros(count, dtype, alignment=64)
    cpu_arithmetic.fma_adding(state, 1000, dtype(0))
    assert not state.any()
    first, second = (random_operands(count, dtype, seed=4, alignment=64) for _ in range(2))
    cpu_arithmetic.fma(first, 25)
    cpu_arithmetic.fma_adding(second, 25, dtype(cpu_arithmetic.ADDEND))
    assert np.array_equal(first, second)


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("bits", [128, 256, 512])
def test_a_loop_is_whole_steps_for_every_register_width(itemsize: int, bits: int) -> None:
    assert FMA_PER_LOOP % (cpu_arithmetic.CHAINS * bits // (8 * itemsize)) == 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_operands_of_fma_stay_normal_and_keep_changing(dtype: type[Any]) -> None:
    state = random_operands(
        cpu_arithmetic.chain_elements(np.dtype(dtype).itemsize), dtype, seed=5, alignment=64
    )
    cpu_arithmetic.fma(state, 1_000_000)
    visited = []
    for _ in range(300):
        cpu_arithmetic.fma(state, 1)
        visited.append(state.copy())
    values = np.array(visited)
    assert np.abs(values).max() < 2
    assert np.abs(values).min() > 1e-6
    assert min(len(set(chain)) for chain in values.T.tolist()) > 100
    assert 0.2 < np.signbit(values).mean() < 0.8


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("fma_per_element", [0, 1, 3, 16])
def test_intensity_steps_every_element_and_adds_it_up(dtype: type[Any], fma_per_element: int) -> None:
    elements = random_operands(203, dtype, seed=6, alignment=64)
    results = []
    for x in elements:
        for _ in range(fma_per_element):
            x = exact_step(x)
        results.append(float(x))
    total = cpu_arithmetic.intensity_kernel(fma_per_element)(elements, 2)
    rounding = float(np.finfo(dtype).eps) * elements.size
    assert float(total) == pytest.approx(2 * sum(results), abs=rounding * sum(map(abs, results)))


# Generated code


VECTOR = {128: "xmm", 256: "ymm", 512: "zmm"}[cpu_arithmetic.vector_bits()]
ANY_VECTOR = "[xyz]mm"


def step(suffix: str) -> str:
    """The instruction that multiplies in one step of x·x − c."""
    return rf"\bvfmadd\d+{suffix}" if FUSED else rf"\bv?mul{suffix}"


def test_load_uses_vectors_and_writes_nothing() -> None:
    cpu_kernels.load(words(64), 1)
    if not X86:
        return
    found = loops(assembly(cpu_kernels.load, 8), rf"\bv?(?:paddq|movdq\w+)\s+\S*\(.*%{ANY_VECTOR}")
    assert found, "no loop with vector loads"
    accumulators = [set(re.findall(rf"paddq\s.*(%{ANY_VECTOR}\d+)$", loop, re.MULTILINE)) for loop in found]
    assert max(map(len, accumulators)) > 1, "one accumulator is bound by latency"
    for loop in found:
        assert not re.search(r",\s*-?\d*\([^)]*\)$", loop, re.MULTILINE), "a store in a load-only loop"


@pytest.mark.parametrize("name", ["store", "copy"])
def test_stores_are_ordinary(name: str) -> None:
    kernel: Any = getattr(cpu_kernels, name)
    kernel(*([words(64)] if name == "store" else [words(64), words(64)]), 1)
    text = assembly(kernel, 8)
    assert not re.search(r"\bmem(?:set|cpy|move)\b", text)
    if X86:
        assert not re.search(r"\brep[a-z]*\s+(?:stos|movs)", text)
        assert not re.search(r"\bv?movnt", text), "non-temporal stores pass the caches by"
        assert loops(text, rf"mov\w+\s+%{ANY_VECTOR}\d+,.*\("), "no loop with vector stores"


@pytest.mark.parametrize("dtype", DTYPES)
def test_fma_runs_in_registers(dtype: type[Any]) -> None:
    itemsize = np.dtype(dtype).itemsize
    cpu_arithmetic.fma(
        random_operands(cpu_arithmetic.chain_elements(itemsize), dtype, seed=7, alignment=64), 0
    )
    if not X86:
        return
    suffix = "ps" if itemsize == 4 else "pd"
    operation = rf"{step(suffix)}\s.*%{VECTOR}"
    found = loops(assembly(cpu_arithmetic.fma, itemsize), operation)
    assert found
    for loop in found:
        assert len(re.findall(operation, loop)) % cpu_arithmetic.CHAINS == 0
        assert "(" not in loop, "memory traffic in the inner loop"


@pytest.mark.parametrize("dtype", DTYPES)
def test_intensity_has_as_many_operations_as_are_counted(dtype: type[Any]) -> None:
    kernel: Any = cpu_arithmetic.intensity_kernel(5)
    kernel(random_operands(1024, dtype, seed=8, alignment=64), 1)
    if not X86:
        return
    suffix = "ps" if dtype is np.float32 else "pd"
    operation = step(suffix)
    found = loops(assembly(kernel, np.dtype(dtype).itemsize), operation)
    assert found, "the loop over elements is not vectorised"
    for loop in found:
        steps = len(re.findall(operation, loop))
        additions = len(re.findall(rf"\bv?add{suffix}", loop)) - (0 if FUSED else steps)
        assert steps == 5 * additions
