"""Clients that shared a machine's counters: joules of the machine, and of those who can be told apart."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from cwmp.flower.protocol import ClientAccount
from cwmp.flower.windows import HostEnergy, overlapping, united
from cwmp.training.phase_energy import PhaseEnergy
from cwmp.training.round_record import ClientReport
from profiler.errors import CounterResetError

log = logging.getLogger(__name__)

REASON = "another client of the same machine worked meanwhile, and its counters saw both"


def host_energies(accounts: Sequence[ClientAccount]) -> tuple[HostEnergy, ...]:
    """Joules of every machine and domain while its clients worked; none if their readings contradict."""
    try:
        return united(window for account in accounts for window in account.windows)
    except CounterResetError as error:
        log.warning("Joules of the hosts of this round are not known: %s", error)
        return ()


def told_apart(reports: Sequence[ClientReport], accounts: Sequence[ClientAccount]) -> list[ClientReport]:
    """The reports, without the measured joules of clients whose work overlapped on one machine."""
    owners = [index for index, account in enumerate(accounts) for _ in account.windows]
    shared = overlapping([window for account in accounts for window in account.windows])
    mixed = {owner for owner, is_shared in zip(owners, shared, strict=True) if is_shared}
    return [_unmeasured(report) if index in mixed else report for index, report in enumerate(reports)]


def _unmeasured(report: ClientReport) -> ClientReport:
    energy = {
        phase: PhaseEnergy(
            predicted_j=part.predicted_j,
            predicted_u_j=part.predicted_u_j,
            reason=REASON if part.measured_j is not None else part.reason,
        )
        for phase, part in report.energy.items()
    }
    return report.model_copy(update={"energy": energy})
