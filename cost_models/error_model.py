"""How uncertain fitted costs are: a variance component model, and a cluster bootstrap that can overrule it.

Windows of one configuration are not independent, so errors are taken in clusters:

1. A variance component model: an error per window and one per configuration, of one size in each stratum
   (side, asleep or awake). The mean square of configurations, with the degrees of freedom that the fit leaves
   to it, is an unbiased size of both together. The non-negative fit is repeated with errors drawn from it,
   since a cost that cannot be negative is known better than an unbounded one.
2. Wild cluster bootstrap (Cameron, Gelbach and Miller, Rev. Econ. Stat. 2008) over configurations: every
   cluster's residuals change sign together, and the non-negative fit is repeated. Residuals are first
   corrected for leverage as in CR2 (Bell and McCaffrey, Surv. Methodol. 2002). The design stays fixed, as
   it is in an experiment: drawing configurations with replacement would lose in many draws the few that
   exercise a cost at all.

The bootstrap sees errors that differ from family to family but knows little about a cost that few
configurations exercise; the model is the other way round. The bootstrap's variance counts where it exceeds
the model's by more than its own noise, which follows from the effective number of clusters (Carter, Schnepel
and Steigerwald, Rev. Econ. Stat. 2017). Degrees of freedom are those of Welch and Satterthwaite: the model's
for its part, the effective clusters for what the bootstrap adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
Indices = NDArray[np.intp]


SIGNIFICANT = 2.0
"""Standard deviations by which the bootstrap's variance must exceed the model's to count."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Size of the errors of one stratum.

    Attributes:
        window_variance: of a window around its configuration, in units of the row's own variance.
        cluster_variance: of a configuration around the model, relative to its energy squared.
        mean_square: of configurations, per window: window and configuration errors together.
        degrees_of_freedom: configurations less the unknowns that they determine.
    """

    window_variance: float
    cluster_variance: float
    mean_square: float
    degrees_of_freedom: float


@dataclass(frozen=True)
class Weighted:
    """Rows over their uncertainties, columns of unit norm, and the non-negative solution."""

    design: Array
    target: Array
    scale: Array
    solution: Array

    @property
    def coefficients(self) -> Array:
        """The solution in the units of the amounts."""
        return self.solution / self.scale


def weigh(amounts: Array, energy_j: Array, row_u_j: Array) -> Weighted:
    """Divide rows by their uncertainties, scale columns to unit norm, and solve (Lawson and Hanson)."""
    weighted = amounts / row_u_j[:, None]
    scale = np.linalg.norm(weighted, axis=0)
    design, target = weighted / scale, energy_j / row_u_j
    return Weighted(design, target, scale, nnls(design, target)[0])


class ErrorModel:
    """The weighted system and its residuals, cut into clusters.

    Args:
        weighted: what was solved.
        size: energy of each row over its uncertainty, shape (n_rows,).
        known: part of each row's variance that the sensor causes whatever the residuals say, (n_rows,).
        clusters: configuration of each row, shape (n_rows,).
        strata: rows whose errors are of one size, shape (n_rows,).
    """

    def __init__(
        self, weighted: Weighted, *, size: Array, known: Array, clusters: Indices, strata: Indices
    ) -> None:
        self._size = size
        self._known = known
        self._design = weighted.design
        self._solution = weighted.solution
        self._residuals = weighted.target - weighted.design @ weighted.solution
        self._bread = np.linalg.pinv(self._design.T @ self._design, hermitian=True)
        self._blocks = [
            (int(stratum), rows)
            for stratum in np.unique(strata)
            for rows in _groups(clusters, np.flatnonzero(strata == stratum))
        ]
        self._cluster_of = clusters

    @cached_property
    def spread(self) -> dict[int, Spread]:
        """Size of the errors by stratum."""
        return {stratum: self._spread(stratum) for stratum in dict.fromkeys(name for name, _ in self._blocks)}

    def covariance(self, resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Covariance of the scaled costs, (n_columns, n_columns), and degrees of freedom, (n_columns,)."""
        by_model, model_freedom = self._by_model(resamples, rng)
        own: Array = np.diag(by_model)
        wild = np.diag(_covariance(self._refit(self._wild_scores(resamples, rng))))
        clusters = self._effective_clusters()
        noise = np.sqrt(2 / clusters)
        added = np.where(wild > own * (1 + SIGNIFICANT * noise), wild - own, 0.0)
        return _with_variances(by_model, own + added), _degrees_of_freedom(
            (own, model_freedom), (added, clusters)
        )

    def _spread(self, stratum: int) -> Spread:
        """Variance components of one stratum by the method of moments (one-way, unbalanced)."""
        within = between = hat = reach = known = 0.0
        sizes = []
        for name, rows in self._blocks:
            if name != stratum:
                continue
            residuals = self._residuals[rows]
            mean = float(np.mean(residuals))
            within += float(np.sum((residuals - mean) ** 2))
            between += len(rows) * mean**2
            hat += float(np.trace(self._leverage(rows)))
            known += float(np.sum(self._known[rows]))
            reach += len(rows) * float(np.mean(self._size[rows])) ** 2
            sizes.append(len(rows))
        degrees_of_freedom = max(len(sizes) - hat, 0.5)
        repeats = sum(sizes) - len(sizes)
        # Windows that all show the same multiple of a coarse quantum do not agree as well as they seem to.
        window_variance = max(within / repeats if repeats else 0.0, known / sum(sizes))
        excess = between / degrees_of_freedom - window_variance
        return Spread(
            window_variance=window_variance,
            cluster_variance=max(0.0, excess) * len(sizes) / reach,
            mean_square=max(between / degrees_of_freedom, known / sum(sizes)),
            degrees_of_freedom=degrees_of_freedom,
        )

    def _by_model(self, resamples: int, rng: np.random.Generator) -> tuple[Array, Array]:
        """Covariance under the variance components, and the degrees of freedom of each variance.

        What the bound at zero saves is the ratio of two simulated variances, with and without it, from the
        same draws; without it the variance is known in closed form.
        """
        size = self._design.shape[1]
        row_variance = np.zeros(len(self._design))
        for stratum, rows in self._blocks:
            row_variance[rows] = self.spread[stratum].mean_square
        scores = rng.standard_normal((resamples, len(row_variance))) @ (
            self._design * np.sqrt(row_variance)[:, None]
        )
        parts = {stratum: np.zeros(size) for stratum in self.spread}
        for stratum, rows in self._blocks:
            weights = self._design[rows] @ self._bread
            parts[stratum] += self.spread[stratum].mean_square * np.sum(weights**2, axis=0)
        bounded, free = _covariance(self._refit(scores)), np.diag(_covariance(scores @ self._bread))
        known: Array = np.sum(list(parts.values()), axis=0)
        saved = np.divide(np.diag(bounded), free, out=np.ones(size), where=free > 0)
        freedom = _degrees_of_freedom(
            *((part, np.full(size, self.spread[s].degrees_of_freedom)) for s, part in parts.items())
        )
        return _with_variances(bounded, known * saved), freedom

    def _effective_clusters(self) -> Array:
        """Over how many clusters the weight of each unknown is spread, shape (n_columns,)."""
        weights = np.array(
            [np.sum((self._design[rows] @ self._bread) ** 2, axis=0) for _, rows in self._blocks]
        )
        return np.asarray(np.sum(weights, axis=0) ** 2 / np.sum(weights**2, axis=0), dtype=np.float64)

    def _wild_scores(self, resamples: int, rng: np.random.Generator) -> Array:
        """design'·errors with the residuals of each cluster under random signs, (resamples, n_columns)."""
        names, positions = np.unique(self._cluster_of, return_inverse=True)
        scores = np.zeros((len(names), self._design.shape[1]))
        for _, rows in self._blocks:
            corrected = _inverse_root(np.eye(len(rows)) - self._leverage(rows)) @ self._residuals[rows]
            scores[positions[rows[0]]] += self._design[rows].T @ corrected
        return np.asarray(rng.choice([-1.0, 1.0], size=(resamples, len(names))) @ scores)

    def _refit(self, scores: Array) -> Array:
        """The non-negative fit with other errors, given as design'·errors; shape (n_scores, n_columns)."""
        gram = self._design.T @ self._design
        values, vectors = np.linalg.eigh(gram)
        kept = values > 1e-12 * values[-1]
        root = np.sqrt(values[kept])[:, None] * vectors[:, kept].T
        targets = ((gram @ self._solution + scores) @ vectors[:, kept]) / np.sqrt(values[kept])
        return np.array([nnls(root, target)[0] for target in targets])

    def _leverage(self, rows: Indices) -> Array:
        return np.asarray(self._design[rows] @ self._bread @ self._design[rows].T, dtype=np.float64)


