"""Kernels that move data or keep a core awake, each with work that can be counted exactly.

Every kernel takes a number of loops, so that a window of many seconds is one call without the
interpreter. Arithmetic is on unsigned integers: it costs no FLOP, and it cannot be left out, because
each result goes into a sum that is returned or into memory.

Counted is what the program asks for. What the hardware moves beyond it (lines that a prefetcher guessed
wrong, clean lines that a victim cache takes in) is not counted: the fitted cost of a byte contains it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.workloads.compiled import compiled, compiled_fused

Elements = NDArray[np.uint64]
Floats = NDArray[np.float64]

TRIAD_FACTOR = 0.4142135623730951

SPIN_STEPS = 500_000
"""Steps of one loop of ``spin``: six dependent one-cycle operations each, about 1 ms at 3 GHz."""

WEYL = np.uint64(0x9E37_79B9_7F4A_7C15)
"""2⁶⁴ divided by the golden ratio, odd: its multiples run through all integers and look random."""

_MIX = np.uint64(0xBF58_476D_1CE4_E5B9)
_SEED = np.uint64(0x2545_F491_4F6C_DD1D)


@compiled
def spin(loops: int) -> Any:
    """Keep a core awake with nothing but a chain of shifts in one register (xorshift64, Marsaglia 2003)."""
    state = _SEED
    for _ in range(loops * SPIN_STEPS):
        state ^= state << np.uint64(13)
        state ^= state >> np.uint64(7)
        state ^= state << np.uint64(17)
    return state


@compiled
def load(elements: Elements, loops: int) -> Any:
    """Read every element once per loop; returns the sum of all that was read."""
    total = np.uint64(0)
    for _ in range(loops):
        for index in range(elements.size):
            total += elements[index]
    return total


@compiled
def store(elements: Elements, loops: int) -> Any:
    """Write every element once per loop, each time another value; returns the value after the last."""
    value = _SEED
    for _ in range(loops):
        for index in range(elements.size):
            elements[index] = value
            value += WEYL
    return value


@compiled
def copy(source: Elements, target: Elements, loops: int) -> Any:
    """Read every element of ``source`` and write it, changed, to ``target``; returns the last key."""
    key = _SEED
    for _ in range(loops):
        key += WEYL
        for index in range(source.size):
            target[index] = source[index] ^ key
    return key


@compiled_fused
def triad(source: Floats, other: Floats, target: Floats, loops: int) -> Any:
    """Write ``source + factor · other`` to ``target`` (McCalpin's STREAM); the factor's sign changes.

    Returns the factor of the next loop.
    """
    factor = TRIAD_FACTOR
    for _ in range(loops):
        for index in range(target.size):
            target[index] = source[index] + factor * other[index]
        factor = -factor
    return factor


@compiled
def random_line(index: Any, multiplier: Any, shift: Any, mask: Any) -> Any:
    """The line that comes ``index``-th in a random order of ``mask + 1`` lines, a power of two.

    A generator of full period (i·m + w modulo a power of two, m odd), scrambled by steps that can be
    undone (xor with its own upper half, multiplication by an odd number), so that every line comes once.
    No step waits for the one before, so many loads are in flight.
    """
    line = (index * multiplier + WEYL) & mask
    line ^= line >> shift
    line = (line * _MIX) & mask
    return line ^ (line >> shift)


@compiled
def gather(elements: Elements, loops: int, elements_per_line: int, shift: int) -> Any:
    """Read one element of every line once per loop, in another random order each loop; returns the sum."""
    stride = np.uint64(elements_per_line)
    mask = np.uint64(elements.size) // stride - np.uint64(1)
    half = np.uint64(shift)
    multiplier, total = _SEED, np.uint64(0)
    for _ in range(loops):
        multiplier *= WEYL
        for index in range(mask + np.uint64(1)):
            total += elements[random_line(index, multiplier, half, mask) * stride]
    return total


@compiled
def scatter(elements: Elements, loops: int, elements_per_line: int, shift: int) -> Any:
    """Change one element of every line once per loop, in the order of ``gather``; returns the last factor."""
    stride = np.uint64(elements_per_line)
    mask = np.uint64(elements.size) // stride - np.uint64(1)
    half = np.uint64(shift)
    multiplier = _SEED
    for _ in range(loops):
        multiplier *= WEYL
        for index in range(mask + np.uint64(1)):
            elements[random_line(index, multiplier, half, mask) * stride] += WEYL
    return multiplier


@compiled
def link(elements: Elements, elements_per_line: int, shift: int) -> None:
    """Write into the first element of every line where the next line of a random cycle begins."""
    stride = np.uint64(elements_per_line)
    lines = np.uint64(elements.size) // stride
    half, mask = np.uint64(shift), lines - np.uint64(1)
    place = random_line(mask, _SEED, half, mask)
    for index in range(lines):
        next_line = random_line(index, _SEED, half, mask)
        elements[place * stride] = next_line * stride
        place = next_line


@compiled
def chase(elements: Elements, start: Any, steps: int) -> Any:
    """Go from line to line as ``link`` wrote it; each step waits for the load before. Returns the place."""
    place = np.uint64(start)
    for _ in range(steps):
        place = elements[place]
    return place


@compiled
def empty() -> None:
    """Nothing: the cost of calling it is the cost of a launch."""
