"""What server and clients say to each other beside weights and updates. Importing this imports no torch."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt

from calibration_data import Provenance
from calibration_data.files import Frozen
from cwmp.flower.windows import HostWindow
from cwmp.training.round_record import Cause, ClientReport

MAX_REASON = 1000

Short = Annotated[str, Field(max_length=200)]


class Task(BaseModel):
    """What a client is asked for.

    Attributes:
        run: id of the run.
        round: its number, from 1; a resumed run goes on counting.
        client: number of the client, which is its partition.
        used_round: the last of its rounds that the server has used; 0 if none.
        partition_sha256: digest of the index lists, which the client works out itself.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
    round: NonNegativeInt
    client: NonNegativeInt
    used_round: NonNegativeInt
    partition_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ClientAccount(Frozen):
    """Where a client ran, beside what it reports.

    Attributes:
        device: name of the device that its cost model describes.
        cost_model_sha256: digest of that model.
        cost_model_provenance: where its joules come from.
        measuring_device: whose sensors saw its phases; None without.
        host: boot id of its machine.
        startup_s: from the start of its process to its work, imports and data included; 0 if the process
            has served a task before.
        windows: counters of its host at the edges of its work; none without sensors.
        residual: whether the residual that the server asked for was there; ``none``: there is none to have.
    """

    device: Short
    cost_model_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    cost_model_provenance: Provenance
    measuring_device: Short | None
    host: Annotated[str, Field(min_length=1, max_length=200)]
    startup_s: NonNegativeFloat
    windows: Annotated[tuple[HostWindow, ...], Field(max_length=100)] = ()
    residual: Literal["none", "found", "lost"]


class Answer(Frozen):
    """What a client says about its round."""

    report: ClientReport
    account: ClientAccount


class Refusal(BaseModel):
    """Why a client has no update."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cause: Cause
    reason: Annotated[str, Field(max_length=MAX_REASON)]
