"""Gradients of one tensor as a histogram of |g|: how many lie above a threshold, and their squared norm.

Real gradients have heavier tails than Laplace's or Gauss's distribution. Bins of log |g|, taken from one
update, say what a rule keeps of the next one (``cwmp.predicted_gain.empirical_gains``), and fit into some
kilobytes whatever the size of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BINS_PER_OCTAVE = 16
"""A bin is 4.4 % wide; within it, coordinates are taken to be spread evenly over log |g|."""

OCTAVES = 80
"""Below the largest |g|; what is smaller is in the lowest bin."""

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class GradientHistogram:
    """Coordinates of a tensor by magnitude.

    Attributes:
        coordinates: how many there are, zeros included.
        edges: lower edges of the bins in log2 |g|, ascending, and the upper edge of the last.
        above: coordinates above each edge, 0 at the last.
        squared_above: their summed squares.
    """

    coordinates: int
    edges: Array
    above: Array
    squared_above: Array

    @classmethod
    def of(cls, gradient: Tensor) -> GradientHistogram:
        """The histogram of a gradient whose values are finite; zeros are counted and lie in no bin."""
        magnitude = gradient.detach().reshape(-1).to(torch.float64).abs().cpu().numpy()
        magnitude = magnitude[magnitude > 0]
        highest = float(np.log2(magnitude.max())) if magnitude.size else 0.0
        edges = highest + np.arange(-OCTAVES * BINS_PER_OCTAVE, 1) / BINS_PER_OCTAVE
        logs = np.clip(np.log2(magnitude), edges[0], edges[-1])
        counts, _ = np.histogram(logs, edges)
        squares, _ = np.histogram(logs, edges, weights=magnitude**2)
        return cls(
            coordinates=gradient.numel(),
            edges=edges,
            above=_from_above(counts.astype(np.float64)),
            squared_above=_from_above(squares),
        )

    @property
    def squared_norm(self) -> float:
        """Σ g²."""
        return float(self.squared_above[0])

    def kept(self, threshold: float) -> float:
        """Coordinates with |g| above a threshold."""
        return self._at(threshold, self.above)

    def squared(self, threshold: float) -> float:
        """Their summed squares."""
        return self._at(threshold, self.squared_above)

    def _at(self, threshold: float, values: Array) -> float:
        if threshold <= 0:
            return float(values[0])
        return float(np.interp(np.log2(threshold), self.edges, values))


def _from_above(per_bin: Array) -> Array:
    return np.append(np.cumsum(per_bin[::-1])[::-1], 0.0)
