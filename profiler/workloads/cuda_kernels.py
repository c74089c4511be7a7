"""Kernels of a GPU in Triton, each with work that can be counted exactly; imported only where Triton is.

One program runs on one multiprocessor: a grid has at most as many programs as there are multiprocessors, and
the hardware spreads programs over free ones first. A kernel takes a number of loops, so that a window of many
seconds is one launch. What is read goes into sums that are stored at the end, so nothing can be left out.

Loads say which cache may keep what they read: nothing for all levels, ``.cg`` for the second alone, so that
data of the second level or of memory is never served by the first (PTX ISA, cache operators). Stores pass the
first level, which is written through, and stay in the second.

Triton compiles anew for some values of an argument (1, multiples of 16). Not so for the number of loops: what
was looked at is what runs, and no window contains a compilation.
"""

from __future__ import annotations

import triton
import triton.language as tl

MIX = tl.constexpr(0xBF58476D)
WEYL = tl.constexpr(0x9E3779B9)
"""2³² divided by the golden ratio, odd: its multiples run through all integers and look random."""

WEYL_64 = tl.constexpr(0x9E3779B97F4A7C15 - 2**64)
"""The same of 2⁶⁴, as a signed number."""

SEED = tl.constexpr(0x2545F491)
ADDEND = tl.constexpr(-1.9)
"""−c of the map x ← x·x − c, chaotic and bounded for |x| < 1.96 (see ``cpu_arithmetic``)."""


@triton.jit(do_not_specialize=["loops"])
def load(
    elements: tl.tensor,
    sums: tl.tensor,
    share_lines: tl.tensor,
    loops: tl.tensor,
    shared: tl.constexpr,
    line_elements: tl.constexpr,
    block: tl.constexpr,
    cache: tl.constexpr,
) -> None:
    """Read each element of the program's share (or of everything, if shared) once per loop."""
    program = tl.program_id(0)
    lane = tl.arange(0, block)
    share = share_lines * line_elements
    start = elements if shared else elements + program * share
    total = tl.zeros((block,), tl.int64)
    for _ in range(loops):
        for begin in range(0, share, block):
            place = begin + lane
            total += tl.load(start + place, mask=place < share, other=0, cache_modifier=cache)
    tl.store(sums + program, tl.sum(total))


