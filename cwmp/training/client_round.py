"""What one client does in a round: train, add what it remembers, select within its budget, pack.

Engines differ in how the message travels; this is the same on all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from cwmp.budget import Phase
from cwmp.error_feedback import ErrorFeedback
from cwmp.seeding import derived_seed
from cwmp.selection import Rule, select
from cwmp.selection.budgeted import Choice, select_again, select_within
from cwmp.training.batched_training import Share, updates_together
from cwmp.training.federation import Federation, local_settings
from cwmp.training.local_training import LocalUpdate, local_update, require_finite, single_thread
from cwmp.training.phase_energy import PhaseEnergy
from cwmp.training.phase_meter import Seen, SeeWork, Works
from cwmp.training.phases import client_energy, client_works
from cwmp.training.round_record import ClientReport
from cwmp.training.sparse_update import add_to, decode, encode, pack

Weights = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ClientResult:
    """What leaves a client after a round, and what stays there.

    Attributes:
        message: goes to the server, as the bytes of ``sparse_update.encode``.
        report: what it did and what that cost.
        residual: what it did not send; empty without error feedback, and where it stays with the client.
    """

    message: bytes
    report: ClientReport
    residual: Weights


def client_round(
    federation: Federation,
    weights: Weights,
    residual: Weights,
    round_index: int,
    client: int,
    trained: LocalUpdate | None = None,
) -> ClientResult:
    """What one client does in a round: train, select, pack; on one thread.

    Args:
        federation: with the client's own prices and budget; the server's may differ.
        weights: the global weights by name.
        residual: what the client did not send so far; empty without error feedback and in its first round.
        round_index: number of the round, from 1.
        client: its number.
        trained: what it has learned, from ``train_together``; without it, it trains here.

    Raises:
        DivergedError: its update is not finite.
        NonFiniteGradientError: its update plus its residual cannot be ranked.
    """
    with single_thread():
        if trained is not None:
            require_finite(trained.update, client)
            return _client_round(federation, residual, round_index, client, lambda: trained)
        return _client_round(
            federation,
            residual,
            round_index,
            client,
            lambda: train_client(federation, weights, round_index, client),
        )


def _client_round(
    federation: Federation,
    residual: Weights,
    round_index: int,
    client: int,
    train: Callable[[], LocalUpdate],
) -> ClientResult:
    config, meter = federation.config, federation.meter
    see: dict[Phase, SeeWork] = {}
    meter.begin_client(round_index, client)
    trained, see["train"] = meter.run(train)
    memory = ErrorFeedback()
    memory.load_state_dict(residual)
    wanted = memory.corrected(trained.update) if config.error_feedback else trained.update

    seed = derived_seed(config.seed, "randomk", round_index=round_index, client=client)
    choice = select_within(
        wanted, federation.budget, rule=config.selector, seed=seed, equal_prices=config.equal_prices
    )
    masks = choice.selection.bitmasks
    see["select"] = meter.replay(lambda: partial(select_again, wanted, choice, seed=seed))
    message, see["pack"] = meter.run(lambda: encode(pack(wanted, masks), wanted))
    see["aggregate"] = meter.replay(lambda: _aggregating(message, wanted))
    see["apply"] = meter.replay(lambda: _applying(message, wanted))
    see["uplink"] = _link_is_not_seen

    if config.error_feedback:
        memory.remember(wanted, {name: value * masks[name].booleans() for name, value in wanted.items()})
    works = client_works(
        federation.costs,
        choice.cost,
        masks,
        federation.training.of_client(trained.samples),
        len(message),
    )
    seen = {phase: see[phase](works[phase]) for phase in works}
    energy = client_energy(federation.costs, choice.cost, works, seen)
    return ClientResult(
        message=message,
        report=_client_report(federation, client, trained, wanted, choice, message, energy),
        residual=memory.state_dict(),
    )


def train_client(federation: Federation, weights: Weights, round_index: int, client: int) -> LocalUpdate:
    """What a client learns in a round from the weights that it is given.

    Raises:
        DivergedError: its update is not finite.
    """
    indices = torch.from_numpy(federation.partition.indices[client])
    return local_update(
        federation.network,
        weights,
        federation.data.train_x.index_select(0, indices),
        federation.data.train_y.index_select(0, indices),
        local_settings(federation.config),
        seed=derived_seed(federation.config.seed, "local", round_index=round_index, client=client),
        client=client,
    )


def train_together(
    federation: Federation, weights: Weights, round_index: int, clients: Sequence[int]
) -> list[LocalUpdate]:
    """What some clients learn in a round, if ``trains_together``; an update need not be finite."""
    seed = federation.config.seed
    with single_thread():
        return updates_together(
            federation.network,
            weights,
            federation.data.train_x,
            federation.data.train_y,
            [
                Share(
                    client=client,
                    indices=torch.from_numpy(federation.partition.indices[client]),
                    seed=derived_seed(seed, "local", round_index=round_index, client=client),
                )
                for client in clients
            ],
            local_settings(federation.config),
        )


def _aggregating(message: bytes, network: Weights) -> Callable[[], None]:
    """Read a message and add it to a sum of its own, as the server would."""
    vector = torch.zeros(decode(message, network).coordinates, dtype=torch.float64)
    return lambda: add_to(vector, decode(message, network), 1.0)


def _applying(message: bytes, network: Weights) -> Callable[[], None]:
    """Add what was sent to weights of its own, as the client would."""
    kept = decode(message, network)
    vector = torch.zeros(kept.coordinates)
    return lambda: add_to(vector, kept, 1.0)


def _link_is_not_seen(works: Works) -> Seen:
    return Seen(reason="no sensor sees the link: its joules are counted bytes times a literature figure")


def _client_report(
    federation: Federation,
    client: int,
    trained: LocalUpdate,
    wanted: Weights,
    choice: Choice,
    message: bytes,
    energy: dict[Phase, PhaseEnergy],
) -> ClientReport:
    selection, budget = choice.selection, federation.budget
    predicted_j = choice.cost.total_j.value
    return ClientReport(
        client=client,
        samples=trained.samples,
        training_loss=trained.mean_loss if math.isfinite(trained.mean_loss) else None,
        rule=federation.config.selector,
        budget_j=budget.budget_j,
        fixed_j=budget.fixed_j,
        marginal_j=choice.cost.marginal_j.value,
        predicted_j=predicted_j,
        upper_j=choice.upper_j,
        priced_j=choice.priced_j,
        kept=selection.kept,
        density=dict(selection.density_by_tensor),
        selections=choice.selections,
        squared_norm=selection.total_squared_norm,
        retained_squared_norm=selection.retained_squared_norm,
        topk_retained_squared_norm=_retained_by("topk", choice, wanted),
        cwmp_retained_squared_norm=_retained_by("cwmp", choice, wanted),
        payload_bytes=len(message),
        energy=energy,
    )


def _retained_by(rule: Rule, choice: Choice, wanted: Weights) -> float:
    """Squared norm that a rule keeps of this update for the joules that the choice spent at its prices."""
    selection = choice.selection
    if selection.rule in (rule, "dense"):
        return selection.retained_squared_norm
    return select(wanted, choice.prices_j, choice.priced_j, rule=rule).retained_squared_norm
