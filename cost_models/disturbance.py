"""Windows that other programs disturbed: they count less, so that a few of them do not move a cost.

    window         against the other windows of its configuration (their median)
    configuration  against the model, by the size of such differences among all configurations

Sizes are robust (1.4826 · median absolute deviation), so that the disturbed do not set the scale by which
they are judged. Within the limit a row has its full weight, so that undisturbed records give the plain least
squares fit; beyond it its uncertainty grows with its distance, and its pull falls (the weights of Huber,
squared: a window that is twice as far off pulls half as much).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.intp]

WINDOW_LIMIT = 5.0
"""Robust standard deviations; of 10 000 normal errors 0.006 lie beyond."""

CONFIGURATION_LIMIT = 6.0
"""The same for configurations. It is wider, since a model is never quite right."""

ENOUGH = 3
"""Windows that have a median of their own; of two no one can tell which was disturbed."""

_MAD = 1.4826


def inflation(residuals: Array, known: Array, clusters: Indices, strata: Indices) -> Array:
    """By how much the uncertainty of each row is to grow, at least 1, shape (n_rows,).

    Args:
        residuals: of a fit, in standard uncertainties, shape (n_rows,).
        known: part of each row's variance that the sensor causes, in the same units, shape (n_rows,).
        clusters: configuration of each row, shape (n_rows,).
        strata: rows whose errors are of one size, shape (n_rows,).
    """
    result = np.ones(len(residuals))
    for stratum in np.unique(strata):
        rows = np.flatnonzero(strata == stratum)
        groups = [rows[clusters[rows] == cluster] for cluster in np.unique(clusters[rows])]
        floor = float(np.sqrt(np.mean(known[rows]))) + 1e-9
        result[rows] = np.maximum(
            _of_windows(residuals, groups, floor)[rows], _of_configurations(residuals, groups, floor)[rows]
        )
    return result


def _of_windows(residuals: Array, groups: Sequence[Indices], floor: float) -> Array:
    distance = np.zeros(len(residuals))
    all_rows = np.concatenate(groups)
    middle = float(np.median(residuals[all_rows]))
    for rows in groups:
        centre = float(np.median(residuals[rows])) if len(rows) >= ENOUGH else middle
        distance[rows] = np.abs(residuals[rows] - centre)
    # The median of few values is nearer to them than the mean of many.
    sizes = np.array([len(rows) for rows in groups])
    shrink = np.sqrt(1 - 1 / np.maximum(np.median(sizes), 2.0))
    scale = max(_MAD * float(np.median(distance[all_rows])) / shrink, floor)
    return np.asarray(np.maximum(1.0, distance / (WINDOW_LIMIT * scale)), dtype=np.float64)


def _of_configurations(residuals: Array, groups: Sequence[Indices], floor: float) -> Array:
    result = np.ones(len(residuals))
    centres = np.array([float(np.median(residuals[rows])) for rows in groups])
    scale = max(_MAD * float(np.median(np.abs(centres))), floor)
    for rows, centre in zip(groups, centres, strict=True):
        result[rows] = max(1.0, abs(centre) / (CONFIGURATION_LIMIT * scale))
    return result