@triton.jit(do_not_specialize=["loops"])
def store(
    elements: tl.tensor,
    share_lines: tl.tensor,
    loops: tl.tensor,
    line_elements: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """Write each element of the program's share once per loop, each time another value."""
    lane = tl.arange(0, block)
    share = share_lines * line_elements
    start = elements + tl.program_id(0) * share
    key = tl.full((), SEED, tl.int64)
    for _ in range(loops):
        for begin in range(0, share, block):
            key += WEYL_64
            place = begin + lane
            tl.store(start + place, place ^ key, mask=place < share)


@triton.jit(do_not_specialize=["loops"])
def copy(
    elements: tl.tensor,
    half_lines: tl.tensor,
    loops: tl.tensor,
    line_elements: tl.constexpr,
    block: tl.constexpr,
    cache: tl.constexpr,
) -> None:
    """Read each element of the first half of the share and write it, changed, to the second half."""
    lane = tl.arange(0, block)
    half = half_lines * line_elements
    source = elements + 2 * tl.program_id(0) * half
    target = source + half
    key = tl.full((), SEED, tl.int64)
    for _ in range(loops):
        key += WEYL_64
        for begin in range(0, half, block):
            place = begin + lane
            value = tl.load(source + place, mask=place < half, other=0, cache_modifier=cache)
            tl.store(target + place, value ^ key, mask=place < half)


@triton.jit(do_not_specialize=["loops"])
def triad(
    elements: tl.tensor,
    third_lines: tl.tensor,
    loops: tl.tensor,
    line_elements: tl.constexpr,
    block: tl.constexpr,
    cache: tl.constexpr,
) -> None:
    """Write a + s·b of the first two thirds of the share to the last, with another s in each loop."""
    lane = tl.arange(0, block)
    third = third_lines * line_elements
    source = elements + 3 * tl.program_id(0) * third
    scale = tl.full((), 0.5, tl.float64)
    for _ in range(loops):
        scale = -scale
        for begin in range(0, third, block):
            place = begin + lane
            a = tl.load(source + place, mask=place < third, other=0, cache_modifier=cache)
            b = tl.load(source + third + place, mask=place < third, other=0, cache_modifier=cache)
            tl.store(source + 2 * third + place, tl.fma(b, scale, a), mask=place < third)


@triton.jit(do_not_specialize=["loops"])
def sparse_update(
    weights: tl.tensor,
    indices: tl.tensor,
    gradients: tl.tensor,
    share_chunks: tl.tensor,
    loops: tl.tensor,
    chunk: tl.constexpr,
    kept: tl.constexpr,
    together: tl.constexpr,
) -> None:
    """Step the kept weights of each chunk against their gradients, with another sign in each loop.

    Places and gradients are the same in every chunk and stay in registers.
    """
    index = tl.load(indices + tl.arange(0, kept))
    gradient = tl.load(gradients + tl.arange(0, kept))
    start = weights + tl.program_id(0).to(tl.int64) * share_chunks * chunk
    rate = tl.full((), 1e-3, tl.float32)
    for _ in range(loops):
        rate = -rate
        for first in range(0, share_chunks, together):
            number = first + tl.arange(0, together)
            place = number.to(tl.int64)[:, None] * chunk + index[None, :]
            inside = (number < share_chunks)[:, None]
            weight = tl.load(start + place, mask=inside, other=0, cache_modifier=".cg")
            tl.store(start + place, tl.fma(gradient[None, :], rate, weight), mask=inside)


@triton.jit
def random_line(index: tl.tensor, multiplier: tl.tensor, shift: tl.tensor, mask: tl.tensor) -> tl.tensor:
    """The line that comes ``index``-th in a random order of ``mask + 1`` lines, a power of two.

    A generator of full period, scrambled by steps that can be undone: every line comes once.
    """
    line = (index * multiplier + WEYL) & mask
    line ^= line >> shift
    line = (line * MIX) & mask
    return line ^ (line >> shift)


@triton.jit(do_not_specialize=["loops"])
def gather(
    elements: tl.tensor,
    sums: tl.tensor,
    share_lines: tl.tensor,
    shift: tl.tensor,
    loops: tl.tensor,
    line_elements: tl.constexpr,
    block: tl.constexpr,
    cache: tl.constexpr,
) -> None:
    """Read one element of every line once per loop, in another random order each loop."""
    program = tl.program_id(0)
    lane = tl.arange(0, block)
    start = elements + program * share_lines * line_elements
    mask = (share_lines - 1).to(tl.uint32)
    half = shift.to(tl.uint32)
    multiplier = tl.full((), SEED, tl.uint32)
    total = tl.zeros((block,), tl.int64)
    for _ in range(loops):
        multiplier *= WEYL
        for begin in range(0, share_lines, block):
            line = random_line((begin + lane).to(tl.uint32), multiplier, half, mask)
            total += tl.load(start + line.to(tl.int64) * line_elements, cache_modifier=cache)
    tl.store(sums + program, tl.sum(total))


@triton.jit(do_not_specialize=["loops"])
def scatter(
    elements: tl.tensor,
    share_lines: tl.tensor,
    shift: tl.tensor,
    loops: tl.tensor,
    line_elements: tl.constexpr,
    block: tl.constexpr,
    cache: tl.constexpr,
) -> None:
    """Change one element of every line once per loop, in the order of ``gather``."""
    lane = tl.arange(0, block)
    start = elements + tl.program_id(0) * share_lines * line_elements
    mask = (share_lines - 1).to(tl.uint32)
    half = shift.to(tl.uint32)
    multiplier = tl.full((), SEED, tl.uint32)
    for _ in range(loops):
        multiplier *= WEYL
        for begin in range(0, share_lines, block):
            line = random_line((begin + lane).to(tl.uint32), multiplier, half, mask)
            place = start + line.to(tl.int64) * line_elements
            tl.store(place, tl.load(place, cache_modifier=cache) + WEYL)
        # Another thread has the line in the next loop.
        tl.debug_barrier()


@triton.jit(do_not_specialize=["rounds", "zeros"])
def fma(
    state: tl.tensor, rounds: tl.tensor, zeros: tl.tensor, steps: tl.constexpr, block: tl.constexpr
) -> None:
    """Step each element in registers: ``rounds·steps·block`` fused multiply-adds of each program.

    On zeros, if ``zeros`` is 1, with an addend that the compiler does not know either.
    """
    place = state + tl.program_id(0) * block + tl.arange(0, block)
    x = tl.load(place)
    addend = tl.full((block,), ADDEND, x.dtype) * (1 - zeros)
    for _ in range(rounds):
        for _step in tl.static_range(steps):
            x = tl.fma(x, x, addend)
    tl.store(place, x)


@triton.jit(do_not_specialize=["steps"])
def dot(
    left: tl.tensor,
    right: tl.tensor,
    sums: tl.tensor,
    steps: tl.tensor,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
    precision: tl.constexpr,
) -> None:
    """Add and take away one product of matrices, ``2·steps`` products of each program on its matrix units.

    By turns, so that the sums stay as large as they are while all their bits change.
    """
    row = tl.arange(0, rows)[:, None]
    column = tl.arange(0, columns)[None, :]
    a = tl.load(left + row * depth + tl.arange(0, depth)[None, :])
    b = tl.load(right + tl.arange(0, depth)[:, None] * columns + column)
    minus_b = -b
    place = sums + tl.program_id(0) * rows * columns + row * columns + column
    total = tl.load(place)
    for _ in range(steps):
        total = tl.dot(a, b, total, input_precision=precision, out_dtype=total.dtype)
        total = tl.dot(a, minus_b, total, input_precision=precision, out_dtype=total.dtype)
    tl.store(place, total)


@triton.jit(do_not_specialize=["loops"])
def intensity(
    elements: tl.tensor,
    sums: tl.tensor,
    share_lines: tl.tensor,
    loops: tl.tensor,
    fma_per_element: tl.constexpr,
    line_elements: tl.constexpr,
    block: tl.constexpr,
    cache: tl.constexpr,
) -> None:
    """Read each element once per loop, step it so often, and add it to a sum."""
    program = tl.program_id(0)
    lane = tl.arange(0, block)
    share = share_lines * line_elements
    start = elements + program * share
    total = tl.zeros((block,), elements.dtype.element_ty)
    addend = tl.full((block,), ADDEND, elements.dtype.element_ty)
    for _ in range(loops):
        for begin in range(0, share, block):
            place = begin + lane
            x = tl.load(start + place, mask=place < share, other=0, cache_modifier=cache)
            for _step in tl.static_range(fma_per_element):
                x = tl.fma(x, x, addend)
            total += x
    tl.store(sums + program, tl.sum(total))


@triton.jit(do_not_specialize=["steps"])
def spin(states: tl.tensor, steps: tl.tensor, block: tl.constexpr) -> None:
    """Keep a multiprocessor awake with a chain of shifts in one register (xorshift32, Marsaglia 2003)."""
    place = states + tl.program_id(0) * block + tl.arange(0, block)
    state = tl.load(place).to(tl.uint32)
    for _ in range(steps):
        state ^= state << 13
        state ^= state >> 17
        state ^= state << 5
    tl.store(place, state.to(tl.int32))


@triton.jit
def empty() -> None:
    """Nothing: the cost of launching it is the cost of a launch."""
