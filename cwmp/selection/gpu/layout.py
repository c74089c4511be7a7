"""Where the coordinates of an update lie in the blocks that a GPU reads, and which of them make a sample.

A tensor takes whole blocks; block b has the words from b·BLOCK/32 on of one long mask. The tables depend on
the sizes of the tensors only, so they are kept from one round to the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 4096
"""Coordinates that one program classifies."""
GROUP = 16
"""Blocks that one program narrows down."""
WORD_BITS = 32
RUN = 8
"""Neighbours that are sampled together: a sector of 32 bytes of float32."""
LEAST_RUNS = 4
"""Runs that are read of each tensor at least."""
KEPT_LAYOUTS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Blocks of the tensors of an update; tensors of integers on the device.

    Attributes:
        numels: coordinates of each tensor, int64, shape (tensors,).
        tensors: tensor of each block, int32, shape (blocks,).
        first_blocks: first block of each tensor and, at the end, their number, int64, shape (tensors + 1,).
        firsts: the same on the host.
    """

    numels: Tensor
    tensors: Tensor
    first_blocks: Tensor
    firsts: tuple[int, ...]

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return self.firsts[-1]


@lru_cache(maxsize=KEPT_LAYOUTS)
def layout_of(sizes: tuple[int, ...], device: torch.device) -> Layout:
    """Blocks of tensors of these sizes, none of them empty."""
    numels = np.array(sizes, dtype=np.int64)
    blocks = -(-numels // BLOCK)
    firsts = np.concatenate([[0], blocks.cumsum()])
    tensors = np.repeat(np.arange(len(sizes), dtype=np.int32), blocks)
    return Layout(
        numels=torch.from_numpy(numels).to(device),
        tensors=torch.from_numpy(tensors).to(device),
        first_blocks=torch.from_numpy(firsts).to(device),
        firsts=tuple(firsts.tolist()),
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """Runs of neighbours at random places, one in each stratum of each tensor; in pairs, shuffled.

    Attributes:
        tensors: tensor of each run, int32, shape (runs,).
        begins: its first coordinate there, int64, shape (runs,); or its end, to fill a pair.
        weights: number of coordinates that one in the sample stands for, by tensor, float64, on the host.
        unread: share of all coordinates that are not in the sample.
    """

    tensors: Tensor
    begins: Tensor
    weights: NDArray[np.float64]
    unread: float


@lru_cache(maxsize=KEPT_LAYOUTS)
def runs_of(sizes: tuple[int, ...], device: torch.device, size: int, draw: int) -> Runs:
    """About ``size`` coordinates of all tensors, in proportion to their sizes, drawn by a seed."""
    random = np.random.default_rng(draw)
    share = size / sum(sizes) / RUN
    tensors, begins, weights, read = [], [], [], 0
    for number, numel in enumerate(sizes):
        runs = min(max(math.ceil(share * numel), LEAST_RUNS), math.ceil(numel / RUN))
        begin = np.arange(runs) * RUN
        if runs * RUN < numel:
            edges = np.linspace(0, numel - RUN, runs + 1)
            begin = np.floor(random.uniform(edges[:-1], edges[1:])).astype(np.int64)
        begins.append(np.append(begin, np.full(runs % 2, numel)))
        tensors.append(np.full(runs + runs % 2, number, dtype=np.int32))
        weights.append(numel / min(runs * RUN, numel))
        read += min(runs * RUN, numel)
    places = np.concatenate(begins).reshape(-1, 2)
    order = random.permutation(len(places))
    return Runs(
        tensors=torch.from_numpy(np.concatenate(tensors).reshape(-1, 2)[order].reshape(-1)).to(device),
        begins=torch.from_numpy(places[order].reshape(-1)).to(device),
        weights=np.array(weights),
        unread=1 - read / sum(sizes),
    )
