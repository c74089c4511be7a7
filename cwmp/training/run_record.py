"""What a run is, decided before its first round: a RunIdentity; and what came of it: a RunReport."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import ConfigDict, Field, NonNegativeInt

from calibration_data import Provenance
from calibration_data.files import Frozen
from cwmp.budget import Phase
from cwmp.config import TrainingConfig
from cwmp.training.partition import Balancing
from cwmp.training.phase_energy import PhaseEnergy
from cwmp.training.round_record import Fraction

RUN_SCHEMA: Final = "calijoule/run"
RUN_SCHEMA_VERSION: Final = 1


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
        samples_sha256: digest of all training and test samples; None in files from before it was kept.
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
    samples_sha256: str | None = None
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
