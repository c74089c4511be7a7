"""Errors of selecting and pricing; all are the caller's to solve.

UsageError                      (calibration_data.errors, exit code 2)
├── EmptyNetworkError           there is no gradient coordinate to price or to select
├── InvalidCostError            a cost is zero, negative or not finite
├── UnknownMemoryError          the cost model describes no device with caches
└── NonFiniteGradientError      a gradient is NaN, infinite, or too large to be squared
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

from calibration_data import UsageError


class EmptyNetworkError(UsageError):
    """There is no trainable parameter, or none of them has a coordinate."""


class InvalidCostError(UsageError):
    """A cost is zero, negative or not finite: no budget could be kept with it."""


class NonFiniteGradientError(UsageError):
    """Gradients that are NaN or infinite cannot be ranked; usually the training has diverged."""

    @classmethod
    def of(cls, wrong: Mapping[str, int]) -> Self:
        """Names the tensors, given the number of such coordinates of each."""
        named = ", ".join(f"{name} ({count})" for name, count in wrong.items() if count)
        return cls(
            f"{sum(wrong.values())} gradient coordinates are NaN, infinite or too large to square: {named}.",
            next_step="Lower the learning rate or clip the gradients; no selection was made.",
        )


class UnknownMemoryError(UsageError):
    """The cost model does not say how large the device's caches are, so no tensor has a place."""


def in_one_line(error: Exception) -> str:
    """Type and first line of what an error of somebody else's code says: ``KeyError: 'x'``."""
    kind = type(error).__name__
    lines = str(error).strip().splitlines()
    return f"{kind}: {lines[0]}" if lines else kind
