"""The engine that sends each client its task over Flower and takes what comes back in time.

The round loop around it is the one of every engine, not a Strategy of Flower's: checkpoints, resume, ledger
and reports are then the same. A Strategy counts its rounds from 1, draws nodes by a global random state, and
takes answers in the order of their arrival; here a round has its own number, participants are drawn by
partition from the run's seed, and updates are added in the order of the clients.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from flwr.app import Message, MessageType
from flwr.serverapp import Grid

from calibration_data import UsageError
from calibration_data.files import read_model
from cwmp.flower.belief import Expected, believed
from cwmp.flower.messages import as_array, read_answer, task_content
from cwmp.flower.protocol import ClientAccount, Refusal, Task
from cwmp.flower.roll_call import RollCall
from cwmp.flower.run_log import (
    FlowerClient,
    FlowerRound,
    append_flower_round,
    notes_of,
    read_flower_rounds,
    run_id,
)
from cwmp.flower.shared_counters import host_energies, told_apart
from cwmp.training.client_round import ClientResult, Weights
from cwmp.training.round_record import DroppedClient
from cwmp.training.run_files import CONFIG, MAX_FILE_BYTES, ROUNDS, read_rounds
from cwmp.training.run_record import RunIdentity
from cwmp.training.sparse_update import SparseUpdate, encode, flatten

POLL_S = 0.2
LOOK_S = 5.0
"""How often it is looked whether a node that is waited for is still connected."""


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What the folder of a run says when its first round is run here."""

    identity: RunIdentity
    run: str
    used_rounds: dict[int, int]


@dataclass(frozen=True, kw_only=True)
class _Believed:
    """An answer that is what it should be."""

    result: ClientResult
    account: ClientAccount
    node: int
    message_bytes: int


