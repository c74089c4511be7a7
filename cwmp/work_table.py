"""Works as numbers: adding up what a mask costs, many times in a round, needs no object for each tensor.

What keeping coordinates takes is linear in what they touch, so ``op_counts`` counts one coordinate, one line,
one row and one byte of a message of each tensor once, and arrays do the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self, overload

import numpy as np
from numpy.typing import NDArray

from calibration_data import TERMS, MemoryHierarchy, Work
from cwmp.op_counts import Touched, apply_work, pack_work
from cwmp.tensors import TensorLayout, residence

Reals = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class WorkTable(Sequence[Work]):
    """Works that follow each other.

    Attributes:
        amounts: of each work and term, in the order of ``TERMS`` and its units, shape (works, terms).
    """

    amounts: Reals

    @classmethod
    def of(cls, works: Iterable[Work]) -> Self:
        """A table of some works."""
        if isinstance(works, cls):
            return works
        return cls(np.array([[work[name] for name in TERMS] for work in works]).reshape(-1, len(TERMS)))

    def __len__(self) -> int:
        return len(self.amounts)

    @overload
    def __getitem__(self, place: int) -> Work: ...

    @overload
    def __getitem__(self, place: slice) -> WorkTable: ...

    def __getitem__(self, place: int | slice) -> Work | WorkTable:
        return WorkTable(self.amounts[place]) if isinstance(place, slice) else _work(self.amounts[place])

    def followed_by(self, other: WorkTable) -> WorkTable:
        """These works, then those."""
        return WorkTable(np.concatenate([self.amounts, other.amounts]))

    @property
    def total(self) -> Work:
        """Their sum, added up in their order."""
        return _work(self.amounts.sum(axis=0))


def _work(amounts: Reals) -> Work:
    return Work.in_order(
        {name: amount for name, amount in zip(TERMS, amounts.tolist(), strict=True) if amount}
    )


@dataclass(frozen=True, eq=False)
class UnitWork:
    """Work of one of everything that keeping coordinates of some tensors touches.

    Attributes:
        pair_byte: of a byte of a (value, index) pair, shape (terms,).
        kept: of applying one coordinate of each tensor, shape (tensors, terms).
        line: of one line of each tensor.
        row: of one DRAM row of each tensor.
    """

    pair_byte: Reals
    kept: Reals
    line: Reals
    row: Reals

    @classmethod
    def of(cls, layouts: Sequence[TensorLayout], memory: MemoryHierarchy, optimizer_streams: int) -> Self:
        """What ``op_counts`` counts of each."""

        def applied(touched: Touched) -> Reals:
            return WorkTable.of(
                apply_work(
                    layout, residence(layout, memory, optimizer_streams), memory, touched, optimizer_streams
                )
                for layout in layouts
            ).amounts

        return cls(
            pair_byte=WorkTable.of([pack_work(memory, 1.0)]).amounts[0],
            kept=applied(Touched(kept=1, lines=0, rows=0)),
            line=applied(Touched(kept=0, lines=1, rows=0)),
            row=applied(Touched(kept=0, lines=0, rows=1)),
        )

    def pack(self, touched: Sequence[Touched], pair_bytes: Sequence[float]) -> WorkTable:
        """Packing what is kept of each tensor, in pairs of so many bytes."""
        packed_bytes = [part.kept * pair for part, pair in zip(touched, pair_bytes, strict=True)]
        return WorkTable(np.outer(packed_bytes, self.pair_byte))

    def apply(self, touched: Sequence[Touched]) -> WorkTable:
        """Updating what is kept of each tensor."""
        counts = np.array([(part.kept, part.lines, part.rows) for part in touched], dtype=np.float64)
        kept, lines, rows = counts.T[:, :, None]
        return WorkTable(kept * self.kept + lines * self.line + rows * self.row)
