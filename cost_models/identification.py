"""Which costs a design can tell apart at all: conditioning, variance inflation, and the answer in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

MAX_VIF = 100.0
"""A cost whose variance is inflated more than this by the other columns is refused."""

BOUND_CORRELATION = 0.99
"""A cost that goes with a refused one this closely is refused with it: of two, neither is known alone."""

_RANK_TOLERANCE = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Identification:
    """Singular value decomposition of the design with unit-norm columns, read as statistics.

    Attributes:
        singular_values: largest first, shape (n_columns,).
        directions: right singular vectors as rows, shape (n_columns, n_columns).
        vif: variance inflation factor of each column, infinite where it is a mixture of others, (n_columns,).
    """

    singular_values: NDArray[np.float64]
    directions: NDArray[np.float64]
    vif: NDArray[np.float64]

    @property
    def condition_number(self) -> float:
        """Largest over smallest singular value of the scaled design; infinite if columns are collinear."""
        smallest = float(self.singular_values[-1])
        largest = float(self.singular_values[0])
        return largest / smallest if smallest > _RANK_TOLERANCE * largest else np.inf

    @cached_property
    def correlation(self) -> NDArray[np.float64]:
        """Correlation of the costs that the design gives them, shape (n_columns, n_columns).

        From the inverse of the cross-product, so that it does not depend on which basis the decomposition
        chose where several combinations are lost at once.
        """
        inflation = np.maximum(self.singular_values, self._floor) ** -2
        inverse = self.directions.T * inflation @ self.directions
        deviation = np.sqrt(np.diag(inverse))
        return np.asarray(inverse / np.outer(deviation, deviation), dtype=np.float64)

    @cached_property
    def unidentified(self) -> NDArray[np.bool_]:
        """Columns that cannot be told apart from others, and those that these cannot be told from."""
        inflated = self.vif > MAX_VIF
        bound = np.any(np.abs(self.correlation[inflated]) > BOUND_CORRELATION, axis=0)
        return np.asarray(inflated | bound, dtype=np.bool_)

    def partners(self, index: int) -> list[int]:
        """Columns that trade against one column, strongest first: its cost is correlated with theirs."""
        correlation = np.abs(self.correlation[index])
        correlation[index] = 0.0
        return _leading(correlation, share=0.5)

    def contrast(self, index: int) -> NDArray[np.float64]:
        """The combination of unit-norm columns nearest to one column that the data do tell, (n_columns,).

        What the directions that make up its variance leave of it: for two columns that go together, their
        sum. All zeros where nothing is left.
        """
        weights = (self.directions[:, index] / np.maximum(self.singular_values, self._floor)) ** 2
        lost = self.directions[weights > 0.05 * np.sum(weights)]
        rest = -lost.T @ lost[:, index]
        rest[index] += 1.0
        return rest if rest[index] > 0.01 else np.zeros_like(rest)

    @property
    def _floor(self) -> float:
        return float(_RANK_TOLERANCE * self.singular_values[0])

    def smallest_direction(self, labels: Sequence[str]) -> str:
        """The combination of columns that the data tell apart least, in words."""
        direction = self.directions[-1]
        leading = _leading(direction, share=0.25)
        sign = np.sign(direction[leading[0]])
        more = [labels[index] for index in leading if np.sign(direction[index]) == sign]
        less = [labels[index] for index in leading if np.sign(direction[index]) != sign]
        return f"more {in_words(more)} against less {in_words(less)}" if less else in_words(more)


def identify(matrix: NDArray[np.float64]) -> Identification:
    """Decompose a weighted design.

    The variance inflation factor of column j is the j-th diagonal element of the inverse of the
    cross-product of unit-norm columns: the variance of its cost over what it would be if the column were
    orthogonal to all others (uncentred, as the model has no intercept).

    Args:
        matrix: weighted design without zero columns, shape (n_rows, n_columns).
    """
    scaled = matrix / np.linalg.norm(matrix, axis=0)
    _, singular_values, directions = np.linalg.svd(scaled, full_matrices=len(matrix) < matrix.shape[1])
    values = np.zeros(matrix.shape[1])
    values[: len(singular_values)] = singular_values
    lost = values <= _RANK_TOLERANCE * values[0]
    kept = np.sum((directions[~lost] / values[~lost, None]) ** 2, axis=0)
    is_lost = np.any(np.abs(directions[lost]) > 1e-6, axis=0)
    return Identification(singular_values=values, directions=directions, vif=np.where(is_lost, np.inf, kept))


def in_words(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _leading(weights: NDArray[np.float64], *, share: float) -> list[int]:
    """Columns with at least this share of the largest weight, largest first, at most five."""
    order = np.argsort(-np.abs(weights), kind="stable")[:5]
    limit = share * abs(weights[order[0]])
    return [int(index) for index in order if abs(weights[index]) >= limit > 0]
