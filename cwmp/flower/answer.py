"""What a client answers beside its message, and whether the server believes it.

A node can send anything. What the server can know itself (which client, how many samples, which rule, how many
coordinates, how many bytes) must agree; what it cannot know, such as joules, must at least be possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, ValidationError
from torch import Tensor

from calibration_data import Provenance, UsageError
from calibration_data.files import describe_validation_error
from cwmp.budget import PHASES
from cwmp.flower.windows import HostWindow
from cwmp.training.client_round import ClientResult
from cwmp.training.run_record import Cause, ClientReport, RunIdentity
from cwmp.training.sparse_update import decode

MAX_ANSWER_BYTES = 4_000_000
"""Of the answer without its message: a report names every tensor of the network."""
ROUNDING = 1e-6

Short = Annotated[str, Field(max_length=200)]


class ClientAccount(BaseModel):
    """Where a client ran, beside what it reports.

    Attributes:
        device: name of the device that its cost model describes.
        cost_model_sha256: digest of that model.
        cost_model_provenance: where its joules come from.
        measuring_device: whose sensors saw its phases; None without.
        host: boot id of its machine.
        startup_s: from the start of its process to this message; 0 if the process has served one before.
        windows: counters of its host at the edges of its work; none without sensors.
        residual: whether the residual that the server asked for was there; ``none``: there is none to have.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device: Short
    cost_model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    cost_model_provenance: Provenance
    measuring_device: Short | None
    host: Annotated[str, Field(min_length=1, max_length=200)]
    startup_s: NonNegativeFloat
    windows: Annotated[tuple[HostWindow, ...], Field(max_length=100)] = ()
    residual: Literal["none", "found", "lost"]


class Answer(BaseModel):
    """What a client says about its round."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    report: ClientReport
    account: ClientAccount


class Refusal(BaseModel):
    """Why a client has no update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cause: Cause
    reason: Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What the server knows of an answer before it comes.

    Attributes:
        client: its number.
        identity: of the run.
        network: tensors by parameter name, whose names and shapes are the network's.
    """

    client: NonNegativeInt
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
    if len(answer) > MAX_ANSWER_BYTES:
        raise UsageError(
            f"Its report has {len(answer)} characters, and none has more than {MAX_ANSWER_BYTES}."
        )
    try:
        parsed = Answer.model_validate_json(answer)
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
    budget_j = report.budget_j
    if (budget_j is None) != (report.rule == "dense") or (budget_j or 0.0) < 0:
        raise UsageError(f"Its report says a budget of {budget_j!r} J under the rule {report.rule}.")
    if report.predicted_j < 0 or (budget_j is not None and report.predicted_j > budget_j):
        raise UsageError(f"Its report charges {report.predicted_j:.4g} J to a budget of {budget_j!r} J.")
    if report.retained_squared_norm > report.squared_norm * (1 + ROUNDING):
        raise UsageError("Its report keeps more than there is.")
