"""Where the clients of a round run: an Engine. What they do is ``client_round``, the same on every engine.

    local    in this process or in worker processes of it; the server keeps the clients' residuals
    others   wherever they like; residuals may stay with the clients

The algorithm around it (``federated.run_round``) neither knows nor asks which one it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol

from cwmp.errors import NonFiniteGradientError
from cwmp.training.client_round import ClientResult, Weights, client_round
from cwmp.training.federation import Federation
from cwmp.training.local_training import DivergedError
from cwmp.training.round_record import DroppedClient


class Engine(Protocol):
    """Runs the clients of a round.

    Attributes:
        name: in the record of a run, which can only be resumed by an engine of the same name; engines of one
            name give the same bits.
    """

    @property
    def name(self) -> str:
        """What the run's record calls it."""
        ...

    def run_clients(
        self, weights: Weights, residuals: Mapping[int, Weights], round_index: int, clients: Sequence[int]
    ) -> Iterable[ClientResult | DroppedClient]:
        """One answer per client, in the order given.

        Messages that come from elsewhere are checked before they are handed on: what is no finite update of
        this network is a dropped client.

        Args:
            weights: the global weights by name.
            residuals: error feedback of the clients whose residual the server keeps.
            round_index: number of the round, from 1.
            clients: numbers of the clients that take part, ascending.
        """
        ...

    def notes(self) -> Sequence[str]:
        """What a reader of the run's summary must know of where its clients ran."""
        ...


class LocalEngine:
    """Runs the clients in this process, one after the other, so that their joules can be told apart."""

    name = "local"

    def __init__(self, federation: Federation) -> None:
        self._federation = federation

    def run_clients(
        self, weights: Weights, residuals: Mapping[int, Weights], round_index: int, clients: Sequence[int]
    ) -> Iterator[ClientResult | DroppedClient]:
        """One answer per client, in the order given."""
        for client in clients:
            yield attempt(self._federation, weights, residuals.get(client, {}), round_index, client)

    def notes(self) -> tuple[str, ...]:
        """Nothing: they ran here."""
        return ()


def attempt(
    federation: Federation, weights: Weights, residual: Weights, round_index: int, client: int
) -> ClientResult | DroppedClient:
    """A client's round, or why its update cannot be used."""
    try:
        return client_round(federation.of_client(client), weights, residual, round_index, client)
    except (DivergedError, NonFiniteGradientError) as error:
        return DroppedClient(client=client, cause="diverged", reason=error.message)
