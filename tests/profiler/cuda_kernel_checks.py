"""Run by test_cuda_kernels under Triton's interpreter: one check of one kernel per process."""

from __future__ import annotations

import sys

import numpy as np
import torch

from profiler.workloads import cuda_kernels as kernels

PROGRAMS, LINES, LINE, BLOCK = 3, 8, 4, 16
GRID = (PROGRAMS,)
SIZE = PROGRAMS * LINES * LINE


def numbers() -> torch.Tensor:
    return torch.randint(-(2**62), 2**62, (SIZE,), generator=torch.Generator().manual_seed(1))


def wrapped_sum(values: np.ndarray) -> int:
    return int(values.astype(np.uint64).sum(dtype=np.uint64).astype(np.int64))


def load() -> None:
    """A share that is no multiple of the block, two loops, alone and shared."""
    data, sums = numbers(), torch.empty(PROGRAMS, dtype=torch.int64)
    for shared in (False, True):
        kernels.load[GRID](data, sums, 7, 2, shared=shared, line_elements=LINE, block=BLOCK, cache=".cg")
        for program in range(PROGRAMS):
            start = 0 if shared else program * 7 * LINE
            share = data.numpy()[start : start + 7 * LINE]
            assert int(sums[program]) == wrapped_sum(np.tile(share, 2))


def store() -> None:
    data = numbers()
    before = data.clone()
    kernels.store[(2,)](data, 7, 1, line_elements=LINE, block=BLOCK)
    written = 2 * 7 * LINE
    assert bool((data[:written] != before[:written]).all())
    assert torch.equal(data[written:], before[written:])
    once = data.clone()
    kernels.store[(2,)](data, 7, 2, line_elements=LINE, block=BLOCK)
    assert bool((data[:written] != once[:written]).all())


