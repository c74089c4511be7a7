"""How runs went, round by round: means over seeds, and the joules to reach an accuracy.

A run reaches an accuracy in the first tested round that has it. The mean joules of a contender are given only
where all its seeds reach the accuracy: a mean over those that happened to would flatter it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from calibration_data.files import Frozen
from cwmp.comparison.seed_statistics import SeedMean, seed_mean
from cwmp.training.round_record import RoundReport

TARGET_STEP = 0.05
LEAST_TARGET = 0.5
"""Targets are multiples of the step, from this part of the highest accuracy up to it."""


@dataclass(frozen=True, kw_only=True)
class RunCourse:
    """One run by round.

    Attributes:
        rounds: their numbers.
        boundary_j: cumulative predicted joules inside the boundary, all clients.
        accuracy: of the test; None in rounds without one.
        retained: kept share of the squared norm.
        gain: of these updates, what ``cwmp`` keeps above ``topk`` for the same joules.
        density: kept share of the coordinates by tensor, mean over rounds and clients.
    """

    rounds: tuple[int, ...]
    boundary_j: tuple[float, ...]
    accuracy: tuple[float | None, ...]
    retained: tuple[float, ...]
    gain: tuple[float, ...]
    density: dict[str, float]

    @property
    def best_accuracy(self) -> float:
        """The highest of any round."""
        return max((accuracy for accuracy in self.accuracy if accuracy is not None), default=0.0)

    def joules_to(self, target: float) -> float | None:
        """Joules up to the first tested round with an accuracy; None if there is none."""
        for joules, accuracy in zip(self.boundary_j, self.accuracy, strict=True):
            if accuracy is not None and accuracy >= target:
                return joules
        return None


class Course(Frozen):
    """All seeds of a contender by round.

    Attributes:
        rounds: their numbers.
        boundary_j: cumulative predicted joules inside the boundary, all clients, mean over seeds.
        accuracy: of the test; None in rounds without one.
        retained: kept share of the squared norm.
        gain: of these updates, what ``cwmp`` keeps above ``topk`` for the same joules; empty in files of
            version 2.
    """

    rounds: tuple[int, ...]
    boundary_j: tuple[float, ...]
    accuracy: tuple[SeedMean | None, ...]
    retained: tuple[SeedMean, ...]
    gain: tuple[SeedMean, ...]


class Reached(Frozen):
    """Whether an accuracy was reached, and for what.

    Attributes:
        target: the accuracy.
        seeds: how many reached it.
        boundary_j: cumulative predicted joules inside the boundary; None unless all seeds reached it.
    """

    target: float
    seeds: int
    boundary_j: SeedMean | None


def run_course(rounds: Sequence[RoundReport]) -> RunCourse:
    """What of the rounds a comparison needs."""
    densities: dict[str, list[float]] = {}
    for report in rounds:
        for client in report.clients:
            for name, density in client.density.items():
                densities.setdefault(name, []).append(density)
    return RunCourse(
        rounds=tuple(report.round for report in rounds),
        boundary_j=tuple(report.cumulative_boundary_j for report in rounds),
        accuracy=tuple(report.test_accuracy for report in rounds),
        retained=tuple(report.retained_fraction for report in rounds),
        gain=tuple(report.cwmp_retained_fraction - report.topk_retained_fraction for report in rounds),
        density={name: statistics.fmean(values) for name, values in densities.items()},
    )


def mean_course(runs: Sequence[RunCourse]) -> Course:
    """Means over seeds; all runs have the same rounds."""
    return Course(
        rounds=runs[0].rounds,
        boundary_j=tuple(
            statistics.fmean(values) for values in zip(*(run.boundary_j for run in runs), strict=True)
        ),
        accuracy=tuple(_tested(values) for values in zip(*(run.accuracy for run in runs), strict=True)),
        retained=tuple(seed_mean(values) for values in zip(*(run.retained for run in runs), strict=True)),
        gain=tuple(seed_mean(values) for values in zip(*(run.gain for run in runs), strict=True)),
    )


def mean_density(runs: Sequence[RunCourse]) -> dict[str, SeedMean]:
    """Kept share by tensor, over seeds."""
    return {name: seed_mean([run.density[name] for run in runs]) for name in runs[0].density}


def accuracy_targets(contenders: Sequence[Sequence[RunCourse]]) -> tuple[float, ...]:
    """Accuracies to ask the joules of: steps up to the highest that some contender reaches in every seed."""
    best = max((min(run.best_accuracy for run in runs) for runs in contenders), default=0.0)
    last = math.floor(best / TARGET_STEP + 1e-9)
    first = max(math.ceil(LEAST_TARGET * best / TARGET_STEP), 1)
    return tuple(round(step * TARGET_STEP, 10) for step in range(first, last + 1))


def reached(runs: Sequence[RunCourse], targets: Sequence[float]) -> tuple[Reached, ...]:
    """The joules to each target."""
    found = []
    for target in targets:
        joules = [value for run in runs if (value := run.joules_to(target)) is not None]
        mean = seed_mean(joules) if len(joules) == len(runs) else None
        found.append(Reached(target=target, seeds=len(joules), boundary_j=mean))
    return tuple(found)


def _tested(accuracies: Sequence[float | None]) -> SeedMean | None:
    known = [accuracy for accuracy in accuracies if accuracy is not None]
    return seed_mean(known) if len(known) == len(accuracies) else None
