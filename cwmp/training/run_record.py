"""What a run says about itself: one RoundReport per round, and a RunReport once it has finished.

Predicted joules leave idle power out, and measured ones are net of it, so the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from calibration_data import Provenance
from calibration_data.files import Frozen
from cwmp.budget import PHASES, Phase
from cwmp.config import RuleName, TrainingConfig
from cwmp.training.partition import Balancing

RUN_SCHEMA: Final = "calijoule/run"
RUN_SCHEMA_VERSION: Final = 1

WALL_CLOCK_FIELDS = ("seconds",)
"""Fields that differ between two runs of one seed; everything else is equal to the bit on one machine, the
joules of real sensors apart."""

Cause = Literal["diverged", "vanished", "invalid"]
"""Why a client's update was not used."""

Fraction = Annotated[float, Field(ge=0, le=1)]


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


class PartitionReport(Frozen):
    """How the training samples were shared out; "Dirichlet(0.3)" alone would be no specification.

    Attributes:
        scheme: name of the convention.
        balancing: what keeps the clients' sizes together; files from before it was kept are of Dirichlet's.
        alpha: Dirichlet concentration; None for shards.
        shards_per_client: None for Dirichlet.
        min_samples: least number of samples of a client.
        seed: of the draw.
        sizes: samples of each client.
        class_counts: of each client, samples of each class; empty in files from before they were kept.
        sha256: digest of the index lists.
    """

    scheme: str
    balancing: Balancing = "no-class-for-full-clients"
    alpha: float | None
    shards_per_client: int | None = None
    min_samples: int
    seed: int
    sizes: tuple[int, ...]
    class_counts: tuple[tuple[NonNegativeInt, ...], ...] = ()
    sha256: str


class GroupIdentity(Frozen):
    """Clients of one kind of device, as ``RunIdentity`` says it of the others.

    Attributes:
        name: as in the fleet file.
        clients: their numbers.
        cost_model_sha256: digest of their cost model's document.
        cost_model_provenance: where its joules come from.
        cost_model_device: name of the device that it describes.
        measuring_device: name of the device that accounted their joules; None without one.
        budget_j: as in ``TrainingConfig``.
        budget_fraction: as in ``TrainingConfig``.
        link: what sends, if sending is inside the boundary.
    """

    name: str
    clients: tuple[NonNegativeInt, ...]
    cost_model_sha256: str
    cost_model_provenance: Provenance
    cost_model_device: str
    measuring_device: str | None
    budget_j: float | None
    budget_fraction: float | None
    link: str | None


class RunIdentity(Frozen):
    """What a run is, decided before its first round; a resumed run must be the same in every field.

    Attributes:
        config: the settings.
        cost_model_sha256: digest of the cost model's document.
        cost_model_provenance: where its joules come from.
        cost_model_device: name of the device that it describes.
        measuring_device: name of the device whose sensors measure the phases; None without one.
        partition: who holds which samples.
        coordinates: gradient coordinates of the network.
        engine: name of what ran the clients.
        groups: clients that were other devices, as the fleet file had it.
    """

    config: TrainingConfig
    cost_model_sha256: str
    cost_model_provenance: Provenance
    cost_model_device: str
    measuring_device: str | None
    partition: PartitionReport
    coordinates: int
    engine: str = "local"
    groups: tuple[GroupIdentity, ...] = ()


class GroupReport(Frozen):
    """What the clients of one kind of device did in a whole run.

    Attributes:
        name: as in the fleet file.
        clients: how many they are.
        budget_j: joules of one of them and round; None for ``dense``.
        fixed_j: predicted fixed joules of one of them and round.
        dense_j: predicted joules of one of them and round if everything is kept.
        var_ln_c: variance of the logarithm of their prices.
        price_provenance: the worst of their cost model and link.
        energy: their joules by phase over the whole run.
        boundary_j: their predicted joules inside the boundary of the budget.
        retained_fraction: kept share of the squared norm of their updates.
    """

    name: str
    clients: int
    budget_j: float | None
    fixed_j: float
    dense_j: float
    var_ln_c: float
    price_provenance: Provenance
    energy: dict[Phase, PhaseEnergy]
    boundary_j: float
    retained_fraction: float


class RunReport(Frozen):
    """The summary of a finished run.

    Attributes:
        identity: what was run.
        rounds: rounds that were run.
        final_accuracy: test accuracy after the last round.
        best_accuracy: the highest of any test.
        tail_accuracy: mean over the tests in the last fifth of the rounds: single ones swing by some points.
        final_loss: test loss after the last round.
        budget_j: joules of one client and round that is in no group; None for ``dense``.
        budget_ignored: the rule spends what it likes.
        fixed_j: predicted fixed joules of one client and round.
        dense_j: predicted joules of one client and round if everything is kept.
        energy: joules by phase over the whole run.
        predicted_j: all phases; None if one has no prediction.
        boundary_j: predicted joules inside the boundary of the budget.
        granted_j: sum of all budgets; None for ``dense``.
        retained_fraction: kept share of the squared norm over the whole run.
        topk_retained_fraction: what ``topk`` would have kept of the same updates for the same joules.
        cwmp_retained_fraction: the same for ``cwmp``.
        var_ln_c: variance of the logarithm of the prices: how much there is to gain from them.
        predicted_gain: of the squared norm, ``cwmp`` over ``topk``, expected from one update before training.
        price_provenance: the worst of the cost models and the links.
        groups: what the clients that were other devices did.
        not_counted: operations of a training step whose arithmetic is not in its predicted joules.
        notes: what a reader must know.
        seconds: wall-clock time of all rounds.
        software: versions by name.
    """

    schema_name: Literal["calijoule/run"] = Field(default=RUN_SCHEMA, alias="schema")
    schema_version: Literal[1] = RUN_SCHEMA_VERSION
    identity: RunIdentity
    rounds: int
    final_accuracy: Fraction
    best_accuracy: Fraction
    tail_accuracy: Fraction
    final_loss: float | None
    budget_j: float | None
    budget_ignored: bool
    fixed_j: float
    dense_j: float
    energy: dict[Phase, PhaseEnergy]
    predicted_j: float | None
    boundary_j: float
    granted_j: float | None
    retained_fraction: float
    topk_retained_fraction: float
    cwmp_retained_fraction: float
    var_ln_c: float
    predicted_gain: float
    price_provenance: Provenance
    groups: tuple[GroupReport, ...] = ()
    not_counted: tuple[str, ...]
    notes: tuple[str, ...]
    seconds: float
    software: dict[str, str]

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, validate_by_name=True, validate_by_alias=True
    )


def accuracies_of(rounds: Iterable[RoundReport]) -> list[float]:
    """Test accuracies of the rounds that were tested, in their order."""
    return [report.test_accuracy for report in rounds if report.test_accuracy is not None]


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


def _share(clients: Sequence[ClientReport], field: str) -> float:
    total = sum(client.squared_norm for client in clients)
    return sum(getattr(client, field) for client in clients) / total if total else 1.0
