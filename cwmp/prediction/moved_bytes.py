"""Bytes that an operator call moves, by memory level.

    dense    reads what it reads and writes what it writes, once, at the smallest level that holds all its
             tensors together; a cached store first reads the line that it will overwrite
    by index reads or updates only the places that the indices name, in whole lines, where the indexed
             tensor lives; each place is a random line of the DRAM if it lives there

The convention is that of the microbenchmarks (``profiler.microbenchmark.traffic``): the first level is
charged what the core loads and stores, every further one the lines that pass it. What an operator moves
inside, such as tiles that pass a cache more than once, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from calibration_data import MemoryHierarchy, Work
from cwmp.prediction.operands import Operands, bytes_of
from profiler.microbenchmark import traffic


@dataclass(frozen=True, kw_only=True)
class Indexed:
    """Access to some places of a tensor.

    Attributes:
        tensor: the indexed tensor.
        places: stretches of neighbours that are touched, each at an address of its own.
        place_bytes: length of one.
        updates: whether they are written too.
    """

    tensor: Tensor
    places: float
    place_bytes: float
    updates: bool

    @property
    def element_bytes(self) -> float:
        """What the core loads; it stores as much again if it updates."""
        return self.places * self.place_bytes

    def line_bytes(self, memory: MemoryHierarchy) -> float:
        """Whole lines that travel in one direction."""
        return self.places * math.ceil(self.place_bytes / memory.line_bytes) * memory.line_bytes


def moved_work(name: str, given: Operands, memory: MemoryHierarchy) -> Work:
    """Bytes by level and random lines of one call.

    Args:
        name: of the operator, as in ``aten::addmm``.
        given: its tensors.
        memory: of the device.
    """
    indexed = _indexed(name, given)
    apart = indexed.tensor if indexed else None
    read_bytes = _total(tensor for tensor in given.read if tensor is not apart)
    stored_bytes = _total(tensor for tensor in given.updated if tensor is not apart)
    stored_bytes += _total(given.overwritten + given.made)
    # A line that is written without having been read is read first (write-allocate).
    allocated_bytes = _total(given.overwritten + given.made)
    element_bytes: float = read_bytes + stored_bytes
    read_lines_bytes: float = read_bytes + allocated_bytes
    written_lines_bytes: float = stored_bytes
    level = level_of(_total(given.all), memory)
    work = Work()
    if indexed:
        both = 2 if indexed.updates else 1
        element_bytes += both * indexed.element_bytes
        read_lines_bytes += indexed.line_bytes(memory)
        written_lines_bytes += indexed.line_bytes(memory) * (both - 1)
        work = Work({"line_random_dram": indexed.places if level == "dram" else 0})
    return work + traffic(
        memory,
        level,
        element_bytes=element_bytes,
        read_bytes=read_lines_bytes,
        written_bytes=written_lines_bytes,
    )


def level_of(working_set_bytes: int, memory: MemoryHierarchy) -> str:
    """The nearest memory level that holds that many bytes."""
    sizes = {"l1": memory.l1_bytes, "l2": memory.l2_bytes, "llc": memory.llc_bytes}
    for level in memory.levels:
        size = sizes.get(level)
        if size is not None and working_set_bytes <= size:
            return level
    return "dram"


def _total(tensors: Iterable[Tensor]) -> int:
    return sum(bytes_of(tensor) for tensor in tensors)


def _indexed(name: str, given: Operands) -> Indexed | None:
    how = _BY_INDEX.get(name)
    return how(given) if how else None


def _embedding(given: Operands) -> Indexed:
    table, indices = given.named["weight"], given.named["indices"]
    return _stretches(table, indices.numel(), table.shape[1:], updates=False)


def _embedding_backward(given: Operands) -> Indexed:
    """Rows are added to the zeros that were written before."""
    table = _result(given)
    return _stretches(table, given.named["indices"].numel(), table.shape[1:], updates=True)


def _along(size_of: str, *, updates: bool) -> Callable[[Operands], Indexed]:
    """Slices of ``self`` at indices along ``dim``; their number follows from the elements of an argument."""

    def access(given: Operands) -> Indexed:
        table = given.named["self"]
        after = tuple(table.shape)[given.named["dim"] % max(table.dim(), 1) + 1 :]
        elements = (_result(given) if size_of == "result" else given.named[size_of]).numel()
        return _stretches(table, elements / max(math.prod(after), 1), after, updates=updates)

    return access


def _fill_along(given: Operands) -> Indexed:
    table, dim = given.named["self"], given.named["dim"]
    shape = tuple(table.shape)
    dim %= max(len(shape), 1)
    slices = given.named["index"].numel() * math.prod(shape[:dim])
    return _stretches(table, slices, shape[dim + 1 :], updates=True)


def _elements(*, updates: bool) -> Callable[[Operands], Indexed]:
    """Single elements of ``self``, one for each index."""
    return lambda given: _stretches(given.named["self"], given.named["index"].numel(), (), updates=updates)


def _tensor_indices(*, updates: bool) -> Callable[[Operands], Indexed]:
    """Slices of ``self`` at tensors of indices or at a mask, which may leave dimensions out."""

    def access(given: Operands) -> Indexed:
        table, indices = given.named["self"], given.named["indices"]
        used = sum(1 if index is None else _dimensions(index) for index in indices)
        after = tuple(table.shape)[used:]
        elements = (given.named["values"] if updates else _result(given)).numel()
        counts = [index.numel() for index in indices if index is not None and not _is_mask(index)]
        slices = max([elements / max(math.prod(after), 1), *counts])
        return _stretches(table, slices, after, updates=updates)

    return access


def _dimensions(index: Tensor) -> int:
    return index.dim() if _is_mask(index) else 1


def _is_mask(index: Tensor) -> bool:
    return index.dtype in (torch.bool, torch.uint8)


def _result(given: Operands) -> Tensor:
    return (given.made + given.overwritten)[0]


def _stretches(table: Tensor, places: float, shape: Iterable[int], *, updates: bool) -> Indexed:
    place_bytes = math.prod(shape) * table.element_size()
    return Indexed(tensor=table, places=places, place_bytes=place_bytes, updates=updates)


_BY_INDEX: Mapping[str, Callable[[Operands], Indexed]] = {
    "aten::embedding": _embedding,
    "aten::_embedding_bag": _embedding,
    "aten::_embedding_bag_forward_only": _embedding,
    "aten::embedding_dense_backward": _embedding_backward,
    "aten::index_select": _along("result", updates=False),
    "aten::index_add_": _along("source", updates=True),
    "aten::index_copy_": _along("source", updates=True),
    "aten::index_fill_": _fill_along,
    "aten::index": _tensor_indices(updates=False),
    "aten::index_put_": _tensor_indices(updates=True),
    "aten::_index_put_impl_": _tensor_indices(updates=True),
    "aten::gather": _elements(updates=False),
    "aten::take": _elements(updates=False),
    "aten::scatter_": _elements(updates=True),
    "aten::scatter_add_": _elements(updates=True),
    "aten::scatter_reduce_": _elements(updates=True),
}
"""Operators that touch only some places of a tensor; all others go through the whole of theirs."""
