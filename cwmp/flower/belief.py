"""What the server believes of an answer, for a node can send anything.

What the server can know itself (which client, how many samples, which rule, how many coordinates, how many
bytes) must agree; what it cannot know, such as joules, must at least be possible. An update that is well
formed and wrong on purpose is not found out: the average has no defence against poisoning.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError
from torch import Tensor

from calibration_data import UsageError
from calibration_data.files import describe_validation_error
from cwmp.budget import PHASES
from cwmp.flower.protocol import Answer, ClientAccount
from cwmp.training.client_round import ClientResult
from cwmp.training.round_record import ClientReport
from cwmp.training.run_record import RunIdentity
from cwmp.training.sparse_update import decode

MAX_ANSWER_CHARACTERS = 4_000_000
"""Of the answer without its update: a report names every tensor of the network."""
ROUNDING = 1e-6
MOST = 1e60
"""No figure of a report is larger: float32 values squared and summed stay below, and so do sums of joules."""


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the server knows of an answer before it comes.

    Attributes:
        client: its number.
        identity: of the run.
        network: tensors by parameter name, whose names and shapes are the network's.
    """

    client: int
    identity: RunIdentity
    network: Mapping[str, Tensor]


def believed(answer: str, message: bytes, expected: Expected) -> tuple[ClientResult, ClientAccount]:
    """An answer that is what it should be.

    Args:
        answer: JSON of an ``Answer``.
        message: bytes of the update.
        expected: what the server knows.

    Raises:
        UsageError: it is not; the message names what is wrong.
    """
    if len(answer) > MAX_ANSWER_CHARACTERS:
        raise UsageError(
            f"Its report has {len(answer)} characters, and none has more than {MAX_ANSWER_CHARACTERS}."
        )
    try:
        parsed = Answer.model_validate_json(answer, strict=True)
    except ValidationError as error:
        raise UsageError(f"Its report is not valid: {describe_validation_error(error)}.") from error
    kept = decode(message, expected.network).values.numel()
    _check(parsed.report, expected, kept=kept, payload_bytes=len(message))
    return ClientResult(message=message, report=parsed.report, residual={}), parsed.account


def _check(report: ClientReport, expected: Expected, *, kept: int, payload_bytes: int) -> None:
    identity, client = expected.identity, expected.client
    known = {
        "client": client,
        "samples": identity.partition.sizes[client],
        "rule": identity.config.selector,
        "kept": kept,
        "payload_bytes": payload_bytes,
        "density of": sorted(expected.network),
        "energy of": sorted(PHASES),
    }
    said = {
        **{field: getattr(report, field) for field in list(known)[:5]},
        "density of": sorted(report.density),
        "energy of": sorted(report.energy),
    }
    for field, value in known.items():
        if said[field] != value:
            raise UsageError(f"Its report says {field} {said[field]!r}, and it is {value!r}.")
    _check_figures(report)
    budget_j = report.budget_j
    if (budget_j is None) != (report.rule == "dense") or (budget_j or 0.0) < 0:
        raise UsageError(f"Its report says a budget of {budget_j!r} J under the rule {report.rule}.")
    if report.predicted_j < 0 or (budget_j is not None and report.predicted_j > budget_j):
        raise UsageError(f"Its report charges {report.predicted_j:.4g} J to a budget of {budget_j!r} J.")
    retained = ("retained_squared_norm", "topk_retained_squared_norm", "cwmp_retained_squared_norm")
    if any(getattr(report, field) > report.squared_norm * (1 + ROUNDING) for field in retained):
        raise UsageError("Its report keeps more than there is.")


def _check_figures(report: ClientReport) -> None:
    """Every number can be added to others."""
    parts = [report.model_dump(exclude={"energy", "density"})]
    parts += [energy.model_dump() for energy in report.energy.values()]
    for part in parts:
        for field, value in part.items():
            if isinstance(value, int | float) and abs(value) > MOST:
                raise UsageError(f"Its report says {field} {value!r:.20}.")
