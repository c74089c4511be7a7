"""Which node is which client: asked once, and asked again when a node fails to answer.

Nobody waits for a question here. A node that joins late, comes back or is slow answers whenever it can, and
takes part from the next round on.
"""

from __future__ import annotations

import logging

from flwr.app import Message, MessageType, RecordDict
from flwr.serverapp import Grid

from cwmp.flower.messages import partition_of

log = logging.getLogger(__name__)


class RollCall:
    """The nodes of a run, by client.

    Args:
        grid: Flower's connection to the nodes.
        clients: how many there are.
        answer_s: how long a question is good for; a node that has not answered by then is asked again.
    """

    def __init__(self, grid: Grid, *, clients: int, answer_s: float) -> None:
        self._grid = grid
        self._clients = clients
        self._answer_s = answer_s
        self._asked: dict[str, int] = {}
        self._node_of: dict[int, int] = {}
        self._without_place: set[int] = set()

    @property
    def node_of(self) -> dict[int, int]:
        """Node by client, of those that are connected and have answered."""
        return dict(self._node_of)

    def refresh(self) -> None:
        """Look who is connected, hear who has answered, and ask those who are new."""
        connected = set(self._grid.get_node_ids())
        self._node_of = {client: node for client, node in self._node_of.items() if node in connected}
        self._without_place &= connected
        self._hear()
        known = {*self._node_of.values(), *self._asked.values(), *self._without_place}
        new = sorted(connected - known)
        questions = [
            Message(RecordDict(), node, MessageType.QUERY, ttl=self._answer_s, group_id="roll call")
            for node in new
        ]
        for message_id, node in zip(self._grid.push_messages(questions) if new else (), new, strict=False):
            if message_id is not None:  # Flower could not send it
                self._asked[message_id] = node

    def forget(self, client: int) -> None:
        """The node of this client has not answered; it is asked who it is before it is given work again."""
        self._node_of.pop(client, None)

    def _hear(self) -> None:
        for reply in self._grid.pull_messages(list(self._asked)) if self._asked else ():
            node = self._asked.pop(reply.metadata.reply_to_message_id, None)
            if node is None or reply.has_error():
                continue
            client = partition_of(reply.content)
            if client is None or not 0 <= client < self._clients:
                log.warning(
                    "Node %d is none of the %d clients: partition-id %s.", node, self._clients, client
                )
                self._without_place.add(node)
                continue
            if self._node_of.get(client, node) != node:
                log.warning("Two nodes say that they are client %d; the later one is used.", client)
                self._without_place.add(self._node_of[client])
            self._node_of[client] = node
