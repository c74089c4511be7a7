"""What a run is before its first round, and what it says about itself once it has finished."""

from __future__ import annotations

import hashlib
import platform
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from calibration_data import __version__
from cost_models import CostModel
from cwmp.budget import EnergyLedger
from cwmp.predicted_gain import Gain
from cwmp.pricing import worst_of
from cwmp.training.engine import LocalEngine
from cwmp.training.federation import Federation, Group
from cwmp.training.phase_energy import summed_energy
from cwmp.training.round_record import Cause, ClientReport, RoundReport, accuracies_of
from cwmp.training.run_record import GroupIdentity, GroupReport, PartitionReport, RunIdentity, RunReport
from profiler.device import Device

LEFT_OUT: Mapping[Cause, str] = {
    "diverged": "updates were not finite and were left out",
    "vanished": "clients gave no answer in a round",
    "invalid": "messages were not valid and were left out",
}
MAX_LISTED = 10
TAIL_FRACTION = 0.2
"""Share of the last rounds whose mean accuracy is reported."""


def run_identity(
    federation: Federation, cost_model: CostModel, device: Device | None, *, engine: str = LocalEngine.name
) -> RunIdentity:
    """What a run is before its first round."""
    partition, data = federation.partition, federation.data
    class_counts = partition.class_counts(data.train_y.numpy(), data.classes)
    return RunIdentity(
        config=federation.config,
        cost_model_sha256=cost_model_sha256(cost_model),
        cost_model_provenance=cost_model.provenance,
        cost_model_device=described_device(cost_model),
        measuring_device=None if device is None else device.name,
        partition=PartitionReport(
            scheme=partition.scheme,
            balancing=partition.balancing,
            alpha=partition.alpha,
            shards_per_client=partition.shards_per_client,
            min_samples=partition.min_samples,
            seed=partition.seed,
            sizes=partition.sizes,
            class_counts=tuple(map(tuple, class_counts.tolist())),
            sha256=partition.sha256,
        ),
        coordinates=federation.costs.coordinates,
        engine=engine,
        samples_sha256=data.sha256,
        groups=tuple(_group_identity(group) for group in federation.groups),
    )


def _group_identity(group: Group) -> GroupIdentity:
    config = group.federation.config
    return GroupIdentity(
        name=group.name,
        clients=tuple(sorted(group.clients)),
        cost_model_sha256=cost_model_sha256(group.model),
        cost_model_provenance=group.model.provenance,
        cost_model_device=described_device(group.model),
        measuring_device=group.measuring_device,
        budget_j=config.budget_j,
        budget_fraction=config.budget_fraction,
        link=group.settings.link or config.link,
    )


def cost_model_sha256(model: CostModel) -> str:
    """Digest of a cost model's document."""
    return hashlib.sha256(model.document.model_dump_json(by_alias=True).encode()).hexdigest()


def described_device(model: CostModel) -> str:
    """Name of the device that a cost model describes."""
    return "literature" if model.device is None else model.device.device


def run_report(
    identity: RunIdentity,
    federation: Federation,
    ledger: EnergyLedger,
    rounds: Sequence[RoundReport],
    expected: Gain,
) -> RunReport:
    """The summary of a finished run."""
    accuracies = accuracies_of(rounds)
    tail = accuracies_of(rounds[-max(1, round(TAIL_FRACTION * len(rounds))) :])
    clients = [client for report in rounds for client in report.clients]
    config, prices = federation.config, federation.budget.prices
    return RunReport(
        identity=identity,
        rounds=len(rounds),
        final_accuracy=accuracies[-1],
        best_accuracy=max(accuracies),
        tail_accuracy=sum(tail) / len(tail),
        final_loss=rounds[-1].test_loss,
        budget_j=federation.budget.budget_j,
        budget_ignored=config.selector == "dense",
        fixed_j=federation.budget.fixed_j,
        dense_j=federation.budget.dense_j,
        energy=summed_energy(report.energy for report in rounds),
        predicted_j=ledger.total_predicted_j,
        boundary_j=ledger.charged_j,
        granted_j=ledger.granted_j,
        retained_fraction=_share(clients, [client.retained_squared_norm for client in clients]),
        topk_retained_fraction=_share(clients, [client.topk_retained_squared_norm for client in clients]),
        cwmp_retained_fraction=_share(clients, [client.cwmp_retained_squared_norm for client in clients]),
        var_ln_c=prices.var_ln_c,
        predicted_gain=expected.over_topk,
        price_provenance=worst_of(
            [prices.provenance, *(group.federation.costs.provenance for group in federation.groups)]
        ),
        groups=tuple(_group_report(group, clients) for group in federation.groups),
        not_counted=tuple(federation.training.step(config.batch_size).without_formula),
        notes=_notes(identity, federation, rounds),
        seconds=sum(report.seconds for report in rounds),
        software={
            "calijoule": __version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
    )


def _group_report(group: Group, clients: Sequence[ClientReport]) -> GroupReport:
    members = [client for client in clients if client.client in group.clients]
    budget = group.federation.budget
    return GroupReport(
        name=group.name,
        clients=len(group.clients),
        budget_j=budget.budget_j,
        fixed_j=budget.fixed_j,
        dense_j=budget.dense_j,
        var_ln_c=budget.prices.var_ln_c,
        price_provenance=budget.prices.provenance,
        energy=summed_energy(client.energy for client in members),
        boundary_j=sum(client.predicted_j for client in members),
        retained_fraction=_share(members, [client.retained_squared_norm for client in members]),
    )


def _notes(identity: RunIdentity, federation: Federation, rounds: Sequence[RoundReport]) -> tuple[str, ...]:
    notes = list(federation.budget.prices.notes)
    if federation.config.selector == "dense":
        notes.append("The rule dense keeps everything and knows no budget.")
    if federation.config.equal_prices:
        notes.append("The rule saw one price for all coordinates; joules are booked as they are.")
    if identity.measuring_device not in (None, identity.cost_model_device):
        notes.append(
            f"Joules are predicted for {identity.cost_model_device} and seen on {identity.measuring_device}."
        )
    for group in identity.groups:
        seen = f", seen on {group.measuring_device}" if group.measuring_device else ""
        notes.append(
            f"The {len(group.clients)} clients of the group {group.name} cost what"
            f" {group.cost_model_device} does ({group.cost_model_provenance}){seen}."
        )
    dropped = Counter(client.cause for report in rounds for client in report.dropped)
    for cause, words in LEFT_OUT.items():
        if dropped[cause]:
            notes.append(f"{dropped[cause]} {words}; the joules of their training were left out too.")
    idle = [report.round for report in rounds if not report.clients]
    if idle:
        notes.append(f"No client answered in {len(idle)} rounds, which changed nothing: {_listed(idle)}.")
    return tuple(notes)


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:MAX_LISTED]))
    return shown if len(numbers) <= MAX_LISTED else f"{shown}, …"


def _share(clients: Sequence[ClientReport], retained: Sequence[float]) -> float:
    total = sum(client.squared_norm for client in clients)
    return sum(retained) / total if total else 1.0
