"""Flower's grid in one process: nodes are functions from a message to a reply, or to silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from cwmp.flower.client import client_app

Reply = Callable[[Message], Message | None]


class FakeGrid:
    """Delivers every message when replies are asked for; a node without a reply is silent."""

    def __init__(self) -> None:
        TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 1
        self.nodes: dict[int, Reply] = {}
        self.asked: list[tuple[int, str, str]] = []
        self._replies: dict[str, Message | None] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        ids = []
        for message in messages:
            metadata = message.metadata
            metadata.__dict__["_message_id"] = message.object_id
            self.asked.append((metadata.dst_node_id, metadata.message_type, metadata.group_id))
            self._replies[metadata.message_id] = self.nodes[metadata.dst_node_id](message)
            ids.append(metadata.message_id)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        found = [self._replies.pop(key) for key in message_ids if self._replies.get(key) is not None]
        return [message for message in found if message is not None]


class FakeTime:
    """Seconds that pass only in sleep."""

    def __init__(self) -> None:
        self.now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def honest(app: Path, **node_config: Any) -> Reply:
    """A node that does what the app says."""
    config = {name.replace("_", "-"): value for name, value in node_config.items()}

    def reply(message: Message) -> Message:
        context = Context(run_id=1, node_id=2, node_config=config, state=RecordDict(), run_config={})
        return client_app(app)(message, context)

    return reply


def silent(message: Message) -> None:
    """A node that answers nothing."""


def answering(node: Reply, change: Callable[[RecordDict], RecordDict | None]) -> Reply:
    """A node whose answers to tasks are changed on their way; None is silence."""

    def reply(message: Message) -> Message | None:
        answer = node(message)
        if message.metadata.message_type != MessageType.TRAIN or answer is None:
            return answer
        content = change(answer.content)
        return None if content is None else Message(content, reply_to=message)

    return reply


def failing(node: Reply, code: int, reason: str) -> Reply:
    """A node whose app raises in every task."""

    def reply(message: Message) -> Message | None:
        if message.metadata.message_type != MessageType.TRAIN:
            return node(message)
        return Message(Error(code, reason), reply_to=message)

    return reply