def copy() -> None:
    data = numbers()
    before = data.clone().view(PROGRAMS, 2, SIZE // PROGRAMS // 2)
    kernels.copy[GRID](data, LINES // 2, 1, line_elements=LINE, block=BLOCK, cache="")
    after = data.view_as(before)
    assert torch.equal(after[:, 0], before[:, 0])
    keys = after[:, 1] ^ before[:, 0]
    assert bool((keys == keys[0, 0]).all())
    assert int(keys[0, 0]) != 0


def gather() -> None:
    """One element of every line, whatever the order."""
    data, sums = numbers(), torch.empty(PROGRAMS, dtype=torch.int64)
    kernels.gather[GRID](data, sums, LINES, 2, 3, line_elements=LINE, block=8, cache=".cg")
    firsts = data.numpy().reshape(PROGRAMS, LINES, LINE)[:, :, 0]
    for program in range(PROGRAMS):
        assert int(sums[program]) == wrapped_sum(np.tile(firsts[program], 3))


def scatter() -> None:
    data = numbers()
    before = data.clone().view(PROGRAMS, LINES, LINE)
    kernels.scatter[GRID](data, LINES, 2, 3, line_elements=LINE, block=4, cache=".cg")
    after = data.view_as(before)
    assert torch.equal(after[:, :, 1:], before[:, :, 1:])
    assert bool((after[:, :, 0] - before[:, :, 0] == 3 * 0x9E3779B9).all())


def fma() -> None:
    """Against the same map in double precision, for few steps, before chaos takes over."""
    for dtype, steps, tolerance in ((torch.float64, 12, 1e-9), (torch.float32, 4, 1e-4)):
        state = torch.linspace(-0.99, 0.97, PROGRAMS * BLOCK, dtype=dtype)
        expected = state.double().clone()
        for _ in range(2 * steps):
            expected = expected * expected - 1.9
        kernels.fma[GRID](state, 2, 0, steps=steps, block=BLOCK)
        torch.testing.assert_close(state.double(), expected, rtol=tolerance, atol=1e4 * tolerance)
        assert bool((state.abs() < 1.96).all())


def fma_on_zeros() -> None:
    for dtype in (torch.float64, torch.float32):
        state = torch.zeros(PROGRAMS * BLOCK, dtype=dtype)
        kernels.fma[GRID](state, 2, 1, steps=4, block=BLOCK)
        assert not bool(state.any())


def triad() -> None:
    """Two loops end with the second sign of the scale; the sources stay."""
    data = torch.randn(PROGRAMS * 6 * LINE, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before = data.clone().view(PROGRAMS, 3, 2 * LINE)
    kernels.triad[GRID](data, 2, 2, line_elements=LINE, block=BLOCK, cache=".cg")
    after = data.view_as(before)
    assert torch.equal(after[:, :2], before[:, :2])
    torch.testing.assert_close(after[:, 2], before[:, 0] + 0.5 * before[:, 1], rtol=1e-15, atol=1e-15)


def sparse_update() -> None:
    """The kept of every chunk, and no others; chunks that are no multiple of those walked together."""
    chunk, kept, chunks = 64, 8, 5
    places = torch.tensor([0, 1, 9, 17, 30, 31, 62, 63], dtype=torch.int32)
    gradients = torch.linspace(0.5, 1, kept)
    weights = torch.randn(PROGRAMS * chunks * chunk, generator=torch.Generator().manual_seed(3))
    before = weights.clone().view(-1, chunk)
    kernels.sparse_update[GRID](weights, places, gradients, chunks, 1, chunk=chunk, kept=kept, together=4)
    expected = before.clone()
    expected[:, places.long()] -= 1e-3 * gradients
    torch.testing.assert_close(weights.view_as(before), expected, rtol=1e-6, atol=1e-7)
    kernels.sparse_update[GRID](weights, places, gradients, chunks, 2, chunk=chunk, kept=kept, together=4)
    torch.testing.assert_close(weights.view_as(before), expected, rtol=1e-6, atol=1e-7)


def dot() -> None:
    """Each pair of products leaves the sums as they were; integers exactly."""
    for dtype, summed in ((torch.float16, torch.float32), (torch.int8, torch.int32)):
        left = torch.randint(-5, 6, (16 * 32,)).to(dtype)
        right = torch.randint(-5, 6, (32 * 16,)).to(dtype)
        sums = torch.randint(-100, 100, (PROGRAMS * 16 * 16,)).to(summed)
        before = sums.clone()
        kernels.dot[GRID](left, right, sums, 3, rows=16, columns=16, depth=32, precision="tf32")
        assert torch.equal(sums, before)


def intensity() -> None:
    data = torch.linspace(-0.99, 0.97, SIZE, dtype=torch.float64)
    sums = torch.empty(PROGRAMS, dtype=torch.float64)
    kernels.intensity[GRID](
        data, sums, LINES, 2, fma_per_element=3, line_elements=LINE, block=BLOCK, cache=".cg"
    )
    stepped = data.numpy().reshape(PROGRAMS, -1)
    for _ in range(3):
        stepped = stepped * stepped - 1.9
    # Lanes beyond a share would add the orbit of 0; here shares are whole blocks.
    np.testing.assert_allclose(sums.numpy(), 2 * stepped.sum(axis=1), rtol=1e-9)


def spin() -> None:
    states = torch.arange(1, 33, dtype=torch.int32)
    kernels.spin[(1,)](states, 5, block=32)
    expected = np.arange(1, 33, dtype=np.uint32)
    for _ in range(5):
        expected ^= expected << np.uint32(13)
        expected ^= expected >> np.uint32(17)
        expected ^= expected << np.uint32(5)
    assert np.array_equal(states.numpy().view(np.uint32), expected)


def every_line() -> None:
    """Marks of a scatter: every line exactly once per loop, for many powers of two."""
    for bits in range(1, 11):
        lines = 2**bits
        data = torch.zeros(lines * LINE, dtype=torch.int64)
        shift = max(1, lines.bit_length() // 2)
        kernels.scatter[(1,)](data, lines, shift, 2, line_elements=LINE, block=min(lines, 64), cache=".cg")
        assert bool((data.view(-1, LINE)[:, 0] == 2 * 0x9E3779B9).all()), lines


if __name__ == "__main__":
    globals()[sys.argv[1]]()