class FlowerEngine:
    """Runs the clients of a round on the nodes of a SuperLink.

    Args:
        grid: Flower's connection to the nodes.
        out: folder of the run, in which its identity is when the first round begins.
        round_timeout_s: how long to wait for the answers of a round, and for a node of any of its clients.
        clock: monotonic seconds.
        sleep: waits for so many of them.
    """

    name = "flower"

    def __init__(
        self,
        grid: Grid,
        out: Path,
        *,
        round_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._grid = grid
        self._out = out
        self._timeout_s = round_timeout_s
        self._clock = clock
        self._sleep = sleep
        self._run: _Run | None = None
        self._roll_call: RollCall | None = None

    def run_clients(
        self, weights: Weights, residuals: Mapping[int, Weights], round_index: int, clients: Sequence[int]
    ) -> Iterator[ClientResult | DroppedClient]:
        """One answer per client, in the order given; residuals are with the clients."""
        if self._run is None:
            self._run = _run_in(self._out)
        node_of = self._gathered(clients)
        asked = {client: node_of[client] for client in clients if client in node_of}
        replies = self._replies(round_index, weights, asked)
        answers = [self._looked_at(client, asked, replies, weights) for client in clients]
        good = [answer for answer in answers if isinstance(answer, _Believed)]
        append_flower_round(self._out, _flower_round(round_index, good))
        reports = told_apart([answer.result.report for answer in good], [answer.account for answer in good])
        by_client = {report.client: report for report in reports}
        for answer in answers:
            if isinstance(answer, DroppedClient):
                yield answer
            else:
                client = answer.result.report.client
                self._run.used_rounds[client] = round_index
                yield replace(answer.result, report=by_client[client])

    def notes(self) -> tuple[str, ...]:
        """What a reader of the run's summary must know."""
        return notes_of(read_flower_rounds(self._out))

    def _gathered(self, clients: Sequence[int]) -> dict[int, int]:
        """Nodes by client. The first round waits for all that it needs, a later one for any of them.

        Raises:
            UsageError: not one of them is connected when the time is over, in the first round that is run.
        """
        assert self._run is not None
        first = self._roll_call is None
        if self._roll_call is None:
            count = self._run.identity.config.clients
            self._roll_call = RollCall(self._grid, clients=count, answer_s=self._timeout_s)
        enough = len(clients) if first else 1
        deadline = self._clock() + self._timeout_s
        while True:
            self._roll_call.refresh()
            present = [client for client in clients if client in self._roll_call.node_of]
            if len(present) >= enough or self._clock() > deadline:
                break
            self._sleep(POLL_S)
        if first and not present:
            raise UsageError(
                f"No node of a client was connected within {self._timeout_s:g} s.",
                next_step="Start SuperNodes with partition-id in their node config, then: --resume.",
            )
        return self._roll_call.node_of

    def _replies(self, round_index: int, weights: Weights, asked: Mapping[int, int]) -> dict[int, Message]:
        """Send the tasks, and take the replies that come in time."""
        array = as_array(encode(_full(weights), weights))
        messages = [
            Message(
                task_content(self._task(client, round_index), array),
                node,
                MessageType.TRAIN,
                ttl=self._timeout_s,
                group_id=str(round_index),
            )
            for client, node in asked.items()
        ]
        ids = self._grid.push_messages(messages) if messages else ()
        # Flower returns None for a message that could not be sent, and nothing if none could.
        sent = zip(ids, asked, strict=False)
        return self._waited_for({key: client for key, client in sent if key is not None}, asked)

    def _waited_for(self, waiting: dict[str, int], asked: Mapping[int, int]) -> dict[int, Message]:
        replies: dict[int, Message] = {}
        now = self._clock()
        deadline, look = now + self._timeout_s, now + LOOK_S
        while waiting and self._clock() < deadline:
            # Looked for before the replies are: a node may answer and go.
            connected = set(asked.values())
            if self._clock() > look:
                look = self._clock() + LOOK_S
                connected &= set(self._grid.get_node_ids())
            for reply in self._grid.pull_messages(list(waiting)):
                client = waiting.pop(reply.metadata.reply_to_message_id, None)
                if client is not None:
                    replies[client] = reply
            waiting = {key: client for key, client in waiting.items() if asked[client] in connected}
            if waiting:
                self._sleep(POLL_S)
        return replies

    def _task(self, client: int, round_index: int) -> Task:
        assert self._run is not None
        return Task(
            run=self._run.run,
            round=round_index,
            client=client,
            used_round=self._run.used_rounds.get(client, 0),
            partition_sha256=self._run.identity.partition.sha256,
        )

    def _looked_at(
        self, client: int, asked: Mapping[int, int], replies: Mapping[int, Message], weights: Weights
    ) -> _Believed | DroppedClient:
        """A client's answer, or why it is not used."""
        assert self._run is not None
        assert self._roll_call is not None
        if client not in asked:
            return DroppedClient(client=client, cause="vanished", reason="None of its nodes was connected.")
        reply = replies.get(client)
        if reply is None or reply.has_error():
            if reply is None or reply.metadata.src_node_id != asked[client]:
                self._roll_call.forget(client)  # not the node itself has said that it failed
            return DroppedClient(client=client, cause="vanished", reason=_silence(reply, self._timeout_s))
        try:
            answer = read_answer(reply.content)
            if isinstance(answer, Refusal):
                return DroppedClient(client=client, cause=answer.cause, reason=answer.reason)
            expected = Expected(client=client, identity=self._run.identity, network=weights)
            result, account = believed(*answer, expected)
        except UsageError as error:
            return DroppedClient(client=client, cause="invalid", reason=error.message)
        return _Believed(
            result=result, account=account, node=asked[client], message_bytes=_carried_bytes(reply)
        )


def _run_in(out: Path) -> _Run:
    """What the folder of a run says: who it is, and which round of each client was used last."""
    rounds = read_rounds(out / ROUNDS) if (out / ROUNDS).exists() else []
    return _Run(
        identity=read_model(out / CONFIG, RunIdentity, limit_bytes=MAX_FILE_BYTES),
        run=run_id(out),
        used_rounds={client.client: report.round for report in rounds for client in report.clients},
    )


def _full(weights: Weights) -> SparseUpdate:
    flat = flatten(weights)
    return SparseUpdate(indices=None, values=flat, coordinates=flat.numel())


def _flower_round(round_index: int, answers: Sequence[_Believed]) -> FlowerRound:
    return FlowerRound(
        round=round_index,
        clients=tuple(
            FlowerClient(
                client=answer.result.report.client,
                node=answer.node,
                payload_bytes=len(answer.result.message),
                message_bytes=answer.message_bytes,
                account=answer.account,
            )
            for answer in answers
        ),
        hosts=host_energies([answer.account for answer in answers]),
    )


def _silence(reply: Message | None, timeout_s: float) -> str:
    if reply is None:
        return f"Its node gave no answer within {timeout_s:g} s, or went away."
    reason = (reply.error.reason or "").strip().splitlines()
    return f"Flower has no answer of its node (code {reply.error.code}): {reason[-1] if reason else '-'}"[
        :500
    ]


def _carried_bytes(message: Message) -> int:
    """Bytes of all objects that Flower makes of a message, each once: what a node sends, headers aside."""
    objects: dict[str, int] = {}
    waiting: list[Any] = [message]
    while waiting:
        item = waiting.pop()
        objects[item.object_id] = len(item.deflate())
        waiting += (item.children or {}).values()
    return sum(objects.values())
