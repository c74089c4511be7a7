"""The kernels of ``profiler.sparse_work`` for one core, and the data that keeps what was counted."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration_data import MemoryHierarchy
from profiler.sparse_work import KEPT, chunk_size, kept_places, ring_chunks
from profiler.workloads.compiled import compiled_fused
from profiler.workloads.cpu_data import random_operands, zeros

Floats = NDArray[np.float32]
Indices = NDArray[np.uint32]
Arrays = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]

ZERO, ONE = np.float32(0), np.float32(1)
RATE = np.float32(1e-3)
THRESHOLD = ONE
"""Operands lie in [1/2, 1); those of kept coordinates are doubled, into [1, 2)."""


@compiled_fused
def sparse_update(weights: Floats, indices: Indices, gradients: Floats, loops: int, chunk: int) -> None:
    """Step the kept weights of each chunk against their gradients, with another sign in each loop."""
    rate = RATE
    for _ in range(loops):
        rate = -rate
        for start in range(0, weights.size, chunk):
            part = weights[start : start + chunk]
            for place in range(indices.size):
                part[indices[place]] += rate * gradients[place]


@compiled_fused
def pack(gradients: Floats, values: Floats, indices: Indices, first: int, threshold: Any) -> int:
    """Write what is not below a threshold, and ``first`` plus its place, one behind the other; how many."""
    kept = 0
    for index in range(gradients.size):
        gradient = gradients[index]
        if abs(gradient) >= threshold:
            values[kept] = gradient
            indices[kept] = first + index
            kept += 1
    return kept


@compiled_fused
def compaction(
    gradients: Floats, values: Floats, indices: Indices, loops: int, chunk: int, parts: int, threshold: Any
) -> Any:
    """Pack a tensor into a buffer and read it back; returns the sums of the values and of their places.

    Args:
        gradients: whole chunks, each with as many to keep.
        values: buffer of those to keep of one or more whole chunks, written from the begin again at its end.
        indices: the same for their places in the tensor.
        loops: passes.
        chunk: coordinates of a chunk.
        parts: parts of a chunk after each of which the buffer is read back, before it leaves the first level.
        threshold: an argument, so that it stays in a register.
    """
    sent, addresses = ZERO, np.uint64(0)
    size, place = chunk // parts, 0
    for _ in range(loops):
        for start in range(0, gradients.size, size):
            if place == values.size:
                place = 0
            part = gradients[start : start + size]
            kept = pack(part, values[place:], indices[place:], start, threshold)
            for back in range(place, place + kept):
                sent += values[back]
                addresses += indices[back]
            place += kept
    return sent, addresses


def update_arrays(density: float, size_bytes: int, *, alignment: int, seed: int) -> Arrays:
    """Weights, kept places and their gradients; arguments as for ``random_operands``."""
    weights = random_operands(size_bytes // 4, np.float32, seed=seed, alignment=alignment)
    gradients = random_operands(KEPT, np.float32, seed=seed + 1, alignment=alignment)
    return weights, np.array(kept_places(density), np.uint32), gradients


def compaction_arrays(density: float, size_bytes: int, memory: MemoryHierarchy, *, seed: int) -> Arrays:
    """Gradients that keep the places drawn for each chunk, and the two halves of the buffer.

    Raises:
        ValueError: the buffer would lie between two levels.
    """
    chunks = ring_chunks(density, memory)
    if chunks is None:
        raise ValueError("the buffer of compaction has no level of its own on this device")
    gradients = random_operands(size_bytes // 4, np.float32, seed=seed, alignment=memory.line_bytes)
    gradients.reshape(-1, chunk_size(density))[:, list(kept_places(density))] *= 2
    values = random_operands(chunks * KEPT, np.float32, seed=seed + 1, alignment=memory.line_bytes)
    return gradients, values, zeros(values.size, np.uint32, alignment=memory.line_bytes)
