"""Binds the kernels of networks to the data of one thread: items, and what lies beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from profiler.network_work import (
    CHANNELS,
    HEAD,
    HIDDEN,
    IMAGE,
    INPUTS,
    ITEMS,
    KERNEL,
    POSITIONS,
    ROW,
    SAMPLES,
    SIDE,
    WEIGHTS,
)
from profiler.workloads import cpu_network
from profiler.workloads.cpu_data import random_operands

_KERNELS: dict[str, tuple[Any, tuple[int, ...], int]] = {
    "softmax": (cpu_network.softmax, (ROW,), 0),
    "layernorm": (cpu_network.layernorm, (ROW,), 0),
    "convolution": (cpu_network.convolution, (CHANNELS, IMAGE, KERNEL), CHANNELS**2 * KERNEL**2),
    "attention": (cpu_network.attention, (POSITIONS, HEAD), POSITIONS**2),
    "adam": (cpu_network.adam, (ROW,), 0),
    "training-step": (
        cpu_network.training_step,
        (SAMPLES, INPUTS, HIDDEN),
        2 * SAMPLES * HIDDEN + SAMPLES * INPUTS + WEIGHTS,
    ),
    "matmul": (cpu_network.matmul, (SIDE,), 0),
}
"""Function, its sizes, and the floats beside the items, which stay in the first level."""


def network_loop(kernel: str, size_bytes: int, *, alignment: int, seed: int) -> Callable[[int], object]:
    """Allocate one thread's items and bind the kernel to them; arguments as for ``network_arrays``."""
    function, arrays, sizes = network_arrays(kernel, size_bytes, alignment=alignment, seed=seed)
    return lambda loops: function(*arrays, loops, *sizes)


def network_arrays(
    kernel: str, size_bytes: int, *, alignment: int, seed: int
) -> tuple[Any, list[NDArray[Any]], tuple[int, ...]]:
    """A kernel, its arrays and its sizes: ``kernel(*arrays, loops, *sizes)``.

    Args:
        kernel: one of ``profiler.network_work.ITEMS``.
        size_bytes: of the items, a whole number of them.
        alignment: of the first byte, in bytes.
        seed: of the operands.
    """
    function, sizes, beside = _KERNELS[kernel]
    items = random_operands(size_bytes // 4, np.float32, seed=seed, alignment=alignment)
    _make_second_moments_positive(kernel, items)
    arrays = [items]
    if beside:
        arrays.append(random_operands(beside, np.float32, seed=seed + 1, alignment=alignment))
    return function, arrays, sizes


def _make_second_moments_positive(kernel: str, items: NDArray[Any]) -> None:
    weights = {"adam": ROW, "training-step": WEIGHTS}.get(kernel)
    if weights is None:
        return
    by_item = items.reshape(-1, ITEMS[kernel].size_bytes // 4)
    moments = by_item[:, 2 * weights : 3 * weights]
    np.abs(moments, out=moments)
