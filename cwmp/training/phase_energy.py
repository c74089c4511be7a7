"""Joules of one phase of a round, predicted beside measured, and their sums.

Predicted joules leave idle power out, and measured ones are net of it, so the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt

from calibration_data.files import Frozen
from cwmp.budget import PHASES, Phase


class PhaseEnergy(Frozen):
    """Joules of one phase: of one client and round, or summed.

    Attributes:
        predicted_j: by the cost model; None if it cannot know, with the reason.
        predicted_u_j: standard uncertainty of ``predicted_j``.
        measured_j: by sensors, net of idle power; None with the reason if none saw the phase.
        measured_u_j: standard uncertainty of ``measured_j`` from ticks, resolution and the idle baseline.
        provenance: of ``measured_j``: ``measured`` or ``simulated``.
        replays: executions that shared one window, so that it was long enough for the sensor; 0 if none.
        reason: why a number is missing.
    """

    predicted_j: float | None = None
    predicted_u_j: NonNegativeFloat | None = None
    measured_j: float | None = None
    measured_u_j: NonNegativeFloat | None = None
    provenance: Literal["measured", "simulated"] | None = None
    replays: NonNegativeInt = 0
    reason: str | None = None


def summed_energy(parts: Iterable[Mapping[Phase, PhaseEnergy]]) -> dict[Phase, PhaseEnergy]:
    """Joules by phase of several executions together.

    A sum with a missing part is missing. Predictions share their coefficients, so their uncertainties add
    linearly; measured windows are independent, so theirs add in quadrature.
    """
    listed = list(parts)
    return {phase: _summed([part[phase] for part in listed]) for phase in PHASES}


def _summed(parts: Sequence[PhaseEnergy]) -> PhaseEnergy:
    reasons = list(dict.fromkeys(part.reason for part in parts if part.reason))
    provenances = {part.provenance for part in parts if part.provenance}
    measured = sum_or_none(part.measured_j for part in parts)
    variance = sum((part.measured_u_j or 0.0) ** 2 for part in parts)
    return PhaseEnergy(
        predicted_j=sum_or_none(part.predicted_j for part in parts),
        predicted_u_j=sum_or_none(part.predicted_u_j for part in parts),
        measured_j=measured,
        measured_u_j=None if measured is None else variance**0.5,
        provenance=provenances.pop() if measured is not None and len(provenances) == 1 else None,
        replays=sum(part.replays for part in parts),
        reason="; ".join(reasons) or None,
    )


def sum_or_none(values: Iterable[float | None]) -> float | None:
    """Sum; None if one of the numbers is missing."""
    total = 0.0
    for value in values:
        if value is None:
            return None
        total += value
    return total
