"""What happened in one federated round: a RoundReport, with a ClientReport for every update that was used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from calibration_data.files import Frozen
from cwmp.budget import PHASES, Phase
from cwmp.config import RuleName
from cwmp.training.phase_energy import PhaseEnergy, sum_or_none

WALL_CLOCK_FIELDS = ("seconds",)
"""Fields that differ between two runs of one seed; everything else is equal to the bit on one machine, the
joules of real sensors apart."""

Cause = Literal["diverged", "vanished", "invalid"]
"""Why a client's update was not used."""

Fraction = Annotated[float, Field(ge=0, le=1)]


class ClientReport(Frozen):
    """What one client did in one round, and what it cost.

    Attributes:
        client: its number.
        samples: its training samples.
        training_loss: mean cross-entropy over its local epochs; None if it is not finite.
        rule: how coordinates were chosen.
        budget_j: joules for everything inside the boundary; None for ``dense``, which knows no budget.
        fixed_j: predicted joules that do not depend on the choice.
        marginal_j: predicted joules of the kept coordinates, by the lines that they touch.
        predicted_j: both together.
        upper_j: what the true joules stay below with the config's confidence; never above ``budget_j``.
        priced_j: the kept coordinates at the prices of the selection, the budget of the comparisons below.
        kept: coordinates that were sent.
        density: kept fraction by tensor.
        selections: how often prices were adjusted to the densities that came out.
        squared_norm: Σ g² over all coordinates.
        retained_squared_norm: Σ g² over those that were sent.
        topk_retained_squared_norm: what ``topk`` keeps of this very update for ``priced_j`` joules.
        cwmp_retained_squared_norm: the same for ``cwmp``.
        payload_bytes: length of the message; what a transport puts around it is not in it.
        energy: joules by phase.
    """

    client: NonNegativeInt
    samples: NonNegativeInt
    training_loss: float | None
    rule: RuleName
    budget_j: float | None
    fixed_j: float
    marginal_j: float
    predicted_j: float
    upper_j: float
    priced_j: float
    kept: NonNegativeInt
    density: dict[str, Fraction]
    selections: NonNegativeInt
    squared_norm: NonNegativeFloat
    retained_squared_norm: NonNegativeFloat
    topk_retained_squared_norm: NonNegativeFloat
    cwmp_retained_squared_norm: NonNegativeFloat
    payload_bytes: NonNegativeInt
    energy: dict[Phase, PhaseEnergy]


class DroppedClient(Frozen):
    """A client whose update was not used in a round; the joules of its training are in no sum.

    Attributes:
        client: its number.
        cause: ``diverged``: its update is not finite; ``vanished``: it gave no answer; ``invalid``: what it
            sent is no update of this network, or it could not take part as it was set up.
        reason: the same in a sentence.
    """

    client: NonNegativeInt
    cause: Cause = "diverged"
    reason: str


class RoundReport(Frozen):
    """One federated round.

    Attributes:
        round: its number, from 1.
        clients: those that took part, in the order of their numbers.
        dropped: those whose update was not used.
        test_accuracy: share of the test samples that the new global model gets right; None where the round
            was not tested.
        test_loss: its mean cross-entropy; None if it is not finite, or was not tested.
        energy: joules by phase, summed over the clients.
        cumulative_predicted_j: all phases of all rounds so far; None if a phase has no prediction.
        cumulative_boundary_j: the part inside the boundary of the budget.
        cumulative_measured_j: by phase, where every execution so far was seen.
        seconds: wall-clock time of the round.
    """

    round: int
    clients: tuple[ClientReport, ...]
    dropped: tuple[DroppedClient, ...] = ()
    test_accuracy: Fraction | None
    test_loss: float | None
    energy: dict[Phase, PhaseEnergy]
    cumulative_predicted_j: float | None
    cumulative_boundary_j: float
    cumulative_measured_j: dict[Phase, float]
    seconds: NonNegativeFloat

    @property
    def progress(self) -> str:
        """The round in a few words."""
        if self.test_accuracy is None:
            return f"round {self.round}"
        return f"round {self.round}: {self.test_accuracy:.1%} right"

    @property
    def retained_fraction(self) -> float:
        """Kept share of the squared norm of all clients' updates."""
        return _share(self.clients, "retained_squared_norm")

    @property
    def topk_retained_fraction(self) -> float:
        """What ``topk`` would have kept for the same joules."""
        return _share(self.clients, "topk_retained_squared_norm")

    @property
    def cwmp_retained_fraction(self) -> float:
        """What ``cwmp`` would have kept for the same joules."""
        return _share(self.clients, "cwmp_retained_squared_norm")

    def row(self) -> dict[str, Any]:
        """The round as one row of a table."""
        row: dict[str, Any] = {
            "round": self.round,
            "test_accuracy": self.test_accuracy,
            "test_loss": self.test_loss,
            "clients": len(self.clients),
            "dropped": len(self.dropped),
            "kept": sum(client.kept for client in self.clients),
            "payload_bytes": sum(client.payload_bytes for client in self.clients),
            "budget_j": sum_or_none(client.budget_j for client in self.clients),
            "boundary_j": sum(client.predicted_j for client in self.clients),
            "upper_j": sum(client.upper_j for client in self.clients),
            "retained_fraction": self.retained_fraction,
            "topk_retained_fraction": self.topk_retained_fraction,
            "cwmp_retained_fraction": self.cwmp_retained_fraction,
        }
        for phase in PHASES:
            row[f"{phase}_predicted_j"] = self.energy[phase].predicted_j
            row[f"{phase}_measured_j"] = self.energy[phase].measured_j
            row[f"{phase}_provenance"] = self.energy[phase].provenance
        row["cumulative_predicted_j"] = self.cumulative_predicted_j
        row["cumulative_boundary_j"] = self.cumulative_boundary_j
        row["seconds"] = self.seconds
        return row


def accuracies_of(rounds: Iterable[RoundReport]) -> list[float]:
    """Test accuracies of the rounds that were tested, in their order."""
    return [report.test_accuracy for report in rounds if report.test_accuracy is not None]


def _share(clients: Sequence[ClientReport], field: str) -> float:
    total = sum(client.squared_norm for client in clients)
    return sum(getattr(client, field) for client in clients) / total if total else 1.0
