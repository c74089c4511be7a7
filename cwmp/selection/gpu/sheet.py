"""The sheet of integers that a selection sends to the GPU, and reads back filled in.

    octaves │ sample │ bins │ head │ rows by tensor │ the few │ sums by program
    ├────────────── sent ──────────────────────────┤
                            ├──────────────── read back ──────────────────────┤

Each copy makes the host wait about as long as ten kernels take to start, so there is one in each direction.
Real numbers travel as the bits of float64; joules and numbers of coordinates as shares of their sum, whole
numbers that add up to the same in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cwmp.selection.prefix import FEW

SHARES = 1 << 61
"""In how many shares a sum is counted."""
OCTAVES, BINS = 2048, 1024
"""Exponents of float64; bins of scores inside a bracket."""

HEAD, HEAD_SIZE = OCTAVES + 2 * BINS, 16
"""Where the head begins, and its size."""
(
    LIMIT,  # shares that may be spent
    KNOWN_LEAST,  # bits of the scores between which the threshold must lie
    KNOWN_MOST,
    LEAST,  # and is expected
    MOST,
    LOW,  # bits of the scores whose bins are filled, the first and the one behind the last
    HIGH,
    SHIFT,  # that makes a bin of what lies between
    BY_SLOT,  # whether bins are of places instead, the last place first
    BIN,  # in which the limit ends
    SPENT,  # shares of what is surely kept
    FULL,  # programs that found too much inside the bracket to look at
    FEW_FOUND,  # coordinates in that bin
    SAMPLE_LOW,  # bits of the lowest score whose bins the sample fills
    SAMPLE_ABOVE,  # shares of the sample above these bins
) = range(HEAD, HEAD + 15)
ROWS = HEAD + HEAD_SIZE
"""Where the rows begin, one number of each tensor in each."""
ADDRESS, PRICE, SHARE, SAMPLE_SHARE, LOW_KEY, HIGH_KEY, KEPT, WRONG, INSIDE, SETTLED = range(10)
"""Given: of the first coordinate; joules, and shares, of one coordinate; shares of one in the sample.
Found: keys of the bracket; coordinates above it, not finite, inside it, and surely kept of these."""
ROW_COUNT = 10
SUMS = 5
"""By program: Σ g² of all; Σ g² and Σ |g| above the bracket; Σ g² and Σ |g| of what is surely kept inside."""

Integers = NDArray[np.int64]


def in_shares(amounts: NDArray[np.float64], total: float) -> Integers:
    """Amounts as whole numbers of shares of their sum."""
    shares: Integers = (amounts / total * SHARES).astype(np.int64)
    return shares


def share_of(amount: float, total: float) -> int:
    """An amount in shares of a sum, at most that sum twice."""
    return int(max(min(amount / total, 2.0), 0.0) * (SHARES - 1))


def bits_of(score: float) -> int:
    """A score as an integer, in the same order."""
    return int(np.float64(score).view(np.int64))


@dataclass(frozen=True, eq=False)
class Sheet:
    """A sheet on the host before it is sent: zeros, to be filled in.

    Args:
        tensors: number of tensors.
        programs: that add up lists.
    """

    tensors: int
    programs: int

    def blank(self) -> Integers:
        """What is sent."""
        return np.zeros(ROWS + ROW_COUNT * self.tensors, dtype=np.int64)

    def row(self, numbers: Integers, row: int) -> Integers:
        """One row of what is sent."""
        return numbers[ROWS + row * self.tensors : ROWS + (row + 1) * self.tensors]

    def sent(self, numbers: Integers, device: torch.device) -> Tensor:
        """On the device, with room behind it for what is only read back."""
        size = numbers.size + SUMS * self.programs + 2 * FEW
        sheet = torch.empty(size, dtype=torch.int64, device=device)
        sheet[: numbers.size].copy_(torch.from_numpy(numbers), non_blocking=True)
        return sheet

    def read(self, sheet: Tensor) -> Filled:
        """Wait for the device, and read what it filled in."""
        return Filled(self, sheet[HEAD:].cpu().numpy())


@dataclass(frozen=True, eq=False)
class Filled:
    """A sheet that was read back."""

    sheet: Sheet
    numbers: Integers

    def head(self, place: int) -> int:
        """A number of the head."""
        return int(self.numbers[place - HEAD])

    def score(self, place: int) -> float:
        """A score of the head."""
        return float(self.numbers[place - HEAD : place - HEAD + 1].view(np.float64)[0])

    def row(self, row: int) -> Integers:
        """A row of numbers by tensor."""
        begin = HEAD_SIZE + row * self.sheet.tensors
        return self.numbers[begin : begin + self.sheet.tensors]

    @property
    def sums(self) -> Sequence[float]:
        """The five sums."""
        numbers = self.numbers[self.numbers.size - SUMS * self.sheet.programs :].view(np.float64)
        return [float(total) for total in numbers.reshape(SUMS, -1).sum(1)]

    @property
    def few(self) -> tuple[Integers, Integers]:
        """Slots and keys of the few, in any order."""
        found = self.head(FEW_FOUND)
        begin = HEAD_SIZE + ROW_COUNT * self.sheet.tensors
        slots, keys = self.numbers[begin : begin + 2 * FEW].reshape(2, FEW)[:, :found]
        return slots, keys
