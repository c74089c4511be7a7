"""What an operator call works on: tensors that it reads, overwrites, and makes.

Read from its schema and from the storages of its tensors, so that views, in-place operators and ``out=``
need no list of names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._pytree import tree_leaves

_UNINITIALISED = ("aten::empty", "aten::new_empty")
"""Allocating without writing; every other factory writes what it makes."""

_OVERWRITES = frozenset(
    f"aten::{name}_"
    for name in (
        "bernoulli", "cauchy", "copy", "exponential", "fill", "geometric", "log_normal", "normal", "random",
        "uniform", "zero", "_foreach_copy", "_foreach_zero",
    )
)  # fmt: skip
"""In-place operators whose result does not depend on what was there before; schemas do not tell."""


@dataclass(frozen=True, kw_only=True)
class Operands:
    """Tensors of one operator call, each once, sparse ones as their indices and values.

    Attributes:
        named: arguments by the names of the schema.
        read: tensors that the operator reads.
        overwritten: arguments that it writes without reading.
        updated: arguments that it reads and writes; also in ``read``.
        made: results in storages of their own.
        opaque: whether the bytes of some tensor cannot be seen (nested, blocked and other layouts).
    """

    named: Mapping[str, Any]
    read: tuple[Tensor, ...]
    overwritten: tuple[Tensor, ...]
    updated: tuple[Tensor, ...]
    made: tuple[Tensor, ...]
    opaque: bool

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Every tensor once."""
        return self.read + self.overwritten + self.made


def operands(
    func: OpOverload, args: Sequence[Any], kwargs: Mapping[str, Any], output: object
) -> Operands | None:
    """Tensors of a call, or None if it moves nothing: a view, a change of shape, an allocation, a marker."""
    if func._schema.name.startswith(_UNINITIALISED) or torch.Tag.inplace_view in func.tags:
        return None
    arguments = func._schema.arguments
    named = {argument.name: value for argument, value in zip(arguments, args, strict=False)} | dict(kwargs)
    written_names = {a.name for a in arguments if a.alias_info is not None and a.alias_info.is_write}
    out_names = {a.name for a in arguments if a.is_out}
    overwritten_names = written_names if func._schema.name in _OVERWRITES else out_names
    given, given_opaque = _plain(named.values())
    results, results_opaque = _plain([output])
    known = {storage_of(tensor) for tensor in given}
    made = tuple(tensor for tensor in results if storage_of(tensor) not in known)
    opaque = given_opaque or results_opaque
    if not (given or results or opaque) or _is_view(func, results, made, opaque):
        return None
    overwritten, _ = _plain(named[name] for name in overwritten_names if name in named)
    updated, _ = _plain(named[name] for name in written_names - overwritten_names if name in named)
    skipped = {_place(tensor) for tensor in overwritten}
    return Operands(
        named=named,
        read=tuple(tensor for tensor in given if _place(tensor) not in skipped),
        overwritten=overwritten,
        updated=updated,
        made=made,
        opaque=opaque,
    )


def storage_of(tensor: Tensor) -> int:
    """Identity of the memory that a tensor lives in."""
    return int(tensor.untyped_storage()._cdata)


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor; an expanded one has no more than its storage holds."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def _is_view(func: OpOverload, results: Sequence[Tensor], made: Sequence[Tensor], opaque: bool) -> bool:
    """Whether the results are the arguments in another shape, by the schema and by where they live.

    Some views are not declared as such (``_unsafe_view``).
    """
    if func._schema.is_mutable:
        return False
    return func.is_view if opaque or not results else not made


def _plain(trees: Iterable[object]) -> tuple[tuple[Tensor, ...], bool]:
    """Strided tensors in some trees, each once, and whether there are others."""
    found: dict[tuple[object, ...], Tensor] = {}
    opaque = False
    for leaf in tree_leaves(list(trees)):
        if isinstance(leaf, Tensor):
            parts = _strided(leaf)
            opaque = opaque or not parts
            found.update((_place(part), part) for part in parts)
    return tuple(found.values()), opaque


def _strided(tensor: Tensor) -> tuple[Tensor, ...]:
    """The tensor, or the parts that a sparse one consists of; nothing if its memory cannot be seen."""
    if tensor.layout == torch.sparse_coo:
        return tensor._indices(), tensor._values()
    if tensor.layout in (torch.sparse_csr, torch.sparse_bsr):
        return tensor.crow_indices(), tensor.col_indices(), tensor.values()
    if tensor.layout in (torch.sparse_csc, torch.sparse_bsc):
        return tensor.ccol_indices(), tensor.row_indices(), tensor.values()
    if tensor.layout != torch.strided or tensor.is_nested:
        return ()
    return (tensor,)


def _place(tensor: Tensor) -> tuple[object, ...]:
    return (
        storage_of(tensor),
        tensor.storage_offset(),
        tuple(tensor.shape),
        tuple(tensor.stride()),
        tensor.dtype,
    )
