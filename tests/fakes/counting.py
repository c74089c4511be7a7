"""Runs the source of kernels on numbers that count: FLOP, accesses, and bytes through caches.

With the compiler switched off the kernels are ordinary Python, so that every operation and every access of
the program as written passes through here. Run as a script it prints the counts of one loop as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["NUMBA_DISABLE_JIT"] = "1"

import numpy as np

from fakes.lru_cache import Cache

FLOATS_PER_LINE = 16
BIT_OPERATIONS = ("absolute", "negative")
COMPARISONS = ("greater", "less", "greater_equal", "less_equal")


class Counter:
    """What has happened; the cache is a first level of 32 KiB, above a second of 256 KiB."""

    def __init__(self) -> None:
        self.below = Cache(4096, None)
        self.cache = Cache(512, self.below)
        self.forget()

    def forget(self) -> None:
        """Count from here on; what the caches hold stays."""
        self.flop = self.accesses = 0
        for cache in (self.cache, self.below):
            cache.read_bytes = cache.written_bytes = 0

    def access(self, address: int, *, write: bool) -> None:
        self.accesses += 1
        self.cache.access(address // FLOATS_PER_LINE, write=write)


class Number(np.lib.mixins.NDArrayOperatorsMixin):
    """A float whose every operation counts as one FLOP."""

    def __init__(self, value: float, counter: Counter) -> None:
        self.value, self.counter = value, counter

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = None) -> Any:
        self.counter.flop += ufunc.__name__ not in BIT_OPERATIONS
        result = ufunc(*(x.value if isinstance(x, Number) else x for x in inputs))
        return bool(result) if ufunc.__name__ in COMPARISONS else Number(result, self.counter)


class Array:
    """A contiguous array of floats, or of indices, at an address; slices are views."""

    def __init__(self, values: Any, address: int, counter: Counter) -> None:
        self.values, self.address, self.counter = values, address, counter
        self.size = values.size

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            start = index.start or 0
            return Array(self.values[index], self.address + start, self.counter)
        self.counter.access(self.address + index, write=False)
        value = self.values[index]
        return int(value) if isinstance(value, np.integer) else Number(value, self.counter)

    def __setitem__(self, index: int, value: Any) -> None:
        self.counter.access(self.address + index, write=True)
        self.values[index] = value.value if isinstance(value, Number) else value


def count(kernel: str) -> dict[str, float]:
    """Counts of one loop over items that are too many for the cache, each item alone is not."""
    from profiler.network_work import ITEMS
    from profiler.workloads.cpu_network_loops import network_arrays

    counter = Counter()
    items = max(3, 40_000 // ITEMS[kernel].size_bytes)
    function, arrays, sizes = network_arrays(kernel, items * ITEMS[kernel].size_bytes, alignment=64, seed=1)
    arrays = [Array(array, number << 20, counter) for number, array in enumerate(arrays)]
    function(*arrays, 1, *sizes)
    # The items come back when the others have passed; scratch memory and weights stay.
    cache = counter.cache
    of_items = [line for line in cache.dirty if line < 1 << 16]
    beside = 4 * sum(array.size for array in arrays[1:])
    return {
        "flop": counter.flop / items,
        "element_bytes": 4 * counter.accesses / items,
        "read_bytes": (cache.read_bytes - beside) / items,
        "written_bytes": (cache.written_bytes + 64 * sum(cache.dirty[line] for line in of_items)) / items,
    }


def count_sparse(kernel: str, density: float, size: int) -> dict[str, float]:
    """Counts of the second pass over a tensor of which more is touched than the second level holds."""
    from calibration_data import MemoryHierarchy
    from profiler.sparse_work import chunk_parts, chunk_size
    from profiler.workloads import cpu_sparse

    memory = MemoryHierarchy(l1_bytes=1 << 15, l2_bytes=1 << 18, llc_bytes=1 << 20, line_bytes=64, cores=1)
    counter = Counter()
    if kernel == "sparse-update":
        data = cpu_sparse.update_arrays(density, size, alignment=64, seed=1)
        function, sizes = cpu_sparse.sparse_update, [chunk_size(density)]
    else:
        data = cpu_sparse.compaction_arrays(density, size, memory, seed=1)
        function, sizes = (
            cpu_sparse.compaction,
            [chunk_size(density), chunk_parts(density), cpu_sparse.THRESHOLD],
        )
    arrays: list[Any] = [Array(array, number << 20, counter) for number, array in enumerate(data)]
    for _ in range(2):
        counter.forget()
        function(*arrays, 1, *sizes)
    return {
        "flop_fp32": counter.flop,
        "byte_l1": 4 * counter.accesses,
        "byte_l2": counter.cache.read_bytes + counter.cache.written_bytes,
        "byte_llc": counter.below.read_bytes + counter.below.written_bytes,
    }


def counted(name: str) -> dict[str, float]:
    """Counts of a kernel, or of ``kernel@density@bytes``."""
    kernel, *sparse = name.split("@")
    return count_sparse(kernel, float(sparse[0]), int(sparse[1])) if sparse else count(kernel)


if __name__ == "__main__":
    print(json.dumps({name: counted(name) for name in sys.argv[1:]}))