def _covariance(draws: Array) -> Array:
    return np.atleast_2d(np.cov(draws, rowvar=False))


def _groups(labels: Indices, rows: Indices) -> list[Indices]:
    order = rows[np.argsort(labels[rows], kind="stable")]
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _inverse_root(matrix: Array) -> Array:
    """Symmetric inverse square root; directions that the fit takes up whole leave no residual and stay 0."""
    values, vectors = np.linalg.eigh(matrix)
    kept = values > 1e-8
    return np.asarray((vectors[:, kept] / np.sqrt(values[kept])) @ vectors[:, kept].T, dtype=np.float64)


def _degrees_of_freedom(*parts: tuple[Array, Array]) -> Array:
    """Welch and Satterthwaite: of a variance that is a sum of (variance, degrees of freedom)."""
    total: Array = np.sum([variance for variance, _ in parts], axis=0)
    weighted: Array = np.sum([variance**2 / freedom for variance, freedom in parts], axis=0)
    return np.asarray(
        np.divide(total**2, weighted, out=np.full_like(total, np.inf), where=weighted > 0), dtype=np.float64
    )


def _with_variances(covariance: Array, variance: Array) -> Array:
    """The same correlations with other variances."""
    own: Array = np.diag(covariance)
    correlation = np.eye(len(own))
    seen = own > 0
    deviation = np.sqrt(own[seen])
    correlation[np.ix_(seen, seen)] = covariance[np.ix_(seen, seen)] / np.outer(deviation, deviation)
    u = np.sqrt(variance)
    return np.asarray(correlation * np.outer(u, u), dtype=np.float64)
