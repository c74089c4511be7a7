"""What only a run on Flower has to tell beside the files of every run: who ran where, and what it took.

flower.json     id of the run, under which clients keep their residuals
flower.jsonl    one FlowerRound a line; a round that was run again has more than one, and the last one counts
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt

from calibration_data.files import append_line, parse_model, read_bounded, read_model, write_whole
from cwmp.flower.protocol import ClientAccount
from cwmp.flower.windows import HostEnergy
from cwmp.training.run_files import MAX_FILE_BYTES

RUN_ID = "flower.json"
LOG = "flower.jsonl"


class FlowerClient(BaseModel):
    """One client in one round.

    Attributes:
        client: its number.
        node: Flower's number of its node.
        payload_bytes: of its update.
        message_bytes: of everything that Flower carried for it, headers and report included.
        account: what it says about where it ran.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    client: NonNegativeInt
    node: int
    payload_bytes: NonNegativeInt
    message_bytes: NonNegativeInt
    account: ClientAccount


class FlowerRound(BaseModel):
    """One round.

    Attributes:
        round: its number.
        clients: those whose updates were used.
        hosts: joules of their machines while they worked, idle power and replays included; each counter once.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    round: NonNegativeInt
    clients: tuple[FlowerClient, ...]
    hosts: tuple[HostEnergy, ...]


class _RunId(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    run: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


def run_id(out: Path) -> str:
    """The id of the run in a folder: made when it is first asked for, kept for all that follow.

    Raises:
        InvalidFileError: the file is broken.
        UsageError: it cannot be written.
    """
    path = out / RUN_ID
    if not path.exists():
        write_whole(path, _RunId(run=uuid.uuid4().hex).model_dump_json() + "\n")
    return read_model(path, _RunId, limit_bytes=1000).run


def append_flower_round(out: Path, report: FlowerRound) -> None:
    """Append a round and return only when it is on the disk."""
    append_line(out / LOG, report.model_dump_json())


def read_flower_rounds(out: Path) -> list[FlowerRound]:
    """All rounds of a run in their order, each once.

    Raises:
        InvalidFileError: the file is missing, or a line breaks the schema.
    """
    lines = read_bounded(out / LOG, MAX_FILE_BYTES).splitlines()
    parsed = [
        parse_model(out / LOG, line, FlowerRound, where=f"line {number}: ")
        for number, line in enumerate(lines, start=1)
    ]
    rounds = {report.round: report for report in parsed}
    return [rounds[number] for number in sorted(rounds)]


def notes_of(rounds: Sequence[FlowerRound]) -> tuple[str, ...]:
    """What a reader of the run's summary must know."""
    clients = [client for report in rounds for client in report.clients]
    if not clients:
        return ()
    return (*_devices(clients), _start_up(clients), _framing(clients), *_lost(rounds), *_hosts(rounds))


def _devices(clients: Iterable[FlowerClient]) -> list[str]:
    models: dict[tuple[str, str, str, str], set[int]] = defaultdict(set)
    for client in clients:
        account = client.account
        measured = account.measuring_device or "no device"
        models[account.device, account.cost_model_sha256[:12], account.cost_model_provenance, measured].add(
            client.client
        )
    return [
        f"{_clients(numbers)} chose by a {provenance} cost model of {device}"
        f" ({digest}); {measured} accounts their joules."
        for (device, digest, provenance, measured), numbers in models.items()
    ]


def _clients(numbers: set[int]) -> str:
    return f"Client{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"


def _start_up(clients: Sequence[FlowerClient]) -> str:
    starts_s = [client.account.startup_s for client in clients if client.account.startup_s]
    mean_s = sum(starts_s) / len(starts_s) if starts_s else 0.0
    return (
        f"{len(starts_s)} of {len(clients)} answers came from a process that was started for them, which took"
        f" {mean_s:.1f} s on average until the work began; the joules of these starts are in no sum."
    )


def _framing(clients: Sequence[FlowerClient]) -> str:
    payload = sum(client.payload_bytes for client in clients) / len(clients)
    message = sum(client.message_bytes for client in clients) / len(clients)
    return (
        f"An update has {payload:.0f} bytes on average; with Flower's records and our report {message:.0f}."
    )


def _lost(rounds: Iterable[FlowerRound]) -> list[str]:
    return [
        f"Client {client.client} had lost what it had not sent before round {report.round}."
        for report in rounds
        for client in report.clients
        if client.account.residual == "lost"
    ]


def _hosts(rounds: Iterable[FlowerRound]) -> list[str]:
    energy_j: dict[tuple[str, str], float] = defaultdict(float)
    for report in rounds:
        for host in report.hosts:
            energy_j[host.host, host.domain] += host.energy_j
    return [
        f"{domain} of host {host[:8]} counted {joules:.4g} J while clients worked and measured on it, each"
        " moment once, idle power and replays included."
        for (host, domain), joules in sorted(energy_j.items())
    ]
